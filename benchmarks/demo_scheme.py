"""The products in the way of DeepSeek's demo with BF16 arithmetic, as a yardstick: each weight is widened
to BF16 whenever it is needed and then multiplied by, and experts are computed one after the other, by a
host that knows their loads."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dsdeploy.runner.ops import FeedForwardWeights, Weight
from dsdeploy.runner.plain import widen


def linear(x_TK: Tensor, weight: Weight) -> Tensor:
    return F.linear(x_TK.to(torch.bfloat16), widen(weight).to(torch.bfloat16))


def experts(
    x_TD: Tensor, chosen_TC: Tensor, shares_TC: Tensor, weights: FeedForwardWeights
) -> Tensor:
    y_TD = torch.zeros_like(x_TD)
    counts = torch.bincount(chosen_TC.flatten(), minlength=len(weights.gate.values)).tolist()
    for slot, count in enumerate(counts):
        if count == 0:
            continue
        tokens, place = torch.where(chosen_TC == slot)
        gate, up, down = (_of(w, slot) for w in (weights.gate, weights.up, weights.down))
        inner = F.silu(linear(x_TD[tokens], gate)) * linear(x_TD[tokens], up)
        y_TD[tokens] += linear(inner, down) * shares_TC[tokens, place, None]
    return y_TD


def _of(weight: Weight, slot: int) -> Weight:
    return Weight(weight.values[slot], None if weight.scales is None else weight.scales[slot])
