"""How requests follow one another."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Concurrency:
    """So many at any time: the next leaves when one has ended."""

    kind: ClassVar = "concurrency"
    requests: int

    def __str__(self) -> str:
        return f"{self.requests} at a time"

    @property
    def size(self) -> float:
        return self.requests


@dataclass(frozen=True)
class Rate:
    """Requests leave independently of one another and of the answers (a Poisson process)."""

    kind: ClassVar = "rate"
    per_second: float

    def __str__(self) -> str:
        return f"{self.per_second:g} requests/s"

    @property
    def size(self) -> float:
        return self.per_second


Load = Concurrency | Rate


def arrivals(rate: Rate, count: int, seed: int) -> list[float]:
    """Seconds from the start; the gaps are exponential with the mean 1 / rate."""
    source = random.Random(seed)
    times, now = [], 0.0
    for _ in range(count):
        times.append(now)
        now += source.expovariate(rate.per_second)
    return times
