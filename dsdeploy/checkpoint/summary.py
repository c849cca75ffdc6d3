"""What a checkpoint is, in numbers read off its headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from dsdeploy.checkpoint.audit import expected_table
from dsdeploy.checkpoint.reader import Checkpoint
from dsdeploy.model.tensors import is_mtp


@dataclass(frozen=True)
class Summary:
    variant: str
    architecture: str
    parameters: int
    """Of the main model; scales do not count."""
    mtp_parameters: int
    tensors: int
    bytes_by_dtype: Mapping[str, int]
    """Largest first."""
    files: int
    file_bytes: int
    ranks: int | None
    dense_layers: int
    moe_layers: int
    mtp_layers: int
    routed_experts: int
    shared_experts: int
    experts_per_token: int
    scale_format: str | None

    @property
    def tensor_bytes(self) -> int:
        return sum(self.bytes_by_dtype.values())


def summarise(checkpoint: Checkpoint) -> Summary:
    config, table = checkpoint.config, expected_table(checkpoint)
    entries = [entry for shard in checkpoint.shards for entry in shard.header.entries]
    sizes: Counter[str] = Counter()
    for entry in entries:
        sizes[entry.dtype] += entry.nbytes
    weights = [spec for spec in table if spec.kind != "scale"]
    mtp = [spec for spec in weights if is_mtp(config, spec.layer)]
    mtp_parameters = sum(prod(spec.shape) for spec in mtp)
    return Summary(
        variant=config.variant,
        architecture=config.architecture,
        parameters=sum(prod(spec.shape) for spec in weights) - mtp_parameters,
        mtp_parameters=mtp_parameters,
        tensors=len(entries),
        bytes_by_dtype=dict(sizes.most_common()),
        files=len(checkpoint.shards),
        file_bytes=sum(shard.size for shard in checkpoint.shards),
        ranks=checkpoint.ranks,
        dense_layers=config.first_k_dense_replace,
        moe_layers=config.num_hidden_layers - config.first_k_dense_replace,
        mtp_layers=config.num_nextn_predict_layers if mtp else 0,
        routed_experts=config.n_routed_experts,
        shared_experts=config.n_shared_experts,
        experts_per_token=config.num_experts_per_tok,
        scale_format=config.quantization.scale_format if config.quantization else None,
    )
