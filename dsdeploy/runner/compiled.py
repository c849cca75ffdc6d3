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
    DecodingQueries,
    FeedForwardWeights,
    HeadShape,
    Routing,
    Weight,
    flat,
)
from dsdeploy.runner.step import Span

_U = np.uintp


class CompiledOps:
    name = "compiled"

    def __init__(self, powers_of_two: bool) -> None:
        self._powers_of_two = powers_of_two
        self._threads = min(torch.get_num_threads(), numba.get_num_threads())

    def begin(self) -> None:
        numba.set_num_threads(self._threads)  # which numba keeps for each thread

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        out = torch.empty(x_TD.shape)
        rows, width = x_TD.shape
        rowwise.rms_norm(flat(x_TD), flat(weight_D), epsilon, _U(rows), _U(width), flat(out))
        return out

    def linear(self, x_TK: Tensor, weight: Weight) -> Tensor:
        x_TK = self._input(x_TK, weight)
        rows, (n, k) = x_TK.shape[0], weight.values.shape
        out = torch.empty(rows, n)
        matmul.linear(flat(x_TK), *weight.arrays, flat(out), _U(rows), _U(n), _U(k))
        return out

    def _input(self, x_TK: Tensor, weight: Weight) -> Tensor:
        if not weight.fp8:
            return x_TK
        out = torch.empty(x_TK.shape)
        rows, width = x_TK.shape
        rowwise.round_to_fp8(flat(x_TK), _U(rows), _U(width), self._powers_of_two, flat(out))
        return out

    def route(self, logits_TE: Tensor, bias_E: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
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
        return chosen, weights

    def feed_forward(
        self, x_TD: Tensor, slots_TC: Tensor, weights: FeedForwardWeights, y_TCD: Tensor
    ) -> None:
        slots, f, d = weights.gate.values.shape
        x_TD = self._input(x_TD, weights.gate)
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
        self, q_THQ: Tensor, span: Span, rows_RL: Tensor, kv_b: Weight, shape: HeadShape
    ) -> Tensor:
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
        return out

    def attend_absorbed(
        self, q_BHQ: Tensor, queries: DecodingQueries, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Tensor:  # fmt: skip
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
        return out


def _dimensions(shape: HeadShape) -> tuple[Any, ...]:
    widths = (shape.heads, shape.no_position, shape.rotary, shape.value, shape.latent)
    return (*map(_U, widths), np.float32(shape.scale))
