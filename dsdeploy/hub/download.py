"""A download from its first question to its manifest. Killed at any moment, the same call goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dsdeploy.checkpoint.direct import sync_folder
from dsdeploy.checkpoint.manifest import Manifest
from dsdeploy.checkpoint.store import STAGING
from dsdeploy.errors import IntegrityError, UsageError
from dsdeploy.hub.crew import Crew
from dsdeploy.hub.folder import (
    JOURNAL,
    Begun,
    Held,
    Survey,
    adopt,
    clear_leftovers,
    conclude,
    holds,
    part_path,
    read_held,
    replacing,
    require_room,
    survey,
    working_on,
)
from dsdeploy.hub.journal import ChunkJournal
from dsdeploy.hub.listing import Listing, RemoteFile, choose
from dsdeploy.hub.pace import Pace
from dsdeploy.hub.part import PartFile
from dsdeploy.hub.retries import Retries
from dsdeploy.hub.source import Source, stays_at


@dataclass(frozen=True)
class Order:
    target: Path
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    overwrite: bool
    workers: int
    max_rate: int | None
    """Bytes a second."""
    retries: Retries

    @property
    def patterns(self) -> dict[str, list[str]]:
        return {"include": list(self.include), "exclude": list(self.exclude)}


class Bar(Protocol):
    def advance(self, nbytes: int, detail: str) -> None: ...


class Show(Protocol):
    """Where progress and remarks go."""

    def progress(self, verb: str, total: int) -> AbstractContextManager[Bar]: ...

    def remark(self, text: str) -> None: ...


@dataclass(frozen=True)
class Result:
    manifest: Manifest
    fetched_bytes: int
    retries: int


def download(source: Source, order: Order, show: Show) -> Result:
    target, held = order.target, read_held(order.target)
    identity = _settle(source, order, held, show)
    same = _of(held.manifest, identity)
    if same is not None and same.options == order.patterns and holds(same, target):
        clear_leftovers(held, target)
        return Result(same, 0, 0)
    begun = _wanted(source, identity, order)
    with working_on(target, begun):
        found = _surveyed(begun, order, same, show)
        require_room(found, target)
        return _fetch(source, begun, found, order, same, show)


def preview(source: Source, order: Order, show: Show) -> tuple[Begun, Survey]:
    """What `download` would fetch, and what is there; nothing is written."""
    held = read_held(order.target)
    identity = _settle(source, order, held, show)
    begun = _wanted(source, identity, order)
    return begun, survey(begun.listing, order.target, _of(held.manifest, identity))


def _of(manifest: Manifest | None, identity: Mapping[str, Any]) -> Manifest | None:
    return manifest if manifest is not None and manifest.source == identity else None


def _settle(source: Source, order: Order, held: Held, show: Show) -> Mapping[str, Any]:
    """Which content is meant: what was begun is finished, also when a branch has moved since."""
    now, before = source.identify(), held.source
    if before is None or before == now or order.overwrite:
        return now
    target = order.target
    if not stays_at(before, now, source.pinned):
        raise UsageError(
            f"{target} holds {_called(before)}, {'begun' if held.begun else 'whole'}.",
            "Give another --to, or --overwrite to replace it.",
        )
    show.remark(
        f"The branch has moved to {now['commit'][:12]} since; {target} stays at "
        f"{before['commit'][:12]}. For the new content, give another --to or --overwrite."
    )
    return before


def _called(source: Mapping[str, Any]) -> str:
    if "repository" in source:
        return f"{source['repository']} at {source['commit'][:12]}"
    return "a conversion"


def _wanted(source: Source, identity: Mapping[str, Any], order: Order) -> Begun:
    listing = source.listing(identity)
    files = choose(listing.files, order.include or source.default, order.exclude)
    if not files:
        raise UsageError(
            f"{_called(identity)} has no file of those that are wanted.",
            "See its page for their names; --include '*' takes all.",
        )
    return Begun(Listing(identity, files), **order.patterns)


def _surveyed(begun: Begun, order: Order, same: Manifest | None, show: Show) -> Survey:
    found = survey(begun.listing, order.target, same)
    if found.unknown:
        with show.progress("hash", sum(file.size for file in found.unknown)) as bar:
            found = adopt(found, order.target, order.workers, bar.advance)
    if found.in_the_way and not order.overwrite:
        name = found.in_the_way[0].path
        raise UsageError(
            f"{order.target / name} is there and is not what the source holds.",
            "Give another --to, or --overwrite to replace such files.",
        )
    return replacing(found)


def _fetch(
    source: Source, begun: Begun, found: Survey, order: Order, same: Manifest | None, show: Show
) -> Result:
    target = order.target
    with (
        closing(ChunkJournal(target / STAGING / JOURNAL)) as journal,
        show.progress("download", found.missing_bytes) as bar,
    ):
        for path, sha256 in found.whole.items():
            journal.whole(path, sha256)
        count = _Count(bar, show, len(begun.listing.files), len(found.whole))
        folder = _Landing(target, journal, count.landed)
        files = [(file, part_path(file.path, target)) for file in found.missing]
        origin = source.origin(begun.listing.source, order.workers)
        pace = Pace(order.max_rate)
        crew = Crew(origin, files, found.come, journal, folder, order.retries, pace, count)
        crew.start(order.workers)
        crew.join()
    hashes = {**found.whole, **folder.hashes}
    manifest = conclude(begun, hashes, same or source.manifest(), target)
    return Result(manifest, found.missing_bytes, count.retries)


class _Count:
    """The crew's watch: bytes, files and retries, on one line."""

    def __init__(self, bar: Bar, show: Show, files: int, whole: int) -> None:
        self._bar, self._show = bar, show
        self._files, self._whole, self.retries = files, whole, 0
        self._mutex = threading.Lock()

    def advance(self, nbytes: int, name: str) -> None:
        retries = f", {self.retries} retries" if self.retries else ""
        self._bar.advance(nbytes, f"{self._whole}/{self._files} files{retries}: {name}")

    def remark(self, text: str) -> None:
        self._show.remark(text)

    def retried(self) -> None:
        with self._mutex:
            self.retries += 1

    def landed(self) -> None:
        with self._mutex:
            self._whole += 1


class _Landing:
    """Where verified files get their names."""

    lasting = True

    def __init__(self, target: Path, journal: ChunkJournal, landed: Callable[[], None]) -> None:
        self._target, self._journal, self._landed = target, journal, landed
        self.hashes: dict[str, str] = {}

    def admit(self, file: RemoteFile) -> bool:
        return True

    def land(self, part: PartFile) -> None:
        path = self._target / part.file.path
        part.sync()
        _make_parents(self._target, part.file.path)
        part.path.replace(path)
        sync_folder(path.parent)
        self.hashes[part.file.path] = part.sha256
        self._journal.whole(part.file.path, part.sha256)
        self._landed()


def _make_parents(target: Path, path: str) -> None:
    """Never through a link, which could lead anywhere."""
    folder = target
    for name in path.split("/")[:-1]:
        folder = folder / name
        if folder.is_symlink():
            raise IntegrityError(
                f"{folder} is a link, and {path} would be written through it.",
                "Remove the link, or give another --to.",
            )
        folder.mkdir(exist_ok=True)
