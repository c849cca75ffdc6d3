"""Files read and written past the page cache (O_DIRECT) with aligned buffers, where the file
system can.

Growing the page cache costs more than a conversion's arithmetic, and 1.3 TB of it would evict
everything else on the machine.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAGE = 4096

Bytes = NDArray[np.uint8]

_DIRECT = getattr(os, "O_DIRECT", 0)


def aligned_buffer(nbytes: int) -> Bytes:
    """Page-aligned memory; `nbytes` is a multiple of the page."""
    return np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)


class DirectReader:
    """Reads at page-aligned positions."""

    _flags = os.O_RDONLY

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changing = threading.Lock()
        flags = self._flags | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags | _DIRECT, 0o666)
            self._direct = bool(_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL or not _DIRECT:
                raise
            self._descriptor = os.open(path, flags, 0o666)
            self._direct = False

    def read(self, buffer: Bytes, length: int, start: int) -> bool:
        """Fill buffer[:length] from `start`; False when the file does not reach so far. The
        buffer has room for whole pages."""
        done, padded = 0, -(-length // PAGE) * PAGE
        while done < length:
            view = buffer.data[done:padded]
            direct = self._direct
            try:
                count = os.preadv(self._descriptor, [view], start + done)
            except OSError as error:
                self._through_the_cache_or_raise(error, direct)
                continue
            if count == 0:
                return False
            done += count
        return True

    def close(self) -> None:
        os.close(self._descriptor)

    def _through_the_cache_or_raise(self, error: OSError, was_direct: bool) -> None:
        """Some file systems open with O_DIRECT, then refuse to read or write so."""
        if error.errno != errno.EINVAL or not was_direct:
            raise error
        with self._changing:
            if not self._direct:  # another thread has met the same refusal
                return
            # The old descriptor is replaced in place, so that other threads' calls go on.
            plain = os.open(self.path, self._flags & ~os.O_CREAT | os.O_CLOEXEC)
            os.dup2(plain, self._descriptor, inheritable=False)
            os.close(plain)
            self._direct = False


class DirectFile(DirectReader):
    """Writes as well; the last page may go beyond the end, `finish` cuts it."""

    _flags = os.O_RDWR | os.O_CREAT

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path)
        self.size = size
        try:
            preallocate(self._descriptor, -(-size // PAGE) * PAGE)
        except OSError:
            self.close()
            raise

    def write(self, buffer: Bytes, length: int, start: int) -> None:
        """buffer[:length] to `start`; the buffer has room for whole pages."""
        padded = -(-length // PAGE) * PAGE
        buffer[length:padded] = 0
        view = buffer.data[:padded]
        while view:
            direct = self._direct
            try:
                count = os.pwrite(self._descriptor, view, start)
            except OSError as error:
                self._through_the_cache_or_raise(error, direct)
                continue
            view = view[count:]
            start += count

    def finish(self) -> None:
        """Cut to the true size and bring everything to the disk."""
        os.ftruncate(self._descriptor, self.size)
        os.fsync(self._descriptor)
        if not self._direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def read_windows(path: Path, size: int, window: int) -> Iterator[tuple[int, Bytes]]:
    """(position, bytes) of the first `size` bytes of a file, in one buffer that is used again.
    Ends early when the file does."""
    buffer = aligned_buffer(window)
    with closing(DirectReader(path)) as reader:
        for start in range(0, size, window):
            length = min(window, size - start)
            if not reader.read(buffer, length, start):
                return
            yield start, buffer[:length]


def preallocate(descriptor: int, size: int) -> None:
    """Reserve the space, so that a full disk shows before the work. glibc's posix_fallocate
    writes every block where the file system cannot reserve; the system call says so instead."""
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return
    offset = ctypes.c_int64
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, offset, offset]
    if size and fallocate(descriptor, 0, 0, size) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise OSError(code, os.strerror(code))


def free_bytes(folder: Path) -> int:
    """Space that a user without privileges can fill, where `folder` is or will be."""
    while not folder.exists():
        folder = folder.parent
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Write beside, sync, rename: the file is there whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.replace(path)
