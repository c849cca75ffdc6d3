"""The workers that fill planned files: windows in any order, hashes in the order of the bytes.

A window is 16 MiB of a file. A worker makes it in its own buffer, takes its turn at the file's
hash and at the tensors' hashes, writes it, and notes it in the journal. Workers begin a file each;
when no file is left they help with those begun.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dsdeploy.building.journal import FinishedFile, Journal, Windows
from dsdeploy.building.layout import PlannedFile
from dsdeploy.building.sources import Sources
from dsdeploy.checkpoint.direct import Bytes, DirectFile, aligned_buffer

WINDOW = 16 << 20

Advance = Callable[[int, str], None]


class _AbortedError(Exception):
    """Another worker failed; its error is the one to show."""


class _Turns:
    """Lets threads through in the order of their numbers."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._next = 0
        self._aborted = False

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: self._aborted or self._next == number)
            if self._aborted:
                raise _AbortedError
        yield
        with self._condition:
            self._next += 1
            self._condition.notify_all()

    def abort(self) -> None:
        with self._condition:
            self._aborted = True
            self._condition.notify_all()


class _OpenFile:
    """One file being written."""

    def __init__(self, plan: PlannedFile, folder: Path, done: Mapping[int, str]) -> None:
        self.plan = plan
        self.done = done
        self.count = -(-plan.size // WINDOW)
        self.claimed = 0
        self.written = 0
        self.output = DirectFile(folder / plan.name, plan.size)
        self.file_turns, self.tensor_turns = _Turns(), _Turns()
        self._file_hash = hashlib.sha256()
        self._tensor_hash = hashlib.sha256()
        self._tensors: dict[str, str] = {}

    def span(self, window: int) -> tuple[int, int]:
        start = window * WINDOW
        return start, min(WINDOW, self.plan.size - start)

    def make(self, window: int, buffer: Bytes) -> tuple[str, bool]:
        """Fill the buffer and hash it; (the file's sha256 up to here, whether it is on disk)."""
        start, length = self.span(window)
        expected = self.done.get(window)
        on_disk = expected is not None and self.output.read(buffer, length, start)
        if not on_disk:
            self.plan.fill(buffer[:length], start)
        with self.file_turns.turn(window):
            running = self._file_hash.copy()
            running.update(buffer.data[:length])
            if on_disk and running.hexdigest() != expected:
                on_disk = False
                self.plan.fill(buffer[:length], start)
                running = self._file_hash.copy()
                running.update(buffer.data[:length])
            self._file_hash = running
            digest = running.hexdigest()
        with self.tensor_turns.turn(window):
            self._hash_tensors(buffer, start, length)
        return digest, on_disk

    def _hash_tensors(self, buffer: Bytes, start: int, length: int) -> None:
        for tensor, offset, position, count in self.plan.pieces(start, start + length):
            if offset == 0:
                self._tensor_hash = hashlib.sha256()
            self._tensor_hash.update(buffer.data[position - start :][:count])
            if offset + count == tensor.nbytes:
                self._tensors[tensor.name] = self._tensor_hash.hexdigest()

    def record(self) -> FinishedFile:
        empty = hashlib.sha256().hexdigest()
        tensors = {
            tensor.name: self._tensors.get(tensor.name, empty) for tensor in self.plan.tensors
        }
        return FinishedFile(self._file_hash.hexdigest(), tensors)

    def abort(self) -> None:
        self.file_turns.abort()
        self.tensor_turns.abort()


class _Crew:
    """What the workers share."""

    def __init__(
        self,
        files: Sequence[PlannedFile],
        folder: Path,
        done: Windows,
        journal: Journal,
        advance: Advance,
        sources: Sources,
    ) -> None:
        self._waiting = list(reversed(files))
        self._open: list[_OpenFile] = []
        self._mutex = threading.Lock()
        self._folder, self._done = folder, done
        self._journal, self._advance, self._sources = journal, advance, sources
        self.failure: BaseException | None = None

    def claim(self, own: _OpenFile | None) -> tuple[_OpenFile, int] | None:
        """The next window to make: of one's own file, of a new one, or of another's."""
        with self._mutex:
            if self.failure is not None:
                return None
            file = own if own is not None and own.claimed < own.count else None
            if file is None and self._waiting:
                plan = self._waiting.pop()
                file = _OpenFile(plan, self._folder, self._done.get(plan.name, {}))
                self._open.append(file)
            if file is None:
                rest = [one for one in self._open if one.claimed < one.count]
                if not rest:
                    return None
                file = max(rest, key=lambda one: one.count - one.claimed)
            file.claimed += 1
            return file, file.claimed - 1

    def work(self) -> None:
        buffer = aligned_buffer(WINDOW)
        file: _OpenFile | None = None
        try:
            while (claim := self.claim(file)) is not None:
                file, window = claim
                self._window(file, window, buffer)
        except _AbortedError:
            pass
        except BaseException as error:
            self.fail(error)

    def _window(self, file: _OpenFile, window: int, buffer: Bytes) -> None:
        start, length = file.span(window)
        digest, on_disk = file.make(window, buffer)
        if not on_disk:
            file.output.write(buffer, length, start)
            self._journal.window(file.plan.name, window, digest)
        with self._mutex:
            file.written += 1
            last = file.written == file.count
        first = next(iter(file.plan.pieces(start, start + length)), None)
        self._advance(length, first[0].name if first else file.plan.name)
        if last:
            file.output.finish()
            self._journal.finished(file.plan.name, file.record())
            self._sources.finished(file.plan.name)
            with self._mutex:
                self._open.remove(file)
            file.output.close()

    def close(self) -> None:
        for file in self._open:
            file.output.close()

    def fail(self, error: BaseException) -> None:
        with self._mutex:
            self.failure = self.failure or error
            for file in self._open:
                file.abort()
        self._sources.abort()


def write_files(
    files: Sequence[PlannedFile],
    folder: Path,
    done: Windows,
    journal: Journal,
    workers: int,
    advance: Advance,
    sources: Sources,
) -> None:
    """Fill `files` in `folder`; windows that are `done` are read back and verified instead.

    Raises the first error of any worker; everything the journal has noted stays.
    """
    crew = _Crew(files, folder, done, journal, advance, sources)
    threads = [threading.Thread(target=crew.work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt as interrupt:
        crew.fail(interrupt)
        for thread in threads:
            thread.join()
    if crew.failure is not None:
        crew.close()
        raise crew.failure
