"""The source of a conversion on its way through: shards fetched whole, verified, and gone again.

A conversion makes its output files in order, and each reads a few of the source's shards. So the
shards are fetched in the order of their first use, a bounded number at a time, by the workers that
download uses; nothing of a shard is read before the hash over all of it is right; and it is removed
when the last output file that reads it is finished.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dsdeploy.checkpoint.direct import Bytes
from dsdeploy.checkpoint.shard import LocalFile
from dsdeploy.hub.crew import Crew, Watch
from dsdeploy.hub.journal import ChunkJournal, read_chunks
from dsdeploy.hub.listing import RemoteFile
from dsdeploy.hub.origin import Origin
from dsdeploy.hub.pace import Pace
from dsdeploy.hub.part import PartFile
from dsdeploy.hub.retries import Retries

Needs = Sequence[tuple[str, frozenset[str]]]
"""Output files in their order, each with the source's files that it reads."""

_CONNECTIONS = 8
_JOURNAL = ".journal"


def bytes_at_once(needs: Needs, sizes: Mapping[str, int]) -> int:
    """Of source files that must be there together when outputs are made one after the other."""
    first, last = _uses(needs)
    alive = (
        sum(sizes[name] for name in first if first[name] <= place <= last[name])
        for place in range(len(needs))
    )
    return max(alive, default=0)


def _uses(needs: Needs) -> tuple[dict[str, int], dict[str, int]]:
    """Places of the first and the last output that reads each source file."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, (_, names) in enumerate(needs):
        for name in sorted(names):
            first.setdefault(name, place)
            last[name] = place
    return first, last


class _ClosedError(Exception):
    """Nobody reads any more."""


class Stage:
    """Supplies a HubStore's shards while a build goes on. It keeps `space` bytes at most, which
    are at least `bytes_at_once`, or the build would wait for ever."""

    lasting = False

    def __init__(
        self,
        origin: Origin,
        files: Mapping[str, RemoteFile],
        folder: Path,
        space: int,
        retries: Retries,
        watch: Watch,
    ) -> None:
        self._origin, self._files, self._folder = origin, files, folder
        self.space = space
        self._retries, self._watch = retries, watch
        self._changes = threading.Condition()
        self._needed_by: dict[str, set[str]] = {}
        self._admitted: dict[str, int] = {}
        self._ready: dict[str, LocalFile] = {}
        self._failure: BaseException | None = None
        self._crew: Crew | None = None

    def begin(self, needs: Needs) -> None:
        """Fetch what these outputs will read. What an earlier run has left is used again."""
        for output, names in needs:
            for name in names:
                self._needed_by.setdefault(name, set()).add(output)
        first, _ = _uses(needs)
        self._folder.mkdir(parents=True, exist_ok=True)
        come = read_chunks(self._folder / _JOURNAL).chunks
        paths = {name: self._folder / _part_name(name) for name in first}
        for path in self._folder.iterdir():
            if path not in {*paths.values(), self._folder / _JOURNAL}:
                path.unlink()
        self._journal = ChunkJournal(self._folder / _JOURNAL)
        files = [(self._files[name], path) for name, path in paths.items()]
        crew = Crew(
            *(self._origin, files, come, self._journal, self),
            *(self._retries, Pace(None), self._watch),
        )
        self._follower = threading.Thread(target=self._follow, args=(crew,), daemon=True)
        crew.start(_CONNECTIONS)
        self._follower.start()
        self._crew = crew  # last: an interrupt before this leaves nothing that `close` must end

    def admit(self, file: RemoteFile) -> bool:
        with self._changes:
            if sum(self._admitted.values()) + file.size > self.space:
                return False
            self._admitted[file.path] = file.size
            return True

    def land(self, part: PartFile) -> None:
        """Without a sync: after a loss of power its hash is taken anew."""
        data = LocalFile(part.path, part.file.size, part.path.stat().st_mtime_ns)
        with self._changes:
            self._ready[part.file.path] = data
            if part.file.path not in self._needed_by:
                self._remove(part.file.path)
            self._changes.notify_all()

    def read(self, file: RemoteFile, ranges: Iterable[tuple[Bytes, int]]) -> None:
        with self._changes:
            self._changes.wait_for(lambda: file.path in self._ready or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            data = self._ready[file.path]
        data.read(ranges)

    def finished(self, output: str) -> None:
        """An output is made: what only it still needed makes room. An output that an earlier run has
        written, and this one only verifies, is made without its shards, which may still be coming."""
        with self._changes:
            done = [name for name, outputs in self._needed_by.items() if outputs == {output}]
            for outputs in self._needed_by.values():
                outputs.discard(output)
            for name in done:
                del self._needed_by[name]
                if name in self._ready:
                    self._remove(name)
        if self._crew is not None:
            self._crew.wake()

    def _remove(self, name: str) -> None:
        self._ready.pop(name).path.unlink()
        self._journal.forget(name)
        self._admitted.pop(name)

    def abort(self) -> None:
        if self._crew is not None:
            self._crew.fail(_ClosedError())

    def close(self) -> None:
        """What has come stays for the next run, unless all of it has been used."""
        if self._crew is None:
            return
        self.abort()
        self._crew = None
        self._follower.join()
        self._journal.close()
        if not self._needed_by:
            shutil.rmtree(self._folder)

    def _follow(self, crew: Crew) -> None:
        try:
            crew.join()
        except BaseException as error:
            with self._changes:
                self._failure = error
                self._changes.notify_all()


def _part_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32] + ".part"
