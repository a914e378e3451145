"""Commands that refuse what they are given: with one line on standard error, and exit code 2."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import pytest

#: Runs a command with arguments that it must refuse, and gives its line; the fixture ``refused`` is one.
Refused = Callable[[Callable[..., Any], Sequence[str]], str]


def refusals(table: str) -> pytest.MarkDecorator:
    """Parametrises a test by ``arguments`` and ``message``.

    Parameters
    ----------
    table
        A line each: arguments as one types them in a shell, ``->``, and what must be said about them, or a part of it.
    """
    rows = [[part.strip() for part in line.split(" -> ")] for line in table.splitlines() if line.strip()]
    return pytest.mark.parametrize(
        ("arguments", "message"),
        [pytest.param(shlex.split(typed), message, id=typed) for typed, message in rows],
    )
