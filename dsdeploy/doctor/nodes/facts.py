"""What is measured between machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Path:
    """From one node to another, by TCP."""

    source: str
    target: str
    problem: str = ""
    """Why there is none."""
    seconds: float = 0.0
    """A round trip, the median of 64."""
    rate: float = 0.0
    """Bytes a second over one connection."""
    mtu: int = 0
    """Of the whole path, as the sender's kernel has learnt it."""
    interface: str = ""
    """Of the sender."""


@dataclass(frozen=True)
class Fault:
    problem: str
    fix: str


@dataclass(frozen=True)
class Nodes:
    hosts: tuple[str, ...]
    paths: tuple[Path, ...]
    clocks: Mapping[str, float]
    """Seconds that each is ahead of this machine."""
    faults: Mapping[str, Fault]
    """Of hosts that ssh does not reach, or that have no python3; no path leads there."""

    def path(self, source: str, target: str) -> Path | None:
        pairs = {(path.source, path.target): path for path in self.paths}
        return pairs.get((source, target))
