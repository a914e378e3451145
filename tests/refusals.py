"""Commands that refuse what they are given: with one line on standard error, and exit code 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

#: Runs a command with arguments that it must refuse, and gives its line; the fixture ``refused`` is one.
Refused = Callable[[Callable[..., Any], Sequence[str]], str]
