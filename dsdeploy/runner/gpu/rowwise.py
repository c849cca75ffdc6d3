"""Kernels over rows: norms, additions before them, rounding to FP8 after them.

T tokens   D, K width of a row   G groups of 128   A query's latent   L cache's latent
R rotary width   P = R / 2 pairs
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsdeploy.runner.gpu.fp8 import GROUP, encode, group_scales
from dsdeploy.runner.ops import Activation, LatentNorms
from dsdeploy.runner.rope import Turn

_TILE = 1024


@dataclass(frozen=True)
class Rounding:
    """Whether a result is wanted in FP8 too."""

    wanted: bool
    powers_of_two: bool


def rms_norm(
    x_TD: Tensor, weight_D: Tensor, epsilon: float, added_TD: Tensor | None, rounding: Rounding
) -> Activation:
    """As `Ops.rms_norm`."""
    count, width = x_TD.shape
    out = room(x_TD, count, width, rounding.wanted)
    _rms_norm[(count,)](
        x_TD, x_TD.stride(0), x_TD if added_TD is None else added_TD, weight_D, *parts(out),
        width, epsilon, ADD=added_TD is not None, QUANTISE=rounding.wanted,
        POWERS_OF_TWO=rounding.powers_of_two, BLOCK=_block(width), num_warps=8,
    )  # fmt: skip
    return out


def norm_compressed(
    row_TX: Tensor, norms: LatentNorms, turn: Turn, rows_RL: Tensor, slots_T: Tensor,
    rounding: Rounding,
) -> Activation | None:  # fmt: skip
    """As `Ops.norm_compressed`."""
    count, latent, pairs = len(row_TX), len(norms.cache_L), turn.cos_TP.shape[1]
    first = row_TX.shape[1] - latent - 2 * pairs
    query = norms.query_A
    out = None if query is None else room(row_TX, count, first, rounding.wanted)
    _norm_compressed[(count, 1 if out is None else 2)](
        row_TX, row_TX.stride(0), first,
        norms.cache_L, turn.cos_TP, turn.sin_TP, slots_T, rows_RL, rows_RL.stride(0), latent, pairs,
        norms.cache_L if query is None else query, *parts(out or Activation(row_TX)),
        norms.epsilon, QUANTISE=rounding.wanted, POWERS_OF_TWO=rounding.powers_of_two,
        BLOCK_L=_block(latent), BLOCK_P=triton.next_power_of_2(pairs), BLOCK_A=_block(first),
    )  # fmt: skip
    return out


def quantise(x_TK: Tensor, powers_of_two: bool) -> Activation:
    """With its form in FP8."""
    count, width = x_TK.shape
    out = room(x_TK, count, width, True, values_TK=x_TK)
    _quantise[(count, triton.cdiv(width, _TILE))](
        x_TK, x_TK.stride(0), *parts(out)[1:], width, POWERS_OF_TWO=powers_of_two, BLOCK=_TILE,
    )  # fmt: skip
    return out


def gated(gate_up_TF: Tensor, rounding: Rounding) -> Activation:
    """silu(gate) up, of rows [gate, up]."""
    count, width = len(gate_up_TF), gate_up_TF.shape[1] // 2
    out = room(gate_up_TF, count, width, rounding.wanted)
    _gated[(count, triton.cdiv(width, _TILE))](
        gate_up_TF, *parts(out), width, QUANTISE=rounding.wanted,
        POWERS_OF_TWO=rounding.powers_of_two, BLOCK=_TILE,
    )  # fmt: skip
    return out


def _block(width: int) -> int:
    """A power of two that holds whole groups."""
    return max(int(triton.next_power_of_2(width)), int(GROUP.value))


def room(
    like: Tensor, count: int, width: int, rounded: bool, values_TK: Tensor | None = None
) -> Activation:
    """For an activation to be computed into, [count, width]."""
    device = like.device
    if values_TK is None:
        values_TK = torch.empty(count, width, device=device)
    if not rounded:
        return Activation(values_TK)
    codes_TK = torch.empty(count, width, dtype=torch.float8_e4m3fn, device=device)
    groups = triton.cdiv(width, GROUP.value)
    return Activation(values_TK, codes_TK, torch.empty(count, groups, device=device))


def parts(x: Activation) -> tuple[Tensor, Tensor, Tensor]:
    """For a kernel: values, codes, scales; what is missing is never touched."""
    values = x.values_TK
    if x.codes_TK is None or x.scales_TG is None:
        return values, values, values
    return values, x.codes_TK.view(torch.uint8), x.scales_TG


@triton.jit
def _store_groups(
    x, codes_ptr, scales_ptr, first, width, POWERS_OF_TWO: tl.constexpr, BLOCK: tl.constexpr
):
    """Of one row's values from `first` on, which begin a group; both pointers are at the row."""
    GROUPS: tl.constexpr = BLOCK // GROUP
    x_GW = tl.reshape(x, (GROUPS, GROUP))
    scales_G = group_scales(x_GW, POWERS_OF_TWO)
    group_G = first // GROUP + tl.arange(0, GROUPS)
    tl.store(scales_ptr + group_G, scales_G, mask=group_G * GROUP < width)
    at_GW = group_G[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    tl.store(codes_ptr + at_GW, encode(x_GW, scales_G[:, None]), mask=at_GW < width)


@triton.jit
def _normed(x, weight, width, epsilon):
    """Of a row whose values beyond `width` are zero."""
    return x * tl.rsqrt(tl.sum(x * x, 0) / width + epsilon) * weight


@triton.jit
def _rms_norm(
    x_ptr, x_stride, added_ptr, weight_ptr, values_ptr, codes_ptr, scales_ptr,
    width, epsilon,
    ADD: tl.constexpr, QUANTISE: tl.constexpr, POWERS_OF_TWO: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    x = tl.load(x_ptr + token * x_stride + at, mask=inside, other=0.0)
    if ADD:
        x += tl.load(added_ptr + token * width + at, mask=inside, other=0.0)
        tl.store(x_ptr + token * x_stride + at, x, mask=inside)
    out = _normed(x, tl.load(weight_ptr + at, mask=inside, other=0.0), width, epsilon)
    tl.store(values_ptr + token * width + at, out, mask=inside)
    if QUANTISE:
        scales_ptr += token * tl.cdiv(width, GROUP)
        _store_groups(out, codes_ptr + token * width, scales_ptr, 0, width, POWERS_OF_TWO, BLOCK)


@triton.jit
def _norm_compressed(
    row_ptr, row_stride, first,
    weight_ptr, cos_ptr, sin_ptr, slots_ptr, cache_ptr, cache_stride, latent, pairs,
    query_ptr, values_ptr, codes_ptr, scales_ptr,
    epsilon, QUANTISE: tl.constexpr, POWERS_OF_TWO: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_A: tl.constexpr,
):  # fmt: skip
    """The first program of a token makes the cache's row, the second the query's latent."""
    token = tl.program_id(0).to(tl.int64)
    row_ptr += token * row_stride
    if tl.program_id(1) == 0:
        cache_ptr += tl.load(slots_ptr + token) * cache_stride
        _cached(row_ptr + first, weight_ptr, cos_ptr + token * pairs, sin_ptr + token * pairs,
                cache_ptr, latent, pairs, epsilon, BLOCK_L, BLOCK_P)  # fmt: skip
    else:
        normed_A = _normed_row(row_ptr, query_ptr, first, epsilon, BLOCK_A)
        at_A = tl.arange(0, BLOCK_A)
        tl.store(values_ptr + token * first + at_A, normed_A, mask=at_A < first)
        if QUANTISE:
            scales_ptr += token * tl.cdiv(first, GROUP)
            _store_groups(
                normed_A, codes_ptr + token * first, scales_ptr, 0, first, POWERS_OF_TWO, BLOCK_A
            )


@triton.jit
def _cached(
    row_ptr, weight_ptr, cos_ptr, sin_ptr, out_ptr, latent, pairs, epsilon,
    BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    normed_L = _normed_row(row_ptr, weight_ptr, latent, epsilon, BLOCK_L)
    at_L = tl.arange(0, BLOCK_L)
    tl.store(out_ptr + at_L, normed_L.to(out_ptr.dtype.element_ty), mask=at_L < latent)
    _turn(row_ptr + latent, cos_ptr, sin_ptr, out_ptr + latent, pairs, BLOCK_P)


@triton.jit
def _normed_row(row_ptr, weight_ptr, width, epsilon, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(row_ptr + at, mask=at < width, other=0.0)
    return _normed(x, tl.load(weight_ptr + at, mask=at < width, other=0.0), width, epsilon)


@triton.jit
def _turn(x_ptr, cos_ptr, sin_ptr, out_ptr, pairs, BLOCK_P: tl.constexpr):
    """Each pair of neighbours by its angle."""
    pair = tl.arange(0, BLOCK_P)
    inside = pair < pairs
    even = tl.load(x_ptr + 2 * pair, mask=inside, other=0.0)
    odd = tl.load(x_ptr + 2 * pair + 1, mask=inside, other=0.0)
    cos = tl.load(cos_ptr + pair, mask=inside, other=0.0)
    sin = tl.load(sin_ptr + pair, mask=inside, other=0.0)
    dtype = out_ptr.dtype.element_ty
    tl.store(out_ptr + 2 * pair, (even * cos - odd * sin).to(dtype), mask=inside)
    tl.store(out_ptr + 2 * pair + 1, (even * sin + odd * cos).to(dtype), mask=inside)


@triton.jit
def _quantise(
    x_ptr, x_stride, codes_ptr, scales_ptr, width,
    POWERS_OF_TWO: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    at = first + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + token * x_stride + at, mask=at < width, other=0.0)
    scales_ptr += token * tl.cdiv(width, GROUP)
    _store_groups(x, codes_ptr + token * width, scales_ptr, first, width, POWERS_OF_TWO, BLOCK)


@triton.jit
def _gated(
    x_ptr, values_ptr, codes_ptr, scales_ptr, width,
    QUANTISE: tl.constexpr, POWERS_OF_TWO: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    at = first + tl.arange(0, BLOCK)
    gate = tl.load(x_ptr + 2 * token * width + at, mask=at < width, other=0.0)
    up = tl.load(x_ptr + (2 * token + 1) * width + at, mask=at < width, other=0.0)
    out = silu(gate) * up
    tl.store(values_ptr + token * width + at, out, mask=at < width)
    if QUANTISE:
        scales_ptr += token * tl.cdiv(width, GROUP)
        _store_groups(
            out, codes_ptr + token * width, scales_ptr, first, width, POWERS_OF_TWO, BLOCK
        )


@triton.jit
def silu(x):
    return x / (1.0 + tl.exp(-x))
