"""A plan as a page or a drawing to pass on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from dsdeploy.planning.memory import DeviceMemory
from dsdeploy.planning.picture import memory_parts
from dsdeploy.planning.planner import Candidate, Outcome, Wish
from dsdeploy.resources import read_template
from dsdeploy.units import format_bytes

_WIDTH = 720
_COLOURS = {
    "weights": ("#1b4965", "#2a6f97", "#468faf", "#61a5c2", "#89c2d9", "#a9d6e5", "#c8e3ee"),
    "cache": ("#7b2cbf",),
    "engine": ("#f4a259", "#f7c59f"),
    "free": ("#a7c957",),
    "system": ("#ced4da",),
}


def render_report(outcome: Outcome, suffix: str) -> str:
    """`suffix` .html or .svg."""
    environment = Environment(
        loader=FunctionLoader(lambda name: read_template(f"report/{name}")),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = format_bytes
    return environment.get_template(f"plan{suffix}").render(**_facts(outcome))


def _facts(outcome: Outcome) -> dict[str, Any]:
    shown = outcome.chosen or _closest(outcome)
    memory = None if shown is None else shown.memory
    bars = [] if memory is None else _bars(memory, outcome.wish)
    whole = sum(bar["nbytes"] for bar in bars)
    ordered = sorted(outcome.candidates, key=lambda c: (c is not outcome.chosen, not c.runs))
    return {
        "outcome": outcome,
        "candidates": ordered,
        "shown": shown,
        "memory": memory,
        "bars": bars,
        "end": _WIDTH * memory.total / whole if memory and whole else 0.0,
    }


def _bars(memory: DeviceMemory, wish: Wish) -> list[dict[str, Any]]:
    """Beyond the device's end where more is asked than fits."""
    parts = memory_parts(memory, wish.context, wish.concurrency)
    whole = sum(part.nbytes for part in parts)
    used: Counter[str] = Counter()
    bars, start = [], 0
    for part in parts:
        colours = _COLOURS[part.kind]
        bars.append(
            {
                "label": part.label,
                "nbytes": part.nbytes,
                "colour": colours[used[part.kind] % len(colours)],
                "x": _WIDTH * start / whole,
                "width": _WIDTH * part.nbytes / whole,
            }
        )
        used[part.kind] += 1
        start += part.nbytes
    return bars


def _closest(outcome: Outcome) -> Candidate | None:
    tried = [c for c in outcome.candidates if c.memory is not None]
    return max(tried, key=lambda c: c.memory.free.high if c.memory else 0.0, default=None)
