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
from dsdeploy.runner.ops import Activation, HeadShape, LatentNorms, Ops, Weight
from dsdeploy.runner.parallel import Group
from dsdeploy.runner.rope import Turn
from dsdeploy.runner.step import StepInputs


@dataclass(frozen=True)
class AttentionWeights:
    q_a: Weight
    """[A, D]; [H x Q, D] where queries are not compressed."""
    q_b: Weight | None
    """[H x Q, A]"""
    kv_a: Weight
    """[L + R, D]"""
    norms: LatentNorms
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
    ops: Ops
    group: Group

    def __call__(self, x: Activation, step: StepInputs, cache: LatentCache, turn: Turn) -> Tensor:
        w, rows_RL = self.weights, cache.rows[self.layer]
        row_TX = self.ops.linear(x, w.q_a, w.kv_a)
        compressed = self.ops.norm_compressed(row_TX, w.norms, turn, rows_RL, step.slots)
        if w.q_b is None or compressed is None:
            q_TX = row_TX[:, : w.q_a.values.shape[0]]
        else:
            q_TX = self.ops.linear(compressed, w.q_b)
        q_THQ = q_TX.unflatten(-1, (self.shape.heads, -1))
        attended = self._attend(q_THQ, step, rows_RL, turn)
        return self.group.sum(self.ops.linear(attended, w.o))

    def _attend(self, q_THQ: Tensor, step: StepInputs, rows_RL: Tensor, turn: Turn) -> Activation:
        kv_b, shape = self.weights.kv_b, self.shape
        if step.queries is not None and not step.prompts:
            return self.ops.attend_absorbed(q_THQ, turn, step.queries, rows_RL, kv_b, shape)
        out = torch.empty(len(q_THQ), shape.heads * shape.value, device=q_THQ.device)
        for begin, span in step.prompts:
            part = slice(begin, begin + span.count)
            out[part] = self.ops.attend_naive(
                q_THQ[part], turn.of(part), span, rows_RL, kv_b, shape
            ).values_TK
        if step.queries is not None:
            part_T = step.generated
            out[part_T] = self.ops.attend_absorbed(
                q_THQ[part_T], turn.of(part_T), step.queries, rows_RL, kv_b, shape
            ).values_TK
        return Activation(out)
