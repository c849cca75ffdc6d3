"""The two register tiles that all matrix work on the CPU is made of, as LLVM instructions.

    dot_tile    out[r, c] = sum over k of x[r, k] w[c, k]        scores, every linear layer
    sum_tile    out[r, :] += sum over s of p[r, s] v[s, :]       attention's weighted sums

Each element of a result has one accumulator, filled along k (or s) in one order, whatever the
tile's size. So a row's result has the same bits alone or in a batch, in a chunk or a whole prompt:
that is what makes the runner's answers independent of what else is running.

Weights are read as they are stored (`w.dtype` tells: float32, uint16 BF16 bits, int16 FP16 bits,
uint8 e4m3 codes with a scale for each 128 columns) and widened to float32 in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8
ROWS = 6 if LANES == 16 else 2
"""Rows of the largest tile: with four columns its accumulators fill the vector registers."""
COLUMNS = 4
"""It divides 128, so that the columns of one tile share an FP8 scale."""

_F32, _HALF = ir.FloatType(), ir.HalfType()
_I64, _I32, _I16, _I8 = (ir.IntType(bits) for bits in (64, 32, 16, 8))
_VECTOR = ir.VectorType(_F32, LANES)
_STORED = {"float32": _F32, "uint16": _I16, "int16": _I16, "uint8": _I8}


def _i64(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _all(element: Any, value: float, lanes: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(element, lanes), [value] * lanes)


def _spread(builder: Any, value: Any, lanes: int) -> Any:
    """A vector with `value` in every lane."""
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, nothing, _all(_I32, 0, lanes))


def _widen(builder: Any, bits: Any, dtype: str, lanes: int) -> Any:
    """Stored elements to float32, exactly. e4m3 becomes an FP16 that is 2^8 too small, with one
    shift and no case for subnormals; `_weights` puts the 2^8 into the scale."""
    if dtype == "float32":
        return bits
    if dtype == "uint16":
        wide = builder.zext(bits, ir.VectorType(_I32, lanes))
        return builder.bitcast(builder.shl(wide, _all(_I32, 16, lanes)), _floats(lanes))
    if dtype == "uint8":
        wide = builder.zext(bits, ir.VectorType(_I16, lanes))
        magnitude = builder.shl(builder.and_(wide, _all(_I16, 0x7F, lanes)), _all(_I16, 7, lanes))
        sign = builder.shl(builder.and_(wide, _all(_I16, 0x80, lanes)), _all(_I16, 8, lanes))
        bits = builder.or_(magnitude, sign)
    return builder.fpext(builder.bitcast(bits, ir.VectorType(_HALF, lanes)), _floats(lanes))


def _floats(lanes: int) -> ir.VectorType:
    return ir.VectorType(_F32, lanes)


class _Array:
    """An array argument of an intrinsic: its data, read by vectors of float32."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        self._builder, self._dtype = builder, str(kind.dtype)
        self.data = context.make_array(kind)(context, builder, value).data

    def at(self, index: Any) -> Any:
        return self._builder.gep(self.data, [index])

    def load(self, index: Any, lanes: int = LANES) -> Any:
        stored = ir.VectorType(_STORED[self._dtype], lanes)
        pointer = self._builder.bitcast(self.at(index), stored.as_pointer())
        bits = self._builder.load(pointer)
        bits.align = 1
        return _widen(self._builder, bits, self._dtype, lanes)

    def load_scaled(self, index: Any, scale: Any, lanes: int = LANES) -> Any:
        """`scale` is the float that multiplies e4m3 codes; other formats have none."""
        value = self.load(index, lanes)
        if self._dtype != "uint8":
            return value
        return self._builder.fmul(value, _spread(self._builder, scale, lanes))

    def store(self, vector: Any, index: Any) -> None:
        pointer = self._builder.bitcast(self.at(index), vector.type.as_pointer())
        self._builder.store(vector, pointer).align = 4


@contextmanager
def _loop(builder: Any, start: Any, stop: Any, step: int) -> Iterator[Any]:
    with cgutils.for_range_slice(builder, start, stop, _i64(step), intp=_I64) as (index, _):
        yield index


def _multiply_add(builder: Any, left: Any, right: Any, accumulator: Any) -> None:
    vector = left.type
    kind = ir.FunctionType(vector, [vector, vector, vector])
    name = f"llvm.fma.v{vector.count}f32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    product = builder.call(function, [left, right, builder.load(accumulator)])
    builder.store(product, accumulator)


def _accumulators(builder: Any, count: int, lanes: int) -> list[Any]:
    found = [cgutils.alloca_once(builder, _floats(lanes)) for _ in range(count)]
    for accumulator in found:
        builder.store(_all(_F32, 0.0, lanes), accumulator)
    return found


def _total(builder: Any, vector: Any) -> Any:
    """The lanes' sum, by halves."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        halves = [
            builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(_I32, lanes), list(range(at, at + lanes)))
            )
            for at in (0, lanes)
        ]
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _dot_tile(rows: int, columns: int) -> Any:
    """The arrays are flat; positions and strides are unsigned elements. `scales` [k / 128] belong
    to e4m3 codes and are not read for other formats."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        x, w, scales, out = (_Array(context, builder, kinds[i], arguments[i]) for i in (0, 3, 6, 9))
        _, x_at, x_stride, _, w_at, w_stride, _, scales_at, k, _, out_at, out_stride = arguments
        x_rows = [builder.add(x_at, builder.mul(x_stride, _i64(r))) for r in range(rows)]
        w_rows = [builder.add(w_at, builder.mul(w_stride, _i64(c))) for c in range(columns)]

        def scale_at(index: Any) -> Any:
            if str(kinds[3].dtype) != "uint8":
                return None
            place = builder.add(scales_at, builder.lshr(index, _i64(7)))
            raised = ir.Constant(_F32, 256.0)  # see _widen
            return builder.fmul(builder.load(scales.at(place)), raised)

        def accumulate(index: Any, accumulators: list[Any], lanes: int) -> None:
            scale = scale_at(index)
            weights = [w.load_scaled(builder.add(index, at), scale, lanes) for at in w_rows]
            for r, at in enumerate(x_rows):
                value = x.load(builder.add(index, at), lanes)
                for c, weight in enumerate(weights):
                    _multiply_add(builder, value, weight, accumulators[r * columns + c])

        whole = builder.and_(k, _i64(-LANES))
        main = _accumulators(builder, rows * columns, LANES)
        rest = _accumulators(builder, rows * columns, 1)
        with _loop(builder, _i64(0), whole, LANES) as index:
            accumulate(index, main, LANES)
        with _loop(builder, whole, k, 1) as index:
            accumulate(index, rest, 1)
        for r in range(rows):
            for c in range(columns):
                place = r * columns + c
                total = _total(builder, builder.load(main[place]))
                total = builder.fadd(total, _total(builder, builder.load(rest[place])))
                row = builder.add(out_at, builder.mul(out_stride, _i64(r)))
                builder.store(total, out.at(builder.add(row, _i64(c))))
        return context.get_dummy_value()

    @intrinsic
    def dot_tile(
        _context: Any, x: Any, x_at: Any, x_stride: Any, w: Any, w_at: Any, w_stride: Any,
        scales: Any, scales_at: Any, k: Any, out: Any, out_at: Any, out_stride: Any,
    ) -> Any:  # fmt: skip
        kinds = (x, x_at, x_stride, w, w_at, w_stride, scales, scales_at, k)
        return types.void(*kinds, out, out_at, out_stride), build

    return dot_tile


def _sum_tile(rows: int, lanes: int, vectors: int) -> Any:
    """Adds `count` rows of v, each times its share p[r, s], to out[r, 0 : lanes x vectors]."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        p, v, out = (_Array(context, builder, kinds[i], arguments[i]) for i in (0, 3, 7))
        _, p_at, p_stride, _, v_at, v_stride, count, _, out_at, out_stride = arguments
        places = [
            builder.add(builder.add(out_at, builder.mul(out_stride, _i64(r))), _i64(c * lanes))
            for r in range(rows)
            for c in range(vectors)
        ]
        sums = _accumulators(builder, rows * vectors, lanes)
        for accumulator, place in zip(sums, places, strict=True):
            builder.store(out.load(place, lanes), accumulator)
        with _loop(builder, _i64(0), count, 1) as s:
            row = builder.add(v_at, builder.mul(v_stride, s))
            values = [v.load(builder.add(row, _i64(c * lanes)), lanes) for c in range(vectors)]
            for r in range(rows):
                row_of_p = builder.add(p_at, builder.mul(p_stride, _i64(r)))
                share = builder.load(p.at(builder.add(row_of_p, s)))
                for c, value in enumerate(values):
                    spread = _spread(builder, share, lanes)
                    _multiply_add(builder, spread, value, sums[r * vectors + c])
        for accumulator, place in zip(sums, places, strict=True):
            out.store(builder.load(accumulator), place)
        return context.get_dummy_value()

    @intrinsic
    def sum_tile(
        _context: Any, p: Any, p_at: Any, p_stride: Any, v: Any, v_at: Any, v_stride: Any,
        count: Any, out: Any, out_at: Any, out_stride: Any,
    ) -> Any:  # fmt: skip
        return types.void(
            p, p_at, p_stride, v, v_at, v_stride, count, out, out_at, out_stride
        ), build

    return sum_tile


dot_tile_6x4 = _dot_tile(6, COLUMNS)
dot_tile_4x4 = _dot_tile(4, COLUMNS)
dot_tile_2x4 = _dot_tile(2, COLUMNS)
dot_tile_1x4 = _dot_tile(1, COLUMNS)
dot_tile_1x1 = _dot_tile(1, 1)

SUM_WIDTH = LANES * 4
sum_tile_6 = _sum_tile(6, LANES, 4)
sum_tile_4 = _sum_tile(4, LANES, 4)
sum_tile_2 = _sum_tile(2, LANES, 4)
sum_tile_1 = _sum_tile(1, LANES, 4)
sum_tile_one_lane = _sum_tile(1, 1, 1)


def _widen_tile(lanes: int) -> Any:
    """target[target_at ...] = w[at ...] x scale, `lanes` of them, as float32. The scale is for
    e4m3 codes; other formats have none."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        w = _Array(context, builder, signature.args[0], arguments[0])
        target = _Array(context, builder, signature.args[3], arguments[3])
        raised = builder.fmul(arguments[2], ir.Constant(_F32, 256.0))  # see _widen
        target.store(w.load_scaled(arguments[1], raised, lanes), arguments[4])
        return context.get_dummy_value()

    @intrinsic
    def widen_tile(_context: Any, w: Any, at: Any, scale: Any, target: Any, target_at: Any) -> Any:
        return types.void(w, at, types.float32, target, target_at), build

    return widen_tile


widen_tile_full = _widen_tile(LANES)
widen_tile_one = _widen_tile(1)
