"""A whole synthetic checkpoint as a plan, or hollow: true headers and holes for data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dsdeploy.building.layout import PlannedFile, PlannedTensor, hub_layout, plan_file
from dsdeploy.building.output import BuildPlan
from dsdeploy.checkpoint.direct import PAGE
from dsdeploy.checkpoint.index import INDEX_NAME
from dsdeploy.errors import UsageError
from dsdeploy.model.config import parse_config
from dsdeploy.model.tensors import SCALE_SUFFIX
from dsdeploy.synth.tensors import synthetic_tensors
from dsdeploy.synth.tokenizer import generation_config, tokenizer_files

_PUBLISHED_SHARD = 4_300_000_000


def plan_synthetic(
    raw: dict[str, Any], preset: str, seed: int, shard_size: int | None
) -> BuildPlan:
    """`raw` is the config.json; `shard_size` None makes at least four shards, none larger than
    the published checkpoint's."""
    config = parse_config(raw)
    tensors = synthetic_tensors(config, seed)
    if shard_size is None:
        shard_size = min(_PUBLISHED_SHARD, sum(tensor.nbytes for tensor in tensors) // 4)
    texts = {
        "config.json": json.dumps(raw, indent=2) + "\n",
        "generation_config.json": generation_config(raw),
        **tokenizer_files(config.vocab_size),
    }
    return BuildPlan(
        files=tuple(_with_a_stray_scale(hub_layout(tensors, shard_size))),
        companions={name: text.encode() for name, text in texts.items()},
        options={"synth": preset, "seed": seed, "config": raw},
        source={"synthetic": True},
    )


def _with_a_stray_scale(files: list[PlannedFile]) -> list[PlannedFile]:
    """One scale in another shard than its weight, as in the published checkpoint."""
    last = files[-1]
    for number, file in enumerate(files[:-1]):
        for stray in file.tensors:
            if stray.name.endswith(SCALE_SUFFIX):
                rest = [tensor for tensor in file.tensors if tensor is not stray]
                changed = [_shard(file, rest), *files[number + 1 : -1]]
                return [*files[:number], *changed, _shard(last, [*last.tensors, stray])]
    return files


def _shard(old: PlannedFile, tensors: list[PlannedTensor]) -> PlannedFile:
    return plan_file(old.name, tensors, {"format": "pt"}, PAGE)


def write_hollow(plan: BuildPlan, target: Path) -> None:
    """The plan's headers and small files; the data are holes, which take no space."""
    if target.exists() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty.", "Give another folder.")
    target.mkdir(parents=True, exist_ok=True)
    for file in plan.files:
        with (target / file.name).open("wb") as stream:
            stream.write(file.header)
            stream.truncate(file.size)
    (target / INDEX_NAME).write_text(plan.index, encoding="utf-8")
    for name, content in plan.companions.items():
        (target / name).write_bytes(content)
