"""ModelConfig: the dimensions of a DeepSeek-V3 model, read from its config.json.

Only what dsdeploy implements is accepted: anything else would give a checkpoint that loads
and talks nonsense, so it is refused with a sentence that says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsdeploy.errors import IntegrityError, UsageError

BLOCK = 128
"""Edge of a square block of FP8 weights that shares one scale."""

ARCHITECTURES = {
    "DeepseekV3ForCausalLM": "DeepSeek-V3",
    "DeepseekV32ForCausalLM": "DeepSeek-V3.2",
}

_OTHER_ARCHITECTURES = {
    "DeepseekV4ForCausalLM": "DeepSeek-V4 has other tensor names and formats (FP4 experts, "
    "F8_E8M0 scales) and is not supported.",
    "DeepseekV2ForCausalLM": "DeepSeek-V2 (softmax gate, no FP8 weights) is not supported.",
    "Qwen2ForCausalLM": "This is a dense Qwen2 model; DeepSeek-R1-Distill models are of this kind. "
    "They need no conversion.",
    "LlamaForCausalLM": "This is a dense Llama model; DeepSeek-R1-Distill models are of this kind. "
    "They need no conversion.",
}
_USE_INSTEAD = "Use DeepSeek-V3, V3-0324, R1, V3.1, V3.2, Kimi-K2 or a model of their architecture."


@dataclass(frozen=True)
class Quantization:
    """FP8 weights with one f32 scale for each 128x128 block."""

    scale_format: str
    """`float32`, or `ue8m0` when the scales are powers of two."""


@dataclass(frozen=True)
class Yarn:
    """How the rotary frequencies are stretched to a context `factor` times the trained one."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    mscale: float
    mscale_all_dim: float


@dataclass(frozen=True)
class ModelConfig:
    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_nextn_predict_layers: int
    first_k_dense_replace: int
    num_attention_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    norm_topk_prob: bool
    routed_scaling_factor: float
    rms_norm_eps: float
    rope_theta: float
    yarn: Yarn | None
    max_position_embeddings: int
    index_n_heads: int | None
    index_head_dim: int | None
    quantization: Quantization | None

    @property
    def has_indexer(self) -> bool:
        """Whether this is V3.2, whose attention chooses its keys with an indexer."""
        return self.architecture == "DeepseekV32ForCausalLM"

    @property
    def family(self) -> str:
        return ARCHITECTURES[self.architecture]

    @property
    def variant(self) -> str:
        """What people call it, as far as the dimensions tell."""
        if self.has_indexer:
            return "DeepSeek-V3.2"
        if self.n_routed_experts == 384:
            return "Kimi-K2"
        if (self.num_hidden_layers, self.hidden_size, self.n_routed_experts) == (61, 7168, 256):
            ue8m0 = self.quantization is not None and self.quantization.scale_format == "ue8m0"
            return "DeepSeek-V3.1" if ue8m0 else "DeepSeek-V3, V3-0324 or R1"
        return f"{self.family} architecture, other dimensions"


def load_config(text: str, where: str = "config.json") -> ModelConfig:
    """Parse the text of a config.json; `where` names it in errors."""
    return parse_config(parse_json_object(text, where), where)


def parse_json_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{where} is not JSON: {error}.", "Download it again from the model's repository."
        ) from None
    if not isinstance(value, dict):
        raise IntegrityError(
            f"{where} is not a JSON object.", "Download it again from the model's repository."
        )
    return value


def parse_config(raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    architecture = _architecture(raw, where)
    _refuse_what_is_not_implemented(raw, where)
    config = ModelConfig(
        architecture=architecture,
        vocab_size=_positive(raw, "vocab_size", where),
        hidden_size=_positive(raw, "hidden_size", where),
        intermediate_size=_positive(raw, "intermediate_size", where),
        moe_intermediate_size=_positive(raw, "moe_intermediate_size", where),
        num_hidden_layers=_positive(raw, "num_hidden_layers", where),
        num_nextn_predict_layers=_count(raw, "num_nextn_predict_layers", where, default=0),
        first_k_dense_replace=_count(raw, "first_k_dense_replace", where, default=0),
        num_attention_heads=_positive(raw, "num_attention_heads", where),
        q_lora_rank=None
        if raw.get("q_lora_rank") is None
        else _positive(raw, "q_lora_rank", where),
        kv_lora_rank=_positive(raw, "kv_lora_rank", where),
        qk_nope_head_dim=_positive(raw, "qk_nope_head_dim", where),
        qk_rope_head_dim=_positive(raw, "qk_rope_head_dim", where),
        v_head_dim=_positive(raw, "v_head_dim", where),
        n_routed_experts=_positive(raw, "n_routed_experts", where),
        n_shared_experts=_count(raw, "n_shared_experts", where, default=0),
        num_experts_per_tok=_positive(raw, "num_experts_per_tok", where),
        n_group=_count(raw, "n_group", where, default=1) or 1,
        topk_group=_count(raw, "topk_group", where, default=1) or 1,
        norm_topk_prob=bool(raw.get("norm_topk_prob", True)),
        routed_scaling_factor=_number(raw, "routed_scaling_factor", where, 2.5),
        rms_norm_eps=_number(raw, "rms_norm_eps", where, 1e-6),
        rope_theta=_number(_rope(raw, where), "rope_theta", where, 10000.0),
        yarn=_yarn(_rope(raw, where), where),
        max_position_embeddings=_count(raw, "max_position_embeddings", where, default=4096),
        index_n_heads=_indexer_field(raw, architecture, "index_n_heads", where),
        index_head_dim=_indexer_field(raw, architecture, "index_head_dim", where),
        quantization=parse_quantization(raw, where),
    )
    _check_consistent(config, where)
    return config


def _architecture(raw: Mapping[str, Any], where: str) -> str:
    names = raw.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise IntegrityError(
            f"{where} names no architecture.", "Take the config.json of the model's repository."
        )
    name: str = names[0]
    if name in ARCHITECTURES:
        return name
    reason = _OTHER_ARCHITECTURES.get(name, f"{where} describes {name}, which is not supported.")
    raise UsageError(reason, _USE_INSTEAD)


_ONLY_VALUE = {
    "tie_word_embeddings": (False, "tied embeddings"),
    "attention_bias": (False, "attention with biases"),
    "moe_layer_freq": (1, "dense layers between the MoE layers"),
    "hidden_act": ("silu", "an activation other than SiLU"),
    "scoring_func": ("sigmoid", "a gate other than sigmoid"),
    "topk_method": ("noaux_tc", "another choice of experts than noaux_tc"),
}


def _refuse_what_is_not_implemented(raw: Mapping[str, Any], where: str) -> None:
    for field, (value, meaning) in _ONLY_VALUE.items():
        if raw.get(field, value) != value:
            raise UsageError(
                f"{where} has {field} = {raw[field]!r}: {meaning} is not supported.", _USE_INSTEAD
            )


def parse_quantization(raw: Mapping[str, Any], where: str) -> Quantization | None:
    block = raw.get("quantization_config")
    if block is None:
        return None
    if not isinstance(block, dict):
        raise IntegrityError(
            f"{where}: quantization_config is not an object.",
            "Take the config.json of the model's repository.",
        )
    method = block.get("quant_method")
    if method != "fp8" or block.get("fmt", "e4m3") != "e4m3":
        raise UsageError(
            f"{where}: the weights are quantised with {method!r}; dsdeploy reads FP8 e4m3 or BF16.",
            "Start from the original FP8 or BF16 checkpoint.",
        )
    if block.get("weight_block_size") != [BLOCK, BLOCK]:
        raise UsageError(
            f"{where}: weight_block_size is {block.get('weight_block_size')!r}, not [128, 128].",
            "Start from the original checkpoint, which has blocks of 128x128.",
        )
    return Quantization("ue8m0" if block.get("scale_fmt") == "ue8m0" else "float32")


def _rope(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The rotary settings, which transformers 5 writes into one object, others into two fields."""
    block = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(block, dict):
        raise IntegrityError(
            f"{where}: rope_scaling is not an object.",
            "Take the config.json of the model's repository.",
        )
    theta = {"rope_theta": raw["rope_theta"]} if "rope_theta" in raw else {}
    return {**theta, **block}


def _yarn(rope: Mapping[str, Any], where: str) -> Yarn | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise UsageError(f"{where}: rotary scaling {kind!r} is not supported.", _USE_INSTEAD)
    original = "original_max_position_embeddings"
    return Yarn(
        factor=_number(rope, "factor", where),
        original_max_position_embeddings=_positive(rope, original, where),
        beta_fast=_number(rope, "beta_fast", where, 32.0),
        beta_slow=_number(rope, "beta_slow", where, 1.0),
        mscale=_number(rope, "mscale", where, 1.0),
        mscale_all_dim=_number(rope, "mscale_all_dim", where, 0.0),
    )


def _number(raw: Mapping[str, Any], field: str, where: str, default: float | None = None) -> float:
    value = raw.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
        found = "is missing" if value is None else f"is {value!r}"
        raise IntegrityError(
            f"{where}: {field} {found}; it must be a number.",
            "Take the config.json of the model's repository.",
        )
    return float(value)


def _indexer_field(raw: Mapping[str, Any], architecture: str, field: str, where: str) -> int | None:
    return _positive(raw, field, where) if architecture == "DeepseekV32ForCausalLM" else None


def _count(raw: Mapping[str, Any], field: str, where: str, default: int | None = None) -> int:
    value = raw.get(field)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        found = "is missing" if value is None else f"is {value!r}"
        raise IntegrityError(
            f"{where}: {field} {found}; it must be a whole number.",
            "Take the config.json of the model's repository.",
        )
    return value


def _positive(raw: Mapping[str, Any], field: str, where: str) -> int:
    value = _count(raw, field, where)
    if value == 0:
        raise IntegrityError(f"{where}: {field} is 0.", "Take the config.json of the repository.")
    return value


def _check_consistent(config: ModelConfig, where: str) -> None:
    def demand(holds: bool, sentence: str) -> None:
        if not holds:
            raise IntegrityError(f"{where}: {sentence}.", "Correct the fields named.")

    demand(
        config.first_k_dense_replace <= config.num_hidden_layers,
        "first_k_dense_replace exceeds num_hidden_layers",
    )
    demand(
        config.n_routed_experts % config.n_group == 0,
        "n_routed_experts is no multiple of n_group",
    )
    demand(config.topk_group <= config.n_group, "topk_group exceeds n_group")
    demand(
        config.num_experts_per_tok * config.n_group <= config.n_routed_experts * config.topk_group,
        "num_experts_per_tok exceeds the experts of topk_group groups",
    )
    demand(config.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim is odd")
    demand(config.num_hidden_layers <= 10_000, "num_hidden_layers is beyond any model")
    demand(config.n_routed_experts <= 100_000, "n_routed_experts is beyond any model")
