"""What a supervisor says of its deployment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

State = Literal["starting", "ready", "waiting", "stopping", "stopped", "failed"]


@dataclass(frozen=True)
class Status:
    state: State
    supervisor: int
    """Its process."""
    marker: str
    """In the environment of each of the deployment's processes, by which they are found."""
    begun: float
    """Seconds since 1970, as all times here."""
    attempt: int = 1
    phase: str = ""
    """Of a start."""
    detail: str = ""
    phases: tuple[tuple[str, float], ...] = ()
    """Those that are over, each with its seconds."""
    ready_since: float | None = None
    restarts: int = 0
    reason: str = ""
    """Why the engine ended, or what is wrong with it."""
    fix: str = ""
    smoke: str = ""
    """What the first answer was."""
    shared_memory: tuple[str, ...] = ()
    """Files in /dev/shm that its processes had mapped."""
    requests: int | None = None
    """That are being answered."""
    generated: int | None = None
    """Tokens since the engine's start."""
    tokens_per_second: float | None = None
    lost_lines: int = 0
    """Of the log, for want of space."""

    @property
    def over(self) -> bool:
        return self.state in ("stopped", "failed")


def write_status(folder: Path, status: Status) -> None:
    """Whole, but not synced: after a power cut nobody asks."""
    beside = folder / ".status.json"
    beside.write_text(json.dumps(asdict(status)), encoding="utf-8")
    beside.replace(folder / "status.json")


def read_status(folder: Path) -> Status | None:
    """None before a supervisor has spoken, or where its words cannot be read."""
    try:
        fields = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        fields["phases"] = tuple(map(tuple, fields["phases"]))
        fields["shared_memory"] = tuple(fields["shared_memory"])
        return Status(**fields)
    except (OSError, ValueError, TypeError, KeyError):
        return None
