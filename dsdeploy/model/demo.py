"""The per-rank files of DeepSeek's own inference demo: names and shares.

Source: the rules of the demo's inference/convert.py, written from the tensor's role instead of
by string replacement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from dsdeploy.model.config import ModelConfig
from dsdeploy.model.tensors import TensorSpec, is_mtp, tensor_table

_DEMO_ROLE = {
    "embed_tokens": "embed",
    "lm_head": "head",
    "q_proj": "wq",
    "q_a_proj": "wq_a",
    "q_b_proj": "wq_b",
    "kv_a_proj_with_mqa": "wkv_a",
    "kv_b_proj": "wkv_b",
    "o_proj": "wo",
    "q_a_layernorm": "q_norm",
    "kv_a_layernorm": "kv_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "gate_proj": "w1",
    "up_proj": "w3",
    "down_proj": "w2",
}


def demo_name(spec: TensorSpec) -> str:
    """`model.layers.3.mlp.experts.7.up_proj.weight_scale_inv` -> `layers.3.ffn.experts.7.w3.scale`."""
    path, leaf = spec.name.removeprefix("model.").rsplit(".", 1)
    modules = path.split(".")
    modules[-1] = _DEMO_ROLE.get(modules[-1], modules[-1])
    renamed = {"self_attn": "attn", "mlp": "ffn"}
    leaf = {"weight_scale_inv": "scale", "e_score_correction_bias": "bias"}.get(leaf, leaf)
    return ".".join([*(renamed.get(module, module) for module in modules), leaf])


def rank_file_name(rank: int, ranks: int) -> str:
    return f"model{rank}-mp{ranks}.safetensors"


def on_rank(config: ModelConfig, spec: TensorSpec, rank: int, ranks: int) -> bool:
    """Routed experts live on one rank each; everything else is on all."""
    return spec.expert is None or spec.expert // (config.n_routed_experts // ranks) == rank


def rank_table(config: ModelConfig, rank: int, ranks: int) -> Iterator[TensorSpec]:
    """The tensors of one rank's file, under the demo's names. The demo has no MTP layer."""
    for spec in tensor_table(config):
        if is_mtp(config, spec.layer) or not on_rank(config, spec, rank, ranks):
            continue
        shape = list(spec.shape)
        if spec.split_axis is not None and spec.expert is None:
            shape[spec.split_axis] //= ranks
        yield replace(spec, name=demo_name(spec), shape=tuple(shape))


_ROPE_SCALING = {
    "original_seq_len": "original_max_position_embeddings",
    "rope_factor": "factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "mscale": "mscale",
}


def demo_model_args(config: ModelConfig, raw: Mapping[str, Any], fp8: bool) -> dict[str, Any]:
    """The JSON that the demo's generate.py takes as `--config`."""
    args: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "dim": config.hidden_size,
        "inter_dim": config.intermediate_size,
        "moe_inter_dim": config.moe_intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_dense_layers": config.first_k_dense_replace,
        "n_heads": config.num_attention_heads,
        "n_routed_experts": config.n_routed_experts,
        "n_shared_experts": config.n_shared_experts,
        "n_activated_experts": config.num_experts_per_tok,
        "n_expert_groups": config.n_group,
        "n_limited_groups": config.topk_group,
        "route_scale": raw.get("routed_scaling_factor", 1.0),
        "score_func": "sigmoid",
        "q_lora_rank": config.q_lora_rank or 0,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
        "dtype": "fp8" if fp8 else "bf16",
    }
    if fp8 and config.quantization is not None and config.quantization.scale_format == "ue8m0":
        args["scale_fmt"] = "ue8m0"
    args["rope_theta"] = raw.get("rope_theta", 10000.0)
    scaling = raw.get("rope_scaling") or {}
    for field, source in _ROPE_SCALING.items():
        if source in scaling:
            args[field] = scaling[source]
    if config.has_indexer:
        indexer = ("index_n_heads", "index_head_dim", "index_topk")
        args |= {name: raw[name] for name in indexer if name in raw}
    return args
