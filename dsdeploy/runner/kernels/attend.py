"""Attention over the paged latent cache, in both its forms.

    H heads   S keys   N width of a head without position   R width of its rotary part
    V width of a value   L latent width   B decoding queries   Q queries of a prompt's chunk

The cache is one layer's flat rows of L + R values. Of a sequence's positions, the row of position s is
pages[s // PAGE] x PAGE + s % PAGE.

Both forms see their keys in the order of positions, so that a query's result does not depend on
how its prompt was cut into chunks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from dsdeploy.jit import compiled
from dsdeploy.runner.kernels.matmul import NO_SCALES, U, dot_rows, sum_rows, widen_rows
from dsdeploy.runner.kernels.rowwise import exponential
from dsdeploy.runner.kernels.tiles import ROWS
from dsdeploy.runner.pages import PAGE_TOKENS

_ZERO, _ONE, _PAGE, _ROWS = U(0), U(1), U(PAGE_TOKENS), U(ROWS)
_F = np.float32


@njit(nogil=True, fastmath={"nnan", "nsz", "reassoc"})
def _largest(values: Any, start: Any, count: Any) -> Any:
    largest = _F(-np.inf)
    for at in range(start, start + count):
        largest = max(largest, values[at])
    return largest


@njit(nogil=True, fastmath={"nsz", "reassoc"})
def _sum(values: Any, start: Any, count: Any) -> Any:
    """In an order that depends on `count` alone."""
    total = _F(0)
    for at in range(start, start + count):
        total += values[at]
    return total


@njit(nogil=True)
def _softmax(scores: Any, start: Any, count: Any, scale: Any) -> Any:
    """Not divided by the sum, whose inverse is returned."""
    largest = _largest(scores, start, count)
    for at in range(start, start + count):
        scores[at] = exponential((scores[at] - largest) * scale)
    return _F(1) / _sum(scores, start, count)


@compiled(parallel=True)
def absorbed(
    q: Any, lengths: Any, tables: Any, owners: Any, rows: Any, kv_b: Any,
    heads: Any, n: Any, r: Any, v: Any, latent: Any, scale: Any, threads: Any, out: Any,
) -> None:  # fmt: skip
    """q [B, H, N + R] -> out [B, H, V]; query b sees lengths[b] keys of sequence owners[b], whose
    pages are tables[owners[b]]. kv_b [H, N + V, L] is applied to the query and to the sum, so that
    a key costs one row of the cache for all heads."""
    tiles = (heads + _ROWS - _ONE) // _ROWS
    parts = min((tiles + threads - _ONE) // threads * threads, heads)
    width, row = n + r, latent + r
    for task in prange(U(lengths.shape[0]) * parts):
        b, part = U(task) // parts, U(task) % parts
        low, high = heads * part // parts, heads * (part + _ONE) // parts
        count, keys = high - low, U(lengths[b])
        table = tables[owners[b]]
        query = np.zeros(count * row, np.float32)
        for h in range(count):
            q_at = (b * heads + low + h) * width
            sum_rows(
                q, q_at, width, _ONE, kv_b, (low + h) * (n + v) * latent, latent, n, query, h * row,
                row, latent,
            )  # fmt: skip
            query[h * row + latent : (h + _ONE) * row] = q[q_at + n : q_at + width]
        scores = np.empty(count * keys, np.float32)
        for start in range(_ZERO, keys, _PAGE):
            at = U(table[start // _PAGE]) * _PAGE * row
            dot_rows(
                query, _ZERO, row, count, rows, at, row, min(_PAGE, keys - start), NO_SCALES, _ZERO,
                row, scores, start, keys,
            )  # fmt: skip
        sums = np.zeros(count * latent, np.float32)
        factors = np.empty(count, np.float32)
        for h in range(count):
            factors[h] = _softmax(scores, h * keys, keys, scale)
        for start in range(_ZERO, keys, _PAGE):
            at = U(table[start // _PAGE]) * _PAGE * row
            sum_rows(
                scores, start, keys, count, rows, at, row, min(_PAGE, keys - start), sums, _ZERO,
                latent, latent,
            )  # fmt: skip
        for h in range(count):
            for at in range(h * latent, (h + _ONE) * latent):
                sums[at] *= factors[h]
            w_at = ((low + h) * (n + v) + n) * latent
            dot_rows(
                sums, h * latent, latent, _ONE, kv_b, w_at, latent, v, NO_SCALES, _ZERO, latent,
                out, (b * heads + low + h) * v, v,
            )  # fmt: skip


@njit(nogil=True)
def _gather(rows: Any, table: Any, keys: Any, row: Any, target: Any) -> None:
    for start in range(_ZERO, keys, _PAGE):
        at = U(table[start // _PAGE]) * _PAGE * row
        count = min(_PAGE, keys - start)
        widen_rows(rows, at, count, row, NO_SCALES, _ZERO, target, start * row)


@compiled(parallel=True)
def naive(
    q: Any, past: Any, queries: Any, table: Any, rows: Any, kv_b: Any, heads: Any,
    n: Any, r: Any, v: Any, latent: Any, scale: Any, out: Any,
) -> None:  # fmt: skip
    """q [Q, H, N + R] -> out [Q, H, V]; the queries are the positions past, past + 1, ... of a
    sequence whose rows are all in the cache. Keys and values are expanded head by head."""
    width, row, keys = n + r, latent + r, past + queries
    latents = np.empty(keys * row, np.float32)
    _gather(rows, table, keys, row, latents)
    for task in prange(heads):
        h = U(task)
        weights = np.empty((n + v) * latent, np.float32)
        widen_rows(kv_b, h * (n + v) * latent, n + v, latent, NO_SCALES, _ZERO, weights, _ZERO)
        expanded_k = np.empty(keys * width, np.float32)
        expanded_v = np.empty(keys * v, np.float32)
        dot_rows(
            latents, _ZERO, row, keys, weights, _ZERO, latent, n, NO_SCALES, _ZERO, latent,
            expanded_k, _ZERO, width,
        )  # fmt: skip
        dot_rows(
            latents, _ZERO, row, keys, weights, n * latent, latent, v, NO_SCALES, _ZERO, latent,
            expanded_v, _ZERO, v,
        )  # fmt: skip
        for s in range(keys):
            expanded_k[s * width + n : (s + _ONE) * width] = latents[
                s * row + latent : (s + _ONE) * row
            ]
        scores = np.empty(_ROWS * keys, np.float32)
        for first in range(_ZERO, queries, _ROWS):
            count = min(_ROWS, queries - first)
            seen = past + first + count
            dot_rows(
                q, (first * heads + h) * width, heads * width, count, expanded_k, _ZERO, width,
                seen, NO_SCALES, _ZERO, width, scores, _ZERO, keys,
            )  # fmt: skip
            sums = np.zeros(count * v, np.float32)
            factors = np.empty(count, np.float32)
            for c in range(count):
                own = past + first + c + _ONE
                factors[c] = _softmax(scores, c * keys, own, scale)
                scores[c * keys + own : c * keys + seen] = _F(0)
            sum_rows(scores, _ZERO, keys, count, expanded_v, _ZERO, v, seen, sums, _ZERO, v, v)
            for c in range(count):
                place = ((first + c) * heads + h) * v
                for at in range(v):
                    out[place + at] = sums[c * v + at] * factors[c]
