"""What is said of one thing: as it is, as it should be, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from dsdeploy.deploy.driver import Fit

State = Literal["green", "yellow", "red"]
"""red: an engine will not start, or will die. yellow: it will be slow, may fail later, or nobody
can tell."""

FITS: dict[Fit, State] = {"full": "green", "limited": "yellow", "none": "red"}
"""What it means that something was built for another CUDA than the driver's."""
_BY_GRAVITY: tuple[State, ...] = ("red", "yellow", "green")


@dataclass(frozen=True)
class Check:
    name: str
    state: State
    found: str
    wanted: str = ""
    fix: str = ""
    """A command to copy, or a sentence where no command does it."""


def gravest(checks: Iterable[Check]) -> State:
    states = {check.state for check in checks}
    return next((state for state in _BY_GRAVITY if state in states), "green")
