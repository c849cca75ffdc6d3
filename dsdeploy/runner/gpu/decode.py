"""Absorbed latent attention of decoding queries, over the paged cache, in three kernels.

    B queries   H heads   N width of a head without position   R rotary width   P = R / 2 pairs
    L latent width   S splits of the keys   V width of a value

A query goes into the latent space (absorb), where keys and values are the cached rows themselves.
Parts of the keys are attended at the same time (split-K), each with its own softmax, and put together
when values come out of the latent space (expand).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsdeploy.runner.gpu.fp8 import GROUP, encode, group_scales
from dsdeploy.runner.gpu.matmul import OF_TRITON, multiply
from dsdeploy.runner.gpu.rowwise import Rounding, parts, room
from dsdeploy.runner.gpu.tiles import DecodeTile
from dsdeploy.runner.ops import Activation, DecodingQueries, HeadShape, Weight
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.rope import Turn

_ROWS = 16
"""Queries of a program that multiplies by a head's weights."""
_COLUMNS = 128
"""Latent columns of such a product; each its own program where queries are absorbed, so that one query
alone keeps the whole card busy."""


@dataclass(frozen=True)
class Parts:
    """Attention over each split of the keys, by itself."""

    sums_BHSL: Tensor
    logs_BHS: Tensor
    """The logarithm of each split's weight."""


def whole(sums_BHL: Tensor) -> Parts:
    """Of one split."""
    return Parts(sums_BHL[:, :, None], sums_BHL.new_zeros(*sums_BHL.shape[:2], 1).float())


def absorb(q_BHQ: Tensor, turn: Turn, dtype: torch.dtype, kv_b: Weight, shape: HeadShape) -> Tensor:
    """[B, H, L + R]: queries that rows of the cache are multiplied by."""
    count, heads, _ = q_BHQ.shape
    out = torch.empty(count, heads, shape.latent + shape.rotary, dtype=dtype, device=q_BHQ.device)
    grid = (triton.cdiv(shape.latent, _COLUMNS), heads, triton.cdiv(count, _ROWS))
    _absorb[grid](
        q_BHQ, q_BHQ.stride(0), q_BHQ.stride(1), turn.cos_TP, turn.sin_TP, kv_b.values, out,
        count, heads, shape.no_position, shape.rotary // 2, shape.value, shape.latent,
        ROWS=_ROWS, COLUMNS=_COLUMNS, BLOCK_N=_block(shape.no_position),
        BLOCK_P=triton.next_power_of_2(shape.rotary // 2),
    )  # fmt: skip
    return out


def attend(
    absorbed_BHL: Tensor, queries: DecodingQueries, rows_RL: Tensor, shape: HeadShape,
    tile: DecodeTile,
) -> Parts:  # fmt: skip
    count, heads, _ = absorbed_BHL.shape
    device = absorbed_BHL.device
    sums = torch.empty(count, heads, tile.splits, shape.latent, device=device)
    logs = torch.empty(count, heads, tile.splits, device=device)
    _attend[(triton.cdiv(heads, tile.heads), tile.splits, count)](
        absorbed_BHL, rows_RL, rows_RL.stride(0),
        queries.lengths_B, queries.owners_B, queries.tables, queries.tables.stride(0), sums, logs,
        shape.scale, heads, shape.latent, shape.rotary,
        HEADS=tile.heads, KEYS=tile.keys, SPLITS=tile.splits, PAGE=PAGE_TOKENS,
        BLOCK_L=_block(shape.latent), BLOCK_R=_block(shape.rotary),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return Parts(sums, logs)


def expand(
    attended: Parts, dtype: torch.dtype, kv_b: Weight, shape: HeadShape, rounding: Rounding
) -> Activation:
    """[B, H x V], multiplied in `dtype`. In FP8 too where a head's values are whole groups."""
    count, heads, splits, latent = attended.sums_BHSL.shape
    rounded = rounding.wanted and shape.value % GROUP.value == 0
    out = room(attended.sums_BHSL, count, heads * shape.value, rounded)
    _expand[(heads, triton.cdiv(count, _ROWS))](
        attended.sums_BHSL, attended.logs_BHS, kv_b.values, *parts(out),
        count, heads, shape.no_position, shape.value, latent,
        DTYPE=OF_TRITON[dtype], SPLITS=splits, ROWS=_ROWS, COLUMNS=_COLUMNS, BLOCK_V=_block(shape.value),
        QUANTISE=rounded, POWERS_OF_TWO=rounding.powers_of_two, num_warps=4,
    )  # fmt: skip
    return out


def _block(width: int) -> int:
    """Tensor cores take 16 at least."""
    return max(int(triton.next_power_of_2(width)), 16)


@triton.jit
def _absorb(
    q_ptr, q_stride, head_stride, cos_ptr, sin_ptr, w_ptr, out_ptr,
    count, heads, no_position, pairs, value, latent,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    row_B = (tl.program_id(2) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    inside_B = row_B < count
    q_ptrs = q_ptr + row_B * q_stride + head * head_stride
    out_ptrs = out_ptr + (row_B * heads + head) * (latent + 2 * pairs)
    dtype = out_ptr.dtype.element_ty
    n_N = tl.arange(0, BLOCK_N)
    q_inside = inside_B[:, None] & (n_N < no_position)[None, :]
    q_BN = tl.load(q_ptrs[:, None] + n_N[None, :], mask=q_inside, other=0.0)
    column_L = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    w_at = (head.to(tl.int64) * (no_position + value) + n_N)[:, None] * latent + column_L[None, :]
    w_inside = (n_N < no_position)[:, None] & (column_L < latent)[None, :]
    w_NL = tl.load(w_ptr + w_at, mask=w_inside, other=0.0)
    out_BL = multiply(q_BN.to(dtype), w_NL.to(dtype))
    out_inside = inside_B[:, None] & (column_L < latent)[None, :]
    tl.store(out_ptrs[:, None] + column_L[None, :], out_BL.to(dtype), mask=out_inside)
    if tl.program_id(0) == 0:
        pair_P = tl.arange(0, BLOCK_P)[None, :]
        inside_BP = inside_B[:, None] & (pair_P < pairs)
        turn_at = row_B[:, None] * pairs + pair_P
        cos = tl.load(cos_ptr + turn_at, mask=inside_BP, other=0.0)
        sin = tl.load(sin_ptr + turn_at, mask=inside_BP, other=0.0)
        even_ptrs = q_ptrs[:, None] + no_position + 2 * pair_P
        even = tl.load(even_ptrs, mask=inside_BP, other=0.0)
        odd = tl.load(even_ptrs + 1, mask=inside_BP, other=0.0)
        turned_ptrs = out_ptrs[:, None] + latent + 2 * pair_P
        tl.store(turned_ptrs, (even * cos - odd * sin).to(dtype), mask=inside_BP)
        tl.store(turned_ptrs + 1, (even * sin + odd * cos).to(dtype), mask=inside_BP)


@triton.jit
def _attend(
    q_ptr, rows_ptr, row_stride, lengths_ptr, owners_ptr, tables_ptr, table_stride,
    sums_ptr, logs_ptr, scale, heads, latent, rotary,
    HEADS: tl.constexpr, KEYS: tl.constexpr, SPLITS: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(1)
    query = tl.program_id(2).to(tl.int64)
    length = tl.load(lengths_ptr + query).to(tl.int32)
    tables_ptr += tl.load(owners_ptr + query) * table_stride
    head_H = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    l_L = tl.arange(0, BLOCK_L)
    r_R = tl.arange(0, BLOCK_R)
    inside_H, inside_L, inside_R = head_H < heads, l_L < latent, r_R < rotary
    q_ptrs = q_ptr + (query * heads + head_H) * (latent + rotary)
    q_HL = tl.load(
        q_ptrs[:, None] + l_L[None, :], mask=inside_H[:, None] & inside_L[None, :], other=0.0
    )
    q_HR = tl.load(
        q_ptrs[:, None] + latent + r_R[None, :], mask=inside_H[:, None] & inside_R[None, :],
        other=0.0,
    )  # fmt: skip
    # Whole tiles of keys for each split, the last of them maybe none.
    tiles = tl.cdiv(tl.cdiv(length, KEYS), SPLITS)
    begin = split * tiles * KEYS
    end = tl.minimum(begin + tiles * KEYS, length)
    largest_H = tl.full((HEADS,), float("-inf"), tl.float32)
    weight_H = tl.zeros((HEADS,), tl.float32)
    sums_HL = tl.zeros((HEADS, BLOCK_L), tl.float32)
    for first in range(begin, end, KEYS):
        key_K = first + tl.arange(0, KEYS)
        seen_K = key_K < length
        page = tl.load(tables_ptr + first // PAGE)
        row_ptrs = rows_ptr + (page * PAGE + first % PAGE + tl.arange(0, KEYS)) * row_stride
        row_KL = tl.load(
            row_ptrs[:, None] + l_L[None, :], mask=seen_K[:, None] & inside_L[None, :], other=0.0
        )
        row_KR = tl.load(
            row_ptrs[:, None] + latent + r_R[None, :], mask=seen_K[:, None] & inside_R[None, :],
            other=0.0,
        )  # fmt: skip
        scores_HK = multiply(q_HL, tl.trans(row_KL))
        scores_HK += multiply(q_HR, tl.trans(row_KR))
        scores_HK = tl.where(seen_K[None, :], scores_HK * scale, float("-inf"))
        larger_H = tl.maximum(largest_H, tl.max(scores_HK, 1))
        shares_HK = tl.exp(scores_HK - larger_H[:, None])
        fading_H = tl.exp(largest_H - larger_H)
        weight_H = weight_H * fading_H + tl.sum(shares_HK, 1)
        product_HL = multiply(shares_HK.to(row_KL.dtype), row_KL)
        sums_HL = sums_HL * fading_H[:, None] + product_HL
        largest_H = larger_H
    # A split without keys has the weight 0, whose logarithm is none's.
    some = begin < end
    place_H = (query * heads + head_H) * SPLITS + split
    weight_H = tl.where(some, weight_H, 1.0)
    logs_H = tl.where(some, largest_H + tl.log(weight_H), float("-inf"))
    tl.store(logs_ptr + place_H, logs_H, mask=inside_H)
    mean_HL = tl.where(some, sums_HL / weight_H[:, None], 0.0)
    tl.store(
        sums_ptr + place_H[:, None] * latent + l_L[None, :], mean_HL,
        mask=inside_H[:, None] & inside_L[None, :],
    )  # fmt: skip


@triton.jit
def _expand(
    sums_ptr, logs_ptr, w_ptr, values_ptr, codes_ptr, scales_ptr,
    count, heads, no_position, value, latent,
    DTYPE: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK_V: tl.constexpr, QUANTISE: tl.constexpr, POWERS_OF_TWO: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    row_B = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    inside_B = row_B < count
    v_V = tl.arange(0, BLOCK_V)
    inside_V = v_V < value
    place_B = (row_B * heads + head) * SPLITS
    largest_B = tl.full((ROWS,), float("-inf"), tl.float32)
    for split in range(SPLITS):
        log_B = tl.load(logs_ptr + place_B + split, mask=inside_B, other=0.0)
        largest_B = tl.maximum(largest_B, log_B)
    weight_B = tl.zeros((ROWS,), tl.float32)
    for split in range(SPLITS):
        log_B = tl.load(logs_ptr + place_B + split, mask=inside_B, other=0.0)
        weight_B += tl.exp(log_B - largest_B)
    w_at = (head.to(tl.int64) * (no_position + value) + no_position + v_V)[:, None] * latent
    out_BV = tl.zeros((ROWS, BLOCK_V), tl.float32)
    for first in range(0, latent, COLUMNS):
        l_L = first + tl.arange(0, COLUMNS)
        inside_BL = inside_B[:, None] & (l_L < latent)[None, :]
        latent_BL = tl.zeros((ROWS, COLUMNS), tl.float32)
        for split in range(SPLITS):
            log_B = tl.load(logs_ptr + place_B + split, mask=inside_B, other=0.0)
            sums_ptrs = sums_ptr + (place_B + split)[:, None] * latent + l_L[None, :]
            part_BL = tl.load(sums_ptrs, mask=inside_BL, other=0.0).to(tl.float32)
            latent_BL += tl.exp(log_B - largest_B)[:, None] * part_BL
        w_inside = inside_V[:, None] & (l_L < latent)[None, :]
        w_VL = tl.load(w_ptr + w_at + l_L[None, :], mask=w_inside, other=0.0)
        latent_BL = latent_BL / weight_B[:, None]
        out_BV += multiply(latent_BL.to(DTYPE), tl.trans(w_VL.to(DTYPE)))
    out_at = row_B[:, None] * (heads * value) + head * value + v_V[None, :]
    inside_BV = inside_B[:, None] & inside_V[None, :]
    tl.store(values_ptr + out_at, out_BV, mask=inside_BV)
    if QUANTISE:
        GROUPS: tl.constexpr = BLOCK_V // GROUP
        out_BGW = tl.reshape(out_BV, (ROWS, GROUPS, GROUP))
        scales_BG = group_scales(out_BGW, POWERS_OF_TWO)
        codes_BV = tl.reshape(encode(out_BGW, scales_BG[:, :, None]), (ROWS, BLOCK_V))
        tl.store(codes_ptr + out_at, codes_BV, mask=inside_BV)
        group_G = tl.arange(0, GROUPS)
        scales_at = row_B[:, None] * (heads * value // GROUP) + head * (value // GROUP)
        scales_inside = inside_B[:, None] & (group_G < value // GROUP)[None, :]
        tl.store(scales_ptr + scales_at + group_G[None, :], scales_BG, mask=scales_inside)
