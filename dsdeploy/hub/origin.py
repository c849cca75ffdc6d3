"""Where bytes come from: a stretch of one file as a stream of pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dsdeploy.errors import DiskError, IntegrityError
from dsdeploy.hub.listing import RemoteFile

PIECE = 1 << 20


@dataclass(frozen=True)
class Stream:
    start: int
    """Of the first piece in the file: 0 instead of the one asked for where a server knows no
    ranges."""
    pieces: Iterator[bytes]


class ContentChangedError(Exception):
    """The origin now has other bytes under this name than those that came before."""


class Origin(Protocol):
    def stream(self, file: RemoteFile, start: int, stop: int) -> AbstractContextManager[Stream]:
        """Bytes [start, stop) of a file. Raises TransientError for what another try may mend,
        ContentChangedError, and DeployError for what it will not."""

    def abort(self) -> None:
        """Wake whoever waits for bytes: their streams end with TransientError."""


class FolderOrigin:
    """A folder of this machine or of a mounted disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def stream(self, file: RemoteFile, start: int, stop: int) -> Iterator[Stream]:
        path = self._folder / file.path
        try:
            with path.open("rb", buffering=0) as opened:
                _require_size(path, os.fstat(opened.fileno()).st_size, file.size)
                yield Stream(start, _pieces(opened.fileno(), start, stop))
        except FileNotFoundError:
            raise DiskError(f"{path} is not there.", "Copy the folder again.") from None

    def abort(self) -> None:
        pass


def _require_size(path: Path, found: int, stated: int) -> None:
    if found != stated:
        raise IntegrityError(
            f"{path} has {found:,} bytes, not {stated:,}.", "Remove it and download it again."
        )


def _pieces(descriptor: int, start: int, stop: int) -> Iterator[bytes]:
    while start < stop and (piece := os.pread(descriptor, min(PIECE, stop - start), start)):
        start += len(piece)
        yield piece
