"""One load after the other, each warmed up; two endpoints in alternation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from dsdeploy.client.bench.load import Concurrency, Load, Rate
from dsdeploy.client.bench.prompts import Question
from dsdeploy.client.bench.run import Asking, Measurement, for_seconds, measure
from dsdeploy.client.bench.statistics import NO_TARGET, Summary, Target, summarise

Questions = Callable[[int, int], list[Question]]
"""`questions(first, count)`: those of a numbered row of them."""
Tell = Callable[[str], None]

_LEAST_REQUESTS = 16
_EACH = 4
"""Requests that follow one another, or seconds of a rate, unless told otherwise."""
_RATE_SECONDS = 30


@dataclass(frozen=True)
class Series:
    loads: tuple[Load, ...]
    seed: int
    requests: int | None = None
    """At each load, to each endpoint; by default enough for a steady state."""
    seconds: float | None = None
    """In which requests leave, instead of a number of them."""
    warm_up: int | None = None
    target: Target = NO_TARGET

    def requests_at(self, load: Load) -> int:
        if self.requests is not None:
            return self.requests
        if self.seconds is not None and isinstance(load, Rate):
            return max(1, round(self.seconds * load.per_second))
        each = _EACH if isinstance(load, Concurrency) else _RATE_SECONDS
        return max(_LEAST_REQUESTS, math.ceil(each * load.size))

    def warm_up_at(self, load: Load) -> int:
        """By default one for each at a time: engines prepare themselves by the size of a batch."""
        if self.warm_up is not None:
            return self.warm_up
        return load.requests if isinstance(load, Concurrency) else 2


@dataclass(frozen=True)
class Point:
    load: Load
    summaries: tuple[Summary, ...]
    """One for each endpoint."""


def run_series(
    series: Series, askings: Sequence[Asking], questions: Questions, tell: Tell
) -> Iterator[Point]:
    """Yields each point when it has been measured. `tell` is given what goes on.

    Raises the DeployError of the first request if no request of a warm-up succeeds.
    """
    used = 0
    for load in series.loads:
        count = series.warm_up_at(load)
        for asking in askings:
            _warm_up(asking, questions(used, count), load, tell)
        used += count
        found: list[list[Measurement]] = [[] for _ in askings]
        for number, turn in enumerate(_turns(series, load, questions, len(askings))):
            for index in _order(len(askings), number):
                watch = _counter(tell, f"{load}, {askings[index].endpoint.address}", turn.extent)
                asked = turn.questions(used)
                result = measure(askings[index], asked, load, series.seed + number, watch)
                found[index].append(result)
            used += max(len(each[-1].samples) for each in found)
        yield Point(load, tuple(summarise(_together(each), series.target) for each in found))


@dataclass(frozen=True)
class _Turn:
    """What one endpoint is asked before the other is asked the same."""

    questions: Callable[[int], Iterable[Question]]
    """From a numbered one on."""
    extent: str


def _turns(series: Series, load: Load, questions: Questions, endpoints: int) -> list[_Turn]:
    """One endpoint is asked all at once; two take turns, each twice."""
    if series.seconds is not None and isinstance(load, Concurrency):
        turns = min(2, endpoints)
        return [_timed(series.seconds / turns, questions)] * turns
    count = series.requests_at(load)
    parts = [count] if endpoints == 1 or count < 2 else [count - count // 2, count // 2]
    return [_counted(part, questions) for part in parts]


def _timed(seconds: float, questions: Questions) -> _Turn:
    def endless(first: int) -> Iterator[Question]:
        return (questions(number, 1)[0] for number in itertools.count(first))

    return _Turn(lambda first: for_seconds(seconds, endless(first)), f"{seconds:g} s")


def _counted(count: int, questions: Questions) -> _Turn:
    return _Turn(lambda first: questions(first, count), str(count))


def _order(endpoints: int, turn: int) -> Sequence[int]:
    """A B, then B A: what drifts slowly, such as a machine that grows warm, hits both alike."""
    return range(endpoints) if turn % 2 == 0 else range(endpoints)[::-1]


def _warm_up(asking: Asking, questions: list[Question], load: Load, tell: Tell) -> None:
    if not questions:
        return
    watch = _counter(tell, f"{load}, warm-up", str(len(questions)))
    samples = measure(asking, questions, load, tell=watch).samples
    failures = [sample.failure for sample in samples if sample.failure is not None]
    if len(failures) == len(samples):
        raise failures[0].error


def _counter(tell: Tell, what: str, extent: str) -> Callable[[int], None]:
    return lambda done: tell(f"{what}: {done} answered, {extent} in all")


def _together(measurements: Sequence[Measurement]) -> Measurement:
    first, *rest = measurements
    for each in rest:
        first += each
    return first
