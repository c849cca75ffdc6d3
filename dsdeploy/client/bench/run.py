"""Requests under a load, measured."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dsdeploy.client.bench.exchange import Received, exchange
from dsdeploy.client.bench.load import Concurrency, Load, Rate, arrivals
from dsdeploy.client.bench.prompts import Question
from dsdeploy.client.bench.reading import Sample, read
from dsdeploy.client.endpoint import Endpoint, tls

_CONNECT_EARLY = 0.25
"""Seconds before a request is due."""


@dataclass(frozen=True)
class Measurement:
    samples: tuple[Sample, ...]
    """In the order of the questions."""
    seconds: float
    """In which they were under way; of several measurements together, their sum."""
    late: float
    """Seconds by which the request that left latest after its time did. Only a Rate has times."""

    def __add__(self, other: Measurement) -> Measurement:
        return Measurement(
            self.samples + other.samples, self.seconds + other.seconds, max(self.late, other.late)
        )


@dataclass(frozen=True)
class Asking:
    """What all requests to an endpoint have in common."""

    endpoint: Endpoint
    model: str
    timeout: float
    """Seconds for a whole answer."""
    temperature: float = 0.0
    ignore_eos: bool = False


def measure(
    asking: Asking,
    questions: Iterable[Question],
    load: Load,
    seed: int = 0,
    tell: Callable[[int], None] = lambda done: None,
) -> Measurement:
    """At least one question. At a fixed concurrency each is drawn when its request can leave, so
    that they may go on for a time (`for_seconds`). `tell` is given the number of answers that have
    ended, whenever one does."""
    with _no_collection():
        received, dues = asyncio.run(_ask_all(asking, questions, load, seed, tell))
    samples = tuple(read(asking.endpoint.address, each) for each in received)
    begun = min(sample.sent for sample in samples)
    seconds = max(sample.ended for sample in samples) - begun
    late = max(max(0.0, e.sent - due) for e, due in zip(received, dues, strict=True))
    return Measurement(samples, max(seconds, 1e-9), late if any(dues) else 0.0)


def for_seconds(seconds: float, questions: Iterable[Question]) -> Iterator[Question]:
    """Those that are drawn within so many seconds of the first."""
    end = time.monotonic() + seconds
    for question in questions:
        yield question
        if time.monotonic() >= end:
            return


async def _ask_all(
    asking: Asking,
    questions: Iterable[Question],
    load: Load,
    seed: int,
    tell: Callable[[int], None],
) -> tuple[list[Received], list[float]]:
    """The answers, and when each request was due; 0 where it was not."""
    context = tls(asking.endpoint.address)
    done = 0

    async def ask(question: Question, due: float) -> Received:
        nonlocal done
        path, body = request(asking, question)
        received = await exchange(asking.endpoint, context, path, body, asking.timeout, due)
        done += 1
        tell(done)
        return received

    if isinstance(load, Concurrency):
        received = await _one_after_another(questions, load.requests, ask)
        return received, [0.0] * len(received)
    return await _at_random(list(questions), load, seed, ask)


_Ask = Callable[[Question, float], Awaitable[Received]]


async def _one_after_another(
    questions: Iterable[Question], at_a_time: int, ask: _Ask
) -> list[Received]:
    numbered = enumerate(questions)
    found: dict[int, Received] = {}

    async def keep_asking() -> None:
        for number, question in numbered:
            found[number] = await ask(question, 0.0)

    await asyncio.gather(*(keep_asking() for _ in range(at_a_time)))
    return [found[number] for number in sorted(found)]


async def _at_random(
    questions: Sequence[Question], rate: Rate, seed: int, ask: _Ask
) -> tuple[list[Received], list[float]]:
    start = time.monotonic() + _CONNECT_EARLY
    dues = [start + each for each in arrivals(rate, len(questions), seed)]

    async def ask_in_time(question: Question, due: float) -> Received:
        await asyncio.sleep(due - _CONNECT_EARLY - time.monotonic())
        return await ask(question, due)

    pairs = zip(questions, dues, strict=True)
    return await asyncio.gather(*(ask_in_time(question, due) for question, due in pairs)), dues


def request(asking: Asking, question: Question) -> tuple[str, dict[str, object]]:
    """Path and body."""
    body: dict[str, object] = {
        "model": asking.model,
        "max_tokens": question.max_tokens,
        "temperature": asking.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if asking.ignore_eos:
        body["ignore_eos"] = True
    if isinstance(question.prompt, str):
        return "/v1/completions", body | {"prompt": question.prompt}
    return "/v1/chat/completions", body | {"messages": list(question.prompt)}


@contextmanager
def _no_collection() -> Iterator[None]:
    """A collection of garbage would stop all clocks for some milliseconds."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
