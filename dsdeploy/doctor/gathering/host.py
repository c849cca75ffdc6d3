"""Kernel, memory, limits and clock of this machine, as this process has them."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
from pathlib import Path

import psutil

from dsdeploy.doctor.facts import Host, Limits
from dsdeploy.doctor.gathering.texts import text_of

_SHARED = Path("/dev/shm")
# Of control groups in the second version and in the first.
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNSYNCHRONISED = 5
"""TIME_ERROR of adjtimex(2)."""


def host() -> Host:
    memory = psutil.virtual_memory()
    total = min([memory.total, *_memory_limits()])
    writable = _SHARED.is_dir() and os.access(_SHARED, os.W_OK)
    return Host(
        kernel=platform.release(),
        memory=total,
        available=min(memory.available, total),
        shared_memory=shutil.disk_usage(_SHARED).free if writable else None,
        limits=Limits(
            open_files=_limit(resource.RLIMIT_NOFILE),
            locked_memory=_limit(resource.RLIMIT_MEMLOCK),
            processes=_limit(resource.RLIMIT_NPROC),
        ),
        numa_balancing=text_of(Path("/proc/sys/kernel/numa_balancing")) not in ("", "0"),
        clock_synchronised=_clock_synchronised(),
    )


def _memory_limits() -> list[int]:
    texts = [text_of(Path(path)) for path in _MEMORY_LIMITS]
    return [int(text) for text in texts if text.isdigit()]


def _limit(kind: int) -> tuple[int | None, int | None]:
    soft, hard = (
        None if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(kind)
    )
    return soft, hard


def _clock_synchronised() -> bool | None:
    """Asked of the kernel, which chrony, ntpd and systemd-timesyncd all tell; nothing is changed:
    a struct timex of zeros asks only."""
    struct = ctypes.create_string_buffer(512)  # more than any architecture's
    try:
        state = ctypes.CDLL(None).adjtimex(struct)
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != _UNSYNCHRONISED
