"""Lowering: a network of integer operations as convolutions and vector operations between tensors on the chip.

- ``layer`` and ``logits`` become convolutions; a linear layer is one of 1 x 1. After ``flatten`` of a map of several
  rows or columns, its weights ``[K, C*R*S]`` are those of a convolution whose kernel is the whole map: the canonical
  order of subvectors is the same.
- ``shortcut`` becomes a convolution of 1 x 1 with the identity as raw weights. So does a range without 0, if it cannot
  go into the layer that makes its input.
- ``pad`` goes into the convolutions that read its result, or becomes one of 1 x 1.
- ``add``, ``maximum`` and ``average`` become vector operations. So does a range by itself (a sum over 1 x 1), unless it
  can go into the operation that makes its input.
- ``flatten`` costs nothing.
- ``multiply``, ``table``, ``concatenate``, ``slice`` and ``upsample`` become vector operations of an instance that has
  them (``vector_unit_functions``). A table is a value of 256 channels that comes from the program's image.
- ``crop`` becomes a maximum over 1 x 1 that begins inside the map.
- ``repeat`` becomes vector operations in which the columns, then the rows, of one value take turns with themselves.
- ``pixel_unshuffle`` becomes a convolution of ``factor`` x ``factor`` with one weight of 1 for each channel;
  ``pixel_shuffle`` convolutions of 1 x 1 that have the channels of each place in a pixel, whose columns, then rows,
  take turns.
- ``upsample`` by ``bilinear`` becomes that by ``nearest``, with its border replicated, and a depthwise convolution of
  3 x 3 with the weights ``[1, 2, 1]`` by ``[1, 2, 1]``; by another factor than 2, one of 4 x 4 and stride 2 for each
  place in a pixel, whose columns, then rows, take turns.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, singledispatchmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.control.descriptor import VectorOp
from sw.compiler.graph import CompileError, Convolution, Graph, Value, Vector, convolution
from sw.format.layer import Requantisation
from sw.network import FULL_RANGE, Network, Operation, spatial
from sw.network.spatial import bilinear_weights

__all__ = ["lower"]

# Weights of a convolution that moves values, most of them 0.
_MAX_MOVING = 1 << 22


@dataclass
class _Lowering:
    network: Network
    image_shape: tuple[int, int, int]
    graph: Graph = field(default_factory=Graph)
    names: Counter[str] = field(default_factory=Counter)
    # The operations that only add zeros for convolutions.
    margins: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)

    def name(self, text: str) -> str:
        self.names[text] += 1
        return text if self.names[text] == 1 else self.name(f"{text} ({self.names[text]})")

    def run(self) -> Graph:
        for number, operation in enumerate(self.network.operations):
            if isinstance(operation, spatial.Pad) and number not in self.kept:
                users = [self.network.operations[user] for user in self.users[number]]
                if all(isinstance(user, spatial.Layer | spatial.Logits) for user in users):
                    self.margins[number] = operation.padding
            self.graph.results.append(self.lower(operation, number))
        self.graph.outputs = [self.graph.results[output.value] for output in self.network.outputs]
        for output, value in zip(self.network.outputs, self.graph.outputs, strict=True):
            if value in self.graph.inputs or self.graph.outputs.count(value) > 1:
                raise CompileError(
                    f"output {output.name!r}: it must be a tensor of its own, not the input or another's"
                )
        return self.graph

    @cached_property
    def kept(self) -> set[int]:
        """Operations whose results the network gives."""
        return {output.value for output in self.network.outputs}

    @cached_property
    def users(self) -> list[list[int]]:
        """The operations that read each operation's result, once for each time."""
        found: list[list[int]] = [[] for _ in self.network.operations]
        for number, operation in enumerate(self.network.operations):
            for source in operation.inputs:
                found[source].append(number)
        return found

    def only_reader(self, number: int) -> bool:
        """Whether nothing but this operation needs the tensor that it reads, under whatever name."""
        source = self.graph.results[self.network.operations[number].inputs[0]]
        same = {other for other, value in enumerate(self.graph.results) if value == source}
        return not same & self.kept and all(user in same or user == number for x in same for user in self.users[x])

    @singledispatchmethod
    def lower(self, operation: Operation, number: int) -> int:
        """Number of the value that holds an operation's result."""
        place = f"operation {number} ({operation.kind})"
        if operation.host or operation.step:
            raise CompileError(f"{place}: the host computes a part of this network: compile it in steps")
        raise CompileError(f"{place}: the compiler cannot put it on the accelerator")

    @lower.register
    def _(self, operation: spatial.Input, number: int) -> int:
        C, rows, columns = self.image_shape
        self.graph.inputs.append(self.graph.add(Value(self.name("input"), C, rows, columns)))
        return self.graph.inputs[-1]

    def source(self, operation: Operation) -> tuple[int, Value]:
        """The first value that an operation reads, and its number."""
        number = self.graph.results[operation.inputs[0]]
        return number, self.graph.values[number]

    @lower.register
    def _(self, operation: spatial.Layer | spatial.Logits, number: int) -> int:
        source, _ = self.source(operation)
        layer = self.network.layers[operation.layer]
        self.graph.operations.append(
            convolution(
                self.graph,
                layer,
                source,
                name=self.name(layer.name),
                operation=operation.kind,
                wide=isinstance(operation, spatial.Logits),
                limits=operation.range if isinstance(operation, spatial.Layer) else FULL_RANGE,
                margins=self.margins.get(operation.inputs[0], (0, 0, 0, 0)),
            )
        )
        return self.target

    @property
    def target(self) -> int:
        """The value that the last operation makes."""
        return self.graph.operations[-1].target

    @lower.register
    def _(self, operation: spatial.Shortcut, number: int) -> int:
        source, _ = self.source(operation)
        self.identity("shortcut", source, stride=operation.stride, before=operation.before, after=operation.after)
        return self.target

    @lower.register
    def _(self, operation: spatial.Flatten, number: int) -> int:
        return self.source(operation)[0]

    @lower.register
    def _(self, operation: spatial.Pad, number: int) -> int:
        source, _ = self.source(operation)
        if number in self.margins:
            return source
        self.identity("pad", source, margins=operation.padding)
        return self.target

    @lower.register
    def _(self, operation: spatial.Clamp, number: int) -> int:
        (source, value), (low, high) = self.source(operation), operation.range
        if self.only_reader(number) and self.fold_range(source, low, high):
            return source
        if low <= 0 <= high:
            self.vector(
                "range", VectorOp.SUM, source, (value.rows, value.columns), multipliers=(1, 0), limits=(low, high)
            )
        else:
            self.identity("range", source, limits=(low, high))
        return self.target

    @lower.register
    def _(self, operation: spatial.Average, number: int) -> int:
        source, value = self.source(operation)
        if operation.window is not None:
            window, size = self.window("average pooling", value, operation.window, ceil=False)
        else:
            window, size = dict[str, Any](kernel=(value.rows, value.columns)), (1, 1)
            if max(value.rows, value.columns) > 255:
                text = f"the map must be at most 255 x 255, not {value.rows} x {value.columns}"
                raise CompileError(f"average pooling: {text}")
        self.vector(
            "average", VectorOp.SUM, source, size, multipliers=(operation.multiplier, 0), shift=operation.shift,
            limits=operation.range, **window,
        )  # fmt: skip
        return self.target

    @lower.register
    def _(self, operation: spatial.Maximum, number: int) -> int:
        source, value = self.source(operation)
        given = operation.kernel, operation.stride, operation.padding
        window, size = self.window("max pooling", value, given, ceil=operation.ceil)
        self.vector("maximum", VectorOp.MAXIMUM, source, size, **window)
        return self.target

    def window(
        self, name: str, value: Value, given: tuple[tuple[int, int], tuple[int, int], tuple[int, int]], *, ceil: bool
    ) -> tuple[dict[str, Any], tuple[int, int]]:
        """Kernel, stride and padding of pooling, and rows and columns of its result."""
        window = dict(zip(("kernel", "stride", "padding"), given, strict=True))
        if max(x for pair in given for x in pair) > 255:
            raise CompileError(f"{name}: kernel, stride and padding must be at most 255, not {window}")
        E, F = (spatial.pooled_size(*side, ceil=ceil) for side in zip((value.rows, value.columns), *given, strict=True))
        return window, (E, F)

    @lower.register
    def _(self, operation: spatial.Multiply, number: int) -> int:
        (source, value), other = self.source(operation), self.graph.results[operation.inputs[1]]
        factors = self.graph.values[other]
        if (factors.rows, factors.columns) != (1, 1) or factors.channels != value.channels:
            self.check_alike(operation, number)
        self.vector(
            "multiply", VectorOp.MULTIPLY, source, (value.rows, value.columns), others=(other,),
            multipliers=(operation.multiplier, 0), shift=operation.shift, limits=operation.range,
        )  # fmt: skip
        return self.target

    @lower.register
    def _(self, operation: spatial.Table, number: int) -> int:
        source, value = self.source(operation)
        entries = self.network.constants[operation.table]
        table = self.graph.add(Value(self.name(f"table {operation.table}"), len(entries), 1, 1))
        self.graph.constants[table] = entries
        self.vector(
            "table", VectorOp.SUM, source, (value.rows, value.columns), others=(table,), multipliers=(1, 0), lookup=True
        )
        return self.target

    @lower.register
    def _(self, operation: spatial.Concatenate, number: int) -> int:
        sources = [self.graph.results[x] for x in operation.inputs]
        self.check_alike(operation, number, channels=False)
        pieces = tuple((0, self.graph.values[x].channels) for x in sources)
        self.move("concatenate", sources, pieces)
        return self.target

    @lower.register
    def _(self, operation: spatial.Slice, number: int) -> int:
        source, _ = self.source(operation)
        area = self.area(operation.inputs[0])
        if operation.start % area or operation.stop % area:
            place = f"operation {number} ({operation.kind})"
            raise CompileError(
                f"{place}: start and stop must be multiples of the {area} values of a channel that was flattened, not "
                f"{operation.start} and {operation.stop}: slice the map before it is flattened"
            )
        self.move("slice", [source], ((operation.start // area, operation.stop // area),))
        return self.target

    @lower.register
    def _(self, operation: spatial.Upsample, number: int) -> int:
        source, value = self.source(operation)
        bilinear, f = operation.mode == "bilinear", operation.factor
        size = 2 * value.rows + 2 * bilinear, 2 * value.columns + 2 * bilinear
        self.vector(
            "upsample", VectorOp.SUM, source, size, multipliers=(1, 0), padding=(int(bilinear),) * 2,
            upsample=2 if operation.mode == "zeros" else 1,
        )  # fmt: skip
        if bilinear and f == 2:
            self.blur(self.target)
        elif bilinear:
            # Each value twice, and the border once more: four of them are the neighbours and, twice, the value.
            repeated, weights = self.target, bilinear_weights(f)[:, [0, 1, 1, 2]] * [1, 1, 0, 1]
            whole, size, channels = int(weights[0].sum()) ** 2, (value.rows, value.columns), np.arange(value.channels)

            def part(a: int, b: int) -> int:
                kernel = np.outer(weights[a], weights[b]).astype(np.int8)
                kernels = np.broadcast_to(kernel, (value.channels, 1, 4, 4)).copy()
                return self.gather("bilinear", repeated, channels, kernels, (2, 2), size=size, divisor=whole)

            return self.places("bilinear", repeated, f, part)
        return self.target

    @lower.register
    def _(self, operation: spatial.Crop, number: int) -> int:
        source, value = self.source(operation)
        (top, bottom, left, right), stride = operation.margins, operation.stride
        if max(stride) > 255:
            raise CompileError(f"operation {number} (crop): stride must be at most 255, not {list(stride)}")
        size = -(-(value.rows - top - bottom) // stride[0]), -(-(value.columns - left - right) // stride[1])
        self.vector("crop", VectorOp.MAXIMUM, source, size, stride=stride, start=(top, left))
        return self.target

    @lower.register
    def _(self, operation: spatial.Repeat, number: int) -> int:
        source, _ = self.source(operation)
        rows, columns = operation.factors
        return self.turns("repeat", source, [self.turns("repeat", source, [source] * columns, 2)] * rows, 1)

    @lower.register
    def _(self, operation: spatial.PixelShuffle, number: int) -> int:
        source, value = self.source(operation)
        f = operation.factor

        def part(a: int, b: int) -> int:
            first = a * f + b
            # One channel is cut out; every so many of several are gathered.
            if value.channels == f**2:
                return self.move("pixel shuffle", [source], ((first, first + 1),))
            return self.gather("pixel shuffle", source, np.arange(first, value.channels, f**2))

        return self.places("pixel shuffle", source, f, part)

    @lower.register
    def _(self, operation: spatial.PixelUnshuffle, number: int) -> int:
        source, value = self.source(operation)
        f = operation.factor
        if value.channels * f**4 > _MAX_MOVING:
            raise CompileError(
                f"operation {number} (pixel_unshuffle): channels x factor**4, the weights of the convolution that it "
                f"becomes, must be at most {_MAX_MOVING}, not {value.channels} x {f}**4: take a smaller factor"
            )
        places = np.arange(f**2).reshape(1, 1, f, f) == (np.arange(value.channels * f**2) % f**2).reshape(-1, 1, 1, 1)
        size = value.rows // f, value.columns // f
        channels = np.arange(value.channels * f**2) // f**2
        return self.gather("pixel unshuffle", source, channels, places.astype(np.int8), (f, f), size=size)

    def places(self, operation: str, source: int, factor: int, part: Callable[[int, int], int]) -> int:
        """A map each of whose pixels by ``factor`` x ``factor`` is made of those of ``part(row, column)``."""
        lines = [self.turns(operation, source, [part(a, b) for b in range(factor)], 2) for a in range(factor)]
        return self.turns(operation, source, lines, 1)

    def turns(self, operation: str, source: int, sources: list[int], axis: int) -> int:
        """A map whose rows (axis 1) or columns (axis 2) are those of several, which take turns; all from ``source``."""
        if len(sources) == 1:
            return sources[0]
        value = self.graph.values[sources[0]]
        size = value.rows * (len(sources) if axis == 1 else 1), value.columns * (len(sources) if axis == 2 else 1)
        name = self.name(f"{operation} {self.graph.values[source].name}")
        target = self.graph.add(Value(name, value.channels, *size))
        self.graph.operations.append(Vector(name, operation, VectorOp.MAXIMUM, tuple(sources), target, interleave=axis))
        return target

    def area(self, number: int) -> int:
        """Values of a channel that the result of an operation has in one, because it was flattened."""
        shape = self.network.values[number].shape
        value = self.graph.values[self.graph.results[number]]
        return value.rows * value.columns if len(shape) == 1 else 1

    def check_alike(self, operation: Operation, number: int, *, channels: bool = True) -> None:
        """Check that what an operation reads lies in L2 in one way: maps that were flattened may not."""
        values = [self.graph.values[self.graph.results[x]] for x in operation.inputs]
        shapes = {(value.channels if channels else 0, value.rows, value.columns) for value in values}
        if len(shapes) > 1:
            raise CompileError(
                f"operation {number} ({operation.kind}): what it reads was flattened from maps of different sizes"
            )

    def move(self, operation: str, sources: list[int], pieces: tuple[tuple[int, int], ...]) -> int:
        """A map of channels of others."""
        value = self.graph.values[sources[0]]
        name = self.name(f"{operation} {value.name}")
        channels = sum(stop - start for start, stop in pieces)
        target = self.graph.add(Value(name, channels, value.rows, value.columns))
        self.graph.operations.append(Vector(name, operation, VectorOp.MERGE, tuple(sources), target, pieces=pieces))
        return target

    def blur(self, source: int) -> None:
        """Sums over 3 x 3 with the weights [1, 2, 1] by [1, 2, 1], divided by 16."""
        value = self.graph.values[source]
        C, name = value.channels, self.name(f"bilinear {value.name}")
        target = self.graph.add(Value(name, C, value.rows - 2, value.columns - 2))
        binomial = np.outer([1, 2, 1], [1, 2, 1]).astype(np.int8)
        self.graph.operations.append(
            Convolution(
                name,
                "bilinear",
                source,
                target,
                (C, C, 3, 3),
                (1, 1),
                (0, 0),
                (1, 1),
                np.broadcast_to(binomial, (C, 1, 3, 3)).copy(),
                np.arange(C),
                None,
                Requantisation(np.zeros(C, np.int32), np.ones(C, np.int32), np.full(C, 4, np.uint8)),
                False,
                *FULL_RANGE,
                macs=0,
            )
        )

    @lower.register
    def _(self, operation: spatial.Add, number: int) -> int:
        (source, value), other = self.source(operation), self.graph.results[operation.inputs[1]]
        self.check_alike(operation, number)
        multipliers, shift = operation.multipliers, operation.shift
        if shift > 31:
            # The sum is below 2**30, so nothing is left of it; the vector unit shifts by 31 at most.
            multipliers, shift = (0, 0), 0
        self.vector(
            "add", VectorOp.ADD, source, (value.rows, value.columns), others=(other,), multipliers=multipliers,
            shift=shift, limits=operation.range,
        )  # fmt: skip
        return self.target

    def vector(
        self,
        operation: str,
        kind: VectorOp,
        source: int,
        size: tuple[int, int],
        *,
        others: tuple[int, ...] = (),
        limits: tuple[int, int] = (-128, 127),
        **fields: Any,
    ) -> None:
        low, high = limits
        if not low <= 0 <= high:
            # The vector unit would clamp the padding of the pixels too, which must stay 0: the storer does not.
            self.vector(operation, kind, source, size, others=others, **fields)
            self.identity("range", self.graph.operations[-1].target, limits=limits)
            return
        value = self.graph.values[source]
        name = self.name(f"{operation} {value.name}")
        target = self.graph.add(Value(name, value.channels, *size))
        sources = source, *others
        self.graph.operations.append(Vector(name, operation, kind, sources, target, low=low, high=high, **fields))

    def identity(
        self,
        operation: str,
        source: int,
        *,
        stride: int = 1,
        before: int = 0,
        after: int = 0,
        margins: tuple[int, int, int, int] = (0, 0, 0, 0),
        limits: tuple[int, int] = (-128, 127),
    ) -> None:
        """A convolution of 1 x 1 that moves channels, with zeros before and after channels, rows and columns."""
        value = self.graph.values[source]
        C, K = value.channels, before + value.channels + after
        rows, columns = value.rows + margins[0] + margins[1], value.columns + margins[2] + margins[3]
        reads = np.arange(K) - before
        exists = (reads >= 0) & (reads < C)
        self.gather(
            operation,
            source,
            reads.clip(0, C - 1),
            exists.astype(np.int8).reshape(K, 1, 1, 1),
            (stride, stride),
            size=(-(-rows // stride), -(-columns // stride)),
            padding=(margins[0], margins[2]),
            limits=limits,
        )

    def gather(
        self,
        operation: str,
        source: int,
        channels: NDArray[np.int64],
        weights: NDArray[np.int8] | None = None,
        stride: tuple[int, int] = (1, 1),
        *,
        size: tuple[int, int] | None = None,
        padding: tuple[int, int] = (0, 0),
        limits: tuple[int, int] = (-128, 127),
        divisor: int = 1,
    ) -> int:
        """A convolution each of whose channels reads one of a value, by raw weights ``[K, 1, R, S]``; ones without.

        Sums, below 2**20, are divided by ``divisor``, below 2**9; halves go away from zero.
        """
        # The inverse is not below the exact one, so that halves stay halves; and what it is above never makes one.
        shift = divisor.bit_length() - 1 if divisor & (divisor - 1) == 0 else 30
        multiplier = -(-(1 << shift) // divisor)
        value, K = self.graph.values[source], len(channels)
        weights = np.ones((K, 1, 1, 1), np.int8) if weights is None else weights
        name = self.name(f"{operation} {value.name}")
        target = self.graph.add(Value(name, K, *(size or (value.rows, value.columns))))
        self.graph.operations.append(
            Convolution(
                name,
                operation,
                source,
                target,
                (K, value.channels, *weights.shape[2:]),
                stride,
                padding,
                (1, 1),
                weights,
                channels,
                None,
                Requantisation(np.zeros(K, np.int32), np.full(K, multiplier, np.int32), np.full(K, shift, np.uint8)),
                False,
                *limits,
                macs=0,
            )
        )
        return target

    def fold_range(self, source: int, low: int, high: int) -> bool:
        """Clamp in the operation that makes a value, if it can: two clamps, one after the other, are one."""
        for number, before in enumerate(self.graph.operations):
            if before.target == source:
                ends = [min(max(end, low), high) for end in (before.low, before.high)]
                if isinstance(before, Vector) and (
                    before.kind in (VectorOp.MAXIMUM, VectorOp.MERGE) or before.lookup or not ends[0] <= 0 <= ends[1]
                ):
                    return False
                self.graph.operations[number] = dataclasses.replace(before, low=ends[0], high=ends[1])
                return True
        return False


def lower(network: Network, image_shape: tuple[int, int, int]) -> Graph:
    """A network's operations for an image ``[C, rows, columns]``.

    Raises
    ------
    sw.network.NetworkError
        The operations contradict the image. The message names the first one.
    CompileError
        An operation cannot run on the accelerator. The message names it.
    """
    if network.image_shape not in (None, image_shape):
        given = list(network.image_shape or ())
        raise CompileError(f"the image must be {given}, as the network says, not {list(image_shape)}")
    return _Lowering(network.with_image(image_shape), image_shape).run()
