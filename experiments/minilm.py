"""MiniLM-L6 on STS-B: rank correlation of a pretrained sentence encoder, compressed without and with tuning.

    python -m experiments.minilm --model DIRECTORY --texts DIRECTORY

``--model`` has ``model.safetensors`` and ``tokenizer.json``; ``--texts`` has ``stsb-en-train.csv`` and the same of
``dev`` and ``test``: two sentences and how alike they are. All linear layers of the encoder are compressed. Its
embeddings, half of all weights, are tables that no layer reads: they stay in floating point, and so do activations,
for the file has layers alone. Weights are those of the container, read again. Tuning (``--steps``) learns the float
network's vectors for sentences of the train part, no scores; rates are chosen on the dev part.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.common import WEIGHTS, add_machine_options, add_output_option, at_least_one, folder, run_late
from sw.command_line import Parser

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(prog="python -m experiments.minilm", description=__doc__)
    parser.add_argument("--model", type=Path, help="directory of model.safetensors and tokenizer.json")
    parser.add_argument("--texts", type=Path, help="directory of stsb-en-{train,dev,test}.csv")
    parser.add_argument("--runs", type=folder, default=WEIGHTS / "minilm", help="the runs' files (%(default)s)")
    parser.add_argument("--cases", nargs="+", help="names of the cases to run (all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,), help="of the runs (%(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="of tuning; 0: none (%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="of tuning, relative to each parameter (%(default)s)")
    parser.add_argument("--pairs", type=at_least_one, help="use only that many pairs of each part, to try the command")
    add_machine_options(parser)
    add_output_option(parser)
    parser.add_argument("--report-only", action="store_true", help="make the report of the runs that are there")
    return run_late(parser, arguments, "experiments.sentences")


if __name__ == "__main__":
    sys.exit(main())
