"""The feed-forward layers of one step: every (token, expert) pair that the gate has chosen.

T tokens   C choices of a token   P = T x C pairs   D hidden   F width of an expert
S slots, each with the weights of one expert
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from dsdeploy.jit import compiled
from dsdeploy.runner.kernels.matmul import PANEL, U, panel, panels
from dsdeploy.runner.kernels.rowwise import exponential, round_row_to_fp8

_ZERO, _ONE, _BLOCK = U(0), U(1), U(128)


@njit(nogil=True)
def _group(slots: Any, count: Any) -> Any:
    """slots [P] -> (order [P'], starts [S + 1], used): pairs by their slot, where each slot's
    begin, and the slots that have any. Negative slots are left out."""
    starts = np.zeros(count + _ONE, np.uintp)
    for slot in slots:
        if slot >= 0:
            starts[slot + 1] += _ONE
    for slot in range(count):
        starts[slot + 1] += starts[slot]
    order = np.empty(starts[count], np.uintp)
    filled = starts.copy()
    for pair in range(slots.shape[0]):
        slot = slots[pair]
        if slot >= 0:
            order[filled[slot]] = U(pair)
            filled[slot] += _ONE
    return order, starts, np.flatnonzero(starts[1:] > starts[:-1])


@njit(nogil=True)
def _grid(n: Any, k: Any) -> Any:
    """Scales of a matrix [n, k]."""
    return ((n + _BLOCK - _ONE) // _BLOCK) * ((k + _BLOCK - _ONE) // _BLOCK)


@compiled(parallel=True)
def feed_forward(
    x: Any, slots: Any, choices: Any, gate: Any, gate_scales: Any, up: Any, up_scales: Any,
    down: Any, down_scales: Any, count: Any, d: Any, f: Any, fp8: Any, powers: Any, out: Any,
) -> None:  # fmt: skip
    """out[pair] = down(silu(gate(x)) up(x)) for each pair whose slot is not negative.

    x [T, D], slots [P], gate and up [S, F, D], down [S, D, F], out [P, D], all flat. With `fp8`,
    x has been rounded to FP8 and the inner activations are too.
    """
    order, starts, used = _group(slots, count)
    pairs, number = U(order.shape[0]), U(used.shape[0])
    inputs = np.empty(pairs * d, np.float32)
    inner = np.empty(pairs * f, np.float32)
    outputs = np.empty(pairs * d, np.float32)
    for at in prange(pairs):
        token = order[at] // choices
        inputs[U(at) * d : U(at) * d + d] = x[token * d : token * d + d]
    tasks = panels(f)
    for task in prange(number * tasks):
        slot, first = U(used[U(task) // tasks]), U(task) % tasks * PANEL
        begin, rows = starts[slot], starts[slot + _ONE] - starts[slot]
        width = min(PANEL, f - first)
        gated = np.empty(rows * width, np.float32)
        place, w_at, scales_at = begin * f + first, slot * f * d, slot * _grid(f, d)
        panel(
            inputs, begin * d, rows, gate, w_at, gate_scales, scales_at, first, f, d, gated, _ZERO,
            width,
        )  # fmt: skip
        panel(inputs, begin * d, rows, up, w_at, up_scales, scales_at, first, f, d, inner, place, f)
        for r in range(rows):
            for c in range(width):
                value = gated[r * width + c]
                inner[place + r * f + c] *= value / (np.float32(1) + exponential(-value))
    if fp8:
        for at in prange(pairs):
            round_row_to_fp8(inner, U(at) * f, f, powers, inner)
    tasks = panels(d)
    for task in prange(number * tasks):
        slot, first = U(used[U(task) // tasks]), U(task) % tasks * PANEL
        begin, rows = starts[slot], starts[slot + _ONE] - starts[slot]
        panel(
            inner, begin * f, rows, down, slot * d * f, down_scales, slot * _grid(d, f), first, d,
            f, outputs, begin * d + first, d,
        )  # fmt: skip
    for at in prange(pairs):
        pair = order[at]
        out[pair * d : pair * d + d] = outputs[U(at) * d : U(at) * d + d]


@compiled(parallel=True)
def combine(y: Any, weights: Any, out: Any) -> None:
    """y [T, C, D], weights [T, C] -> out [T, D]."""
    for token in prange(y.shape[0]):
        for at in range(y.shape[2]):
            out[token, at] = np.float32(0)
        for choice in range(y.shape[1]):
            share = weights[token, choice]
            for at in range(y.shape[2]):
                out[token, at] += share * y[token, choice, at]
