"""A folder into which a download comes: what is in it, by our books and by its bytes.

While it comes, `TARGET/.dsdeploy` holds the listing that is being fetched, the parts, and the
journal of their chunks. Each file gets its name when its hash is right, MANIFEST.json comes last:
a folder with a manifest is whole.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dsdeploy import __version__
from dsdeploy.checkpoint.direct import free_bytes, read_windows, sync_folder, write_durably
from dsdeploy.checkpoint.locks import WorkLock
from dsdeploy.checkpoint.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    read_manifest,
    render_manifest,
)
from dsdeploy.checkpoint.store import STAGING
from dsdeploy.errors import DeployError, DiskError, UsageError
from dsdeploy.hub.journal import ChunkJournal, read_chunks
from dsdeploy.hub.listing import Listing, RemoteFile, git_hash, parse_listing, render_listing
from dsdeploy.hub.part import CHUNK
from dsdeploy.units import format_bytes

_LISTING = ".download.json"
JOURNAL = ".download.journal"
_LOCK = ".download.lock"
_WINDOW = 4 << 20


@dataclass(frozen=True)
class Begun:
    """A download that has not come to its end."""

    listing: Listing
    include: list[str]
    exclude: list[str]

    @property
    def options(self) -> dict[str, list[str]]:
        """As a manifest says them."""
        return {"include": self.include, "exclude": self.exclude}


@dataclass(frozen=True)
class Held:
    """What a folder holds already: a download under way, a whole one, or neither."""

    begun: Begun | None
    manifest: Manifest | None

    @property
    def source(self) -> Mapping[str, Any] | None:
        if self.begun is not None:
            return self.begun.listing.source
        return self.manifest.source if self.manifest else None


def read_held(target: Path) -> Held:
    if not target.is_dir():
        return Held(None, None)
    path = target / STAGING / _LISTING
    begun = Begun(*parse_listing(path.read_text(encoding="utf-8"))) if path.exists() else None
    return Held(begun, read_manifest(target))


@dataclass(frozen=True)
class Survey:
    """What of a listing is in the folder."""

    whole: Mapping[str, str]
    """File -> sha256, by our own books."""
    unknown: tuple[RemoteFile, ...]
    """Files of the right size that we have not written: to be hashed."""
    in_the_way: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]
    come: Mapping[str, set[int]] = field(default_factory=dict)
    """Chunks of the missing ones."""

    @property
    def missing_bytes(self) -> int:
        """Without the chunks that have come."""
        return sum(file.size for file in self.missing) - sum(
            min(CHUNK, file.size - chunk * CHUNK)
            for file in self.missing
            for chunk in self.come.get(file.path, ())
        )


def survey(listing: Listing, target: Path, manifest: Manifest | None) -> Survey:
    come = read_chunks(target / STAGING / JOURNAL)
    known = {name: record.sha256 for name, record in manifest.files.items()} if manifest else {}
    known |= come.whole
    whole: dict[str, str] = {}
    unknown: list[RemoteFile] = []
    in_the_way: list[RemoteFile] = []
    missing: list[RemoteFile] = []
    for file in listing.files:
        path = target / file.path
        if not path.is_file():
            (in_the_way if path.exists() else missing).append(file)
        elif path.stat().st_size != file.size:
            in_the_way.append(file)
        elif file.path in known and file.sha256 in (None, known[file.path]):
            whole[file.path] = known[file.path]
        else:
            unknown.append(file)
    # A file that has landed, and is gone since, has no part any more.
    parts = {
        name: chunks for name, chunks in come.chunks.items() if part_path(name, target).exists()
    }
    return Survey(whole, tuple(unknown), tuple(in_the_way), tuple(missing), parts)


def adopt(found: Survey, target: Path, workers: int, advance: Callable[[int, str], None]) -> Survey:
    """Files that somebody else has put there are read, and are ours when their hash is right."""

    def sha256_if_right(file: RemoteFile) -> str | None:
        sha256, git = hashlib.sha256(), git_hash(file.size)
        for _, window in read_windows(target / file.path, file.size, _WINDOW):
            sha256.update(window.data)
            git.update(window.data)
            advance(len(window), file.path)
        right = file.sha256 in (None, sha256.hexdigest()) and file.git_oid in (
            None,
            git.hexdigest(),
        )
        return sha256.hexdigest() if right else None

    with ThreadPoolExecutor(workers) as pool:
        hashes = list(pool.map(sha256_if_right, found.unknown))
    whole, wrong = dict(found.whole), list(found.in_the_way)
    for file, sha256 in zip(found.unknown, hashes, strict=True):
        if sha256 is None:
            wrong.append(file)
        else:
            whole[file.path] = sha256
    return Survey(whole, (), tuple(wrong), found.missing, found.come)


def replacing(found: Survey) -> Survey:
    """What is in the way is fetched as well, and put in its place."""
    missing = (*found.missing, *found.in_the_way)
    return Survey(found.whole, (), (), missing, found.come)


@contextmanager
def working_on(target: Path, begun: Begun) -> Iterator[None]:
    """Hold the folder for one download, and write down what it is for. What has come stays when
    other files of the same commit are wanted now."""
    staging = target / STAGING
    if (staging / ".plan.json").exists():
        raise UsageError(
            f"{target} holds an unfinished conversion.", "Finish that first, or give another --to."
        )
    staging.mkdir(parents=True, exist_ok=True)
    with closing(WorkLock(staging / _LOCK)):
        held = read_held(target)
        if held.source != begun.listing.source:
            _clear_other(held.manifest, begun.listing, target)
        if held.begun != begun:
            text = render_listing(begun.listing, begun.include, begun.exclude)
            write_durably(staging / _LISTING, text)
        yield


def clear_leftovers(held: Held, target: Path) -> None:
    """What a run that ended between its manifest and its end has left of its work. What a later
    one has begun, with other patterns, stays."""
    staging, begun, manifest = target / STAGING, held.begun, held.manifest
    if not staging.exists() or (staging / ".plan.json").exists() or manifest is None:
        return
    if begun is not None and begun.options != manifest.options:
        return
    with suppress(DeployError), closing(WorkLock(staging / _LOCK)):
        shutil.rmtree(staging, ignore_errors=True)


def _clear_other(manifest: Manifest | None, listing: Listing, target: Path) -> None:
    """Another content is to come: the mark of a whole folder goes first, then the files that
    belong to the old content alone, which an engine would load as well."""
    staging = target / STAGING
    if manifest is not None:
        _take_back(manifest, target)
    kept = {file.path for file in listing.files}
    for name in read_chunks(staging / JOURNAL).whole.keys() - kept:
        (target / name).unlink(missing_ok=True)
    for path in staging.iterdir():
        if path.name != _LOCK:
            path.unlink()


def _take_back(manifest: Manifest, target: Path) -> None:
    """Make a whole folder one that lacks its manifest alone. So whoever comes after a kill still
    knows whose its files are."""
    files = (
        RemoteFile(name, each.size, each.sha256, None) for name, each in manifest.files.items()
    )
    patterns = (manifest.options.get(name, ()) for name in ("include", "exclude"))
    text = render_listing(Listing(manifest.source, tuple(files)), *patterns)
    with closing(ChunkJournal(target / STAGING / JOURNAL)) as journal:
        for name, record in manifest.files.items():
            journal.whole(name, record.sha256)
    write_durably(target / STAGING / _LISTING, text)
    (target / MANIFEST_NAME).unlink()
    sync_folder(target)


def require_room(found: Survey, target: Path) -> None:
    """Raises DiskError when what is missing does not fit."""
    needed = sum(_unwritten(file, target) for file in found.missing)
    free = free_bytes(target)
    if needed > free:
        raise DiskError(
            f"{target} has {format_bytes(free)} free and {format_bytes(needed)} are to come.",
            "Free some space, or give --to another disk.",
        )


def _unwritten(file: RemoteFile, target: Path) -> int:
    part = part_path(file.path, target)
    held = part.stat().st_blocks * 512 if part.exists() else 0
    return max(0, file.size - held)


def part_path(path: str, target: Path) -> Path:
    """Of a file of the repository: a name that no path can be too long for."""
    digest = hashlib.sha256(path.encode()).hexdigest()
    return target / STAGING / f".{digest[:32]}.part"


def conclude(
    begun: Begun, hashes: Mapping[str, str], before: Manifest | None, target: Path
) -> Manifest:
    """Write the manifest, the mark of a whole folder, and clear what the work has left. `before`
    is the manifest of the same content that this one adds to, or that came with a copied folder."""
    sizes = {file.path: file.size for file in begun.listing.files}
    records = {path: FileRecord(sizes[path], sha256) for path, sha256 in hashes.items()}
    manifest = Manifest(__version__, begun.options, begun.listing.source, records, {})
    if before is not None:
        present = {n: r for n, r in before.files.items() if (target / n).is_file()}
        manifest = replace(before, options=begun.options, files=present | records)
    write_durably(target / MANIFEST_NAME, render_manifest(manifest).encode())
    sync_folder(target)
    shutil.rmtree(target / STAGING, ignore_errors=True)
    return manifest


def holds(manifest: Manifest, target: Path) -> bool:
    """Whether all that it names is there, by name and size."""
    return all(
        (target / name).is_file() and (target / name).stat().st_size == record.size
        for name, record in manifest.files.items()
    )


def find_damage(
    manifest: Manifest, target: Path, workers: int, advance: Callable[[int, str], None]
) -> list[str]:
    """What is wrong with the files that it names, read again from the disk; a sentence each."""

    def damage(name: str) -> str | None:
        path, record = target / name, manifest.files[name]
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != record.size:
            return f"{name} has {path.stat().st_size:,} bytes, not {record.size:,}"
        sha256 = hashlib.sha256()
        for _, window in read_windows(path, record.size, _WINDOW):
            sha256.update(window.data)
            advance(len(window), name)
        return None if sha256.hexdigest() == record.sha256 else f"{name} has other bytes"

    with ThreadPoolExecutor(workers) as pool:
        return [each for each in pool.map(damage, sorted(manifest.files)) if each]
