"""Latency over load, as a page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined

from dsdeploy.client.bench.load import Concurrency
from dsdeploy.client.bench.series import Point
from dsdeploy.client.bench.statistics import Distribution, Summary
from dsdeploy.resources import read_template

_WIDTH, _HEIGHT = 560.0, 240.0
"""Of the area between the axes."""
_STYLES = ("first", "second")
"""Classes of the page, which knows their colours by day and by night."""
_DASHES = {"p50": "", "p90": "7 4", "p99": "2 3"}


@dataclass(frozen=True)
class Curve:
    label: str
    style: str
    dash: str
    points: tuple[tuple[float, float], ...]
    """Load and value, by load."""


@dataclass(frozen=True)
class Chart:
    title: str
    curves: tuple[Curve, ...]

    @property
    def ticks(self) -> list[float]:
        return nice_ticks(max((y for curve in self.curves for _, y in curve.points), default=0.0))

    @property
    def loads(self) -> list[float]:
        return sorted({x for curve in self.curves for x, _ in curve.points})

    def x(self, load: float) -> float:
        """Loads double, so the scale is logarithmic; a single one stands in the middle."""
        least, most = self.loads[0], self.loads[-1]
        if least == most:
            return _WIDTH / 2
        return _WIDTH * math.log(load / least) / math.log(most / least)

    def y(self, value: float) -> float:
        return _HEIGHT * (1 - value / self.ticks[-1])


def nice_ticks(most: float) -> list[float]:
    """From 0 to the first that is not below `most`, 4 to 10 steps of 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(most / step * 0.999) + 1)]


def render_plot(title: str, points: Sequence[Point], endpoints: Sequence[str]) -> str:
    """HTML. `endpoints` are the names of those whose summaries the points hold."""
    environment = Environment(
        undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    kind = "requests at a time" if isinstance(points[0].load, Concurrency) else "requests/s"
    return environment.from_string(read_template("bench/plot.html")).render(
        title=title,
        charts=_charts(points, endpoints),
        endpoints=list(zip(endpoints, _STYLES, strict=False)),
        dashes=_DASHES,
        width=_WIDTH,
        height=_HEIGHT,
        kind=kind,
    )


def _charts(points: Sequence[Point], endpoints: Sequence[str]) -> list[Chart]:
    charts = [
        _latency("Time to first token, ms", points, endpoints, lambda summary: summary.ttft),
        _latency("Between tokens, ms", points, endpoints, lambda summary: summary.itl),
        Chart(
            "Output tokens/s",
            tuple(
                _curve(name, index, "", points, lambda summary: summary.output_tokens_per_second)
                for index, name in enumerate(endpoints)
            ),
        ),
    ]
    return [chart for chart in charts if chart.loads]


def _latency(
    title: str,
    points: Sequence[Point],
    endpoints: Sequence[str],
    of: Callable[[Summary], Distribution | None],
) -> Chart:
    def value(name: str) -> Callable[[Summary], float | None]:
        def milliseconds(summary: Summary) -> float | None:
            found = of(summary)
            return None if found is None else 1000 * float(getattr(found, name))

        return milliseconds

    return Chart(
        title,
        tuple(
            _curve(f"{endpoint} {name}", index, dash, points, value(name))
            for index, endpoint in enumerate(endpoints)
            for name, dash in _DASHES.items()
        ),
    )


def _curve(
    label: str,
    index: int,
    dash: str,
    points: Sequence[Point],
    value: Callable[[Summary], float | None],
) -> Curve:
    """Where nothing succeeded the curve has a gap of a point."""
    pairs = [(point.load.size, value(point.summaries[index])) for point in points]
    known = sorted((x, y) for x, y in pairs if y is not None)
    return Curve(label, _STYLES[index], dash, tuple(known))
