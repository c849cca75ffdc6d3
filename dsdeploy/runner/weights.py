"""A checkpoint's tensors read straight into the memory they stay in.

Where the stored format is the wanted one, the file's bytes land in the tensor itself; otherwise
they pass through a small window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dsdeploy.checkpoint.audit import audit, expected_table
from dsdeploy.checkpoint.direct import Bytes
from dsdeploy.checkpoint.reader import Checkpoint, StoredTensor
from dsdeploy.errors import IntegrityError, UsageError
from dsdeploy.model.config import BLOCK
from dsdeploy.model.demo import demo_name, on_rank, rank_file_name
from dsdeploy.model.tensors import TensorSpec, is_mtp
from dsdeploy.runner.kernels.matmul import U, all_finite, widen_matrix
from dsdeploy.runner.ops import Weight
from dsdeploy.runner.parallel import Group

_WINDOW = 4 << 20
"""Codes that are widened at a time: they and their float32 stay in the processor's cache."""

_AGAIN = "Download the file again; `dsdeploy inspect --deep` looks at all of them."
_TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp8": torch.float8_e4m3fn,
}


@dataclass(frozen=True)
class Block:
    """Rows and columns of a whole tensor; a vector is a matrix of one column."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def scales(self) -> Block:
        """The block of the scale grid that belongs to it."""
        return Block(
            *((low // BLOCK, -(-high // BLOCK)) for low, high in (self.rows, self.columns))
        )


@dataclass(frozen=True)
class _Piece:
    """A stored tensor that is this block of the whole one."""

    stored: StoredTensor
    block: Block


class WeightSource:
    """The tensors of a checkpoint in either layout, by the table's names.

    Raises IntegrityError when headers or index say that the checkpoint is not whole.
    """

    def __init__(self, checkpoint: Checkpoint, group: Group) -> None:
        _demand_whole(checkpoint)
        self.config, self._group, self._checkpoint = checkpoint.config, group, checkpoint
        table = expected_table(checkpoint)
        self._specs = {(s.layer, s.expert, s.role, s.kind): s for s in table}
        self._ranks = _tensors_of_ranks(checkpoint, checkpoint.ranks or 0)

    @property
    def holds_fp8(self) -> bool:
        return any(spec.quantised for spec in self._specs.values())

    @property
    def has_mtp(self) -> bool:
        return any(is_mtp(self.config, layer) for layer, _, _, _ in self._specs)

    def spec(
        self, layer: int | None, role: str, kind: str = "weight", expert: int | None = None
    ) -> TensorSpec:
        return self._specs[layer, expert, role, kind]

    def share(self, spec: TensorSpec) -> Block:
        """This rank's part: of heads, widths and vocabulary; experts are whole."""
        bounds = [(0, length) for length in (*spec.shape, 1)[:2]]
        axis, rank, ranks = spec.split_axis, self._group.rank, self._group.size
        if axis is not None and spec.expert is None and ranks > 1:
            length = spec.shape[axis]
            if length % ranks or (spec.quantised and length // ranks % BLOCK):
                why = (
                    "cuts through the 128-wide blocks of FP8" if spec.quantised else "is not whole"
                )
                raise UsageError(
                    f"{spec.name} cannot be split over {ranks} ranks: {length} / {ranks} {why}.",
                    "Use fewer ranks, or a BF16 checkpoint.",
                )
            bounds[axis] = (length // ranks * rank, length // ranks * (rank + 1))
        return Block(*bounds)

    def read(self, spec: TensorSpec, block: Block, target: Tensor) -> None:
        """A block of a tensor, as stored, into `target`, which is contiguous and of its dtype."""
        item = target.element_size()
        place = target.view(torch.uint8).numpy().reshape(block.shape[0], -1)
        for piece in self._pieces(spec):
            low, high = _common(block.rows, piece.block.rows)
            left, right = _common(block.columns, piece.block.columns)
            if low >= high or left >= right:
                continue
            rows = place[low - block.rows[0] : high - block.rows[0]]
            part = rows[:, (left - block.columns[0]) * item : (right - block.columns[0]) * item]
            first = low - piece.block.rows[0], left - piece.block.columns[0]
            _read_stored(piece.stored, first, part, piece.block.shape[1] * item, item)

    def _pieces(self, spec: TensorSpec) -> Iterator[_Piece]:
        whole = [(0, length) for length in (*spec.shape, 1)[:2]]
        axis, ranks = spec.split_axis, self._checkpoint.ranks
        if ranks is None:
            yield _Piece(self._checkpoint.tensors[spec.name], Block(*whole))
            return
        name = demo_name(spec)
        if axis is None or spec.expert is not None:
            owner = next(r for r in range(ranks) if on_rank(self.config, spec, r, ranks))
            yield _Piece(self._ranks[owner][name], Block(*whole))
            return
        length = spec.shape[axis] // ranks
        for rank, tensors in enumerate(self._ranks):
            bounds = [*whole]
            bounds[axis] = (length * rank, length * (rank + 1))
            yield _Piece(tensors[name], Block(*bounds))


def _demand_whole(checkpoint: Checkpoint) -> None:
    errors = [finding for finding in audit(checkpoint) if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        hint = errors[0].fix or f"Run `dsdeploy inspect {checkpoint.where}`."
        raise IntegrityError(f"{errors[0].message}{more}.", hint)


def _tensors_of_ranks(checkpoint: Checkpoint, ranks: int) -> list[dict[str, StoredTensor]]:
    """Of the demo's per-rank files, by the demo's names."""
    shards = {shard.name: shard for shard in checkpoint.shards}
    files = [shards[rank_file_name(rank, ranks)] for rank in range(ranks)]
    return [
        {entry.name: StoredTensor(shard, entry) for entry in shard.header.entries}
        for shard in files
    ]


def _common(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return max(one[0], other[0]), min(one[1], other[1])


def _read_stored(
    stored: StoredTensor, first: tuple[int, int], target: Bytes, stride: int, item: int
) -> None:
    """Bytes from (row, column) `first` on: one range if rows are whole, else one a row."""
    position = first[0] * stride + first[1] * item
    if target.shape[1] == stride and target.flags.c_contiguous:
        stored.read_into(target.reshape(-1), position)
        return
    start = stored.entry.start + position
    stored.shard.data.read(((row, start + i * stride) for i, row in enumerate(target)))


def read_weight(
    source: WeightSource,
    spec: TensorSpec,
    dtype: torch.dtype,
    target: Tensor | None = None,
    whole: bool = False,
) -> Weight:
    """This rank's share of a matrix (or the whole of it) in `dtype`, read into `target` where one
    is given.

    BF16 that is wanted in float32 stays BF16: kernels widen it, to the same numbers. Raises
    IntegrityError when values are NaN or infinite, or a scale cannot be.
    """
    block = Block((0, spec.shape[0]), (0, spec.shape[1])) if whole else source.share(spec)
    scales = _read_scales(source, spec, block.scales()) if spec.quantised else None
    kept = kept_dtype(spec, dtype)
    if target is None:
        target = torch.empty(block.shape, dtype=kept)
    if kept == _TORCH[spec.dtype]:
        source.read(spec, block, target)
        _demand_finite(spec, target)
        return Weight(target, scales)
    _read_converted(source, spec, block, scales, target)
    return Weight(target)


def kept_dtype(spec: TensorSpec, dtype: torch.dtype) -> torch.dtype:
    """In what a tensor is kept when weights are wanted in `dtype`."""
    never_fp8 = dtype == torch.float8_e4m3fn and not spec.quantised
    exact = spec.dtype == "BF16" and dtype == torch.float32
    return _TORCH[spec.dtype] if never_fp8 or exact else dtype


def _read_scales(source: WeightSource, spec: TensorSpec, block: Block) -> Tensor:
    scale_spec = source.spec(spec.layer, spec.role, "scale", spec.expert)
    scales = torch.empty(block.shape, dtype=torch.float32)
    source.read(scale_spec, block, scales)
    if not bool(((scales > 0) & (scales < torch.inf)).all()):
        raise IntegrityError(
            f"{scale_spec.name} holds scales that are zero, negative, infinite or NaN.", _AGAIN
        )
    return scales


def _read_converted(
    source: WeightSource, spec: TensorSpec, block: Block, scales: Tensor | None, target: Tensor
) -> None:
    """By windows of rows, each a whole number of scale blocks high."""
    rows, columns = block.shape
    height = max(_WINDOW // columns // BLOCK, 1) * BLOCK
    stored = torch.empty(min(rows, height), columns, dtype=_TORCH[spec.dtype])
    wide = torch.empty(stored.shape) if scales is not None else None
    for start in range(0, rows, height):
        count = min(height, rows - start)
        first = block.rows[0] + start
        source.read(spec, replace(block, rows=(first, first + count)), stored[:count])
        _demand_finite(spec, stored[:count])
        if scales is not None and wide is not None:
            codes = stored[:count].view(torch.uint8).numpy().reshape(-1)
            grid = scales[start // BLOCK :].numpy().reshape(-1)
            widen_matrix(codes, U(count), U(columns), grid, wide[:count].numpy().reshape(-1))
        target[start : start + count].copy_((stored if wide is None else wide)[:count])
    if target.dtype == torch.float16 and bool(target.isinf().any()):
        raise UsageError(f"{spec.name} has values beyond float16.", "Use --dtype bfloat16.")


def read_vector(source: WeightSource, spec: TensorSpec) -> Tensor:
    """A norm or a bias, whole, as float32."""
    stored = torch.empty(spec.shape, dtype=_TORCH[spec.dtype])
    source.read(spec, Block((0, spec.shape[0]), (0, 1)), stored)
    _demand_finite(spec, stored)
    return stored.float()


_BITS = {1: (torch.uint8, np.uint8), 2: (torch.int16, np.uint16), 4: (torch.int32, np.uint32)}


def _demand_finite(spec: TensorSpec, values: Tensor) -> None:
    through, unsigned = _BITS[values.element_size()]
    if not all_finite(values.view(through).numpy().reshape(-1).view(unsigned)):
        raise IntegrityError(f"{spec.name} holds values that are NaN or infinite.", _AGAIN)
