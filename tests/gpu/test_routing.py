"""The gate and the order of its choices."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dsdeploy.runner.gpu import routing as kernels
from dsdeploy.runner.ops import Activation, Routing, Weight

from ..runner.operands import far_from_a_tie, random_like, route
from .device import PLAIN, few, here, triton_ops


def chosen_by_kernels(logits, bias, routing):
    experts, weights = kernels.route(here(logits), here(bias), routing)
    return experts.cpu(), weights.cpu()


@pytest.mark.parametrize("shared", [0, 1])
@given(
    tokens=st.integers(1, 5),
    shape=st.sampled_from([(8, 1, 1, 3), (16, 4, 2, 5), (32, 8, 4, 8), (6, 6, 4, 4), (9, 3, 1, 3)]),
    normalise=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@few
def test_the_gate_chooses_as_plain_torch_does(shared, tokens, shape, normalise, seed):
    experts, groups, kept, choices = shape
    routing = Routing(choices, groups, kept, normalise, 2.5, shared)
    logits = random_like(tokens, experts, seed=seed, spread=2)
    bias = random_like(experts, seed=seed + 1) - 0.5
    assume(far_from_a_tie(logits.double().sigmoid() + bias, groups))
    chosen, weights = chosen_by_kernels(logits, bias, routing)
    expected, expected_weights = route(PLAIN, logits, bias, routing)
    assert torch.equal(chosen, expected)
    assert torch.allclose(weights, expected_weights, rtol=1e-6, atol=0)


def test_the_gates_product_is_float32s_from_bf16_weights():
    """Rounded to BF16, one token in seven would meet other experts."""
    x = random_like(6, 300, seed=1, spread=0.1)
    gate = random_like(16, 300, seed=2).bfloat16()
    routing, bias = Routing(4, 4, 2, True, 1.0), torch.zeros(16)
    found = triton_ops(dtype=torch.bfloat16).route(
        Activation(here(x)), here(Weight(gate)), here(bias), routing
    )
    exact = route(PLAIN, x @ gate.float().T, bias, routing)
    assert torch.equal(found[0].cpu(), exact[0])
    assert torch.allclose(found[1].cpu(), exact[1], rtol=1e-5)


def test_of_equal_experts_the_first_is_chosen():
    chosen, weights = chosen_by_kernels(
        torch.zeros(1, 8), torch.zeros(8), Routing(3, 2, 1, True, 1.0)
    )
    assert chosen.tolist() == [[0, 1, 2]]
    assert torch.allclose(weights, torch.full((1, 3), 1 / 3))


def test_no_expert_of_a_closed_group_is_chosen_even_when_the_open_ones_are_negative():
    bias = torch.tensor([-1.0, -2.0, -9.0, -9.0])
    chosen, _ = chosen_by_kernels(torch.zeros(1, 4), bias, Routing(2, 2, 1, True, 1.0))
    assert chosen.tolist() == [[0, 1]]


@given(
    slots=st.integers(1, 9), choices=st.integers(1, 3), rows=st.sampled_from([1, 4, 16]),
    data=st.data(),
)  # fmt: skip
@few
def test_pairs_are_sorted_by_slot_and_cut_into_tiles(slots, choices, rows, data):
    pairs = choices * data.draw(st.integers(1, 20))
    drawn = data.draw(st.lists(st.integers(-1, slots - 1), min_size=pairs, max_size=pairs))
    assert_ordered(torch.tensor(drawn).view(-1, choices), slots, rows)


@pytest.mark.parametrize("slot", [0, 4, -1])
def test_all_pairs_in_one_slot_or_none(slot):
    assert_ordered(torch.full((40, 2), slot), 5, 16)


def test_more_pairs_than_a_program_reads_at_a_time():
    assert_ordered(
        torch.randint(-1, 3, (700, 2), generator=torch.Generator().manual_seed(0)), 3, 64
    )


def assert_ordered(chosen, slots, rows):
    order = kernels.sort_by_slot(here(chosen), slots, rows)
    flat = chosen.flatten().tolist()
    expected = [at for slot in range(slots) for at, other in enumerate(flat) if other == slot]
    assert order.pairs_P.tolist()[: len(expected)] == expected
    tiles = order.tiles.tolist()[: int(order.count)]
    covered = [at for _, first, end in tiles for at in range(first, end)]
    assert covered == list(range(len(expected)))
    for slot, first, end in tiles:
        assert 0 < end - first <= rows
        assert {flat[expected[at]] for at in range(first, end)} == {slot}
