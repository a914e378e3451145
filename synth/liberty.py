"""Cell libraries: what synthesis needs to know of a Liberty file."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Cell", "ClockGate", "FullAdder", "Latch", "Library", "LibraryError", "load", "truth"]


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


#: Most bytes of all files of a library together, unpacked.
MAX_BYTES = 128 << 20
MAX_CELLS = 100_000
MAX_PINS = 10_000  # of a cell
MAX_INPUTS = 16  # of a function
MAX_FUNCTION = 10_000  # characters
MAX_DEPTH = 100  # of groups in groups

_TOKEN = re.compile(r"[A-Za-z_]\w*(?:\[\d+\])?|[01]|[!'*&+|^()]")
#: How tightly an operator binds; "*" stands for the AND that is not written, too.
_BINDS = {"+": 1, "|": 1, "*": 2, "&": 2, "^": 3}


def truth(function: str, inputs: Sequence[str]) -> tuple[bool, ...] | None:
    """Outputs for all inputs, the first input varying slowest; None for a function that can't be read.

    Postfix ' and prefix ! bind closest, then ^, then AND, then OR. Values are columns of the truth table, a bit for
    each row. More than :data:`MAX_INPUTS` inputs or :data:`MAX_FUNCTION` characters can't be read.
    """
    if len(inputs) > MAX_INPUTS or len(function) > MAX_FUNCTION:
        return None
    rows = 1 << len(inputs)
    every = (1 << rows) - 1
    columns = {"0": 0, "1": every}
    for position, name in enumerate(inputs):
        run = rows >> 1 + position  # so many zeros, then so many ones, and so on
        columns[name] = every // ((1 << 2 * run) - 1) * (((1 << run) - 1) << run)
    values: list[int] = []
    waiting: list[str] = []  # operators and open parentheses

    def apply(binds: int) -> None:
        """Apply the operators that wait and bind at least so tightly."""
        while waiting and _BINDS.get(waiting[-1], 0) >= binds:
            operator, right, left = waiting.pop(), values.pop(), values.pop()
            values.append(left ^ right if operator == "^" else left & right if operator in "*&" else left | right)

    def complement() -> None:
        """Apply the ! before an operand that is complete."""
        while waiting and waiting[-1] == "!":
            waiting.pop()
            values[-1] ^= every

    operand = True  # expected
    for token in _TOKEN.findall(function):
        if not operand:
            if token == "'":
                values[-1] ^= every
                continue
            if token == ")":
                apply(1)
                if not waiting or waiting.pop() != "(":
                    return None
                complement()
                continue
            binary = token if token in _BINDS else "*"
            apply(_BINDS[binary])
            waiting.append(binary)
            operand = True
            if token in _BINDS:
                continue
        if token in "!(":
            waiting.append(token)
        elif token in columns:
            values.append(columns[token])
            complement()
            operand = False
        else:
            return None
    if operand:
        return None
    apply(1)
    if waiting:  # an open parenthesis
        return None
    return tuple(bool(values[0] >> row & 1) for row in range(rows))


def _without_comments(text: str) -> str:
    """The text without what stands between /* and */; a /* that nothing ends is no comment."""
    end = text.rfind("*/") + 2
    return re.sub(r"/\*.*?\*/", "", text[:end], flags=re.DOTALL) + text[end:] if end > 1 else text


def _attributes(segment: str) -> Iterator[tuple[str, str]]:
    """Names and values of the simple attributes of a segment: a line each, as some files leave out the semicolon."""
    for line in segment.split("\n") if ":" in segment else ():
        name, colon, value = line.partition(":")
        name, value = name.strip(" \t"), value.strip(" \t")
        value = value.removeprefix('"').removesuffix('"')
        if colon and '"' not in value and _IDENTIFIER.fullmatch(name):
            yield name, value


def _group(segment: str) -> tuple[str, str, str] | None:
    """What stands before a group, its kind and its name: ``pin (A)``; None if that is not there."""
    head, bracket, name = segment.rstrip().removesuffix(")").rpartition("(")
    if not bracket or not segment.rstrip().endswith(")") or ")" in name:
        return None
    head = head.rstrip()
    # From the end on: a search from the beginning would take the square of a long segment's time.
    start = len(head)
    while start and (head[start - 1].isalnum() or head[start - 1] == "_"):
        start -= 1
    kind = _IDENTIFIER.search(head, start)
    return (head[: kind.start()], kind[0], name.replace('"', "").strip()) if kind else None


_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


def _cells(text: str, path: Path) -> Iterator[Cell]:
    """Cells of one Liberty text."""
    text = _without_comments(text)
    stack: list[tuple[str, str, dict[str, str]]] = []
    cell: Cell | None = None
    start = 0
    libraries = cells = 0
    for token in re.finditer(r"[{}]|;[\s;]*", text):
        kind, segment = token[0], text[start : token.start()]
        start = token.end()
        if kind == "{":
            found = _group(segment)
            if found is None:
                raise LibraryError(f"{path}: not a Liberty file: no group name before '{{'")
            before, group, name = found
            if not stack and group != "library":
                raise LibraryError(f"{path}: not a Liberty file: the outermost group is {group!r}, not 'library'")
            libraries += not stack
            if stack and len(stack) <= 3:
                stack[-1][2].update(_attributes(before))
            if len(stack) == MAX_DEPTH:
                raise LibraryError(f"{path}: corrupt Liberty file: groups lie more than {MAX_DEPTH} deep")
            stack.append((group, name, {}))
            if group == "cell" and len(stack) == 2:
                cells += 1
                if cells > MAX_CELLS:
                    raise LibraryError(f"{path}: the library must have at most {MAX_CELLS} cells")
                cell = Cell(name)
        elif kind[0] == ";":
            if stack and len(stack) <= 3:
                stack[-1][2].update(_attributes(segment))
        else:
            if not stack:
                raise LibraryError(f"{path}: corrupt Liberty file: a '}}' too many")
            group, name, attributes = stack.pop()
            attributes.update(_attributes(segment))
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
                pins = name.split(",", MAX_PINS)
                if len(cell.inputs) + len(cell.outputs) + len(pins) > MAX_PINS:
                    raise LibraryError(f"{path}: cell {cell.name} must have at most {MAX_PINS} pins")
                for pin in map(str.strip, pins):
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
    """A cell library that can be synthesised for."""

    #: For reports.
    name: str
    #: The Liberty files, decompressed.
    texts: tuple[str, ...]
    #: Of the texts.
    sha256: str
    #: ``um2``, or ``NAND2`` for the generic library.
    area_unit: str
    #: By name.
    cells: dict[str, Cell]
    #: The smallest two-input NAND: the unit of gate equivalents.
    nand2: Cell
    #: The smallest cell of that kind, None where there is none.
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
        table = truth(function, cell.inputs)
        for role, wanted in (("sum", sums), ("carry", carries)):
            if table == wanted:
                found[role] = (pin, False)
            elif table == tuple(not bit for bit in wanted):
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
        A text is not Liberty or is corrupt, two of them have the same cell, or there is no two-input NAND or no
        flip-flop in the library.
    """
    cells: dict[str, Cell] = {}
    origin: dict[str, Path] = {}
    for path, text in texts:
        own = {cell.name: cell for cell in _cells(text, path)}
        twice = next((name for name in own if name in cells), None)
        if twice is not None:
            raise LibraryError(
                f"cell {twice} is in {origin[twice]} and in {path}: give a library once, and one corner of it"
            )
        cells |= own
        origin |= dict.fromkeys(own, path)
    offered = sorted((cell for cell in cells.values() if not cell.dont_use), key=lambda c: (c.area, c.name))
    usable = [cell for cell in offered if cell.area > 0]
    where = ", ".join(str(path) for path, _ in texts)
    nand2 = [
        cell
        for cell in offered
        if len(cell.inputs) == 2
        and len(cell.outputs) == 1
        and truth(next(iter(cell.outputs.values())), cell.inputs) == (True, True, True, False)
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
        A file cannot be read, the texts have more than :data:`MAX_BYTES`, or as :func:`library_from_texts`.
    """
    texts: list[tuple[Path, str]] = []
    left = MAX_BYTES
    for path in paths:
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                content = file.read(left + 1)
            left -= len(content)
            if left < 0:
                raise LibraryError(f"{path}: the library must have at most {MAX_BYTES >> 20} MiB, unpacked")
            texts.append((path, content.decode()))
        except (OSError, EOFError, zlib.error) as error:
            raise LibraryError(
                f"{path}: cannot read the Liberty file: {getattr(error, 'strerror', None) or error}"
            ) from None
        except UnicodeDecodeError:
            raise LibraryError(f"{path}: not a Liberty file: not text") from None
    return library_from_texts(paths[0].name.removesuffix(".gz").removesuffix(".lib"), texts)
