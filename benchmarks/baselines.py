"""The two algorithms of DeepSeek's inference demo in plain torch on the CPU, each a process.

Written anew from a description of what fp8_cast_bf16.py and convert.py do; both bring their
files to the disk at the end, as dsdeploy does.

    python baselines.py cast SOURCE TARGET
    python baselines.py ranks SOURCE TARGET RANKS EXPERTS
"""

from __future__ import annotations

import json
import os
import sys
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

BLOCK = 128
SCALE = "_scale_inv"

# The demo's name of a module, and the axis on which its weight is split over ranks.
MODULES: dict[str, tuple[str, int | None]] = {
    "embed_tokens": ("embed", 0),
    "lm_head": ("head", 0),
    "q_a_proj": ("wq_a", None),
    "q_b_proj": ("wq_b", 0),
    "kv_a_proj_with_mqa": ("wkv_a", None),
    "kv_b_proj": ("wkv_b", 0),
    "o_proj": ("wo", 1),
    "q_a_layernorm": ("q_norm", None),
    "kv_a_layernorm": ("kv_norm", None),
    "input_layernorm": ("attn_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
    "gate_proj": ("w1", 0),
    "up_proj": ("w3", 0),
    "down_proj": ("w2", 1),
    "gate": ("gate", None),
    "norm": ("norm", None),
}
PARTS = {"self_attn": "attn", "mlp": "ffn", "weight_scale_inv": "scale"}
BIAS = "e_score_correction_bias"


def dequantise(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """weight [R, C] e4m3, scale [ceil(R/128), ceil(C/128)] f32 -> BF16 [R, C]."""
    rows, columns = weight.shape
    tall = scale.repeat_interleave(BLOCK, 0)[:rows]
    grid = tall.repeat_interleave(BLOCK, 1)[:, :columns]
    return (weight.to(torch.float32) * grid).to(torch.bfloat16)


@lru_cache(maxsize=2)
def load(path: Path) -> dict[str, torch.Tensor]:
    """A whole shard; like the demo, at most two are held."""
    return load_file(path)


def cast(source: Path, target: Path) -> None:
    """Shard by shard: load all, dequantise what is FP8, save all."""
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    for shard in sorted(set(index.values())):
        tensors = {}
        for name, tensor in load(source / shard).items():
            if name.endswith(SCALE):
                continue
            if tensor.dtype == torch.float8_e4m3fn:
                scale = load(source / index[name + SCALE])[name + SCALE]
                tensor = dequantise(tensor, scale)
            tensors[name] = tensor
        save(tensors, target / shard)


def ranks(source: Path, target: Path, count: int, experts: int) -> None:
    """Everything into one dict a rank, then one file a rank."""
    states: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt", device="cpu") as shard:
            for name in shard.keys():  # noqa: SIM118 (not a mapping)
                share(name, shard.get_tensor(name), states, experts // count)
    for rank, state in enumerate(states):
        save(state, target / f"model{rank}-mp{count}.safetensors")


def share(
    name: str, tensor: torch.Tensor, states: list[dict[str, torch.Tensor]], local_experts: int
) -> None:
    """One tensor to the ranks that hold it, or to each a part of it."""
    key, axis = demo_key(name)
    if ".experts." in name:
        states[int(name.split(".experts.")[1].split(".")[0]) // local_experts][key] = tensor
        return
    for rank, state in enumerate(states):
        part = tensor
        if axis is not None:
            width = tensor.shape[axis] // len(states)
            part = tensor.narrow(axis, rank * width, width).contiguous()
        state[key] = part


def demo_key(name: str) -> tuple[str, int | None]:
    words = [PARTS.get(word, word) for word in name.removeprefix("model.").split(".")]
    if words[-1] == BIAS:
        words[-1] = "bias"
    words[-2], axis = MODULES[words[-2]]
    return ".".join(words), axis


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(tensors, path)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def main() -> None:
    what, source, target, *numbers = sys.argv[1:]
    Path(target).mkdir(parents=True)
    if what == "cast":
        cast(Path(source), Path(target))
    else:
        ranks(Path(source), Path(target), *map(int, numbers))


if __name__ == "__main__":
    main()
