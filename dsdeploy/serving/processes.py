"""The processes of a deployment on this machine, wherever they have gone.

Each inherits a marker in its environment. Unlike a group, it is not left by a new session; unlike a
number, it is not used again by a stranger; and it outlives the supervisor. Where an engine writes
its title over its environment (SPT_NOENV asks it not to), its parents and session tell.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

MARKER = "DSDEPLOY_DEPLOYMENT"
_SHARED = re.compile(r"/dev/shm/[^\n]*")
_GONE = (psutil.Error, OSError)
_LAST_GRACE = 5.0
_PERIOD = 0.02


def marked(environment: dict[str, str], marker: str) -> dict[str, str]:
    return {**environment, MARKER: marker, "SPT_NOENV": "1"}


def members(marker: str) -> list[psutil.Process]:
    """That live, but for this process itself."""
    everyone = {each.pid: each for each in psutil.process_iter() if each.pid != os.getpid()}
    found = {pid for pid, process in everyone.items() if _has(process, marker)}
    if not found:
        return []
    sessions = {_session(pid) for pid in found} - {_session(os.getpid()), None}
    parents = {pid: _parent(process) for pid, process in everyone.items()}
    found |= {
        pid for pid in everyone if _session(pid) in sessions or found & set(_line_of(pid, parents))
    }
    return [everyone[pid] for pid in sorted(found) if _lives(everyone[pid])]


def end(marker: str, leaders: Iterable[int], grace: float) -> None:
    """TERM to the leaders, which end their workers in good order; when they have gone, or after
    `grace` seconds, TERM to the others that are left, and soon KILL to all."""
    found = members(marker)
    first = [process for process in found if process.pid in set(leaders)] or found
    for process in first:
        _send(process, signal.SIGTERM)
    _wait(first, grace)
    others = [process for process in members(marker) if process not in first]
    for process in others:
        _send(process, signal.SIGTERM)
    _wait(others, min(grace, _LAST_GRACE))
    kill(marker)


def kill(marker: str) -> None:
    """Until none is left: one may be forking when it is seen. Python's resource trackers come last,
    for they remove from /dev/shm what the others have left there."""
    while left := [each for each in members(marker) if not _is_tracker(each)]:
        _kill(left)
    _wait(members(marker), _LAST_GRACE)
    while left := members(marker):
        _kill(left)


def _kill(found: list[psutil.Process]) -> None:
    for process in found:
        _send(process, signal.SIGKILL)
    _wait(found, 1)


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    except _GONE:
        return False


def shared_memory(processes: Iterable[psutil.Process]) -> tuple[str, ...]:
    """Files in /dev/shm that these have mapped."""
    found: set[str] = set()
    for process in processes:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace")
            found.update(_SHARED.findall(maps))
    return tuple(sorted(path for path in found if not path.endswith(" (deleted)")))


def remove_shared_memory(paths: Iterable[str]) -> tuple[str, ...]:
    """Those that are ours and that no process has mapped."""
    left = {path for path in paths if _is_ours(path)}
    if not left:
        return ()
    used = set(shared_memory(psutil.process_iter()))
    removed = []
    for path in sorted(left - used):
        with contextlib.suppress(OSError):
            Path(path).unlink()
            removed.append(path)
    return tuple(removed)


def _wait(found: list[psutil.Process], seconds: float) -> None:
    """Until none of these lives; a zombie is its parent's affair."""
    deadline = time.monotonic() + seconds
    while any(map(_lives, found)) and time.monotonic() < deadline:
        time.sleep(_PERIOD)


def _is_ours(path: str) -> bool:
    try:
        return Path(path).lstat().st_uid == os.getuid()
    except OSError:
        return False


def _has(process: psutil.Process, marker: str) -> bool:
    try:
        return process.environ().get(MARKER) == marker
    except _GONE:
        return False


def _line_of(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while (pid := parents.get(pid, 0)) > 1:
        yield pid


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except _GONE:
        return 0


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except _GONE:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(*_GONE):
        process.send_signal(number)  # psutil refuses a number that another process now has
