"""e4m3 inside kernels, by integer arithmetic: the same bits on every card and in the interpreter, and
on cards whose compiler has no such type (before Ada).

Each function is called by kernels. Codes are uint8.
"""

from __future__ import annotations

import triton
import triton.language as tl

GROUP = tl.constexpr(128)
_LARGEST = tl.constexpr(448.0)
_LEAST_AMAX = tl.constexpr(1e-4)


@triton.jit
def group_scales(x_RGW, POWERS_OF_TWO: tl.constexpr):
    """max(amax, 1e-4) / 448 along the last axis; NaN where a value is."""
    amax = tl.maximum(tl.max(tl.abs(x_RGW), -1), _LEAST_AMAX)
    nan = tl.max((x_RGW != x_RGW).to(tl.int32), -1)
    scales = tl.div_rn(tl.where(nan > 0, float("nan"), amax), _LARGEST)
    if POWERS_OF_TWO:
        # Upwards: any bit of the mantissa makes the exponent one more.
        bits = (scales.to(tl.int32, bitcast=True) + 0x7FFFFF) & 0x7F800000
        scales = tl.where(nan > 0, scales, bits.to(tl.float32, bitcast=True))
    return scales


@triton.jit
def encode(x, scales):
    """The codes nearest to x / scales, ties to even, at most 448 from 0; both shapes broadcast."""
    ratio = tl.div_rn(x, scales)
    bits = ratio.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    # Seven of float32's 23 bits go: half of the last kept one is added, a bit less for even ones.
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2^-6 codes are steps of 2^-9, which this sum's last bit is worth.
    magnitude = size.to(tl.float32, bitcast=True)
    low = (magnitude + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    code = tl.where(magnitude < 0.015625, low, tl.minimum(normal, 0x7E))
    code = tl.where(size > 0x7F800000, 0x7F, code)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def decode(codes, DTYPE: tl.constexpr):
    """Codes as numbers of DTYPE, exactly: float16 has all of e4m3's bits, 2^8 apart."""
    wide = codes.to(tl.int16)
    bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
    bits = tl.where((wide & 0x7F) == 0x7F, 0x7E00, bits).to(tl.int16)
    return (bits.to(tl.float16, bitcast=True).to(tl.float32) * 256.0).to(DTYPE)
