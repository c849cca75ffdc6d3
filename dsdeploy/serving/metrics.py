"""Two figures out of an engine's metrics: requests under way, and tokens made so far."""

from __future__ import annotations

import re
from dataclasses import dataclass

# vLLM, vllm-ascend and the native runner; SGLang; LMDeploy; TensorRT-LLM.
_RUNNING = (
    "vllm:num_requests_running",
    "sglang:num_running_reqs",
    "lmdeploy:num_requests_running",
    "trtllm_num_requests_running",
)
_GENERATED = (
    "vllm:generation_tokens_total",
    "sglang:generation_tokens_total",
    "lmdeploy:generation_tokens_total",
    "trtllm_generation_tokens_total",
)
_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{.*\})?\s+([0-9.eE+-]+)", re.MULTILINE)


@dataclass(frozen=True)
class Figures:
    running: int | None
    """None where the engine does not tell."""
    generated: int | None


def read_figures(text: str) -> Figures:
    """Of Prometheus' text format; samples of one name (of several replicas) are added up."""
    sums: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        if name in _RUNNING or name in _GENERATED:
            sums[name] = sums.get(name, 0.0) + float(value)
    return Figures(_first(sums, _RUNNING), _first(sums, _GENERATED))


def _first(sums: dict[str, float], names: tuple[str, ...]) -> int | None:
    return next((int(sums[name]) for name in names if name in sums), None)
