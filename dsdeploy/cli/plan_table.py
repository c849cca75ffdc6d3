"""What --dry-run shows: every file that would be written, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dsdeploy.building.output import BuildPlan
from dsdeploy.checkpoint.direct import free_bytes
from dsdeploy.checkpoint.index import INDEX_NAME
from dsdeploy.checkpoint.manifest import MANIFEST_NAME
from dsdeploy.output import Output
from dsdeploy.units import format_bytes, format_seconds

_MODELLED_RATE = 1e9
"""Bytes of output a second that a local NVMe disk takes."""


def show_plan(
    out: Output,
    plan: BuildPlan,
    target: Path,
    checked: bool,
    more: Sequence[tuple[str, str]] = (),
) -> None:
    """`checked`: the output will be read again at the end. `more` facts are of the source."""
    free = free_bytes(target)
    tensor_bytes = plan.tensor_bytes
    seconds = plan.nbytes / _MODELLED_RATE
    rows = [(file.name, str(len(file.tensors)), f"{file.size:,}") for file in plan.files]
    small = sorted(plan.companions) + [INDEX_NAME] * plan.with_index
    rows += [(name, "", "") for name in [*small, MANIFEST_NAME]]
    out.table(f"would write into {target}", ["file", "tensors", "bytes"], rows, right=(1, 2))
    check = f" and {format_seconds(seconds)} for the final check" if checked else ""
    facts = [
        ("shards", f"{len(plan.files)}"),
        ("tensor bytes", f"{tensor_bytes:,} ({format_bytes(tensor_bytes)})"),
        ("space needed", f"{plan.nbytes:,} ({format_bytes(plan.nbytes)})"),
        ("space free", f"{format_bytes(free)}{'' if free >= plan.nbytes else ': does not fit'}"),
        *more,
        ("time expected", f"{format_seconds(seconds)}{check} (modelled, a disk of 1 GB/s)"),
    ]
    out.table("plan", ["", ""], facts)
    out.result(
        {
            "files": {file.name: file.size for file in plan.files},
            "tensor_bytes": tensor_bytes,
            "bytes": plan.nbytes,
            "free_bytes": free,
            "fits": free >= plan.nbytes,
            "seconds_modelled": round(seconds * (2 if checked else 1)),
        }
    )
