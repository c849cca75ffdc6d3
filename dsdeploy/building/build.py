"""From a plan to a finished checkpoint: stage, fill, check, commit.

Everything is made in `TARGET/.dsdeploy` and renamed into place at the end, MANIFEST.json last:
a target with a manifest is whole, one without is not. Killed at any moment, the same call goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsdeploy.building.commit import COMMIT_ORDER, commit
from dsdeploy.building.journal import Done, FinishedFile, Journal, load_journals
from dsdeploy.building.layout import PlannedFile
from dsdeploy.building.output import BuildPlan, Part, files_of_part
from dsdeploy.building.sources import Sources
from dsdeploy.building.staging import (
    begin,
    clear_remains,
    is_begun,
    is_complete,
    require_space,
)
from dsdeploy.building.writer import WINDOW, Advance, write_files
from dsdeploy.checkpoint.direct import read_windows
from dsdeploy.checkpoint.locks import WorkLock
from dsdeploy.checkpoint.store import STAGING
from dsdeploy.errors import DeployError, ExitCode, IntegrityError


@dataclass(frozen=True)
class Outcome:
    already_complete: bool
    committed: bool
    """False when other parts still have to finish."""


def build(
    plan: BuildPlan,
    target: Path,
    *,
    part: Part,
    workers: int,
    overwrite: bool,
    check: bool,
    progress: Callable[[str, int], Any],
    sources: Sources,
) -> Outcome:
    """Make the output. `progress(verb, bytes)` gives a context with `advance(bytes, detail)`."""
    complete = Outcome(already_complete=True, committed=True)
    staging = target / STAGING
    if not overwrite and not is_begun(staging) and is_complete(plan, target):
        clear_remains(staging)
        return complete
    name = f".part-{part.index}-of-{part.count}"
    try:
        if not begin(plan, target, part, overwrite):
            return complete
        lock = WorkLock(staging / f"{name}.lock")
    except FileNotFoundError:
        # Another part has committed, and removed the staging folder, since we looked.
        if is_complete(plan, target):
            return complete
        raise
    with closing(lock), closing(Journal(staging / f"{name}.journal")) as journal:
        if not (staging / COMMIT_ORDER).exists():
            mine = files_of_part(plan.files, part)
            require_space(mine, staging, sources.space)
            _fill(mine, staging, journal, workers, progress, sources)
            if check:
                _check(mine, staging, journal, workers, progress)
            for file in mine:
                journal.checked(file.name)
        return Outcome(already_complete=False, committed=commit(plan, target))


def _fill(
    files: list[PlannedFile],
    staging: Path,
    journal: Journal,
    workers: int,
    progress: Callable[[str, int], Any],
    sources: Sources,
) -> None:
    done = _load(staging)
    waiting = [file for file in files if not _is_finished(file, done, staging)]
    with closing(sources), progress("write", sum(file.size for file in waiting)) as bar:
        sources.begin([(file.name, file.reads) for file in waiting])
        write_files(waiting, staging, done.windows, journal, workers, bar.advance, sources)


def _load(staging: Path) -> Done:
    return load_journals(sorted(staging.glob(".part-*.journal")))


def _is_finished(file: PlannedFile, done: Done, staging: Path) -> bool:
    path = staging / file.name
    return file.name in done.files and path.exists() and path.stat().st_size == file.size


def _check(
    files: list[PlannedFile],
    staging: Path,
    journal: Journal,
    workers: int,
    progress: Callable[[str, int], Any],
) -> None:
    """Read everything again, from the disk, and compare with the hashes taken while writing."""
    records = _load(staging).files
    with (
        progress("check", sum(file.size for file in files)) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        list(
            pool.map(lambda file: _check_file(file, staging, records, journal, bar.advance), files)
        )


def _check_file(
    file: PlannedFile,
    staging: Path,
    records: Mapping[str, FinishedFile],
    journal: Journal,
    advance: Advance,
) -> None:
    running = hashlib.sha256()
    for _, window in read_windows(staging / file.name, file.size, WINDOW):
        running.update(window.data)
        advance(len(window), file.name)
    if running.hexdigest() != records[file.name].sha256:
        journal.forget(file.name)
        (staging / file.name).unlink()
        raise IntegrityError(
            f"{file.name} reads back other bytes than were written: the disk or the memory "
            "of this machine is damaged.",
            "Check the machine's logs, then run the same command: the file is made again.",
        )


def interrupted(target: Path) -> DeployError:
    return DeployError(
        f"Interrupted; what is done stays in {target / STAGING}.",
        "Run the same command again to go on.",
        ExitCode.INTERRUPTED,
    )
