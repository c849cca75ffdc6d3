"""The operations on a CPU, by the compiled kernels. Shapes as in `ops.py`.

Every row of every result has the same bits alone and in a batch (see `kernels/tiles.py`).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from dsdeploy.runner.kernels import attend, experts, matmul, rowwise
from dsdeploy.runner.ops import (
    Activation,
    DecodingQueries,
    FeedForwardWeights,
    HeadShape,
    LatentNorms,
    Routing,
    Weight,
    flat,
    joined,
)
from dsdeploy.runner.plain import norm_compressed, with_shared
from dsdeploy.runner.rope import Turn
from dsdeploy.runner.step import Span

_U = np.uintp


class CompiledOps:
    name = "compiled"
    joins_shared = False
    recordable = False

    def __init__(self, powers_of_two: bool) -> None:
        self._powers_of_two = powers_of_two
        self._threads = min(torch.get_num_threads(), numba.get_num_threads())

    def begin(self) -> None:
        numba.set_num_threads(self._threads)  # which numba keeps for each thread

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
        x_TK, parts = self._input(x.values_TK, weights[0]), []
        for weight in weights:
            rows, (n, k) = len(x_TK), weight.values.shape
            parts.append(torch.empty(rows, n))
            matmul.linear(flat(x_TK), *weight.arrays, flat(parts[-1]), _U(rows), _U(n), _U(k))
        return joined(parts)

    def _input(self, x_TK: Tensor, weight: Weight) -> Tensor:
        if not weight.fp8:
            return x_TK
        out = torch.empty(x_TK.shape)
        rows, width = x_TK.shape
        rowwise.round_to_fp8(flat(x_TK), _U(rows), _U(width), self._powers_of_two, flat(out))
        return out

    def route(
        self, x: Activation, gate: Weight, bias_E: Tensor, routing: Routing
    ) -> tuple[Tensor, Tensor]:
        logits_TE = self.linear(x, gate)
        shape = (len(logits_TE), routing.experts_per_token)
        chosen, weights = torch.empty(shape, dtype=torch.int64), torch.empty(shape)
        rowwise.route(
            logits_TE.numpy(),
            bias_E.numpy(),
            routing.groups,
            routing.kept_groups,
            routing.normalise,
            np.float32(routing.factor),
            chosen.numpy(),
            weights.numpy(),
        )
        return with_shared(chosen, weights, len(bias_E), routing.shared)

    def dense(self, x: Activation, weights: FeedForwardWeights) -> Tensor:
        y_TCD = torch.empty(len(x), 1, x.values_TK.shape[1])
        self.feed_forward(x, torch.zeros(len(x), 1, dtype=torch.int64), weights, y_TCD)
        return y_TCD[:, 0]

    def feed_forward(
        self, x: Activation, slots_TC: Tensor, weights: FeedForwardWeights, y_TCD: Tensor
    ) -> None:
        slots, f, d = weights.gate.values.shape
        x_TD = self._input(x.values_TK, weights.gate)
        experts.feed_forward(
            flat(x_TD),
            flat(slots_TC),
            _U(slots_TC.shape[1]),
            *weights.gate.arrays,
            *weights.up.arrays,
            *weights.down.arrays,
            _U(slots),
            _U(d),
            _U(f),
            weights.gate.fp8,
            self._powers_of_two,
            flat(y_TCD),
        )

    def combine(self, y_TCD: Tensor, weights_TC: Tensor) -> Tensor:
        out = torch.empty(y_TCD.shape[0], y_TCD.shape[2])
        experts.combine(y_TCD.numpy(), weights_TC.numpy(), out.numpy())
        return out

    def attend_naive(
        self, q_THQ: Tensor, turn: Turn, span: Span, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Activation:  # fmt: skip
        turn.rotate_queries(q_THQ)
        out = torch.empty(span.count, shape.heads * shape.value)
        attend.naive(
            flat(q_THQ),
            _U(span.past),
            _U(span.count),
            np.array(span.pages, np.int64),
            flat(rows_RL),
            kv_b.arrays[0],
            *_dimensions(shape),
            flat(out),
        )
        return Activation(out)

    def attend_absorbed(
        self, q_BHQ: Tensor, turn: Turn, queries: DecodingQueries, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Activation:  # fmt: skip
        turn.rotate_queries(q_BHQ)
        out = torch.empty(len(q_BHQ), shape.heads * shape.value)
        attend.absorbed(
            flat(q_BHQ),
            queries.lengths_B.numpy(),
            queries.tables.numpy(),
            queries.owners_B.numpy(),
            flat(rows_RL),
            kv_b.arrays[0],
            *_dimensions(shape),
            _U(self._threads),
            flat(out),
        )
        return Activation(out)


def _rms_norm(x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    out = torch.empty(x_TD.shape)
    rows, width = x_TD.shape
    rowwise.rms_norm(flat(x_TD), flat(weight_D), epsilon, _U(rows), _U(width), flat(out))
    return out


def _dimensions(shape: HeadShape) -> tuple[Any, ...]:
    widths = (shape.heads, shape.no_position, shape.rotary, shape.value, shape.latent)
    return (*map(_U, widths), np.float32(shape.scale))
