"""Output tensors to files and offsets: the whole output, known before a byte moves."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dsdeploy.checkpoint.direct import PAGE, Bytes
from dsdeploy.checkpoint.safetensors import build_header, tensor_nbytes
from dsdeploy.model.tensors import SCALE_SUFFIX


class Recipe(Protocol):
    """How to make one output tensor, from any byte on."""

    @property
    def reads(self) -> frozenset[str]:
        """Names of the source's files that it is made from."""

    def fill(self, target: Bytes, offset: int) -> None:
        """Write the tensor's bytes [offset, offset + len(target)) into `target`. Pure, and safe
        to call from several threads."""


@dataclass(frozen=True)
class PlannedTensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    recipe: Recipe

    @property
    def nbytes(self) -> int:
        return tensor_nbytes(self.dtype, self.shape)


@dataclass(frozen=True)
class PlannedFile:
    name: str
    header: bytes
    tensors: tuple[PlannedTensor, ...]
    positions: tuple[int, ...]
    """Of each tensor in the file, ascending."""
    size: int

    def pieces(self, start: int, stop: int) -> Iterable[tuple[PlannedTensor, int, int, int]]:
        """(tensor, first byte in the tensor, position in the file, length) of file bytes
        [start, stop), the header left out."""
        first = max(0, bisect_right(self.positions, start) - 1)
        for index in range(first, len(self.tensors)):
            position, tensor = self.positions[index], self.tensors[index]
            if position >= stop:
                return
            low, high = max(start, position), min(stop, position + tensor.nbytes)
            if low < high:
                yield tensor, low - position, low, high - low

    @property
    def reads(self) -> frozenset[str]:
        return frozenset().union(*(tensor.recipe.reads for tensor in self.tensors))

    def fill(self, target: Bytes, start: int) -> str:
        """Write file bytes [start, start + len(target)); the name of the last tensor touched."""
        if start < len(self.header):
            head = np.frombuffer(self.header, np.uint8)[start : start + len(target)]
            target[: len(head)] = head
        last = ""
        for tensor, offset, position, length in self.pieces(start, start + len(target)):
            tensor.recipe.fill(target[position - start : position - start + length], offset)
            last = tensor.name
        return last


def plan_file(
    name: str, tensors: Sequence[PlannedTensor], metadata: dict[str, str] | None, alignment: int
) -> PlannedFile:
    header, positions = build_header(
        ((tensor.name, tensor.dtype, tensor.shape) for tensor in tensors), metadata, alignment
    )
    size = positions[-1] + tensors[-1].nbytes if tensors else len(header)
    return PlannedFile(name, header, tuple(tensors), tuple(positions), size)


def hub_layout(tensors: Sequence[PlannedTensor], max_shard_size: int) -> list[PlannedFile]:
    """Shards named as on the Hub, in the order given; a scale stays with its weight."""
    groups: list[list[PlannedTensor]] = []
    for tensor in tensors:
        if tensor.name.endswith(SCALE_SUFFIX) and groups:
            groups[-1].append(tensor)
        else:
            groups.append([tensor])
    shards: list[list[PlannedTensor]] = [[]]
    filled = 0
    for group in groups:
        nbytes = sum(tensor.nbytes for tensor in group)
        if shards[-1] and filled + nbytes > max_shard_size:
            shards.append([])
            filled = 0
        shards[-1].extend(group)
        filled += nbytes
    return [
        plan_file(shard_name(number, len(shards)), shard, {"format": "pt"}, PAGE)
        for number, shard in enumerate(shards, 1)
    ]


def shard_name(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


# safetensors' own writer puts wide dtypes first, so that every tensor is aligned.
_REFERENCE_ORDER = {"F32": 0, "BF16": 1, "F8_E4M3": 2}


def reference_file(name: str, tensors: Iterable[PlannedTensor]) -> PlannedFile:
    """One file exactly as safetensors' `save_file` writes it without metadata."""
    ordered = sorted(tensors, key=lambda tensor: (_REFERENCE_ORDER[tensor.dtype], tensor.name))
    return plan_file(name, ordered, None, 8)
