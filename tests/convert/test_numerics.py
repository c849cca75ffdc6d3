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
