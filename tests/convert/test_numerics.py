"""The arithmetic against torch, which rounds as the standard says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsdeploy.convert.numerics import block_row_scales, dequantise, quantise_block_row
from dsdeploy.errors import IntegrityError

ALL_CODES = np.arange(256, dtype=np.uint8)


def dequantise_with_torch(codes, scales):
    """The straightforward way: each scale spread over its block, one product, one rounding."""
    rows, columns = codes.shape
    spread = torch.from_numpy(scales).repeat_interleave(128, 0).repeat_interleave(128, 1)
    values = torch.from_numpy(codes).view(torch.float8_e4m3fn).float()
    product = values * spread[:rows, :columns]
    return product.to(torch.bfloat16).view(torch.uint16).numpy()


def same_values(ours, theirs):
    """Equal bits, except that a NaN may be any NaN."""
    nan_ours, nan_theirs = (ours & 0x7FFF) > 0x7F80, (theirs & 0x7FFF) > 0x7F80
    return np.array_equal(nan_ours, nan_theirs) and np.array_equal(
        ours[~nan_ours], theirs[~nan_theirs]
    )


ADVERSARIAL = [1.0, -1.0, 0.0, -0.0, 2.0**-133, 2.0**-149, 1e-40, 3e38, np.inf, np.nan, 1 / 3, 7e-5]


@pytest.mark.parametrize("scale", ADVERSARIAL)
def test_every_code_at_an_adversarial_scale(scale):
    codes = ALL_CODES.reshape(2, 128)
    scales = np.full((1, 1), scale, np.float32)
    ours = np.empty(codes.shape, np.uint16)
    dequantise(codes, scales, ours)
    assert same_values(ours, dequantise_with_torch(codes, scales))


@given(st.integers(0, 2**32 - 1))
def test_every_code_at_any_scale(bits):
    scales = np.array([[bits]], np.uint32).view(np.float32)
    codes = ALL_CODES.reshape(2, 128)
    ours = np.empty(codes.shape, np.uint16)
    dequantise(codes, scales, ours)
    assert same_values(ours, dequantise_with_torch(codes, scales))


def e4m3_values():
    """The 256 values from the format's definition: 1 sign, 4 exponent (bias 7), 3 mantissa bits."""
    sign = np.where(ALL_CODES & 0x80, -1.0, 1.0)
    exponent, mantissa = (ALL_CODES >> 3 & 0xF).astype(int), (ALL_CODES & 7) / 8
    values = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7))
    return np.where((ALL_CODES & 0x7F) == 0x7F, np.nan, sign * values)


def nearest_even_bf16(values):
    """f32 -> the bits of the nearer of the two BF16 neighbours, the even one when they tie."""
    low = values.view(np.uint32) >> 16
    rest = values.view(np.uint32) & 0xFFFF
    up = (rest > 0x8000) | ((rest == 0x8000) & (low & 1 == 1))
    return np.where(np.isnan(values), 0x7FC0, low + up).astype(np.uint16)


@pytest.mark.parametrize(
    "scale", [*ADVERSARIAL, 2.0**-126, 2.0**119, 1.00390625, 1.01171875, 3.4e38, 1.1754942e-38]
)
def test_every_code_as_float64_knows_it(scale):
    """4 bits times 24 are exact in float64; so only the two roundings of the rule are left."""
    scales = np.full((1, 1), scale, np.float32)
    ours = np.empty((2, 128), np.uint16)
    dequantise(ALL_CODES.reshape(2, 128), scales, ours)
    with np.errstate(over="ignore", invalid="ignore"):
        product = (e4m3_values() * np.float64(scales[0, 0])).astype(np.float32)
    assert same_values(ours.reshape(-1), nearest_even_bf16(product))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31))
def test_partial_blocks_take_their_own_scale(rows, columns, seed):
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 256, (rows, columns), np.uint8)
    scales = generator.uniform(1e-4, 1e-2, (-(-rows // 128), -(-columns // 128))).astype(np.float32)
    ours = np.empty(codes.shape, np.uint16)
    dequantise(codes, scales, ours)
    assert same_values(ours, dequantise_with_torch(codes, scales))
    row, column = rows // 3, columns // 3
    part = np.empty((rows - row, columns - column), np.uint16)
    dequantise(codes[row:, column:], scales, part, row, column)
    assert np.array_equal(part, ours[row:, column:])


finite_bf16 = arrays(
    np.uint16, (3, 130), elements=st.integers(0, 0xFFFF).filter(lambda b: (b & 0x7FFF) < 0x7F80)
)


@given(finite_bf16)
def test_quantise_agrees_with_torch(source):
    scales = block_row_scales(source, "test")
    codes = np.empty(source.shape, np.uint8)
    quantise_block_row(source, scales, codes)
    values = torch.from_numpy(source.view(np.int16)).view(torch.bfloat16).float()
    for block, columns in enumerate((slice(0, 128), slice(128, 130))):
        amax = values[:, columns].abs().max()
        scale = amax / 448
        assert scales[block] == (scale if scale > 0 else 1)
        expected = (values[:, columns] / torch.tensor(scales[block])).clamp(-448, 448)
        assert np.array_equal(
            codes[:, columns], expected.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
        )


def test_every_bf16_value_quantises_as_torch_does():
    source = np.arange(0x7F80, dtype=np.uint16)
    source = np.concatenate([source, source | 0x8000]).reshape(-1, 128)
    values = torch.from_numpy(source.view(np.int16)).view(torch.bfloat16).float()
    for scale in (1.0, 0.013, 2.0**-20, 1e30):
        codes = np.empty(source.shape, np.uint8)
        quantise_block_row(source, np.array([scale], np.float32), codes)
        expected = (values / torch.tensor(scale)).clamp(-448, 448).to(torch.float8_e4m3fn)
        assert np.array_equal(codes, expected.view(torch.uint8).numpy())


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0])
def test_infinite_and_nan_sources_are_refused(bits):
    source = np.zeros((1, 128), np.uint16)
    source[0, 5] = bits
    with pytest.raises(IntegrityError, match="NaN or infinite"):
        block_row_scales(source, "test")
