"""A file while it comes: preallocated, filled in chunks in any order, hashed in theirs."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from dsdeploy.checkpoint.direct import preallocate
from dsdeploy.hub.listing import RemoteFile, git_hash
from dsdeploy.hub.origin import PIECE

CHUNK = 32 << 20
"""Bytes that are noted as done together: what a kill costs, at most, for each worker."""


class PartFile:
    """Writing and hashing may go on in several threads at once."""

    def __init__(self, path: Path, file: RemoteFile, done: Iterable[int], lasting: bool) -> None:
        """`lasting`: it is going to be synced, and goes to the disk while it comes; what is used
        and removed at once need never get there."""
        self.path, self.file, self._lasting = path, file, lasting
        self.count = -(-file.size // CHUNK)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            preallocate(self._descriptor, file.size)
            os.ftruncate(self._descriptor, file.size)
        except OSError:
            self.close()
            raise
        self._writing, self._hashing = threading.Lock(), threading.Lock()
        self.begin_again(done)

    def begin_again(self, done: Iterable[int] = ()) -> None:
        """With only the chunks that are `done`."""
        self.done = {chunk for chunk in done if chunk < self.count}
        self._sha256 = hashlib.sha256()
        self._git = git_hash(self.file.size) if self.file.sha256 is None else None
        self.states: list[bytes] = []
        """The hash after each chunk, from the first on: two passes that differ show from where."""

    def span(self, chunk: int) -> tuple[int, int]:
        return chunk * CHUNK, min((chunk + 1) * CHUNK, self.file.size)

    def write(self, data: bytes | memoryview, position: int) -> None:
        view = memoryview(data)
        # Linux writes one piece of a file at a time, and whoever waits for its turn there spins.
        with self._writing:
            while view:
                count = os.pwrite(self._descriptor, view, position)
                view, position = view[count:], position + count

    def hash_what_is_there(self) -> bool:
        """Go on with the hash over the chunks that are done in a row. True for the one of several
        threads that has come to the file's end."""
        at_the_end = False
        while self._next_is_there() and self._hashing.acquire(blocking=False):
            try:
                while self._next_is_there():
                    self._hash(*self.span(len(self.states)))
                at_the_end = len(self.states) == self.count
            finally:
                self._hashing.release()
            # Looked at once more: a chunk may have come while the lock was still ours.
        return at_the_end

    def _next_is_there(self) -> bool:
        return len(self.states) in self.done

    def _hash(self, position: int, stop: int) -> None:
        """What was written a moment ago is in the page cache."""
        while position < stop:
            piece = os.pread(self._descriptor, min(PIECE, stop - position), position)
            self._sha256.update(piece)
            if self._git is not None:
                self._git.update(piece)
            position += len(piece)
        self.states.append(self._sha256.digest())
        if self._lasting:
            self._write_back(*self.span(len(self.states) - 1))

    def _write_back(self, start: int, stop: int) -> None:
        """Begin to write these bytes, without waiting for it; Linux does that when it is told that
        they are not needed."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def is_right(self) -> bool:
        """Whether what has been hashed is what the repository says."""
        if self._git is None:
            return self.sha256 == self.file.sha256
        return self.file.git_oid is None or self._git.hexdigest() == self.file.git_oid

    def sync(self) -> None:
        os.fsync(self._descriptor)
        self._write_back(0, self.file.size)

    def close(self) -> None:
        os.close(self._descriptor)
