"""How a model is spread over devices.

tensor     devices that share each attention head's work
data       attention replicas, each with requests of its own (DP attention)
pipeline   stages of consecutive layers
expert     devices over which the routed experts are dealt out whole
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from dsdeploy.model.config import ModelConfig
from dsdeploy.model.formats import WeightFormat


@dataclass(frozen=True)
class Layout:
    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1

    @property
    def stage(self) -> int:
        """Devices of one pipeline stage; all of them take part in its experts."""
        return self.tensor * self.data

    @property
    def devices(self) -> int:
        return self.stage * self.pipeline

    @property
    def expert_tensor(self) -> int:
        """Devices that share one expert's matrices."""
        return self.stage // self.expert

    def __str__(self) -> str:
        parts = [("TP", self.tensor), ("PP", self.pipeline), ("DP", self.data), ("EP", self.expert)]
        return " ".join(f"{name}{size}" for name, size in parts if size > 1) or "1 device"


Group = Literal["tensor", "stage", "whole"]


@dataclass(frozen=True)
class Splits:
    """By how many devices each part of the model is divided."""

    attention: int
    embedding: int
    dense: int
    shared: int
    experts: int
    """Into how many groups of whole experts."""
    expert_tensor: int
    """Into how many parts each expert is cut."""


def group_size(layout: Layout, group: Group) -> int:
    return {"tensor": layout.tensor, "stage": layout.stage, "whole": 1}[group]


def stages(layers: int, pipeline: int) -> list[range]:
    """Which layers each stage has; the first stages take what is left over."""
    size, more = divmod(layers, pipeline)
    ends = [stage * size + min(stage, more) for stage in range(pipeline + 1)]
    return [range(begin, end) for begin, end in pairwise(ends)]


def layouts(devices: int) -> Iterator[Layout]:
    """All that use so many devices: experts dealt out over a whole stage, or not at all."""
    for pipeline in _divisors(devices):
        stage = devices // pipeline
        for tensor in _divisors(stage):
            for expert in sorted({1, stage}):
                yield Layout(tensor, pipeline, stage // tensor, expert)


def _divisors(count: int) -> list[int]:
    return [size for size in range(1, count + 1) if count % size == 0]


def cannot_be_split(config: ModelConfig, splits: Splits, kept: WeightFormat) -> str | None:
    """Why not, in a phrase."""
    if config.num_attention_heads % splits.attention:
        return f"{config.num_attention_heads} heads do not divide by {splits.attention}"
    if config.n_routed_experts % splits.experts:
        return f"{config.n_routed_experts} experts do not divide by {splits.experts}"
    shared = config.moe_intermediate_size * config.n_shared_experts
    for what, width, parts in (
        ("dense layers", config.intermediate_size, splits.dense),
        ("shared experts", shared, splits.shared),
        ("experts", config.moe_intermediate_size, splits.expert_tensor),
    ):
        if width % parts or (parts > 1 and width // parts % kept.blocks):
            part = width / parts
            return f"{what} of width {width} / {parts} = {part:g} are no multiple of {kept.blocks}"
    return None
