"""How each output tensor is made from stored ones: copied, dequantised or quantised.

A recipe can fill any range of bytes, so that memory does not depend on a tensor's size and a
conversion can go on anywhere. A range of a matrix is at most three rectangles: the rest of a row,
whole rows, the beginning of a row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from dsdeploy.checkpoint.direct import Bytes
from dsdeploy.checkpoint.reader import StoredTensor
from dsdeploy.checkpoint.safetensors import tensor_nbytes
from dsdeploy.convert import numerics
from dsdeploy.model.config import BLOCK
from dsdeploy.model.tensors import scale_shape

_CHUNK = 4 << 20
_local = threading.local()


def _scratch(slot: str, nbytes: int) -> Bytes:
    """A buffer of this thread, reused: fresh pages would cost more than the arithmetic."""
    buffer: Bytes | None = getattr(_local, slot, None)
    if buffer is None or len(buffer) < nbytes:
        buffer = np.empty(max(nbytes, _CHUNK), np.uint8)
        setattr(_local, slot, buffer)
    return buffer[:nbytes]


@dataclass(frozen=True)
class Slab:
    """A rectangle of a stored matrix; a tensor of another rank counts as one row."""

    tensor: StoredTensor
    row: int
    column: int
    rows: int
    columns: int
    item: int
    """Bytes of an element."""

    @property
    def stored_columns(self) -> int:
        return self.tensor.shape[1] if len(self.tensor.shape) == 2 else self.columns

    @property
    def contiguous(self) -> bool:
        return self.columns == self.stored_columns

    def read(self, row: int, rows: int, low: int, width: int) -> Bytes:
        """[rows, width] bytes of this slab from byte `low` of `row` on, in this thread's scratch."""
        stride = self.stored_columns * self.item
        start = (self.row + row) * stride + self.column * self.item + low
        # Whole rows are read: a call a row costs more than the bytes left unused.
        span = (rows - 1) * stride + width
        buffer = _scratch("source", rows * stride)
        self.tensor.read_into(buffer[:span], start)
        return buffer.reshape(rows, stride)[:, :width]


def whole(tensor: StoredTensor) -> Slab:
    rows, columns = tensor.shape if len(tensor.shape) == 2 else (1, prod(tensor.shape))
    count = max(1, rows * columns)
    item = max(1, tensor.nbytes // count)
    return Slab(tensor, 0, 0, rows, columns, item)


def part_of(tensor: StoredTensor, axis: int, index: int, count: int) -> Slab:
    """The `index`-th of `count` equal parts of a matrix along `axis`."""
    rows, columns = tensor.shape
    item = tensor_nbytes(tensor.dtype, (1,))
    if axis == 0:
        return Slab(tensor, index * (rows // count), 0, rows // count, columns, item)
    return Slab(tensor, 0, index * (columns // count), rows, columns // count, item)


def rectangles(
    first: int, last: int, columns: int, limit: int
) -> Iterator[tuple[int, int, int, int]]:
    """(row, rows, column, columns) that cover elements [first, last) of a row-major matrix, each
    of about `limit` elements at most."""
    while first < last:
        row, column = divmod(first, columns)
        if column or last - first < columns or columns > limit:
            width = min(columns - column, last - first, max(limit, 1))
            yield row, 1, column, width
            first += width
        else:
            rows = min((last - first) // columns, max(1, limit // columns))
            yield row, rows, 0, columns
            first += rows * columns


@dataclass(frozen=True)
class Copy:
    """The stored bytes as they are."""

    slab: Slab

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.slab.tensor.shard.name})

    def fill(self, target: Bytes, offset: int) -> None:
        slab = self.slab
        if slab.contiguous:
            start = slab.row * slab.stored_columns * slab.item
            slab.tensor.read_into(target, start + offset)
            return
        done = 0
        width = slab.columns * slab.item
        limit = _CHUNK * slab.columns // slab.stored_columns
        for row, rows, column, columns in rectangles(offset, offset + len(target), width, limit):
            count = rows * columns
            block = slab.read(row, rows, column, columns)
            target[done : done + count].reshape(rows, columns)[:] = block
            done += count


def _read_scales(scale: StoredTensor) -> numerics.Scales:
    buffer = np.empty(scale.nbytes, np.uint8)
    scale.read_into(buffer, 0)
    return buffer.view(np.float32).reshape(scale.shape)


@dataclass(frozen=True)
class Dequantise:
    """FP8 codes and block scales -> BF16."""

    slab: Slab
    scale: StoredTensor

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.slab.tensor.shard.name, self.scale.shard.name})

    def fill(self, target: Bytes, offset: int) -> None:
        slab = self.slab
        scales = _read_scales(self.scale)
        # Files place BF16 tensors at even positions and windows begin at even ones.
        elements = target.view(np.uint16)
        first, done = offset // 2, 0
        limit = _CHUNK * slab.columns // slab.stored_columns
        for row, rows, column, columns in rectangles(
            first, first + len(elements), slab.columns, limit
        ):
            codes = slab.read(row, rows, column, columns)
            block = elements[done : done + rows * columns].reshape(rows, columns)
            numerics.dequantise(codes, scales, block, slab.row + row, slab.column + column)
            done += rows * columns


def _block_rows(slab: Slab, first: int, last: int) -> Iterator[tuple[int, numerics.Bf16Bits]]:
    """(row, BF16 bits [<= 128, columns]) of the rows of blocks that hold rows [first, last)."""
    for row in range(first // BLOCK * BLOCK, last, BLOCK):
        rows = min(BLOCK, slab.rows - row)
        block = slab.read(row, rows, 0, slab.columns * slab.item)
        yield row, np.ascontiguousarray(block).view(np.uint16)


@dataclass(frozen=True)
class Quantise:
    """BF16 -> FP8 codes."""

    slab: Slab

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.slab.tensor.shard.name})

    def fill(self, target: Bytes, offset: int) -> None:
        columns = self.slab.columns
        stop = offset + len(target)
        for row, source in _block_rows(self.slab, offset // columns, -(-stop // columns)):
            scales = numerics.block_row_scales(source, self.slab.tensor.name)
            codes = _scratch("codes", source.size).reshape(source.shape)
            numerics.quantise_block_row(source, scales, codes)
            start = row * columns
            low, high = max(offset, start), min(stop, start + source.size)
            target[low - offset : high - offset] = codes.reshape(-1)[low - start : high - start]


@dataclass(frozen=True)
class BlockScales:
    """BF16 -> the scales that `Quantise` divides by; the source is read twice for them, which
    keeps every range of the output independent of every other."""

    slab: Slab

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.slab.tensor.shard.name})

    def fill(self, target: Bytes, offset: int) -> None:
        width = scale_shape((self.slab.rows, self.slab.columns))[1] * 4
        stop = offset + len(target)
        first, last = offset // width, -(-stop // width)
        for row, source in _block_rows(self.slab, first * BLOCK, min(last * BLOCK, self.slab.rows)):
            scales = numerics.block_row_scales(source, self.slab.tensor.name)
            start = row // BLOCK * width
            low, high = max(offset, start), min(stop, start + width)
            target[low - offset : high - offset] = scales.view(np.uint8)[low - start : high - start]
