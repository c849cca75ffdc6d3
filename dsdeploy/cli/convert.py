"""dsdeploy convert: cast, rearrange and split a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.common import output_options, workers_option
from dsdeploy.cli.hub_options import SCHEME, Reach, reach_options
from dsdeploy.errors import UsageError
from dsdeploy.output import Output
from dsdeploy.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from dsdeploy.building.build import Outcome
    from dsdeploy.building.output import BuildPlan
    from dsdeploy.checkpoint.reader import Checkpoint
    from dsdeploy.cli.hub_source import OpenRepository


@click.command("convert")
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["bf16", "fp8", "same"]), default="bf16", show_default=True)
@click.option("--layout", type=click.Choice(["hf", "demo"]), default="hf", show_default=True)
@click.option("--max-shard-size", default="5GB", show_default=True, help="Of the hf layout.")
@click.option("--ranks", type=int, help="Files of the demo layout, one a rank.")
@click.option("--drop-mtp", is_flag=True, help="Leave the multi-token prediction layer out.")
@workers_option
@click.option("--part", default="1/1", show_default=True, help="i/n: this machine's share; auto.")
@click.option("--dry-run", is_flag=True, help="Show the plan; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace what is in TARGET.")
@click.option("--no-check", is_flag=True, help="Do not read the output again at the end.")
@output_options
@reach_options
def command(
    out: Output,
    reach: Reach,
    source: str,
    target: Path,
    to: str,
    layout: str,
    max_shard_size: str,
    ranks: int | None,
    drop_mtp: bool,
    workers: int,
    part: str,
    dry_run: bool,
    overwrite: bool,
    no_check: bool,
) -> None:
    """Convert the checkpoint in SOURCE, a folder or hf://OWNER/NAME[@REVISION], into TARGET.

    Casts FP8 to BF16 (or BF16 to FP8), rearranges shards, or writes the per-rank files of
    DeepSeek's inference demo. Killed at any moment, the same command goes on.
    """
    from dsdeploy.building.build import build, interrupted
    from dsdeploy.building.sources import AtHand
    from dsdeploy.cli.parts import parse_part
    from dsdeploy.cli.plan_table import show_plan
    from dsdeploy.convert.plan import Options, plan_conversion

    share = parse_part(part)
    _check_folders(source, target)
    if ranks is not None and layout != "demo":
        raise UsageError("--ranks belongs to --layout demo.", "Add --layout demo.")
    options = Options(to, layout, ranks, parse_bytes(max_shard_size), drop_mtp)
    checkpoint, repository = _open(source, target, overwrite, reach, out)
    plan = plan_conversion(checkpoint, options)
    if dry_run:
        facts = repository.transit(plan, share, workers).facts if repository else ()
        show_plan(out, plan, target, not no_check, facts)
        return
    try:
        outcome = build(
            plan,
            target,
            part=share,
            workers=workers,
            overwrite=overwrite,
            check=not no_check,
            progress=out.progress,
            sources=repository.sources(plan, target, share, workers, out)
            if repository
            else AtHand(),
        )
    except KeyboardInterrupt:
        raise interrupted(target) from None
    _report(out, outcome, plan, target, part)


def _report(out: Output, outcome: Outcome, plan: BuildPlan, target: Path, part: str) -> None:
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


def _open(
    source: str, target: Path, overwrite: bool, reach: Reach, out: Output
) -> tuple[Checkpoint, OpenRepository | None]:
    from dsdeploy.building.staging import begun_source
    from dsdeploy.checkpoint.reader import open_checkpoint
    from dsdeploy.cli.hub_source import open_repository

    if not source.startswith(SCHEME):
        return open_checkpoint(Path(source)), None
    repository = open_repository(source, reach, out, None if overwrite else begun_source(target))
    return open_checkpoint(repository.store), repository


def _check_folders(source: str, target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file.", "Give a folder as the target.")
    if source.startswith(SCHEME):
        return
    inside, outside = target.resolve(), Path(source).resolve()
    if inside == outside or outside in inside.parents or inside in outside.parents:
        raise UsageError(
            f"{target} and {source} contain each other.", "Give a target outside the source."
        )
