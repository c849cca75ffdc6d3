"""dsdeploy convert: cast, rearrange and split a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.common import output_options
from dsdeploy.errors import UsageError
from dsdeploy.output import Output
from dsdeploy.units import format_bytes, format_seconds, parse_bytes

if TYPE_CHECKING:
    from dsdeploy.checkpoint.output import BuildPlan, Part

_MODELLED_RATE = 1e9
"""Bytes of output a second that a local NVMe disk takes; for the time in a dry run."""


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["bf16", "fp8", "same"]), default="bf16", show_default=True)
@click.option("--layout", type=click.Choice(["hf", "demo"]), default="hf", show_default=True)
@click.option("--max-shard-size", default="5GB", show_default=True, help="Of the hf layout.")
@click.option("--ranks", type=int, help="Files of the demo layout, one a rank.")
@click.option("--drop-mtp", is_flag=True, help="Leave the multi-token prediction layer out.")
@click.option("--workers", type=click.IntRange(1, 256), help="Threads; default: a core each.")
@click.option("--part", default="1/1", show_default=True, help="i/n: this machine's share; auto.")
@click.option("--dry-run", is_flag=True, help="Show the plan; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace what is in TARGET.")
@click.option("--no-check", is_flag=True, help="Do not read the output again at the end.")
@output_options
def command(
    out: Output,
    source: Path,
    target: Path,
    to: str,
    layout: str,
    max_shard_size: str,
    ranks: int | None,
    drop_mtp: bool,
    workers: int | None,
    part: str,
    dry_run: bool,
    overwrite: bool,
    no_check: bool,
) -> None:
    """Convert the checkpoint in SOURCE into TARGET.

    Casts FP8 to BF16 (or BF16 to FP8), rearranges shards, or writes the per-rank files of
    DeepSeek's inference demo. Killed at any moment, the same command goes on.
    """
    from dsdeploy.checkpoint.build import build, interrupted
    from dsdeploy.checkpoint.reader import open_checkpoint
    from dsdeploy.convert.plan import Options, plan_conversion

    share = parse_part(part)
    _check_folders(source, target)
    if ranks is not None and layout != "demo":
        raise UsageError("--ranks belongs to --layout demo.", "Add --layout demo.")
    options = Options(to, layout, ranks, parse_bytes(max_shard_size), drop_mtp)
    plan = plan_conversion(open_checkpoint(source), options)
    if dry_run:
        show_plan(out, plan, target)
        return
    try:
        outcome = build(
            plan,
            target,
            part=share,
            workers=workers or os.cpu_count() or 1,
            overwrite=overwrite,
            check=not no_check,
            progress=out.progress,
        )
    except KeyboardInterrupt:
        raise interrupted(target) from None
    if outcome.already_complete:
        out.line(f"{target} is complete already.")
    elif outcome.committed:
        out.line(f"{target}: {len(plan.files)} files, {format_bytes(plan.nbytes)}, whole.")
    else:
        out.line(f"Part {part} is done; the last part to finish puts {target} in place.")
    out.result(
        {
            "target": str(target),
            "files": len(plan.files),
            "bytes": plan.nbytes,
            "complete": outcome.committed,
        }
    )


def parse_part(text: str) -> Part:
    """`2/8`, or `auto` from Slurm's array or Kubernetes' indexed job."""
    from dsdeploy.checkpoint.output import Part

    if text == "auto":
        return _part_from_environment()
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--part {text} is not i/n.", "The first of four parts is --part 1/4.")
    return Part(int(index), int(count))


def _part_from_environment() -> Part:
    from dsdeploy.checkpoint.output import Part

    environment = os.environ
    if "SLURM_ARRAY_TASK_ID" in environment:
        first = _number("SLURM_ARRAY_TASK_MIN", "0")
        return _part(
            _number("SLURM_ARRAY_TASK_ID") - first, _number("SLURM_ARRAY_TASK_COUNT"), Part
        )
    if "JOB_COMPLETION_INDEX" in environment:
        return _part(_number("JOB_COMPLETION_INDEX"), _number("JOB_COMPLETION_COUNT"), Part)
    raise UsageError(
        "--part auto found neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX.",
        "Run it in a Slurm array or an indexed Kubernetes job, or give --part i/n.",
    )


def _part(position: int, count: int, part: type[Part]) -> Part:
    if not 0 <= position < count:
        raise UsageError(
            f"--part auto: index {position} is not one of {count} parts.",
            "Number the array's tasks without gaps, for example --array=0-7.",
        )
    return part(position + 1, count)


def _number(variable: str, default: str = "") -> int:
    text = os.environ.get(variable, default)
    if not text.isdecimal():
        raise UsageError(
            f"--part auto: {variable} is {text!r}, not a number.",
            f"Set {variable} in the job, or give --part i/n.",
        )
    return int(text)


def _check_folders(source: Path, target: Path) -> None:
    inside, outside = target.resolve(), source.resolve()
    if inside == outside or outside in inside.parents or inside in outside.parents:
        raise UsageError(
            f"{target} and {source} contain each other.", "Give a target outside the source."
        )
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file.", "Give a folder as the target.")


def show_plan(out: Output, plan: BuildPlan, target: Path) -> None:
    from dsdeploy.checkpoint.staging import free_bytes

    free = free_bytes(target)
    tensor_bytes = sum(tensor.nbytes for file in plan.files for tensor in file.tensors)
    rows = [(file.name, str(len(file.tensors)), f"{file.size:,}") for file in plan.files]
    out.table("files to write", ["file", "tensors", "bytes"], rows, right=(1, 2))
    facts = [
        ("files", f"{len(plan.files)} and {len(plan.companions) + plan.with_index + 1} small ones"),
        ("tensor bytes", f"{tensor_bytes:,} ({format_bytes(tensor_bytes)})"),
        ("space needed", f"{plan.nbytes:,} ({format_bytes(plan.nbytes)})"),
        ("space free", f"{format_bytes(free)}{'' if free >= plan.nbytes else ': does not fit'}"),
        (
            "time expected",
            f"{format_seconds(plan.nbytes / _MODELLED_RATE)} and as long for the final check "
            "(modelled at 1 GB/s)",
        ),
    ]
    out.table("plan", ["", ""], facts)
    out.result(
        {
            "files": {file.name: file.size for file in plan.files},
            "tensor_bytes": tensor_bytes,
            "bytes": plan.nbytes,
            "free_bytes": free,
            "fits": free >= plan.nbytes,
        }
    )
