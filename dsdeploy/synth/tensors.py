"""Random checkpoints: values that make the model compute finite, varied logits, with BF16 noise
far below the size of a bug.

Any byte of any tensor can be computed alone: randomness is Philox's counter at the element's
position, under a key of the seed and the tensor's name. So a checkpoint of any size streams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsdeploy.building.layout import PlannedTensor
from dsdeploy.checkpoint.direct import Bytes
from dsdeploy.model.config import ModelConfig
from dsdeploy.model.tensors import TensorSpec, is_mtp, tensor_table

_PIECE = 1 << 19
_SPREAD = 4.3
"""The largest of the 65,536 values of a standard normal; it becomes FP8's largest, 448."""

U16 = NDArray[np.uint16]


@dataclass(frozen=True)
class RandomTensor:
    """Elements looked up in a table of 65,536 by 16 random bits each."""

    key: int
    table: Callable[[], NDArray[Any]]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset()

    def fill(self, target: Bytes, offset: int) -> None:
        table = self.table()
        item = table.dtype.itemsize
        step = _PIECE // item * item
        position, stop = offset, offset + len(target)
        while position < stop:
            high = min(stop, (position // step + 1) * step)
            first, last = position // item, -(-high // item)
            bits = _random_bits(self.key, first, last)
            values = np.take(table, bits, mode="clip").view(np.uint8)
            skip = position - first * item
            target[position - offset : high - offset] = values[skip : skip + high - position]
            position = high


def _random_bits(key: int, first: int, last: int) -> U16:
    """16 random bits for each position in [first, last); a step of the counter gives 16."""
    step = first // 16
    count = -(-last // 16) - step
    raw = np.random.Philox(key=key, counter=step).random_raw(4 * count)
    bits = raw.astype("<u8", copy=False).view(np.uint16)
    return bits[first - step * 16 : last - step * 16]


def synthetic_tensors(config: ModelConfig, seed: int) -> list[PlannedTensor]:
    """The whole table of `config`, with random recipes."""
    return [
        PlannedTensor(spec.name, spec.dtype, spec.shape, _recipe(config, spec, seed))
        for spec in tensor_table(config)
    ]


def _recipe(config: ModelConfig, spec: TensorSpec, seed: int) -> RandomTensor:
    name = _canonical_name(config, spec)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    key = int.from_bytes(digest[:16], "little")
    return RandomTensor(key, _table_of(config, spec))


def _canonical_name(config: ModelConfig, spec: TensorSpec) -> str:
    """The MTP layer's embedding and head are copies of the main model's."""
    if is_mtp(config, spec.layer):
        copies = {"embed_tokens": "model.embed_tokens.weight", "shared_head.head": "lm_head.weight"}
        return copies.get(spec.role, spec.name)
    return spec.name


def _table_of(config: ModelConfig, spec: TensorSpec) -> Callable[[], NDArray[Any]]:
    mean, deviation = _moments(config, spec)
    if spec.kind == "scale":
        ue8m0 = config.quantization is not None and config.quantization.scale_format == "ue8m0"
        # V3.1 keeps o_proj's scales in float32 although it announces powers of two.
        powers = ue8m0 and spec.role != "o_proj"
        return lambda: _scales(deviation, powers)
    if spec.quantised:
        return _e4m3_normal
    if spec.dtype == "F32":
        return lambda: _f32_normal(mean, deviation)
    return lambda: _bf16_normal(mean, deviation)


def _moments(config: ModelConfig, spec: TensorSpec) -> tuple[float, float]:
    """(mean, standard deviation). Matrices shrink with the width they sum over."""
    gain = (512 / config.hidden_size) ** 0.5
    if spec.kind == "norm":
        return (0.0 if spec.name.endswith(".bias") else 1.0), 0.05
    if spec.kind == "bias":
        return 0.0, 0.05
    deviations = {
        "embed_tokens": 1.0,
        "lm_head": 0.3 * gain,
        "shared_head.head": 0.3 * gain,
        "gate": 0.15 * gain,
    }
    return 0.0, deviations.get(spec.role, 0.03 * gain)


@cache
def _normal() -> NDArray[np.float64]:
    inverse = NormalDist().inv_cdf
    half = np.array([inverse((i + 0.5) / 65536) for i in range(32768, 65536)])
    return np.concatenate([-half[::-1], half])


@cache
def _f32_normal(mean: float, deviation: float) -> NDArray[np.float32]:
    return (mean + deviation * _normal()).astype(np.float32)


@cache
def _bf16_normal(mean: float, deviation: float) -> U16:
    bits = _f32_normal(mean, deviation).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@cache
def _e4m3_normal() -> Bytes:
    """Codes of the normal values times 448 / 4.3, by nearest value."""
    codes = np.arange(0x7F, dtype=np.uint8)
    exponent, mantissa = (codes >> 3).astype(int), (codes & 7).astype(float)
    values = np.where(
        exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0)
    )
    normal = _normal() * (448 / _SPREAD)
    middles = (values[1:] + values[:-1]) / 2
    nearest = codes[np.searchsorted(middles, np.abs(normal))]
    return (nearest | np.where(normal < 0, 0x80, 0).astype(np.uint8)).astype(np.uint8)


@cache
def _scales(deviation: float, powers: bool) -> NDArray[np.float32]:
    """Block scales around deviation x 4.3 / 448, jittered so that a wrong block shows."""
    jitter = np.linspace(0.8, 1.25, 65536) * (deviation * _SPREAD / 448)
    if powers:
        jitter = np.exp2(np.round(np.log2(jitter)))
    return jitter.astype(np.float32)
