"""FP8: how activations are rounded, bit for bit, and how far that is from the exact model."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsdeploy.runner.compiled import CompiledOps
from dsdeploy.runner.ops import Activation, Weight
from dsdeploy.runner.plain import PlainOps, quantise, widen

from ..oracles import Oracle
from .conftest import ODD
from .driver import load, logits_with_generated, prompt_logits, random_tokens

TOKENS = random_tokens(150)
BOTH = pytest.mark.parametrize("powers_of_two", [False, True], ids=["float32", "ue8m0"])


def e4m3_values():
    """Of the codes 0 ... 0x7e, by the format's definition: 4 bits of exponent, bias 7, and 3 of
    mantissa; below 2^-6 there is no leading 1."""
    codes = np.arange(0x7F)
    exponent, mantissa = codes >> 3, (codes & 7) / 8
    return np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7))


def nearest_codes(values):
    """The code of the nearest value, of two as near the even one; beyond 448 that of 448."""
    table, magnitude = e4m3_values(), np.abs(np.float64(values))
    above = np.minimum(np.searchsorted(table, magnitude), 0x7E)
    below = np.maximum(above - 1, 0)
    to_above, to_below = table[above] - magnitude, magnitude - table[below]
    up = (to_above < to_below) | ((to_above == to_below) & (above % 2 == 0))
    return np.where(up, above, below).astype(np.uint8) | (np.signbit(values) << 7).astype(np.uint8)


def by_the_demos_rule(x, powers_of_two):
    """(codes, scales) of one group of 128, as act_quant of DeepSeek's inference/kernel.py."""
    scale = np.maximum(np.abs(x).max(), np.float32(1e-4)) / np.float32(448)
    if powers_of_two:
        mantissa, exponent = np.frexp(scale)  # in [0.5, 1): log2 is whole at 0.5 alone
        scale = np.float32(2.0 ** (exponent - (mantissa == 0.5)))
    return nearest_codes(x / scale), scale


def bits(codes):
    return codes.view(torch.uint8).numpy()


def between_two_codes(x):
    """Each group begins with 448, so that its scale is 1 and midpoints stay midpoints."""
    x[:, ::128] = 448
    return x


ORDINARY = st.floats(-1e6, 1e6, width=32)
TINY = st.floats(-(2**-12), 2**-12, width=32)  # around the least amax, 1e-4
MIDPOINTS = st.sampled_from([*(e4m3_values()[1:] + e4m3_values()[:-1]) / 2]).flatmap(
    lambda value: st.sampled_from([value, -value])
)


def rows_of(elements):
    return st.integers(1, 300).flatmap(
        lambda width: arrays(np.float32, (2, width), elements=elements)
    )


rows_of_values = st.one_of(
    rows_of(ORDINARY), rows_of(TINY), rows_of(MIDPOINTS).map(between_two_codes)
)


@BOTH
@given(x=rows_of_values)
@example(x=np.zeros((1, 5), np.float32))
@example(x=np.float32([[448, 0.5 * 2**-9, 1.5 * 2**-9, 17, -19, 447.9, 2**-6]]))
def test_codes_and_scales_are_the_demos(powers_of_two, x):
    codes, scales = quantise(torch.from_numpy(x), powers_of_two)
    assert scales.shape == (len(x), -(-x.shape[1] // 128))
    for row in range(len(x)):
        for group in range(scales.shape[1]):
            columns = slice(128 * group, 128 * (group + 1))
            expected, scale = by_the_demos_rule(x[row, columns], powers_of_two)
            assert scales[row, group] == scale
            assert np.array_equal(bits(codes)[row, columns], expected)


@BOTH
@given(x=rows_of_values)
def test_the_compiled_rounding_is_codes_times_scales(powers_of_two, x):
    """Seen through a product with the identity: nothing is added to it but zeros."""
    x = torch.from_numpy(x)
    width = x.shape[1]
    identity = Weight(torch.eye(width).to(torch.float8_e4m3fn), one_scale_each(width, width))
    codes, scales = quantise(x, powers_of_two)
    expected = codes.float() * scales.repeat_interleave(128, -1)[:, :width]
    assert torch.equal(CompiledOps(powers_of_two).linear(Activation(x), identity), expected)
    assert torch.equal(PlainOps(powers_of_two).linear(Activation(x), identity), expected)


def one_scale_each(rows, columns):
    return torch.ones(-(-rows // 128), -(-columns // 128))


@pytest.mark.parametrize(("n", "k"), [(576, 200), (128, 128), (130, 1000), (1, 129)])
@pytest.mark.parametrize("ops", [PlainOps(False), CompiledOps(False)], ids=["plain", "compiled"])
def test_a_layer_is_within_4_percent_of_its_float32_weights(ops, n, k):
    """Rounding to 4 bits of mantissa errs by up to 1/16, evenly: by 1/16 / sqrt(3) = 3.6 %."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(40, k, generator=generator)
    codes = (torch.randn(n, k, generator=generator) * 100).clamp(-448, 448)
    scales = torch.rand(-(-n // 128), -(-k // 128), generator=generator) / 100
    weight = Weight(codes.to(torch.float8_e4m3fn), scales)
    assert 0.01 < relative(ops.linear(Activation(x), weight), x @ widen(weight).T) < 0.04


def relative(ours, exact):
    return ((ours - exact).norm() / exact.norm()).item()


@pytest.fixture(scope="module", params=["float32", "ue8m0"])
def checkpoint(request, synth, tmp_path_factory):
    """Every matrix has blocks that are cut short: in ODD no size is a multiple of 128."""
    options = () if request.param == "float32" else ("--scale-fmt", "ue8m0")
    return synth(tmp_path_factory.mktemp("checkpoint") / "fp8", *options, **ODD)


@pytest.mark.parametrize("kernels", ["plain", "compiled"])
def test_dequantised_weights_give_the_logits_of_float64(checkpoint, kernels):
    """So each scale has met its block, the partial ones too."""
    model = load(checkpoint, dtype="float32", kernels=kernels)
    exact = Oracle(checkpoint).logits(TOKENS)
    assert (prompt_logits(model, TOKENS) - exact).abs().max() < 1e-4
    assert (logits_with_generated(model, TOKENS, 120) - exact).abs().max() < 1e-4


@pytest.mark.parametrize("kernels", ["plain", "compiled"])
def test_a_model_in_fp8_is_within_6_percent_of_the_dequantised_one(checkpoint, kernels):
    exact = prompt_logits(load(checkpoint, dtype="float32", kernels=kernels), TOKENS)
    model = load(checkpoint, dtype="fp8", kernels=kernels)
    for ours in (prompt_logits(model, TOKENS), logits_with_generated(model, TOKENS, 120)):
        assert 0.005 < relative(ours, exact) < 0.06


def test_the_scales_of_activations_are_powers_of_two_when_the_weights_are(checkpoint):
    powers = load(checkpoint).config.quantization.scale_format == "ue8m0"
    x = torch.tensor([[300.0, 3.3, 0.01]])
    identity = Weight(torch.eye(3).to(torch.float8_e4m3fn), one_scale_each(3, 3))
    model = load(checkpoint)
    assert torch.equal(
        model.ops.linear(Activation(x), identity), PlainOps(powers).linear(Activation(x), identity)
    )
    assert not torch.equal(
        model.ops.linear(Activation(x), identity),
        PlainOps(not powers).linear(Activation(x), identity),
    )
