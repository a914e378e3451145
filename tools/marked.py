"""Parts of Markdown files that the code writes: between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hw.command_line import Command, Parser, interruptible

__all__ = ["Page", "Part", "row", "write_parts"]

#: The lines of a part.
Part = Callable[[], Iterator[str]]


def row(*cells: object) -> str:
    """A row of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def write_parts(text: str, parts: Mapping[str, Part], file: str) -> str:
    """The text of a file with its marked parts written anew, each from the lines that its function gives.

    Raises
    ------
    ValueError
        A part is missing or marked more than once; the message names ``file``.
    """
    for name, lines in parts.items():
        pattern = re.compile(rf"(<!-- {name}: begin.*?-->\n).*?(<!-- {name}: end -->)", re.DOTALL)
        found = list(pattern.finditer(text))
        if len(found) != 1:
            raise ValueError(f"{file} must have one part {name!r}, not {len(found)}")
        (match,) = found
        text = "".join([text[: match.start()], match[1], "\n".join(lines()), "\n", match[2], text[match.end() :]])
    return text


@dataclass(frozen=True)
class Page:
    """A page with marked parts, and the command that writes them."""

    #: The file.
    path: Path
    #: Gives each part's name and its lines.
    parts: Callable[[], Mapping[str, Part]]

    def render(self, text: str) -> str:
        """The page with its marked parts written anew.

        Raises
        ------
        ValueError
            A part is missing or marked more than once.
        """
        return write_parts(text, self.parts(), self.path.name)

    def command(
        self,
        module: str,
        description: str | None,
        *,
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> Command:
        """The command line of a tool that writes this page, and does something ``before`` that or ``after`` it."""

        @interruptible
        def main(arguments: Sequence[str] | None = None) -> int:
            """The command line. Returns the exit status."""
            Parser(prog=f"python -m {module}", description=description).parse_args(arguments)
            if before is not None:
                before()
            self.path.write_text(self.render(self.path.read_text()))
            print(self.path)
            if after is not None:
                after()
            return 0

        return main
