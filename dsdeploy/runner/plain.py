"""The operations in plain torch: the definition that every kernel is held against.

Shapes as in `ops.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dsdeploy.model.config import BLOCK
from dsdeploy.runner.ops import DecodingQueries, FeedForwardWeights, HeadShape, Routing, Weight
from dsdeploy.runner.pages import PAGE_TOKENS
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

    def __init__(self, powers_of_two: bool) -> None:
        self._powers_of_two = powers_of_two

    def begin(self) -> None:
        pass

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        return x_TD * torch.rsqrt(x_TD.pow(2).mean(-1, keepdim=True) + epsilon) * weight_D

    def linear(self, x_TK: Tensor, weight: Weight) -> Tensor:
        return F.linear(self._input(x_TK, weight), widen(weight))

    def _input(self, x_TK: Tensor, weight: Weight) -> Tensor:
        if not weight.fp8:
            return x_TK
        codes, scales = quantise(x_TK, self._powers_of_two)
        return codes.float() * scales.repeat_interleave(BLOCK, -1)[:, : x_TK.shape[1]]

    def route(self, logits_TE: Tensor, bias_E: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
        scores_TE = logits_TE.sigmoid()
        biased_TGS = (scores_TE + bias_E).unflatten(-1, (routing.groups, -1))
        strength_TG = biased_TGS.topk(min(2, biased_TGS.shape[-1]), -1).values.sum(-1)
        kept = strength_TG.topk(routing.kept_groups, -1).indices
        closed = torch.ones_like(strength_TG, dtype=torch.bool).scatter(-1, kept, False)
        biased_TE = biased_TGS.masked_fill(closed[..., None], -torch.inf).flatten(-2)
        experts_TC = biased_TE.topk(routing.experts_per_token, -1).indices
        weights_TC = scores_TE.gather(-1, experts_TC)
        if routing.normalise:
            weights_TC = weights_TC / (weights_TC.sum(-1, keepdim=True) + 1e-20)
        return experts_TC, weights_TC * routing.factor

    def feed_forward(
        self, x_TD: Tensor, slots_TC: Tensor, weights: FeedForwardWeights, y_TCD: Tensor
    ) -> None:
        for slot in slots_TC.unique().tolist():
            if slot < 0:
                continue
            gate, up, down = (_slot(w, slot) for w in (weights.gate, weights.up, weights.down))
            tokens, choices = (slots_TC == slot).nonzero(as_tuple=True)
            x = x_TD[tokens]
            inner = F.silu(self.linear(x, gate)) * self.linear(x, up)
            y_TCD[tokens, choices] = self.linear(inner, down)

    def combine(self, y_TCD: Tensor, weights_TC: Tensor) -> Tensor:
        return (y_TCD * weights_TC[..., None]).sum(1)

    def attend_naive(
        self, q_THQ: Tensor, span: Span, rows_RL: Tensor, kv_b: Weight, shape: HeadShape
    ) -> Tensor:
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
        return torch.einsum("hts,shv->thv", shares_HTS, v_SHV).flatten(1)

    def attend_absorbed(
        self, q_BHQ: Tensor, queries: DecodingQueries, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Tensor:  # fmt: skip
        w_k_HNL, w_v_HVL = _split(kv_b, shape)
        q_BHN, rotary_BHR = q_BHQ.split([shape.no_position, shape.rotary], -1)
        absorbed_BHL = torch.cat([torch.einsum("bhn,hnl->bhl", q_BHN, w_k_HNL), rotary_BHR], -1)
        sums = []
        lengths, owners = queries.lengths_B.tolist(), queries.owners_B.tolist()
        for q_HL, length, owner in zip(absorbed_BHL, lengths, owners, strict=True):
            rows_SL = _sequence(rows_RL, queries.tables[owner], length)
            shares_HS = (q_HL @ rows_SL.T * shape.scale).softmax(-1)
            sums.append(shares_HS @ rows_SL[:, : shape.latent])
        return torch.einsum("bhl,hvl->bhv", torch.stack(sums), w_v_HVL).flatten(1)


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
