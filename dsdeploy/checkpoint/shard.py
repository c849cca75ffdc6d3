"""One safetensors file: its header, and where its bytes are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dsdeploy.checkpoint.direct import Bytes, read_windows
from dsdeploy.checkpoint.findings import DOWNLOAD_AGAIN
from dsdeploy.checkpoint.safetensors import Header, header_length, parse_header
from dsdeploy.errors import DiskError, IntegrityError


class ShardData(Protocol):
    def read(self, ranges: Iterable[tuple[Bytes, int]]) -> None:
        """Fill each target with the file's bytes from its position on. Safe to call from several
        threads. Raises IntegrityError when the file is not the one whose header was read."""

    def windows(self, nbytes: int) -> Iterator[tuple[int, Bytes]]:
        """(position, bytes) of the whole file, in one buffer that is used again. Ends early when
        the file does."""


@dataclass(frozen=True)
class Shard:
    """One safetensors file as it was when its header was read."""

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int
    """Both 0 where content cannot change, as that of a commit."""
    header: Header
    header_sha256: str
    data: ShardData

    def read(self, target: Bytes, position: int) -> None:
        self.data.read([(target, position)])


@dataclass(frozen=True)
class LocalFile:
    """Read with pread, never mapped: a file that shrinks while it is read gives an error then,
    where a mapping would kill the process."""

    path: Path
    size: int
    mtime_ns: int

    def read(self, ranges: Iterable[tuple[Bytes, int]]) -> None:
        """With the file opened once."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as fault:
            raise DiskError(f"{self.path} cannot be read: {fault.strerror}.") from None
        try:
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
                raise IntegrityError(
                    f"{self.path} changed while it was read.",
                    "Leave the source alone during a conversion, then start again with --overwrite.",
                )
            for target, position in ranges:
                _read_exactly(descriptor, target.data, position, self.path)
        except OSError as fault:
            raise DiskError(f"{self.path} cannot be read: {fault.strerror}.") from None
        finally:
            os.close(descriptor)

    def windows(self, nbytes: int) -> Iterator[tuple[int, Bytes]]:
        return read_windows(self.path, self.size, nbytes)


def _read_exactly(descriptor: int, target: memoryview, position: int, path: Path) -> None:
    while target:
        count = os.preadv(descriptor, [target], position)
        if count == 0:
            raise IntegrityError(
                f"{path} ended while it was read: it has been cut.", DOWNLOAD_AGAIN
            )
        target = target[count:]
        position += count


def read_shard(path: Path) -> Shard:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise IntegrityError(
            f"{path} is a link to a file that is not there.", DOWNLOAD_AGAIN
        ) from None
    try:
        status = os.fstat(descriptor)
        first = os.pread(descriptor, 8, 0)
        length = header_length(first, status.st_size, str(path))
        text = os.pread(descriptor, length, 8)
    finally:
        os.close(descriptor)
    if len(text) < length:
        raise IntegrityError(f"{path} shrank while it was read.", DOWNLOAD_AGAIN)
    header = parse_header(text, status.st_size, str(path))
    digest = hashlib.sha256(first + text).hexdigest()
    data = LocalFile(path, status.st_size, status.st_mtime_ns)
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return Shard(path.name, status.st_size, *times, header, digest, data)
