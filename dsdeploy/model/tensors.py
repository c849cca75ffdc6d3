"""The tensor table: every tensor of a DeepSeek-V3 checkpoint, from its config alone.

Conversion, resharding, completeness checks and synthetic checkpoints are read off this table;
no other file but `demo.py` knows how a tensor is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod

from dsdeploy.model.config import BLOCK, ModelConfig

ITEM_BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1}
SCALE_SUFFIX = "_scale_inv"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor.

    `role` is the module's name without its place (`o_proj`, `kv_a_layernorm`, `gate`).
    `split_axis` is the axis on which tensor parallelism cuts it (None: every rank has all of it).
    `layer` is None for embedding, final norm and head; `expert` is set for routed experts.
    `kind` is `weight`, `scale` (of the weight before it), `norm` or `bias`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    kind: str
    layer: int | None = None
    expert: int | None = None
    split_axis: int | None = None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def quantised(self) -> bool:
        return self.dtype == "F8_E4M3"


@dataclass(frozen=True, slots=True)
class _Linear:
    """A weight that FP8 checkpoints keep as FP8."""

    role: str
    rows: int
    columns: int
    split_axis: int | None


def scale_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = shape
    return ceil(rows / BLOCK), ceil(columns / BLOCK)


def tensor_table(config: ModelConfig) -> Iterator[TensorSpec]:
    """All tensors in the order in which a forward pass needs them; the MTP layers last."""
    embedding = (config.vocab_size, config.hidden_size)
    yield TensorSpec(
        "model.embed_tokens.weight", embedding, "BF16", "embed_tokens", "weight", None, None, 0
    )
    for layer in range(config.num_hidden_layers):
        yield from layer_table(config, layer)
    yield _norm(config, "model.norm.weight", "norm", config.hidden_size, None)
    yield TensorSpec("lm_head.weight", embedding, "BF16", "lm_head", "weight", None, None, 0)
    yield from mtp_table(config)


def mtp_table(config: ModelConfig) -> Iterator[TensorSpec]:
    """The tensors of the MTP layers, which come after the main model's."""
    first = config.num_hidden_layers
    for layer in range(first, first + config.num_nextn_predict_layers):
        yield from _mtp_layer(config, layer)


def is_mtp(config: ModelConfig, layer: int | None) -> bool:
    return layer is not None and layer >= config.num_hidden_layers


def mtp_prefixes(config: ModelConfig) -> tuple[str, ...]:
    """What the names of all tensors of the MTP layers begin with."""
    first, count = config.num_hidden_layers, config.num_nextn_predict_layers
    return tuple(f"model.layers.{layer}." for layer in range(first, first + count))


def _mtp_layer(config: ModelConfig, layer: int) -> Iterator[TensorSpec]:
    prefix = f"model.layers.{layer}."
    hidden = config.hidden_size
    embedding = (config.vocab_size, hidden)
    yield TensorSpec(
        prefix + "embed_tokens.weight", embedding, "BF16", "embed_tokens", "weight", layer, None, 0
    )
    yield _norm(config, prefix + "enorm.weight", "enorm", hidden, layer)
    yield _norm(config, prefix + "hnorm.weight", "hnorm", hidden, layer)
    yield TensorSpec(
        prefix + "eh_proj.weight", (hidden, 2 * hidden), "BF16", "eh_proj", "weight", layer
    )
    yield from layer_table(config, layer)
    yield _norm(config, prefix + "shared_head.norm.weight", "shared_head.norm", hidden, layer)
    yield TensorSpec(
        prefix + "shared_head.head.weight",
        embedding,
        "BF16",
        "shared_head.head",
        "weight",
        layer,
        None,
        0,
    )


def layer_table(config: ModelConfig, layer: int) -> Iterator[TensorSpec]:
    """The tensors of one decoder layer."""
    prefix = f"model.layers.{layer}."
    hidden = config.hidden_size
    yield _norm(config, prefix + "input_layernorm.weight", "input_layernorm", hidden, layer)
    yield from _attention(config, layer, prefix + "self_attn.")
    yield _norm(
        config,
        prefix + "post_attention_layernorm.weight",
        "post_attention_layernorm",
        hidden,
        layer,
    )
    if layer < config.first_k_dense_replace:
        yield from _feed_forward(config, layer, prefix + "mlp.", config.intermediate_size)
    else:
        yield from _mixture(config, layer, prefix + "mlp.")


def _attention(config: ModelConfig, layer: int, prefix: str) -> Iterator[TensorSpec]:
    hidden, heads, kv_rank = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
    query = heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
    if config.q_lora_rank is None:
        yield from _linear(config, layer, prefix, _Linear("q_proj", query, hidden, 0))
    else:
        rank = config.q_lora_rank
        yield from _linear(config, layer, prefix, _Linear("q_a_proj", rank, hidden, None))
        yield _norm(config, prefix + "q_a_layernorm.weight", "q_a_layernorm", rank, layer)
        yield from _linear(config, layer, prefix, _Linear("q_b_proj", query, rank, 0))
    kv_a = _Linear("kv_a_proj_with_mqa", kv_rank + config.qk_rope_head_dim, hidden, None)
    yield from _linear(config, layer, prefix, kv_a)
    yield _norm(config, prefix + "kv_a_layernorm.weight", "kv_a_layernorm", kv_rank, layer)
    kv_b = _Linear("kv_b_proj", heads * (config.qk_nope_head_dim + config.v_head_dim), kv_rank, 0)
    yield from _linear(config, layer, prefix, kv_b)
    yield from _linear(
        config, layer, prefix, _Linear("o_proj", hidden, heads * config.v_head_dim, 1)
    )
    if config.has_indexer:
        yield from _indexer(config, layer, prefix + "indexer.")


def _indexer(config: ModelConfig, layer: int, prefix: str) -> Iterator[TensorSpec]:
    heads, dim = config.index_n_heads or 0, config.index_head_dim or 0
    rank = config.q_lora_rank or config.hidden_size
    yield from _linear(config, layer, prefix, _Linear("wq_b", heads * dim, rank, None))
    yield from _linear(config, layer, prefix, _Linear("wk", dim, config.hidden_size, None))
    for part in ("weight", "bias"):
        yield TensorSpec(f"{prefix}k_norm.{part}", (dim,), "F32", "k_norm", "norm", layer)
    shape = (heads, config.hidden_size)
    yield TensorSpec(prefix + "weights_proj.weight", shape, "BF16", "weights_proj", "weight", layer)


def _mixture(config: ModelConfig, layer: int, prefix: str) -> Iterator[TensorSpec]:
    experts, width = config.n_routed_experts, config.moe_intermediate_size
    yield TensorSpec(
        prefix + "gate.weight", (experts, config.hidden_size), "BF16", "gate", "weight", layer
    )
    yield TensorSpec(
        prefix + "gate.e_score_correction_bias", (experts,), "F32", "gate", "bias", layer
    )
    for expert in range(experts):
        yield from _feed_forward(config, layer, f"{prefix}experts.{expert}.", width, expert)
    if config.n_shared_experts:
        shared = width * config.n_shared_experts
        yield from _feed_forward(config, layer, prefix + "shared_experts.", shared)


def _feed_forward(
    config: ModelConfig, layer: int, prefix: str, width: int, expert: int | None = None
) -> Iterator[TensorSpec]:
    hidden = config.hidden_size
    for linear in (
        _Linear("gate_proj", width, hidden, 0),
        _Linear("up_proj", width, hidden, 0),
        _Linear("down_proj", hidden, width, 1),
    ):
        yield from _linear(config, layer, prefix, linear, expert)


def _linear(
    config: ModelConfig, layer: int, prefix: str, linear: _Linear, expert: int | None = None
) -> Iterator[TensorSpec]:
    name = f"{prefix}{linear.role}.weight"
    shape = (linear.rows, linear.columns)
    place = (layer, expert, linear.split_axis)
    if config.quantization is None:
        yield TensorSpec(name, shape, "BF16", linear.role, "weight", *place)
        return
    yield TensorSpec(name, shape, "F8_E4M3", linear.role, "weight", *place)
    yield TensorSpec(name + SCALE_SUFFIX, scale_shape(shape), "F32", linear.role, "scale", *place)


def _norm(config: ModelConfig, name: str, role: str, size: int, layer: int | None) -> TensorSpec:
    # V3.2 keeps its norms in float32; the others in bfloat16.
    return TensorSpec(name, (size,), "F32" if config.has_indexer else "BF16", role, "norm", layer)
