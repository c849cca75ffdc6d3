"""How products are cut into programs, where nothing has been measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton

from dsdeploy.runner.gpu.fp8 import GROUP

_RESERVE = 8 << 10
"""Of the shared memory: for what the compiler keeps there besides."""
INTERPRETER = "interpreter"


@dataclass(frozen=True)
class Tile:
    rows: int
    columns: int
    """A divisor of 128, the width of a block of scales."""
    warps: int
    stages: int
    """Blocks of 128 inputs that are on their way at once."""


@dataclass(frozen=True)
class DecodeTile:
    heads: int
    """Of a program: they share the rows that it reads."""
    keys: int
    """A divisor of a page's tokens."""
    splits: int
    """Of the keys."""
    warps: int
    stages: int


@dataclass(frozen=True)
class Card:
    name: str
    processors: int
    shared_memory: int
    """Bytes that one program can have."""


def card_of(device: torch.device) -> Card:
    if device.type == "cpu":
        return Card(INTERPRETER, 4, 96 << 10)
    index = torch.cuda.current_device() if device.index is None else device.index
    found = triton.runtime.driver.active.utils.get_device_properties(index)
    name = torch.cuda.get_device_name(device)
    return Card(name, found["multiprocessor_count"], found["max_shared_mem"])


def fitted(tile: Tile, card: Card, x_bytes: int, w_bytes: int) -> Tile:
    """With as many stages as the card has room for, and fewer rows where there is none for two.
    The sizes are those of an input's number and of a weight's."""
    block = (tile.rows * x_bytes + tile.columns * w_bytes) * int(GROUP.value)
    stages = min(tile.stages, (card.shared_memory - _RESERVE) // block)
    if stages < 2 and tile.rows > 16:
        return fitted(replace(tile, rows=tile.rows // 2), card, x_bytes, w_bytes)
    return replace(tile, stages=max(stages, 1))


def linear_tile(rows: int, columns: int, card: Card) -> Tile:
    """Few rows are bound by memory: narrow tiles keep every processor reading."""
    if rows <= 16:
        return Tile(16, 16 if columns <= 32 * card.processors else 32, 4, 6)
    return Tile(64, 64, 4, 4) if rows <= 128 else Tile(128, 128, 8, 4)


def expert_tiles(pairs: int, slots: int) -> tuple[Tile, Tile]:
    """Of gate and up, and of down: both of as many rows."""
    if pairs <= 16 * slots:
        return Tile(16, 32, 4, 5), Tile(16, 64, 4, 5)
    return Tile(64, 128, 8, 3), Tile(64, 128, 8, 4)


def decode_tile(queries: int, heads: int, card: Card) -> DecodeTile:
    """Two programs for each processor."""
    splits = max(1, min(32, 2 * card.processors // (queries * -(-heads // 16))))
    return DecodeTile(16, 32, splits, 4, 2)
