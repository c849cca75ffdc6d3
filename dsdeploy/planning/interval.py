"""A figure that is not known exactly: between which two it lies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        return self.low <= other.high and other.low <= self.high

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def middle(self) -> float:
        """The geometric mean: rates are known up to a factor."""
        return math.sqrt(self.low * self.high)

    def show(self, how: Callable[[float], str]) -> str:
        low, high = how(self.low), how(self.high)
        return low if low == high else f"{low} to {high}"
