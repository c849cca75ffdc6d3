"""Feed-forward layers: one for all tokens (dense), or a mixture whose gate picks experts.

T tokens   D hidden   E experts   C choices of a token   F width of an expert
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dsdeploy.runner.ops import Activation, FeedForwardWeights, Ops, Routing, Weight
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
    first: int | None
    """Of this rank; None where all are here."""

    def prefetch(self, experts_TC: Tensor) -> None:
        pass

    def waves(self, experts_TC: Tensor) -> Iterator[tuple[Tensor, FeedForwardWeights]]:
        if self.first is None:
            yield experts_TC, self.weights
            return
        slots_TC = experts_TC - self.first
        others = (slots_TC < 0) | (slots_TC >= len(self.weights.gate.values))
        yield slots_TC.masked_fill(others, -1), self.weights


@dataclass(frozen=True)
class FeedForward:
    """The same for every token; also the shared experts of a mixture, which act as one."""

    weights: FeedForwardWeights
    ops: Ops
    group: Group

    def __call__(self, x: Activation) -> Tensor:
        return self.group.sum(self.partial(x))

    def partial(self, x: Activation) -> Tensor:
        """This rank's part of the sum."""
        return self.ops.dense(x, self.weights)


@dataclass(frozen=True)
class Mixture:
    gate: Weight
    """[E, D], never FP8: the choice of experts is made in float32."""
    bias: Tensor
    """[E], for the choice only."""
    routing: Routing
    experts: ExpertStore
    shared: FeedForward | None
    """None where there are none, or `routing` has them among the others."""
    ops: Ops
    group: Group

    def __call__(self, x: Activation) -> Tensor:
        experts_TC, weights_TC = self.ops.route(x, self.gate, self.bias, self.routing)
        self.experts.prefetch(experts_TC)
        shared_TD = None if self.shared is None else self.shared.partial(x)
        y_TCD = self._pairs(x, experts_TC)
        for slots_TC, weights in self.experts.waves(experts_TC):
            self.ops.feed_forward(x, slots_TC, weights, y_TCD)
        out_TD = self.ops.combine(y_TCD, weights_TC)
        return self.group.sum(out_TD if shared_TD is None else out_TD + shared_TD)

    def _pairs(self, x: Activation, experts_TC: Tensor) -> Tensor:
        """Room for each choice's result [T, C, D]; a pair of another rank's stays zero."""
        make = torch.empty if self.group.size == 1 else torch.zeros
        return make(*experts_TC.shape, x.values_TK.shape[1], device=experts_TC.device)
