"""Which expert computes which token: the gate, and the order in which experts take their pairs.

T tokens   E experts   C choices of a token   S slots   P = T x C pairs

Nothing is brought to the host: tables are as large as they can become, and say where they end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsdeploy.runner.ops import Routing


def route(logits_TE: Tensor, bias_E: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """As `Ops.route`."""
    count, experts = logits_TE.shape
    chosen = routing.experts_per_token
    shape = (count, chosen + routing.shared)
    experts_TC = torch.empty(shape, dtype=torch.int64, device=logits_TE.device)
    weights_TC = torch.empty(shape, device=logits_TE.device)
    _route[(count,)](
        logits_TE, bias_E, experts_TC, weights_TC, experts, routing.factor,
        GROUPS=routing.groups, KEPT=routing.kept_groups, CHOSEN=chosen, SHARED=routing.shared,
        NORMALISE=routing.normalise, IN_GROUP=experts // routing.groups,
        BLOCK_G=triton.next_power_of_2(routing.groups),
        BLOCK_I=triton.next_power_of_2(experts // routing.groups),
        BLOCK_C=triton.next_power_of_2(chosen + routing.shared), num_warps=1,
    )  # fmt: skip
    return experts_TC, weights_TC


@dataclass(frozen=True)
class Order:
    """Pairs by slot, cut into tiles of rows that share a slot."""

    pairs_P: Tensor
    """int32: pairs (token x C + choice), those of a slot in their order; pairs without a slot are
    left out, and the end is undefined."""
    tiles: Tensor
    """[most tiles, 3] int32: slot, first place in `pairs_P`, end."""
    count: Tensor
    """[1] int32: how many tiles there are."""


def sort_by_slot(slots_TC: Tensor, slots: int, rows: int) -> Order:
    """`rows` of a tile, at most."""
    pairs = slots_TC.numel()
    most = min(slots, pairs) + pairs // rows
    whole = torch.empty(pairs + 3 * most + 1, dtype=torch.int32, device=slots_TC.device)
    ordered, tiles, count = whole.split([pairs, 3 * most, 1])
    _sort_by_slot[(slots,)](
        slots_TC, ordered, tiles, count, pairs, ROWS=rows,
        BINS=triton.next_power_of_2(slots + 1), BLOCK=min(triton.next_power_of_2(pairs), 1024),
    )  # fmt: skip
    return Order(ordered, tiles.view(most, 3), count)


@triton.jit
def _route(
    logits_ptr, bias_ptr, experts_ptr, weights_ptr, experts, factor,
    GROUPS: tl.constexpr, KEPT: tl.constexpr, CHOSEN: tl.constexpr, SHARED: tl.constexpr,
    NORMALISE: tl.constexpr, IN_GROUP: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    group_GI = tl.arange(0, BLOCK_G)[:, None]
    place_GI = tl.arange(0, BLOCK_I)[None, :]
    inside_GI = (group_GI < GROUPS) & (place_GI < IN_GROUP)
    expert_GI = tl.where(inside_GI, group_GI * IN_GROUP + place_GI, 0x7FFFFFFF)
    logits_GI = tl.load(logits_ptr + token * experts + expert_GI, mask=inside_GI, other=0.0)
    scores_GI = tl.div_rn(1.0, 1.0 + tl.exp(-logits_GI))
    biased_GI = scores_GI + tl.load(bias_ptr + expert_GI, mask=inside_GI, other=0.0)
    biased_GI = tl.where(inside_GI, biased_GI, float("-inf"))
    open_G = _strongest_groups(biased_GI, GROUPS, KEPT, IN_GROUP, BLOCK_G, BLOCK_I)
    left_GI = tl.where(open_G[:, None], biased_GI, float("-inf"))
    choice_C = tl.arange(0, BLOCK_C)
    chosen_C = tl.where(choice_C < CHOSEN, 0, experts + choice_C - CHOSEN)
    weights_C = tl.where(choice_C < CHOSEN, 0.0, 1.0)
    for choice in tl.static_range(CHOSEN):
        best = _first_largest(left_GI, expert_GI)
        score = tl.sum(tl.sum(tl.where(expert_GI == best, scores_GI, 0.0), 1), 0)
        chosen_C = tl.where(choice_C == choice, best, chosen_C)
        weights_C = tl.where(choice_C == choice, score, weights_C)
        left_GI = tl.where(expert_GI == best, float("-inf"), left_GI)
    routed_C = choice_C < CHOSEN
    scale = factor
    if NORMALISE:
        scale = tl.div_rn(factor, tl.sum(tl.where(routed_C, weights_C, 0.0), 0) + 1e-20)
    weights_C = tl.where(routed_C, weights_C * scale, weights_C)
    out = token * (CHOSEN + SHARED) + choice_C
    tl.store(experts_ptr + out, chosen_C.to(tl.int64), mask=choice_C < CHOSEN + SHARED)
    tl.store(weights_ptr + out, weights_C, mask=choice_C < CHOSEN + SHARED)


@triton.jit
def _strongest_groups(
    biased_GI, GROUPS: tl.constexpr, KEPT: tl.constexpr, IN_GROUP: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Which groups stay open: those whose two best experts' sum is largest."""
    place_GI = tl.arange(0, BLOCK_I)[None, :]
    strength_G = tl.max(biased_GI, 1)
    if IN_GROUP > 1:
        best_G = tl.argmax(biased_GI, 1)
        rest_GI = tl.where(place_GI == best_G[:, None], float("-inf"), biased_GI)
        strength_G += tl.max(rest_GI, 1)
    group_G = tl.arange(0, BLOCK_G)
    strength_G = tl.where(group_G < GROUPS, strength_G, float("-inf"))
    open_G = group_G < 0
    for _ in tl.static_range(KEPT):
        left_G = tl.where(open_G, float("-inf"), strength_G)
        open_G = open_G | (group_G == tl.argmax(left_G, 0))
    return open_G


@triton.jit
def _first_largest(left_GI, expert_GI):
    """The expert of the largest value, of equal ones the first."""
    largest = tl.max(tl.max(left_GI, 1), 0)
    return tl.min(tl.min(tl.where(left_GI == largest, expert_GI, 0x7FFFFFFF), 1), 0)


@triton.jit
def _sort_by_slot(
    slots_ptr, ordered_ptr, tiles_ptr, count_ptr, pairs,
    ROWS: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a slot. Each counts all pairs, so that none waits for another."""
    slot = tl.program_id(0)
    bins = tl.arange(0, BINS)
    at = tl.arange(0, BLOCK)
    counts = tl.zeros((BINS,), tl.int32)
    for first in range(0, pairs, BLOCK):
        slots = tl.load(slots_ptr + first + at, mask=first + at < pairs, other=-1).to(tl.int32)
        # What has no slot is counted in the last bin, which is none's.
        counts += tl.histogram(tl.where(slots < 0, BINS - 1, slots), BINS)
    counts = tl.where(bins < tl.num_programs(0), counts, 0)
    tiles = (counts + ROWS - 1) // ROWS
    begin = tl.sum(tl.where(bins < slot, counts, 0), 0)
    tile = tl.sum(tl.where(bins < slot, tiles, 0), 0)
    end = begin + tl.sum(tl.where(bins == slot, counts, 0), 0)
    if slot == 0:
        tl.store(count_ptr, tl.sum(tiles, 0))
    place = begin
    for first in range(0, pairs, BLOCK):
        slots = tl.load(slots_ptr + first + at, mask=first + at < pairs, other=-1).to(tl.int32)
        mine = (slots == slot).to(tl.int32)
        tl.store(ordered_ptr + place + tl.cumsum(mine, 0) - 1, first + at, mask=mine > 0)
        place += tl.sum(mine, 0)
    for first in range(begin, end, ROWS):
        tl.store(tiles_ptr + 3 * tile, slot)
        tl.store(tiles_ptr + 3 * tile + 1, first)
        tl.store(tiles_ptr + 3 * tile + 2, tl.minimum(first + ROWS, end))
        tile += 1
