"""The operations on a GPU. Shapes as in `ops.py`.

On cards that multiply in FP8 (compute capability 8.9 on) activations are rounded as the plain
operations round them. On others FP8 weights are widened inside the products, to BF16 or, before
Ampere, to FP16: a checkpoint takes the same memory there, and activations are rounded less.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from dsdeploy.runner.gpu import decode, experts, libraries, matmul, rowwise
from dsdeploy.runner.gpu.matmul import Arithmetic, arithmetic_of
from dsdeploy.runner.gpu.routing import route
from dsdeploy.runner.gpu.rowwise import Rounding
from dsdeploy.runner.gpu.table import Table, load_table
from dsdeploy.runner.gpu.tiles import (
    INTERPRETER,
    Card,
    Tile,
    card_of,
    decode_tile,
    expert_tiles,
    fitted,
    linear_tile,
)
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
from dsdeploy.runner.plain import PlainOps
from dsdeploy.runner.rope import Turn
from dsdeploy.runner.step import Span

_GATE_ROWS = 64
"""Up to so many, the gate's product in float32 is one kernel of ours; beyond, torch is faster."""


class TritonOps:
    name = "triton"
    joins_shared = True

    def __init__(self, arithmetic: Arithmetic, card: Card, table: Table) -> None:
        self._arithmetic, self._card, self.table = arithmetic, card, table
        self._rounding = Rounding(arithmetic.fp8, arithmetic.powers_of_two)
        # Before Ampere a program has no room for a page's rows and its queries: torch attends.
        self._decodes = arithmetic.dtype != torch.float16
        self.recordable = card.name != INTERPRETER and self._decodes

    @staticmethod
    def of(device: torch.device, powers_of_two: bool) -> TritonOps:
        card = card_of(device)
        return TritonOps(arithmetic_of(device, powers_of_two), card, load_table(card))

    def begin(self) -> None:
        pass

    def rms_norm(
        self, x_TD: Tensor, weight_D: Tensor, epsilon: float, added_TD: Tensor | None = None
    ) -> Activation:
        return rowwise.rms_norm(x_TD, weight_D, epsilon, added_TD, self._rounding)

    def norm_compressed(
        self, row_TX: Tensor, norms: LatentNorms, turn: Turn, rows_RL: Tensor, slots_T: Tensor
    ) -> Activation | None:
        return rowwise.norm_compressed(row_TX, norms, turn, rows_RL, slots_T, self._rounding)

    def linear(self, x: Activation, *weights: Weight) -> Tensor:
        if not weights[0].fp8:
            return joined([self._unquantised(x.values_TK, w) for w in weights])
        outputs, k = sum(w.values.shape[0] for w in weights), weights[0].values.shape[1]
        x = self.input_for(x, weights[0])
        found = self.table.find("linear", (outputs, k), len(x))
        if found is not None and found.by == "torch":
            return joined([libraries.linear_by_torch(x, w) for w in weights])
        if found is not None and found.by == "deep_gemm":
            return joined([libraries.linear_by_deep_gemm(x, w) for w in weights])
        tile = found.tiles[0] if found else linear_tile(len(x), outputs, self._card)
        tile = fitted(tile, self._card, matmul.bytes_of(x), 1)
        return matmul.linear(x, weights, tile, self._arithmetic)

    def _unquantised(self, x_TK: Tensor, weight: Weight) -> Tensor:
        dtype = matmul.multiplied_in(weight, self._arithmetic)
        return F.linear(x_TK.to(dtype), weight.values.to(dtype)).float()

    def input_for(self, x: Activation, weight: Weight) -> Activation:
        """As the product with this weight takes it."""
        if weight.fp8 and self._arithmetic.fp8:
            powers = self._arithmetic.powers_of_two
            return x if x.codes_TK is not None else rowwise.quantise(x.values_TK, powers)
        return Activation(x.values_TK.to(matmul.multiplied_in(weight, self._arithmetic)))

    def route(
        self, x: Activation, gate: Weight, bias_E: Tensor, routing: Routing
    ) -> tuple[Tensor, Tensor]:
        if len(x) > _GATE_ROWS:
            logits_TE = F.linear(x.values_TK, gate.values.float())
        else:
            exact = replace(self._arithmetic, dtype=torch.float32)
            tile = fitted(Tile(16, 16, 4, 4), self._card, 4, 4)
            logits_TE = matmul.linear(x, (gate,), tile, exact)
        return route(logits_TE, bias_E, routing)

    def feed_forward(
        self, x: Activation, slots_TC: Tensor, weights: FeedForwardWeights, y_TCD: Tensor
    ) -> None:
        slots, width, hidden = weights.gate.values.shape
        found = self.table.find("experts", (slots, hidden, width), len(x))
        tiles = found.tiles if found else expert_tiles(slots_TC.numel(), slots)
        x = self.input_for(x, weights.gate)
        tiles = experts.fitted_tiles(tiles, self._card, x, weights)
        experts.feed_forward(x, slots_TC, weights, y_TCD, *tiles, self._arithmetic)

    def dense(self, x: Activation, weights: FeedForwardWeights) -> Tensor:
        gate, up, down = (_only(w) for w in (weights.gate, weights.up, weights.down))
        inner = rowwise.gated(self.linear(x, gate, up), self._rounding)
        return self.linear(inner, down)

    def combine(self, y_TCD: Tensor, weights_TC: Tensor) -> Tensor:
        return experts.combine(y_TCD, weights_TC)

    def attend_naive(
        self, q_THQ: Tensor, turn: Turn, span: Span, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Activation:  # fmt: skip
        """By torch's own attention, in the cache's format."""
        turn.rotate_queries(q_THQ)
        keys = span.past + span.count
        pages = torch.tensor(span.pages[: -(-keys // PAGE_TOKENS)], device=rows_RL.device)
        rows_SL = rows_RL.view(-1, PAGE_TOKENS, rows_RL.shape[1])[pages].flatten(0, 1)[:keys]
        latent_SL, rotary_SR = rows_SL.split([shape.latent, shape.rotary], -1)
        kv_SHX = F.linear(latent_SL, kv_b.values.to(rows_RL.dtype)).unflatten(-1, (shape.heads, -1))
        k_SHN, v_SHV = kv_SHX.split([shape.no_position, shape.value], -1)
        k_SHQ = torch.cat([k_SHN, rotary_SR[:, None].expand(-1, shape.heads, -1)], -1)
        out_HTV = F.scaled_dot_product_attention(
            q_THQ.to(k_SHQ.dtype).transpose(0, 1)[None],
            k_SHQ.transpose(0, 1)[None],
            # Fused kernels want values as wide as keys.
            F.pad(v_SHV, (0, k_SHQ.shape[-1] - shape.value)).transpose(0, 1)[None],
            attn_mask=causal_lower_right(span.count, keys),
            scale=shape.scale,
        )[0]
        return Activation(out_HTV[..., : shape.value].transpose(0, 1).flatten(1).float())

    def attend_absorbed(
        self, q_BHQ: Tensor, turn: Turn, queries: DecodingQueries, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Activation:  # fmt: skip
        if not self._decodes:
            return PlainOps(False).attend_absorbed(q_BHQ, turn, queries, rows_RL, kv_b, shape)
        found = self.table.find("decode", (shape.heads,), len(q_BHQ))
        absorbed_BHL = decode.absorb(q_BHQ, turn, rows_RL.dtype, kv_b, shape)
        if found is not None and found.by == "flash_mla":
            parts = decode.whole(
                libraries.attend_by_flash_mla(absorbed_BHL, queries, rows_RL, shape)
            )
        else:
            default = decode_tile(len(q_BHQ), shape.heads, self._card)
            tile = found.decode if found and found.decode else default
            parts = decode.attend(absorbed_BHL, queries, rows_RL, shape, tile)
        return decode.expand(parts, rows_RL.dtype, kv_b, shape, self._rounding)


def _only(weight: Weight) -> Weight:
    """Of a stack of one."""
    return Weight(weight.values[0], None if weight.scales is None else weight.scales[0])
