"""Whether a checkpoint is whole, from its headers and its index alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from dsdeploy.checkpoint.index import INDEX_NAME
from dsdeploy.checkpoint.reader import Checkpoint
from dsdeploy.model.tensors import SCALE_SUFFIX, TensorSpec, tensor_table

_AGAIN = "Download this file again."
_SHOWN_EXTRAS = 20


@dataclass(frozen=True)
class Finding:
    severity: str
    """`error`: the checkpoint cannot be used as it is; `note`: worth knowing."""
    message: str
    tensor: str | None = None
    file: str | None = None
    fix: str = ""


_error = partial(Finding, "error")
_note = partial(Finding, "note")


def expected_table(checkpoint: Checkpoint) -> list[TensorSpec]:
    """The tensors this checkpoint should hold: those of its config, in the precision its weights
    have, without the MTP layers when it holds nothing of them."""
    config = checkpoint.config
    if not holds_fp8(checkpoint):
        config = replace(config, quantization=None)
    if not _holds_mtp(checkpoint):
        config = replace(config, num_nextn_predict_layers=0)
    return list(tensor_table(config))


def holds_fp8(checkpoint: Checkpoint) -> bool:
    return any(tensor.dtype == "F8_E4M3" for tensor in checkpoint.tensors.values())


def _holds_mtp(checkpoint: Checkpoint) -> bool:
    layers = checkpoint.config.num_hidden_layers
    count = checkpoint.config.num_nextn_predict_layers
    prefixes = tuple(f"model.layers.{layer}." for layer in range(layers, layers + count))
    return bool(prefixes) and any(name.startswith(prefixes) for name in checkpoint.tensors)


def audit(checkpoint: Checkpoint) -> list[Finding]:
    """Every finding once, errors first."""
    table = expected_table(checkpoint)
    findings = [
        *_precision(checkpoint),
        *_missing(checkpoint, table),
        *_wrong(checkpoint, table),
        *_index(checkpoint),
        *_unknown(checkpoint, table),
        *_remarks(checkpoint),
    ]
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _precision(checkpoint: Checkpoint) -> Iterator[Finding]:
    announced = checkpoint.config.quantization is not None
    if announced and not holds_fp8(checkpoint):
        yield _error(
            "config.json announces FP8 (quantization_config), but no weight is FP8: engines "
            "will look for scales that are not there",
            file="config.json",
            fix="Remove quantization_config from config.json.",
        )
    if not announced and holds_fp8(checkpoint):
        yield _error(
            "the weights are FP8, but config.json has no quantization_config: engines will read "
            "the codes without their scales",
            file="config.json",
            fix="Take the config.json of the FP8 repository.",
        )


def _missing(checkpoint: Checkpoint, table: list[TensorSpec]) -> Iterator[Finding]:
    """A missing shard is one finding; other tensors are one each."""
    on_disk = {shard.name for shard in checkpoint.shards}
    weight_map = checkpoint.weight_map or {}
    shards = Counter(file for file in weight_map.values() if file not in on_disk)
    for file, count in sorted(shards.items()):
        yield _error(
            f"the shard is missing, with {count} tensors", file=file, fix="Download this file."
        )
    for spec in table:
        if spec.name in checkpoint.tensors or weight_map.get(spec.name) in shards:
            continue
        what = "has no scale" if spec.kind == "scale" else "is missing"
        name = spec.name.removesuffix(SCALE_SUFFIX) if spec.kind == "scale" else spec.name
        fix = "Download the shard that holds it; the repository's index names it."
        yield _error(f"{name} {what}", spec.name, weight_map.get(spec.name), fix)


def _wrong(checkpoint: Checkpoint, table: list[TensorSpec]) -> Iterator[Finding]:
    for spec in table:
        tensor = checkpoint.tensors.get(spec.name)
        if tensor is None:
            continue
        file = tensor.shard.name
        if tensor.shape != spec.shape:
            yield _error(
                f"{spec.name} has shape {list(tensor.shape)}, config.json implies "
                f"{list(spec.shape)}",
                spec.name,
                file,
                "Take config.json and weights from the same repository.",
            )
        elif tensor.dtype not in _allowed(spec):
            yield _error(
                f"{spec.name} is {tensor.dtype}, it must be {' or '.join(_allowed(spec))}",
                spec.name,
                file,
                _AGAIN,
            )


def _allowed(spec: TensorSpec) -> tuple[str, ...]:
    if spec.kind in ("norm", "bias"):
        return (spec.dtype, "BF16" if spec.dtype == "F32" else "F32")
    return (spec.dtype,)


def _index(checkpoint: Checkpoint) -> Iterator[Finding]:
    fix = "Download the index again; `dsdeploy convert --to same` writes a right one."
    if checkpoint.weight_map is None:
        if len(checkpoint.shards) > 1:
            yield _note(f"there is no {INDEX_NAME}; engines need it", file=INDEX_NAME, fix=fix)
        return
    on_disk = {shard.name for shard in checkpoint.shards}
    for name, file in checkpoint.weight_map.items():
        tensor = checkpoint.tensors.get(name)
        if file not in on_disk:
            continue
        if tensor is None:
            yield _error(f"the index puts {name} into {file}, which lacks it", name, file, fix)
        elif tensor.shard.name != file:
            yield _error(
                f"the index puts {name} into {file}, it is in {tensor.shard.name}", name, file, fix
            )
    for name, tensor in checkpoint.tensors.items():
        if name not in checkpoint.weight_map:
            yield _error(f"{name} is not in the index", name, tensor.shard.name, fix)
    total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    complete = on_disk >= set(checkpoint.weight_map.values())
    if complete and checkpoint.total_size not in (None, total):
        yield _note(
            f"the index's total_size is {checkpoint.total_size}, the tensors are {total} bytes",
            file=INDEX_NAME,
            fix=fix,
        )


def _unknown(checkpoint: Checkpoint, table: list[TensorSpec]) -> Iterator[Finding]:
    known = {spec.name for spec in table}
    extras = sorted(name for name in checkpoint.tensors if name not in known)
    for name in extras[:_SHOWN_EXTRAS]:
        file = checkpoint.tensors[name].shard.name
        yield _note(f"{name} is not of this architecture; it is kept as it is", name, file)
    if len(extras) > _SHOWN_EXTRAS:
        yield _note(f"{len(extras) - _SHOWN_EXTRAS} more tensors are not of this architecture")
    for name in extras:
        tensor = checkpoint.tensors[name]
        if tensor.dtype == "F8_E4M3" and name + SCALE_SUFFIX not in checkpoint.tensors:
            yield _error(f"{name} has no scale", name, tensor.shard.name, _AGAIN)


def _remarks(checkpoint: Checkpoint) -> Iterator[Finding]:
    if checkpoint.config.num_nextn_predict_layers and not _holds_mtp(checkpoint):
        yield _note(
            "config.json announces a multi-token prediction layer, the weights hold none",
            file="config.json",
            fix="Set num_nextn_predict_layers to 0.",
        )
    for shard in checkpoint.shards:
        if shard.header.data_start % 8:
            yield _note(
                "the data are not aligned to 8 bytes, which slows loaders down",
                file=shard.name,
                fix="Rewrite it with `dsdeploy convert --to same`.",
            )
