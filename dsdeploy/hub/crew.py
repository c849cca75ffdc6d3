"""The workers that fetch files: the chunks of one file after those of another, in order.

So files become whole one after the other, several connections work on each, and no more files are
open than workers. A worker that has fetched a chunk goes on with its file's hash as far as that
can go; the one that comes to the end lets the file land.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dsdeploy.errors import DeployError, ExitCode, IntegrityError
from dsdeploy.hub.journal import ChunkJournal
from dsdeploy.hub.listing import RemoteFile
from dsdeploy.hub.origin import ContentChangedError, Origin
from dsdeploy.hub.pace import Pace
from dsdeploy.hub.part import PartFile
from dsdeploy.hub.retries import Retries, TransientError

_PASSES = 5
"""So often may a file begin again before it is given up."""


class Harbour(Protocol):
    """What becomes of the files."""

    lasting: bool
    """Whether they are kept; see PartFile."""

    def admit(self, file: RemoteFile) -> bool:
        """Whether there is room to begin this file now; asked again after `Crew.wake`."""

    def land(self, part: PartFile) -> None:
        """The file is whole and verified."""


class Watch(Protocol):
    """Who is told what; called from the workers' threads."""

    def advance(self, nbytes: int, name: str) -> None:
        """Bytes that have come, and of which file."""

    def remark(self, text: str) -> None: ...

    def retried(self) -> None: ...


class _StoppedError(Exception):
    """Another worker failed; its error is the one to show."""


class _RangesIgnoredError(Exception):
    """The server sends the whole file whatever is asked for."""


class _Fetch:
    """One file under way; changed under the crew's lock alone."""

    def __init__(self, part: PartFile) -> None:
        self.part = part
        self.passes = 0
        self.first_states: list[bytes] | None = None
        """The hash's states of a pass that ended wrong."""
        self.begin()

    def begin(self) -> None:
        self.unclaimed = [chunk for chunk in range(self.part.count) if chunk not in self.part.done]
        self.in_flight = 0
        self.again = ""
        """Why it must begin again, once nobody works on it."""
        self.one_stream = False
        """The server knows no ranges: one connection fetches all that is missing."""

    def claim(self) -> range | None:
        """Chunks for one request."""
        if self.again or not self.unclaimed or (self.one_stream and self.in_flight):
            return None
        self.in_flight += 1
        first = self.unclaimed.pop(0)
        if not self.one_stream:
            return range(first, first + 1)
        self.unclaimed.clear()
        return range(first, self.part.count)

    def give_back(self, chunks: range) -> None:
        missing = {chunk for chunk in chunks if chunk not in self.part.done}
        self.unclaimed = sorted({*self.unclaimed, *missing})


class Crew:
    def __init__(
        self,
        origin: Origin,
        files: Sequence[tuple[RemoteFile, Path]],
        done: Mapping[str, set[int]],
        journal: ChunkJournal,
        harbour: Harbour,
        retries: Retries,
        pace: Pace,
        watch: Watch,
    ) -> None:
        self._origin, self._journal, self._harbour = origin, journal, harbour
        self._retries, self._pace, self._watch = retries, pace, watch
        self._waiting = list(reversed(files))
        self._done = done
        self._fetches: list[_Fetch] = []
        self._changes = threading.Condition()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def start(self, workers: int) -> None:
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all files have landed; raises the first error of any worker."""
        try:
            for thread in self._threads:
                thread.join()
        except KeyboardInterrupt as interrupt:
            self.fail(interrupt)
            for thread in self._threads:
                thread.join()
        for fetch in self._fetches:
            fetch.part.close()
        if self._failure is not None:
            raise self._failure

    def wake(self) -> None:
        """There may be room for another file now."""
        with self._changes:
            self._changes.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changes:
            self._failure = self._failure or error
            self._stopping.set()
            self._changes.notify_all()
        self._origin.abort()

    def _work(self) -> None:
        try:
            while (claim := self._claim()) is not None:
                fetch, chunks = claim
                self._fetch(fetch, chunks)
                if fetch.part.hash_what_is_there() or fetch.part.count == 0:
                    self._finish(fetch)
                self._release(fetch)
        except _StoppedError:
            pass
        except BaseException as error:
            self.fail(error)

    def _claim(self) -> tuple[_Fetch, range] | None:
        """Chunks of a file under way, or of a new one; None when nothing is left to do."""
        with self._changes:
            while not self._stopping.is_set():
                for fetch in self._fetches:
                    chunks = fetch.claim()
                    if chunks is not None:
                        return fetch, chunks
                if self._waiting and self._harbour.admit(self._waiting[-1][0]):
                    return self._open(*self._waiting.pop())
                if not self._waiting and not self._fetches:
                    return None
                self._changes.wait()
            raise _StoppedError

    def _open(self, file: RemoteFile, path: Path) -> tuple[_Fetch, range]:
        fetch = _Fetch(PartFile(path, file, self._done.get(file.path, ()), self._harbour.lasting))
        self._fetches.append(fetch)
        self._changes.notify_all()
        chunks = fetch.claim()
        if chunks is None:  # all of it has come already, and is only to be hashed
            fetch.in_flight += 1
        return fetch, chunks or range(0)

    def _release(self, fetch: _Fetch) -> None:
        with self._changes:
            fetch.in_flight -= 1
            if fetch.again and not fetch.in_flight:
                self._begin_again(fetch)
            self._changes.notify_all()

    def _begin_again(self, fetch: _Fetch) -> None:
        part = fetch.part
        fetch.passes += 1
        if fetch.passes == _PASSES:
            raise DeployError(
                f"{part.file.path}: {fetch.again}, {_PASSES} times.",
                "Try again later, or another --endpoint.",
                ExitCode.NETWORK,
            )
        self._watch.remark(f"{part.file.path}: {fetch.again}; it is fetched again.")
        come = sum(stop - start for start, stop in map(part.span, part.done))
        self._watch.advance(-come, part.file.path)
        self._journal.forget(part.file.path)
        part.begin_again()
        fetch.begin()

    def _fetch(self, fetch: _Fetch, chunks: range) -> None:
        """Their bytes, over as many requests as it takes."""
        taking, failures = _Taking(fetch.part, chunks), 0
        try:
            while taking.chunks:
                before = taking.position
                try:
                    self._stream(fetch, taking)
                except TransientError as fault:
                    failures = 1 if taking.position > before else failures + 1
                    self._pause(fetch.part.file, failures, fault)
        except ContentChangedError:
            with self._changes:
                fetch.again = "its content changed while it came"
        except _RangesIgnoredError:
            with self._changes:
                fetch.one_stream = True
                fetch.give_back(taking.chunks)

    def _stream(self, fetch: _Fetch, taking: _Taking) -> None:
        part, stop = fetch.part, taking.stop
        with self._origin.stream(part.file, taking.position, stop) as stream:
            if stream.start < taking.position and not fetch.one_stream:
                raise _RangesIgnoredError
            at = stream.start
            for piece in stream.pieces:
                useful = memoryview(piece)[max(0, taking.position - at) : stop - at]
                at += len(piece)
                if useful:
                    part.write(useful, taking.position)
                    for chunk in taking.advance(len(useful)):
                        part.done.add(chunk)
                        self._journal.chunk(part.file.path, chunk)
                    self._watch.advance(len(useful), part.file.path)
                self._rest(self._pace.wait(len(piece)))
                if not taking.chunks:
                    return
        raise TransientError("the answer ended early")

    def _pause(self, file: RemoteFile, failures: int, fault: TransientError) -> None:
        seconds = self._retries.wait_or_give_up(file.path, failures, fault)
        self._watch.retried()
        self._watch.advance(0, file.path)
        self._rest(seconds)

    def _rest(self, seconds: float) -> None:
        if self._stopping.wait(seconds) if seconds else self._stopping.is_set():
            raise _StoppedError

    def _finish(self, fetch: _Fetch) -> None:
        part, first = fetch.part, fetch.first_states
        if not part.is_right():
            if part.count == 0:
                raise IntegrityError(
                    f"{part.file.path} is empty, and the repository states another hash.",
                    "Fetch it from the Hub itself, or from another --endpoint.",
                )
            if first is not None:
                raise _wrong_twice(part, first)
            with self._changes:
                fetch.first_states = part.states
                fetch.again = "its hash is not the one that the repository states"
            return
        if first is not None:
            low, high = _first_difference(part, first)
            self._watch.remark(
                f"{part.file.path} is right now; bytes {low} to {high} had not been."
            )
        self._harbour.land(part)
        with self._changes:
            fetch.again = ""  # what went wrong at the end of a stream was not needed any more
            self._fetches.remove(fetch)
        part.close()


class _Taking:
    """How far one worker has come with its chunks."""

    def __init__(self, part: PartFile, chunks: range) -> None:
        self._part, self.chunks = part, chunks
        self.position, self.stop = 0, 0
        if chunks:
            self.position, self.stop = part.span(chunks[0])[0], part.span(chunks[-1])[1]

    def advance(self, nbytes: int) -> Iterator[int]:
        """The chunks that are whole now."""
        self.position += nbytes
        while self.chunks and self.position >= self._part.span(self.chunks[0])[1]:
            chunk, self.chunks = self.chunks[0], self.chunks[1:]
            yield chunk


def _first_difference(part: PartFile, first: list[bytes]) -> tuple[int, int]:
    """Bytes of the first chunk in which this pass differs from the first one."""
    differ = (
        chunk for chunk, pair in enumerate(zip(part.states, first, strict=True)) if len({*pair}) > 1
    )
    start, stop = part.span(next(differ, 0))
    return start, stop - 1


def _wrong_twice(part: PartFile, first: list[bytes]) -> IntegrityError:
    name = part.file.path
    if part.states == first:
        return IntegrityError(
            f"{name} came twice with the same bytes, and their hash is not the one that the "
            "repository states: the server's copy is damaged.",
            "Fetch it from the Hub itself, or from another --endpoint.",
        )
    low, high = _first_difference(part, first)
    return IntegrityError(
        f"{name} came twice with a wrong hash, and bytes {low} to {high} differed: what lies "
        "between the server and this disk damages data.",
        "Check this machine's memory, disk and network, then run the same command again.",
    )
