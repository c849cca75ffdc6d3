"""Feed-forward layers: one for all tokens (dense), or a mixture whose gate picks experts.

T tokens   D hidden   E experts   C choices of a token   F width of an expert
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dsdeploy.runner.ops import FeedForwardWeights, Ops, Routing, Weight
from dsdeploy.runner.parallel import Group


class ExpertStore(Protocol):
    """Where the weights of one layer's experts are."""

    def prefetch(self, experts_TC: Tensor) -> None:
        """The gate has chosen these; they will be asked for soon."""

    def waves(self, experts_TC: Tensor) -> Iterator[tuple[Tensor, FeedForwardWeights]]:
        """(slots [T, C], weights) until each pair has had its turn once: its slot is negative in
        every other wave, and in all of them when its expert is another rank's."""


@dataclass(frozen=True)
class ResidentExperts:
    """All of this rank's experts, in memory."""

    weights: FeedForwardWeights
    first: int

    def prefetch(self, experts_TC: Tensor) -> None:
        pass

    def waves(self, experts_TC: Tensor) -> Iterator[tuple[Tensor, FeedForwardWeights]]:
        slots_TC = experts_TC - self.first
        others = (slots_TC < 0) | (slots_TC >= len(self.weights.gate.values))
        yield slots_TC.masked_fill(others, -1), self.weights


@dataclass(frozen=True)
class FeedForward:
    """The same for every token; also the shared experts of a mixture, which act as one."""

    weights: FeedForwardWeights
    ops: Ops
    group: Group

    def __call__(self, x_TD: Tensor) -> Tensor:
        return self.group.sum(self.partial(x_TD))

    def partial(self, x_TD: Tensor) -> Tensor:
        """This rank's part of the sum."""
        y_TCD = torch.empty(len(x_TD), 1, x_TD.shape[1], device=x_TD.device)
        slots_TC = torch.zeros(len(x_TD), 1, dtype=torch.int64, device=x_TD.device)
        self.ops.feed_forward(x_TD, slots_TC, self.weights, y_TCD)
        return y_TCD[:, 0]


@dataclass(frozen=True)
class Mixture:
    gate: Weight
    """[E, D], never FP8: the choice of experts is made in float32."""
    bias: Tensor
    """[E], for the choice only."""
    routing: Routing
    experts: ExpertStore
    shared: FeedForward | None
    ops: Ops
    group: Group

    def __call__(self, x_TD: Tensor) -> Tensor:
        logits_TE = self.ops.linear(x_TD, self.gate)
        experts_TC, weights_TC = self.ops.route(logits_TE, self.bias, self.routing)
        self.experts.prefetch(experts_TC)
        shared_TD = None if self.shared is None else self.shared.partial(x_TD)
        y_TCD = torch.zeros(*experts_TC.shape, x_TD.shape[1], device=x_TD.device)
        for slots_TC, weights in self.experts.waves(experts_TC):
            self.ops.feed_forward(x_TD, slots_TC, weights, y_TCD)
        out_TD = self.ops.combine(y_TCD, weights_TC)
        return self.group.sum(out_TD if shared_TD is None else out_TD + shared_TD)
