"""Groups of a Liberty file: all that is in it, for the cells that are asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from synth.liberty import Library, LibraryError

__all__ = ["Group", "LibertyText", "library_groups"]

_TOKEN = re.compile(r'"[^"]*"|[{}();:,]|[^\s{}();:,"]+')
_CELL = re.compile(r'\bcell\s*\(\s*"?([^"()\s]+)"?\s*\)\s*\{')


@dataclass(frozen=True)
class Group:
    """A group: ``kind (arguments) { ... }``."""

    kind: str
    arguments: tuple[str, ...] = ()
    #: Simple ones by name, without quotes, and complex ones with their arguments joined by commas; those of one that is
    #: repeated by semicolons.
    attributes: dict[str, str] = field(default_factory=dict)
    #: What is inside, in order.
    groups: list[Group] = field(default_factory=list)

    def inside(self, kind: str) -> Iterator[Group]:
        """The groups of a kind."""
        return (group for group in self.groups if group.kind == kind)

    def number(self, name: str, default: float = 0.0) -> float:
        """An attribute as a number.

        Raises
        ------
        LibraryError
            It is none.
        """
        text = self.attributes.get(name)
        if text is None:
            return default
        try:
            return float(text)
        except ValueError:
            raise LibraryError(f"{name} of {self.kind} {', '.join(self.arguments)} is no number: {text!r}") from None

    def numbers(self, name: str) -> list[float]:
        """An attribute as a list of numbers; empty without it.

        Raises
        ------
        LibraryError
            One of them is none.
        """
        text = self.attributes.get(name, "")
        try:
            return [float(value) for value in re.split(r"[\s,]+", text) if value]
        except ValueError:
            raise LibraryError(f"{name} of {self.kind} {', '.join(self.arguments)} holds no numbers") from None


def _parse(text: str) -> Group:
    root = Group("")
    stack = [root]
    tokens: list[str] = []

    def statement() -> None:
        if not tokens:
            return
        name, *rest = tokens
        values = [token.strip('"').strip() for token in rest if token not in ("(", ")", ":", ",")]
        if rest and rest[0] == "(":
            before = stack[-1].attributes.get(name)
            stack[-1].attributes[name] = (f"{before};" if before else "") + ",".join(values)
        else:
            stack[-1].attributes[name] = " ".join(values)
        tokens.clear()

    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "{":
            kind, *rest = tokens
            arguments = tuple(t.strip('"').strip() for t in rest if t not in ("(", ")", ","))
            group = Group(kind, arguments)
            stack[-1].groups.append(group)
            stack.append(group)
            tokens.clear()
        elif token == "}":
            statement()
            stack.pop()
        elif token == ";":
            statement()
        else:
            # Some files leave out the semicolon at the end of a line.
            if token == ":" and len(tokens) > 1:
                last = tokens.pop()
                statement()
                tokens.append(last)
            elif tokens and tokens[-1] == ")" and token not in (":", ")", ","):
                statement()
            tokens.append(token)
    statement()
    return root


@dataclass(frozen=True)
class LibertyText:
    """One Liberty file: the library's own attributes and templates, and the cells that were asked for."""

    library: Group
    cells: dict[str, Group]


def _body(text: str, start: int) -> int:
    """Where the group ends whose brace opens before ``start``."""
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return brace.end()
    return len(text)


def library_groups(library: Library, cells: Collection[str]) -> list[LibertyText]:
    """The groups of the library's files, of these cells alone.

    Raises
    ------
    LibraryError
        A cell is in none of the files.
    """
    files = []
    for text in library.texts:
        clean = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).replace("\\\n", " ").replace("\\\r\n", " ")
        found: dict[str, Group] = {}
        outside = []
        position = 0
        for match in _CELL.finditer(clean):
            if match.start() < position:
                continue
            outside.append(clean[position : match.start()])
            position = _body(clean, match.end())
            if match[1] in cells:
                found[match[1]] = _parse(clean[match.start() : position]).groups[0]
        outside.append(clean[position:])
        files.append(LibertyText(_parse("".join(outside)).groups[0], found))
    missing = sorted(set(cells) - {name for file in files for name in file.cells})
    if missing:
        raise LibraryError(f"library {library.name} has no cell {', '.join(missing)}")
    return files
