"""The formats in which engines keep weights, and what a matrix takes in each.

A checkpoint is FP8 or BF16 when it is published; the others are made of it. Embedding, head, norms
and the gate stay as they are in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from dsdeploy.model.tensors import TensorSpec


@dataclass(frozen=True)
class Storage:
    """How one matrix is kept: `bits` a value, and `scale_bytes` for each block of values (for each
    row where the block has no width)."""

    bits: int
    scale_bytes: float = 0
    block: tuple[int, int | None] = (1, None)

    def nbytes(self, rows: int, columns: int) -> int:
        height, width = self.block
        scales = ceil(rows / height) * (1 if width is None else ceil(columns / width))
        return ceil(rows * columns * self.bits / 8) + ceil(scales * self.scale_bytes)


BF16 = Storage(16)
_FP8 = Storage(8, 4, (128, 128))
_INT8_ROW = Storage(8, 4)
_INT4 = Storage(4, 2, (1, 128))
_INT4_ZERO = Storage(4, 2.5, (1, 128))
_NVFP4 = Storage(4, 1, (1, 16))


@dataclass(frozen=True)
class WeightFormat:
    name: str
    title: str
    experts: Storage
    feed_forward: Storage
    """Dense layers and shared experts."""
    attention: Storage
    kv_b: Storage
    computes: str
    """The number format of its products where the accelerator has it; else BF16 is computed."""
    made_by: str
    """Where such a checkpoint comes from, {model} being the one at hand."""
    blocks: int = 1
    """Edge of the blocks that a split may not cut through."""

    def storage(self, spec: TensorSpec) -> Storage:
        """Of a weight that quantised checkpoints quantise."""
        if spec.expert is not None:
            return self.experts
        if spec.role == "kv_b_proj":
            return self.kv_b
        if spec.role in ("gate_proj", "up_proj", "down_proj"):
            return self.feed_forward
        return self.attention


def _uniform(
    name: str, title: str, storage: Storage, computes: str, made_by: str, blocks: int = 1
) -> WeightFormat:
    return WeightFormat(name, title, storage, storage, storage, storage, computes, made_by, blocks)


_PUBLISHED = "the published checkpoint"
FORMATS = {
    found.name: found
    for found in (
        _uniform("fp8", "FP8, blocks of 128 x 128", _FP8, "fp8", _PUBLISHED, 128),
        _uniform("bf16", "BF16", BF16, "bf16", "dsdeploy convert {model} {model}-bf16 --to bf16"),
        _uniform(
            "int8-block", "INT8, blocks of 128 x 128", _FP8, "int8",
            "a checkpoint such as meituan/DeepSeek-R1-Block-INT8", 128,
        ),
        WeightFormat(
            "int8", "INT8 a channel, activations INT8", _INT8_ROW, _INT8_ROW, _INT8_ROW, BF16,
            "int8", "a checkpoint such as meituan/DeepSeek-R1-Channel-INT8",
        ),
        WeightFormat(
            "int4", "INT4 in groups of 128, activations BF16", _INT4_ZERO, _INT4_ZERO, _INT4_ZERO,
            BF16, "bf16", "a checkpoint such as cognitivecomputations/DeepSeek-V3-AWQ", 128,
        ),
        WeightFormat(
            "w4a8", "experts INT4, the rest FP8", _INT4, _FP8, _FP8, _FP8, "fp8",
            "a W4A8 checkpoint, made with the engine's own quantiser", 128,
        ),
        WeightFormat(
            "nvfp4", "FP4 in groups of 16, attention BF16", _NVFP4, _NVFP4, BF16, BF16, "fp4",
            "a checkpoint such as nvidia/DeepSeek-V3-FP4", 16,
        ),
    )
}  # fmt: skip
