"""Into how many ranks the demo's layout can cut a model."""

from __future__ import annotations

from dataclasses import replace

from dsdeploy.errors import UsageError
from dsdeploy.model.config import BLOCK, ModelConfig, Quantization
from dsdeploy.model.tensors import tensor_table


def why_not(config: ModelConfig, ranks: int, fp8: bool) -> str | None:
    """The reason why `ranks` ranks cannot work, or None."""
    if ranks < 1:
        return "there must be at least one rank"
    if config.n_routed_experts % ranks:
        return f"{config.n_routed_experts} experts do not divide into {ranks} ranks"
    if config.num_attention_heads % ranks:
        return f"{config.num_attention_heads} attention heads do not divide into {ranks} ranks"
    config = replace(config, quantization=Quantization("float32") if fp8 else None)
    for spec in tensor_table(config):
        if spec.split_axis is None or spec.expert is not None or spec.kind != "weight":
            continue
        size = spec.shape[spec.split_axis]
        if size % ranks:
            return f"{spec.role} has {size} rows or columns, which {ranks} ranks do not divide"
        if spec.quantised and ranks > 1 and size // ranks % BLOCK:
            return (
                f"a rank's part of {spec.role} ({size} / {ranks} = {size // ranks}) would cut "
                f"through the {BLOCK}-wide blocks that share an FP8 scale"
            )
        if spec.layer is not None and spec.layer > config.first_k_dense_replace:
            break
    return None


def require_ranks_fit(config: ModelConfig, ranks: int, fp8: bool) -> None:
    reason = why_not(config, ranks, fp8)
    if reason is None:
        return
    possible = [n for n in range(1, config.n_routed_experts + 1) if why_not(config, n, fp8) is None]
    raise UsageError(
        f"--ranks {ranks} is impossible: {reason}.",
        f"Use one of {', '.join(map(str, possible))} ranks"
        + (", or --to bf16, which has no blocks." if fp8 else "."),
    )
