from dataclasses import dataclass


@dataclass
class SpeculativeConfig:
    method: str
    num_speculative_tokens: int
