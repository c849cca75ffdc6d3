"""Rotary positions, stretched by YaRN.

    T tokens   R rotary width of a head   P = R / 2 pairs   ... any dimensions

DeepSeek rotates neighbouring values (0, 1), (2, 3), ... Source: YaRN (arXiv 2309.00071) as
DeepSeek-V3 uses it: the attention's scale grows by mscale squared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dsdeploy.model.config import ModelConfig, Yarn


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """[P] float64: the angle a position turns each pair by."""
    width, theta = config.qk_rope_head_dim, config.rope_theta
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    plain = theta**-exponents
    if config.yarn is None:
        return plain
    low, high = _ramp_bounds(config.yarn, width, theta)
    steps = torch.arange(width // 2, dtype=torch.float64)
    stretched = ((steps - low) / (high - low)).clamp(0, 1)
    return plain / config.yarn.factor * stretched + plain * (1 - stretched)


def _ramp_bounds(yarn: Yarn, width: int, theta: float) -> tuple[float, float]:
    """Between which pairs the stretching sets in: where the trained context holds `beta_fast` and
    `beta_slow` turns."""

    def pair_with(turns: float) -> float:
        length = yarn.original_max_position_embeddings / (turns * 2 * math.pi)
        return width * math.log(length) / (2 * math.log(theta))

    low = max(math.floor(pair_with(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_with(yarn.beta_slow)), width - 1)
    return low, high if high != low else high + 0.001


def mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def softmax_scale(config: ModelConfig) -> float:
    scale: float = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    if config.yarn is None:
        return scale
    return scale * mscale(config.yarn.factor, config.yarn.mscale_all_dim) ** 2


class Rotation:
    """How far each position is turned, computed in float64 when a step wants it."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._frequencies_P = inverse_frequencies(config).to(device)
        self._factor = 1.0
        if config.yarn is not None:
            yarn = config.yarn
            trained = mscale(yarn.factor, yarn.mscale_all_dim)
            self._factor = mscale(yarn.factor, yarn.mscale) / trained

    def at(self, positions_T: Tensor) -> Turn:
        angles_TP = positions_T.double()[:, None] * self._frequencies_P
        cos, sin = (wave * self._factor for wave in (angles_TP.cos(), angles_TP.sin()))
        return Turn(cos.float(), sin.float())


@dataclass(frozen=True)
class Turn:
    """The rotation of each token of a step."""

    cos_TP: Tensor
    sin_TP: Tensor

    def rotate(self, x_TxR: Tensor) -> Tensor:
        """x [T, ..., R] with each pair turned by its token's position."""
        shape = (len(self.cos_TP), *[1] * (x_TxR.dim() - 2), -1)
        cos, sin = self.cos_TP.view(shape), self.sin_TP.view(shape)
        even, odd = x_TxR[..., 0::2], x_TxR[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def rotate_queries(self, q_THQ: Tensor) -> None:
        """In place: the last R values of each head."""
        rotary_THR = q_THQ[..., -2 * self.cos_TP.shape[1] :]
        rotary_THR.copy_(self.rotate(rotary_THR))

    def of(self, tokens: Tensor | slice) -> Turn:
        return Turn(self.cos_TP[tokens], self.sin_TP[tokens])
