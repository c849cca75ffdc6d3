"""A conversion as a plan: which output tensors, from which stored ones, in which files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dsdeploy.checkpoint.audit import audit, expected_table, holds_fp8
from dsdeploy.checkpoint.build import BuildPlan
from dsdeploy.checkpoint.layout import PlannedFile, PlannedTensor, hub_layout, reference_file
from dsdeploy.checkpoint.manifest import MANIFEST_NAME
from dsdeploy.checkpoint.reader import Checkpoint
from dsdeploy.convert.ranks import require_ranks_fit
from dsdeploy.convert.recipes import BlockScales, Copy, Dequantise, Quantise, Slab, part_of, whole
from dsdeploy.errors import IntegrityError, UsageError
from dsdeploy.model.config import BLOCK, ModelConfig, Quantization
from dsdeploy.model.demo import demo_model_args, demo_name
from dsdeploy.model.tensors import SCALE_SUFFIX, TensorSpec, is_mtp, scale_shape, tensor_table


@dataclass(frozen=True)
class Options:
    """What the output shall be; paths, workers and checks do not change its bytes."""

    to: str
    """`bf16`, `fp8` or `same`."""
    layout: str
    """`hf` or `demo`."""
    ranks: int | None
    max_shard_size: int
    drop_mtp: bool

    def as_dict(self) -> dict[str, Any]:
        shared = {"to": self.to, "layout": self.layout, "drop_mtp": self.drop_mtp}
        if self.layout == "demo":
            return shared | {"ranks": self.ranks}
        return shared | {"max_shard_size": self.max_shard_size}


def plan_conversion(checkpoint: Checkpoint, options: Options) -> BuildPlan:
    """Raises IntegrityError when the source is not whole, UsageError when the options cannot be."""
    _require_whole(checkpoint)
    fp8_source = holds_fp8(checkpoint)
    if options.to == "fp8" and fp8_source:
        raise UsageError("The source is FP8 already.", "Use --to same to rearrange its shards.")
    table = expected_table(checkpoint)
    if options.drop_mtp or options.layout == "demo":
        table = [spec for spec in table if not is_mtp(checkpoint.config, spec.layer)]
    fp8_output = options.to == "fp8" or (options.to == "same" and fp8_source)
    if options.layout == "demo":
        files = _demo_files(checkpoint, table, options, fp8_output)
    else:
        tensors = [*_planned(checkpoint, table, options), *_extras(checkpoint)]
        files = hub_layout(tensors, options.max_shard_size)
    return BuildPlan(
        files=tuple(files),
        texts=_texts(checkpoint, table, options, fp8_output),
        copies=_copies(checkpoint),
        options=options.as_dict(),
        source=_identity(checkpoint),
        with_index=options.layout == "hf",
        stamps={shard.name: shard.mtime_ns for shard in checkpoint.shards},
    )


def _require_whole(checkpoint: Checkpoint) -> None:
    errors = [finding for finding in audit(checkpoint) if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more findings)" if len(errors) > 1 else ""
        raise IntegrityError(
            f"{checkpoint.folder} is not a whole checkpoint: {errors[0].message}{more}",
            f"{errors[0].fix} See `dsdeploy inspect {checkpoint.folder}`.",
        )


def _quantised_names(config: ModelConfig) -> set[str]:
    """The weights that the FP8 checkpoint of this model keeps as FP8."""
    fp8 = replace(config, quantization=Quantization("float32"))
    return {spec.name for spec in tensor_table(fp8) if spec.quantised}


def _planned(
    checkpoint: Checkpoint,
    table: list[TensorSpec],
    options: Options,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[PlannedTensor]:
    """The output tensors of one rank, in the table's order."""
    to_fp8 = _quantised_names(checkpoint.config) if options.to == "fp8" else set()
    for spec in table:
        if not _belongs(spec, checkpoint.config, rank, ranks):
            continue
        slab = _slab(checkpoint, spec, rank, ranks)
        name = spec.name
        shape = (slab.rows, slab.columns) if len(spec.shape) == 2 else spec.shape
        if options.to == "bf16" and spec.kind == "scale":
            continue
        if options.to == "bf16" and slab.tensor.dtype == "F8_E4M3":
            scale = checkpoint.tensors[name + SCALE_SUFFIX]
            yield PlannedTensor(name, "BF16", shape, Dequantise(slab, scale))
        elif name in to_fp8:
            grid = scale_shape((slab.rows, slab.columns))
            yield PlannedTensor(name, "F8_E4M3", shape, Quantise(slab))
            yield PlannedTensor(name + SCALE_SUFFIX, "F32", grid, BlockScales(slab))
        else:
            yield PlannedTensor(name, slab.tensor.dtype, shape, Copy(slab))


def _belongs(spec: TensorSpec, config: ModelConfig, rank: int, ranks: int) -> bool:
    """Routed experts live on one rank each; everything else is on all."""
    if spec.expert is None:
        return True
    return spec.expert // (config.n_routed_experts // ranks) == rank


def _slab(checkpoint: Checkpoint, spec: TensorSpec, rank: int, ranks: int) -> Slab:
    tensor = checkpoint.tensors[spec.name]
    if ranks == 1 or spec.split_axis is None or spec.expert is not None:
        return whole(tensor)
    return part_of(tensor, spec.split_axis, rank, ranks)


def _extras(checkpoint: Checkpoint) -> Iterator[PlannedTensor]:
    """Tensors that the table does not know are kept as they are."""
    known = {spec.name for spec in tensor_table(checkpoint.config)}
    known |= {name + SCALE_SUFFIX for name in known}
    for name, tensor in checkpoint.tensors.items():
        if name not in known:
            yield PlannedTensor(name, tensor.dtype, tensor.shape, Copy(whole(tensor)))


def _demo_files(
    checkpoint: Checkpoint, table: list[TensorSpec], options: Options, fp8_output: bool
) -> list[PlannedFile]:
    if options.ranks is None:
        raise UsageError("--layout demo needs --ranks.", "For example --ranks 8.")
    ranks = options.ranks
    require_ranks_fit(checkpoint.config, ranks, fp8_output)
    names = {spec.name: demo_name(spec) for spec in table}
    scales = {spec.name + SCALE_SUFFIX: demo_name(replace(spec, name=spec.name + SCALE_SUFFIX)) for spec in table}
    names = scales | names
    return [
        reference_file(
            f"model{rank}-mp{ranks}.safetensors",
            [
                replace(tensor, name=names[tensor.name])
                for tensor in _planned(checkpoint, table, options, rank, ranks)
            ],
        )
        for rank in range(ranks)
    ]


def _texts(
    checkpoint: Checkpoint, table: list[TensorSpec], options: Options, fp8_output: bool
) -> dict[str, str]:
    raw = dict(checkpoint.raw_config)
    if not fp8_output:
        raw.pop("quantization_config", None)
    elif "quantization_config" not in raw:
        raw["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [BLOCK, BLOCK],
        }
    if not any(is_mtp(checkpoint.config, spec.layer) for spec in table):
        raw["num_nextn_predict_layers"] = 0
    texts = {"config.json": json.dumps(raw, indent=2, ensure_ascii=False) + "\n"}
    if options.layout == "demo":
        args = demo_model_args(checkpoint.config, raw, fp8_output)
        texts["demo_config.json"] = json.dumps(args, indent=2) + "\n"
    return texts


_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".index.json", ".incomplete", ".lock")


def _copies(checkpoint: Checkpoint) -> dict[str, Path]:
    """Tokenizer, generation config, license, modelling code, ...: all but other weights."""
    return {
        name: checkpoint.folder / name
        for name in checkpoint.extra_files
        if not name.endswith(_WEIGHTS) and name != MANIFEST_NAME and not name.startswith(".")
    }


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "variant": checkpoint.config.variant,
        "shards": {
            shard.name: {"size": shard.size, "header_sha256": shard.header_sha256}
            for shard in checkpoint.shards
        },
    }
