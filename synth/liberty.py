"""Cell libraries: what synthesis needs to know of a Liberty file."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Cell", "ClockGate", "FullAdder", "Latch", "Library", "LibraryError", "load"]


class LibraryError(ValueError):
    """A cell library that cannot be used. The message names the file and what is wrong with it."""


@dataclass
class Cell:
    """One cell of a library.

    Attributes
    ----------
    area
        In the library's unit.
    sequential
        It has a flip-flop, a latch or a state table.
    """

    name: str
    area: float = 0.0
    sequential: bool = False
    flip_flop: bool = False
    dont_use: bool = False
    inputs: list[str] = field(default_factory=list)
    capacitances: dict[str, float] = field(default_factory=dict)  # of inputs, in the library's unit
    outputs: dict[str, str] = field(default_factory=dict)  # pin -> function
    latch: dict[str, str] | None = None  # attributes of the latch group
    clock_gate: str = ""
    clock_gate_pins: dict[str, str] = field(default_factory=dict)  # clock, enable, out, test -> pin


@dataclass(frozen=True)
class FullAdder:
    """A cell that adds three bits. ``inverted_*``: the pin gives the complement."""

    cell: str
    inputs: tuple[str, str, str]
    sum: str
    carry: str
    inverted_sum: bool
    inverted_carry: bool


@dataclass(frozen=True)
class ClockGate:
    """An integrated clock gate; test pins are tied low."""

    cell: str
    clock: str
    enable: str
    out: str
    test: tuple[str, ...]


@dataclass(frozen=True)
class Latch:
    """A latch that is transparent while its enable is high."""

    cell: str
    data: str
    enable: str
    out: str


_TOKEN = re.compile(r"\s*([A-Za-z_]\w*(?:\[\d+\])?|[01]|[!'*&+|^()])")


def _evaluator(function: str) -> Callable[[dict[str, bool]], bool]:
    """A Liberty function as a Python one. Postfix ' and prefix ! bind closest, then ^, then AND, then OR."""
    tokens = [token for token in _TOKEN.findall(function)]
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def atom() -> str:
        token = take()
        if token == "!":
            return f"(not {atom()})"
        if token == "(":
            inner = either()
            if not tokens[position:] or take() != ")":
                raise ValueError(function)
            text = f"({inner})"
        elif token in "01":
            text = str(token == "1")
        elif token[0].isalpha() or token[0] == "_":
            text = f"v[{token!r}]"
        else:
            raise ValueError(function)
        while peek() == "'":
            take()
            text = f"(not {text})"
        return text

    def different() -> str:
        text = atom()
        while peek() == "^":
            take()
            text = f"({text} != {atom()})"
        return text

    def both() -> str:
        text = different()
        while peek() and peek() not in "+|)":
            if peek() in "*&":
                take()
            text = f"({text} and {different()})"
        return text

    def either() -> str:
        text = both()
        while peek() and peek() in "+|":
            take()
            text = f"({text} or {both()})"
        return text

    try:
        expression = either()
    except IndexError:
        raise ValueError(function) from None
    if position != len(tokens):
        raise ValueError(function)
    # Built from the tokens above alone.
    evaluate: Callable[[dict[str, bool]], bool] = eval(f"lambda v: {expression}", {"__builtins__": {}})
    return evaluate


def _truth(function: str, inputs: Sequence[str]) -> tuple[bool, ...] | None:
    """Outputs for all inputs, the first input varying slowest; None for a function that can't be read."""
    try:
        evaluate = _evaluator(function)
        rows = itertools.product((False, True), repeat=len(inputs))
        return tuple(bool(evaluate(dict(zip(inputs, row, strict=True)))) for row in rows)
    except (ValueError, KeyError):
        return None


def _cells(text: str, path: Path) -> Iterator[Cell]:
    """Cells of one Liberty text."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    header = re.compile(r"([A-Za-z_]\w*)\s*\(([^()]*)\)\s*$")
    # Some files leave out the semicolon at the end of a line.
    attribute = re.compile(r'^[ \t]*([A-Za-z_]\w*)[ \t]*:[ \t]*"?([^"\n]*?)"?[ \t]*$', re.MULTILINE)
    stack: list[tuple[str, str, dict[str, str]]] = []
    cell: Cell | None = None
    start = 0
    libraries = 0
    for token in re.finditer(r"[{};]", text):
        kind, segment = token[0], text[start : token.start()]
        start = token.end()
        if kind == "{":
            match = header.search(segment)
            if match is None:
                raise LibraryError(f"{path}: not a Liberty file: no group name before '{{'")
            group, name = match[1], match[2].replace('"', "").strip()
            if not stack and group != "library":
                raise LibraryError(f"{path}: not a Liberty file: the outermost group is {group!r}, not 'library'")
            libraries += not stack
            if stack and len(stack) <= 3:
                stack[-1][2].update(attribute.findall(segment[: match.start()]))
            stack.append((group, name, {}))
            if group == "cell" and len(stack) == 2:
                cell = Cell(name)
        elif kind == ";":
            if stack and len(stack) <= 3:
                stack[-1][2].update(attribute.findall(segment))
        else:
            if not stack:
                raise LibraryError(f"{path}: corrupt Liberty file: a '}}' too many")
            group, name, attributes = stack.pop()
            attributes.update(attribute.findall(segment))
            if cell is None:
                continue
            if len(stack) == 1:
                try:
                    cell.area = float(attributes.get("area", 0))
                except ValueError:
                    raise LibraryError(f"{path}: area of cell {cell.name} is {attributes['area']!r}") from None
                if not (math.isfinite(cell.area) and cell.area >= 0):
                    raise LibraryError(
                        f"{path}: area of cell {cell.name} must be finite and at least 0, not {cell.area}"
                    )
                cell.dont_use = "true" in (attributes.get("dont_use"), attributes.get("is_isolation_cell"))
                cell.clock_gate = attributes.get("clock_gating_integrated_cell", "")
                yield cell
                cell = None
            elif len(stack) == 2 and group == "pin":
                for pin in map(str.strip, name.split(",")):
                    if attributes.get("direction") == "input":
                        cell.inputs.append(pin)
                        with suppress(ValueError):
                            cell.capacitances[pin] = float(attributes.get("capacitance", ""))
                    elif "function" in attributes or "clock_gate_out_pin" in attributes:
                        cell.outputs[pin] = attributes.get("function", "")
                    for role in ("clock", "enable", "out", "test"):
                        if attributes.get(f"clock_gate_{role}_pin") == "true":
                            cell.clock_gate_pins[role] = pin
            elif len(stack) == 2 and group in ("ff", "ff_bank", "latch", "latch_bank", "statetable"):
                cell.sequential = True
                cell.flip_flop |= group == "ff"
                if group == "latch":
                    cell.latch = {**attributes, "state": name}
    if stack:
        raise LibraryError(f"{path}: corrupt Liberty file: group {stack[-1][0]!r} is not closed")
    if not libraries:
        raise LibraryError(f"{path}: not a Liberty file: no library group")


@dataclass(frozen=True)
class Library:
    """A cell library that can be synthesised for.

    Attributes
    ----------
    name
        For reports.
    texts
        The Liberty files, decompressed.
    sha256
        Of the texts.
    area_unit
        ``um2``, or ``NAND2`` for the generic library.
    nand2
        The smallest two-input NAND: the unit of gate equivalents.
    full_adder, clock_gate, latch
        The smallest cell of that kind, None where there is none.
    """

    name: str
    texts: tuple[str, ...]
    sha256: str
    area_unit: str
    cells: dict[str, Cell]
    nand2: Cell
    full_adder: FullAdder | None
    clock_gate: ClockGate | None
    latch: Latch | None


def _full_adder(cell: Cell) -> FullAdder | None:
    if cell.sequential or len(cell.inputs) != 3 or len(cell.outputs) != 2:
        return None
    rows = list(itertools.product((False, True), repeat=3))
    sums, carries = tuple(sum(row) % 2 == 1 for row in rows), tuple(sum(row) > 1 for row in rows)
    found: dict[str, tuple[str, bool]] = {}
    for pin, function in cell.outputs.items():
        truth = _truth(function, cell.inputs)
        for role, wanted in (("sum", sums), ("carry", carries)):
            if truth == wanted:
                found[role] = (pin, False)
            elif truth == tuple(not bit for bit in wanted):
                found[role] = (pin, True)
    if len(found) != 2:
        return None
    a, b, c = cell.inputs
    return FullAdder(cell.name, (a, b, c), found["sum"][0], found["carry"][0], found["sum"][1], found["carry"][1])


def _clock_gate(cell: Cell) -> ClockGate | None:
    pins = cell.clock_gate_pins
    if not cell.clock_gate.startswith("latch_posedge") or not {"clock", "enable", "out"} <= pins.keys():
        return None
    test = tuple(pin for pin in cell.inputs if pin not in (pins["clock"], pins["enable"]))
    return ClockGate(cell.name, pins["clock"], pins["enable"], pins["out"], test)


def _latch(cell: Cell) -> Latch | None:
    if cell.latch is None or len(cell.inputs) != 2 or cell.clock_gate:
        return None
    data, enable = cell.latch.get("data_in", ""), cell.latch.get("enable", "")
    state = cell.latch["state"].split(",")[0].strip()
    out = [pin for pin, function in cell.outputs.items() if function == state]
    return Latch(cell.name, data, enable, out[0]) if {data, enable} == set(cell.inputs) and out else None


def library_from_texts(name: str, texts: Sequence[tuple[Path, str]], area_unit: str = "um2") -> Library:
    """A library from Liberty texts; the paths are for messages.

    Raises
    ------
    LibraryError
        A text is not Liberty or is corrupt, or there is no two-input NAND or no flip-flop in the library.
    """
    cells = {cell.name: cell for path, text in texts for cell in _cells(text, path)}
    offered = sorted((cell for cell in cells.values() if not cell.dont_use), key=lambda c: (c.area, c.name))
    usable = [cell for cell in offered if cell.area > 0]
    where = ", ".join(str(path) for path, _ in texts)
    nand2 = [
        cell
        for cell in offered
        if len(cell.inputs) == 2
        and len(cell.outputs) == 1
        and _truth(next(iter(cell.outputs.values())), cell.inputs) == (True, True, True, False)
    ]
    if not nand2:
        raise LibraryError(f"{where}: no two-input NAND in the library, which is the unit of gate equivalents")
    if nand2[0].area == 0:
        raise LibraryError(f"{where}: area of the two-input NAND {nand2[0].name} must be above 0, not 0")
    if not any(cell.flip_flop for cell in usable):
        raise LibraryError(f"{where}: no flip-flop in the library")
    digest = hashlib.sha256()
    for _, text in texts:
        digest.update(text.encode())
    return Library(
        name,
        tuple(text for _, text in texts),
        digest.hexdigest(),
        area_unit,
        cells,
        nand2[0],
        next(filter(None, map(_full_adder, usable)), None),
        # Clock gates are often marked dont_use, to keep them out of the logic.
        next(filter(None, map(_clock_gate, sorted(cells.values(), key=lambda c: (c.area, c.name)))), None),
        next(filter(None, map(_latch, usable)), None),
    )


def load(paths: Sequence[Path]) -> Library:
    """A library from Liberty files, plain or .gz. Several files are one library.

    Raises
    ------
    LibraryError
        A file cannot be read, or as :func:`library_from_texts`.
    """
    texts = []
    for path in paths:
        try:
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
            texts.append((path, content.decode()))
        except (OSError, EOFError) as error:
            raise LibraryError(
                f"{path}: cannot read the Liberty file: {getattr(error, 'strerror', None) or error}"
            ) from None
        except UnicodeDecodeError:
            raise LibraryError(f"{path}: not a Liberty file: not text") from None
    return library_from_texts(paths[0].name.removesuffix(".gz").removesuffix(".lib"), texts)
