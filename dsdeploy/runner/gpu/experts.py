"""All experts of a step in two launches: gate and up with silu between, then down.

T tokens   D hidden   F width of an expert   C choices of a token   P = T x C pairs   S slots

A program computes a tile of the pairs that share an expert. Programs beyond the last tile end at
once, so that an expert without tokens costs nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsdeploy.runner.gpu.fp8 import GROUP, encode, group_scales
from dsdeploy.runner.gpu.matmul import (
    Arithmetic,
    block_product,
    bytes_of,
    operands,
    stored,
    triton_dtype,
)
from dsdeploy.runner.gpu.routing import Order, sort_by_slot
from dsdeploy.runner.gpu.rowwise import silu
from dsdeploy.runner.gpu.tiles import Card, Tile, fitted
from dsdeploy.runner.ops import Activation, FeedForwardWeights


def fitted_tiles(
    tiles: tuple[Tile, ...], card: Card, x: Activation, weights: FeedForwardWeights
) -> tuple[Tile, Tile]:
    """Both of as many rows: those of one order. `down` reads float32."""
    item = weights.gate.values.element_size()
    gate_up = fitted(tiles[0], card, bytes_of(x), 2 * item)
    down = fitted(replace(tiles[1], rows=gate_up.rows), card, 4, item)
    return replace(gate_up, rows=down.rows), down


def feed_forward(
    x: Activation,
    slots_TC: Tensor,
    weights: FeedForwardWeights,
    y_TCD: Tensor,
    gate_up: Tile,
    down: Tile,
    arithmetic: Arithmetic,
) -> None:
    """As `Ops.feed_forward`; x has its codes where FP8 is multiplied. Tiles are of as many rows."""
    order = sort_by_slot(slots_TC, weights.gate.values.shape[0], gate_up.rows)
    inner, scales, rounded = _gated(x, slots_TC.shape[1], order, weights, gate_up, arithmetic)
    hidden, width = weights.down.values.shape[1:]
    _down[(triton.cdiv(hidden, down.columns), len(order.tiles))](
        inner, scales, *stored(weights.down), y_TCD, order.pairs_P, order.tiles, order.count,
        hidden, width,
        ROUNDED=rounded, X_FP8=weights.down.fp8 and arithmetic.fp8,
        W_FP8=weights.down.fp8, DTYPE=triton_dtype(weights.down, arithmetic),
        POWERS_OF_TWO=arithmetic.powers_of_two,
        BLOCK_M=down.rows, BLOCK_N=down.columns, num_warps=down.warps, num_stages=down.stages,
    )  # fmt: skip


def _gated(
    x: Activation, choices: int, order: Order, weights: FeedForwardWeights, tile: Tile,
    arithmetic: Arithmetic,
) -> tuple[Tensor, Tensor, bool]:  # fmt: skip
    """silu(gate) up of each place of the order, [P, F]: (values or codes, scales, whether they are
    codes). It is rounded to FP8 here where a tile holds whole groups, else by each program of `_down`
    that reads it: to the same codes."""
    pairs, (_, width, hidden) = len(order.pairs_P), weights.gate.values.shape
    fp8, device = weights.gate.fp8 and arithmetic.fp8, x.values_TK.device
    rounded = fp8 and tile.columns == GROUP.value
    dtype = torch.uint8 if rounded else torch.float32
    inner_PF = torch.empty(pairs, width, dtype=dtype, device=device)
    inner_scales = torch.empty(pairs, triton.cdiv(width, GROUP.value), device=device)
    inputs, scales = operands(x, fp8)
    _gate_up[(triton.cdiv(width, tile.columns), len(order.tiles))](
        inputs, inputs.stride(0), scales, *stored(weights.gate), *stored(weights.up),
        inner_PF, inner_scales, order.pairs_P, order.tiles, order.count, choices, width, hidden,
        X_FP8=fp8, W_FP8=weights.gate.fp8, DTYPE=triton_dtype(weights.gate, arithmetic),
        QUANTISE=rounded, POWERS_OF_TWO=arithmetic.powers_of_two,
        BLOCK_M=tile.rows, BLOCK_N=tile.columns, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return inner_PF, inner_scales, rounded


def combine(y_TCD: Tensor, weights_TC: Tensor) -> Tensor:
    """As `Ops.combine`."""
    count, choices, width = y_TCD.shape
    out = torch.empty(count, width, device=y_TCD.device)
    _combine[(count, triton.cdiv(width, _COMBINED))](
        y_TCD, weights_TC, out, width, CHOICES=choices, BLOCK=_COMBINED
    )
    return out


_COMBINED = 512


@triton.jit
def _gate_up(
    x_ptr, x_stride, x_scales_ptr, gate_ptr, gate_scales_ptr, up_ptr, up_scales_ptr,
    inner_ptr, scales_ptr, pairs_ptr, tiles_ptr, count_ptr, choices, width, hidden,
    X_FP8: tl.constexpr, W_FP8: tl.constexpr, DTYPE: tl.constexpr,
    QUANTISE: tl.constexpr, POWERS_OF_TWO: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    if tl.program_id(1) >= tl.load(count_ptr):
        return
    slot, place_M, inside_M = _tile(tiles_ptr, BLOCK_M)
    token_M = tl.load(pairs_ptr + place_M, mask=inside_M, other=0).to(tl.int64) // choices
    column = tl.program_id(0) * BLOCK_N
    column_N = column + tl.arange(0, BLOCK_N)
    k_K = tl.arange(0, GROUP)
    groups = tl.cdiv(hidden, GROUP)
    x_ptrs = x_ptr + token_M[:, None] * x_stride + k_K[None, :]
    w_at = (slot * width + column_N)[:, None] * hidden + k_K[None, :]
    scale_at = (slot * tl.cdiv(width, GROUP) + column // GROUP) * groups
    gate_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for group in range(groups):
        inside_K = k_K < hidden - group * GROUP
        w_inside = (column_N < width)[:, None] & inside_K[None, :]
        x = tl.load(x_ptrs, mask=inside_M[:, None] & inside_K[None, :], other=0)
        gate = tl.load(gate_ptr + w_at, mask=w_inside, other=0)
        up = tl.load(up_ptr + w_at, mask=w_inside, other=0)
        x_scales_M = 1.0
        gate_scale = 1.0
        up_scale = 1.0
        if X_FP8:
            scale_ptrs = x_scales_ptr + token_M * groups + group
            x_scales_M = tl.load(scale_ptrs, mask=inside_M, other=0.0)
        if W_FP8:
            gate_scale = tl.load(gate_scales_ptr + scale_at + group)
            up_scale = tl.load(up_scales_ptr + scale_at + group)
        gate_MN += block_product(x, x_scales_M, gate, gate_scale, X_FP8, W_FP8, DTYPE)
        up_MN += block_product(x, x_scales_M, up, up_scale, X_FP8, W_FP8, DTYPE)
        x_ptrs += GROUP
        w_at += GROUP
    out_MN = silu(gate_MN) * up_MN
    out_at = place_M.to(tl.int64)[:, None] * width + column_N[None, :]
    out_inside = inside_M[:, None] & (column_N < width)[None, :]
    if QUANTISE:
        scales_M = group_scales(out_MN, POWERS_OF_TWO)
        codes_MN = encode(out_MN, scales_M[:, None])
        tl.store(inner_ptr + out_at, codes_MN, mask=out_inside)
        out_scales_ptr = scales_ptr + place_M * tl.cdiv(width, GROUP) + tl.program_id(0)
        tl.store(out_scales_ptr, scales_M, mask=inside_M)
    else:
        tl.store(inner_ptr + out_at, out_MN, mask=out_inside)


@triton.jit
def _down(
    x_ptr, x_scales_ptr, w_ptr, w_scales_ptr, y_ptr, pairs_ptr, tiles_ptr, count_ptr, hidden, width,
    ROUNDED: tl.constexpr, X_FP8: tl.constexpr, W_FP8: tl.constexpr, DTYPE: tl.constexpr,
    POWERS_OF_TWO: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    if tl.program_id(1) >= tl.load(count_ptr):
        return
    slot, place_M, inside_M = _tile(tiles_ptr, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N
    column_N = column + tl.arange(0, BLOCK_N)
    k_K = tl.arange(0, GROUP)
    groups = tl.cdiv(width, GROUP)
    x_ptrs = x_ptr + place_M.to(tl.int64)[:, None] * width + k_K[None, :]
    w_ptrs = w_ptr + (slot * hidden + column_N)[:, None] * width + k_K[None, :]
    w_scales_ptr += (slot * tl.cdiv(hidden, GROUP) + column // GROUP) * groups
    sums_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for group in range(groups):
        inside_K = k_K < width - group * GROUP
        x = tl.load(x_ptrs, mask=inside_M[:, None] & inside_K[None, :], other=0)
        w = tl.load(w_ptrs, mask=(column_N < hidden)[:, None] & inside_K[None, :], other=0)
        x_scales_M = 1.0
        w_scale = 1.0
        if ROUNDED:
            scale_ptrs = x_scales_ptr + place_M * groups + group
            x_scales_M = tl.load(scale_ptrs, mask=inside_M, other=0.0)
        elif X_FP8:
            x_scales_M = group_scales(x, POWERS_OF_TWO)
            x = encode(x, x_scales_M[:, None])
        if W_FP8:
            w_scale = tl.load(w_scales_ptr + group)
        sums_MN += block_product(x, x_scales_M, w, w_scale, X_FP8, W_FP8, DTYPE)
        x_ptrs += GROUP
        w_ptrs += GROUP
    pair_M = tl.load(pairs_ptr + place_M, mask=inside_M, other=0).to(tl.int64)
    y_ptrs = y_ptr + pair_M[:, None] * hidden + column_N[None, :]
    tl.store(y_ptrs, sums_MN, mask=inside_M[:, None] & (column_N < hidden)[None, :])


@triton.jit
def _tile(tiles_ptr, BLOCK_M: tl.constexpr):
    """(slot, places in the order [M], which of them are the tile's) of this program."""
    tiles_ptr += 3 * tl.program_id(1)
    place_M = tl.load(tiles_ptr + 1) + tl.arange(0, BLOCK_M)
    return tl.load(tiles_ptr).to(tl.int64), place_M, place_M < tl.load(tiles_ptr + 2)


@triton.jit
def _combine(y_ptr, weights_ptr, out_ptr, width, CHOICES: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float32)
    for choice in tl.static_range(CHOICES):
        pair = token * CHOICES + choice
        y = tl.load(y_ptr + pair * width + at, mask=at < width, other=0.0)
        sums += tl.load(weights_ptr + pair) * y
    tl.store(out_ptr + token * width + at, sums, mask=at < width)
