"""Small checkpoints to run. Their sizes are multiples of nothing: no register tile, page or block
of 128 fits without a rest. Never write to them."""

import functools
import json
import os

import pytest

ODD = {
    "hidden_size": 200,
    "intermediate_size": 192,
    "moe_intermediate_size": 136,
    "num_attention_heads": 3,
    "q_lora_rank": 72,
    "kv_lora_rank": 136,
    "qk_nope_head_dim": 20,
    "qk_rope_head_dim": 12,
    "v_head_dim": 28,
    "num_hidden_layers": 3,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 2560,
    # Prompts of more than 64 tokens are beyond the trained context.
    "rope_scaling": json.dumps(
        {
            "type": "yarn",
            "factor": 40,
            "original_max_position_embeddings": 64,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        }
    ),
}

# Four ranks have whole heads, whole experts and whole blocks of 128.
SPLITTABLE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 512,
    "num_attention_heads": 4,
    "q_lora_rank": 72,
    "kv_lora_rank": 136,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 128,
    "v_head_dim": 128,
    "n_routed_experts": 8,
}


@pytest.fixture(scope="session")
def fp8(synth, tmp_path_factory):
    return synth(tmp_path_factory.mktemp("fp8") / "fp8", **ODD)


@pytest.fixture(scope="session")
def bf16(synth, tmp_path_factory):
    return synth(tmp_path_factory.mktemp("bf16") / "bf16", "--precision", "bf16", **ODD)


@pytest.fixture(scope="session")
def splittable(synth, tmp_path_factory):
    """Precision -> checkpoint."""
    folder = tmp_path_factory.mktemp("splittable")
    return {
        precision: synth(folder / precision, "--precision", precision, **SPLITTABLE)
        for precision in ("fp8", "bf16")
    }


@pytest.fixture(scope="session")
def per_rank(splittable, convert, tmp_path_factory):
    """(precision, ranks) -> the same model as the per-rank files of DeepSeek's demo."""
    folder = tmp_path_factory.mktemp("per-rank")

    @functools.cache
    def make(precision, ranks):
        options = ("--to", "same", "--layout", "demo", "--ranks", ranks)
        return convert(splittable[precision], folder / f"{precision}-{ranks}", *options)

    return make


@pytest.fixture
def reads(monkeypatch):
    """How many bytes have been read since it was last asked."""
    counts, preadv = [], os.preadv

    def counting(*arguments):
        counts.append(preadv(*arguments))
        return counts[-1]

    def since():
        total = sum(counts)
        counts.clear()
        return total

    monkeypatch.setattr(os, "preadv", counting)
    return since
