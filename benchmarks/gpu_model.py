"""Layers of DeepSeek-V3 with random weights made on the device, each to be called alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import demo_scheme
import torch
from torch import Tensor

from dsdeploy.model.config import ModelConfig
from dsdeploy.runner.attention import Attention, AttentionWeights
from dsdeploy.runner.cache import LatentCache
from dsdeploy.runner.experts import FeedForward, Mixture, ResidentExperts
from dsdeploy.runner.gpu.matmul import Arithmetic
from dsdeploy.runner.gpu.trials import Operands
from dsdeploy.runner.graphs import cuda_recorder
from dsdeploy.runner.model import Layer
from dsdeploy.runner.ops import (
    Activation,
    FeedForwardWeights,
    HeadShape,
    LatentNorms,
    Ops,
    Routing,
    Weight,
)
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.parallel import Group
from dsdeploy.runner.rope import Rotation
from dsdeploy.runner.step import Span, Step

Compute = Callable[[], object]
_MOE_LAYERS = 3


@dataclass(frozen=True)
class Workload:
    """A step: so many sequences that generate, or one prompt."""

    step: Step
    context: int
    """Keys of each sequence."""

    @staticmethod
    def decoding(batch: int, context: int, device: torch.device) -> Workload:
        pages = -(-context // PAGE_TOKENS)
        spans = tuple(
            Span(context - 1, 1, tuple(range(n * pages, (n + 1) * pages)), False)
            for n in range(batch)
        )
        return Workload(Step(torch.zeros(batch, dtype=torch.int64, device=device), spans), context)

    @staticmethod
    def prompt(count: int, device: torch.device) -> Workload:
        pages = tuple(range(-(-count // PAGE_TOKENS)))
        step = Step(
            torch.zeros(count, dtype=torch.int64, device=device), (Span(0, count, pages, True),)
        )
        return Workload(step, count)

    @property
    def pages(self) -> int:
        return sum(len(span.pages) for span in self.step.spans)


class SliceModel:
    """A dense layer, some MoE layers and the head, of one card that is alone: 35 GB and the head."""

    def __init__(
        self, config: ModelConfig, ops: Ops, operands: Operands, arithmetic: Arithmetic
    ) -> None:
        self.config, self.ops, self.operands = config, ops, operands
        self.device, self._group = operands.device, Group()
        self._dtype = torch.float32 if self.device.type == "cpu" else arithmetic.dtype
        self._rotation = Rotation(config, self.device)
        self._layers = {
            "dense": [self._layer(0, self._dense())],
            "moe": [self._layer(number, self._mixture()) for number in range(_MOE_LAYERS)],
        }
        values = operands.values(config.vocab_size, config.hidden_size, dtype=self._dtype)
        self._head = Weight(values)
        self._record = cuda_recorder(self.device) if self.device.type == "cuda" else None

    def count(self, kind: str) -> int:
        return len(self._layers[kind])

    def layers(self, kind: str, load: Workload) -> Compute:
        """One after the other, on states that are the same each time; all that a step prepares once
        is ready."""
        layers, step = self._layers[kind], load.step
        width = self.config.kv_lora_rank + self.config.qk_rope_head_dim
        cache = LatentCache(len(layers), load.pages, width, self._dtype, self.device)
        cache.rows.normal_()
        x_TD = self.operands.values(len(step.tokens), self.config.hidden_size)
        turn = self._rotation.at(step.positions)
        _ = step.queries, step.slots

        def compute() -> Tensor:
            with torch.inference_mode():
                added_TD = torch.zeros_like(x_TD)
                for layer in layers:
                    added_TD = layer(x_TD, added_TD, step, cache, turn)
                return added_TD

        return compute

    def head(self, rows: int) -> Compute:
        x = Activation(self.operands.values(rows, self.config.hidden_size))
        return lambda: self.ops.linear(x, self._head)

    def recorded(self, compute: Compute) -> Compute:
        """As a graph, where there are any."""
        if self._record is None:
            return compute
        return self._record(compute)  # type: ignore[arg-type]

    def moe_bytes(self, load: Workload) -> float:
        """That an MoE layer must read: weights of attention and of the experts that uniform gates
        hit, and the cache."""
        config, attention = self.config, self._layers["moe"][0].attention.weights
        matrices = [attention.q_a, attention.q_b, attention.kv_a, attention.kv_b, attention.o]
        fixed = sum(weight.nbytes for weight in matrices if weight is not None)
        experts, chosen = config.n_routed_experts, config.num_experts_per_tok
        batch = len(load.step.tokens)
        hit = experts * (1 - (1 - chosen / experts) ** batch) + config.n_shared_experts
        one = 3 * config.hidden_size * config.moe_intermediate_size
        cached = batch * load.context * (config.kv_lora_rank + config.qk_rope_head_dim)
        return fixed + hit * one + cached * self._dtype.itemsize

    def moe_by_demo(self, load: Workload) -> Compute:
        """An MoE layer's products in the demo's scheme, without attention over the cache."""
        layer, mixture = self._layers["moe"][0], self._layers["moe"][0].feed_forward
        assert isinstance(mixture, Mixture)
        assert isinstance(mixture.experts, ResidentExperts)
        weights, experts = layer.attention.weights, mixture.experts.weights
        projections = [w for w in (weights.q_a, weights.q_b, weights.kv_a, weights.o) if w]
        rows = len(load.step.tokens)
        inputs = [self.operands.values(rows, w.values.shape[1]) for w in projections]
        x_TD = inputs[0]

        def compute() -> Tensor:
            with torch.inference_mode():
                for x, weight in zip(inputs, projections, strict=True):
                    demo_scheme.linear(x, weight)
                chosen, shares = self.ops.route(
                    Activation(x_TD), mixture.gate, mixture.bias, mixture.routing
                )
                return demo_scheme.experts(x_TD, chosen, shares, experts)

        return compute

    def _layer(self, number: int, feed_forward: FeedForward | Mixture) -> Layer:
        norm = torch.ones(self.config.hidden_size, device=self.device)
        epsilon = self.config.rms_norm_eps
        return Layer(norm, self._attention(number), norm, feed_forward, epsilon, self.ops)

    def _attention(self, number: int) -> Attention:
        config, make = self.config, self.operands.weight
        shape = HeadShape.of(config, 1)
        query, rank = shape.no_position + shape.rotary, config.q_lora_rank or 0
        height = shape.heads * (shape.no_position + shape.value)
        kv_b = self.operands.values(height, shape.latent) * shape.latent**-0.5
        ones = torch.ones(max(rank, shape.latent), device=self.device)
        weights = AttentionWeights(
            q_a=make(rank, config.hidden_size),
            q_b=make(shape.heads * query, rank),
            kv_a=make(shape.latent + shape.rotary, config.hidden_size),
            norms=LatentNorms(ones[:rank], ones[: shape.latent], config.rms_norm_eps),
            kv_b=Weight(kv_b.to(self._dtype)),
            o=make(config.hidden_size, shape.heads * shape.value),
        )
        return Attention(number, weights, shape, self.ops, self._group)

    def _dense(self) -> FeedForward:
        weights = self._feed_forward(1, self.config.intermediate_size)
        return FeedForward(weights, self.ops, self._group)

    def _mixture(self) -> Mixture:
        config = self.config
        gate = self.operands.values(config.n_routed_experts, config.hidden_size)
        routing = Routing(
            config.num_experts_per_tok, config.n_group, config.topk_group, config.norm_topk_prob,
            config.routed_scaling_factor, shared=config.n_shared_experts,
        )  # fmt: skip
        slots = config.n_routed_experts + config.n_shared_experts
        return Mixture(
            gate=Weight((gate * config.hidden_size**-0.5).bfloat16()),
            bias=torch.zeros(config.n_routed_experts, device=self.device),
            routing=routing,
            experts=ResidentExperts(self._feed_forward(slots, config.moe_intermediate_size), None),
            shared=None,
            ops=self.ops,
            group=self._group,
        )

    def _feed_forward(self, slots: int, width: int) -> FeedForwardWeights:
        hidden, make = self.config.hidden_size, self.operands.weight
        return FeedForwardWeights(
            make(slots, width, hidden), make(slots, width, hidden), make(slots, hidden, width)
        )
