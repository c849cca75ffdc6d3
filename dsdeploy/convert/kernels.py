"""The arithmetic of one element as LLVM instructions, in loops that vectorise.

Python's own expressions on small integers widen to 64 bits in numba and stay scalar; an
element written as a handful of instructions becomes AVX-512 or NEON code, several times faster.
Each loop runs along the 128 columns of a block, whose scale is constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_I32, _I16, _I8, _F32 = ir.IntType(32), ir.IntType(16), ir.IntType(8), ir.FloatType()


def _i32(value: int) -> ir.Constant:
    return ir.Constant(_I32, value)


@intrinsic  # type: ignore[untyped-decorator]
def _bf16_of_product(_context: Any, code: Any, _scale: Any) -> Any:
    """e4m3 code (u8) x scale (f32) -> BF16 bits (u16): one f32 product, one rounding."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        code, scale = arguments
        wide = builder.zext(code, _I32)
        magnitude = builder.and_(wide, _i32(0x7F))
        sign = builder.shl(builder.and_(wide, _i32(0x80)), _i32(24))
        # Exponent and mantissa go to f32's place and are rebiased by 120. Codes below 8 have no
        # leading one: they get it, one binade up, and lose it by a subtraction. (Scaling by 2^120
        # would be shorter, and several times slower: it passes through f32's subnormals.)
        moved = builder.shl(magnitude, _i32(20))
        normal = builder.bitcast(builder.add(moved, _i32(120 << 23)), _F32)
        raised = builder.bitcast(builder.add(moved, _i32(121 << 23)), _F32)
        subnormal = builder.fsub(raised, ir.Constant(_F32, 2.0**-6))
        is_subnormal = builder.icmp_unsigned("<", magnitude, _i32(8))
        absolute = builder.bitcast(builder.select(is_subnormal, subnormal, normal), _I32)
        value = builder.bitcast(builder.or_(absolute, sign), _F32)
        product = builder.fmul(value, scale)
        bits = builder.bitcast(product, _I32)
        odd = builder.and_(builder.lshr(bits, _i32(16)), _i32(1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, _i32(0x7FFF))), _i32(16))
        is_nan = builder.or_(
            builder.fcmp_unordered("uno", product, product),
            builder.icmp_unsigned("==", magnitude, _i32(0x7F)),
        )
        quiet_nan = builder.or_(builder.lshr(sign, _i32(16)), _i32(0x7FC0))
        return builder.trunc(builder.select(is_nan, quiet_nan, rounded), _I16)

    return types.uint16(code, types.float32), build


@intrinsic  # type: ignore[untyped-decorator]
def _e4m3_of_quotient(_context: Any, bits: Any, _scale: Any) -> Any:
    """BF16 bits (u16) / scale (f32) -> e4m3 code (u8): true division, saturated at 448, rounded
    to nearest even, subnormals included."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bits, scale = arguments
        source = builder.shl(builder.zext(bits, _I32), _i32(16))
        quotient = builder.bitcast(
            builder.fdiv(builder.bitcast(source, _F32), scale), _I32
        )
        sign = builder.and_(builder.lshr(quotient, _i32(24)), _i32(0x80))
        magnitude = builder.and_(quotient, _i32(0x7FFFFFFF))
        limit = _i32(0x43E00000)  # 448.0
        beyond = builder.icmp_unsigned(">", magnitude, limit)
        magnitude = builder.select(beyond, limit, magnitude)
        odd = builder.and_(builder.lshr(magnitude, _i32(20)), _i32(1))
        rounded = builder.lshr(builder.add(magnitude, builder.add(odd, _i32(0x7FFFF))), _i32(20))
        normal = builder.sub(rounded, _i32(120 << 3))
        # Below 2^-6 the codes are multiples of 2^-9, which is the last place of 2^14.
        shifted = builder.fadd(builder.bitcast(magnitude, _F32), ir.Constant(_F32, 16384.0))
        subnormal = builder.and_(builder.bitcast(shifted, _I32), _i32(0xFF))
        is_small = builder.icmp_unsigned("<", magnitude, _i32(0x3C800000))  # 2^-6
        code = builder.or_(builder.select(is_small, subnormal, normal), sign)
        return builder.trunc(code, _I8)

    return types.uint8(bits, types.float32), build


# The loops take flat contiguous arrays and cut a block's columns out as slices: with strides known
# to be 1 and indexes known to be positive, LLVM vectorises them.


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _dequantise_block(codes: Any, scale: Any, target: Any) -> None:
    for place in range(codes.shape[0]):
        target[place] = _bf16_of_product(codes[place], scale)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def dequantise_rows(
    codes: Any, stride: int, scales: Any, target: Any, columns: int, row: int, column: int
) -> None:
    """Rows of `columns` codes (u8), `stride` apart -> target (u16, BF16 bits) without gaps.

    `scales` is the grid of the whole tensor; the first code lies at (row, column) of the tensor.
    """
    for index in range(target.shape[0] // columns):
        grid = (row + index) // 128
        start = 0
        while start < columns:
            block = (column + start) // 128
            stop = min(columns, (block + 1) * 128 - column)
            source = codes[index * stride + start : index * stride + stop]
            place = target[index * columns + start : index * columns + stop]
            _dequantise_block(source, scales[grid, block], place)
            start = stop


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _largest_magnitude(source: Any) -> Any:
    largest = np.uint16(0)
    for place in range(source.shape[0]):
        largest = max(largest, source[place] & np.uint16(0x7FFF))
    return largest


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def block_maxima(source: Any, columns: int, maxima: Any) -> None:
    """At most 128 rows of `columns` BF16 values (u16): the largest |bits| of each 128 columns.

    BF16 magnitudes order as their bits do, so this is a maximum of integers.
    """
    for row in range(source.shape[0] // columns):
        for block in range(maxima.shape[0]):
            start, stop = block * 128, min(columns, block * 128 + 128)
            values = source[row * columns + start : row * columns + stop]
            maxima[block] = max(maxima[block], _largest_magnitude(values))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _quantise_block(source: Any, scale: Any, target: Any) -> None:
    for place in range(source.shape[0]):
        target[place] = _e4m3_of_quotient(source[place], scale)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def quantise_rows(source: Any, columns: int, scales: Any, target: Any) -> None:
    """Rows of `columns` BF16 values (u16), scales [ceil(columns / 128)] f32 -> e4m3 codes (u8)."""
    for row in range(source.shape[0] // columns):
        for block in range(scales.shape[0]):
            start = row * columns + block * 128
            stop = row * columns + min(columns, block * 128 + 128)
            _quantise_block(source[start:stop], scales[block], target[start:stop])
