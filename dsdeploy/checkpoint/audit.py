"""Whether a checkpoint is whole, from its headers and its index alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from dsdeploy.checkpoint.findings import DOWNLOAD_AGAIN, Finding, error, note
from dsdeploy.checkpoint.index import INDEX_NAME
from dsdeploy.checkpoint.reader import Checkpoint, StoredTensor
from dsdeploy.model.config import ModelConfig, Quantization
from dsdeploy.model.demo import rank_file_name, rank_table
from dsdeploy.model.tensors import SCALE_SUFFIX, TensorSpec, mtp_table, scale_shape, tensor_table

_SHOWN_EXTRAS = 20


def expected_table(checkpoint: Checkpoint) -> list[TensorSpec]:
    """The tensors this checkpoint should hold: those of its config, in the precision its weights
    have, without the MTP layers when it holds nothing of them."""
    config = _config_as_stored(checkpoint)
    if not _holds_mtp(checkpoint):
        config = replace(config, num_nextn_predict_layers=0)
    return list(tensor_table(config))


def _config_as_stored(checkpoint: Checkpoint) -> ModelConfig:
    config = checkpoint.config
    if not holds_fp8(checkpoint):
        return replace(config, quantization=None)
    return config if config.quantization else replace(config, quantization=Quantization("float32"))


def holds_fp8(checkpoint: Checkpoint) -> bool:
    return any(
        entry.dtype == "F8_E4M3" for shard in checkpoint.shards for entry in shard.header.entries
    )


def _holds_mtp(checkpoint: Checkpoint) -> bool:
    return any(spec.name in checkpoint.tensors for spec in mtp_table(checkpoint.config))


def extra_tensors(checkpoint: Checkpoint, table: Iterable[TensorSpec]) -> list[StoredTensor]:
    """Tensors that the table does not know, by name."""
    known = {spec.name for spec in table}
    return [tensor for name, tensor in sorted(checkpoint.tensors.items()) if name not in known]


def audit(checkpoint: Checkpoint) -> list[Finding]:
    """Every finding once, errors first."""
    findings = [*checkpoint.faults, *_precision(checkpoint)]
    if checkpoint.ranks is None:
        table = expected_table(checkpoint)
        findings += [
            *_missing(checkpoint, table),
            *_wrong(table, checkpoint.tensors),
            *_index(checkpoint, table),
            *_unknown(checkpoint, table),
            *_remarks(checkpoint),
        ]
    else:
        findings += _rank_files(checkpoint, checkpoint.ranks)
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _shows_precision(checkpoint: Checkpoint) -> bool:
    """Whether any weight that can be FP8 has been read; the files that hold them may be damaged."""
    config, ranks = checkpoint.config, checkpoint.ranks
    table = tensor_table(config) if ranks is None else rank_table(config, 0, 1)
    stored = {entry.name for shard in checkpoint.shards for entry in shard.header.entries}
    return any(spec.quantised and spec.name in stored for spec in table)


def _precision(checkpoint: Checkpoint) -> Iterator[Finding]:
    announced = checkpoint.config.quantization is not None
    if announced and not holds_fp8(checkpoint) and _shows_precision(checkpoint):
        yield error(
            "config.json announces FP8 (quantization_config), but no weight is FP8: engines "
            "will look for scales that are not there",
            file="config.json",
            fix="Remove quantization_config from config.json.",
        )
    if not announced and holds_fp8(checkpoint):
        yield error(
            "the weights are FP8, but config.json has no quantization_config: engines will read "
            "the codes without their scales",
            file="config.json",
            fix="Take the config.json of the FP8 repository.",
        )


def _unreadable(checkpoint: Checkpoint) -> set[str | None]:
    """Files whose header could not be read: a fault of a tensor leaves its file readable."""
    return {fault.file for fault in checkpoint.faults if fault.tensor is None}


def _missing(checkpoint: Checkpoint, table: list[TensorSpec]) -> Iterator[Finding]:
    """A missing shard is one finding, an unreadable one has its own; other tensors are one each."""
    unreadable = _unreadable(checkpoint)
    on_disk = {shard.name for shard in checkpoint.shards} | unreadable
    weight_map = checkpoint.weight_map or {}
    absent = Counter(file for file in weight_map.values() if file not in on_disk)
    for name, count in sorted(absent.items()):
        yield error(f"{name} is missing, with {count} tensors", file=name, fix=DOWNLOAD_AGAIN)
    for spec in table:
        file = weight_map.get(spec.name)
        if spec.name in checkpoint.tensors or file in absent or file in unreadable:
            continue
        what = "has no scale" if spec.kind == "scale" else "is missing"
        name = spec.name.removesuffix(SCALE_SUFFIX) if spec.kind == "scale" else spec.name
        fix = "Download the shard that holds it; the repository's index names it."
        yield error(f"{name} {what}", spec.name, file, fix)


def _wrong(table: Iterable[TensorSpec], tensors: Mapping[str, StoredTensor]) -> Iterator[Finding]:
    for spec in table:
        tensor = tensors.get(spec.name)
        if tensor is None:
            continue
        file = tensor.shard.name
        if tensor.shape != spec.shape:
            yield error(
                f"{spec.name} has shape {list(tensor.shape)}, config.json implies "
                f"{list(spec.shape)}",
                spec.name,
                file,
                "Take config.json and weights from the same repository.",
            )
        elif tensor.dtype not in _allowed(spec):
            yield error(
                f"{spec.name} is {tensor.dtype}, it must be {' or '.join(_allowed(spec))}",
                spec.name,
                file,
                DOWNLOAD_AGAIN,
            )


def _rank_files(checkpoint: Checkpoint, ranks: int) -> Iterator[Finding]:
    """The per-rank files of the demo's layout against the table of each rank."""
    config = _config_as_stored(checkpoint)
    if ranks == 0 or config.n_routed_experts % ranks:
        message = f"{config.n_routed_experts} routed experts cannot be spread over {ranks} ranks"
        yield error(message, fix="Take config.json and weights from the same conversion.")
        return
    found = {shard.name: shard for shard in checkpoint.shards}
    unreadable = _unreadable(checkpoint)
    fix = "Make the files again with `dsdeploy convert --layout demo`."
    for rank in range(ranks):
        file = rank_file_name(rank, ranks)
        shard = found.pop(file, None)
        if shard is None:
            if file not in unreadable:
                yield error(f"{file} is missing: rank {rank} of {ranks}", file=file, fix=fix)
            continue
        tensors = {entry.name: StoredTensor(shard, entry) for entry in shard.header.entries}
        table = list(rank_table(config, rank, ranks))
        known = {spec.name for spec in table}
        for spec in table:
            if spec.name not in tensors:
                yield error(f"{spec.name} is missing", spec.name, file, fix)
        yield from _wrong(table, tensors)
        for name in sorted(tensors.keys() - known):
            yield note(f"{name} is not of this architecture", name, file)
    for file in sorted(found):
        yield error(f"{file} is not one of {ranks} ranks", file=file, fix="Remove it.")


def _allowed(spec: TensorSpec) -> tuple[str, ...]:
    if spec.kind in ("norm", "bias"):
        return (spec.dtype, "BF16" if spec.dtype == "F32" else "F32")
    return (spec.dtype,)


def _index(checkpoint: Checkpoint, table: list[TensorSpec]) -> Iterator[Finding]:
    fix = "Download the index again, or remove it: `dsdeploy convert --to same` writes a right one."
    if checkpoint.weight_map is None:
        if len(checkpoint.shards) > 1:
            yield note(f"there is no {INDEX_NAME}; engines need it", file=INDEX_NAME, fix=fix)
        return
    on_disk = {shard.name for shard in checkpoint.shards}
    known = {spec.name for spec in table}
    for name, file in checkpoint.weight_map.items():
        tensor = checkpoint.tensors.get(name)
        if file not in on_disk or (tensor is None and name in known):
            continue
        if tensor is None:
            yield error(f"the index puts {name} into {file}, which lacks it", name, file, fix)
        elif tensor.shard.name != file:
            yield error(
                f"the index puts {name} into {file}, it is in {tensor.shard.name}", name, file, fix
            )
    for name, tensor in checkpoint.tensors.items():
        if name not in checkpoint.weight_map:
            yield error(f"{name} is not in the index", name, tensor.shard.name, fix)
    total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    complete = on_disk >= set(checkpoint.weight_map.values())
    if complete and checkpoint.total_size not in (None, total):
        yield note(
            f"the index's total_size is {checkpoint.total_size}, the tensors are {total} bytes",
            file=INDEX_NAME,
            fix=fix,
        )


def _unknown(checkpoint: Checkpoint, table: list[TensorSpec]) -> Iterator[Finding]:
    extras = extra_tensors(checkpoint, table)
    for tensor in extras[:_SHOWN_EXTRAS]:
        what = "is not of this architecture; it is kept as it is"
        yield note(f"{tensor.name} {what}", tensor.name, tensor.shard.name)
    if len(extras) > _SHOWN_EXTRAS:
        yield note(f"{len(extras) - _SHOWN_EXTRAS} more tensors are not of this architecture")
    for tensor in extras:
        if tensor.dtype != "F8_E4M3":
            continue
        scale = checkpoint.tensors.get(tensor.name + SCALE_SUFFIX)
        expected = ("F32", scale_shape(tensor.shape)) if len(tensor.shape) == 2 else None
        if scale is None or (scale.dtype, scale.shape) != expected:
            message = f"{tensor.name} has no scale for its blocks of 128x128"
            yield error(message, tensor.name, tensor.shard.name, DOWNLOAD_AGAIN)


def _remarks(checkpoint: Checkpoint) -> Iterator[Finding]:
    if checkpoint.config.num_nextn_predict_layers and not _holds_mtp(checkpoint):
        yield note(
            "config.json announces a multi-token prediction layer, the weights hold none",
            file="config.json",
            fix="Set num_nextn_predict_layers to 0.",
        )
    for shard in checkpoint.shards:
        if shard.header.data_start % 8:
            yield note(
                "the data are not aligned to 8 bytes, which slows loaders down",
                file=shard.name,
                fix="Rewrite it with `dsdeploy convert --to same`.",
            )
