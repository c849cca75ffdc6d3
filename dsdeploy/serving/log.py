"""The log of a deployment: bounded, without secrets, and never the reason why an engine stops.

What the disk cannot hold is dropped and counted; an engine that writes is never kept waiting.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

ATTEMPT = "[dsdeploy] attempt"
"""Begins what the log has of one start."""
FAILED = "[dsdeploy] failed:"
LARGEST = 64 * 2**20
"""Bytes of one file."""
KEPT = 3
_SEARCHED = 10**6
"""Older files beside it."""
_LONGEST_LINE = 64 * 1024
_NAMED = (
    rb"""(?P<name>(?i:bearer\s+|api[_-]?keys?["']?\s*[=:,]?\s*\[?["']?))[A-Za-z0-9_./+~-]{12,}"""
)
_TOKEN_OF_THE_HUB = rb"hf_[A-Za-z0-9]{20,}"
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(?:_|$)", re.IGNORECASE
)
_HIDDEN = b"[secret]"


def secrets_in(environment: dict[str, str]) -> list[str]:
    """Values of variables whose names say so."""
    return [value for name, value in environment.items() if _SECRET_NAME.search(name)]


class Redactor:
    def __init__(self, secrets: Iterable[str]) -> None:
        literal = sorted({s for s in secrets if len(s) >= 6}, key=len, reverse=True)
        parts = [re.escape(secret.encode()) for secret in literal]
        self._known = re.compile(b"|".join([*parts, _TOKEN_OF_THE_HUB]))
        self._named = re.compile(_NAMED)

    def __call__(self, text: bytes) -> bytes:
        text = self._known.sub(_HIDDEN, text)
        lowered = text.lower()
        if b"key" in lowered or b"bearer" in lowered:  # looking for names is ten times slower
            text = self._named.sub(rb"\g<name>" + _HIDDEN, text)
        return text


class LineSplitter:
    """Whole lines of a stream of pieces. A progress bar's carriage return ends a line too."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        text = (self._rest + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        return lines

    def end(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


class LogFile:
    def __init__(self, path: Path, largest: int = LARGEST, kept: int = KEPT) -> None:
        self._path, self._largest, self._kept = path, largest, kept
        self._descriptor: int | None = None
        self._size = 0
        self.lost = 0
        """Lines, in all."""
        self._untold = 0

    def write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        told = [b"[dsdeploy: %d lines are lost: no room for them]" % self._untold]
        written = self._append(b"\n".join([*(told if self._untold else []), *lines, b""]))
        self._untold = 0 if written else self._untold + len(lines)
        self.lost += 0 if written else len(lines)

    def _append(self, text: bytes) -> bool:
        try:
            if self._descriptor is None or self._size + len(text) > self._largest:
                self._turn()
            return self._written(text)
        except OSError:
            return False

    def _written(self, text: bytes) -> bool:
        """A piece that does not fit whole is taken back, so that no line is half there."""
        if self._descriptor is None:
            return False
        done = 0
        try:
            while done < len(text):
                done += os.write(self._descriptor, text[done:])
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += done
        return True

    def _turn(self) -> None:
        """Open the file, after moving a full one aside."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            for number in range(self._kept, 0, -1):
                older = self._path.with_name(f"{self._path.name}.{number - 1}")
                source = older if number > 1 else self._path
                with contextlib.suppress(FileNotFoundError):
                    source.replace(self._path.with_name(f"{self._path.name}.{number}"))
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size


def last_lines(path: Path, count: int, most_bytes: int = 4 * 2**20) -> list[str]:
    """Of the file and the one before it."""
    found: list[str] = []
    for file in (path, path.with_name(f"{path.name}.1")):
        if len(found) < count:
            found = [*_tail(file, most_bytes), *found]
    return found[-count:]


def last_attempt(path: Path, count: int) -> list[str]:
    """The last lines of the last start, to where it failed: what an engine says while it is ended
    hides why."""
    lines = last_lines(path, _SEARCHED)
    begun = next((at for at in range(len(lines) - 1, -1, -1) if ATTEMPT in lines[at]), 0)
    end = next((at for at in range(begun, len(lines)) if FAILED in lines[at]), len(lines))
    return lines[begun:end][-count:]


def _tail(path: Path, most_bytes: int) -> list[str]:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - most_bytes))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    return lines[1:] if size > most_bytes else lines


class LogReader:
    """What is added to a log, also over the turns of its files."""

    def __init__(self, path: Path, from_end: bool = False) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._splitter = LineSplitter()
        self._open()
        if from_end and self._stream is not None:
            self._stream.seek(0, os.SEEK_END)

    def _open(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._stream = self._path.open("rb")

    def new_lines(self) -> Iterator[str]:
        while True:
            if self._stream is None:
                self._open()
            if self._stream is None:
                return
            while piece := self._stream.read(2**16):
                for line in self._splitter.feed(piece):
                    yield line.decode("utf-8", "replace")
            if not self._is_turned():
                return
            self._stream.close()
            self._stream = None

    def _is_turned(self) -> bool:
        """Whether another file stands at the path, to go on with."""
        if self._stream is None:
            return False
        try:
            return os.fstat(self._stream.fileno()).st_ino != self._path.stat().st_ino
        except FileNotFoundError:
            return False
