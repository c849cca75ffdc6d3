"""dsdeploy synth: a random checkpoint for demos, tests and rehearsals."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdeploy.cli.common import output_options
from dsdeploy.output import Output
from dsdeploy.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from dsdeploy.checkpoint.layout import PlannedFile, PlannedTensor


@click.command("synth")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(["tiny", "slice", "v3", "v3.1", "v3.2", "kimi-k2"]),
    default="tiny",
    show_default=True,
)
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Of config.json.")
@click.option("--precision", type=click.Choice(["fp8", "bf16"]), default="fp8", show_default=True)
@click.option("--scale-fmt", type=click.Choice(["ue8m0"]), help="Scales as powers of two.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--shard-size", default="16MB", show_default=True)
@click.option("--hollow", is_flag=True, help="True headers, holes for data: to rehearse plans.")
@click.option("--workers", type=click.IntRange(1, 256), help="Threads; default: a core each.")
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
    shard_size: str,
    hollow: bool,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Write a random checkpoint of the DeepSeek-V3 architecture into TARGET."""
    from dsdeploy.checkpoint.build import build, interrupted
    from dsdeploy.checkpoint.output import BuildPlan, Part
    from dsdeploy.checkpoint.presets import synthetic_config
    from dsdeploy.checkpoint.synth import synthetic_tensors
    from dsdeploy.model.config import parse_config

    raw = synthetic_config(preset, settings, precision, scale_fmt)
    config = parse_config(raw)
    files = lay_out(synthetic_tensors(config, seed), parse_bytes(shard_size))
    texts = companions(raw, config.vocab_size)
    contents = {name: text.encode() for name, text in texts.items()}
    if hollow:
        write_hollow(target, files, texts)
        out.line(f"{target}: {len(files)} hollow shards; they take no space.")
        return
    options: dict[str, Any] = {"synth": preset, "seed": seed, "config": raw}
    plan = BuildPlan(tuple(files), contents, options, {"synthetic": True})
    try:
        build(
            plan,
            target,
            part=Part(),
            workers=workers or os.cpu_count() or 1,
            overwrite=overwrite,
            check=False,
            progress=out.progress,
        )
    except KeyboardInterrupt:
        raise interrupted(target) from None
    out.line(f"{target}: {len(files)} shards, {format_bytes(plan.nbytes)}, random weights.")
    out.result({"target": str(target), "files": len(files), "bytes": plan.nbytes})


def companions(raw: dict[str, Any], vocab_size: int) -> dict[str, str]:
    from dsdeploy.checkpoint.tokenizer import generation_config, tokenizer_files

    texts = {"config.json": json.dumps(raw, indent=2) + "\n"}
    texts |= tokenizer_files(vocab_size)
    texts["generation_config.json"] = generation_config(raw)
    return texts


def lay_out(tensors: list[PlannedTensor], shard_size: int) -> list[PlannedFile]:
    """Shards, with one scale in another shard than its weight, as in the published checkpoint."""
    from dsdeploy.checkpoint.layout import hub_layout, plan_file

    files = hub_layout(tensors, shard_size)
    if len(files) < 2:
        return files
    first, last = files[0], files[-1]
    stray = next((t for t in first.tensors if t.name.endswith("_scale_inv")), None)
    if stray is None:
        return files
    rest = [tensor for tensor in first.tensors if tensor is not stray]
    files[0] = plan_file(first.name, rest, {"format": "pt"}, 4096)
    files[-1] = plan_file(last.name, [*last.tensors, stray], {"format": "pt"}, 4096)
    return files


def write_hollow(target: Path, files: list[PlannedFile], texts: dict[str, str]) -> None:
    from dsdeploy.checkpoint.index import INDEX_NAME, render_index
    from dsdeploy.errors import UsageError

    if target.exists() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty.", "Give another folder.")
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        with (target / file.name).open("wb") as stream:
            stream.write(file.header)
            stream.truncate(file.size)
    weight_map = {tensor.name: file.name for file in files for tensor in file.tensors}
    total = sum(tensor.nbytes for file in files for tensor in file.tensors)
    for name, text in {**texts, INDEX_NAME: render_index(weight_map, total)}.items():
        (target / name).write_text(text, encoding="utf-8")
