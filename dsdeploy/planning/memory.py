"""What lies in one device's memory, and how many tokens find room in the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsdeploy.hardware.profile import Machine
from dsdeploy.model.config import ModelConfig
from dsdeploy.model.formats import WeightFormat
from dsdeploy.planning.interval import Interval
from dsdeploy.planning.layout import Layout, stages
from dsdeploy.planning.rules import Rules
from dsdeploy.planning.weights import WeightRules, stage_weights

CACHE_BYTES = {"bf16": 2, "fp8": 1}
_LEAST_CACHE = 256 * 2**20
_ACTIVATION = Interval(1.0, 3.0)
"""Of what the routed experts' inputs of one step take in BF16: how many such buffers engines keep
alive at once. Modelled: fused kernels keep one, unfused ones three."""


@dataclass(frozen=True)
class DeviceMemory:
    """The fullest device. Weights and cache are exact, the rest is modelled."""

    total: int
    """What the device reports."""
    limit: int
    """What an engine may take of it."""
    weights: Mapping[str, int]
    runtime: Interval
    activations: Interval
    cache_per_token: int
    """Bytes that a token of context takes on this device."""
    replicas: int
    """Attention replicas among whom requests are divided."""

    @property
    def weight_bytes(self) -> int:
        return sum(self.weights.values())

    @property
    def free(self) -> Interval:
        """Left for the cache; negative when not even the rest fits."""
        fixed = self.limit - self.weight_bytes
        return Interval(
            fixed - self.runtime.high - self.activations.high,
            fixed - self.runtime.low - self.activations.low,
        )

    @property
    def tokens(self) -> Interval:
        """Tokens of context that find room on one replica."""
        low, high = (max(0, int(free // self.cache_per_token)) for free in self._ends())
        return Interval(low, high)

    def _ends(self) -> tuple[float, float]:
        return self.free.low, self.free.high

    def cache_bytes(self, context: int, concurrency: int) -> int:
        """Of so many requests that have grown to their full context."""
        return -(-concurrency // self.replicas) * context * self.cache_per_token

    def largest_context(self, concurrency: int) -> int:
        """That surely fits."""
        return int(self.tokens.low // -(-concurrency // self.replicas))

    def largest_concurrency(self, context: int) -> int:
        return int(self.tokens.low // context) * self.replicas


def device_memory(
    config: ModelConfig, machine: Machine, rules: Rules, kept: WeightFormat, layout: Layout,
    cache_format: str, mtp: bool,
) -> DeviceMemory:  # fmt: skip
    """Of the stage with the least room for tokens, which bounds all."""
    weight_rules = WeightRules(kept, rules.splits(layout), rules.memory.kv_b_copies)
    runtime = rules.memory.runtime
    found = []
    for layers in stages(config.num_hidden_layers, layout.pipeline):
        last = layers.stop == config.num_hidden_layers
        held = len(layers) + (config.num_nextn_predict_layers if mtp and last else 0)
        stage = DeviceMemory(
            total=machine.device_memory,
            limit=int(machine.device_memory * rules.memory.fraction.most),
            weights=stage_weights(config, layers, weight_rules, mtp),
            runtime=Interval(runtime.low, runtime.high),
            activations=_activations(config, rules.memory.step_tokens),
            cache_per_token=max(1, held) * layer_cache_bytes(config, cache_format),
            replicas=layout.data,
        )
        found.append(stage)
    return min(found, key=lambda stage: (stage.tokens.low, stage.free.low))


def layer_cache_bytes(config: ModelConfig, cache_format: str) -> int:
    """Of one token. V3.2's indexer keeps a key of its own in FP8, with one float32 scale."""
    indexer = (config.index_head_dim or 0) + 4 if config.has_indexer else 0
    return cache_width(config) * CACHE_BYTES[cache_format] + indexer


def cache_width(config: ModelConfig) -> int:
    """Values that a token leaves in a layer, for all heads, on every device of a tensor group."""
    return config.kv_lora_rank + config.qk_rope_head_dim


def _activations(config: ModelConfig, tokens: int) -> Interval:
    buffer = tokens * config.num_experts_per_tok * config.hidden_size * 2
    return Interval(buffer * _ACTIVATION.low, buffer * _ACTIVATION.high)


def fraction_value(rules: Rules, memory: DeviceMemory, needed: int) -> tuple[str, str]:
    """(flag, value) that makes the engine keep `needed` bytes of cache: and more where it is safe, but
    for engines that are told the bytes, which share their memory with other programs."""
    fraction = rules.memory.fraction
    if fraction.of == "bytes":
        return fraction.flag, str(max(needed, _LEAST_CACHE))
    room = max(memory.free.low, min(needed, memory.free.high))
    if fraction.of == "free":
        after_weights = memory.total - memory.weight_bytes - memory.runtime.low
        return fraction.flag, _three_digits(room / after_weights)
    if fraction.of == "static":
        return fraction.flag, _three_digits((memory.weight_bytes + room) / memory.total)
    inside = memory.weight_bytes + room + memory.activations.high + memory.runtime.high
    return fraction.flag, _three_digits(min(inside / memory.total, fraction.most))


def _three_digits(share: float) -> str:
    return f"{int(share * 1000) / 1000:.3f}"
