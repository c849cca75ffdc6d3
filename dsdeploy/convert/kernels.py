"""The arithmetic of one element as LLVM instructions, in loops that vectorise.

Python's own expressions on small integers widen to 64 bits in numba and stay scalar; an
element written as a handful of instructions becomes AVX or NEON code, several times faster.
Each inner loop runs along the columns of a block, whose scale is constant. Indexes are unsigned:
numba gives signed ones a test for negative values, which keeps a loop from vectorising.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dsdeploy.jit import compiled

_I32, _I16, _I8, _F32 = ir.IntType(32), ir.IntType(16), ir.IntType(8), ir.FloatType()
_BLOCK = np.uintp(128)
_ZERO, _ONE = np.uintp(0), np.uintp(1)


def _i32(value: int) -> ir.Constant:
    return ir.Constant(_I32, value)


def _round_to_bf16(builder: Any, bits: Any) -> Any:
    """f32 bits -> BF16 bits, both i32: to nearest, ties to even; NaN is the caller's to handle."""
    odd = builder.and_(builder.lshr(bits, _i32(16)), _i32(1))
    return builder.lshr(builder.add(bits, builder.add(odd, _i32(0x7FFF))), _i32(16))


@intrinsic
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
        rounded = _round_to_bf16(builder, builder.bitcast(product, _I32))
        is_nan = builder.or_(
            builder.fcmp_unordered("uno", product, product),
            builder.icmp_unsigned("==", magnitude, _i32(0x7F)),
        )
        quiet_nan = builder.or_(builder.lshr(sign, _i32(16)), _i32(0x7FC0))
        return builder.trunc(builder.select(is_nan, quiet_nan, rounded), _I16)

    return types.uint16(code, types.float32), build


@intrinsic
def _bf16_of_ordinary_product(_context: Any, code: Any, _scale: Any) -> Any:
    """The same for a normal code and a finite scale, in half the instructions."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        code, scale = arguments
        wide = builder.zext(code, _I32)
        moved = builder.shl(builder.and_(wide, _i32(0x7F)), _i32(20))
        value = builder.bitcast(builder.add(moved, _i32(120 << 23)), _F32)
        product = builder.bitcast(builder.fmul(value, scale), _I32)
        sign = builder.shl(builder.and_(wide, _i32(0x80)), _i32(8))
        # The sign joins after the rounding, which is symmetric; by xor, for negative scales.
        return builder.trunc(builder.xor(_round_to_bf16(builder, product), sign), _I16)

    return types.uint16(code, types.float32), build


@intrinsic
def _e4m3_of_quotient(_context: Any, bits: Any, _scale: Any) -> Any:
    """BF16 bits (u16) / scale (f32) -> e4m3 code (u8): true division, saturated at 448, rounded
    to nearest even, subnormals included."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bits, scale = arguments
        source = builder.shl(builder.zext(bits, _I32), _i32(16))
        quotient = builder.bitcast(builder.fdiv(builder.bitcast(source, _F32), scale), _I32)
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


# The loops over one block's row. They are inlined where the width is the constant 128, and LLVM
# unrolls them; only the last block of a row has another width. (`call-arg` is ignored because numba
# gives an intrinsic its first argument itself.)


@njit(nogil=True, inline="always")
def _dequantise_span(
    codes: Any, source: Any, scale: Any, target: Any, place: Any, width: Any
) -> None:
    # Subnormal and NaN codes are rare: a look at the whole span saves half of its work.
    # Less 8, modulo 256, the normal codes are 0 to 118.
    largest = np.uint8(0)
    for at in range(width):
        largest = max(largest, np.uint8((codes[source + at] & np.uint8(0x7F)) - np.uint8(8)))
    if largest > np.uint8(118) or not np.isfinite(scale):
        for at in range(width):
            target[place + at] = _bf16_of_product(codes[source + at], scale)  # type: ignore[call-arg]
    else:
        for at in range(width):
            target[place + at] = _bf16_of_ordinary_product(  # type: ignore[call-arg]
                codes[source + at], scale
            )


@njit(nogil=True, inline="always")
def _largest_magnitude(source: Any, start: Any, width: Any) -> Any:
    largest = np.uint16(0)
    for at in range(width):
        largest = max(largest, source[start + at] & np.uint16(0x7FFF))
    return largest


@njit(nogil=True, inline="always")
def _quantise_span(source: Any, scale: Any, target: Any, start: Any, width: Any) -> None:
    for at in range(width):
        target[start + at] = _e4m3_of_quotient(source[start + at], scale)  # type: ignore[call-arg]


@compiled()
def dequantise_rows(
    codes: Any, stride: Any, scales: Any, target: Any, columns: Any, row: Any, column: Any
) -> None:
    """Rows of `columns` codes (u8), `stride` apart -> target (u16, BF16 bits) without gaps.

    `scales` is the grid of the whole tensor; the first code lies at (row, column) of the tensor.
    All integers are unsigned; codes and target are flat.
    """
    for index in range(np.uintp(target.shape[0]) // columns):
        start = _ZERO
        while start < columns:
            block = (column + start) // _BLOCK
            width = min(columns, (block + _ONE) * _BLOCK - column) - start
            scale = scales[(row + index) // _BLOCK, block]
            source, place = index * stride + start, index * columns + start
            if width == _BLOCK:
                _dequantise_span(codes, source, scale, target, place, _BLOCK)
            else:
                _dequantise_span(codes, source, scale, target, place, width)
            start += width


@compiled()
def block_maxima(source: Any, columns: Any, maxima: Any) -> None:
    """At most 128 rows of `columns` BF16 values (u16): the largest |bits| of each 128 columns.

    BF16 magnitudes order as their bits do, so this is a maximum of integers.
    """
    for row in range(np.uintp(source.shape[0]) // columns):
        for block in range(np.uintp(maxima.shape[0])):
            start, width = row * columns + block * _BLOCK, columns - block * _BLOCK
            if width >= _BLOCK:
                largest = _largest_magnitude(source, start, _BLOCK)
            else:
                largest = _largest_magnitude(source, start, width)
            maxima[block] = max(maxima[block], largest)


@compiled()
def quantise_rows(source: Any, columns: Any, scales: Any, target: Any) -> None:
    """Rows of `columns` BF16 values (u16), scales [ceil(columns / 128)] f32 -> e4m3 codes (u8)."""
    for row in range(np.uintp(source.shape[0]) // columns):
        for block in range(np.uintp(scales.shape[0])):
            start, width = row * columns + block * _BLOCK, columns - block * _BLOCK
            if width >= _BLOCK:
                _quantise_span(source, scales[block], target, start, _BLOCK)
            else:
                _quantise_span(source, scales[block], target, start, width)
