"""Multi-head latent attention: the cache holds one latent vector a token, for all heads.

    T tokens   D hidden   H heads of this rank   N width of a head without position
    R rotary width   Q = N + R   L latent width   A query's latent width   V width of a value

A prompt's tokens expand keys and values from the latents (naive); a generated token goes the other
way and brings its query into the latent space (absorbed), where a key is the cached row itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dsdeploy.runner.cache import LatentCache
from dsdeploy.runner.ops import HeadShape, Ops, Weight
from dsdeploy.runner.parallel import Group
from dsdeploy.runner.rope import Turn
from dsdeploy.runner.step import Step


@dataclass(frozen=True)
class AttentionWeights:
    q_a: Weight | None
    """[A, D]; None where the query is one matrix, which then is `q_b`."""
    q_a_norm: Tensor | None
    q_b: Weight
    """[H x Q, A]"""
    kv_a: Weight
    """[L + R, D]"""
    kv_a_norm: Tensor
    kv_b: Weight
    """[H x (N + V), L], never FP8: the absorbed form multiplies by it from both sides."""
    o: Weight
    """[D, H x V]"""


@dataclass(frozen=True)
class Attention:
    layer: int
    """Its place in the cache."""
    weights: AttentionWeights
    shape: HeadShape
    epsilon: float
    ops: Ops
    group: Group

    def __call__(self, x_TD: Tensor, step: Step, cache: LatentCache, turn: Turn) -> Tensor:
        q_THQ = self._queries(x_TD, turn)
        cache.write(self.layer, step.slots, self._latents(x_TD, turn))
        out = torch.empty(len(x_TD), self.shape.heads * self.shape.value, device=x_TD.device)
        rows_RL = cache.rows[self.layer]
        for begin, span in step.prompts:
            part = slice(begin, begin + span.count)
            out[part] = self.ops.attend_naive(
                q_THQ[part], span, rows_RL, self.weights.kv_b, self.shape
            )
        if step.queries is not None:
            out[step.generated] = self.ops.attend_absorbed(
                q_THQ[step.generated], step.queries, rows_RL, self.weights.kv_b, self.shape
            )
        return self.group.sum(self.ops.linear(out, self.weights.o))

    def _queries(self, x_TD: Tensor, turn: Turn) -> Tensor:
        w = self.weights
        if w.q_a is not None and w.q_a_norm is not None:
            x_TD = self.ops.rms_norm(self.ops.linear(x_TD, w.q_a), w.q_a_norm, self.epsilon)
        q_THQ = self.ops.linear(x_TD, w.q_b).view(len(x_TD), self.shape.heads, -1)
        rotary_THR = q_THQ[..., self.shape.no_position :]
        rotary_THR.copy_(turn.rotate(rotary_THR))
        return q_THQ

    def _latents(self, x_TD: Tensor, turn: Turn) -> Tensor:
        """What the cache keeps of each token: the normed latent, and the rotated key that all
        heads share."""
        row = self.ops.linear(x_TD, self.weights.kv_a)
        latent_TL, rotary_TR = row.split([self.shape.latent, self.shape.rotary], -1)
        normed_TL = self.ops.rms_norm(latent_TL.contiguous(), self.weights.kv_a_norm, self.epsilon)
        return torch.cat([normed_TL, turn.rotate(rotary_TR)], -1)
