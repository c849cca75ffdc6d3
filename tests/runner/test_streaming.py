"""Experts that stay on disk: the same bits as from memory, in as little memory as one gives it."""

import errno
import os
import shutil
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdeploy.errors import DiskError, IntegrityError, UsageError
from dsdeploy.runner.experts import ResidentExperts
from dsdeploy.units import format_bytes

from ..checkpoint.damage import edited_shard, shard_of
from .conftest import ODD
from .driver import Sequences, load, logits_with_generated, prompt, prompt_logits, random_tokens

TOKENS = random_tokens(90)
# Of the two layers of the model, and of the MTP layer.
ALL = 3 * ODD["n_routed_experts"]


def resident_experts(model, layer=1):
    return model.layers[layer].feed_forward.experts.weights


def expert_bytes(model):
    weights = resident_experts(model)
    return (
        sum(w.nbytes for w in (weights.gate, weights.up, weights.down)) // ODD["n_routed_experts"]
    )


@pytest.fixture(scope="module", params=[("fp8", "auto"), ("bf16", "auto"), ("fp8", "float16")])
def kind(request):
    """(folder, dtype): codes with scales, as stored, and converted on the way."""
    precision, dtype = request.param
    return request.getfixturevalue(precision), dtype


@pytest.fixture(scope="module")
def resident(kind):
    folder, dtype = kind
    return load(folder, dtype=dtype)


@pytest.fixture(scope="module")
def streamed(kind, resident):
    """`streamed(3)`: with room for three experts."""
    folder, dtype = kind
    return lambda count: load(folder, dtype=dtype, expert_memory=count * expert_bytes(resident))


@pytest.mark.parametrize("count", [2, 3, 5, ALL])
def test_logits_have_the_bits_of_resident_experts(resident, streamed, count):
    """90 tokens choose 3 of 8 experts each, all of them together: more than most pools hold."""
    expected = logits_with_generated(resident, TOKENS, 80)
    assert torch.equal(logits_with_generated(streamed(count), TOKENS, 80), expected)


def test_the_mtp_layers_experts_are_streamed_too(resident, streamed):
    def drafts(model):
        run = Sequences(model, TOKENS[1:])
        states = Sequences(model, TOKENS).hidden(prompt(0, 80))[0]
        return model.draft(run.planned(prompt(0, 80)), states, run.cache)

    assert torch.equal(drafts(streamed(2)), drafts(resident))


def test_loading_reads_no_expert(resident, streamed, kind, reads):
    folder, dtype = kind
    load(folder, dtype=dtype)
    everything = reads()
    streamed(2)
    assert everything - reads() == ALL * stored_bytes_of_an_expert(folder)


def stored_bytes_of_an_expert(folder):
    per_matrix = ODD["hidden_size"] * ODD["moe_intermediate_size"]
    return 3 * (per_matrix + 2 * 2 * 4) if folder.name == "fp8" else 3 * 2 * per_matrix


def test_experts_that_fit_are_read_once(streamed, reads):
    model = streamed(ALL)
    reads()
    prompt_logits(model, TOKENS)
    assert reads() > 0
    prompt_logits(model, TOKENS)
    assert reads() == 0


def test_the_expert_used_longest_ago_makes_room_and_is_read_again(streamed, kind, reads):
    layer, one = streamed(2).layers[1].feed_forward.experts, stored_bytes_of_an_expert(kind[0])

    def experts_read_for(*experts):
        reads()
        for _ in layer.waves(torch.tensor([experts])):
            pass
        return reads() / one

    assert experts_read_for(0, 1) == 2
    assert experts_read_for(0) == 0
    assert experts_read_for(2) == 1, "in the place of 1"
    assert experts_read_for(0, 2) == 0
    assert experts_read_for(1) == 1
    assert experts_read_for(2, 1) == 0


@settings(max_examples=30)
@given(
    count=st.integers(2, 9),
    choices=st.lists(st.permutations(range(8)).map(lambda p: p[:3]), min_size=1, max_size=6),
)
def test_each_choice_has_its_turn_once_with_its_experts_weights(resident, streamed, count, choices):
    experts = torch.tensor(choices)
    expected, turns = resident_experts(resident), torch.zeros_like(experts)
    for slots, weights in streamed(count).layers[1].feed_forward.experts.waves(experts):
        time.sleep(0.001)  # the next wave is being read meanwhile, and must leave this one alone
        for token, choice in (slots >= 0).nonzero().tolist():
            turns[token, choice] += 1
            slot, expert = slots[token, choice], experts[token, choice]
            for role in ("gate", "up", "down"):
                ours, theirs = getattr(weights, role), getattr(expected, role)
                assert torch.equal(ours.values[slot].float(), theirs.values[expert].float())
                if theirs.fp8:
                    assert torch.equal(ours.scales[slot], theirs.scales[expert])
    assert (turns == 1).all()


@pytest.mark.parametrize("given_bytes", [0, 1.99])
def test_a_budget_for_less_than_two_experts_is_refused_with_what_is_needed(
    resident, kind, given_bytes
):
    (folder, dtype), one = kind, expert_bytes(resident)
    with pytest.raises(UsageError) as refusal:
        load(folder, dtype=dtype, expert_memory=int(given_bytes * one))
    assert f"does not hold two experts of {format_bytes(one)}." in refusal.value.message
    assert f"Give at least {format_bytes(2 * one)};" in refusal.value.hint
    assert format_bytes(3 * one) in refusal.value.hint, "the experts of one token"


DAMAGED = "model.layers.1.mlp.experts.3.up_proj.weight"


@pytest.fixture
def damaged(bf16, tmp_path):
    """One expert of the first layer that has some holds a NaN."""
    folder = shutil.copytree(bf16, tmp_path / "damaged")
    with edited_shard(shard_of(folder, DAMAGED)) as tensors:
        dtype, shape, data = tensors[DAMAGED]
        tensors[DAMAGED] = dtype, shape, data[:-2] + b"\xc0\x7f"
    return folder


@pytest.fixture
def choices(monkeypatch):
    """The experts that each layer of a resident model chooses, one layer after the other."""
    seen = []
    monkeypatch.setattr(
        ResidentExperts, "prefetch", lambda self, experts: seen.append(experts.unique().tolist())
    )
    return seen


@pytest.mark.parametrize("count", [2, 4, ALL])
def test_a_damaged_expert_is_named_by_whoever_needs_it_and_hurts_nobody_else(
    damaged, bf16, choices, count
):
    """Single tokens as prompts, all against one pool. The damage is reported each time."""
    healthy, outcomes = load(bf16), []
    model = load(damaged, expert_memory=count * expert_bytes(healthy))
    for token in torch.arange(60)[:, None]:
        choices.clear()
        expected = prompt_logits(healthy, token)
        outcomes.append(3 in choices[0])
        if outcomes[-1]:
            with pytest.raises(IntegrityError, match=f"^{DAMAGED} holds values that are NaN"):
                prompt_logits(model, token)
        else:
            assert torch.equal(prompt_logits(model, token), expected)
    assert 5 < sum(outcomes) < 55


def test_experts_that_could_not_be_read_are_read_again_by_the_next_request(bf16, monkeypatch):
    """A disk that was gone for a while: eight reads fail at once, and nothing of it is kept."""
    healthy = load(bf16)
    model = load(bf16, expert_memory=ALL * expert_bytes(healthy))

    def failing(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", failing)
        with pytest.raises(DiskError, match="Input/output error"):
            prompt_logits(model, TOKENS)
    assert torch.equal(prompt_logits(model, TOKENS), prompt_logits(healthy, TOKENS))
