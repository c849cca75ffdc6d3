"""Norms with the addition before and the rounding after them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.runner.gpu import rowwise
from dsdeploy.runner.gpu.rowwise import Rounding
from dsdeploy.runner.ops import LatentNorms
from dsdeploy.runner.plain import quantise
from dsdeploy.runner.rope import Turn

from ..runner.operands import random_like
from .device import DEVICE, PLAIN, few, here, triton_ops

seeds = st.integers(0, 2**32 - 1)
ROUND = Rounding(True, False)


def assert_rounded(found):
    """Its form in FP8 is that of its values."""
    codes, scales = quantise(found.values_TK.cpu())
    assert torch.equal(found.codes_TK.cpu().view(torch.uint8), codes.view(torch.uint8))
    assert torch.equal(found.scales_TG.cpu(), scales)


@given(rows=st.integers(1, 4), width=st.integers(1, 700), added=st.booleans(), seed=seeds)
@few
def test_the_norm_is_that_of_float64_and_is_rounded_as_it_stands(rows, width, added, seed):
    x, weight = random_like(rows, width, seed=seed), random_like(width, seed=seed + 1)
    more = random_like(rows, width, seed=seed + 2) if added else None
    x_here = here(x.clone())
    found = triton_ops().rms_norm(x_here, here(weight), 1e-6, more if more is None else here(more))
    x = x if more is None else x + more
    assert torch.equal(x_here.cpu(), x)
    exact = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    assert torch.allclose(found.values_TK.cpu().double(), exact, rtol=1e-6, atol=0)
    assert_rounded(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("query", [0, 24, 300])
def test_a_row_of_the_cache_and_the_querys_latent(dtype, query):
    """`query` 0: a model whose queries are not compressed."""
    rows, latent, pairs = 3, 40, 3
    row = random_like(rows, max(query, 7) + latent + 2 * pairs, seed=1)
    angles = random_like(rows, pairs, seed=2, spread=3)
    turn = Turn(angles.cos(), angles.sin())
    norm = random_like(query, seed=3) if query else None
    norms = LatentNorms(norm, random_like(latent, seed=4), 1e-6)
    slots = torch.tensor([5, 0, 63])
    cache = torch.full((64, latent + 2 * pairs), 7.0, dtype=dtype)
    expected, found = cache.clone(), here(cache.clone())
    there = PLAIN.norm_compressed(row, norms, turn, expected, slots)
    norms = LatentNorms(norm if norm is None else here(norm), here(norms.cache_L), 1e-6)
    turn = Turn(here(turn.cos_TP), here(turn.sin_TP))
    out = rowwise.norm_compressed(here(row), norms, turn, found, here(slots), ROUND)
    # The interpreter rounds to BF16 towards zero.
    unit = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    assert torch.allclose(found.cpu().float(), expected.float(), rtol=unit, atol=1e-6)
    untouched = [row for row in range(64) if row not in slots]
    assert (found.cpu()[untouched] == 7).all()
    if not query:
        assert out is there is None
        return
    assert torch.allclose(out.values_TK.cpu(), there.values_TK, rtol=1e-6)
    assert_rounded(out)


@given(rows=st.integers(1, 3), width=st.integers(1, 1200), seed=seeds)
@few
def test_gated_rows(rows, width, seed):
    x = random_like(rows, 2 * width, seed=seed, spread=4)
    found = rowwise.gated(here(x), ROUND)
    gate, up = x.double().split(width, -1)
    exact = gate / (1 + (-gate).exp()) * up
    assert torch.allclose(found.values_TK.cpu().double(), exact, rtol=1e-6, atol=1e-30)
    assert_rounded(found)


def test_without_rounding_there_are_no_codes():
    found = rowwise.gated(torch.ones(1, 4, device=DEVICE), Rounding(False, False))
    assert found.codes_TK is None
    assert found.scales_TG is None
