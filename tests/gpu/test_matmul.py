"""Products with FP8 weights, in FP8 and widened, against float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from dsdeploy.runner.gpu import matmul, rowwise
from dsdeploy.runner.gpu.matmul import Arithmetic
from dsdeploy.runner.gpu.tiles import Card, Tile, fitted
from dsdeploy.runner.ops import Activation

from ..runner.operands import (
    as_the_product_takes_it,
    in_float64,
    random_like,
    random_weight,
)
from .device import INTERPRETED, UNIT, few, here, triton_ops

FP8 = Arithmetic(True, torch.float32, False)
WIDENED = Arithmetic(False, torch.float32, False)
TILES = [Tile(16, 32, 4, 3), Tile(64, 64, 4, 2), Tile(128, 128, 8, 2)]
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("tile", TILES, ids=str)
@given(rows=st.integers(1, 140), n=st.integers(1, 300), k=st.integers(1, 300), seed=seeds)
@few
@example(rows=1, n=576, k=257, seed=0)
def test_fp8_by_fp8(tile, rows, n, k, seed):
    x, weight = random_like(rows, k, seed=seed), random_weight("e4m3", n, k, seed=seed + 1)
    found = matmul.linear(rowwise.quantise(here(x), False), [here(weight)], tile, FP8).cpu()
    x64, w64 = as_the_product_takes_it(x, weight), in_float64(weight)
    error = (found - x64 @ w64.T).abs()
    assert (error <= (k + 4) * UNIT * (x64.abs() @ w64.abs().T)).all()


@pytest.mark.parametrize(
    ("dtype", "unit"), [(torch.float32, 2**-24), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)]
)
@given(rows=st.integers(1, 30), n=st.integers(1, 150), k=st.integers(1, 300), seed=seeds)
@few
def test_fp8_weights_widened_in_the_product(dtype, unit, rows, n, k, seed):
    """For cards without FP8: the activation is rounded to `dtype` alone, the weight not at all."""
    x, weight = random_like(rows, k, seed=seed), random_weight("e4m3", n, k, seed=seed + 1)
    arithmetic = replace(WIDENED, dtype=dtype)
    found = matmul.linear(Activation(here(x)), [here(weight)], TILES[0], arithmetic).cpu()
    x64, w64 = x.double(), in_float64(weight)
    error = (found - x64 @ w64.T).abs()
    assert (error <= (unit + (k + 4) * UNIT) * (x64.abs() @ w64.abs().T)).all()


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "e4m3"])
@pytest.mark.parametrize("n", [(1536, 576), (70, 130), (128, 1)])
def test_two_weights_at_once_are_each_alone(kind, n):
    x = Activation(here(random_like(3, 200, seed=0)))
    weights = [here(random_weight(kind, count, 200, seed=count)) for count in n]
    ops = triton_ops()
    together = ops.linear(x, *weights).cpu()
    assert torch.equal(together[:, : n[0]], ops.linear(x, weights[0]).cpu())
    assert torch.equal(together[:, n[0] :], ops.linear(x, weights[1]).cpu())


def test_a_row_has_the_same_bits_alone_and_in_a_tile():
    x, weight = random_like(16, 300, seed=1), here(random_weight("e4m3", 50, 300, seed=2))
    whole = matmul.linear(rowwise.quantise(here(x), False), [weight], TILES[0], FP8)
    for row in range(16):
        alone = rowwise.quantise(here(x[row : row + 1]), False)
        assert torch.equal(matmul.linear(alone, [weight], TILES[0], FP8)[0], whole[row])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen_in_its_row_alone(bad):
    x = random_like(3, 256, seed=1)
    x[1, 200] = bad
    found = triton_ops().linear(Activation(here(x)), here(random_weight("e4m3", 40, 256, seed=2)))
    assert found.cpu().isfinite().all(-1).tolist() == [True, False, True]


@pytest.mark.parametrize("spread", [1e-20, 1e20])
def test_extreme_scales(spread):
    """The smallest scale stands for all that is below it; the largest reach float32's end."""
    x, weight = random_like(2, 130, seed=1, spread=spread), random_weight("e4m3", 33, 130, seed=2)
    found = triton_ops().linear(Activation(here(x)), here(weight)).cpu().double()
    expected = as_the_product_takes_it(x, weight) @ in_float64(weight).T
    assert torch.allclose(found, expected, rtol=1e-3, atol=float(expected.abs().max()) * 1e-4)


@pytest.mark.skipif(INTERPRETED, reason="true shapes are for a GPU")
@pytest.mark.parametrize("rows", [1, 7, 64, 300, 4096, 8192])
@pytest.mark.parametrize(("n", "k"), [(2112, 7168), (24576, 1536), (7168, 16384), (576, 7168)])
def test_true_shapes(rows, n, k):
    x, weight = random_like(rows, k, seed=1), random_weight("e4m3", n, k, seed=2)
    found = triton_ops().linear(Activation(here(x)), here(weight)).double()
    x64, w64 = here(as_the_product_takes_it(x, weight)), here(in_float64(weight))
    error = (found - x64 @ w64.T).abs()
    assert (error <= 130 * UNIT * (x64.abs() @ w64.abs().T)).all()


def test_tiles_are_cut_to_the_memory_of_the_card():
    t4 = Card("T4", 40, 64 << 10)
    small = fitted(Tile(128, 128, 8, 4), t4, 2, 1)
    assert (small.rows * 2 + small.columns) * 128 * small.stages <= t4.shared_memory
    assert small.stages >= 1
    h200 = Card("H200", 132, 227 << 10)
    assert fitted(Tile(128, 128, 8, 4), h200, 1, 1) == Tile(128, 128, 8, 4)
