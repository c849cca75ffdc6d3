"""Grouped experts: two launches for all of them."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from dsdeploy.runner.gpu import experts
from dsdeploy.runner.gpu.tiles import Tile
from dsdeploy.runner.ops import Activation, FeedForwardWeights

from ..runner.operands import assignments, largest_possible, of_slot, random_experts, random_like
from .device import DEVICE, INTERPRETED, PLAIN, UNIT, few, here, triton_ops

seeds = st.integers(0, 2**32 - 1)
ROUNDED_BY_DOWN = (Tile(16, 32, 4, 2), Tile(16, 64, 4, 2))
ROUNDED_BY_GATE_UP = (Tile(32, 128, 4, 2), Tile(32, 128, 4, 2))


def computed(ops, x, slots, weights):
    y = torch.full((*slots.shape, x.shape[1]), -7.0, device=DEVICE)
    ops.feed_forward(Activation(here(x)), here(slots), here(weights), y)
    return y.cpu()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "e4m3"])
@given(case=assignments(), d=st.integers(1, 200), f=st.integers(1, 200), seed=seeds)
@few
@example(case=(3, torch.full((20, 2), 1)), d=130, f=140, seed=0)  # all to one expert
@example(case=(2, torch.full((4, 2), -1)), d=5, f=3, seed=0)  # none here
def test_experts_compute_their_pairs_and_no_other(kind, case, d, f, seed):
    count, slots = case
    weights = random_experts(kind, count, d, f, seed)
    x, expected = random_like(len(slots), d, seed=seed), torch.full((*slots.shape, d), -7.0)
    PLAIN.feed_forward(Activation(x), slots, weights, expected)
    found = computed(triton_ops(), x, slots, weights)
    assert (found[slots < 0] == -7).all()
    # An inner value whose last bit differs can be rounded to the code beside, up to 1/8 away.
    bound = 1 / 8 if kind == "e4m3" else 8 * (d + f + 8) * UNIT
    assert ((found - expected).abs() <= bound * largest_possible(x, slots, weights)).all()


@pytest.mark.parametrize("powers", [False, True])
@pytest.mark.parametrize("tiles", [ROUNDED_BY_DOWN, ROUNDED_BY_GATE_UP], ids=["down", "gate-up"])
def test_an_expert_has_the_bits_of_its_linear_layers(tiles, powers):
    """Whoever rounds what is between."""
    ops, weights = triton_ops(powers=powers), here(random_experts("e4m3", 2, 200, 150, seed=3))
    x = ops.input_for(Activation(here(random_like(9, 200, seed=4))), weights.gate)
    y = torch.empty(9, 1, 200, device=DEVICE)
    slots = torch.ones(9, 1, dtype=torch.int64, device=DEVICE)
    experts.feed_forward(x, slots, weights, y, *tiles, ops._arithmetic)
    only = [of_slot(w, 1) for w in (weights.gate, weights.up, weights.down)]
    dense = ops.dense(
        x, FeedForwardWeights(*(type(w)(w.values[None], w.scales[None]) for w in only))
    )
    assert torch.equal(y[:, 0], dense)


@given(tokens=st.integers(1, 4), choices=st.integers(1, 9), d=st.integers(1, 600), seed=seeds)
@few
def test_combining_is_the_weighted_sum_in_the_order_of_the_choices(tokens, choices, d, seed):
    y, weights = random_like(tokens, choices, d, seed=seed), random_like(tokens, choices, seed=seed)
    expected = sum(weights[:, c, None].double() * y[:, c] for c in range(choices))
    error = (triton_ops().combine(here(y), here(weights)).cpu() - expected).abs()
    bound = (weights.abs()[..., None].double() * y.abs()).sum(1)
    assert (error <= (choices + 1) * 2.0**-24 * bound).all()


@pytest.mark.skipif(INTERPRETED, reason="true shapes are for a GPU")
@pytest.mark.parametrize("tokens", [1, 64, 1000])
def test_true_widths(tokens):
    weights = random_experts("e4m3", 8, 7168, 2048, seed=1)
    slots = torch.randint(0, 8, (tokens, 4), generator=torch.Generator().manual_seed(0))
    x = random_like(tokens, 7168, seed=2)
    expected = torch.empty(tokens, 4, 7168, device=DEVICE)
    PLAIN.feed_forward(Activation(here(x)), here(slots), here(weights), expected)
    found = computed(triton_ops(), x, slots, weights)
    relative = (found - expected.cpu()).norm() / expected.cpu().norm()
    assert relative < 2e-2
