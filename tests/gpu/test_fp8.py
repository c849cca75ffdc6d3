"""Rounding to FP8: the same bits as plain torch, whatever is rounded."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsdeploy.runner.gpu import fp8, rowwise
from dsdeploy.runner.plain import quantise

from .device import DEVICE, few, here

anything = st.floats(width=32)
rows = st.tuples(st.integers(1, 3), st.integers(1, 300)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=anything)
)


def rounded(x, powers):
    found = rowwise.quantise(here(x), powers)
    return found.codes_TK.view(torch.uint8).cpu(), found.scales_TG.cpu()


def assert_same(x, powers):
    codes, scales = rounded(x, powers)
    expected, expected_scales = quantise(x, powers)
    assert torch.equal(scales.nan_to_num(-1), expected_scales.nan_to_num(-1))
    nan = expected.float().isnan()
    assert torch.equal((codes & 0x7F) == 0x7F, nan)
    assert torch.equal(codes[~nan], expected.view(torch.uint8)[~nan])


@pytest.mark.parametrize("powers", [False, True])
@given(x=rows)
@few
def test_any_row_of_numbers(powers, x):
    assert_same(torch.from_numpy(x), powers)


@pytest.mark.parametrize("powers", [False, True])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1, 1e4, 1e30])
def test_many_magnitudes(powers, magnitude):
    x = torch.randn(8, 1024, generator=torch.Generator().manual_seed(0)) * magnitude
    assert_same(x * torch.logspace(-6, 0, 8)[:, None], powers)


@pytest.mark.parametrize("powers", [False, True])
def test_halfway_between_codes(powers):
    """448 makes the scale 1; what lies between two codes goes to the even one, then to 0 or 2^-9."""
    codes = torch.arange(0, 0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    between = (codes[1:] + codes[:-1]) / 2
    x = torch.full((4, 128), 448.0)
    x[0, : len(between)], x[1, : len(between)] = between, -between
    x[2, : len(codes)] = codes
    x[3, : len(between)] = between.nextafter(torch.tensor(0.0))
    assert_same(x, powers)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_spoils_its_group_alone(bad):
    x = torch.ones(2, 384)
    x[1, 130] = bad
    assert_same(x, False)


@triton.jit
def _decode(codes_ptr, out_ptr, DTYPE: tl.constexpr):
    at = tl.arange(0, 256)
    tl.store(out_ptr + at, fp8.decode(tl.load(codes_ptr + at), DTYPE).to(tl.float32))


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16, tl.float32], ids=str)
def test_every_code_is_widened_exactly(dtype):
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    out = torch.empty(256, device=DEVICE)
    _decode[(1,)](here(codes), out, dtype)
    expected = codes.view(torch.float8_e4m3fn).float()
    assert torch.equal(out.cpu().nan_to_num(-1), expected.nan_to_num(-1))
