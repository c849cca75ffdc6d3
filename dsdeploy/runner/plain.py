"""The operations in plain torch: the definition that every kernel is held against.

Shapes as in `ops.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dsdeploy.model.config import BLOCK
from dsdeploy.runner.ops import (
    Activation,
    DecodingQueries,
    FeedForwardWeights,
    HeadShape,
    LatentNorms,
    Routing,
    Weight,
    joined,
)
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.rope import Turn
from dsdeploy.runner.step import Span

E4M3_MAX = 448.0


def quantise(x_TK: Tensor, powers_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """(e4m3 codes [T, K], scales [T, ceil(K / 128)]): scale = max(amax, 1e-4) / 448."""
    count, width = x_TK.shape
    padded = F.pad(x_TK, (0, -width % BLOCK)).view(count, -1, BLOCK)
    scales = padded.abs().amax(-1).clamp(min=1e-4) / E4M3_MAX
    if powers_of_two:
        scales = torch.exp2(torch.ceil(torch.log2(scales.double()))).float()
    codes = (padded / scales[..., None]).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return codes.view(count, -1)[:, :width], scales


def widen(weight: Weight) -> Tensor:
    """The weight as float32, its scales multiplied in."""
    values = weight.values.float()
    if weight.scales is None:
        return values
    rows, columns = values.shape[-2:]
    grid = weight.scales.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
    return values * grid[..., :rows, :columns]


class PlainOps:
    name = "plain"
    joins_shared = False
    recordable = False

    def __init__(self, powers_of_two: bool) -> None:
        self._powers_of_two = powers_of_two

    def begin(self) -> None:
        pass

    def rms_norm(
        self, x_TD: Tensor, weight_D: Tensor, epsilon: float, added_TD: Tensor | None = None
    ) -> Activation:
        if added_TD is not None:
            x_TD += added_TD
        return Activation(_rms_norm(x_TD, weight_D, epsilon))

    def norm_compressed(
        self, row_TX: Tensor, norms: LatentNorms, turn: Turn, rows_RL: Tensor, slots_T: Tensor
    ) -> Activation | None:
        return norm_compressed(_rms_norm, row_TX, norms, turn, rows_RL, slots_T)

    def linear(self, x: Activation, *weights: Weight) -> Tensor:
        return joined([F.linear(self._input(x.values_TK, w), widen(w)) for w in weights])

    def _input(self, x_TK: Tensor, weight: Weight) -> Tensor:
        if not weight.fp8:
            return x_TK
        codes, scales = quantise(x_TK, self._powers_of_two)
        return codes.float() * scales.repeat_interleave(BLOCK, -1)[:, : x_TK.shape[1]]

    def route(
        self, x: Activation, gate: Weight, bias_E: Tensor, routing: Routing
    ) -> tuple[Tensor, Tensor]:
        scores_TE = self.linear(x, gate).sigmoid()
        biased_TGS = (scores_TE + bias_E).unflatten(-1, (routing.groups, -1))
        strength_TG = biased_TGS.topk(min(2, biased_TGS.shape[-1]), -1).values.sum(-1)
        kept = strength_TG.topk(routing.kept_groups, -1).indices
        closed = torch.ones_like(strength_TG, dtype=torch.bool).scatter(-1, kept, False)
        biased_TE = biased_TGS.masked_fill(closed[..., None], -torch.inf).flatten(-2)
        experts_TC = biased_TE.topk(routing.experts_per_token, -1).indices
        weights_TC = scores_TE.gather(-1, experts_TC)
        if routing.normalise:
            weights_TC = weights_TC / (weights_TC.sum(-1, keepdim=True) + 1e-20)
        return with_shared(experts_TC, weights_TC * routing.factor, len(bias_E), routing.shared)

    def feed_forward(
        self, x: Activation, slots_TC: Tensor, weights: FeedForwardWeights, y_TCD: Tensor
    ) -> None:
        for slot in slots_TC.unique().tolist():
            if slot < 0:
                continue
            tokens, choices = (slots_TC == slot).nonzero(as_tuple=True)
            y_TCD[tokens, choices] = self._expert(x.values_TK[tokens], weights, slot)

    def dense(self, x: Activation, weights: FeedForwardWeights) -> Tensor:
        return self._expert(x.values_TK, weights, 0)

    def _expert(self, x_TD: Tensor, weights: FeedForwardWeights, slot: int) -> Tensor:
        gate, up, down = (_slot(w, slot) for w in (weights.gate, weights.up, weights.down))
        x = Activation(x_TD)
        inner = F.silu(self.linear(x, gate)) * self.linear(x, up)
        return self.linear(Activation(inner), down)

    def combine(self, y_TCD: Tensor, weights_TC: Tensor) -> Tensor:
        return (y_TCD * weights_TC[..., None]).sum(1)

    def attend_naive(
        self, q_THQ: Tensor, turn: Turn, span: Span, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Activation:  # fmt: skip
        turn.rotate_queries(q_THQ)
        rows_SL = _sequence(rows_RL, torch.tensor(span.pages), span.past + span.count)
        w_k_HNL, w_v_HVL = _split(kv_b, shape)
        latent_SL, rotary_SR = rows_SL.split([shape.latent, shape.rotary], -1)
        k_SHN = torch.einsum("sl,hnl->shn", latent_SL, w_k_HNL)
        rotary_SHR = rotary_SR[:, None].expand(-1, shape.heads, -1)
        k_SHQ = torch.cat([k_SHN, rotary_SHR], -1)
        v_SHV = torch.einsum("sl,hvl->shv", latent_SL, w_v_HVL)
        scores_HTS = torch.einsum("thq,shq->hts", q_THQ, k_SHQ) * shape.scale
        positions = torch.arange(span.past, span.past + span.count, device=q_THQ.device)
        future = torch.arange(len(rows_SL), device=q_THQ.device) > positions[:, None]
        shares_HTS = scores_HTS.masked_fill(future, -torch.inf).softmax(-1)
        return Activation(torch.einsum("hts,shv->thv", shares_HTS, v_SHV).flatten(1))

    def attend_absorbed(
        self, q_BHQ: Tensor, turn: Turn, queries: DecodingQueries, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Activation:  # fmt: skip
        turn.rotate_queries(q_BHQ)
        w_k_HNL, w_v_HVL = _split(kv_b, shape)
        q_BHN, rotary_BHR = q_BHQ.split([shape.no_position, shape.rotary], -1)
        absorbed_BHL = torch.cat([torch.einsum("bhn,hnl->bhl", q_BHN, w_k_HNL), rotary_BHR], -1)
        sums = []
        lengths, owners = queries.lengths_B.tolist(), queries.owners_B.tolist()
        for q_HL, length, owner in zip(absorbed_BHL, lengths, owners, strict=True):
            rows_SL = _sequence(rows_RL, queries.tables[owner], length)
            shares_HS = (q_HL @ rows_SL.T * shape.scale).softmax(-1)
            sums.append(shares_HS @ rows_SL[:, : shape.latent])
        return Activation(torch.einsum("bhl,hvl->bhv", torch.stack(sums), w_v_HVL).flatten(1))


def norm_compressed(
    rms_norm: Callable[[Tensor, Tensor, float], Tensor], row_TX: Tensor, norms: LatentNorms,
    turn: Turn, rows_RL: Tensor, slots_T: Tensor,
) -> Activation | None:  # fmt: skip
    """As `Ops.norm_compressed`, by any norm."""
    latent, rotary = len(norms.cache_L), 2 * turn.cos_TP.shape[1]
    parts = [row_TX.shape[1] - latent - rotary, latent, rotary]
    query_TA, latent_TL, key_TR = row_TX.split(parts, -1)
    normed_TL = rms_norm(latent_TL, norms.cache_L, norms.epsilon)
    cached_TL = torch.cat([normed_TL, turn.rotate(key_TR)], -1)
    rows_RL.index_copy_(0, slots_T, cached_TL.to(rows_RL.dtype))
    if norms.query_A is None:
        return None
    return Activation(rms_norm(query_TA, norms.query_A, norms.epsilon))


def with_shared(
    experts_TC: Tensor, weights_TC: Tensor, experts: int, shared: int
) -> tuple[Tensor, Tensor]:
    """A gate's choice and the shared experts after it."""
    if not shared:
        return experts_TC, weights_TC
    more_TS = torch.arange(experts, experts + shared, device=experts_TC.device)
    more_TS = more_TS.expand(len(experts_TC), -1)
    ones_TS = weights_TC.new_ones(more_TS.shape)
    return torch.cat([experts_TC, more_TS], -1), torch.cat([weights_TC, ones_TS], -1)


def _rms_norm(x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    return x_TD * torch.rsqrt(x_TD.pow(2).mean(-1, keepdim=True) + epsilon) * weight_D


def _slot(weight: Weight, slot: int) -> Weight:
    return Weight(weight.values[slot], None if weight.scales is None else weight.scales[slot])


def _sequence(rows_RL: Tensor, pages: Tensor, count: int) -> Tensor:
    """The rows of a sequence's first `count` tokens, as float32."""
    used = pages[: -(-count // PAGE_TOKENS)].to(rows_RL.device)
    paged = rows_RL.view(-1, PAGE_TOKENS, rows_RL.shape[-1])
    return paged[used].flatten(0, 1)[:count].float()


def _split(kv_b: Weight, shape: HeadShape) -> tuple[Tensor, Tensor]:
    """(keys [H, N, L], values [H, V, L])"""
    w = widen(kv_b).view(shape.heads, -1, shape.latent)
    return w[:, : shape.no_position], w[:, shape.no_position :]
