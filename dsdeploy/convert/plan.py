"""A conversion as a plan: which output tensors, from which stored ones, in which files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from dsdeploy.building.layout import PlannedFile, PlannedTensor, hub_layout, reference_file
from dsdeploy.building.output import BuildPlan
from dsdeploy.checkpoint.audit import audit, expected_table, extra_tensors, holds_fp8
from dsdeploy.checkpoint.reader import Checkpoint, StoredTensor
from dsdeploy.checkpoint.safetensors import BITS
from dsdeploy.convert.companions import companions
from dsdeploy.convert.ranks import require_ranks_fit
from dsdeploy.convert.recipes import BlockScales, Copy, Dequantise, Quantise, Slab, part_of, whole
from dsdeploy.errors import IntegrityError, UsageError
from dsdeploy.model.config import ModelConfig, Quantization
from dsdeploy.model.demo import demo_name, on_rank, rank_file_name
from dsdeploy.model.tensors import (
    SCALE_SUFFIX,
    TensorSpec,
    is_mtp,
    mtp_prefixes,
    scale_shape,
    tensor_table,
)


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
    _require_convertible(checkpoint, options)
    config, demo = checkpoint.config, options.layout == "demo"
    table = expected_table(checkpoint)
    extras = extra_tensors(checkpoint, table)
    if options.drop_mtp or demo:
        table = [spec for spec in table if not is_mtp(config, spec.layer)]
        extras = [tensor for tensor in extras if not tensor.name.startswith(mtp_prefixes(config))]
    fp8 = options.to == "fp8" or (options.to == "same" and holds_fp8(checkpoint))
    if demo:
        files = _demo_files(checkpoint, table, options, fp8)
    else:
        specs = [*table, *_specs_of(extras)]
        files = hub_layout(list(_planned(checkpoint, specs, options)), options.max_shard_size)
    with_mtp = any(is_mtp(config, spec.layer) for spec in table)
    return BuildPlan(
        files=tuple(files),
        companions=companions(checkpoint, fp8=fp8, with_mtp=with_mtp, demo=demo),
        options=options.as_dict(),
        source={"variant": config.variant, **checkpoint.store.identity(checkpoint.shards)},
        with_index=not demo,
        stamps={shard.name: shard.mtime_ns for shard in checkpoint.shards},
        changed_ns=max(shard.ctime_ns for shard in checkpoint.shards),
    )


def _require_convertible(checkpoint: Checkpoint, options: Options) -> None:
    if checkpoint.ranks is not None:
        raise UsageError(
            f"{checkpoint.where} holds the per-rank files of the demo's layout.",
            "Convert from the Hugging Face checkpoint that they were made of.",
        )
    errors = [finding for finding in audit(checkpoint) if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more findings)" if len(errors) > 1 else ""
        raise IntegrityError(
            f"{checkpoint.where} is not a whole checkpoint: {errors[0].message}{more}.",
            f"{errors[0].fix} See `dsdeploy inspect {checkpoint.where}`.",
        )
    if options.to == "fp8" and holds_fp8(checkpoint):
        raise UsageError("The source is FP8 already.", "Use --to same to rearrange its shards.")


def _quantised_names(config: ModelConfig) -> set[str]:
    """The weights that the FP8 checkpoint of this model keeps as FP8."""
    fp8 = replace(config, quantization=Quantization("float32"))
    return {spec.name for spec in tensor_table(fp8) if spec.quantised}


def _planned(
    checkpoint: Checkpoint,
    specs: Iterable[TensorSpec],
    options: Options,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[PlannedTensor]:
    """The output tensors of one rank, in the order of `specs`."""
    to_fp8 = _quantised_names(checkpoint.config) if options.to == "fp8" else set()
    for spec in specs:
        if not on_rank(checkpoint.config, spec, rank, ranks):
            continue
        slab = _slab(checkpoint, spec, rank, ranks)
        name = spec.name
        shape = (slab.rows, slab.columns) if len(spec.shape) == 2 else spec.shape
        if options.to == "bf16" and spec.kind == "scale":
            continue
        if options.to == "bf16" and spec.quantised:
            scale = checkpoint.tensors[name + SCALE_SUFFIX]
            yield PlannedTensor(name, "BF16", shape, Dequantise(slab, scale))
        elif name in to_fp8:
            grid = scale_shape((slab.rows, slab.columns))
            yield PlannedTensor(name, "F8_E4M3", shape, Quantise(slab))
            yield PlannedTensor(name + SCALE_SUFFIX, "F32", grid, BlockScales(slab))
        else:
            yield PlannedTensor(name, slab.tensor.dtype, shape, Copy(slab))


def _slab(checkpoint: Checkpoint, spec: TensorSpec, rank: int, ranks: int) -> Slab:
    tensor = checkpoint.tensors[spec.name]
    if ranks == 1 or spec.split_axis is None or spec.expert is not None:
        return whole(tensor)
    return part_of(tensor, spec.split_axis, rank, ranks)


def _specs_of(extras: list[StoredTensor]) -> list[TensorSpec]:
    """Tensors that the table does not know go through as they are, or are cast like the others.
    The widest elements come first, and of the narrow ones those that become BF16: so all of them
    lie at multiples of their size."""
    quantised = {tensor.name for tensor in extras if tensor.dtype == "F8_E4M3"}
    specs = []

    def place(tensor: StoredTensor) -> tuple[int, bool, str]:
        return -BITS[tensor.dtype], tensor.dtype != "F8_E4M3", tensor.name

    for tensor in sorted(extras, key=place):
        is_scale = tensor.name.removesuffix(SCALE_SUFFIX) in quantised - {tensor.name}
        kind = "scale" if is_scale else "weight"
        specs.append(TensorSpec(tensor.name, tensor.shape, tensor.dtype, "unknown", kind))
    return specs


def _demo_files(
    checkpoint: Checkpoint, table: list[TensorSpec], options: Options, fp8: bool
) -> list[PlannedFile]:
    if options.ranks is None:
        raise UsageError("--layout demo needs --ranks.", "For example --ranks 8.")
    ranks = options.ranks
    require_ranks_fit(checkpoint.config, ranks, fp8)
    names = {}
    for spec in table:
        names[spec.name] = demo_name(spec)
        scale = spec.name + SCALE_SUFFIX
        names[scale] = demo_name(replace(spec, name=scale))
    return [
        reference_file(
            rank_file_name(rank, ranks),
            [
                replace(tensor, name=names[tensor.name])
                for tensor in _planned(checkpoint, table, options, rank, ranks)
            ],
        )
        for rank in range(ranks)
    ]
