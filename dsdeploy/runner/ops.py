"""The seam between the model and the arithmetic: what the kernels are given, and who computes it.

    T tokens   D hidden   K inputs   N outputs   S expert slots   F width of an expert
    C choices of a token   E experts   H heads   Q width of a query head   V width of a value
    R rows of the cache   L latent width   B decoding queries

The model is written once against `Ops`. An implementation is chosen once, at start: `plain` in
torch (exact, slow, on any device) or `compiled` (CPU). Activations are float32 between operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsdeploy.errors import UsageError
from dsdeploy.model.config import ModelConfig
from dsdeploy.runner.kernels.matmul import NO_SCALES
from dsdeploy.runner.rope import softmax_scale

if TYPE_CHECKING:
    from dsdeploy.runner.step import Span


# numba has no arrays of BF16, FP16 or FP8: each goes by an integer type of its own.
_AS_INTEGERS = {
    torch.bfloat16: (torch.int16, np.uint16),
    torch.float16: (torch.int16, np.int16),
    torch.float8_e4m3fn: (torch.uint8, np.uint8),
}


def flat(tensor: Tensor) -> NDArray[Any]:
    """The tensor's memory as an array of one axis."""
    if tensor.dtype in _AS_INTEGERS:
        through, dtype = _AS_INTEGERS[tensor.dtype]
        return tensor.view(through).reshape(-1).numpy().view(dtype)
    return tensor.reshape(-1).numpy()


@dataclass(frozen=True)
class Weight:
    """A matrix as it is kept: float32, bfloat16, float16, or e4m3 with its scales."""

    values: Tensor
    """[N, K], or [S, N, K] of experts"""
    scales: Tensor | None = None
    """[ceil(N / 128), ceil(K / 128)] float32 for e4m3, with S before it for experts."""

    @property
    def fp8(self) -> bool:
        return self.scales is not None

    @cached_property
    def arrays(self) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Values and scales as compiled kernels take them: flat, on the CPU."""
        return flat(self.values), NO_SCALES if self.scales is None else flat(self.scales)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def to(self, device: torch.device) -> Weight:
        scales = None if self.scales is None else self.scales.to(device)
        return Weight(self.values.to(device), scales)


@dataclass(frozen=True)
class FeedForwardWeights:
    """silu(gate(x)) up(x), through down."""

    gate: Weight
    """[S, F, D], as `up`; `down` [S, D, F]. A dense layer has one slot."""
    up: Weight
    down: Weight

    def to(self, device: torch.device) -> FeedForwardWeights:
        return FeedForwardWeights(*(w.to(device) for w in (self.gate, self.up, self.down)))


@dataclass(frozen=True)
class Routing:
    """How a gate chooses."""

    experts_per_token: int
    groups: int
    kept_groups: int
    normalise: bool
    factor: float


@dataclass(frozen=True)
class HeadShape:
    """The attention heads of this rank."""

    heads: int
    no_position: int
    rotary: int
    value: int
    latent: int
    scale: float

    @staticmethod
    def of(config: ModelConfig, ranks: int) -> HeadShape:
        return HeadShape(
            heads=config.num_attention_heads // ranks,
            no_position=config.qk_nope_head_dim,
            rotary=config.qk_rope_head_dim,
            value=config.v_head_dim,
            latent=config.kv_lora_rank,
            scale=softmax_scale(config),
        )


@dataclass(frozen=True)
class DecodingQueries:
    """Which keys each query of a step sees in absorbed attention."""

    lengths_B: Tensor
    """int64: keys of each query, its own included."""
    owners_B: Tensor
    """int64: row of `tables` of each query."""
    tables: Tensor
    """[sequences, pages] int64, padded with zeros."""


class Ops(Protocol):
    name: str
    """As users know it."""

    def begin(self) -> None:
        """Before a step, in the thread that computes it."""

    def rms_norm(self, x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor: ...

    def linear(self, x_TK: Tensor, weight: Weight) -> Tensor:
        """y [T, N]. For an FP8 weight x is rounded to FP8 in groups of 128 first."""

    def route(self, logits_TE: Tensor, bias_E: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
        """(experts [T, C] int64, weights [T, C])."""

    def feed_forward(
        self, x_TD: Tensor, slots_TC: Tensor, weights: FeedForwardWeights, y_TCD: Tensor
    ) -> None:
        """Fill y for the pairs whose slot is not negative."""

    def combine(self, y_TCD: Tensor, weights_TC: Tensor) -> Tensor:
        """The weighted sum over the choices, in their order: [T, D]."""

    def attend_naive(
        self, q_THQ: Tensor, span: Span, rows_RL: Tensor, kv_b: Weight, shape: HeadShape
    ) -> Tensor:
        """[T, H x V], the queries being a prompt's next tokens, whose rows are in the cache."""

    def attend_absorbed(
        self, q_BHQ: Tensor, queries: DecodingQueries, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Tensor:  # fmt: skip
        """[B, H x V], without expanding any key."""


def choose_ops(device: torch.device, powers_of_two: bool, kernels: str | None = None) -> Ops:
    """`powers_of_two`: whether FP8 scales of activations are (ue8m0). `kernels` None: compiled on
    a CPU, plain elsewhere."""
    from dsdeploy.runner.compiled import CompiledOps
    from dsdeploy.runner.plain import PlainOps

    on_cpu = device.type == "cpu"
    kernels = kernels or (CompiledOps.name if on_cpu else PlainOps.name)
    if kernels == PlainOps.name:
        return PlainOps(powers_of_two)
    if kernels == CompiledOps.name and on_cpu:
        return CompiledOps(powers_of_two)
    raise UsageError(f"There are no {kernels!r} kernels for {device}.", "Use plain.")
