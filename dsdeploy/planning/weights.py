"""Bytes of weights on one device, read off the tensor table for any layout and format.

All devices of a pipeline stage hold the same number of bytes. Engines share the embedding and the
head of the MTP layer with the main model's, whose copies in the checkpoint they leave out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, prod

from dsdeploy.model.config import ModelConfig, Quantization
from dsdeploy.model.formats import BF16, WeightFormat
from dsdeploy.model.tensors import ITEM_BYTES, TensorSpec, layer_table, mtp_table, tensor_table
from dsdeploy.planning.layout import Splits

PARTS = ("embedding", "attention", "dense layers", "shared experts", "experts", "gate and norms",
         "head", "MTP layer")  # fmt: skip


@dataclass(frozen=True)
class WeightRules:
    """What decides how much of each tensor a device holds."""

    kept: WeightFormat
    splits: Splits
    kv_b_copies: int = 0


def stage_weights(
    config: ModelConfig, layers: range, rules: WeightRules, mtp: bool
) -> dict[str, int]:
    """Bytes of each of PARTS on a device of the stage with these layers. The first stage has the
    embedding, the last the head and, if wanted, the MTP layer, which needs the embedding too."""
    total = Counter(dict.fromkeys(PARTS, 0))
    for layer, count in _kinds(config, layers):
        for part, size in layer_weights(config, layer, rules).items():
            total[part] += size * count
    outer = _bytes(config, outer_specs(config), rules)
    last = layers.stop == config.num_hidden_layers
    if layers.start == 0 or (last and mtp):
        total["embedding"] += outer["embedding"]
    if last:
        total["head"] += outer["head"]
        total["gate and norms"] += outer["gate and norms"]
        if mtp:
            total["MTP layer"] += sum(_bytes(config, mtp_specs(config), rules).values())
    return dict(total)


def layer_weights(config: ModelConfig, layer: int, rules: WeightRules) -> Counter[str]:
    return _bytes(config, layer_specs(config, layer), rules)


def _kinds(config: ModelConfig, layers: range) -> list[tuple[int, int]]:
    """(one of them, how many) of the dense and of the mixture layers in a range."""
    bound = min(max(config.first_k_dense_replace, layers.start), layers.stop)
    kinds = (range(layers.start, bound), range(bound, layers.stop))
    return [(kind.start, len(kind)) for kind in kinds if kind]


@lru_cache(maxsize=256)
def layer_specs(config: ModelConfig, layer: int) -> tuple[TensorSpec, ...]:
    """A decoder layer's weights; of its routed experts the first one's only."""
    return _weights(layer_table(_as_fp8(config), layer))


@lru_cache(maxsize=16)
def mtp_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    copies = ("embed_tokens", "shared_head.head")
    return _weights(spec for spec in mtp_table(_as_fp8(config)) if spec.role not in copies)


@lru_cache(maxsize=16)
def outer_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Embedding, final norm and head."""
    return _weights(tensor_table(replace(config, num_hidden_layers=0, num_nextn_predict_layers=0)))


def _as_fp8(config: ModelConfig) -> ModelConfig:
    """Whose table says which weights a quantised checkpoint quantises."""
    return replace(config, quantization=config.quantization or Quantization("float32"))


def _weights(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(spec for spec in specs if spec.kind != "scale" and not spec.expert)


def _bytes(config: ModelConfig, specs: tuple[TensorSpec, ...], rules: WeightRules) -> Counter[str]:
    total: Counter[str] = Counter()
    for spec in specs:
        part = part_of(config, spec)
        size = _device_bytes(spec, part, rules)
        if spec.expert is not None:
            size *= ceil(config.n_routed_experts / rules.splits.experts)
        total[part] += size
    return total


def part_of(config: ModelConfig, spec: TensorSpec) -> str:
    if spec.layer is None:
        return {"embed_tokens": "embedding", "lm_head": "head"}.get(spec.role, "gate and norms")
    if spec.expert is not None:
        return "experts"
    if spec.kind in ("norm", "bias") or spec.role in ("gate", "eh_proj"):
        return "gate and norms"
    if spec.role in ("gate_proj", "up_proj", "down_proj"):
        dense = spec.layer < config.first_k_dense_replace
        return "dense layers" if dense else "shared experts"
    return "attention"


def _device_bytes(spec: TensorSpec, part: str, rules: WeightRules) -> int:
    splits = rules.splits
    parts = {
        "embedding": splits.embedding,
        "head": splits.embedding,
        "attention": splits.attention,
        "dense layers": splits.dense,
        "shared experts": splits.shared,
        "experts": splits.expert_tensor,
    }
    shape = list(spec.shape)
    if spec.split_axis is not None:
        shape[spec.split_axis] = ceil(shape[spec.split_axis] / parts.get(part, 1))
    if not spec.quantised:
        return prod(shape) * ITEM_BYTES[spec.dtype]
    rows, columns = shape
    size = rules.kept.storage(spec).nbytes(rows, columns)
    if spec.role == "kv_b_proj":
        size += rules.kv_b_copies * BF16.nbytes(rows, columns)
    return size
