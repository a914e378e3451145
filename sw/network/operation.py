"""What an operation of a network is: its fields, its result, its arithmetic and its form in a file, in one class.

A new operation is a class here below :class:`Operation`, in :mod:`sw.network.spatial`, :mod:`sw.network.tokens` or a
module of its own that :mod:`sw.network` imports. It says:

- ``kind``, the name in files, and ``reads``, how many results it reads (with ``more``, or more);
- its fields, each with a rule of :mod:`sw.network.fields`; what has a default may be left out in a file;
- :meth:`Operation.result`, which checks what it reads and gives dtype and shape of what it makes;
- :meth:`Operation.compute`, the arithmetic in numpy, bit for bit, for a batch;
- ``host``, if the accelerator cannot compute it between its own operations.

All else follows: reading, writing, checking, the interpreter, and on torch's devices the same integers by way of numpy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Protocol, get_type_hints

import numpy as np
from numpy.typing import NDArray

from sw.format.layer import CompressedLayer
from sw.network.fields import NetworkError, Rule

__all__ = ["Array", "Operation", "Tables", "Value", "operation_from_dict", "operation_kinds"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """A tensor of a network, for one image.

    Parameters
    ----------
    dtype
        ``int8`` or ``int32``.
    shape
        A map ``[C, rows, columns]``, features ``[C]``, tokens ``[C, T]`` or heads ``[G, C, T]``; None where the
        network does not say.
    scale
        Real value of the integer 1, where it is known.
    """

    dtype: str
    shape: tuple[int | None, ...]
    scale: float | None = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.dtype} [{self.sizes}]"

    @property
    def sizes(self) -> str:
        """The shape as text."""
        return " x ".join("?" if x is None else str(x) for x in self.shape)

    @property
    def known(self) -> tuple[int, ...]:
        """The shape.

        Raises
        ------
        NetworkError
            A part of it is not known.
        """
        found = tuple(x for x in self.shape if x is not None)
        if len(found) < len(self.shape):
            raise NetworkError(f"the network must say the image's size, not {self}")
        return found

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.known) * np.dtype(self.dtype).itemsize

    def of(self, *shape: int | None) -> Value:
        """A value of another shape, else the same."""
        return dataclasses.replace(self, shape=shape)


class Tables(Protocol):
    """What operations name: layers and constants."""

    @property
    def layers(self) -> Mapping[str, CompressedLayer]: ...

    @property
    def constants(self) -> Mapping[str, Array]: ...


_KINDS: dict[str, type[Operation]] = {}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a network.

    Parameters
    ----------
    inputs
        Numbers of the operations whose results it reads.

    Attributes
    ----------
    kind
        What files call it.
    reads
        How many results it reads; at least as many, where ``more``.
    more
        It can read more results than ``reads``.
    host
        The host computes it, so that a network with it runs in steps.
    step
        In a network in steps, the accelerator computes it, as a program of its own.

    Raises
    ------
    NetworkError
        A field is out of range.
    """

    inputs: tuple[int, ...] = ()

    kind: ClassVar[str]
    reads: ClassVar[int] = 1
    more: ClassVar[bool] = False
    host: ClassVar[bool] = False
    step: ClassVar[bool] = False

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "kind" in cls.__dict__:
            _KINDS[cls.kind] = cls

    def __post_init__(self) -> None:
        try:
            for entry in rules(type(self)):
                value = getattr(self, entry.name)
                if value is not None or entry.default is not None:
                    object.__setattr__(self, entry.name, entry.rule.read(entry.name, value))
            self.check()
        except NetworkError as error:
            raise NetworkError(error.text, self.kind) from None

    @property
    def label(self) -> str:
        """What reports call it: the layer that it computes, or its own name, or its kind."""
        return str(getattr(self, "layer", getattr(self, "name", self.kind)))

    def check(self) -> None:
        """Check fields beside each other; each by itself has been checked.

        Raises
        ------
        NetworkError
            They contradict each other.
        """

    @classmethod
    def sources(cls, given: object, number: int) -> tuple[int, ...]:
        """The numbers of what an operation reads that is the ``number``-th of its network.

        Raises
        ------
        NetworkError
            They are others than it can read, or not of operations before it.
        """
        good = isinstance(given, list | tuple) and (len(given) == cls.reads or (cls.more and len(given) > cls.reads))
        if not good or any(type(x) is not int or not 0 <= x < number for x in given):  # type: ignore[attr-defined]
            wanted = f"{cls.reads} or more" if cls.more else str(cls.reads)
            shown = list(given) if isinstance(given, tuple) else given
            raise NetworkError(f"in must be {wanted} numbers of operations before it, 0..{number - 1}, not {shown!r}")
        return tuple(given)  # type: ignore[arg-type]

    def result(self, tables: Tables, *sources: Value) -> Value:
        """What the operation makes.

        Parameters
        ----------
        tables
            What its fields name.
        sources
            What it reads.

        Raises
        ------
        NetworkError
            It cannot read them, or a name is not in the tables.
        """
        raise NotImplementedError

    def compute(self, tables: Tables, *values: Array) -> Array:
        """Its results, exactly: what every other implementation must give, bit for bit.

        Parameters
        ----------
        tables, values
            As for :meth:`result`; of a batch, ``[batch, ...]``.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The operation as JSON can hold it: ``op``, ``in`` and its fields, without those that have their default."""
        found: dict[str, Any] = {"op": self.kind}
        if self.reads:
            found["in"] = list(self.inputs)
        for entry in rules(type(self)):
            value = getattr(self, entry.name)
            if not (entry.optional and value == entry.default):
                found[entry.name] = entry.rule.write(value)
        return found


@dataclass(frozen=True)
class _Entry:
    """A field of an operation."""

    name: str
    rule: Rule
    default: Any
    optional: bool


_RULES: dict[str, tuple[_Entry, ...]] = {}


def rules(kind: type[Operation]) -> tuple[_Entry, ...]:
    """The fields of a kind of operation, in the order of files."""
    if kind.kind in _RULES:
        return _RULES[kind.kind]
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for entry in dataclasses.fields(kind):
        if entry.name != "inputs":
            optional = entry.default is not dataclasses.MISSING
            found.append(_Entry(entry.name, _rule(hints[entry.name]), entry.default, optional))
    _RULES[kind.kind] = tuple(found)
    return _RULES[kind.kind]


def _rule(hint: Any) -> Rule:
    """The rule in the annotation of a field, which may be that of ``Annotated[...] | None``."""
    for part in (*getattr(hint, "__metadata__", ()), *(_metadata(x) for x in getattr(hint, "__args__", ()))):
        if isinstance(part, Rule):
            return part
    raise TypeError(f"no rule in {hint}")


def _metadata(hint: Any) -> Any:
    return next(iter(getattr(hint, "__metadata__", ())), None)


def operation_kinds() -> tuple[str, ...]:
    """The names of all kinds of operations."""
    return tuple(_KINDS)


def operation_from_dict(entry: object, number: int = 0) -> Operation:
    """An operation of a file.

    Parameters
    ----------
    entry
        Any JSON value.
    number
        Its place in the list, for messages; it can read those before it.

    Raises
    ------
    NetworkError
        It is none, or a field is missing, unknown or out of range. The message names the operation.
    """
    place = f"operation {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("op"), str):
        raise NetworkError("must be an object with its name as 'op'", place)
    kind = _KINDS.get(entry["op"])
    if kind is None:
        raise NetworkError(f"op must be one of {', '.join(_KINDS)}, not {entry['op']!r}", place)
    place += f" ({kind.kind})"
    if kind.reads and number == 0:
        raise NetworkError("the first operation, and no other, must be the input", place)
    known = {field.name: field for field in rules(kind)}
    needed = [*(["in"] if kind.reads else []), *(name for name, field in known.items() if not field.optional)]
    for name in needed:
        if name not in entry:
            raise NetworkError(f"field {name!r} is missing", place)
    for name in entry:
        if name not in ("op", *needed, *known):
            raise NetworkError(f"unknown field {name!r}", place)
    try:
        inputs = kind.sources(entry["in"], number) if kind.reads else ()
        fields = {name: field.rule.read(name, entry[name]) for name, field in known.items() if name in entry}
        return kind(inputs=inputs, **fields)
    except NetworkError as error:
        raise NetworkError(error.text, place) from None


def same_shape(first: Value, second: Value) -> tuple[int | None, ...]:
    """What is known of the shape of two values that must have one.

    Raises
    ------
    NetworkError
        They have not.
    """
    if len(first.shape) != len(second.shape) or any(
        a is not None and b is not None and a != b for a, b in zip(first.shape, second.shape, strict=True)
    ):
        raise NetworkError(f"both values must have the same shape, not {first.sizes} and {second.sizes}")
    return tuple(b if a is None else a for a, b in zip(first.shape, second.shape, strict=True))


def must_read(value: Value, dtype: str, *axes: str) -> tuple[int | None, ...]:
    """Shape of a value that must have this dtype and these axes.

    Raises
    ------
    NetworkError
        It has others.
    """
    if value.dtype != dtype or len(value.shape) != len(axes):
        raise NetworkError(f"it must read {dtype} [{' x '.join(axes)}], not {value}")
    return value.shape


def read_constant(tables: Tables, name: str, key: str, dtype: str, shape: Sequence[int]) -> Array:
    """The constant that a field ``name`` names, checked.

    Raises
    ------
    NetworkError
        There is none, or it has another dtype or shape, or is not finite.
    """
    values = tables.constants.get(key)
    if values is None:
        raise NetworkError(f"{name} must be the name of a constant of the file, not {key!r}")
    if values.dtype != dtype or values.shape != tuple(shape):
        raise NetworkError(f"{name} must be {Value(dtype, tuple(shape))}, not {Value(values.dtype.name, values.shape)}")
    if not np.isfinite(values).all():
        raise NetworkError(f"{name} must be finite")
    return values
