"""Work on one row at a time: norm, rounding to FP8, rotation, the gate's choice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from dsdeploy.jit import compiled

U = np.uintp
_F, _I = np.float32, np.int32
_ONE, _BLOCK = U(1), U(128)


@njit(nogil=True, inline="always")
def exponential(value: Any) -> Any:
    """exp in float32 within 2 units of the last place and without a branch, so that loops over it
    vectorise: exp(x) = 2^n exp(r), |r| <= ln(2) / 2, exp(r) by Cephes' polynomial."""
    x = max(min(_F(value), _F(88.0)), _F(-87.0))
    whole = np.floor(x * _F(1.4426950408889634) + _F(0.5))
    r = (x - whole * _F(0.693359375)) + whole * _F(2.12194440e-4)
    p = _F(1.3981999507e-3) + r * _F(1.9875691500e-4)
    p = _F(8.3334519073e-3) + r * p
    p = _F(4.1665795894e-2) + r * p
    p = _F(1.6666665459e-1) + r * p
    p = _F(5.0000001201e-1) + r * p
    p = r * r * p + r + _F(1)
    return p * _I((_I(whole) + _I(127)) << _I(23)).view(_F)


@compiled(parallel=True)
def rms_norm(x: Any, weight: Any, epsilon: Any, rows: Any, d: Any, out: Any) -> None:
    """x [T, D] / sqrt(mean of squares + epsilon) x weight."""
    for row in prange(rows):
        start = U(row) * d
        total = 0.0
        for c in range(d):
            total += np.float64(x[start + c]) * np.float64(x[start + c])
        factor = _F(1.0 / np.sqrt(total / np.float64(d) + epsilon))
        for c in range(d):
            out[start + c] = x[start + c] * factor * weight[c]


@njit(nogil=True, inline="always")
def _nearest_e4m3(value: Any) -> Any:
    """The closest e4m3 number, ties to even; |value| is at most 448 but for rounding."""
    clipped = _F(max(min(value, _F(448)), _F(-448)))
    bits = _F(clipped).view(_I)
    kept = (bits + _I(0x7FFFF) + ((bits >> _I(20)) & _I(1))) & _I(-0x100000)
    # Below 2^-6 the numbers are multiples of 2^-9, the last place of 1.5 x 2^14.
    shifted = (clipped + _F(24576)) - _F(24576)
    return shifted if abs(clipped) < _F(0.015625) else _I(kept).view(_F)


@njit(nogil=True)
def round_row_to_fp8(source: Any, start: Any, width: Any, powers: Any, target: Any) -> None:
    """A row to the nearest code x scale for each 128 columns: scale = max(amax, 1e-4) / 448, made
    a power of two when the model's scales are (`powers`)."""
    first = start
    while first < start + width:
        stop = min(start + width, first + _BLOCK)
        largest = _F(1e-4)
        for at in range(first, stop):
            largest = max(largest, abs(source[at]))
        scale = largest / _F(448)
        if powers:
            scale = _F(2.0 ** np.ceil(np.log2(np.float64(scale))))
        for at in range(first, stop):
            target[at] = _nearest_e4m3(source[at] / scale) * scale
        first = stop


@compiled(parallel=True)
def round_to_fp8(x: Any, rows: Any, width: Any, powers: Any, out: Any) -> None:
    for row in prange(rows):
        round_row_to_fp8(x, U(row) * width, width, powers, out)


@njit(nogil=True, inline="always")
def _largest(scores: Any, begin: Any, stop: Any) -> Any:
    best = begin
    for at in range(begin, stop):
        if scores[at] > scores[best]:
            best = at
    return best


@compiled(parallel=True)
def route(
    logits: Any, bias: Any, groups: Any, kept_groups: Any, normalise: Any, factor: Any,
    chosen: Any, weights: Any,
) -> None:  # fmt: skip
    """logits [T, E] -> chosen [T, C] experts and their weights [T, C].

    The bias takes part in the choice only. A group counts as much as its two best experts; only
    the experts of the `kept_groups` best groups can be chosen.
    """
    experts, choices = logits.shape[1], chosen.shape[1]
    size = experts // groups
    for token in prange(logits.shape[0]):
        scores = np.empty(experts, np.float32)
        biased = np.empty(experts, np.float32)
        for expert in range(experts):
            scores[expert] = _F(1.0 / (1.0 + np.exp(-np.float64(logits[token, expert]))))
            biased[expert] = scores[expert] + bias[expert]
        strength = np.empty(groups, np.float32)
        for group in range(groups):
            best = _largest(biased, group * size, (group + 1) * size)
            strength[group] = biased[best]
            if size > 1:
                kept = biased[best]
                biased[best] = -np.inf
                strength[group] += biased[_largest(biased, group * size, (group + 1) * size)]
                biased[best] = kept
        opened = np.zeros(groups, np.bool_)
        for _ in range(kept_groups):
            group = _largest(strength, 0, groups)
            opened[group] = True
            strength[group] = -np.inf
        for expert in range(experts):
            if not opened[expert // size]:
                biased[expert] = -np.inf
        total = _F(0)
        for choice in range(choices):
            expert = _largest(biased, 0, experts)
            biased[expert] = -np.inf
            chosen[token, choice] = expert
            weights[token, choice] = scores[expert]
            total += scores[expert]
        scale = factor / (total + _F(1e-20)) if normalise else factor
        for choice in range(choices):
            weights[token, choice] *= scale
