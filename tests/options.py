"""What the commands beside the tests share: faults, fuzz and mutants."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hw.command_line import Parser


def run_options(parser: Parser, arguments: Sequence[str] | None, jobs: int, *counts: str) -> argparse.Namespace:
    """Read the options of a command, with ``--seed``, ``--jobs`` and ``--publish`` among them.

    Of ``--jobs`` and of the options named ``counts`` there must be at least 1: an error of the parser otherwise.
    """
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--jobs", type=int, default=jobs, help="at a time (%(default)s)")
    parser.add_argument("--publish", action="store_true", help="write the table of docs/verification.md")
    options = parser.parse_args(arguments)
    for name in (*counts, "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"{name} must be at least 1, not {getattr(options, name)}")
    return options
