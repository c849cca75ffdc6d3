"""DeepSeek-V3, a step at a time.

T tokens of a step   D hidden   N tokens whose logits are wanted   W vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dsdeploy.model.config import ModelConfig
from dsdeploy.runner.attention import Attention
from dsdeploy.runner.cache import LatentCache
from dsdeploy.runner.experts import FeedForward, Mixture
from dsdeploy.runner.ops import Activation, Ops, Weight
from dsdeploy.runner.parallel import Group
from dsdeploy.runner.rope import Rotation, Turn
from dsdeploy.runner.step import StepInputs


@dataclass(frozen=True)
class Layer:
    attention_norm: Tensor
    attention: Attention
    feed_forward_norm: Tensor
    feed_forward: FeedForward | Mixture
    epsilon: float
    ops: Ops

    def __call__(
        self,
        x_TD: Tensor,
        added_TD: Tensor | None,
        step: StepInputs,
        cache: LatentCache,
        turn: Turn,
    ) -> Tensor:
        """What is still to be added to x [T, D], in which `added`, the same of the layer before,
        has its place afterwards. So an addition and the norm after it are one operation."""
        normed = self.ops.rms_norm(x_TD, self.attention_norm, self.epsilon, added_TD)
        attended_TD = self.attention(normed, step, cache, turn)
        normed = self.ops.rms_norm(x_TD, self.feed_forward_norm, self.epsilon, attended_TD)
        return self.feed_forward(normed)


@dataclass(frozen=True)
class MtpLayer:
    """Multi-token prediction: from a token's final state and the token after it, the state that
    predicts the one after that. Embedding and head are the main model's, as in every published
    checkpoint."""

    embedding_norm: Tensor
    hidden_norm: Tensor
    projection: Weight
    """[D, 2 D]: the embedding's part first."""
    layer: Layer
    final_norm: Tensor


@dataclass(frozen=True)
class Model:
    config: ModelConfig
    embedding: Tensor
    """[W, D]"""
    layers: Sequence[Layer]
    final_norm: Tensor
    head: Weight
    """[W of this rank, D]"""
    mtp: MtpLayer | None
    rotation: Rotation
    ops: Ops
    group: Group
    cache_dtype: torch.dtype

    def new_cache(self, pages: int) -> LatentCache:
        """Room for `pages` pages of tokens, the MTP layer's included."""
        layers = len(self.layers) + (self.mtp is not None)
        width = self.config.kv_lora_rank + self.config.qk_rope_head_dim
        return LatentCache(layers, pages, width, self.cache_dtype, self.device)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @torch.inference_mode()
    def hidden(self, step: StepInputs, cache: LatentCache) -> Tensor:
        """The state of each token after the final norm, [T, D]; fills the cache."""
        self.ops.begin()
        x_TD, turn = self._embed(step.tokens), self.rotation.at(step.positions)
        added_TD = None
        for layer in self.layers:
            added_TD = layer(x_TD, added_TD, step, cache, turn)
        epsilon = self.config.rms_norm_eps
        return self.ops.rms_norm(x_TD, self.final_norm, epsilon, added_TD).values_TK

    @torch.inference_mode()
    def logits(self, hidden_ND: Tensor) -> Tensor:
        """[N, W] float32"""
        return self.group.gather(self.ops.linear(Activation(hidden_ND), self.head))

    @torch.inference_mode()
    def draft(self, step: StepInputs, hidden_TD: Tensor, cache: LatentCache) -> Tensor:
        """The MTP layer's state of each token [T, D], after its norm: for `logits`, or for
        another turn. `step.tokens` are the tokens that follow, its positions those of `hidden_TD`.
        """
        if self.mtp is None:
            raise RuntimeError("this model has been loaded without its MTP layer")
        mtp, epsilon = self.mtp, self.config.rms_norm_eps
        self.ops.begin()
        embedded_TD = self._embed(step.tokens)
        embedded_TD = embedded_TD.masked_fill((step.positions == 0)[:, None], 0.0)
        pair = torch.cat(
            [
                self.ops.rms_norm(embedded_TD, mtp.embedding_norm, epsilon).values_TK,
                self.ops.rms_norm(hidden_TD, mtp.hidden_norm, epsilon).values_TK,
            ],
            -1,
        )
        turn = self.rotation.at(step.positions)
        x_TD = self.ops.linear(Activation(pair), mtp.projection)
        added_TD = mtp.layer(x_TD, None, step, cache, turn)
        return self.ops.rms_norm(x_TD, mtp.final_norm, epsilon, added_TD).values_TK

    def _embed(self, tokens_T: Tensor) -> Tensor:
        return F.embedding(tokens_T, self.embedding).float()
