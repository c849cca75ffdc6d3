"""The arithmetic alone, on one core: a child of convert.py, which prints its figures as JSON.

A routed expert's gate_proj (2048 x 7168) of a synthetic checkpoint, in the pieces and into the
reused buffer that the converter uses; passes of the two sides alternate.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from baselines import dequantise as torch_dequantise

from dsdeploy.building.writer import WINDOW
from dsdeploy.checkpoint.direct import aligned_buffer
from dsdeploy.convert.numerics import Bf16Bits, block_row_scales, dequantise, quantise_block_row
from dsdeploy.convert.recipes import _CHUNK, rectangles
from dsdeploy.model.config import BLOCK, parse_config
from dsdeploy.synth.presets import synthetic_config
from dsdeploy.synth.tensors import synthetic_tensors

ROWS, COLUMNS = 2048, 7168
NAME = "model.layers.1.mlp.experts.0.gate_proj.weight"

Pass = Callable[[], None]


def main() -> None:
    repetitions = int(sys.argv[1])
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    codes, scales = _tensor()
    output = np.empty((ROWS, COLUMNS), np.uint16)
    dequantise(codes, scales, output)
    cast, copy = _cast_and_copy(codes, scales, output)
    cast_seconds, copy_seconds = _medians(repetitions, cast, copy)
    (quantise_seconds,) = _medians(max(3, repetitions // 10), _quantise(output))
    (torch_seconds,) = _medians(max(3, repetitions // 20), _torch_cast(codes, scales, output))
    seconds = {
        "dequantise": cast_seconds,
        "copy": copy_seconds,
        "quantise": quantise_seconds,
        "torch": torch_seconds,
    }
    print(json.dumps({name: output.nbytes / 1e9 / one for name, one in seconds.items()}))


def _tensor() -> tuple[Any, Any]:
    """codes [2048, 7168] u8 and scales [16, 56] f32, as `dsdeploy synth` writes them."""
    config = parse_config(synthetic_config("slice", (), "fp8", None))
    planned = {tensor.name: tensor for tensor in synthetic_tensors(config, seed=0)}
    filled = []
    for name in (NAME, f"{NAME}_scale_inv"):
        data = np.empty(planned[name].nbytes, np.uint8)
        planned[name].recipe.fill(data, 0)
        filled.append(data)
    return filled[0].reshape(ROWS, COLUMNS), filled[1].view(np.float32).reshape(
        -1, COLUMNS // BLOCK
    )


def _cast_and_copy(codes: Any, scales: Any, output: Bf16Bits) -> tuple[Pass, Pass]:
    """FP8 -> BF16, and numpy's copy of the result, both into one window, piece by piece."""
    window = aligned_buffer(WINDOW).view(np.uint16)
    pieces = []
    for first in range(0, output.size, window.size):
        last, done = min(output.size, first + window.size), 0
        for row, rows, column, columns in rectangles(first, last, COLUMNS, _CHUNK):
            target = window[done : done + rows * columns].reshape(rows, columns)
            place = np.s_[row : row + rows, column : column + columns]
            pieces.append((codes[place], output[place], target, row, column))
            done += rows * columns

    def cast() -> None:
        for source, _, target, row, column in pieces:
            dequantise(source, scales, target, row, column)

    def copy() -> None:
        for _, source, target, _, _ in pieces:
            np.copyto(target, source)

    return cast, copy


def _quantise(source: Bf16Bits) -> Pass:
    codes = np.empty((BLOCK, COLUMNS), np.uint8)

    def quantise() -> None:
        for row in range(0, ROWS, BLOCK):
            block = source[row : row + BLOCK]
            quantise_block_row(block, block_row_scales(block, NAME), codes)

    return quantise


def _torch_cast(codes: Any, scales: Any, expected: Bf16Bits) -> Pass:
    weight = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    grid = torch.from_numpy(scales)
    result = torch_dequantise(weight, grid).view(torch.int16).numpy().view(np.uint16)
    if not np.array_equal(result, expected):
        raise SystemExit("torch and dsdeploy disagree on the cast")

    def cast() -> None:
        torch_dequantise(weight, grid)

    return cast


def _medians(repetitions: int, *passes: Pass) -> list[float]:
    """Seconds of each pass; the passes take turns, so that all see the same noise."""
    seconds: list[list[float]] = [[] for _ in passes]
    for one in passes:
        one()
    for _ in range(repetitions):
        for times, one in zip(seconds, passes, strict=True):
            start = time.perf_counter()
            one()
            times.append(time.perf_counter() - start)
    return [median(times) for times in seconds]


if __name__ == "__main__":
    main()
