"""The model against two others: transformers' DeepseekV3ForCausalLM, and float64.

transformers is pinned (constraints.txt): before its pull request 45441 it gave the experts of
closed groups a score of 0 instead of -inf, and chose among them when open ones were below 0.
"""

import json

import pytest
import torch
from transformers import DeepseekV3ForCausalLM

from ..oracles import Oracle
from .conftest import ODD
from .driver import (
    Sequences,
    generated,
    load,
    logits_with_generated,
    prompt,
    prompt_logits,
    random_tokens,
)

YARN = json.loads(ODD["rope_scaling"])
KIMI = {
    "model_type": "deepseek_v3",  # under its own, kimi_k2, transformers does not stack the experts
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 6,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 2048,
    "rope_scaling": json.dumps(YARN | {"factor": 32}),
}
CONFIGS = {
    "small": ((), {}),
    "odd sizes, 4 groups, YaRN": ((), ODD),
    "dense layers only": ((), {"first_k_dense_replace": 2, "num_nextn_predict_layers": 0}),
    "experts in every layer": ((), {"first_k_dense_replace": 0, "n_shared_experts": 2}),
    "4 groups, 2 open": ((), {"n_routed_experts": 16, "n_group": 4, "topk_group": 2}),
    "weights not normalised": ((), {"norm_topk_prob": "false", "routed_scaling_factor": 0.7}),
    "no YaRN": ((), ODD | {"rope_scaling": "null"}),
    "YaRN with two mscales": (
        (),
        {
            "max_position_embeddings": 256,
            "qk_rope_head_dim": 24,
            "rope_scaling": json.dumps(
                YARN
                | {"factor": 4, "beta_fast": 8, "beta_slow": 2}
                | {"mscale": 0.7, "mscale_all_dim": 1.3}
            ),
        },
    ),
    "queries of full rank": ((), {"q_lora_rank": "null", "v_head_dim": 40}),
    "Kimi-K2": (("--preset", "kimi-k2"), KIMI),
}
TOKENS = random_tokens(150)


@pytest.fixture(scope="module", params=CONFIGS)
def checkpoint(request, synth, tmp_path_factory):
    options, changes = CONFIGS[request.param]
    folder = tmp_path_factory.mktemp("checkpoint") / "bf16"
    return synth(folder, "--precision", "bf16", *options, **changes)


@pytest.fixture(scope="module")
def oracle(checkpoint):
    return Oracle(checkpoint)


@pytest.fixture(scope="module")
def exact(oracle):
    return oracle.logits(TOKENS)


def transformers_model(folder):
    model, report = DeepseekV3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"]
    return model


def largest_difference(ours, theirs):
    # Logits spread over several units; a test on constants would pass for anything.
    assert theirs.std(-1).min() > 1
    return (ours - theirs).abs().max()


@pytest.mark.parametrize("kernels", ["plain", "compiled"])
def test_logits_are_those_of_transformers_and_of_float64(checkpoint, exact, kernels):
    ours = prompt_logits(load(checkpoint, dtype="float32", kernels=kernels), TOKENS)
    with torch.no_grad():
        theirs = transformers_model(checkpoint)(TOKENS[None]).logits[0]
    assert largest_difference(ours, theirs) < 1e-4
    assert largest_difference(ours, exact) < 1e-4


@pytest.mark.parametrize("kernels", ["plain", "compiled"])
def test_generated_tokens_have_the_logits_of_float64(checkpoint, exact, kernels):
    ours = logits_with_generated(load(checkpoint, dtype="float32", kernels=kernels), TOKENS, 120)
    assert largest_difference(ours, exact) < 1e-4


@pytest.mark.parametrize("kernels", ["plain", "compiled"])
def test_the_mtp_layer_drafts_as_in_float64(bf16, kernels):
    """transformers has no such layer."""
    run = Sequences(load(bf16, dtype="float32", kernels=kernels), TOKENS)
    states = run.hidden(prompt(0, 149))[0]
    run = Sequences(run.model, TOKENS[1:])
    drafts = run.model.logits(run.model.draft(run.planned(prompt(0, 149)), states, run.cache))
    oracle = Oracle(bf16)
    exact = oracle.draft(TOKENS[1:], oracle.hidden(TOKENS[:-1]))
    assert largest_difference(drafts, exact) < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": None},
        {"rope_scaling": YARN | {"beta_slow": 0.25}},
        {"rope_scaling": YARN | {"original_max_position_embeddings": 256}},
        {"rope_scaling": YARN | {"mscale_all_dim": 1.001}},
        {"topk_group": 3},
        {"routed_scaling_factor": 2.501},
        {"rms_norm_eps": 1e-4},
    ],
    ids=str,
)
def test_each_of_these_would_show(bf16, change):
    """The tolerance of the tests above is far below what a wrong formula changes."""
    oracle = Oracle(bf16)
    right = oracle.logits(TOKENS)
    oracle.config |= change
    assert (oracle.logits(TOKENS) - right).abs().max() > 5e-4


def test_fifty_greedy_continuations_of_64_tokens_are_those_of_transformers(bf16):
    """Prompts of 1 to 122 tokens, ten of each length: across pages and the trained context. What
    transformers would choose after each beginning of our sequence is what comes next in it: so,
    step by step, its own continuation is the same."""
    model, theirs = load(bf16, dtype="float32"), transformers_model(bf16)
    for length in (1, 17, 50, 64, 122):
        ours = greedy(model, random_tokens(10 * length, seed=length).view(10, length), 64)
        with torch.no_grad():
            best = theirs(ours).logits.argmax(-1)
        assert torch.equal(ours[:, length:], best[:, length - 1 : -1]), length
        assert ours[:, length:].unique().numel() > 50


def greedy(model, prompts, count):
    """All sequences in one step, each time."""
    run = Sequences(model, *prompts, room=count)
    parts = [prompt(index, prompts.shape[1]) for index in range(len(prompts))]
    for _ in range(count):
        following = [logits[-1:].argmax(-1) for logits in run.step(*parts)]
        run.tokens = [torch.cat(pair) for pair in zip(run.tokens, following, strict=True)]
        parts = [generated(index) for index in range(len(prompts))]
    return torch.stack(run.tokens)
