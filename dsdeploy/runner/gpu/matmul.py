"""Products with weights: FP8 by FP8 in blocks, or FP8 weights widened on their way into the product.

    M rows   K inputs   N outputs

A block of 128 inputs is multiplied on the tensor cores and added in float32 with its two scales, so
that the short accumulators of FP8 hold 128 products at most.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsdeploy.runner.gpu.fp8 import GROUP, decode
from dsdeploy.runner.gpu.tiles import Tile
from dsdeploy.runner.ops import Activation, Weight

OF_TRITON = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@dataclass(frozen=True)
class Arithmetic:
    fp8: bool
    """Whether FP8 weights are multiplied in FP8; else they are widened."""
    dtype: torch.dtype
    """In which all else is multiplied; sums are always float32."""
    powers_of_two: bool
    """Whether scales of activations are."""


def arithmetic_of(device: torch.device, powers_of_two: bool) -> Arithmetic:
    """What a card multiplies. The interpreter does all, and is exact."""
    if device.type == "cpu":
        return Arithmetic(True, torch.float32, powers_of_two)
    if torch.version.hip is not None:
        # CDNA 3 multiplies another FP8, with half the range.
        return Arithmetic(False, torch.bfloat16, powers_of_two)
    capability = torch.cuda.get_device_capability(device)
    dtype = torch.bfloat16 if capability >= (8, 0) else torch.float16
    return Arithmetic(capability >= (8, 9), dtype, powers_of_two)


def multiplied_in(weight: Weight, arithmetic: Arithmetic) -> torch.dtype:
    """Of a product that is none of FP8: float32 weights are taken as they are."""
    return torch.float32 if weight.values.dtype == torch.float32 else arithmetic.dtype


def triton_dtype(weight: Weight, arithmetic: Arithmetic) -> tl.dtype:
    return OF_TRITON[multiplied_in(weight, arithmetic)]


_WIDE_BLOCK = 32
"""Inputs at a time of a product without blocks: in float32, more of them overflow the registers."""


def linear(x: Activation, weights: Sequence[Weight], tile: Tile, arithmetic: Arithmetic) -> Tensor:
    """[M, N of one or two weights], in one kernel; x has its codes where FP8 is multiplied."""
    first, second = weights[0], weights[-1]
    n_first = first.values.shape[0]
    n_second = second.values.shape[0] if len(weights) > 1 else 0
    m, k = len(x), first.values.shape[1]
    out = torch.empty(m, n_first + n_second, device=first.values.device)
    fp8 = first.fp8 and arithmetic.fp8
    inputs, scales = operands(x, fp8)
    tiles = triton.cdiv(n_first, tile.columns) + triton.cdiv(n_second, tile.columns)
    _linear[(tiles, triton.cdiv(m, tile.rows))](
        inputs, inputs.stride(0), scales, *stored(first), *stored(second), out,
        m, n_first, n_second, k,
        X_FP8=fp8, W_FP8=first.fp8, DTYPE=triton_dtype(first, arithmetic),
        BLOCK_M=tile.rows, BLOCK_N=tile.columns, BLOCK_K=GROUP if first.fp8 else _WIDE_BLOCK,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def bytes_of(x: Activation) -> int:
    """Of each input, as a program reads it."""
    return (x.values_TK if x.codes_TK is None else x.codes_TK).element_size()


def operands(x: Activation, fp8: bool) -> tuple[Tensor, Tensor]:
    """(codes, scales) of the activation; its values, and no scales, where FP8 is not multiplied."""
    if not fp8:
        return x.values_TK, x.values_TK
    if x.codes_TK is None or x.scales_TG is None:
        raise RuntimeError("an activation without codes cannot be multiplied in FP8")
    return x.codes_TK.view(torch.uint8), x.scales_TG


def stored(weight: Weight) -> tuple[Tensor, Tensor]:
    """(values or codes, scales); scales that do not exist are never touched."""
    if weight.scales is None:
        return weight.values, weight.values
    return weight.values.view(torch.uint8), weight.scales


_WIDEN = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""The interpreter multiplies no BF16."""


@triton.jit
def multiply(a, b):
    """float32 sums of products, none of them rounded before (as TF32 would)."""
    if _WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def block_product(
    x, x_scales, w, w_scale, X_FP8: tl.constexpr, W_FP8: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """What 128 inputs add: x [M, 128] by w [N, 128], either as codes in FP8, with the scales of the
    rows of x [M] and of the block of w."""
    if X_FP8:
        x = x.to(tl.float8e4nv, bitcast=True)
        w = w.to(tl.float8e4nv, bitcast=True)
        product = multiply(x, tl.trans(w)) * (x_scales * w_scale)[:, None]
    elif W_FP8:
        w = decode(w, DTYPE)
        product = multiply(x.to(DTYPE), tl.trans(w)) * w_scale
    else:
        product = multiply(x.to(DTYPE), tl.trans(w.to(DTYPE)))
    return product


@triton.jit
def _linear(
    x_ptr, x_stride, x_scales_ptr,
    w_ptr, w_scales_ptr, second_ptr, second_scales_ptr, out_ptr, m, n_first, n_second, k,
    X_FP8: tl.constexpr, W_FP8: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK_N
    shift = 0
    n = n_first
    tiles_first = tl.cdiv(n_first, BLOCK_N)
    if tl.program_id(0) >= tiles_first:
        column -= tiles_first * BLOCK_N
        shift = n_first
        n = n_second
        w_ptr = second_ptr
        w_scales_ptr = second_scales_ptr
    row_M = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    column_N = column + tl.arange(0, BLOCK_N)
    row_M = row_M.to(tl.int64)
    k_K = tl.arange(0, BLOCK_K)
    groups = tl.cdiv(k, BLOCK_K)
    x_ptrs = x_ptr + row_M[:, None] * x_stride + k_K[None, :]
    w_ptrs = w_ptr + column_N.to(tl.int64)[:, None] * k + k_K[None, :]
    w_scales_ptr += column // GROUP * groups
    sums_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for group in range(groups):
        inside_K = k_K < k - group * BLOCK_K
        x = tl.load(x_ptrs, mask=(row_M < m)[:, None] & inside_K[None, :], other=0)
        w = tl.load(w_ptrs, mask=(column_N < n)[:, None] & inside_K[None, :], other=0)
        x_scales_M = 1.0
        w_scale = 1.0
        if X_FP8:
            scale_ptrs = x_scales_ptr + row_M * groups + group
            x_scales_M = tl.load(scale_ptrs, mask=row_M < m, other=0.0)
        if W_FP8:
            w_scale = tl.load(w_scales_ptr + group)
        sums_MN += block_product(x, x_scales_M, w, w_scale, X_FP8, W_FP8, DTYPE)
        x_ptrs += BLOCK_K
        w_ptrs += BLOCK_K
    out_ptrs = out_ptr + row_M[:, None] * (n_first + n_second) + shift + column_N[None, :]
    tl.store(out_ptrs, sums_MN, mask=(row_M < m)[:, None] & (column_N < n)[None, :])
