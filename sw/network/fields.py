"""What the fields of operations may be: rules that check a value of a file, and give it the type that code wants."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Annotated, Any, NoReturn

__all__ = [
    "FULL_RANGE",
    "Choice",
    "Constant",
    "Factor",
    "Flag",
    "LayerName",
    "Multiplier",
    "Name",
    "NetworkError",
    "Padding",
    "Range",
    "Rule",
    "Shift",
    "Whole",
    "Wholes",
    "Window",
]

#: Largest extent, kernel, stride or padding.
MAX_GEOMETRY = 65535
#: All of int8.
FULL_RANGE = (-128, 127)


class NetworkError(ValueError):
    """A network that cannot be. The message names the operation, the value and what is allowed.

    Parameters
    ----------
    text
        What is wrong.
    place
        Where: an operation, a constant, a file. The message begins with it.
    """

    def __init__(self, text: str, place: str = "") -> None:
        super().__init__(f"{place}: {text}" if place else text)
        self.text = text


class Rule:
    """What a field may be."""

    def read(self, name: str, value: Any) -> Any:
        """A value of a file, or of code, as the operation holds it.

        Raises
        ------
        NetworkError
            The value is not allowed.
        """
        raise NotImplementedError

    def write(self, value: Any) -> Any:
        """The value as JSON can hold it."""
        return list(value) if isinstance(value, tuple) else value

    def refuse(self, name: str, wanted: str, value: Any) -> NoReturn:
        raise NetworkError(f"{name} must be {wanted}, not {value!r}")


@dataclass(frozen=True)
class Whole(Rule):
    """An integer in ``low..high``."""

    low: int
    high: int

    def read(self, name: str, value: Any) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            self.refuse(name, f"an integer in {self.low}..{self.high}", value)
        return value


@dataclass(frozen=True)
class Wholes(Rule):
    """``count`` integers in ``low..high``; with ``or_one``, one number stands for all of them."""

    count: int
    low: int
    high: int
    or_one: bool = False
    ascending: bool = False

    def read(self, name: str, value: Any) -> tuple[int, ...]:
        given = [value] * self.count if self.or_one and type(value) is int else value
        if not isinstance(given, list | tuple) or len(given) != self.count:
            self._refuse(name, value)
        if any(type(x) is not int or not self.low <= x <= self.high for x in given):
            self._refuse(name, value)
        if self.ascending and any(a > b for a, b in pairwise(given)):
            raise NetworkError(f"{name} must ascend, not {list(given)}")
        return tuple(given)

    def _refuse(self, name: str, value: Any) -> NoReturn:
        self.refuse(name, f"{self.count} integers in {self.low}..{self.high}", value)


@dataclass(frozen=True)
class _Positive(Rule):
    def read(self, name: str, value: Any) -> float:
        if type(value) not in (int, float) or not isfinite(value) or value <= 0:
            self.refuse(name, "finite and positive", value)
        number: float = value
        return number


@dataclass(frozen=True)
class _Flag(Rule):
    def read(self, name: str, value: Any) -> bool:
        if type(value) is not bool:
            self.refuse(name, "true or false", value)
        return value


@dataclass(frozen=True)
class _Text(Rule):
    wanted: str

    def read(self, name: str, value: Any) -> str:
        if type(value) is not str or not value:
            self.refuse(name, self.wanted, value)
        return value


@dataclass(frozen=True)
class Choice(Rule):
    """One of some words."""

    words: tuple[str, ...]

    def read(self, name: str, value: Any) -> str:
        if type(value) is not str or value not in self.words:
            self.refuse(name, f"one of {', '.join(self.words)}", value)
        return value


Flag = Annotated[bool, _Flag()]
Factor = Annotated[float, _Positive()]
Name = Annotated[str, _Text("text and not empty")]
LayerName = Annotated[str, _Text("the name of a layer of the file")]
Constant = Annotated[str, _Text("the name of a constant of the file")]
#: Least and greatest int8 of a result.
Range = Annotated[tuple[int, int], Wholes(2, -128, 127, ascending=True)]
#: Rows and columns of a kernel or of a stride, and of the padding on both of their sides.
Window = Annotated[tuple[int, int], Wholes(2, 1, MAX_GEOMETRY, or_one=True)]
Padding = Annotated[tuple[int, int], Wholes(2, 0, MAX_GEOMETRY, or_one=True)]
#: The two parts of a fixed-point factor, ``multiplier / 2**shift``.
Multiplier = Annotated[int, Whole(-(1 << 31), (1 << 31) - 1)]
Shift = Annotated[int, Whole(0, 62)]
