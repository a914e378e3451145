"""A network in integers: typed operations, the layers and constants that they name, and its reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sw.format.layer import CompressedLayer
from sw.network.fields import NetworkError
from sw.network.operation import Array, Operation, Tables, Value, operation_from_dict
from sw.network.spatial import Input

__all__ = [
    "Network",
    "Output",
    "check_images",
    "check_operations",
    "check_outputs",
    "check_scale",
    "interpret",
    "parse_operations",
]

#: Bounds what a file can make its reader allocate.
_MAX_VALUES = 1 << 28

T = TypeVar("T")
#: The kind of an operation's result, from its number, itself and what it reads.
Result = Callable[[int, Operation, Sequence[Value]], Value]


@dataclass(frozen=True)
class Output:
    """What a network gives.

    Parameters
    ----------
    value
        Number of the operation whose result it is.
    name
        For whoever reads it.
    scale
        Real value of the integer 1, where it is known.

    Raises
    ------
    NetworkError
        A field is out of range.
    """

    value: int
    name: str
    scale: float | None = None

    def __post_init__(self) -> None:
        if type(self.name) is not str or not self.name:
            raise NetworkError(f"name must be text and not empty, not {self.name!r}", "output")
        place = f"output {self.name!r}"
        if type(self.value) is not int or self.value < 1:
            raise NetworkError(f"value must be the number of an operation behind the input, not {self.value!r}", place)
        scale: Any = self.scale
        if scale is not None and (type(scale) not in (int, float) or not isfinite(scale) or scale <= 0):
            raise NetworkError(f"scale must be finite and positive, or None, not {scale!r}", place)


def check_scale(value: object) -> float:
    """The scale of an input.

    Raises
    ------
    NetworkError
        It is not a positive number that float32 holds.
    """
    limits = np.finfo(np.float32)
    if type(value) not in (int, float) or not float(limits.tiny) <= value <= float(limits.max):  # type: ignore[operator]
        raise NetworkError(f"input_scale must be a number in {limits.tiny}..{limits.max}, not {value!r}")
    return float(value)  # type: ignore[arg-type]


def parse_operations(entries: object) -> tuple[Operation, ...]:
    """The operations of a file, each checked by itself.

    Parameters
    ----------
    entries
        Any JSON value.

    Raises
    ------
    NetworkError
        The message names the first operation at fault.
    """
    if not isinstance(entries, list) or not entries:
        raise NetworkError("operations must be a list and not empty")
    return tuple(operation_from_dict(entry, number) for number, entry in enumerate(entries))


def check_outputs(operations: Sequence[Operation], outputs: Sequence[Output]) -> tuple[Output, ...]:
    """The outputs of a network; where none are given, the result of the last operation.

    Raises
    ------
    NetworkError
        There is no such operation, or a name or operation is given twice.
    """
    if not outputs:
        return (Output(len(operations) - 1, operations[-1].label),)
    for output in outputs:
        if output.value >= len(operations):
            place = f"output {output.name!r}"
            raise NetworkError(f"value must be in 1..{len(operations) - 1}, not {output.value}", place)
    for what in ("name", "value"):
        given = [getattr(output, what) for output in outputs]
        for one in given:
            if given.count(one) > 1:
                raise NetworkError(f"each output must have a {what} of its own, not {given.count(one)} times {one!r}")
    return tuple(outputs)


def check_operations(
    operations: Sequence[Operation], outputs: Sequence[Output], tables: Tables, computed: Result | None = None
) -> tuple[Value, ...]:
    """Check that operations can run one after the other.

    Sizes are checked as far as they are known: all of them where the input has a shape; channels in any case.

    Parameters
    ----------
    operations
        The first must be the input, and no other.
    outputs
        What the network gives.
    tables
        Layers and constants.
    computed
        In the place of :meth:`Operation.result` for the operations that have programs of their own in a network in
        steps; None to ask these operations, too.

    Returns
    -------
    tuple
        The result of each operation.

    Raises
    ------
    NetworkError
        The message names the first operation at fault, by its number and kind, and what is allowed.
    """
    values: list[Value] = []
    read = {output.value for output in outputs}
    for number, op in enumerate(operations):
        place = f"operation {number} ({op.kind})"
        if isinstance(op, Input) != (number == 0):
            raise NetworkError("the first operation, and no other, must be the input", place)
        try:
            sources = [values[source] for source in op.sources(op.inputs, number)]
            read.update(op.inputs)
            ask = computed if op.step else None
            value = op.result(tables, *sources) if ask is None else ask(number, op, sources)
        except NetworkError as error:
            raise NetworkError(error.text, place) from None
        if prod(x for x in value.shape if x is not None) > _MAX_VALUES:
            raise NetworkError(f"its result must have at most {_MAX_VALUES} values, not {value}", place)
        values.append(value)
    for number, op in enumerate(operations):
        if number not in read:
            raise NetworkError("a later operation must read its result", f"operation {number} ({op.kind})")
    return tuple(values)


def interpret(
    operations: Sequence[Operation],
    outputs: Sequence[Output],
    images: T,
    compute: Callable[[int, Operation, Sequence[T]], T],
) -> tuple[T, ...]:
    """The outputs of operations that :func:`check_operations` has let pass.

    Parameters
    ----------
    operations, outputs
        The network.
    images
        What the input gives.
    compute
        The result of an operation, from its number, itself and what it reads. No value is kept for longer than needed.
    """
    last = {source: number for number, op in enumerate(operations) for source in op.inputs}
    kept = {output.value for output in outputs}
    values: dict[int, T] = {}
    for number, op in enumerate(operations):
        values[number] = images if isinstance(op, Input) else compute(number, op, [values[x] for x in op.inputs])
        for source in {*op.inputs} - kept:
            if last[source] == number:
                del values[source]
    return tuple(values[output.value] for output in outputs)


def check_images(wanted: Value, images: object) -> None:
    """Check a batch of images, arrays or tensors.

    Parameters
    ----------
    wanted
        What the input takes.
    images
        ``[batch, C, rows, columns]``.

    Raises
    ------
    NetworkError
        They have another dtype or shape.
    """
    shape, dtype = getattr(images, "shape", ()), str(getattr(images, "dtype", type(images).__name__))
    sizes = zip(shape[1:], wanted.shape, strict=False)
    if dtype.removeprefix("torch.") != "int8" or len(shape) != 4 or any(y not in (None, x) for x, y in sizes):
        raise NetworkError(f"images must be int8 [batch x {wanted.sizes}], not {dtype} {list(shape)}")


@dataclass(frozen=True, eq=False)
class Network:
    """A network in integers, for the accelerator alone, or for the accelerator and its host in turn.

    Every value between two operations is a numbered tensor, that of the operation that makes it: int8 with zero point
    0, or int32 in the residual stream of a transformer and in what is compared.

    Parameters
    ----------
    layers
        With requantisation, by name.
    operations
        In an order in which they can run; the first is the input.
    input_scale
        Of the int8 input.
    constants
        Arrays that operations name.
    outputs
        What the network gives; by default the result of the last operation.
    about
        What its file says of it, such as classes, and layers with other weights than the float network's: no part of
        the function, and not what :func:`sw.network.write_network` writes.

    Raises
    ------
    NetworkError
        The operations cannot run on the layers and constants.
    """

    layers: Mapping[str, CompressedLayer]
    operations: tuple[Operation, ...]
    input_scale: float
    constants: Mapping[str, Array] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        check_scale(self.input_scale)
        if not self.operations:
            raise NetworkError("operations must be a list and not empty")
        if len(self.operations) == 1 and isinstance(self.operations[0], Input):
            raise NetworkError("there must be an operation behind the input", "operation 0 (input)")
        object.__setattr__(self, "outputs", check_outputs(self.operations, self.outputs))
        if self.in_steps and self.image_shape is None:
            raise NetworkError("field 'shape' is missing", "operation 0 (input)")
        assert len(self.values) == len(self.operations)

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """The result of each operation, as far as it is known without an image."""
        found = check_operations(self.operations, self.outputs, self)
        return (dataclasses.replace(found[0], scale=self.input_scale), *found[1:])

    @property
    def in_steps(self) -> bool:
        """Whether the host computes a part of it, so that the accelerator runs it in steps."""
        return any(op.host for op in self.operations)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``[C, rows, columns]`` of an image, where the network says it."""
        first = self.operations[0]
        return first.shape if isinstance(first, Input) else None

    @property
    def default_outputs(self) -> bool:
        """Whether it gives the result of its last operation, and no more is said of it."""
        return self.outputs == check_outputs(self.operations, ())

    def with_image(self, shape: tuple[int, int, int]) -> Network:
        """The network for images of a size.

        Raises
        ------
        NetworkError
            An operation cannot run on them, or the network is for images of another size.
        """
        if self.image_shape == shape:
            return self
        if self.image_shape is not None:
            raise NetworkError(f"the image must be {list(self.image_shape)}, as the network says, not {list(shape)}")
        first = operation_from_dict({"op": Input.kind, "shape": list(shape)})
        return dataclasses.replace(self, operations=(first, *self.operations[1:]))

    def quantise(self, images: ArrayLike) -> NDArray[np.int8]:
        """Normalised float images ``[batch, C, rows, columns]`` as int8 inputs: rounded, halves to even.

        Raises
        ------
        NetworkError
            They are no floats, such as pixels, or NaN or infinite.
        """
        values = np.asarray(images)
        if not np.issubdtype(values.dtype, np.floating):
            raise NetworkError(f"images must be normalised floats, not {values.dtype}")
        if not np.isfinite(values).all():
            raise NetworkError("images must be finite, not NaN or infinite")
        integers: NDArray[np.float32] = np.rint(values.astype(np.float32) / np.float32(self.input_scale))
        return integers.clip(-128, 127).astype(np.int8)

    def results(self, images: NDArray[np.int8]) -> tuple[Array, ...]:
        """What the network gives for images, an array ``[batch, ...]`` for each output: its reference, bit for bit.

        Layers are computed by :func:`sw.golden.layer_sums` and :func:`sw.golden.requantise`.

        Parameters
        ----------
        images
            int8 ``[batch, C, rows, columns]``.

        Raises
        ------
        NetworkError
            The images have another dtype or shape, or an operation cannot run on them.
        sw.golden.GoldenError
            Sums do not fit int32.
        """
        check_images(self.values[0], images)
        # All that depends on their size, before any work.
        _ = self.with_image((images.shape[1], images.shape[2], images.shape[3])).values

        def compute(_: int, op: Operation, values: Sequence[Array]) -> Array:
            return op.compute(self, *values)

        return interpret(self.operations, self.outputs, images, compute)

    def run(self, images: NDArray[np.int8]) -> Array:
        """The result of a network with one output: see :meth:`results`.

        Raises
        ------
        NetworkError
            As :meth:`results`; or there are several outputs.
        """
        return single(self.outputs, self.results(images))


def single(outputs: Sequence[Output], found: Sequence[T]) -> T:
    """The result of the only output.

    Raises
    ------
    NetworkError
        There are several.
    """
    if len(found) != 1:
        names = ", ".join(repr(output.name) for output in outputs)
        raise NetworkError(f"the network must have one output for this, not {names}: ask for its results")
    return found[0]


def to_dicts(operations: Sequence[Operation]) -> list[dict[str, Any]]:
    """Operations as JSON can hold them: the reverse of :func:`parse_operations`."""
    return [op.to_dict() for op in operations]
