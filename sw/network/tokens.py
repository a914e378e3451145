"""Operations of transformers: products of activations, which the accelerator computes, and what the host does.

Tokens are ``[C, T]``, heads ``[G, C, T]``. The residual stream is int32, in -2**20 + 1 .. 2**20 - 1. ``round`` goes to
the nearest integer, halves to even; ``clamp8`` to -128..127.

==============  ======================================================================================================
``matmul``      ``y[g, k, t] = sum over c of b[g, k, c] * a[g, c, t]`` of int8 a and b: int32, or int8 with
                ``multiplier`` and ``shift``, as a layer's; ``name`` is for reports
``embed``       residual: map as tokens, ``round(x * factor)``, plus ``positions``; one token more than pixels: it comes
                first and is ``positions`` alone
``residual``    residual: ``r + round(x * factor)``, r the first value
``layernorm``   ``clamp(round((r - mean) / sqrt(variance + epsilon) * gain + offset), -limit - 1, limit)`` for each
                token; int8 for a limit of 127, int32 for another
``token``       one token of a residual
``mean``        int8: ``clamp8(round(sum over tokens * factor))``
``split``       heads: part ``part`` of ``parts`` of the channels, ``[G, C, T]``; ``transposed`` ``[G, T, C]``; -128
                becomes -127, which all arrays can take as a weight
``gelu``        int8: ``table[x + 128]``
``softmax``     int8: ``table[m - x]``, m the largest over axis 1: numerators in 0..127, 127 or so for the largest
``normalise``   tokens int8: ``clamp8(round(y * factor / s))``, y int32 of a product with numerators, s their sum (>= 1)
==============  ======================================================================================================

Everything is exact in int64, or a correctly rounded operation on float64, in the order in which it stands here: so all
machines give the same integers. Of ``layernorm``, with C channels and S the sum of a token: ``(C*r - S) / sqrt(C * (sum
of r*r) - S*S + C*C*epsilon)``, numerator and the root's first two terms as integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from sw.format.layer import Requantisation
from sw.golden import requantise
from sw.network.fields import Constant, Factor, Flag, Multiplier, Name, NetworkError, Shift, Whole
from sw.network.operation import Array, Operation, Tables, Value, must_read, read_constant

__all__ = [
    "RESIDUAL_LIMIT",
    "Embed",
    "Gelu",
    "LayerNorm",
    "MatMul",
    "Mean",
    "Normalise",
    "Residual",
    "Softmax",
    "Split",
    "Token",
]

#: Largest magnitude in the residual stream; with it the sums of ``layernorm`` fit int64 for 2048 channels.
RESIDUAL_LIMIT = (1 << 20) - 1
_MAX_CHANNELS = 2048
# No operation has so many channels, parts or heads; what a value allows is checked with it.
_MANY = 1 << 28


def _known(value: Value, dtype: str, *axes: str) -> tuple[int, ...]:
    """Shape of a value that must have this dtype, these axes and a known size."""
    must_read(value, dtype, *axes)
    return value.known


@dataclass(frozen=True, kw_only=True)
class MatMul(Operation):
    """A product of two matrices of activations for each head: a, and b in the place of weights."""

    kind: ClassVar[str] = "matmul"
    reads: ClassVar[int] = 2
    step: ClassVar[bool] = True

    name: Name
    multiplier: Multiplier | None = None
    shift: Shift | None = None

    def result(self, tables: Tables, *sources: Value) -> Value:
        first, second = sources
        a, b = _known(first, "int8", "G", "C", "T"), _known(second, "int8", "G", "K", "C")
        if a[0] != b[0] or a[1] != b[2]:
            raise NetworkError(f"it must read int8 [G x C x T] and [G x K x C], not {first} and {second}")
        return Value("int32" if self.shift is None else "int8", (a[0], b[1], a[2]))

    def check(self) -> None:
        if (self.multiplier is None) != (self.shift is None):
            raise NetworkError("multiplier and shift must be given together")

    def requantisation(self, K: int) -> Requantisation | None:
        """The requantisation of the K rows of a product; None if it is int32."""
        if self.multiplier is None or self.shift is None:
            return None
        return Requantisation(
            np.zeros(K, np.int32), np.full(K, self.multiplier, np.int32), np.full(K, self.shift, np.uint8)
        )

    def compute(self, tables: Tables, *values: Array) -> Array:
        a, b = values
        sums: NDArray[np.int32] = np.matmul(b.astype(np.int32), a.astype(np.int32))
        batch, G, K, T = sums.shape
        given = self.requantisation(K)
        if given is None:
            return sums
        return requantise(sums.reshape(batch * G, K, 1, T), given).reshape(sums.shape)


def _scaled(values: Array, factor: float) -> NDArray[np.int64]:
    """``round(x * factor)``, kept to a range that int64 holds."""
    rounded: NDArray[np.float64] = np.rint(values.astype(np.float64) * factor)
    return rounded.clip(-4 * RESIDUAL_LIMIT, 4 * RESIDUAL_LIMIT).astype(np.int64)


def _clamp8(values: Array) -> NDArray[np.int8]:
    clamped: NDArray[np.int8] = values.clip(-128, 127).astype(np.int8)
    return clamped


def _on_residual(values: Array) -> NDArray[np.int32]:
    clamped: NDArray[np.int32] = values.clip(-RESIDUAL_LIMIT, RESIDUAL_LIMIT).astype(np.int32)
    return clamped


@dataclass(frozen=True, kw_only=True)
class Embed(Operation):
    """The residual stream from a map of patches."""

    kind: ClassVar[str] = "embed"
    host: ClassVar[bool] = True

    factor: Factor
    positions: Constant

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, rows, columns = _known(sources[0], "int8", "C", "rows", "columns")
        given = tables.constants.get(self.positions)
        # A class token is one more.
        T = rows * columns + (given is not None and given.shape == (C, rows * columns + 1))
        positions = read_constant(tables, "positions", self.positions, "int32", (C, T))
        furthest = int(np.abs(positions.astype(np.int64)).max())
        if furthest > RESIDUAL_LIMIT:
            raise NetworkError(f"positions must be within {RESIDUAL_LIMIT}, not {furthest}")
        return Value("int32", (C, T))

    def compute(self, tables: Tables, *values: Array) -> Array:
        positions = tables.constants[self.positions].astype(np.int64)
        batch, C, rows, columns = values[0].shape
        pixels = _scaled(values[0].reshape(batch, C, rows * columns), self.factor)
        found = np.repeat(positions[None], len(pixels), axis=0)
        found[:, :, positions.shape[1] - pixels.shape[2] :] += pixels
        return _on_residual(found)


@dataclass(frozen=True, kw_only=True)
class Residual(Operation):
    """Add int8 to the residual stream."""

    kind: ClassVar[str] = "residual"
    reads: ClassVar[int] = 2
    host: ClassVar[bool] = True

    factor: Factor

    def result(self, tables: Tables, *sources: Value) -> Value:
        stream, values = sources
        _known(stream, "int32", "C", "T")
        _known(values, "int8", "C", "T")
        if stream.shape != values.shape:
            raise NetworkError(f"both values must have one shape, not {stream} and {values}")
        return stream

    def compute(self, tables: Tables, *values: Array) -> Array:
        return _on_residual(values[0] + _scaled(values[1], self.factor))


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Operation):
    """Normalise each token of the residual stream."""

    kind: ClassVar[str] = "layernorm"
    host: ClassVar[bool] = True

    gain: Constant
    offset: Constant
    epsilon: Factor
    limit: Annotated[int, Whole(1, RESIDUAL_LIMIT)]

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, T = _known(sources[0], "int32", "C", "T")
        if C > _MAX_CHANNELS:
            raise NetworkError(f"it must read at most {_MAX_CHANNELS} channels, not {C}")
        for name in ("gain", "offset"):
            read_constant(tables, name, getattr(self, name), "float64", (C,))
        return Value("int8" if self.limit == 127 else "int32", (C, T))

    def compute(self, tables: Tables, *values: Array) -> Array:
        stream = values[0].astype(np.int64)
        C, total = stream.shape[1], stream.sum(axis=1, keepdims=True)
        spread = C * (stream * stream).sum(axis=1, keepdims=True) - total * total
        root = np.sqrt(spread.astype(np.float64) + C * C * float(self.epsilon))
        normal = (C * stream - total).astype(np.float64) / root
        scaled = normal * tables.constants[self.gain][:, None] + tables.constants[self.offset][:, None]
        dtype = np.int8 if self.limit == 127 else np.int32
        clamped: Array = np.rint(scaled).clip(-self.limit - 1, self.limit).astype(dtype)
        return clamped


@dataclass(frozen=True, kw_only=True)
class Token(Operation):
    """One token of the residual stream."""

    kind: ClassVar[str] = "token"
    host: ClassVar[bool] = True

    number: Annotated[int, Whole(0, _MANY)]

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, T = _known(sources[0], "int32", "C", "T")
        Whole(0, T - 1).read("number", self.number)
        return Value("int32", (C, 1))

    def compute(self, tables: Tables, *values: Array) -> Array:
        return values[0][:, :, self.number, None]


@dataclass(frozen=True, kw_only=True)
class Mean(Operation):
    """The mean of all tokens."""

    kind: ClassVar[str] = "mean"
    host: ClassVar[bool] = True

    factor: Factor

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, _ = _known(sources[0], "int32", "C", "T")
        return Value("int8", (C, 1))

    def compute(self, tables: Tables, *values: Array) -> Array:
        return _clamp8(_scaled(values[0].sum(axis=2, keepdims=True, dtype=np.int64), self.factor))


@dataclass(frozen=True, kw_only=True)
class Split(Operation):
    """Queries, keys or values of all heads."""

    kind: ClassVar[str] = "split"
    host: ClassVar[bool] = True

    part: Annotated[int, Whole(0, _MANY)]
    parts: Annotated[int, Whole(1, _MANY)]
    heads: Annotated[int, Whole(1, _MANY)]
    transposed: Flag

    def check(self) -> None:
        Whole(0, self.parts - 1).read("part", self.part)

    def result(self, tables: Tables, *sources: Value) -> Value:
        channels, T = _known(sources[0], "int8", "C", "T")
        if channels % (self.parts * self.heads):
            raise NetworkError(f"parts x heads must divide {channels} channels, not {self.parts} x {self.heads}")
        C = channels // (self.parts * self.heads)
        return sources[0].of(*((self.heads, T, C) if self.transposed else (self.heads, C, T)))

    def compute(self, tables: Tables, *values: Array) -> Array:
        batch, channels, T = values[0].shape
        C = channels // (self.parts * self.heads)
        found = values[0].reshape(batch, self.parts, self.heads, C, T)[:, self.part].clip(-127, 127)
        return np.ascontiguousarray(found.transpose(0, 1, 3, 2) if self.transposed else found)


@dataclass(frozen=True, kw_only=True)
class Gelu(Operation):
    """GELU, as a table."""

    kind: ClassVar[str] = "gelu"
    host: ClassVar[bool] = True

    table: Constant

    def result(self, tables: Tables, *sources: Value) -> Value:
        read_constant(tables, "table", self.table, "int8", (256,))
        if sources[0].dtype != "int8":
            raise NetworkError(f"it must read int8, not {sources[0]}")
        return Value("int8", sources[0].shape)

    def compute(self, tables: Tables, *values: Array) -> Array:
        found: Array = tables.constants[self.table][values[0].astype(np.int64) + 128]
        return found


@dataclass(frozen=True, kw_only=True)
class Softmax(Operation):
    """The numerators of a softmax over the second axis."""

    kind: ClassVar[str] = "softmax"
    host: ClassVar[bool] = True

    table: Constant

    def result(self, tables: Tables, *sources: Value) -> Value:
        _known(sources[0], "int8", "G", "U", "T")
        table = read_constant(tables, "table", self.table, "int8", (256,))
        if table.min() < 0 or table[0] < 1:
            raise NetworkError(
                f"table must be in 0..127 and begin with at least 1, not {table[0]}.. with a least of {table.min()}"
            )
        return Value("int8", sources[0].shape)

    def compute(self, tables: Tables, *values: Array) -> Array:
        scores = values[0].astype(np.int64)
        found: Array = tables.constants[self.table][scores.max(axis=2, keepdims=True) - scores]
        return found


@dataclass(frozen=True, kw_only=True)
class Normalise(Operation):
    """Divide a product with numerators by their sum, and put the heads beside each other."""

    kind: ClassVar[str] = "normalise"
    reads: ClassVar[int] = 2
    host: ClassVar[bool] = True

    factor: Factor

    def result(self, tables: Tables, *sources: Value) -> Value:
        G, C, T = _known(sources[0], "int32", "G", "C", "T")
        other, _, tokens = _known(sources[1], "int8", "G", "U", "T")
        if (other, tokens) != (G, T):
            raise NetworkError(f"both values must have the same heads and tokens, not {sources[0]} and {sources[1]}")
        return Value("int8", (G * C, T))

    def compute(self, tables: Tables, *values: Array) -> Array:
        products, numerators = values
        total = np.maximum(numerators.sum(axis=2, keepdims=True, dtype=np.int64), 1)
        shares = products.astype(np.float64) * self.factor / total
        batch, G, C, T = products.shape
        return _clamp8(np.rint(shares)).reshape(batch, G * C, T)
