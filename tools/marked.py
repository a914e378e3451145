"""Parts of Markdown files that the code writes: between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

__all__ = ["row", "write_parts"]


def row(*cells: object) -> str:
    """A row of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def write_parts(text: str, parts: Mapping[str, Callable[[], Iterator[str]]], file: str) -> str:
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
