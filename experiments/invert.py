"""Pictures of all classes, made from a network alone, for :mod:`experiments.fewshot` to learn from.

    python -m experiments.invert efficientnet-lite0 --pictures 1000 -o made.npz

What comes out is an archive: ``images``, uint8 ``[n, 224, 224, 3]``, and ``labels``, the classes they were made for.
How they are made, :mod:`experiments.inversion` says. On a GPU, a thousand take minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.common import add_machine_options, at_least_one, run_late
from experiments.fewshot import NETWORKS
from sw.command_line import Parser

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(prog="python -m experiments.invert", description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--weights", type=Path, help="state dict, if not those of a package")
    parser.add_argument("--pictures", type=at_least_one, default=1000, help="how many (%(default)s)")
    parser.add_argument("--batch", type=at_least_one, default=250, help="pictures made together (%(default)s)")
    parser.add_argument("--eager", action="store_true", help="on a GPU, do not replay steps as CUDA graphs")
    add_machine_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .npz to write")
    return run_late(parser, arguments, "experiments.inversion")


if __name__ == "__main__":
    sys.exit(main())
