"""Rows of figures with their targets, as a Markdown table or as JSON."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

_COMPARISONS = {">=": operator.ge, "<=": operator.le, "<": operator.lt, "=": operator.eq}
_PLACES = {"tokens/s": 1, "GB/s": 2, "MB/s": 0, "%": 0, "% of a core": 2, "x": 2, "s": 2, "ms": 3}
_PLACES |= {"MB": 0, "bytes": 0, "us": 1, "TFLOP/s": 1}


@dataclass(frozen=True)
class Target:
    comparison: str
    limit: float


@dataclass(frozen=True)
class Row:
    what: str
    figure: float
    unit: str
    target: Target | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        met = _COMPARISONS[self.target.comparison](self.figure, self.target.limit)
        return "met" if met else "missed"


def markdown(facts: Mapping[str, str], rows: Iterable[Row]) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in facts.items() if value), ""]
    lines += ["| what | figure | target | | how |", "|---|---:|---:|---|---|"]
    for row in rows:
        cells = [row.what, _number(row.figure, row.unit), _limit(row), row.verdict, row.detail]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def document(facts: Mapping[str, str], rows: Iterable[Row]) -> dict[str, Any]:
    return {
        "machine": dict(facts),
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
    }


def _number(figure: float, unit: str) -> str:
    return f"{figure:,.{_PLACES[unit]}f} {unit}"


def _limit(row: Row) -> str:
    if row.target is None:
        return ""
    limit = f"{row.target.limit:,g}" if row.target.limit < 1e6 else f"{row.target.limit:,.0f}"
    return f"{row.target.comparison} {limit} {row.unit}"
