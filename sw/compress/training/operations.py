"""What the operations of an integer network may be: a file's are checked here before anything runs.

The operations and their rules stand in :mod:`sw.compress.training.integer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from sw.compress.methods import CompressError
from sw.format.layer import CompressedLayer
from sw.golden import output_size

__all__ = ["ADD_BITS", "check_input_scale", "check_operations", "pooled_size"]

#: Multipliers of additions are below 2 to this power.
ADD_BITS = 22

# Rows times columns that global average pooling may sum up, so that int64 holds the products.
_MAX_AREA = 1 << 24
_MAX_GEOMETRY = 65535

# Inputs of each kind of operation, its fields, and those that it may leave out.
_KINDS: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "input": (0, (), ("shape",)),
    "layer": (1, ("layer",), ("range",)),
    "logits": (1, ("layer",), ()),
    "add": (2, ("multipliers", "shift"), ("range",)),
    "average": (1, ("multiplier", "shift"), ("range", "kernel", "stride", "padding")),
    "maximum": (1, ("kernel", "stride", "padding"), ("ceil",)),
    "pad": (1, ("padding",), ()),
    "shortcut": (1, ("stride", "before", "after"), ()),
    "flatten": (1, (), ()),
    "range": (1, ("range",), ()),
}

# Channels, rows and columns of a value, or its features; None where the file does not say.
_Shape = tuple[int | None, ...]


def check_operations(operations: object, layers: Mapping[str, CompressedLayer]) -> None:
    """Check that operations can run one after the other on these layers.

    Sizes are checked as far as they are known: all of them where the ``input`` has a ``shape``, ``[C, rows, columns]``;
    channels in any case.

    Parameters
    ----------
    operations
        Of a file: any JSON value.
    layers
        By name.

    Raises
    ------
    CompressError
        The message names the first operation at fault, by its number and kind, and what is allowed.
    """
    if not isinstance(operations, list) or not operations:
        raise CompressError("operations must be a list and not empty")
    shapes: list[_Shape] = []
    read: set[int] = set()
    for number, op in enumerate(operations):
        check = _Check(number, op, len(operations))
        shapes.append(check.shape(check.inputs(shapes), layers))
        read.update(op.get("in", ()))
    for number, op in enumerate(operations[:-1]):
        if number not in read:
            raise CompressError(f"operation {number} ({op['op']}): a later operation must read its result")


def pooled_size(extent: int, kernel: int, stride: int, padding: int, *, ceil: bool = False) -> int:
    """Rows or columns that pooling makes of ``extent``.

    With ``ceil`` a last window may hang over the end, if it begins before the end and its padding (as in torch).
    """
    beyond = extent + 2 * padding - kernel
    size = -(-beyond // stride) + 1 if ceil else beyond // stride + 1
    return size - 1 if ceil and (size - 1) * stride >= extent + padding else size


class _Check:
    """One operation."""

    def __init__(self, number: int, op: object, count: int) -> None:
        self.place = f"operation {number}"
        if not isinstance(op, dict) or not isinstance(op.get("op"), str):
            self.fail("must be an object with its name as 'op'")
        self.op: dict[str, Any] = op
        kind = op["op"]
        if kind not in _KINDS:
            self.fail(f"op must be one of {', '.join(_KINDS)}, not {kind!r}")
        self.kind, self.number = kind, number
        self.place += f" ({kind})"
        self.wanted, needed, free = _KINDS[kind]
        if self.wanted:
            needed = ("in", *needed)
        for name in needed:
            if name not in op:
                self.fail(f"field {name!r} is missing")
        for name in op:
            if name not in ("op", *needed, *free):
                self.fail(f"unknown field {name!r}")
        if (kind == "input") != (number == 0):
            self.fail("the first operation, and no other, must be the input")
        if (kind == "logits") != (number == count - 1):
            self.fail("the last operation, and no other, must be the logits")

    def fail(self, text: str) -> NoReturn:
        raise CompressError(f"{self.place}: {text}")

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.op[name]
        if type(value) is not int or not low <= value <= high:
            self.fail(f"{name} must be an integer in {low}..{high}, not {value!r}")
        return value

    def integers(self, name: str, count: int, low: int, high: int, *, or_one: bool = False) -> list[int]:
        value = self.op[name]
        if or_one and type(value) is int:
            value = [value] * count
        # Before they are written, pairs can be tuples.
        good = isinstance(value, list | tuple) and len(value) == count
        if not good or any(type(x) is not int or not low <= x <= high for x in value):
            self.fail(f"{name} must be {count} integers in {low}..{high}, not {self.op[name]!r}")
        return list(value)

    def inputs(self, shapes: Sequence[_Shape]) -> list[_Shape]:
        """Shapes of what the operation reads."""
        if not self.wanted:
            return []
        numbers = self.op["in"]
        last = self.number - 1
        good = isinstance(numbers, list) and len(numbers) == self.wanted
        if not good or any(type(x) is not int or not 0 <= x <= last for x in numbers):
            self.fail(f"in must be {self.wanted} numbers of operations before it, 0..{last}, not {numbers!r}")
        return [shapes[number] for number in numbers]

    def shape(self, inputs: list[_Shape], layers: Mapping[str, CompressedLayer]) -> _Shape:
        """Shape of the result, after all else is checked."""
        if "range" in self.op:
            low, high = self.integers("range", 2, -128, 127)
            if low > high:
                self.fail(f"range must ascend, not {[low, high]}")
        if self.kind == "input":
            return tuple(self.integers("shape", 3, 1, _MAX_GEOMETRY)) if "shape" in self.op else (None, None, None)
        first = inputs[0]
        if self.kind in ("layer", "logits"):
            return self.layer(first, layers)
        if self.kind == "range":
            return first
        if self.kind == "add":
            self.integers("multipliers", 2, 0, (1 << ADD_BITS) - 1)
            self.integer("shift", 0, 62)
            return self.same(first, inputs[1])
        if len(first) != 3:
            self.fail("it must read rows and columns, not what was flattened")
        C, rows, columns = first
        if self.kind == "flatten":
            return (None if C is None or rows is None or columns is None else C * rows * columns,)
        if self.kind == "average":
            self.integer("multiplier", -(1 << 31), (1 << 31) - 1)
            self.integer("shift", 0, 62)
            window = [name for name in ("kernel", "stride", "padding") if name in self.op]
            if window and len(window) < 3:
                self.fail("kernel, stride and padding must be given together")
            if window:
                return C, *self.windows(rows, columns)
            if rows is not None and columns is not None and rows * columns > _MAX_AREA:
                self.fail(f"it must sum at most {_MAX_AREA} values, not {rows} x {columns}")
            return C, 1, 1
        if self.kind == "maximum":
            if type(self.op.get("ceil", False)) is not bool:
                self.fail(f"ceil must be true or false, not {self.op['ceil']!r}")
            return C, *self.windows(rows, columns)
        if self.kind == "pad":
            top, bottom, left, right = self.integers("padding", 4, 0, _MAX_GEOMETRY)
            size = None if rows is None else rows + top + bottom, None if columns is None else columns + left + right
            if any(x is not None and x > _MAX_GEOMETRY for x in size):
                self.fail(f"padded rows and columns must be at most {_MAX_GEOMETRY}, not {size[0]} x {size[1]}")
            return C, *size
        step, before, after = (
            self.integer(name, low, _MAX_GEOMETRY) for name, low in (("stride", 1), ("before", 0), ("after", 0))
        )
        return (
            None if C is None else C + before + after,
            *(None if x is None else -(-x // step) for x in (rows, columns)),
        )

    def windows(self, rows: int | None, columns: int | None) -> _Shape:
        """Rows and columns of the result of pooling."""
        kernel = self.integers("kernel", 2, 1, _MAX_GEOMETRY, or_one=True)
        stride = self.integers("stride", 2, 1, _MAX_GEOMETRY, or_one=True)
        padding = self.integers("padding", 2, 0, _MAX_GEOMETRY, or_one=True)
        if kernel[0] * kernel[1] > _MAX_AREA:
            self.fail(f"the kernel must have at most {_MAX_AREA} values, not {kernel[0]} x {kernel[1]}")
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            self.fail(f"padding must be at most half of the kernel {kernel}, not {padding}")
        sides = list(zip((rows, columns), kernel, stride, padding, strict=True))
        if any(x is not None and x + 2 * p < k for x, k, _, p in sides):
            self.fail(f"the kernel {kernel} must fit into the padded {rows} x {columns} values")
        ceil = self.op.get("ceil", False)
        return tuple(None if x is None else pooled_size(x, k, s, p, ceil=ceil) for x, k, s, p in sides)

    def same(self, first: _Shape, second: _Shape) -> _Shape:
        """What is known of two values of one shape."""
        if len(first) != len(second) or any(
            a is not None and b is not None and a != b for a, b in zip(first, second, strict=True)
        ):
            self.fail(f"both values must have the same shape, not {_text(first)} and {_text(second)}")
        return tuple(b if a is None else a for a, b in zip(first, second, strict=True))

    def layer(self, given: _Shape, layers: Mapping[str, CompressedLayer]) -> _Shape:
        name = self.op["layer"]
        layer = layers.get(name) if isinstance(name, str) else None
        if layer is None:
            self.fail(f"layer must be the name of a layer of the file, not {name!r}")
        if layer.requantisation is None:
            self.fail(f"layer {name!r} must have a requantisation")
        if self.kind == "logits":
            ones = layer.requantisation.multiplier == 1, layer.requantisation.shift == 0, len(layer.scale) == 1
            if not np.all([np.all(one) for one in ones]):
                self.fail(f"layer {name!r} must have one scale, multipliers of 1 and shifts of 0")
        K, C, R, S = layer.shape
        linear = layer.kind == "linear"
        if linear != (len(given) == 1):
            self.fail(f"layer {name!r} must read {'what was flattened' if linear else 'rows and columns'}")
        channels = C * layer.groups
        if given[0] is not None and given[0] != channels:
            self.fail(f"layer {name!r} must read {channels} channels, not {given[0]}")
        if linear:
            return (K,)
        _, rows, columns = given
        spans = zip((rows, columns), (R, S), layer.padding, layer.dilation, strict=True)
        if any(x is not None and x + 2 * p < d * (k - 1) + 1 for x, k, p, d in spans):
            self.fail(f"the kernel of layer {name!r} must fit into the padded {rows} x {columns} values")
        if rows is None or columns is None:
            return K, None, None
        return K, *output_size(layer, rows, columns)


def _text(shape: _Shape) -> str:
    return " x ".join("?" if x is None else str(x) for x in shape)


def check_input_scale(value: object) -> float:
    """The scale of the input, a positive float32.

    Raises
    ------
    CompressError
        It is another value.
    """
    limits = np.finfo(np.float32)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CompressError(f"input_scale must be a number, not {value!r}")
    if not float(limits.tiny) <= value <= float(limits.max):
        raise CompressError(f"input_scale must be in {limits.tiny}..{limits.max}, not {value!r}")
    return float(value)
