"""Start a supervisor and tell it to end; what one that was killed has left is ended for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dsdeploy.errors import DeployError, ExitCode
from dsdeploy.serving import processes
from dsdeploy.serving.deployment import read_deployment
from dsdeploy.serving.registry import Entry, entry, is_locked, locked
from dsdeploy.serving.status import Status, read_status

_LEFT_OVER_GRACE = 20.0
_MORE_THAN_GRACE = 30.0
"""Seconds that a supervisor may take beyond its engine's grace."""
_PERIOD = 0.1


@dataclass(frozen=True)
class Supervised:
    folder: Path
    process: subprocess.Popen[bytes]
    lifeline: int | None
    """Closed, or left behind by whoever dies, it ends the deployment."""


def launch(folder: Path, environment: dict[str, str], detached: bool) -> Supervised:
    """Raises UsageError where the deployment runs already. What an earlier supervisor left behind
    has to be ended before."""
    with locked(folder) as lock:
        for name in ("status.json", "address"):
            (folder / name).unlink(missing_ok=True)
        command = [sys.executable, "-m", "dsdeploy.serving.supervisor", str(folder)]
        reading, lifeline = (None, None) if detached else os.pipe()
        with (folder / "supervisor.log").open("wb") as log:
            process = subprocess.Popen(
                command if detached else [*command, "--lifeline"],
                stdin=subprocess.DEVNULL if reading is None else reading,
                stdout=log, stderr=subprocess.STDOUT,
                env=environment, pass_fds=(lock,), start_new_session=True,
            )  # fmt: skip
        if reading is not None:
            os.close(reading)
    return Supervised(folder, process, lifeline)


def end_left_overs(folder: Path) -> int:
    """How many processes an earlier supervisor that was killed had left behind."""
    status = read_status(folder)
    if status is None or is_locked(folder):
        return 0
    left = processes.members(status.marker)
    if left:
        _end_all(status)
    return len(left)


def stop(found: Entry) -> int:
    """End a deployment, watched or not; how many processes had no supervisor any more."""
    if not found.watched:
        return end_left_overs(found.folder)
    status = _spoken(found.folder)
    if status is None or not is_locked(found.folder):
        return end_left_overs(found.folder)  # it has ended meanwhile
    os.kill(status.supervisor, signal.SIGTERM)
    grace = read_deployment(found.folder).patience.grace
    if not _unlocked(found.folder, grace + _MORE_THAN_GRACE):
        with contextlib.suppress(ProcessLookupError):
            os.kill(status.supervisor, signal.SIGKILL)
        _unlocked(found.folder, _MORE_THAN_GRACE)
        return end_left_overs(found.folder)
    return 0


def wait_for_end(supervised: Supervised) -> Status | None:
    """Also of one that dies without a word."""
    supervised.process.wait()
    end_left_overs(supervised.folder)
    return entry(supervised.folder).status


def _end_all(status: Status) -> None:
    mapped = {
        *status.shared_memory,
        *processes.shared_memory(processes.members(status.marker)),
    }
    processes.end(status.marker, (), _LEFT_OVER_GRACE)
    processes.remove_shared_memory(mapped)


def _spoken(folder: Path) -> Status | None:
    """The status of a supervisor that may have only just begun."""
    deadline = time.monotonic() + _MORE_THAN_GRACE
    while (status := read_status(folder)) is None and is_locked(folder):
        if time.monotonic() > deadline:
            raise DeployError(
                f"The supervisor of {folder.name} says nothing.",
                f"Look into {folder / 'supervisor.log'}.",
                ExitCode.ENGINE,
            )
        time.sleep(_PERIOD)
    return status


def _unlocked(folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_locked(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(_PERIOD)
    return True
