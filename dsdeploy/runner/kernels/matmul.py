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
    ROWS,
    SUM_WIDTH,
    dot_tile_column,
    dot_tile_full,
    dot_tile_one,
    dot_tile_row,
    sum_tile_full,
    sum_tile_one,
    sum_tile_row,
    widen_element,
)

U = np.uintp
_ROWS, _COLUMNS, _WIDTH = U(ROWS), U(COLUMNS), U(SUM_WIDTH)
_ZERO, _ONE, _BLOCK = U(0), U(1), U(128)
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
    c = _ZERO
    while c < columns:
        wide = c + _COLUMNS <= columns
        at = w_at + c * w_stride
        r = _ZERO
        while r < rows:
            tall = r + _ROWS <= rows
            x_row, place = x_at + r * x_stride, out_at + r * out_stride + c
            if tall and wide:
                dot_tile_full(
                    x,
                    x_row,
                    x_stride,
                    w,
                    at,
                    w_stride,
                    scales,
                    scales_at,
                    k,
                    out,
                    place,
                    out_stride,
                )
            elif wide:
                dot_tile_row(
                    x,
                    x_row,
                    x_stride,
                    w,
                    at,
                    w_stride,
                    scales,
                    scales_at,
                    k,
                    out,
                    place,
                    out_stride,
                )
            elif tall:
                dot_tile_column(
                    x,
                    x_row,
                    x_stride,
                    w,
                    at,
                    w_stride,
                    scales,
                    scales_at,
                    k,
                    out,
                    place,
                    out_stride,
                )
            else:
                dot_tile_one(
                    x,
                    x_row,
                    x_stride,
                    w,
                    at,
                    w_stride,
                    scales,
                    scales_at,
                    k,
                    out,
                    place,
                    out_stride,
                )
            r += _ROWS if tall else _ONE
        c += _COLUMNS if wide else _ONE


@njit(nogil=True)
def sum_rows(
    p: Any, p_at: Any, p_stride: Any, rows: Any, v: Any, v_at: Any, v_stride: Any, count: Any,
    out: Any, out_at: Any, out_stride: Any, width: Any,
) -> None:  # fmt: skip
    """out[r, :width] += sum over s < count of p[r, s] v[s, :width]."""
    c = _ZERO
    while c < width:
        wide = c + _WIDTH <= width
        r = _ZERO
        while r < rows:
            tall = wide and r + _ROWS <= rows
            p_row, place = p_at + r * p_stride, out_at + r * out_stride + c
            if tall:
                sum_tile_full(
                    p, p_row, p_stride, v, v_at + c, v_stride, count, out, place, out_stride
                )
            elif wide:
                sum_tile_row(
                    p, p_row, p_stride, v, v_at + c, v_stride, count, out, place, out_stride
                )
            else:
                sum_tile_one(
                    p, p_row, p_stride, v, v_at + c, v_stride, count, out, place, out_stride
                )
            r += _ROWS if tall else _ONE
        c += _WIDTH if wide else _ONE


@njit(nogil=True)
def widen_rows(
    w: Any, w_at: Any, rows: Any, k: Any, scales: Any, scales_at: Any, target: Any
) -> None:
    """Adjacent rows of weights [rows, k], which share one row of scales, as float32."""
    scaled = w.itemsize == 1
    for r in range(rows):
        start = _ZERO
        while start < k:
            stop = min(k, start + _BLOCK)
            scale = scales[scales_at + start // _BLOCK] if scaled else np.float32(1)
            for index in range(start, stop):
                value = widen_element(w, w_at + r * k + index)  # type: ignore[call-arg, var-annotated]
                target[r * k + index] = value * scale
            start = stop


@njit(nogil=True)
def panel(
    x: Any, x_at: Any, rows: Any, w: Any, w_at: Any, scales: Any, scales_at: Any, first: Any,
    n: Any, k: Any, out: Any, out_at: Any, out_stride: Any,
) -> None:  # fmt: skip
    """The outputs first ... first + PANEL of a matrix [n, k] that begins at w_at and scales_at."""
    columns = min(PANEL, n - first)
    w_at += first * k
    scales_at += first // _BLOCK * ((k + _BLOCK - _ONE) // _BLOCK)
    if rows <= _ROWS:
        dot_rows(
            x, x_at, k, rows, w, w_at, k, columns, scales, scales_at, k, out, out_at, out_stride
        )
        return
    wide = np.empty(columns * k, np.float32)
    widen_rows(w, w_at, columns, k, scales, scales_at, wide)
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
        widen_rows(codes, r * k, _ONE, k, scales, r // _BLOCK * per_row, target[r * k :])


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
