"""How far a container of :mod:`experiments.fewshot` is behind its float network, on any labelled images.

    python -m experiments.score efficientnet-lite0 network.msvq --data DIRECTORY --classes FILE --json report.json

DIRECTORY has ``test/CLASS/*``; FILE has the names of the 1,000 classes in their order, one in a line. Both networks see
the same pixels. What one has right and the other wrong tells how sure the difference is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.common import add_machine_options, run_late
from experiments.fewshot import NETWORKS
from sw.command_line import Parser

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(prog="python -m experiments.score", description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("container", type=Path, nargs="+", help="of experiments.fewshot")
    parser.add_argument("--weights", type=Path, help="state dict, if not those of a package")
    parser.add_argument("--data", type=Path, required=True, help="directory with test/CLASS/*, or .npz")
    parser.add_argument("--classes", type=Path, help="names of all classes, one in a line")
    parser.add_argument("--name", default="images", help="of the images, for the report (%(default)s)")
    add_machine_options(parser)
    parser.add_argument("--json", type=Path, help="write the report as JSON")
    return run_late(parser, arguments, "experiments.scoring")


if __name__ == "__main__":
    sys.exit(main())
