"""All the ways a model may be laid out on a machine, each with what it takes, and which to choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from dsdeploy.hardware.profile import Machine
from dsdeploy.model.formats import FORMATS, WeightFormat
from dsdeploy.planning.interval import Interval
from dsdeploy.planning.layout import Layout, cannot_be_split, layouts
from dsdeploy.planning.memory import DeviceMemory, device_memory
from dsdeploy.planning.models import PlannedModel
from dsdeploy.planning.rules import Rules
from dsdeploy.planning.speed import Roofline, Speed
from dsdeploy.units import format_bytes

PREFERRED = (
    *("vllm", "sglang", "tensorrt-llm", "lmdeploy"),
    *("rocm", "rocm-vllm", "mindie", "vllm-ascend", "native"),
)
"""Who is chosen among equals."""
Verdict = Literal["fits", "tight", "too small", "impossible"]


@dataclass(frozen=True)
class Sizes:
    """What the user has fixed of a layout."""

    tensor: int | None = None
    pipeline: int | None = None
    data: int | None = None
    expert: int | None = None

    def allow(self, layout: Layout) -> bool:
        pairs = (
            (self.tensor, layout.tensor),
            (self.pipeline, layout.pipeline),
            (self.data, layout.data),
            (self.expert, layout.expert),
        )
        return all(wanted in (None, found) for wanted, found in pairs)

    @property
    def devices(self) -> int:
        return (self.tensor or 1) * (self.pipeline or 1) * (self.data or 1)

    @property
    def any_fixed(self) -> bool:
        return self != Sizes()


@dataclass(frozen=True)
class Wish:
    """What the endpoint shall do."""

    context: int = 8192
    concurrency: int = 8
    mtp: bool = False
    precision: str | None = None
    """None: as the checkpoint is, and where an engine cannot have it so, in each other format."""
    cache_format: str = "bf16"
    sizes: Sizes = Sizes()


@dataclass(frozen=True)
class Candidate:
    backend: str
    release: str
    precision: str
    layout: Layout | None
    """None when no layout would change the verdict."""
    verdict: Verdict
    reason: str = ""
    """Why not; of one that fits, what speaks against it."""
    memory: DeviceMemory | None = None
    speed: Speed | None = None

    @property
    def runs(self) -> bool:
        return self.verdict in ("fits", "tight")


@dataclass(frozen=True)
class Outcome:
    model: PlannedModel
    machine: Machine
    wish: Wish
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate | None:
        """The simplest of those whose speed cannot be told from the fastest one's."""
        running = [candidate for candidate in self.candidates if candidate.runs]
        sure = [candidate for candidate in running if candidate.verdict == "fits"] or running
        if not sure:
            return None
        best = max(sure, key=lambda candidate: _decode(candidate).middle)
        equal = [c for c in sure if _decode(c).overlaps(_decode(best))]
        return min(equal, key=lambda candidate: _plainness(candidate, self.model))


def plan(
    model: PlannedModel, machine: Machine, backends: Mapping[str, Rules], wish: Wish
) -> Outcome:
    found = (
        candidate
        for name, rules in backends.items()
        for candidate in _of_backend(model, machine, name, rules, wish)
    )
    return Outcome(model, machine, wish, tuple(found))


def _of_backend(
    model: PlannedModel, machine: Machine, name: str, rules: Rules, wish: Wish
) -> Iterator[Candidate]:
    wanted = FORMATS[wish.precision or model.stored]
    refused = _refuses(model, machine, rules, wanted, wish)
    if refused is None:
        yield from _of_format(model, machine, name, rules, wanted, wish)
        return
    yield Candidate(name, rules.release, wanted.name, None, "impossible", refused)
    if wish.precision is None:
        for other in FORMATS.values():
            if _refuses(model, machine, rules, other, wish) is None:
                yield from _of_format(model, machine, name, rules, other, wish)


def _refuses(
    model: PlannedModel, machine: Machine, rules: Rules, kept: WeightFormat, wish: Wish
) -> str | None:
    if wish.mtp and not rules.mtp:
        return f"{rules.title} does not draft with the MTP layer"
    if wish.mtp and not model.config.num_nextn_predict_layers:
        return f"{model.name} has no MTP layer"
    if wish.cache_format not in rules.memory.cache_formats:
        return f"{rules.title} has no {wish.cache_format.upper()} cache for this model"
    unasked = rules.legacy(kept) if wish.precision is None else ""
    return rules.refuses_precision(kept, machine.accelerator) or unasked or None


def _of_format(
    model: PlannedModel, machine: Machine, name: str, rules: Rules, kept: WeightFormat, wish: Wish
) -> Iterator[Candidate]:
    """With all devices; with fewer only where no layout of all is possible."""
    for devices in _device_counts(machine, wish.sizes):
        found = [
            _candidate(model, machine, name, rules, kept, layout, wish)
            for layout in layouts(devices)
            if _worth_trying(layout, machine, wish.sizes)
        ]
        yield from found
        if any(candidate.verdict != "impossible" for candidate in found):
            return


def _worth_trying(layout: Layout, machine: Machine, sizes: Sizes) -> bool:
    """Stages within a node help only where its devices hardly reach each other."""
    slow = machine.node_link.kind.startswith("PCIe")
    stages = layout.pipeline in (1, machine.nodes) or slow or sizes.pipeline is not None
    return stages and sizes.allow(layout)


def _device_counts(machine: Machine, sizes: Sizes) -> Iterator[int]:
    yield machine.devices
    if sizes.any_fixed:
        if sizes.devices < machine.devices:
            yield sizes.devices
        return
    node = machine.accelerators_per_node
    yield from (nodes * node for nodes in range(machine.nodes - 1, 0, -1))
    yield from (count for count in range(node - 1, 0, -1) if node % count == 0)


def _candidate(
    model: PlannedModel, machine: Machine, name: str, rules: Rules, kept: WeightFormat,
    layout: Layout, wish: Wish,
) -> Candidate:  # fmt: skip
    config = model.config
    reason = rules.refuses_layout(layout, machine)
    reason = reason or cannot_be_split(config, rules.splits(layout), kept)
    if reason:
        return Candidate(name, rules.release, kept.name, layout, "impossible", reason)
    memory = device_memory(config, machine, rules, kept, layout, wish.cache_format, wish.mtp)
    needed = memory.cache_bytes(wish.context, wish.concurrency)
    verdict, reason = _verdict(memory, needed)
    reason = reason or rules.legacy(kept)
    speed = None
    if verdict in ("fits", "tight"):
        speed = _speed(Roofline(config, machine, rules, kept, layout, wish.cache_format), wish)
    return Candidate(name, rules.release, kept.name, layout, verdict, reason, memory, speed)


def _verdict(memory: DeviceMemory, needed: int) -> tuple[Verdict, str]:
    if needed <= memory.free.low:
        return "fits", ""
    if needed <= memory.free.high:
        short = format_bytes(needed - memory.free.low)
        return "tight", f"if the engine takes its most, {short} a device are missing"
    fixed = memory.limit - memory.free.high
    least = format_bytes(fixed + needed)
    why = f"{least} a device are needed at least, {format_bytes(memory.limit)} may be used"
    return "too small", why


def _speed(roofline: Roofline, wish: Wish) -> Speed:
    return Speed(
        decode=roofline.decode(wish.concurrency, wish.context, wish.mtp),
        prefill=roofline.prefill(wish.context),
        first_token=roofline.first_token(wish.context),
        load=roofline.load(wish.mtp),
    )


def _decode(candidate: Candidate) -> Interval:
    if candidate.speed is None:
        raise ValueError("a candidate that does not run has no speed")
    return candidate.speed.decode


def _plainness(candidate: Candidate, model: PlannedModel) -> tuple[object, ...]:
    layout = candidate.layout or Layout()
    place = PREFERRED.index(candidate.backend) if candidate.backend in PREFERRED else 99
    return (
        candidate.precision != model.stored,
        layout.pipeline,
        layout.data,
        layout.expert,
        place,
        candidate.backend,
    )
