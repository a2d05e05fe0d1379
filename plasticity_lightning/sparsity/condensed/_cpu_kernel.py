"""Compiled condensed layers. Samples are the lanes of the vector unit: a weight meets a whole tile of samples at once.

A tile of 8 to 64 samples is laid out [units, samples], so that what a weight reads stands side by side. What is done per
weight (`_row_product`, `_row_gradient`, `_row_scatter`) is written in the compiler's own terms, with sums in registers: no loop
in Python is sure to keep them there. One to three samples are gathered one by one instead, a vector along the row.

`entry` compiles the functions for the types at hand. They take the address of an order, seventeen whole numbers: a call with a
dozen arrays would take as long as a small layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["entry", "scratch_size"]

_BYTES = 64  # of a vector; the compiler splits it where the machine's are narrower
_BLOCK = 16  # outputs that are computed before they are laid out as [samples, outputs]
_TILE, _BACKWARD_TILE = 64, 32  # samples


def scratch_size(n_inputs: int, n_rows: int) -> int:
    """Numbers that one piece needs to lay out a tile."""
    return max((n_inputs + _BLOCK) * _TILE, (n_inputs + n_rows) * _BACKWARD_TILE)


@cache
def entry(name: str, value_bytes: int, index_bytes: int) -> int:
    """Address of the compiled function "forward" or "backward" for values and indices of so many bytes.

    Its one argument is the address of an order, of which it takes pieces until none is left; so several threads can be
    given the same order.
    """
    value = np.dtype(f"f{value_bytes}")
    unit = np.dtype(f"u{index_bytes}")  # never negative, so without a test for that
    make = {"forward": _forward, "backward": _backward}[name]
    compiled = cfunc(types.void(types.CPointer(types.int64)), cache=True)(make(value, unit))
    _kept.append(compiled)
    address = compiled.address
    assert address is not None
    return int(address)


_COUNT = np.dtype("i4")
_kept: list[Any] = []  # whose code the addresses point into
# The whole numbers of an order, what they are and where they stand; tensors by address, contiguous, 0 for one that is not there.
(
    TAKEN,  # pieces that some thread has taken
    PIECES,
    BY_ROWS,  # forward: whether a piece is a share of the outputs, not of the samples
    X,
    VALUES,
    INDEX,
    COUNTS,
    BIAS,
    Y,
    G,
    GX,
    GV,  # [pieces, n, k], zeros: each piece adds up its own samples
    SCRATCH,  # `scratch_size` numbers for each piece
    N_SAMPLES,
    N_INPUTS,
    N_ROWS,
    K,
) = range(17)


def _pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """The pointer to numbers of the dtype `like` at this address."""
    pointer = types.CPointer(like.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(address, like), codegen


def _ticket(typingctx: Any, counter: Any) -> Any:
    """The number at this pointer, and one more is left there, in one step for all threads."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), codegen


_at: Any = intrinsic(_pointer)
_take: Any = intrinsic(_ticket)


class _Vectors:
    """Vectors of `tile` numbers in the compiler's terms; `tile` is known when the code is made."""

    def __init__(self, builder: Any, number: Any, bits: int, tile: int) -> None:
        self.builder, self.bytes, self.tile = builder, bits // 8, tile
        self.width = min(tile, _BYTES // self.bytes)
        self.vector = ir.VectorType(number, self.width)
        self.name = f"v{self.width}f{bits}"
        self.lanes = range(0, tile, self.width)

    def _place(self, base: Any, position: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(base, [position]), self.vector.as_pointer())

    def load(self, base: Any, position: Any) -> list[Any]:
        return [
            self.builder.load(self._place(base, self._shift(position, lane)), align=self.bytes) for lane in self.lanes
        ]

    def store(self, vectors: list[Any], base: Any, position: Any) -> None:
        for vector, lane in zip(vectors, self.lanes, strict=True):
            self.builder.store(vector, self._place(base, self._shift(position, lane)), align=self.bytes)

    def spread(self, number: Any) -> Any:
        """One number in every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """Product and sum, rounded once: a * b + c."""
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.fma.{self.name}")
        return self.builder.call(function, [a, b, c])

    def total(self, vector: Any) -> Any:
        """Sum over the lanes, in any order."""
        number = self.vector.element
        kind = ir.FunctionType(number, [number, self.vector])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.vector.reduce.fadd.{self.name}")
        return self.builder.call(function, [ir.Constant(number, 0.0), vector], fastmath=["reassoc"])

    def zeros(self) -> Any:
        return ir.Constant(self.vector, [0.0] * self.width)

    def _shift(self, position: Any, lane: int) -> Any:
        return self.builder.add(position, ir.Constant(ir.IntType(64), lane)) if lane else position


def _per_weight(body: Callable[..., None]) -> Any:
    """An intrinsic (values, index, start, count, units, at, tile, out): `body` makes the code for the weights of one row.

    `values`, `index` are read at start to start + count, `units` is laid out [units, tile], `out` is read or written at `at`.
    """

    @intrinsic(prefer_literal=True)
    def made(
        typingctx: Any, values: Any, index: Any, start: Any, count: Any, units: Any, tile: Any, out: Any, at: Any
    ) -> Any:
        if not isinstance(tile, types.IntegerLiteral):
            return None
        size = tile.literal_value

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = [context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 1, 4, 6)]
            dtype = signature.args[0].dtype
            vectors = _Vectors(builder, context.get_value_type(dtype), dtype.bitwidth, size)
            body(builder, vectors, *data, args[2], args[3], args[7])
            return context.get_dummy_value()

        return types.void(values, index, start, count, units, tile, out, at), codegen

    return made


def _unit_of(builder: Any, index_at: Any, position: Any, tile: int) -> Any:
    """Where the unit that weight number `position` reads stands in a layout [units, tile]."""
    unit = builder.zext(builder.load(builder.gep(index_at, [position])), ir.IntType(64))
    return builder.mul(unit, ir.Constant(ir.IntType(64), tile))


def _product_code(
    builder: Any, v: _Vectors, values: Any, index: Any, units: Any, out: Any, start: Any, count: Any, at: Any
) -> None:
    """out[at:][:tile] = sum of values[j] * units[index[j]]."""
    sums = [cgutils.alloca_once_value(builder, v.zeros()) for _ in v.lanes]
    with cgutils.for_range(builder, count) as loop:
        position = builder.add(start, loop.index)
        value = v.spread(builder.load(builder.gep(values, [position])))
        for total, term in zip(sums, v.load(units, _unit_of(builder, index, position, v.tile)), strict=True):
            builder.store(v.fused(term, value, builder.load(total)), total)
    v.store([builder.load(total) for total in sums], out, at)


def _gradient_code(
    builder: Any, v: _Vectors, values: Any, index: Any, units: Any, out: Any, start: Any, count: Any, at: Any
) -> None:
    """values[j] += out[at:][:tile] . units[index[j]]; `values` are the gradient's, `out` holds the row's g."""
    mine = v.load(out, at)
    with cgutils.for_range(builder, count) as loop:
        position = builder.add(start, loop.index)
        products = v.zeros()
        for g, x in zip(mine, v.load(units, _unit_of(builder, index, position, v.tile)), strict=True):
            products = v.fused(g, x, products)
        place = builder.gep(values, [position])
        builder.store(builder.fadd(builder.load(place), v.total(products)), place)


def _scatter_code(
    builder: Any, v: _Vectors, values: Any, index: Any, units: Any, out: Any, start: Any, count: Any, at: Any
) -> None:
    """units[index[j]] += values[j] * out[at:][:tile]; `out` holds the row's g."""
    mine = v.load(out, at)
    with cgutils.for_range(builder, count) as loop:
        position = builder.add(start, loop.index)
        value = v.spread(builder.load(builder.gep(values, [position])))
        unit = _unit_of(builder, index, position, v.tile)
        v.store([v.fused(g, value, old) for g, old in zip(mine, v.load(units, unit), strict=True)], units, unit)


_row_product, _row_gradient, _row_scatter = map(_per_weight, (_product_code, _gradient_code, _scatter_code))


@njit(inline="always")
def _lay_out(x: Any, first: int, n: int, tile: int, out: Any) -> None:
    """x[first : first + n] as [units, tile], flat; zeros where there is no sample. Sixteen units at a time stay in the cache."""
    units = x.shape[1]
    if n < tile:
        out[: units * tile] = 0
    for start in range(0, units, 16):
        end = min(start + 16, units)
        for b in range(n):
            for c in range(start, end):
                out[c * tile + b] = x[first + b, c]


@njit(inline="always")
def _lay_back(laid: Any, first: int, n: int, tile: int, out: Any) -> None:
    """The inverse of `_lay_out`."""
    units = out.shape[1]
    for start in range(0, units, 16):
        end = min(start + 16, units)
        for b in range(n):
            for c in range(start, end):
                out[first + b, c] = laid[c * tile + b]


@njit(inline="always")
def _tile_forward(
    x: Any, values: Any, index: Any, counts: Any, k: int, bias: Any, biased: int, y: Any, b: int, n: int,
    row_0: int, row_1: int, laid: Any, sums: Any, tile: int,
) -> None:  # fmt: skip
    _lay_out(x, b, n, tile, laid)
    for block in range(row_0, row_1, _BLOCK):
        rows = min(_BLOCK, row_1 - block)
        for r in range(rows):
            row = block + r
            _row_product(values, index, row * k, np.int64(counts[row]), laid, tile, sums, r * tile)
            if biased:
                for s in range(tile):
                    sums[r * tile + s] += bias[row]
        for s in range(n):
            for r in range(rows):
                y[b + s, block + r] = sums[r * tile + s]


@njit(fastmath={"reassoc", "contract"})
def _gathered(
    x: Any, b: int, values: Any, index: Any, counts: Any, k: int, bias: Any, biased: int, y: Any,
    row_0: int, row_1: int,
) -> None:  # fmt: skip
    """One sample: a gather along each row, over slices from 0, which the compiler turns into vectors (not over r * k ...)."""
    mine = x[b]
    for r in range(row_0, row_1):
        count = np.int64(counts[r])
        row, reads = values[r * k : r * k + count], index[r * k : r * k + count]
        total = x.dtype.type(0)
        for j in range(count):
            total += row[j] * mine[reads[j]]
        y[b, r] = total + bias[r] if biased else total


def _forward(value: Any, unit: Any) -> Callable[[Any], None]:
    """For values and indices of these numpy types."""
    size = value.itemsize

    def run(order: Any) -> None:
        n_samples, n_inputs, n_rows, k = order[N_SAMPLES], order[N_INPUTS], order[N_ROWS], order[K]
        x = carray(_at(order[X], value), (n_samples, n_inputs))
        y = carray(_at(order[Y], value), (n_samples, n_rows))
        values, index = carray(_at(order[VALUES], value), n_rows * k), carray(_at(order[INDEX], unit), n_rows * k)
        counts = carray(_at(order[COUNTS], _COUNT), n_rows)
        biased = order[BIAS] != 0
        bias = carray(_at(order[BIAS], value), n_rows if biased else 0)
        pieces, space = order[PIECES], (n_inputs + _BLOCK) * _TILE
        while True:
            piece = _take(order)
            if piece >= pieces:
                return
            scratch = carray(_at(order[SCRATCH] + piece * space * size, value), space)
            laid, sums = scratch[: n_inputs * _TILE], scratch[n_inputs * _TILE :]
            b, b_1, row_0, row_1 = 0, n_samples, 0, n_rows
            if order[BY_ROWS]:
                row_0, row_1 = n_rows * piece // pieces, n_rows * (piece + 1) // pieces
            else:
                b, b_1 = n_samples * piece // pieces, n_samples * (piece + 1) // pieces
            while b < b_1:  # the largest tile that is well filled
                left = b_1 - b
                if left >= 40:
                    n = min(left, 64)
                    _tile_forward(x, values, index, counts, k, bias, biased, y, b, n, row_0, row_1, laid, sums, 64)
                elif left >= 20:
                    n = min(left, 32)
                    _tile_forward(x, values, index, counts, k, bias, biased, y, b, n, row_0, row_1, laid, sums, 32)
                elif left >= 12:
                    n = min(left, 16)
                    _tile_forward(x, values, index, counts, k, bias, biased, y, b, n, row_0, row_1, laid, sums, 16)
                elif left >= 4:
                    n = min(left, 8)
                    _tile_forward(x, values, index, counts, k, bias, biased, y, b, n, row_0, row_1, laid, sums, 8)
                else:
                    n = 1
                    _gathered(x, b, values, index, counts, k, bias, biased, y, row_0, row_1)
                b += n

    return run


def _backward(value: Any, unit: Any) -> Callable[[Any], None]:
    """For values and indices of these numpy types; pieces are shares of the samples."""
    size = value.itemsize

    def run(order: Any) -> None:
        n_samples, n_inputs, n_rows, k = order[N_SAMPLES], order[N_INPUTS], order[N_ROWS], order[K]
        x = carray(_at(order[X], value), (n_samples, n_inputs))
        g = carray(_at(order[G], value), (n_samples, n_rows))
        gx = carray(_at(order[GX], value), (n_samples if order[GX] else 0, n_inputs))
        values, index = carray(_at(order[VALUES], value), n_rows * k), carray(_at(order[INDEX], unit), n_rows * k)
        counts = carray(_at(order[COUNTS], _COUNT), n_rows)
        pieces, space = order[PIECES], (n_inputs + n_rows) * _BACKWARD_TILE
        while True:
            piece = _take(order)
            if piece >= pieces:
                return
            scratch = carray(_at(order[SCRATCH] + piece * space * size, value), space)
            laid_g, laid_x = scratch[: n_rows * _BACKWARD_TILE], scratch[n_rows * _BACKWARD_TILE :]
            gv = carray(_at(order[GV] + piece * n_rows * k * size, value), n_rows * k if order[GV] else 0)
            first, last = n_samples * piece // pieces, n_samples * (piece + 1) // pieces
            for b in range(first, last, _BACKWARD_TILE):
                n = min(_BACKWARD_TILE, last - b)
                _lay_out(g, b, n, _BACKWARD_TILE, laid_g)
                if gv.size:
                    _lay_out(x, b, n, _BACKWARD_TILE, laid_x)
                    for r in range(n_rows):
                        count = np.int64(counts[r])
                        _row_gradient(gv, index, r * k, count, laid_x, _BACKWARD_TILE, laid_g, r * _BACKWARD_TILE)
                if gx.size:
                    laid_x[:] = 0
                    for r in range(n_rows):
                        count = np.int64(counts[r])
                        _row_scatter(values, index, r * k, count, laid_x, _BACKWARD_TILE, laid_g, r * _BACKWARD_TILE)
                    _lay_back(laid_x, b, n, _BACKWARD_TILE, gx)

    return run
