"""A small GPT: perplexity of compressed language models at two and three bits a weight.

    python -m experiments.gpt float --texts DIRECTORY
    python -m experiments.gpt sparse --texts DIRECTORY
    python -m experiments.gpt cases --texts DIRECTORY --rates 1e-4 3e-4
    python -m experiments.gpt cases --texts DIRECTORY

10.9 M parameters, on the bytes of all ``.txt`` files of a directory. Of each file the first eight tenths train, the
next tenth is held out to choose settings on (when to stop, learning rates), and the last one is the test. Every layer
of the blocks is compressed; the head stays at 8 bit; embeddings, which no decoder reads in the hardware, stay in
floating point, and so do activations: attention with a causal mask is no operation of the integer networks. Weights are
those of the container, read again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.common import add_output_option, at_least_one, run_late
from sw.command_line import Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(prog="python -m experiments.gpt", description=__doc__)
    parser.add_argument("what", choices=("float", "sparse", "cases", "report"))
    parser.add_argument("--texts", type=Path, help="directory of .txt files")
    parser.add_argument("--cases", nargs="+", help="names of the cases to run (all)")
    parser.add_argument("--seeds", type=int, nargs="+", help="0 1 2, and 100 for --rates")
    parser.add_argument("--rates", type=float, nargs="+", help="find each case's own learning rate of these")
    parser.add_argument(
        "--steps", type=at_least_one, help="instead of 3600, 1500 for sparse, 500 for cases, 250 for --rates"
    )
    parser.add_argument("--device", help="cuda if PyTorch sees a GPU, or cpu")
    add_output_option(parser)
    return run_late(parser, arguments, "experiments.language")


if __name__ == "__main__":
    sys.exit(main())
