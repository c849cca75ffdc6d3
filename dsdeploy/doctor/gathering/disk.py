"""How fast a folder's disk is read, past the page cache, in two seconds.

The biggest file below the folder is read; where there is none worth it, one of at most 512 MiB is
written for the purpose. That one has no name, so nothing is left of it, however this ends.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import psutil

from dsdeploy.doctor.facts import Storage
from dsdeploy.errors import UsageError
from dsdeploy.units import format_bytes

_WINDOW = 16 * 2**20
_THREADS = 4
"""Engines load with several readers, and one alone does not fill an NVMe disk."""
_WORTH = 16 * _WINDOW
_MOST_WRITTEN = 32 * _WINDOW
_SPARE = 4 * 2**30
"""Free space below which nothing is written."""
_ENTRIES = 5000


@dataclass(frozen=True)
class _Reading:
    rate: int | None
    how: str


def measured(folder: Path, seconds: float = 2.0) -> Storage:
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Name one that exists with --folder.")
    free = shutil.disk_usage(folder).free
    reading = _of_biggest(folder, seconds) or _of_new_file(folder, free, seconds)
    system = _file_system(folder)
    return Storage(str(folder.absolute()), free, system, reading.rate, reading.how)


def _of_biggest(folder: Path, seconds: float) -> _Reading | None:
    files = islice(_files(folder), _ENTRIES)
    size, path = max(files, default=(0, folder), key=lambda entry: entry[0])
    if size < _WORTH:
        return None
    try:
        return _reading(str(path), size, seconds, f"{format_bytes(size)} of {path.name}")
    except OSError:
        return None


def _of_new_file(folder: Path, free: int, seconds: float) -> _Reading:
    if free < _SPARE:
        return _Reading(None, f"no big file to read, and {format_bytes(free)} free to write one")
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            size = _filled(file.fileno(), seconds / 2)
            own = f"/proc/self/fd/{file.fileno()}"
            return _reading(own, size, seconds / 2, f"{format_bytes(size)} just written")
    except OSError as error:
        return _Reading(None, f"no big file to read, and none can be written: {error.strerror}")


def _filled(descriptor: int, seconds: float) -> int:
    """Random bytes, which no disk can compress; the size."""
    part, end, size = os.urandom(_WINDOW), time.monotonic() + seconds, 0
    while size < _MOST_WRITTEN and (size == 0 or time.monotonic() < end):
        size += os.write(descriptor, part)
        os.fdatasync(descriptor)
    return size


def _reading(path: str, size: int, seconds: float, how: str) -> _Reading:
    try:
        rate = _direct_rate(path, size // _WINDOW, seconds)
    except OSError:
        return _Reading(None, "this file system is read through the page cache only")
    return _Reading(rate, how)


def _direct_rate(path: str, windows: int, seconds: float) -> int:
    """Bytes a second of windows that several threads read in turn, from the start again at the
    end of the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    turns = count()
    begun = time.monotonic()

    def read() -> int:
        done = 0
        with mmap.mmap(-1, _WINDOW) as buffer:
            while time.monotonic() < begun + seconds:
                done += os.preadv(descriptor, [buffer], next(turns) % windows * _WINDOW)
        return done

    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            done = sum(future.result() for future in [pool.submit(read) for _ in range(_THREADS)])
    finally:
        os.close(descriptor)
    return int(done / (time.monotonic() - begun))


def _files(folder: Path) -> Iterator[tuple[int, Path]]:
    """(size, path) of what lies below, links followed, as a cache of the Hub has them."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            try:
                yield path.stat().st_size, path
            except OSError:
                continue


def _file_system(folder: Path) -> str:
    where = folder.resolve()
    mounts = [
        part for part in psutil.disk_partitions(all=True) if where.is_relative_to(part.mountpoint)
    ]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else ""
