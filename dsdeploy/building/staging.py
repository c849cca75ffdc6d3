"""The folder in which an output is made: begun, gone on with, refused or cleared.

`.plan.json` in it says which output it is for. A staging folder without one is what a killed start
or a killed clean-up has left, and holds nothing of value. Its own files begin with a dot, which no
file of an output does.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dsdeploy.building.layout import PlannedFile
from dsdeploy.building.output import BuildPlan, Part
from dsdeploy.checkpoint.direct import free_bytes, write_durably
from dsdeploy.checkpoint.locks import WorkLock
from dsdeploy.checkpoint.manifest import MANIFEST_NAME, read_manifest
from dsdeploy.checkpoint.store import STAGING
from dsdeploy.errors import DiskError, UsageError
from dsdeploy.units import format_bytes

_PLAN = ".plan.json"
_LOCK = ".lock"


def is_begun(staging: Path) -> bool:
    return (staging / _PLAN).exists()


def begun_source(target: Path) -> Mapping[str, Any] | None:
    """The source of what was begun, or made, in `target`."""
    if is_begun(target / STAGING):
        record: dict[str, Any] = json.loads((target / STAGING / _PLAN).read_text())
        return record.get("source")
    manifest = read_manifest(target) if target.is_dir() else None
    return manifest.source if manifest else None


def is_complete(plan: BuildPlan, target: Path) -> bool:
    """Whether `target` holds this very output: same source, options and companions, none of the
    source's weights changed since the manifest was written."""
    manifest = read_manifest(target) if target.is_dir() else None
    if manifest is None:
        return False
    written = (target / MANIFEST_NAME).stat().st_ctime_ns
    hashes = {name: record.sha256 for name, record in manifest.files.items()}
    same = (manifest.options, manifest.source) == (dict(plan.options), dict(plan.source))
    same = same and hashes.items() >= plan.companion_hashes.items()
    return (
        same
        and plan.changed_ns <= written
        and all(
            (target / name).is_file() and (target / name).stat().st_size == record.size
            for name, record in manifest.files.items()
        )
    )


def begin(plan: BuildPlan, target: Path, part: Part, overwrite: bool) -> bool:
    """Begin the output in `target`, or go on with it. False when it is complete already.

    Raises UsageError when something else is in the way and `overwrite` is not given.
    """
    staging = target / STAGING
    if not is_begun(staging):
        if not overwrite and _holds_files(target) and not is_complete(plan, target):
            raise UsageError(
                f"{target} is not empty.", "Give another folder, or --overwrite to replace it."
            )
        require_space(plan.files, staging)
    staging.mkdir(parents=True, exist_ok=True)
    with locked(staging):
        fingerprint = plan.fingerprint(part.count)
        known = json.loads((staging / _PLAN).read_text()) if is_begun(staging) else None
        if known is not None and known["fingerprint"] == fingerprint:
            return True
        if known is not None and not overwrite:
            raise _begun_otherwise(target, known, part)
        if known is None and not overwrite and is_complete(plan, target):
            end(staging)
            return False
        _clear(staging)
        record = {"fingerprint": fingerprint, "parts": part.count, "source": dict(plan.source)}
        write_durably(staging / _PLAN, json.dumps(record).encode())
        return True


def end(staging: Path) -> None:
    """Remove a staging folder whose output is in place, its plan first."""
    (staging / _PLAN).unlink(missing_ok=True)
    shutil.rmtree(staging, ignore_errors=True)


def clear_remains(staging: Path) -> None:
    """A kill after the commit can leave the staging folder behind, which does no harm: so an error
    in removing it is none of the caller's."""
    if staging.exists():
        with suppress(OSError), locked(staging):
            if not is_begun(staging):
                end(staging)


def _holds_files(target: Path) -> bool:
    return target.is_dir() and any(path.name != STAGING for path in target.iterdir())


def _begun_otherwise(target: Path, known: Mapping[str, Any], part: Part) -> UsageError:
    why = "another source, other options or another version of dsdeploy"
    if known["parts"] != part.count:
        why = f"{known['parts']} part(s), not {part.count}"
    return UsageError(
        f"{target} holds an unfinished output that was begun with {why}.",
        "Repeat the first command to go on, or give --overwrite to begin again.",
    )


def _clear(staging: Path) -> None:
    """Raises DeployError when another process is at work in it."""
    for path in staging.glob(".part-*.lock"):
        WorkLock(path).close()
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


@contextmanager
def locked(staging: Path) -> Iterator[None]:
    """Only one process at a time begins or commits."""
    descriptor = os.open(staging / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def require_space(files: Iterable[PlannedFile], folder: Path, beside: int = 0) -> None:
    """Raises DiskError when `files`, less what `folder` holds of them, do not fit with so many
    bytes beside them."""

    def missing(file: PlannedFile) -> int:
        path = folder / file.name
        held = path.stat().st_blocks * 512 if path.exists() else 0
        return max(0, file.size - held)

    needed, free = beside + sum(map(missing, files)), free_bytes(folder)
    if needed > free:
        raise DiskError(
            f"{folder} has {format_bytes(free)} free and the output needs {format_bytes(needed)}.",
            "Free some space or give a target on another disk.",
        )
