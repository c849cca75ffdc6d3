"""Rows times weights: one linear layer, or the experts that a gate has chosen.

T tokens   K columns of the input   N outputs   P (token, expert) pairs
D hidden   F width of an expert     S slots of expert weights
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from dsdeploy.jit import compiled
from dsdeploy.runner.kernels.tiles import (
    COLUMNS,
    LANES,
    ROWS,
    SUM_WIDTH,
    dot_tile_1x1,
    dot_tile_1x4,
    dot_tile_2x4,
    dot_tile_4x4,
    dot_tile_6x4,
    sum_tile_1,
    sum_tile_2,
    sum_tile_4,
    sum_tile_6,
    sum_tile_one_lane,
    widen_tile_full,
    widen_tile_one,
)

U = np.uintp
_COLUMNS, _LANES, _WIDTH = U(COLUMNS), U(LANES), U(SUM_WIDTH)
_ZERO, _ONE, _BLOCK = U(0), U(1), U(128)
_TALL = ROWS == 6
_FEW = U(2 * ROWS)
"""Rows for which weights are widened in registers, again for each tile of rows."""
PANEL = U(16)
"""Outputs whose weights are widened together when many rows use them; it divides 128."""
NO_SCALES = np.ones(1, np.float32)
"""What formats without scales are given in their place."""


@njit(nogil=True)
def dot_rows(
    x: Any, x_at: Any, x_stride: Any, rows: Any, w: Any, w_at: Any, w_stride: Any, columns: Any,
    scales: Any, scales_at: Any, k: Any, out: Any, out_at: Any, out_stride: Any,
) -> None:  # fmt: skip
    """out[r, c] = x[r] . w[c] for all rows and columns, which share one row of scales."""
    # fmt: off
    c = _ZERO
    while c < columns:
        wide, at = c + _COLUMNS <= columns, w_at + c * w_stride
        r = _ZERO
        while r < rows:
            left, x_row, place = rows - r, x_at + r * x_stride, out_at + r * out_stride + c
            if not wide:
                height = U(1)
                dot_tile_1x1(x, x_row, x_stride, w, at, w_stride, scales, scales_at, k, out, place,
                             out_stride)
            elif _TALL and left >= U(6):
                height = U(6)
                dot_tile_6x4(x, x_row, x_stride, w, at, w_stride, scales, scales_at, k, out, place,
                             out_stride)
            elif _TALL and left >= U(4):
                height = U(4)
                dot_tile_4x4(x, x_row, x_stride, w, at, w_stride, scales, scales_at, k, out, place,
                             out_stride)
            elif left >= U(2):
                height = U(2)
                dot_tile_2x4(x, x_row, x_stride, w, at, w_stride, scales, scales_at, k, out, place,
                             out_stride)
            else:
                height = U(1)
                dot_tile_1x4(x, x_row, x_stride, w, at, w_stride, scales, scales_at, k, out, place,
                             out_stride)
            r += height
        c += _COLUMNS if wide else _ONE
    # fmt: on


@njit(nogil=True)
def sum_rows(
    p: Any, p_at: Any, p_stride: Any, rows: Any, v: Any, v_at: Any, v_stride: Any, count: Any,
    out: Any, out_at: Any, out_stride: Any, width: Any,
) -> None:  # fmt: skip
    """out[r, :width] += sum over s < count of p[r, s] v[s, :width]."""
    # fmt: off
    c = _ZERO
    while c < width:
        wide = c + _WIDTH <= width
        r = _ZERO
        while r < rows:
            left, p_row, place = rows - r, p_at + r * p_stride, out_at + r * out_stride + c
            if not wide:
                height = U(1)
                sum_tile_one_lane(p, p_row, p_stride, v, v_at + c, v_stride, count, out, place,
                                  out_stride)
            elif _TALL and left >= U(6):
                height = U(6)
                sum_tile_6(p, p_row, p_stride, v, v_at + c, v_stride, count, out, place, out_stride)
            elif _TALL and left >= U(4):
                height = U(4)
                sum_tile_4(p, p_row, p_stride, v, v_at + c, v_stride, count, out, place, out_stride)
            elif left >= U(2):
                height = U(2)
                sum_tile_2(p, p_row, p_stride, v, v_at + c, v_stride, count, out, place, out_stride)
            else:
                height = U(1)
                sum_tile_1(p, p_row, p_stride, v, v_at + c, v_stride, count, out, place, out_stride)
            r += height
        c += _WIDTH if wide else _ONE
    # fmt: on


@njit(nogil=True)
def widen_rows(
    w: Any, w_at: Any, rows: Any, k: Any, scales: Any, scales_at: Any, target: Any, target_at: Any
) -> None:
    """Adjacent rows of weights [rows, k], which share one row of scales, as float32."""
    scaled = w.itemsize == 1
    for r in range(rows):
        at = _ZERO
        while at < k:
            scale = scales[scales_at + at // _BLOCK] if scaled else np.float32(1)
            if at + _LANES <= k:
                widen_tile_full(w, w_at + r * k + at, scale, target, target_at + r * k + at)
                at += _LANES
            else:
                widen_tile_one(w, w_at + r * k + at, scale, target, target_at + r * k + at)
                at += _ONE


@njit(nogil=True)
def panel(
    x: Any, x_at: Any, rows: Any, w: Any, w_at: Any, scales: Any, scales_at: Any, first: Any,
    n: Any, k: Any, out: Any, out_at: Any, out_stride: Any,
) -> None:  # fmt: skip
    """The outputs first ... first + PANEL of a matrix [n, k] that begins at w_at and scales_at."""
    columns = min(PANEL, n - first)
    w_at += first * k
    scales_at += first // _BLOCK * ((k + _BLOCK - _ONE) // _BLOCK)
    if rows <= _FEW:
        dot_rows(
            x, x_at, k, rows, w, w_at, k, columns, scales, scales_at, k, out, out_at, out_stride
        )
        return
    wide = np.empty(columns * k, np.float32)
    widen_rows(w, w_at, columns, k, scales, scales_at, wide, _ZERO)
    dot_rows(x, x_at, k, rows, wide, _ZERO, k, columns, scales, _ZERO, k, out, out_at, out_stride)


@njit(nogil=True)
def panels(n: Any) -> Any:
    return (n + PANEL - _ONE) // PANEL


@compiled(parallel=True)
def linear(x: Any, w: Any, scales: Any, out: Any, rows: Any, n: Any, k: Any) -> None:
    """x [T, K], w [N, K] -> out [T, N], all flat."""
    for index in prange(panels(n)):
        first = U(index) * PANEL
        panel(x, _ZERO, rows, w, _ZERO, scales, _ZERO, first, n, k, out, first, n)


@compiled()
def widen_matrix(codes: Any, rows: Any, k: Any, scales: Any, target: Any) -> None:
    """e4m3 codes [rows, k] with their grid of scales -> float32, one product each."""
    per_row = (k + _BLOCK - _ONE) // _BLOCK
    for r in range(rows):
        widen_rows(codes, r * k, _ONE, k, scales, r // _BLOCK * per_row, target, r * k)


@compiled()
def all_finite(bits: Any) -> Any:
    """Whether none of the stored elements (unsigned: u8 e4m3, u16 BF16, u32 float32) is NaN or
    infinite."""
    if bits.itemsize == 1:
        mask = 0x7F
    elif bits.itemsize == 2:
        mask = 0x7F80
    else:
        mask = 0x7F800000
    found = False
    for at in range(bits.shape[0]):
        found |= (bits[at] & mask) == mask
    return not found
