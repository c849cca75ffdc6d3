"""From a plan to a finished checkpoint: stage, fill, check, commit.

Everything is made in `TARGET/.dsdeploy` and renamed into place at the end, MANIFEST.json last:
a target with a manifest is whole, one without is not. Killed at any moment, the same call goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsdeploy import __version__
from dsdeploy.checkpoint.direct import DirectFile, aligned_buffer, sync_folder, write_durably
from dsdeploy.checkpoint.index import INDEX_NAME, render_index
from dsdeploy.checkpoint.journal import FinishedFile, Journal, load_journals
from dsdeploy.checkpoint.layout import PlannedFile
from dsdeploy.checkpoint.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    read_manifest,
    render_manifest,
)
from dsdeploy.checkpoint.writer import WINDOW, Advance, write_files
from dsdeploy.errors import DeployError, DiskError, IntegrityError, UsageError
from dsdeploy.units import format_bytes

STAGING = ".dsdeploy"


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `count`, each of which fills whole files."""

    index: int = 1
    count: int = 1


@dataclass(frozen=True)
class BuildPlan:
    """A whole output."""

    files: tuple[PlannedFile, ...]
    texts: Mapping[str, str]
    """Small files beside the weights, by content."""
    copies: Mapping[str, Path]
    """Files carried over from the source."""
    options: Mapping[str, Any]
    source: Mapping[str, Any]
    with_index: bool = True
    stamps: Mapping[str, int] = field(default_factory=dict)
    """Modification times of the source: they tell that it changed between two runs, and stay out
    of the manifest, which is the same on every machine."""

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)

    def fingerprint(self, count: int) -> str:
        """What two calls must share to work on one output, in `count` parts."""
        identity = [
            __version__,
            WINDOW,
            count,
            dict(self.options),
            dict(self.source),
            dict(self.stamps),
            dict(self.texts),
            [[file.name, file.size, hashlib.sha256(file.header).hexdigest()] for file in self.files],
        ]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    already_complete: bool
    committed: bool
    """False when other parts still have to finish."""
    files: int
    nbytes: int


def files_of_part(files: tuple[PlannedFile, ...], part: Part) -> list[PlannedFile]:
    """Whole files, the largest first to the part that has least: loads balanced by bytes."""
    loads = [0] * part.count
    mine: set[str] = set()
    for file in sorted(files, key=lambda file: (-file.size, file.name)):
        lightest = loads.index(min(loads))
        loads[lightest] += file.size
        if lightest == part.index - 1:
            mine.add(file.name)
    return [file for file in files if file.name in mine]


def build(
    plan: BuildPlan,
    target: Path,
    *,
    part: Part,
    workers: int,
    overwrite: bool,
    check: bool,
    progress: Callable[[str, int], Any],
) -> Outcome:
    """Make the output. `progress(verb, bytes)` gives a context with `advance(bytes, detail)`."""
    staging = target / STAGING
    fingerprint = plan.fingerprint(part.count)
    mine = files_of_part(plan.files, part)
    if not staging.exists() and not overwrite and _is_complete(plan, target):
        return Outcome(True, True, len(plan.files), plan.nbytes)
    _prepare(plan, target, staging, fingerprint, part, overwrite)
    try:
        journal = Journal(staging / f"part-{part.index}-of-{part.count}.journal")
    except FileNotFoundError:  # another part has committed meanwhile
        return Outcome(True, True, len(plan.files), plan.nbytes)
    try:
        done = load_journals(sorted(staging.glob("*.journal")))
        _require_space(mine, staging)
        with progress("write", sum(file.size for file in mine)) as bar:
            write_files(mine, staging, done, journal, workers, bar.advance)
        if check and not (staging / "commit.json").exists():
            with progress("check", sum(file.size for file in mine)) as bar:
                records = load_journals(sorted(staging.glob("*.journal"))).files
                _check_files(mine, staging, records, workers, bar.advance)
        committed = _commit(plan, target, staging)
    finally:
        journal.close()
    return Outcome(False, committed, len(mine), sum(file.size for file in mine))


def _is_complete(plan: BuildPlan, target: Path) -> bool:
    manifest = read_manifest(target) if target.is_dir() else None
    if manifest is None:
        return False
    same = (manifest.options, manifest.source) == (dict(plan.options), dict(plan.source))
    return same and all(
        (target / name).is_file() and (target / name).stat().st_size == record.size
        for name, record in manifest.files.items()
    )


def _prepare(
    plan: BuildPlan, target: Path, staging: Path, fingerprint: str, part: Part, overwrite: bool
) -> None:
    marker = staging / "plan.json"
    if not staging.exists() and target.is_dir() and any(target.iterdir()) and not overwrite:
        raise UsageError(
            f"{target} is not empty.", "Give another folder, or --overwrite to replace it."
        )
    if not staging.exists():
        _require_space(list(plan.files), target)
    staging.mkdir(parents=True, exist_ok=True)
    with _lock(staging):
        known = json.loads(marker.read_text()) if marker.exists() else None
        if known is not None and known["fingerprint"] != fingerprint:
            _refuse_or_clear(target, staging, known, part, overwrite)
            known = None
        if known is None:
            record = {"fingerprint": fingerprint, "parts": part.count}
            write_durably(marker, json.dumps(record).encode())


def _refuse_or_clear(
    target: Path, staging: Path, known: Mapping[str, Any], part: Part, overwrite: bool
) -> None:
    if not overwrite:
        why = "another source, other options or another version of dsdeploy"
        if known["parts"] != part.count:
            why = f"{known['parts']} part(s), not {part.count}"
        raise UsageError(
            f"{target} holds an unfinished output that was begun with {why}.",
            "Repeat the first command to go on, or give --overwrite to begin again.",
        )
    for path in staging.iterdir():
        if path.name != "lock":
            path.unlink()


@contextmanager
def _lock(staging: Path) -> Iterator[None]:
    descriptor = os.open(staging / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Space that a user without privileges can fill, where `folder` is or will be."""
    while not folder.exists():
        folder = folder.parent
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _require_space(files: list[PlannedFile], folder: Path) -> None:
    def missing(file: PlannedFile) -> int:
        path = folder / file.name
        held = path.stat().st_blocks * 512 if path.exists() else 0
        return max(0, file.size - held)

    needed, free = sum(map(missing, files)), free_bytes(folder)
    if needed > free:
        raise DiskError(
            f"{folder} has {format_bytes(free)} free and the output needs {format_bytes(needed)}.",
            "Free some space or give a target on another disk.",
        )


def _check_files(
    files: list[PlannedFile],
    folder: Path,
    records: Mapping[str, FinishedFile],
    workers: int,
    advance: Advance,
) -> None:
    """Read everything again, from the disk, and compare with the hashes taken while writing."""

    def check(file: PlannedFile) -> None:
        buffer, running = aligned_buffer(WINDOW), hashlib.sha256()
        stored = DirectFile(folder / file.name, file.size)
        try:
            for start in range(0, file.size, WINDOW):
                length = min(WINDOW, file.size - start)
                whole = stored.read(buffer, length, start)
                running.update(memoryview(buffer)[: length if whole else 0])
                advance(length, file.name)
            stored.finish()
        finally:
            stored.close()
        if running.hexdigest() != records[file.name].sha256:
            (folder / file.name).unlink()
            raise IntegrityError(
                f"{file.name} reads back other bytes than were written: the disk or the memory "
                "of this machine is damaged.",
                "Check the machine's logs, then run the same command: the file is made again.",
            )

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(check, files))


def _commit(plan: BuildPlan, target: Path, staging: Path) -> bool:
    """Rename everything into place when every part is done; the last one to finish does it."""
    try:
        with _lock(staging):
            order = staging / "commit.json"
            if not order.exists():
                done = load_journals(sorted(staging.glob("*.journal"))).files
                if any(file.name not in done for file in plan.files):
                    return False
                names = _write_companions(plan, staging, done)
                stale = _stale_files(target, names)
                write_durably(order, json.dumps({"names": names, "stale": stale}).encode())
                sync_folder(staging)
            _rename_all(target, staging, json.loads(order.read_text()))
    except FileNotFoundError:
        # Another part committed between our last file and the lock.
        if not (target / MANIFEST_NAME).exists():
            raise
    return True


def _write_companions(
    plan: BuildPlan, staging: Path, done: Mapping[str, FinishedFile]
) -> list[str]:
    """Config, tokenizer, index and manifest beside the staged weights; all names, manifest last."""
    texts = dict(plan.texts)
    if plan.with_index:
        weight_map = {t.name: file.name for file in plan.files for t in file.tensors}
        total = sum(t.nbytes for file in plan.files for t in file.tensors)
        texts[INDEX_NAME] = render_index(weight_map, total)
    records = {file.name: FileRecord(file.size, done[file.name].sha256) for file in plan.files}
    contents = {name: text.encode() for name, text in texts.items()}
    for name, path in plan.copies.items():
        contents[name] = path.read_bytes()
    for name, content in contents.items():
        write_durably(staging / name, content)
        records[name] = FileRecord(len(content), hashlib.sha256(content).hexdigest())
    manifest = Manifest(
        version=__version__,
        options=dict(plan.options),
        source=dict(plan.source),
        files=records,
        tensors={file.name: dict(done[file.name].tensors) for file in plan.files},
    )
    write_durably(staging / MANIFEST_NAME, render_manifest(manifest).encode())
    return [*records, MANIFEST_NAME]


def _stale_files(target: Path, names: list[str]) -> list[str]:
    """Weights and index of an earlier checkpoint in the target, which no loader may find."""
    return sorted(
        path.name
        for path in target.iterdir()
        if path.name not in names
        and (path.name.endswith(".safetensors") or path.name in (INDEX_NAME, MANIFEST_NAME))
    )


def _rename_all(target: Path, staging: Path, order: Mapping[str, list[str]]) -> None:
    old_manifest = target / MANIFEST_NAME
    if (staging / MANIFEST_NAME).exists():
        old_manifest.unlink(missing_ok=True)
    for name in order["stale"]:
        (target / name).unlink(missing_ok=True)
    for name in order["names"]:
        if (staging / name).exists():
            if name == MANIFEST_NAME:
                sync_folder(target)
            (staging / name).rename(target / name)
    sync_folder(target)
    shutil.rmtree(staging, ignore_errors=True)


def interrupted(target: Path) -> DeployError:
    return DeployError(
        f"Interrupted; what is done stays in {target / STAGING}.",
        "Run the same command again to go on.",
    )


