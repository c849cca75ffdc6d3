"""What lint has to say, and what it would change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Edit:
    """Puts `new` in place of the characters from `start` to `end`."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Finding:
    at: int
    """An offset in the file."""
    severity: Literal["error", "warning"]
    rule: str
    message: str
    fix: str | None = None
    """What to do, in words."""
    edit: Edit | None = None
    """What --fix does."""
