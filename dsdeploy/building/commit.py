"""The end of a build: everything renamed into its folder, the manifest last.

What shall be renamed and removed is written down first (`.commit.json`), so that a commit that was
killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from dsdeploy import __version__
from dsdeploy.building.journal import FinishedFile, load_journals
from dsdeploy.building.output import BuildPlan
from dsdeploy.building.staging import end, is_begun, locked
from dsdeploy.checkpoint.direct import sync_folder, write_durably
from dsdeploy.checkpoint.index import INDEX_NAME
from dsdeploy.checkpoint.manifest import MANIFEST_NAME, FileRecord, Manifest, render_manifest
from dsdeploy.checkpoint.store import STAGING

COMMIT_ORDER = ".commit.json"


def commit(plan: BuildPlan, target: Path) -> bool:
    """Put the output in place if every part is done; the last part to finish does it.

    False when other parts still have to finish.
    """
    staging = target / STAGING
    try:
        with locked(staging):
            if not is_begun(staging):  # another part has just committed
                return (target / MANIFEST_NAME).exists()
            order = staging / COMMIT_ORDER
            if not order.exists():
                done = load_journals(sorted(staging.glob(".part-*.journal")))
                if any(file.name not in done.files.keys() & done.checked for file in plan.files):
                    return False
                _write_order(plan, target, staging, done.files)
            _carry_out(target, staging, json.loads(order.read_text()))
            end(staging)
    except FileNotFoundError:
        if not (target / MANIFEST_NAME).exists():
            raise
    return True


def _write_order(
    plan: BuildPlan, target: Path, staging: Path, done: Mapping[str, FinishedFile]
) -> None:
    names = _write_companions(plan, staging, done)
    order = {"names": names, "stale": _stale_files(target, names)}
    write_durably(staging / COMMIT_ORDER, json.dumps(order).encode())
    sync_folder(staging)


def _write_companions(
    plan: BuildPlan, staging: Path, done: Mapping[str, FinishedFile]
) -> list[str]:
    """Config, tokenizer, index and manifest beside the staged weights; all names, manifest last."""
    contents = dict(plan.companions)
    if plan.with_index:
        contents[INDEX_NAME] = plan.index.encode()
    records = {file.name: FileRecord(file.size, done[file.name].sha256) for file in plan.files}
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


def _carry_out(target: Path, staging: Path, order: Mapping[str, list[str]]) -> None:
    if (staging / MANIFEST_NAME).exists():
        # From here to the new manifest, the target does not claim to be whole.
        (target / MANIFEST_NAME).unlink(missing_ok=True)
    for name in order["stale"]:
        (target / name).unlink(missing_ok=True)
    for name in order["names"]:
        if (staging / name).exists():
            if name == MANIFEST_NAME:
                sync_folder(target)
            (staging / name).rename(target / name)
    sync_folder(target)
    sync_folder(target.absolute().parent)
