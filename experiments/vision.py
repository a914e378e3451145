"""What segmentation and detection share: a network compressed by several methods of equal bytes, and distilled.

Each case starts from the float network, whose layers but the first, the depthwise and the last are compressed;
assignments, signs and masks move with the weights that they stand for. Masks are 6:16, as they are best where nothing
was trained sparse before. It learns what the float network gives for random views, no labels. A case's rate is chosen
by runs of :data:`TRIED` of the steps, on images that no run trains with. Every run's file is written at once, so that a
study that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.case import Case
from experiments.common import WEIGHTS, add_machine_options, add_output_option, at_least_one, chosen_device, folder
from sw.command_line import Parser, exit_status
from sw.compress.methods import CompressError, Recipe

if TYPE_CHECKING:
    from experiments.vision_runs import Task

__all__ = ["Study", "cases_of", "load_late"]

#: The share of a final run's steps that a try has.
TRIED = 0.2


@dataclass(frozen=True)
class Study:
    """What is compared."""

    #: Of its module and its results.
    name: str
    #: For the help of its command.
    description: str | None
    #: Of the table.
    cases: Sequence[Case]
    #: Layers that stay at 8 bit, beside the first.
    last: Sequence[str]
    #: Of distillation.
    steps: int
    #: From the options, the device among them.
    task: Callable[[argparse.Namespace], Task]
    #: Adds its own options.
    add_options: Callable[[argparse.ArgumentParser], None]
    #: Name of the score that the table compares, and what the table calls it.
    figure: str
    heading: str
    #: Below the table.
    note: str
    #: Relative ones that every case tries.
    rates: Sequence[float]
    #: Train with batch norms that take their statistics from the batch, and average them over the sample afterwards.
    statistics: bool = False
    #: What the squared errors of the compressed layers' normalised outputs weigh beside the loss: their mean over
    #: layers, each a share of its variance.
    features: float = 0.0
    #: Bits go to the layers where the loss is most by them (:mod:`experiments.vision_bits`); else all have the same.
    allocate: bool = False
    #: Layers may share codebooks, and bits go by their errors (:mod:`experiments.shared_bits`).
    share: bool = False
    #: Rows of the weights have one energy before they are compressed, where a batch norm takes their factors.
    level: bool = False

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command. Returns the exit status: 2 for bad input, with one line on standard error."""
        parser = _parser(self)
        options = parser.parse_args(arguments)
        return exit_status(parser.prog, lambda: _run(self, options))


def load_late(module: str) -> Callable[[argparse.Namespace], Task]:
    """The function ``load`` of a module that is imported only then, with PyTorch, as in
    :func:`experiments.common.run_late`."""

    def load(options: argparse.Namespace) -> Task:
        task: Task = importlib.import_module(module).load(options)
        return task

    return load


def cases_of(size: str, bits: float) -> list[Case]:
    """The four methods at one size, bits a weight, codebooks included."""

    def case(name: str, method: str, d: int, nm: tuple[int, int] = (0, 0)) -> Case:
        return Case(f"{size} {name}", Recipe(method, 2, d, *nm), mean_bits=bits, moving=True)

    return [
        case("SSVQ", "ssvq", 8),
        case("MSVQ", "msvq", 16, (6, 16)),
        case("VQ", "vq", 8),
        case("MVQ", "mvq", 16, (6, 16)),
    ]


def _parser(study: Study) -> argparse.ArgumentParser:
    parser = Parser(prog=f"python -m experiments.{study.name}", description=study.description)
    study.add_options(parser)
    parser.add_argument("--runs", type=folder, default=WEIGHTS / study.name, help="the runs' files (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", help="of final runs (0 1 2)")
    parser.add_argument("--steps", type=at_least_one, default=study.steps, help="of distillation (%(default)s)")
    parser.add_argument(
        "--try-steps", type=at_least_one, metavar="N", help=f"of a run that tries a rate ({TRIED:g} of the others')"
    )
    rates = study.rates
    parser.add_argument("--rates", type=float, nargs="+", default=rates, metavar="LR", help="to try (%(default)s)")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="of the cases, those of one process of several")
    parser.add_argument(
        "--features", type=float, default=study.features, help="weight of the errors of layers' outputs (%(default)s)"
    )
    texts = {
        "allocate": "bits by what each layer's loss is",
        "share": "with --allocate, codebooks that layers may share",
        "level": "rows of weights of one energy",
    }
    for name, text in texts.items():
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=getattr(study, name), help=text)
    parser.add_argument(
        "--together",
        type=at_least_one,
        default=1,
        metavar="N",
        help="runs at a time, on a GPU in one CUDA graph (%(default)s)",
    )
    add_machine_options(parser)
    parser.add_argument("--eager", action="store_true", help="on a GPU, do not replay steps as CUDA graphs")
    parser.add_argument(
        "--images", type=at_least_one, help="use only that many images of each part, to try the command"
    )
    add_output_option(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--report-only", action="store_true", help="make the report of the runs that are there")
    instead.add_argument(
        "--score", type=Path, nargs="+", metavar="FILE", help="score containers on the test images, and do no more"
    )
    return parser


def _run(study: Study, options: argparse.Namespace) -> int:
    # PyTorch takes seconds: --help and bad options must not wait for it.
    number, _, count = options.part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise CompressError(f"--part must be I/N with I in 0..N-1, not {options.part!r}")
    if not 0 <= options.features < math.inf:
        raise CompressError(f"--features must be a finite number of at least 0, not {options.features:g}")
    from experiments.protocol import SEEDS, TRY_SEEDS

    # What is given twice is run, and counts, once.
    options.seeds, options.rates = (list(dict.fromkeys(each)) for each in (options.seeds or SEEDS, options.rates))
    for seed in set(options.seeds) & set(TRY_SEEDS):
        raise CompressError(f"--seeds must not have {seed}, which is of the runs that try rates")
    from experiments.vision_runs import report, run_all, score_files

    # Bits that are not measured are the same for all layers, each with its own codebook: files must not say otherwise.
    options.share &= options.allocate
    options.device = chosen_device(options.device)
    if options.score:
        score_files(study, options)
        return 0
    if not options.report_only:
        run_all(study, options)
    report(study, options)
    return 0
