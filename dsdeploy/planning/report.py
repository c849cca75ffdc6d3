"""A plan as a page or a drawing to pass on."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from dsdeploy.planning.picture import memory_parts
from dsdeploy.planning.planner import Candidate, Outcome
from dsdeploy.resources import read_template
from dsdeploy.units import format_bytes

_COLOURS = ("#1b4965", "#2a6f97", "#468faf", "#61a5c2", "#89c2d9", "#a9d6e5", "#c8e3ee", "#014f86",
            "#f4a259", "#8cb369", "#bc4b51", "#e9ecef", "#adb5bd")  # fmt: skip


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
    bars = []
    if memory is not None:
        parts = memory_parts(memory, outcome.wish.context, outcome.wish.concurrency)
        whole = max(memory.total, sum(part.nbytes for part in parts))
        starts = accumulate((part.nbytes for part in parts), initial=0)
        for part, start, colour in zip(parts, starts, _COLOURS, strict=False):
            share = {"x": 720 * start / whole, "width": 720 * part.nbytes / whole}
            bars.append({"label": part.label, "nbytes": part.nbytes, "colour": colour, **share})
        bars.append(
            {
                "label": "",
                "nbytes": whole,
                "colour": "",
                "x": 720 * memory.total / whole,
                "width": 0,
            }
        )
    return {"outcome": outcome, "shown": shown, "memory": memory, "bars": bars}


def _closest(outcome: Outcome) -> Candidate | None:
    tried = [c for c in outcome.candidates if c.memory is not None]
    return max(tried, key=lambda c: c.memory.free.high if c.memory else 0.0, default=None)
