"""The compiled kernels against float64 and against plain torch, at sizes that no tile divides.

A sum of K products in float32, in any order, is within K units of 2^-24 of the sum of their absolute
values: that is the bound used here. A product left out or taken twice is far beyond it.
"""

import numba
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dsdeploy.runner.compiled import CompiledOps
from dsdeploy.runner.kernels.matmul import U, all_finite, dot_rows, widen_matrix
from dsdeploy.runner.kernels.rowwise import exponential
from dsdeploy.runner.ops import (
    Activation,
    DecodingQueries,
    HeadShape,
    Routing,
)
from dsdeploy.runner.plain import PlainOps, widen
from dsdeploy.runner.rope import Turn
from dsdeploy.runner.step import Span

from .operands import (
    as_the_product_takes_it,
    assignments,
    cache_and_weights,
    far_from_a_tie,
    in_float64,
    largest_possible,
    of_slot,
    queries_of,
    random_experts,
    random_like,
    random_weight,
    route,
    turn_of,
)

FORMATS = ["float32", "bfloat16", "float16", "e4m3"]
UNIT = 2.0**-24
PLAIN, COMPILED = PlainOps(False), CompiledOps(False)
sizes = st.integers(1, 300)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", FORMATS)
@given(rows=st.integers(1, 20), n=sizes, k=sizes, seed=seeds)
@example(rows=20, n=1, k=1, seed=0)
@example(rows=1, n=257, k=129, seed=0)
@example(rows=7, n=17, k=256, seed=0)
def test_a_linear_layer_is_the_product(kind, rows, n, k, seed):
    x, weight = random_like(rows, k, seed=seed), random_weight(kind, n, k, seed=seed + 1)
    x64, w64 = as_the_product_takes_it(x, weight), in_float64(weight)
    error = (COMPILED.linear(Activation(x), weight) - x64 @ w64.T).abs()
    # Two roundings more where codes and scales, of x and of w, are multiplied.
    assert (error <= (k + 2) * UNIT * (x64.abs() @ w64.abs().T)).all()


@pytest.mark.parametrize("kind", FORMATS)
@given(rows=st.integers(2, 20), n=sizes, k=sizes, seed=seeds, data=st.data())
def test_a_row_has_the_same_bits_alone_and_among_others(kind, rows, n, k, seed, data):
    x, weight = random_like(rows, k, seed=seed), random_weight(kind, n, k, seed=seed + 1)
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    together = COMPILED.linear(Activation(x), weight)
    assert torch.equal(COMPILED.linear(Activation(x[first:last]), weight), together[first:last])


@numba.njit
def strided_product(x, x_at, x_stride, rows, w, w_at, w_stride, columns, scales, k, out):
    """Into every third row of an `out` that is 40 wide, from column 5 on."""
    dot_rows(
        x, x_at, x_stride, rows, w, w_at, w_stride, columns, scales, U(1), k, out, U(5), U(120)
    )  # fmt: skip


@given(rows=st.integers(1, 13), columns=st.integers(1, 30), k=st.integers(1, 200), seed=seeds)
@settings(max_examples=50)
def test_dot_rows_keeps_to_its_strides_and_writes_nothing_else(rows, columns, k, seed):
    """As attention uses it, on parts of rows."""
    x, w = random_like(rows, k + 7, seed=seed), random_weight("e4m3", columns, k + 9, seed=seed)
    scales = np.array([9e9, 0.5, 2.0], np.float32)  # the first is another matrix's
    out = np.full((rows, 3, 40), -7, np.float32)
    strided_product(
        x.numpy().reshape(-1), U(3), U(k + 7), U(rows), w.values.view(torch.uint8).numpy().ravel(),
        U(4), U(k + 9), U(columns), scales, U(k), out.reshape(-1),
    )  # fmt: skip
    x64, w64 = x[:, 3 : 3 + k].double(), w.values[:, 4 : 4 + k].double()
    w64 = w64 * torch.where(torch.arange(k) < 128, 0.5, 2.0)
    error = (torch.from_numpy(out[:, 0, 5 : 5 + columns]) - x64 @ w64.T).abs()
    assert (error <= (k + 1) * UNIT * (x64.abs() @ w64.abs().T)).all()
    out[:, 0, 5 : 5 + columns] = -7
    assert (out == -7).all()


@given(n=sizes, k=sizes, seed=seeds)
def test_widening_is_one_product_each(n, k, seed):
    weight = random_weight("e4m3", n, k, seed=seed)
    out = np.empty((n, k), np.float32)
    codes = weight.values.view(torch.uint8).numpy().ravel()
    widen_matrix(codes, U(n), U(k), weight.scales.numpy().ravel(), out.reshape(-1))
    assert np.array_equal(out, in_float64(weight).float().numpy())


BORDERS = [0x7F7FFFFF, 0x7F800000, 0x7F800001, 0xFF7FFFFF, 0xFF800000, 0xFFFFFFFF]


@pytest.mark.parametrize(
    ("patterns", "stored"),
    [
        (np.arange(1 << 8, dtype=np.uint8), torch.float8_e4m3fn),
        (np.arange(1 << 16, dtype=np.uint16), torch.bfloat16),
        (np.array([*range(0, 1 << 32, 54321), *BORDERS], np.uint32), torch.float32),
    ],
    ids=["all of e4m3", "all of BF16", "some of float32"],
)
def test_every_bit_pattern_that_is_not_finite_is_found(patterns, stored):
    finite = torch.from_numpy(patterns).view(stored).float().isfinite().numpy()
    assert all_finite(patterns[finite])
    # Among fine ones, so that a loop over vectors meets each in every place.
    for at, pattern in enumerate(patterns[~finite]):
        values = np.zeros(70, patterns.dtype)
        values[at % 70] = pattern
        assert not all_finite(values)


@numba.njit
def fill_with_exponentials(x, out):
    for at in range(x.shape[0]):
        out[at] = exponential(x[at])


def exponentials(x):
    out = torch.empty(x.shape)
    fill_with_exponentials(x.numpy().reshape(-1), out.numpy().reshape(-1))
    return out


def test_the_exponential_is_within_two_units_of_the_last_place():
    """At a million places, and where the argument's range is cut: at halves of ln 2."""
    borders = (np.arange(-125, 126) + 0.5) * np.log(2)
    values = np.float32([*np.linspace(-87, 88, 1 << 20), *borders, *np.nextafter(borders, 99)])
    exact = np.exp(np.float64(values))
    unit = np.spacing(np.float32(exact)).astype(np.float64)
    error = np.abs(exponentials(torch.from_numpy(values)).double().numpy() - exact)
    assert (error / unit).max() <= 2
    assert exponential(np.float32(0)) == 1


@given(st.floats(width=32, allow_nan=False))
def test_the_exponential_of_anything_is_positive_and_finite(value):
    """Beyond its range it stays at the border: what is nothing beside 1 may be 1e-38."""
    found = exponential(np.float32(value))
    assert 0 < found < np.inf
    assert value >= -87 or found < 2e-38


@given(rows=st.integers(1, 9), width=sizes, seed=seeds, magnitude=st.sampled_from([1e-4, 1, 1e4]))
def test_the_norm_is_that_of_float64(rows, width, seed, magnitude):
    x, weight = random_like(rows, width, seed=seed, spread=magnitude), random_like(width, seed=seed)
    x64 = x.double()
    exact = x64 / ((x64**2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    # Three roundings: the factor and two products.
    error = (COMPILED.rms_norm(x, weight, 1e-6).values_TK - exact).abs()
    assert (error <= 3.01 * UNIT * exact.abs()).all()


@given(
    tokens=st.integers(1, 20),
    shape=st.sampled_from([(8, 1, 1, 3), (16, 4, 2, 5), (32, 8, 4, 8), (6, 6, 4, 4), (9, 3, 1, 3)]),
    normalise=st.booleans(),
    seed=seeds,
)
def test_the_gate_chooses_as_plain_torch_does(tokens, shape, normalise, seed):
    experts, groups, kept, choices = shape
    routing = Routing(choices, groups, kept, normalise, 2.5)
    logits = random_like(tokens, experts, seed=seed, spread=2)
    # A bias that matters, and that leaves some of the open experts below zero.
    bias = random_like(experts, seed=seed + 1) - 0.5
    assume(far_from_a_tie(logits.double().sigmoid() + bias, groups))
    chosen, weights = route(COMPILED, logits, bias, routing)
    expected, expected_weights = route(PLAIN, logits, bias, routing)
    assert torch.equal(chosen, expected)
    assert torch.allclose(weights, expected_weights, rtol=1e-6, atol=0)


@pytest.mark.parametrize("ops", [PLAIN, COMPILED], ids=["plain", "compiled"])
def test_the_bias_chooses_and_does_not_weigh(ops):
    logits, bias = torch.zeros(1, 4), torch.tensor([0.0, 0.0, -1.0, 5.0])
    bias[1] += 1e-3
    chosen, weights = route(ops, logits, bias, Routing(2, 1, 1, True, 3.0))
    assert chosen.tolist() == [[3, 1]]
    assert weights.tolist() == [[1.5, 1.5]]


@pytest.mark.parametrize("ops", [PLAIN, COMPILED], ids=["plain", "compiled"])
def test_no_expert_of_a_closed_group_is_chosen_even_when_the_open_ones_are_negative(ops):
    """Older transformers gave the closed ones 0 and took them here."""
    bias = torch.tensor([-1.0, -2.0, -9.0, -9.0])
    chosen, _ = route(ops, torch.zeros(1, 4), bias, Routing(2, 2, 1, True, 1.0))
    assert chosen.tolist() == [[0, 1]]


@pytest.mark.parametrize("kind", FORMATS)
@given(case=assignments(), d=sizes, f=sizes, seed=seeds)
@settings(max_examples=40)
@example(case=(3, torch.full((20, 2), 1)), d=130, f=140, seed=0)  # all to one expert
@example(case=(2, torch.full((4, 2), -1)), d=5, f=3, seed=0)  # none here
def test_experts_compute_their_pairs_and_no_other(kind, case, d, f, seed):
    count, slots = case
    weights = random_experts(kind, count, d, f, seed)
    x = random_like(len(slots), d, seed=seed)
    y, expected = torch.full((2, *slots.shape, d), -7.0)
    COMPILED.feed_forward(Activation(x), slots, weights, y)
    PLAIN.feed_forward(Activation(x), slots, weights, expected)
    assert (y[slots < 0] == -7).all()
    # In FP8 an inner value that differs in its last bit can round to the neighbouring code, which is
    # up to 1/8 away; the next test is the sharp one there.
    bound = 1 / 8 if kind == "e4m3" else 8 * (d + f + 8) * UNIT
    assert ((y - expected).abs() <= bound * largest_possible(x, slots, weights)).all()


@pytest.mark.parametrize(
    ("kind", "powers_of_two"), [*((kind, False) for kind in FORMATS), ("e4m3", True)]
)
@given(rows=st.integers(1, 20), d=sizes, f=sizes, seed=seeds)
@settings(max_examples=20)
def test_an_expert_has_the_bits_of_its_three_linear_layers(kind, powers_of_two, rows, d, f, seed):
    ops = CompiledOps(powers_of_two)
    weights = random_experts(kind, 2, d, f, seed)
    x, y = random_like(rows, d, seed=seed), torch.empty(rows, 1, d)
    ops.feed_forward(Activation(x), torch.ones(rows, 1, dtype=torch.int64), weights, y)
    gate, up = (ops.linear(Activation(x), of_slot(w, 1)) for w in (weights.gate, weights.up))
    inner = up * (gate / (1 + exponentials(-gate)))
    assert torch.equal(y[:, 0], ops.linear(Activation(inner), of_slot(weights.down, 1)))


@given(tokens=st.integers(1, 9), choices=st.integers(1, 8), d=sizes, seed=seeds)
def test_combining_is_the_weighted_sum_in_the_order_of_the_choices(tokens, choices, d, seed):
    y, weights = random_like(tokens, choices, d, seed=seed), random_like(tokens, choices, seed=seed)
    expected = torch.zeros(tokens, d)
    for choice in range(choices):
        expected += weights[:, choice, None] * y[:, choice]
    found = COMPILED.combine(y, weights)
    assert torch.equal(found, expected)
    assert torch.allclose(found, PLAIN.combine(y, weights), rtol=1e-5, atol=1e-5)


SHAPES = [
    HeadShape(heads=3, no_position=20, rotary=6, value=12, latent=40, scale=0.2),
    HeadShape(heads=1, no_position=1, rotary=2, value=1, latent=1, scale=0.5),
    HeadShape(heads=8, no_position=16, rotary=8, value=70, latent=136, scale=0.15),
]
CACHES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", CACHES, ids=str)
@given(
    shape=st.sampled_from(SHAPES), past=st.integers(0, 140), count=st.integers(1, 50),
    pages=st.permutations(range(5)), seed=seeds,
)  # fmt: skip
@settings(max_examples=30)
def test_naive_attention_is_that_of_plain_torch(dtype, shape, past, count, pages, seed):
    rows, kv_b = cache_and_weights(shape, dtype, 5, seed)
    q, span = queries_of(shape, count, seed), Span(past, count, tuple(pages), True)
    turn = turn_of(shape, count, seed)
    found = COMPILED.attend_naive(q.clone(), turn, span, rows, kv_b, shape).values_TK
    expected = PLAIN.attend_naive(q.clone(), turn, span, rows, kv_b, shape).values_TK
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", CACHES, ids=str)
@given(
    shape=st.sampled_from(SHAPES), lengths=st.lists(st.integers(1, 190), min_size=1, max_size=6),
    pages=st.permutations(range(9)), data=st.data(), seed=seeds,
)  # fmt: skip
@settings(max_examples=30)
def test_absorbed_attention_is_that_of_plain_torch(dtype, shape, lengths, pages, data, seed):
    rows, kv_b = cache_and_weights(shape, dtype, 9, seed)
    owners = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    queries = DecodingQueries(
        torch.tensor(lengths), torch.tensor(owners), torch.tensor(pages).view(3, 3)
    )
    q, turn = queries_of(shape, len(lengths), seed), turn_of(shape, len(lengths), seed)
    found = COMPILED.attend_absorbed(q.clone(), turn, queries, rows, kv_b, shape).values_TK
    expected = PLAIN.attend_absorbed(q.clone(), turn, queries, rows, kv_b, shape).values_TK
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("form", ["naive", "absorbed"])
def test_a_key_that_stands_out_is_the_only_one_seen(form):
    """Scores of thousands: exp of the other keys' distance is below what float32 holds."""
    shape = SHAPES[0]
    still = Turn(torch.ones(1, shape.rotary // 2), torch.zeros(1, shape.rotary // 2))
    rows, kv_b = cache_and_weights(shape, torch.float32, 2, seed=0)
    q = torch.zeros(1, shape.heads, shape.no_position + shape.rotary)
    q[..., -1], rows[:, -1], rows[70, -1] = 100.0, -100.0, 100.0
    if form == "naive":
        found = COMPILED.attend_naive(q, still, Span(99, 1, (0, 1), True), rows, kv_b, shape)
    else:
        one = DecodingQueries(torch.tensor([100]), torch.tensor([0]), torch.tensor([[0, 1]]))
        found = COMPILED.attend_absorbed(q, still, one, rows, kv_b, shape)
    values = widen(kv_b).view(shape.heads, -1, shape.latent)[:, shape.no_position :]
    assert torch.allclose(
        found.values_TK[0], (values @ rows[70, : shape.latent]).flatten(), atol=1e-5
    )
