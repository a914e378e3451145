"""How far containers of :mod:`experiments.fewshot` are behind their float network, on any images.

    python -m experiments.score efficientnet-lite0 network.msvq --data DIRECTORY --classes FILE --json report.json
    python -m experiments.score efficientnet-lite0 one.msvq other.msvq --pictures DIRECTORY --unlike IMAGES PICTURES

With ``--data``, labelled ones: DIRECTORY has ``test/CLASS/*``; FILE has the names of the 1,000 classes in their order,
one in a line. All see the same pixels. What one has right and the other wrong tells how sure the difference is.

With ``--pictures``, any without labels, to choose a file by: the divergence from the float network, and the share of
pictures that both give the same class; each directory for itself, and all pictures together. Copies of pictures of
``--unlike`` are left out: name there what the networks were tuned with, and what the report is made of.
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
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--data", type=Path, help="directory with test/CLASS/*, or .npz")
    images.add_argument("--pictures", type=Path, nargs="+", metavar="DIRECTORY", help="pictures without labels")
    parser.add_argument("--classes", type=Path, help="names of all classes, one in a line")
    parser.add_argument(
        "--unlike",
        type=Path,
        nargs="+",
        default=(),
        metavar="DIRECTORY",
        help="with --pictures, leave copies of these out",
    )
    parser.add_argument("--name", default="images", help="of the images, for the report (%(default)s)")
    add_machine_options(parser)
    parser.add_argument("--json", type=Path, help="write the report as JSON")
    return run_late(parser, arguments, "experiments.scoring")


if __name__ == "__main__":
    sys.exit(main())
