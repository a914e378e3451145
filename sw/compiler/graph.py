"""What the compiler knows of a network: convolutions and vector operations between tensors on the chip."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hw.control.descriptor import VectorOp
from sw.format.layer import CompressedLayer, Requantisation
from sw.golden import GoldenError, output_size

__all__ = ["PRODUCT", "CompileError", "Convolution", "Graph", "Value", "Vector", "convolution", "trimmed"]


class CompileError(ValueError):
    """A network that an instance cannot run. The message names the layer, what is wrong and what is allowed."""


@dataclass(frozen=True)
class Value:
    """A tensor on the chip: int8, or int32 where ``wide``."""

    name: str
    channels: int
    rows: int
    columns: int
    wide: bool = False


@dataclass(frozen=True)
class Convolution:
    """A convolution or a linear layer."""

    #: For the layer table.
    name: str
    operation: str
    #: Numbers of values.
    source: int
    target: int
    #: ``[K, C, R, S]``; C are all input channels, also of a grouped convolution.
    shape: tuple[int, int, int, int]
    #: (rows, columns).
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    #: int8 ``[K, Cb, R, S]``: of output channel k, those of the Cb input channels from ``first[k]`` on.
    weights: NDArray[np.int8]
    #: int64 ``[K]`` of a banded convolution: grouped, depthwise, or a shortcut. None: Cb = C, and all are 0.
    first: NDArray[np.int64] | None
    #: Where the weights come from; None if from nowhere, or not as they are.
    layer: CompressedLayer | None
    #: Of the sums.
    requantisation: Requantisation
    #: The result is sum + bias, int32.
    wide: bool
    #: Range of the int8 result.
    low: int
    high: int
    #: Useful multiply-accumulates.
    macs: int

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of the values that it reads."""
        return (self.source,)


@dataclass(frozen=True)
class Vector:
    """Pooling, an addition, a range by itself, or what only a vector unit with all functions computes.

    Parameters
    ----------
    name, operation
        For the layer table.
    kind
        What the vector unit computes.
    sources, target
        Numbers of values.
    kernel, stride, padding
        (rows, columns).
    multipliers, shift
        Of the requantisation.
    low, high
        Range of the result; before the table.
    upsample
        0, or as in the descriptor: 1 repeats rows and columns, 2 puts zeros between them. ``padding`` are then rows and
        columns beyond each edge.
    lookup
        The result goes through the table in the last of the sources.
    pieces
        Of a move of channels: of each source the first channel, and the one behind the last.
    start
        The first row and column of the source that count.
    interleave
        0, or the axis (1 rows, 2 columns) in which the sources, all of one size, take turns in the result.
    """

    name: str
    operation: str
    kind: VectorOp
    sources: tuple[int, ...]
    target: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    multipliers: tuple[int, int] = (0, 0)
    shift: int = 0
    low: int = -128
    high: int = 127
    macs: int = 0
    upsample: int = 0
    lookup: bool = False
    pieces: tuple[tuple[int, int], ...] = ()
    start: tuple[int, int] = (0, 0)
    interleave: int = 0

    @property
    def operands(self) -> tuple[int, ...]:
        """Numbers of the values that it computes with."""
        return self.sources[:-1] if self.lookup else self.sources

    @property
    def full(self) -> bool:
        """Only a vector unit with all functions computes it."""
        return self.kind > VectorOp.ADD or bool(self.upsample) or self.lookup or bool(self.interleave)

    def repeats(self, graph: Graph, number: int) -> bool:
        """Whether the one pixel of a source counts for all of the result."""
        areas = [graph.values[x].rows * graph.values[x].columns for x in (number, self.target)]
        return self.kind == VectorOp.MULTIPLY and areas[0] == 1 < areas[1]


@dataclass
class Graph:
    """Values and operations, in an order in which they can run."""

    #: All tensors.
    values: list[Value] = field(default_factory=list)
    #: Each makes one value.
    operations: list[Convolution | Vector] = field(default_factory=list)
    #: Numbers of the values that come from and go to DRAM.
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    #: Of each operation of the network, the number of the value that holds its result, or that of the range or
    #: flattening that follows it.
    results: list[int] = field(default_factory=list)
    #: int8 of the values that come from the program's image.
    constants: dict[int, NDArray[np.int8]] = field(default_factory=dict)

    def add(self, value: Value) -> int:
        """Number of a new value."""
        self.values.append(value)
        return len(self.values) - 1

    def ranges(self) -> list[tuple[int, int]]:
        """Least and greatest integer that each value can hold; int8 for the inputs."""
        found = [(-128, 127)] * len(self.values)
        for operation in self.operations:
            low, high = operation.low, operation.high
            given = [found[source] for source in operation.sources]
            if isinstance(operation, Vector) and operation.lookup:
                table = self.constants[operation.sources[-1]]
                low, high = int(table.min()), int(table.max())
            elif isinstance(operation, Vector) and (operation.kind == VectorOp.MERGE or operation.upsample):
                ends = [*given, (0, 0)] if operation.upsample == 2 else given
                low, high = min(end[0] for end in ends), max(end[1] for end in ends)
            elif isinstance(operation, Vector) and operation.kind == VectorOp.MAXIMUM:
                low, high = min(end[0] for end in given), max(end[1] for end in given)
            elif isinstance(operation, Vector) and min(operation.multipliers) >= 0 and min(given)[0] >= 0:
                low = max(low, min(0, high))
            elif operation.operation == "shortcut":
                low, high = min(0, given[0][0]), max(0, given[0][1])
            found[operation.target] = low, high
        return found

    def readers(self, number: int) -> list[int]:
        """Numbers of the operations that read a value."""
        return [i for i, operation in enumerate(self.operations) if number in operation.sources]


def convolution(
    graph: Graph,
    layer: CompressedLayer,
    source: int,
    *,
    name: str,
    operation: str = "layer",
    wide: bool = False,
    limits: tuple[int, int] = (-128, 127),
    margins: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Convolution:
    """A layer that reads a value; its result is added to the values.

    ``margins`` are zeros beside the layer's own padding: rows before and after the value, columns before and after it.

    Raises
    ------
    CompileError
        The layer does not fit the value.
    """
    value = graph.values[source]
    channels = layer.shape[1] * layer.groups
    area = value.rows * value.columns
    if layer.kind == "linear" and area > 1 and channels == value.channels * area:
        layer = _unflattened(layer, value)
        channels = value.channels
    if channels != value.channels:
        raise CompileError(f"layer {name!r}: its input must have {channels} channels, not {value.channels}")
    try:
        E, F = output_size(layer, value.rows + margins[0] + margins[1], value.columns + margins[2] + margins[3])
    except GoldenError as error:
        raise CompileError(str(error)) from None
    K, C, R, S = layer.shape
    requantisation = layer.requantisation
    if requantisation is None:
        if not wide:
            raise CompileError(f"layer {name!r}: requantisation must exist, not None")
        requantisation = Requantisation(np.zeros(K, np.int32), np.ones(K, np.int32), np.zeros(K, np.uint8))
    target = graph.add(Value(name, K, E, F, wide))
    weights = layer.integer_weights()
    (top, bottom), (left, right) = _edges(weights)
    return Convolution(
        name,
        operation,
        source,
        target,
        (K, channels, R, S),
        layer.stride,
        (layer.padding[0] + margins[0], layer.padding[1] + margins[2]),
        layer.dilation,
        weights,
        None if layer.groups == 1 else np.arange(K) // (K // layer.groups) * C,
        layer,
        requantisation,
        wide,
        *limits,
        macs=K * C * (bottom - top) * (right - left) * E * F,
    )


def _edges(weights: NDArray[np.int8]) -> list[tuple[int, int]]:
    """Kernel rows and columns from the first with a weight to behind the last: ``[(top, bottom), (left, right)]``."""
    edges = []
    for axis in (2, 3):
        found = np.flatnonzero(np.moveaxis(weights, axis, 0).any(axis=(1, 2, 3)))
        edges.append((int(found[0]), int(found[-1]) + 1) if found.size else (0, 1))
    return edges


#: Operation in the layer table of a layer whose weights come with each run.
PRODUCT = "matmul"


def trimmed(convolution: Convolution) -> Convolution:
    """A convolution without the kernel rows and columns at its edges that hold no weight, for raw weights.

    A convolution whose padding is not the same on all sides can be written with such rows; they cost nothing then. The
    padding at the top and left shrinks, and may become negative; that at the other sides follows from the output.
    """
    (top, bottom), (left, right) = _edges(convolution.weights)
    weights = np.ascontiguousarray(convolution.weights[:, :, top:bottom, left:right])
    if weights.shape == convolution.weights.shape:
        return convolution
    padding, dilation = convolution.padding, convolution.dilation
    return dataclasses.replace(
        convolution,
        shape=(*convolution.shape[:2], *weights.shape[2:]),
        padding=(padding[0] - top * dilation[0], padding[1] - left * dilation[1]),
        weights=weights,
        layer=None,
    )


def _unflattened(layer: CompressedLayer, value: Value) -> CompressedLayer:
    """A linear layer behind ``flatten`` as a convolution whose kernel is the whole map."""
    shape = (layer.shape[0], value.channels, value.rows, value.columns)
    weights = None if layer.weights is None else layer.weights.reshape(shape)
    return dataclasses.replace(layer, kind="conv", shape=shape, weights=weights)
