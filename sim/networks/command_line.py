"""What the commands about whole networks share: where reports go, and how one is made, written and shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hw.command_line import Parser, writable_folder

__all__ = ["report_parser", "run_report"]


def report_parser(module: str, description: str | None) -> Parser:
    """A parser with ``--output``, the folder of the reports."""
    parser = Parser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/networks"), help="directory of the reports (%(default)s)"
    )
    return parser


def run_report(prog: str, name: str, folder: Path, make: Callable[[], Any], markdown: Callable[[Any], str]) -> int:
    """Make a report, write it as ``name`` into the folder, and show it.

    Returns the exit status: 2, after one line on standard error, where ``make`` raises ValueError or OSError.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from sim.networks.report import write_report

    try:
        writable_folder(folder)
        report = make()
        page = markdown(report)
        write_report(folder, name, report, page)
    except (ValueError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    Console().print(Markdown(page))
    return 0
