"""Operations on maps, all of the accelerator's.

==============  ======================================================================================================
``input``       int8 image of ``shape``, ``[C, rows, columns]``
``layer``       int8: int32 sums of products, then the layer's requantisation
                (:class:`sw.format.layer.Requantisation`), with bias and batch norm folded in, halves away from zero,
                and clamped to ``range``; of a map, or, linear, of features or tokens
``logits``      int32: sums and bias, all of one scale, so the largest logit is the largest integer
``add``         int8: ``clamp(round((a * m_a + b * m_b) / 2**shift))``, halves away from zero; m_a, m_b below 2**22, so
                that the sum fits int32
``average``     int8: ``clamp(round(sum * multiplier / 2**shift))`` of the sum over rows and columns, or over a window
                with zeros around, halves away from zero
``maximum``     of a window; padding never wins. With ``ceil`` a last window may hang over the end
``pad``         zeros at the top, bottom, left and right
``shortcut``    every ``stride``-th row and column, with channels of zeros ``before`` and ``after``
``flatten``     features ``[C * rows * columns]``
``range``       clamped to ``range``
``table``       int8: ``table[x & 255]``: entries for 0..127, then for -128..-1; of a map, features or tokens
``concatenate`` the channels of two or more maps of equal rows and columns, or of features, in the order of ``in``;
                bytes as they are, so all must have one scale (a ``table`` before it changes a part's)
``slice``       channels ``start`` to ``stop - 1`` of a map or of features; bytes as they are
``crop``        every ``stride``-th row and column of a map without ``margins`` at the top, bottom, left and right
``repeat``      each row and column ``factors`` times, as nearest neighbours do
``pixel_shuffle``    ``[C, rows, columns]`` from ``[C * f * f, rows / f, columns / f]``, as torch has it:
                ``y[c, f * i + a, f * j + b] = x[(c * f + a) * f + b, i, j]``
``pixel_unshuffle``  the reverse
``upsample``    twice the rows and columns. ``mode`` ``nearest``: ``y[i] = x[i // 2]``, bytes as they are. ``zeros``:
                ``y[2 * i] = x[i]``, and 0 elsewhere (what a transposed convolution of stride 2 convolves).
                ``bilinear`` (``align_corners=False``): ``factor`` times the rows and columns, the sum of the two
                nearest rows and columns by :func:`bilinear_weights`, rounded, halves away from zero
``multiply``    int8: ``clamp(round(a * b * multiplier / 2**shift))``, halves away from zero; b of a's shape, or for a
                map ``[C, rows, columns]`` features ``[C]`` or a map ``[C, 1, 1]``: one factor for a channel
==============  ======================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Annotated, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sw.format.layer import CompressedLayer
from sw.golden import layer_sums, output_size, requantise
from sw.network.fields import (
    FULL_RANGE,
    MAX_GEOMETRY,
    Choice,
    Constant,
    Flag,
    LayerName,
    Multiplier,
    NetworkError,
    Padding,
    Range,
    Shift,
    Whole,
    Wholes,
    Window,
)
from sw.network.operation import Array, Operation, Tables, Value, must_read, read_constant, same_shape

__all__ = [
    "ADD_BITS",
    "MAX_BILINEAR",
    "Add",
    "Average",
    "Clamp",
    "Concatenate",
    "Crop",
    "Flatten",
    "Input",
    "Layer",
    "Logits",
    "Maximum",
    "Multiply",
    "Pad",
    "PixelShuffle",
    "PixelUnshuffle",
    "Repeat",
    "Shortcut",
    "Slice",
    "Table",
    "Upsample",
    "bilinear_weights",
    "clamped_divide",
    "pooled_size",
]

#: Largest factor of bilinear upsampling: of larger ones, products of two weights are no int8.
MAX_BILINEAR = 7
#: Multipliers of additions are below 2 to this power.
ADD_BITS = 22
# Values that average pooling may sum up, so that int64 holds the products.
_MAX_AREA = 1 << 24
# Pixels that become one, or one becomes, in a direction.
_MAX_FACTOR = 255
# No value has more channels.
_MAX_CHANNELS = 1 << 28


def pooled_size(extent: int, kernel: int, stride: int, padding: int, *, ceil: bool = False) -> int:
    """Rows or columns that pooling makes of ``extent``.

    With ``ceil`` a last window may hang over the end, if it begins before the end and its padding (as in torch).
    """
    beyond = extent + 2 * padding - kernel
    size = -(-beyond // stride) + 1 if ceil else beyond // stride + 1
    return size - 1 if ceil and (size - 1) * stride >= extent + padding else size


def clamped_divide(values: NDArray[np.int64], shift: int, limits: tuple[int, int]) -> NDArray[np.int8]:
    """``clamp(round(v / 2**shift))``, halves away from zero."""
    half = 1 << shift >> 1
    rounded = np.sign(values) * ((np.abs(values) + half) >> shift)
    clamped: NDArray[np.int8] = rounded.clip(*limits).astype(np.int8)
    return clamped


@dataclass(frozen=True, kw_only=True)
class Input(Operation):
    """The image. Without a ``shape`` it may have any size."""

    kind: ClassVar[str] = "input"
    reads: ClassVar[int] = 0

    shape: Annotated[tuple[int, int, int], Wholes(3, 1, MAX_GEOMETRY)] | None = None

    def result(self, tables: Tables, *sources: Value) -> Value:
        return Value("int8", (None, None, None) if self.shape is None else self.shape)


def _int8(value: Value) -> Value:
    """A value that must be int8, of any shape."""
    if value.dtype != "int8":
        raise NetworkError(f"it must read int8, not {value}")
    return value


def _channelled(value: Value) -> Value:
    """A value that must be an int8 map or features."""
    if value.dtype != "int8" or len(value.shape) not in (1, 3):
        raise NetworkError(f"it must read int8 [C x rows x columns] or [C], not {value}")
    return value


def _layer_value(tables: Tables, name: str, source: Value, dtype: str) -> Value:
    """What a layer makes of a value."""
    layer = tables.layers.get(name)
    if layer is None:
        raise NetworkError(f"layer must be the name of a layer of the file, not {name!r}")
    where = f"layer {name!r}"
    if layer.requantisation is None:
        raise NetworkError(f"{where} must have a requantisation")
    K, C, R, S = layer.shape
    linear, channels = layer.kind == "linear", C * layer.groups
    axes = (1, 2) if linear else (3,)
    if source.dtype != "int8" or len(source.shape) not in axes or source.shape[0] not in (None, channels):
        wanted = f"[{channels}] or [{channels} x T]" if linear else f"[{channels} x rows x columns]"
        raise NetworkError(f"{where} must read int8 {wanted}, not {source}")
    if linear:
        return Value(dtype, (K, *source.shape[1:]))
    _, rows, columns = source.shape
    spans = zip((rows, columns), (R, S), layer.padding, layer.dilation, strict=True)
    if any(x is not None and x + 2 * p < d * (k - 1) + 1 for x, k, p, d in spans):
        raise NetworkError(f"the kernel of {where} must fit into the padded {rows} x {columns} values")
    if rows is None or columns is None:
        return Value(dtype, (K, None, None))
    return Value(dtype, (K, *output_size(layer, rows, columns)))


def _sums(layer: CompressedLayer, values: Array) -> NDArray[np.int32]:
    """Sums of a batch of features, maps or, of a linear layer, tokens."""
    if values.ndim != 3:
        return layer_sums(layer, values)
    return layer_sums(layer, values[:, :, None])[:, :, 0]


@dataclass(frozen=True, kw_only=True)
class Layer(Operation):
    """A convolution or a linear layer, requantised."""

    kind: ClassVar[str] = "layer"
    step: ClassVar[bool] = True

    layer: LayerName
    range: Range = FULL_RANGE

    def result(self, tables: Tables, *sources: Value) -> Value:
        return _layer_value(tables, self.layer, sources[0], "int8")

    def compute(self, tables: Tables, *values: Array) -> Array:
        layer = tables.layers[self.layer]
        assert layer.requantisation is not None
        sums = _sums(layer, values[0])
        # With three axes, requantise takes the first one for the channels.
        wide = sums[:, :, None] if sums.ndim == 3 else sums
        return requantise(wide, layer.requantisation).reshape(sums.shape).clip(*self.range)


@dataclass(frozen=True, kw_only=True)
class Logits(Operation):
    """A layer whose sums are compared: int32, with their bias."""

    kind: ClassVar[str] = "logits"
    step: ClassVar[bool] = True

    layer: LayerName

    def result(self, tables: Tables, *sources: Value) -> Value:
        found = _layer_value(tables, self.layer, sources[0], "int32")
        layer = tables.layers[self.layer]
        assert layer.requantisation is not None
        if len(layer.scale) > 1 or (layer.requantisation.multiplier != 1).any() or layer.requantisation.shift.any():
            raise NetworkError(f"layer {self.layer!r} must have one scale, multipliers of 1 and shifts of 0")
        return found

    def compute(self, tables: Tables, *values: Array) -> Array:
        layer = tables.layers[self.layer]
        assert layer.requantisation is not None
        sums = _sums(layer, values[0])
        biased: Array = sums + layer.requantisation.bias.reshape(-1, *[1] * (sums.ndim - 2))
        return biased


@dataclass(frozen=True, kw_only=True)
class Add(Operation):
    """A sum of two values of one shape."""

    kind: ClassVar[str] = "add"
    reads: ClassVar[int] = 2

    range: Range = FULL_RANGE
    multipliers: Annotated[tuple[int, int], Wholes(2, 0, (1 << ADD_BITS) - 1)]
    shift: Shift

    def result(self, tables: Tables, *sources: Value) -> Value:
        first, second = map(_int8, sources)
        return Value("int8", same_shape(first, second))

    def compute(self, tables: Tables, *values: Array) -> Array:
        a, b = (x.astype(np.int64) * m for x, m in zip(values, self.multipliers, strict=True))
        return clamped_divide(a + b, self.shift, self.range)


def _pooled(
    source: Value, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], ceil: bool
) -> Value:
    """What pooling makes of a map."""
    C, rows, columns = must_read(source, "int8", "C", "rows", "columns")
    sides = list(zip((rows, columns), kernel, stride, padding, strict=True))
    if any(x is not None and x + 2 * p < k for x, k, _, p in sides):
        raise NetworkError(f"the kernel {list(kernel)} must fit into the padded {rows} x {columns} values")
    return source.of(C, *(None if x is None else pooled_size(x, k, s, p, ceil=ceil) for x, k, s, p in sides))


def _check_window(kernel: tuple[int, int], padding: tuple[int, int]) -> None:
    if kernel[0] * kernel[1] > _MAX_AREA:
        raise NetworkError(f"the kernel must have at most {_MAX_AREA} values, not {kernel[0]} x {kernel[1]}")
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise NetworkError(f"padding must be at most half of the kernel {list(kernel)}, not {list(padding)}")


def _windows(
    values: Array, window: tuple[tuple[int, int], tuple[int, int], tuple[int, int]], fill: int, ceil: bool = False
) -> Array:
    """The windows of maps ``[batch, C, rows, columns]``: ``[batch, C, E, F, kernel rows, kernel columns]``."""
    sides = list(zip(values.shape[2:], *window, strict=True))
    sizes = [pooled_size(*side, ceil=ceil) for side in sides]
    # With ceil the last window may reach beyond the padding; and what no window reaches is left out.
    ends = [max(0, (n - 1) * s + k - p - x) for n, (x, k, s, p) in zip(sizes, sides, strict=True)]
    widths = [(0, 0), (0, 0), *((p, end) for (_, _, _, p), end in zip(sides, ends, strict=True))]
    padded = np.pad(values, widths, constant_values=fill)
    kernel, stride, _ = window
    found: Array = sliding_window_view(padded, kernel, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]
    return found[:, :, : sizes[0], : sizes[1]]


@dataclass(frozen=True, kw_only=True)
class Average(Operation):
    """Average pooling of the whole map, or of windows whose sums count zeros around the map."""

    kind: ClassVar[str] = "average"

    kernel: Window | None = None
    stride: Window | None = None
    padding: Padding | None = None
    range: Range = FULL_RANGE
    multiplier: Multiplier
    shift: Shift

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
        """Kernel, stride and padding; None for the whole map."""
        if self.kernel is None or self.stride is None or self.padding is None:
            return None
        return self.kernel, self.stride, self.padding

    def check(self) -> None:
        if self.window is not None:
            _check_window(self.window[0], self.window[2])
        elif any(part is not None for part in (self.kernel, self.stride, self.padding)):
            raise NetworkError("kernel, stride and padding must be given together")

    def result(self, tables: Tables, *sources: Value) -> Value:
        (source,) = sources
        C, rows, columns = must_read(source, "int8", "C", "rows", "columns")
        if self.window is not None:
            return Value("int8", _pooled(source, *self.window, ceil=False).shape)
        if rows is not None and columns is not None and rows * columns > _MAX_AREA:
            raise NetworkError(f"it must sum at most {_MAX_AREA} values, not {rows} x {columns}")
        return Value("int8", (C, 1, 1))

    def compute(self, tables: Tables, *values: Array) -> Array:
        if self.window is None:
            total = values[0].sum((2, 3), np.int64, keepdims=True)
        else:
            total = _windows(values[0], self.window, 0).sum((4, 5), np.int64)
        return clamped_divide(total * self.multiplier, self.shift, self.range)


@dataclass(frozen=True, kw_only=True)
class Maximum(Operation):
    """Max pooling."""

    kind: ClassVar[str] = "maximum"

    kernel: Window
    stride: Window
    padding: Padding
    ceil: Flag = False

    def check(self) -> None:
        _check_window(self.kernel, self.padding)

    def result(self, tables: Tables, *sources: Value) -> Value:
        return _pooled(sources[0], self.kernel, self.stride, self.padding, self.ceil)

    def compute(self, tables: Tables, *values: Array) -> Array:
        window = self.kernel, self.stride, self.padding
        # Every window holds a value that is not padding, so the least int8 never wins against one.
        found: Array = _windows(values[0], window, -128, self.ceil).max((4, 5))
        return found


@dataclass(frozen=True, kw_only=True)
class Pad(Operation):
    """Zeros around a map: ``padding`` at the top, bottom, left and right."""

    kind: ClassVar[str] = "pad"

    padding: Annotated[tuple[int, int, int, int], Wholes(4, 0, MAX_GEOMETRY)]

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, rows, columns = must_read(sources[0], "int8", "C", "rows", "columns")
        top, bottom, left, right = self.padding
        size = None if rows is None else rows + top + bottom, None if columns is None else columns + left + right
        if any(x is not None and x > MAX_GEOMETRY for x in size):
            raise NetworkError(f"padded rows and columns must be at most {MAX_GEOMETRY}, not {size[0]} x {size[1]}")
        return sources[0].of(C, *size)

    def compute(self, tables: Tables, *values: Array) -> Array:
        top, bottom, left, right = self.padding
        return np.pad(values[0], [(0, 0), (0, 0), (top, bottom), (left, right)])


@dataclass(frozen=True, kw_only=True)
class Shortcut(Operation):
    """The shortcut of a ResNet without weights (He et al. 2016, option A)."""

    kind: ClassVar[str] = "shortcut"

    stride: Annotated[int, Whole(1, MAX_GEOMETRY)]
    before: Annotated[int, Whole(0, MAX_GEOMETRY)]
    after: Annotated[int, Whole(0, MAX_GEOMETRY)]

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, rows, columns = must_read(sources[0], "int8", "C", "rows", "columns")
        size = (None if x is None else -(-x // self.stride) for x in (rows, columns))
        return sources[0].of(None if C is None else C + self.before + self.after, *size)

    def compute(self, tables: Tables, *values: Array) -> Array:
        kept = values[0][:, :, :: self.stride, :: self.stride]
        return np.pad(kept, [(0, 0), (self.before, self.after), (0, 0), (0, 0)])


@dataclass(frozen=True, kw_only=True)
class Flatten(Operation):
    """A map as features."""

    kind: ClassVar[str] = "flatten"

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, rows, columns = must_read(sources[0], "int8", "C", "rows", "columns")
        return sources[0].of(None if C is None or rows is None or columns is None else C * rows * columns)

    def compute(self, tables: Tables, *values: Array) -> Array:
        return values[0].reshape(len(values[0]), prod(values[0].shape[1:]))


@dataclass(frozen=True, kw_only=True)
class Clamp(Operation):
    """A range by itself."""

    kind: ClassVar[str] = "range"

    range: Range

    def result(self, tables: Tables, *sources: Value) -> Value:
        return _int8(sources[0])

    def compute(self, tables: Tables, *values: Array) -> Array:
        return values[0].clip(*self.range)


@dataclass(frozen=True, kw_only=True)
class Table(Operation):
    """Any function of one int8, as the constant ``table``, int8 ``[256]``: ``y = table[x & 255]``.

    Entries 0 to 127 are the results of 0 to 127, entries 128 to 255 those of -128 to -1. Map, features or tokens; the
    shape stays.
    """

    kind: ClassVar[str] = "table"

    table: Constant

    def result(self, tables: Tables, *sources: Value) -> Value:
        read_constant(tables, "table", self.table, "int8", (256,))
        return Value("int8", _int8(sources[0]).shape)

    def compute(self, tables: Tables, *values: Array) -> Array:
        found: Array = tables.constants[self.table][values[0].astype(np.uint8)]
        return found


@dataclass(frozen=True, kw_only=True)
class Concatenate(Operation):
    """Channels of two or more maps of equal rows and columns, or of features, one part behind the other.

    Nothing is rescaled: all parts have one scale. Where a part has another, a :class:`Table` before it changes that.
    A value may be given more than once.
    """

    kind: ClassVar[str] = "concatenate"
    reads: ClassVar[int] = 2
    more: ClassVar[bool] = True

    def result(self, tables: Tables, *sources: Value) -> Value:
        sizes: tuple[int | None, ...] = _channelled(sources[0]).shape[1:]
        channels: int | None = 0
        for source in sources:
            C, *rest = _channelled(source).shape
            if len(rest) != len(sizes) or any(None not in (a, b) and a != b for a, b in zip(rest, sizes, strict=True)):
                shown = " and ".join(value.sizes for value in sources)
                raise NetworkError(f"all values must have the same rows and columns, not {shown}")
            sizes = tuple(b if a is None else a for a, b in zip(rest, sizes, strict=True))
            channels = None if channels is None or C is None else channels + C
        return Value("int8", (channels, *sizes))

    def compute(self, tables: Tables, *values: Array) -> Array:
        return np.concatenate(values, axis=1)


@dataclass(frozen=True, kw_only=True)
class Slice(Operation):
    """Channels ``start`` to ``stop - 1`` of a map or of features."""

    kind: ClassVar[str] = "slice"

    start: Annotated[int, Whole(0, _MAX_CHANNELS)]
    stop: Annotated[int, Whole(1, _MAX_CHANNELS)]

    def check(self) -> None:
        if self.stop <= self.start:
            raise NetworkError(f"stop must be behind start {self.start}, not {self.stop}")

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, *rest = _channelled(sources[0]).shape
        if C is not None and self.stop > C:
            raise NetworkError(f"stop must be at most the {C} channels that it reads, not {self.stop}")
        return sources[0].of(self.stop - self.start, *rest)

    def compute(self, tables: Tables, *values: Array) -> Array:
        return values[0][:, self.start : self.stop]


@dataclass(frozen=True, kw_only=True)
class Crop(Operation):
    """Every ``stride``-th row and column of a map whose ``margins`` (top, bottom, left, right) are left out."""

    kind: ClassVar[str] = "crop"

    margins: Annotated[tuple[int, int, int, int], Wholes(4, 0, MAX_GEOMETRY)]
    stride: Window = (1, 1)

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, *extents = must_read(sources[0], "int8", "C", "rows", "columns")
        sides = list(zip(extents, (self.margins[:2], self.margins[2:]), self.stride, strict=True))
        if any(extent is not None and extent <= sum(side) for extent, side, _ in sides):
            sizes = " x ".join(map(str, extents))
            raise NetworkError(f"margins must leave at least one row and column of {sizes}, not {list(self.margins)}")
        size = (None if extent is None else -(-(extent - sum(side)) // step) for extent, side, step in sides)
        return sources[0].of(C, *size)

    def compute(self, tables: Tables, *values: Array) -> Array:
        (top, bottom, left, right), (rows, columns) = self.margins, values[0].shape[2:]
        return values[0][:, :, top : rows - bottom : self.stride[0], left : columns - right : self.stride[1]]


def _of_whole_size(source: Value, C: int | None, rows: int | None, columns: int | None) -> Value:
    """A map, if it is not too large."""
    if any(x is not None and x > MAX_GEOMETRY for x in (rows, columns)):
        raise NetworkError(f"its rows and columns must be at most {MAX_GEOMETRY}, not {rows} x {columns}")
    return source.of(C, rows, columns)


@dataclass(frozen=True, kw_only=True)
class Repeat(Operation):
    """Each row and each column as often as ``factors`` say (rows, columns): nearest neighbours."""

    kind: ClassVar[str] = "repeat"

    factors: Annotated[tuple[int, int], Wholes(2, 1, _MAX_FACTOR, or_one=True)]

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, *extents = must_read(sources[0], "int8", "C", "rows", "columns")
        size = (
            None if extent is None else factor * extent for extent, factor in zip(extents, self.factors, strict=True)
        )
        return _of_whole_size(sources[0], C, *size)

    def compute(self, tables: Tables, *values: Array) -> Array:
        return values[0].repeat(self.factors[0], axis=2).repeat(self.factors[1], axis=3)


@dataclass(frozen=True, kw_only=True)
class PixelShuffle(Operation):
    """``factor**2`` channels as ``factor`` times as many rows and columns of one (Shi et al. 2016, sub-pixels)."""

    kind: ClassVar[str] = "pixel_shuffle"

    factor: Annotated[int, Whole(1, _MAX_FACTOR)]

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, rows, columns = must_read(sources[0], "int8", "C", "rows", "columns")
        if C is not None and C % self.factor**2:
            raise NetworkError(f"channels must be a multiple of {self.factor} x {self.factor}, not {C}")
        size = (None if extent is None else self.factor * extent for extent in (rows, columns))
        return _of_whole_size(sources[0], None if C is None else C // self.factor**2, *size)

    def compute(self, tables: Tables, *values: Array) -> Array:
        (batch, C, rows, columns), f = values[0].shape, self.factor
        parts = values[0].reshape(batch, C // f**2, f, f, rows, columns).transpose(0, 1, 4, 2, 5, 3)
        return parts.reshape(batch, C // f**2, f * rows, f * columns)


@dataclass(frozen=True, kw_only=True)
class PixelUnshuffle(Operation):
    """The reverse of :class:`PixelShuffle`: the rows and columns of ``factor`` x ``factor`` pixels as channels."""

    kind: ClassVar[str] = "pixel_unshuffle"

    factor: Annotated[int, Whole(1, _MAX_FACTOR)]

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, *extents = must_read(sources[0], "int8", "C", "rows", "columns")
        if any(extent is not None and extent % self.factor for extent in extents):
            sizes = " x ".join(map(str, extents))
            raise NetworkError(f"rows and columns must be multiples of {self.factor}, not {sizes}")
        size = (None if extent is None else extent // self.factor for extent in extents)
        return sources[0].of(None if C is None else C * self.factor**2, *size)

    def compute(self, tables: Tables, *values: Array) -> Array:
        (batch, C, rows, columns), f = values[0].shape, self.factor
        parts = values[0].reshape(batch, C, rows // f, f, columns // f, f).transpose(0, 1, 3, 5, 2, 4)
        return parts.reshape(batch, C * f**2, rows // f, columns // f)


def bilinear_weights(factor: int) -> NDArray[np.int64]:
    """Weights ``[factor, 3]`` of the row before, the row itself and the row behind it in those that become of it.

    Those of torch with ``align_corners=False``: row ``factor * i + p`` lies at ``i + (2 p + 1 - factor) / (2 factor)``.
    All sum to one power or product, ``2 * factor``, or ``factor`` if that is odd.
    """
    away = 2 * np.arange(factor) + 1 - factor
    weights = np.stack([np.maximum(-away, 0), 2 * factor - np.abs(away), np.maximum(away, 0)], 1)
    return weights if factor % 2 == 0 else weights // 2


@dataclass(frozen=True, kw_only=True)
class Upsample(Operation):
    """A map of twice as many rows and columns.

    ``mode`` is ``nearest`` (each value four times), ``zeros`` (each value once, at the top left of four, the others 0)
    or ``bilinear`` (corners not aligned), which may have another ``factor`` than 2: of the map, whose border is
    replicated by one row and column on each side, the sum by :func:`bilinear_weights` in both directions, divided by
    what they add up to, halves away from zero. So a row of ``bilinear`` by 2 is a quarter of one neighbour and three
    quarters of the other, and none beyond the border counts. No result leaves the range of what it reads.
    """

    kind: ClassVar[str] = "upsample"

    mode: Annotated[str, Choice(("nearest", "bilinear", "zeros"))]
    factor: Annotated[int, Whole(2, MAX_BILINEAR)] = 2

    def check(self) -> None:
        if self.mode != "bilinear" and self.factor != 2:
            raise NetworkError(f"factor must be 2 where mode is {self.mode}, not {self.factor}")

    def result(self, tables: Tables, *sources: Value) -> Value:
        C, *extents = must_read(sources[0], "int8", "C", "rows", "columns")
        size = (None if extent is None else self.factor * extent for extent in extents)
        return _of_whole_size(sources[0], C, *size)

    def compute(self, tables: Tables, *values: Array) -> Array:
        if self.mode == "zeros":
            batch, C, rows, columns = values[0].shape
            sparse = np.zeros((batch, C, 2 * rows, 2 * columns), np.int8)
            sparse[:, :, ::2, ::2] = values[0]
            return sparse
        if self.mode == "nearest":
            nearest: Array = values[0].repeat(2, axis=2).repeat(2, axis=3)
            return nearest
        weights, batch = bilinear_weights(self.factor), values[0].shape[:2]
        sums = np.pad(values[0].astype(np.int64), [(0, 0), (0, 0), (1, 1), (1, 1)], mode="edge")
        for _ in range(2):
            # Rows, each of which becomes several; then the columns, which the transposition has made rows.
            parts = [sum(w[t] * sums[:, :, t : sums.shape[2] - 2 + t] for t in range(3)) for w in weights]
            sums = np.stack(parts, 3).reshape(*batch, -1, sums.shape[3]).swapaxes(2, 3)
        whole = int(weights[0].sum()) ** 2
        rounded: Array = (np.sign(sums) * ((2 * np.abs(sums) + whole) // (2 * whole))).astype(np.int8)
        return rounded


@dataclass(frozen=True, kw_only=True)
class Multiply(Operation):
    """A product of two values: ``clamp(round(a * b * multiplier / 2**shift))``, halves away from zero.

    The second has the shape of the first; or the first is a map ``[C, rows, columns]``, and the second, features
    ``[C]`` or a map ``[C, 1, 1]``, has one factor for each of its channels. The clamp is to ``range``.
    """

    kind: ClassVar[str] = "multiply"
    reads: ClassVar[int] = 2

    range: Range = FULL_RANGE
    multiplier: Multiplier
    shift: Shift

    def result(self, tables: Tables, *sources: Value) -> Value:
        first, second = map(_int8, sources)
        if len(first.shape) == 3 and (len(second.shape) == 1 or second.shape[1:] == (1, 1)):
            C = same_shape(first.of(first.shape[0]), second.of(second.shape[0]))
            return Value("int8", (*C, *first.shape[1:]))
        return Value("int8", same_shape(first, second))

    def compute(self, tables: Tables, *values: Array) -> Array:
        first, second = (value.astype(np.int64) for value in values)
        if second.ndim < first.ndim:
            second = second[:, :, None, None]
        return clamped_divide(first * second * self.multiplier, self.shift, self.range)
