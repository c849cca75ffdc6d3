"""dsdeploy synth: a random checkpoint for demos, tests and rehearsals."""

from __future__ import annotations

from pathlib import Path

import click

from dsdeploy.cli.common import output_options, workers_option
from dsdeploy.output import Output
from dsdeploy.units import format_bytes, parse_bytes


@click.command("synth")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(["tiny", "slice", "v3", "v3.1", "v3.2", "kimi-k2"]),
    default="tiny",
    show_default=True,
    help="tiny: 50 MB. slice: true dimensions, few layers and experts. The others: whole models.",
)
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Of config.json.")
@click.option("--precision", type=click.Choice(["fp8", "bf16"]), default="fp8", show_default=True)
@click.option("--scale-fmt", type=click.Choice(["ue8m0"]), help="FP8 scales as powers of two.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--shard-size", help="Default: a quarter of the whole, at most 4.3GB.")
@click.option("--hollow", is_flag=True, help="True headers, holes for data: to rehearse plans.")
@workers_option
@click.option("--dry-run", is_flag=True, help="Show the plan; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace what is in TARGET.")
@output_options
def command(
    out: Output,
    target: Path,
    preset: str,
    settings: tuple[str, ...],
    precision: str,
    scale_fmt: str | None,
    seed: int,
    shard_size: str | None,
    hollow: bool,
    workers: int,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Write a random checkpoint of the DeepSeek-V3 architecture into TARGET.

    The weights are such that the model computes finite, varied logits.
    """
    from dsdeploy.building.build import build, interrupted
    from dsdeploy.building.output import Part
    from dsdeploy.building.sources import AtHand
    from dsdeploy.cli.plan_table import show_plan
    from dsdeploy.synth.plan import plan_synthetic, write_hollow
    from dsdeploy.synth.presets import synthetic_config

    raw = synthetic_config(preset, settings, precision, scale_fmt)
    plan = plan_synthetic(raw, preset, seed, parse_bytes(shard_size) if shard_size else None)
    if dry_run:
        show_plan(out, plan, target, checked=False)
        return
    if hollow:
        write_hollow(plan, target)
    else:
        try:
            build(
                plan,
                target,
                part=Part(),
                workers=workers,
                overwrite=overwrite,
                check=False,
                progress=out.progress,
                sources=AtHand(),
            )
        except KeyboardInterrupt:
            raise interrupted(target) from None
    what = "hollow: they take no space" if hollow else "random weights"
    out.line(f"{target}: {len(plan.files)} shards, {format_bytes(plan.nbytes)}, {what}.")
    out.result({"target": str(target), "files": len(plan.files), "bytes": plan.nbytes})
