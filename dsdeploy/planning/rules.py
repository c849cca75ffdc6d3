"""What an engine can do on which accelerator, and what it takes: the `rules.yaml` of a backend."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dsdeploy.hardware.profile import Accelerator, Machine, Size
from dsdeploy.model.formats import FORMATS, WeightFormat
from dsdeploy.planning.layout import Group, Layout, Splits, group_size


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_Rule):
    low: float
    high: float


class SizeRange(_Rule):
    low: Size
    high: Size


class Support(_Rule):
    """Of one weight format."""

    architectures: tuple[str, ...] = ()
    """On which it runs."""
    weight_only: tuple[str, ...] = ()
    """On which it runs, computing in BF16."""
    because: str = ""
    """Why not on others."""
    legacy: str = ""
    """What speaks against it, where it is for those who ask for this very format, and no one else."""


class LayoutRules(_Rule):
    pipeline: bool = False
    data: bool = False
    expert: bool = False
    expert_only_with_data: bool = False
    nodes: bool = True
    """Whether it runs on several nodes."""
    tensor_across_nodes: bool = True
    powers_of_two: bool = False
    data_needs_expert: bool = False
    data_without_tensor: bool = False
    """Whether DP attention is all or nothing: every device a replica of its own."""


class Fraction(_Rule):
    """The flag by which the engine is told how much memory it may take."""

    flag: str
    of: Literal["total", "static", "free", "bytes"]
    """`total`: of the device, everything included. `static`: of the device, weights and cache.
    `free`: of what weights leave, the cache alone. `bytes`: the cache's size itself."""
    default: float | None = None
    most: float = Field(default=0.95, gt=0, le=1)
    """Of a device's memory, all told, what experience lets an engine take."""


class MemoryRules(_Rule):
    fraction: Fraction
    runtime: SizeRange
    """Context, communication buffers and captured graphs of one device."""
    step_tokens: int
    """Of the largest step, for its activations."""
    kv_b_copies: int = 0
    """Copies of kv_b in BF16 for the absorbed form, beside the weight itself."""
    embedding: Group = "tensor"
    dense: Group = "tensor"
    shared: Group = "tensor"
    cache_formats: tuple[Literal["bf16", "fp8"], ...] = ("bf16",)


class SpeedRules(_Rule):
    """Measured limits as shares of the peak; see docs/planning.md for where they come from."""

    memory: Range
    compute: Range
    layer_microseconds: Range
    """What a decoding step spends on a layer beside reading and computing."""


class Rules(_Rule):
    title: str
    release: str
    """That the rules were written for."""
    sources: tuple[str, ...]
    precisions: dict[str, Support]
    layouts: LayoutRules
    memory: MemoryRules
    speed: SpeedRules
    mtp: bool = True
    """Whether it drafts with the MTP layer."""

    @field_validator("precisions")
    @classmethod
    def _known(cls, precisions: dict[str, Support]) -> dict[str, Support]:
        unknown = sorted(set(precisions) - set(FORMATS))
        if unknown:
            raise ValueError(f"unknown weight formats: {', '.join(unknown)}")
        return precisions

    def splits(self, layout: Layout) -> Splits:
        memory = self.memory
        return Splits(
            attention=layout.tensor,
            embedding=group_size(layout, memory.embedding),
            dense=group_size(layout, memory.dense),
            shared=group_size(layout, memory.shared),
            experts=layout.expert,
            expert_tensor=layout.expert_tensor,
        )

    def refuses_precision(self, kept: WeightFormat, chip: Accelerator) -> str | None:
        support = self.precisions.get(kept.name)
        if support is None:
            return f"{self.title} {self.release} does not load {kept.title} for this model"
        if chip.architecture in (*support.architectures, *support.weight_only):
            return None
        return support.because or f"{kept.title} does not run on {chip.architecture}"

    def legacy(self, kept: WeightFormat) -> str:
        support = self.precisions.get(kept.name)
        return support.legacy if support else ""

    def teraflops(self, kept: WeightFormat, chip: Accelerator) -> float:
        """The chip's peak rate of these products: in BF16 where weights alone are quantised."""
        rates: dict[str, float] = dict(chip.teraflops.items())
        if chip.architecture in self.precisions[kept.name].architectures and kept.computes in rates:
            return rates[kept.computes]
        return next(rates[name] for name in ("bf16", "fp16", "fp32") if name in rates)

    def refuses_layout(self, layout: Layout, machine: Machine) -> str | None:
        """Why not, in a phrase; whether weights can be split so is another question."""
        can, node = self.layouts, machine.accelerators_per_node
        if layout.devices > node and not can.nodes:
            return f"{self.title} runs on one node"
        for size, allowed, what in (
            (layout.pipeline, can.pipeline, "pipeline stages"),
            (layout.data, can.data, "DP attention"),
            (layout.expert, can.expert, "expert parallelism"),
        ):
            if size > 1 and not allowed:
                return f"{self.title} has no {what} for this model"
        if can.powers_of_two and any(
            size & (size - 1) for size in (layout.tensor, layout.data, layout.expert)
        ):
            return f"{self.title} wants powers of two"
        if layout.tensor > node and not can.tensor_across_nodes:
            return f"{self.title} keeps a tensor group within a node"
        if layout.data > 1 and layout.expert == 1 and can.data_needs_expert:
            return f"{self.title} has DP attention with expert parallelism only"
        if layout.data > 1 and layout.tensor > 1 and can.data_without_tensor:
            return f"{self.title} has DP attention on all devices or on none"
        if layout.expert > 1 and layout.data == 1 and can.expert_only_with_data:
            return f"{self.title} has expert parallelism with DP attention only"
        return None
