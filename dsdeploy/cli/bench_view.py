"""What `bench` found, as tables and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dsdeploy.cli.bench_options import Wish
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.client.bench.run import Asking
    from dsdeploy.client.bench.series import Point
    from dsdeploy.client.bench.statistics import Distribution, Summary, Target

_LATE_SECONDS = 0.01


def show(out: Output, target: Target, askings: Sequence[Asking], points: Sequence[Point]) -> None:
    """One load in detail, or several side by side; then what must be known to read the figures."""
    if len(points) == 1 and len(askings) == 1:
        _detail(out, points[0], points[0].summaries[0], bool(target))
    elif points:
        _overview(out, askings, points, bool(target))
    for summaries, asking in zip(_by_endpoint(points), askings, strict=False):
        for sentence in doubts(summaries):
            out.remark(f"{asking.endpoint.address}: {sentence}")


def document(wish: Wish, askings: Sequence[Asking], points: Sequence[Point]) -> dict[str, Any]:
    """Seconds and tokens throughout."""
    return {
        "endpoints": [
            {"address": asking.endpoint.address, "model": asking.model} for asking in askings
        ],
        "seed": wish.seed,
        "prompts": "made up" if wish.prompts is None else str(wish.prompts),
        "target": asdict(wish.series.target),
        "points": [
            {
                "load": {point.load.kind: point.load.size},
                "results": [_result(each) for each in point.summaries],
            }
            for point in points
        ],
    }


def doubts(summaries: Sequence[Summary]) -> list[str]:
    """Of one endpoint: whatever keeps its figures from being what they look like."""
    found = []
    if not all(summary.counted for summary in summaries):
        found.append("tokens are not counted by the endpoint; each event with text counts as one.")
    tokens, events = (
        sum(getattr(s, name) for s in summaries) for name in ("output_tokens", "events")
    )
    if events and tokens > 1.1 * events:
        found.append(
            f"an event brings {tokens / events:.1f} tokens; the time between tokens is that between events."
        )
    late = max(summary.late for summary in summaries)
    if late > _LATE_SECONDS:
        found.append(
            f"requests left up to {1000 * late:.0f} ms late: this machine is too slow for the rate."
        )
    kinds = sorted({kind for summary in summaries for kind in summary.failures})
    for kind in kinds:
        count = sum(summary.failures.get(kind, 0) for summary in summaries)
        sentence = next(s.examples[kind] for s in summaries if kind in s.examples)
        found.append(f"{count} failed ({kind}): {sentence}")
    return found


def _by_endpoint(points: Sequence[Point]) -> list[tuple[Summary, ...]]:
    return list(zip(*(point.summaries for point in points), strict=True))


def _result(summary: Summary) -> dict[str, Any]:
    return asdict(summary) | {
        "succeeded": summary.succeeded,
        "requests_per_second": summary.requests_per_second,
        "output_tokens_per_second": summary.output_tokens_per_second,
        "goodput": summary.goodput,
    }


def _detail(out: Output, point: Point, summary: Summary, targeted: bool) -> None:
    rows = [
        ("time to first token, ms", *_cells(summary.ttft, 1000)),
        ("between tokens, ms", *_cells(summary.itl, 1000)),
        ("a request's mean per token, ms", *_cells(summary.tpot, 1000)),
        ("whole answer, s", *_cells(summary.e2e, 1)),
    ]
    title = f"{point.load}, {summary.succeeded} of {summary.requests} answered"
    out.table(title, ["", "mean", "p50", "p90", "p99", "most"], rows, right=range(1, 6))
    prompts = "?" if summary.prompt_tokens is None else f"{summary.prompt_tokens:,}"
    counted = "as the endpoint counts" if summary.counted else "as events with text"
    within = f", {summary.goodput:.2f} of them within the target" if targeted else ""
    out.line(
        f"{prompts} tokens in, {summary.output_tokens:,} out ({counted}) in {summary.seconds:.1f} s: "
        f"{summary.output_tokens_per_second:,.1f} tokens/s, "
        f"{summary.requests_per_second:.2f} requests/s{within}"
    )


_COLUMNS = (
    *("load", "endpoint", "TTFT p50", "p99, ms", "ITL p50", "p99, ms", "answer p50, s"),
    *("tokens/s", "requests/s", "goodput", "failed"),
)


def _overview(
    out: Output, askings: Sequence[Asking], points: Sequence[Point], targeted: bool
) -> None:
    names = [asking.endpoint.address for asking in askings]
    rows = [row for point in points for row in _rows(names, point)]
    idle = {*(() if targeted else ("goodput",)), *(() if len(askings) > 1 else ("endpoint",))}
    kept = [index for index, column in enumerate(_COLUMNS) if column not in idle]
    right = [place for place, index in enumerate(kept) if index > 1]
    columns, *cells = ([row[index] for index in kept] for row in (_COLUMNS, *rows))
    counted = all(summary.counted for point in points for summary in point.summaries)
    title = f"Latency over load, tokens {'as the endpoint counts' if counted else 'by events'}"
    out.table(title, columns, cells, right)


def _rows(names: Sequence[str], point: Point) -> list[list[str]]:
    found = [_figures(summary) for summary in point.summaries]
    rows = [
        [str(point.load), name, *map(_number, figures), str(sum(summary.failures.values()))]
        for name, figures, summary in zip(names, found, point.summaries, strict=True)
    ]
    if len(found) > 1:
        cells = [_change(*pair) for pair in zip(*found, strict=True)]
        rows.append(["", "second to first", *cells, ""])
    return rows


def _figures(summary: Summary) -> list[float | None]:
    return [
        *_median_and_tail(summary.ttft),
        *_median_and_tail(summary.itl),
        None if summary.e2e is None else summary.e2e.p50,
        summary.output_tokens_per_second,
        summary.requests_per_second,
        summary.goodput,
    ]


def _change(first: float | None, second: float | None) -> str:
    return f"{100 * (second / first - 1):+.1f} %" if first and second is not None else ""


def _median_and_tail(found: Distribution | None) -> list[float | None]:
    """Milliseconds."""
    return [None, None] if found is None else [1000 * found.p50, 1000 * found.p99]


def _cells(found: Distribution | None, scale: float) -> list[str]:
    if found is None:
        return [""] * 5
    values = (found.mean, found.p50, found.p90, found.p99, found.most)
    return [_number(scale * value) for value in values]


def _number(value: float | None) -> str:
    """Three digits that count, more before the point."""
    if value is None:
        return ""
    places = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{places}f}"
