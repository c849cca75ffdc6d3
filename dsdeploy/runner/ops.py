"""The seam between the model and the arithmetic: what the kernels are given, and who computes it.

    T tokens   D hidden   K inputs   N outputs   S expert slots   F width of an expert
    C choices of a token   E experts   H heads   Q width of a query head   V width of a value
    R rows of the cache   L latent width   B decoding queries

The model is written once against `Ops`. An implementation is chosen once, at start: `plain` in
torch (exact, slow, on any device), `compiled` (CPU) or `triton` (GPUs). Activations are float32
between operations. Operations are as coarse as the fastest kernel that computes one of them.
"""

from __future__ import annotations

import os
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
from dsdeploy.runner.rope import Turn, softmax_scale

if TYPE_CHECKING:
    from dsdeploy.runner.step import Span


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

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


def joined(parts: list[Tensor]) -> Tensor:
    """Results of several weights side by side."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


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
class Activation:
    """What linear layers read, and where it was made so, its form in FP8."""

    values_TK: Tensor
    codes_TK: Tensor | None = None
    """e4m3"""
    scales_TG: Tensor | None = None
    """Of each group of 128 values."""

    def __len__(self) -> int:
        return len(self.values_TK)


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
    shared: int = 0
    """Experts that stand behind the others and are every token's last choices, with weight 1."""


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
class LatentNorms:
    query_A: Tensor | None
    """None: queries are not compressed."""
    cache_L: Tensor
    epsilon: float


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
    joins_shared: bool
    """Whether a shared expert is best kept behind the routed ones, and computed with them."""
    recordable: bool
    """Whether a step of generated tokens waits for nothing on the host, and can be replayed."""

    def begin(self) -> None:
        """Before a step, in the thread that computes it."""

    def rms_norm(
        self, x_TD: Tensor, weight_D: Tensor, epsilon: float, added_TD: Tensor | None = None
    ) -> Activation:
        """The norm of x, to which `added` is added first, in place."""

    def linear(self, x: Activation, *weights: Weight) -> Tensor:
        """y [T, N of all weights]. For FP8 weights x is rounded to FP8 in groups of 128 first."""

    def norm_compressed(
        self, row_TX: Tensor, norms: LatentNorms, turn: Turn, rows_RL: Tensor, slots_T: Tensor
    ) -> Activation | None:
        """`row` is [query's latent, cache's latent, rotary key]. Fills the cache's row of each token
        with normed latent and rotated key, and gives the query's normed latent; None where queries
        have none, and begin the row themselves."""

    def route(
        self, x: Activation, gate: Weight, bias_E: Tensor, routing: Routing
    ) -> tuple[Tensor, Tensor]:
        """(experts [T, C] int64, weights [T, C]), all computed in float32."""

    def feed_forward(
        self, x: Activation, slots_TC: Tensor, weights: FeedForwardWeights, y_TCD: Tensor
    ) -> None:
        """Fill y for the pairs whose slot is not negative."""

    def dense(self, x: Activation, weights: FeedForwardWeights) -> Tensor:
        """[T, D], of the only slot for all tokens."""

    def combine(self, y_TCD: Tensor, weights_TC: Tensor) -> Tensor:
        """The weighted sum over the choices, in their order: [T, D]."""

    def attend_naive(
        self, q_THQ: Tensor, turn: Turn, span: Span, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Activation:  # fmt: skip
        """[T, H x V], the queries, not yet turned, being a prompt's next tokens, whose rows are in
        the cache."""

    def attend_absorbed(
        self, q_BHQ: Tensor, turn: Turn, queries: DecodingQueries, rows_RL: Tensor, kv_b: Weight,
        shape: HeadShape,
    ) -> Activation:  # fmt: skip
        """[B, H x V], without expanding any key; the queries are not yet turned."""


def choose_ops(device: torch.device, powers_of_two: bool, kernels: str | None = None) -> Ops:
    """`powers_of_two`: whether FP8 scales of activations are (ue8m0). `kernels` None: compiled on
    a CPU, triton on a GPU, plain elsewhere."""
    from dsdeploy.runner.compiled import CompiledOps
    from dsdeploy.runner.plain import PlainOps

    on_cpu = device.type == "cpu"
    kernels = kernels or {"cpu": "compiled", "cuda": "triton"}.get(device.type, "plain")
    if kernels == "plain":
        return PlainOps(powers_of_two)
    if kernels == "compiled" and on_cpu:
        return CompiledOps(powers_of_two)
    if kernels == "triton" and (device.type == "cuda" or INTERPRETED):
        return _triton_ops(device, powers_of_two)
    raise UsageError(f"There are no {kernels!r} kernels for {device}.", "Use plain.")


def _triton_ops(device: torch.device, powers_of_two: bool) -> Ops:
    try:
        from dsdeploy.runner.gpu.ops import TritonOps
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The triton kernels need the package {error.name}.",
            "pip install triton, or --kernels plain.",
        ) from None
    return TritonOps.of(device, powers_of_two)
