"""FP8 and BF16 as pure functions on arrays. BF16 is carried as its bits (u16), e4m3 as codes (u8).

Dequantise: f32(code) x f32(scale), one rounding to nearest even. Quantise: for each 128x128 block
scale = amax / 448, code = e4m3(value / scale).
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from dsdeploy.convert import kernels
from dsdeploy.errors import IntegrityError
from dsdeploy.model.config import BLOCK

Codes = NDArray[np.uint8]
Bf16Bits = NDArray[np.uint16]
Scales = NDArray[np.float32]

E4M3_MAX = 448.0
_BF16_INFINITY = 0x7F80


def dequantise(
    codes: Codes, scales: Scales, target: Bf16Bits, first_row: int = 0, first_column: int = 0
) -> None:
    """codes [R, C] with the tensor's whole scale grid -> target [R, C]; codes[0, 0] lies at
    (first_row, first_column) of the tensor. `target` is contiguous, each row of `codes` too."""
    rows, columns = codes.shape
    stride = codes.strides[0] if rows > 1 else columns
    flat = as_strided(codes, ((rows - 1) * stride + columns,), (1,))
    kernels.dequantise_rows(
        flat,
        np.uintp(stride),
        scales,
        target.reshape(-1),
        np.uintp(columns),
        np.uintp(first_row),
        np.uintp(first_column),
    )


def block_row_scales(source: Bf16Bits, where: str) -> Scales:
    """The scales [ceil(C/128)] of one row of blocks, source [R <= 128, C].

    A block of zeros has scale 1. Raises IntegrityError when the source holds NaN or infinity.
    """
    maxima = np.zeros(-(-source.shape[1] // BLOCK), np.uint16)
    kernels.block_maxima(source.reshape(-1), np.uintp(source.shape[1]), maxima)
    if (maxima >= _BF16_INFINITY).any():
        raise IntegrityError(
            f"{where} holds NaN or infinite values, which FP8 cannot carry.",
            "Run `dsdeploy inspect --deep` on the source and replace the damaged file.",
        )
    amax = (maxima.astype(np.uint32) << 16).view(np.float32)
    scales = amax / np.float32(E4M3_MAX)
    return cast(Scales, np.where(scales == 0, np.float32(1), scales).astype(np.float32))


def quantise_block_row(source: Bf16Bits, scales: Scales, target: Codes) -> None:
    """source [R <= 128, C], scales [ceil(C/128)] -> target [R, C]."""
    columns = np.uintp(source.shape[1])
    kernels.quantise_rows(source.reshape(-1), columns, scales, target.reshape(-1))
