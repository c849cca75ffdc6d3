"""A plan: what has been chosen, as rendering and serving take it, and as a file keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dsdeploy.errors import UsageError
from dsdeploy.hardware.profile import Machine
from dsdeploy.planning.layout import Layout
from dsdeploy.planning.memory import fraction_value
from dsdeploy.planning.planner import Candidate, Outcome
from dsdeploy.planning.rules import Rules
from dsdeploy.strict_yaml import dump_yaml, read_yaml


@dataclass(frozen=True)
class Plan:
    model: str
    """A folder or the name of a repository."""
    stored: str
    """The weight format of that checkpoint; another `precision` has to be made of it first."""
    precision: str
    backend: str
    release: str
    """Of the engine, that the rules were written for."""
    layout: Layout
    context: int
    concurrency: int
    mtp: bool
    cache_format: str
    memory_flag: str
    memory_value: str
    """What tells the engine how much memory it may take."""
    weight_bytes: int
    """Of the fullest device."""
    cache_bytes: int
    """Of the latent cache that these requests take on each device."""
    cache_tokens: int
    """That surely find room on each attention replica."""
    load_seconds: int
    """From the disk to the devices, at the slowest that is expected."""
    machine: Machine

    @property
    def nodes(self) -> int:
        return ceil(self.layout.devices / self.machine.accelerators_per_node)

    @property
    def devices_per_node(self) -> int:
        return min(self.layout.devices, self.machine.accelerators_per_node)


_ADAPTER = TypeAdapter(Plan)


def make_plan(outcome: Outcome, candidate: Candidate, rules: Rules) -> Plan:
    memory, layout, speed = candidate.memory, candidate.layout, candidate.speed
    if memory is None or layout is None or speed is None:
        raise ValueError("what does not run is no plan")
    wish = outcome.wish
    cache_bytes = memory.cache_bytes(wish.context, wish.concurrency)
    flag, value = fraction_value(rules, memory, cache_bytes)
    return Plan(
        model=outcome.model.name,
        stored=outcome.model.stored,
        precision=candidate.precision,
        backend=candidate.backend,
        release=candidate.release,
        layout=layout,
        context=wish.context,
        concurrency=wish.concurrency,
        mtp=wish.mtp,
        cache_format=wish.cache_format,
        memory_flag=flag,
        memory_value=value,
        weight_bytes=memory.weight_bytes,
        cache_bytes=cache_bytes,
        cache_tokens=int(memory.tokens.low),
        load_seconds=ceil(speed.load.high),
        machine=outcome.machine,
    )


def dump_plan(plan: Plan) -> str:
    """YAML that `load_plan` reads."""
    fields = _ADAPTER.dump_python(plan, mode="json", exclude_defaults=True)
    return dump_yaml(fields)


def load_plan(path: Path) -> Plan:
    raw = read_yaml(path, str(path))
    try:
        return _ADAPTER.validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"{path} is no plan: {place}: {first['msg']}.",
            "dsdeploy plan MODEL --profile NAME --output FILE writes one.",
        ) from None
