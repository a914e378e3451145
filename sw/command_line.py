"""What the command lines share: the options of an instance, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from hw.config import PRESETS

__all__ = ["add_instance_options", "exit_status"]


def add_instance_options(parser: argparse.ArgumentParser) -> None:
    """``--preset`` and ``--set``."""
    parser.add_argument("--preset", default="ews-cms-16", metavar="NAME", help=f"{', '.join(PRESETS)} (%(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the preset; repeatable"
    )


def exit_status(prog: str, run: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """What a command returns, 0 for None; or with one line on standard error 2 for bad input, and 130 for Ctrl-C.

    ``interrupted`` is what that line says after Ctrl-C.
    """
    try:
        return run() or 0
    except (ValueError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: {interrupted}", file=sys.stderr)
        return 130
