"""ImageNet networks compressed with some hundred images and no labels, into files small enough to keep.

    python -m experiments.fewshot efficientnet-lite0 --images DIRECTORY -o network.msvq --json report.json

Layer by layer first (:mod:`experiments.reconstruction`): codewords by k-means whose weights are the energy of each
input and the gain of each output, then assignments input by input, the error of each handed on to the inputs that are
still to come (as GPTQ does for scalars, Frantar et al., arXiv 2210.17323), on what the compressed layers before give;
the batch norm behind a layer is fitted to the float network's values. Then all layers together learn the float
network's logits (distillation), on random views of the images, of which half are mixed. Assignments and signs move
with the weights that they stand for (:mod:`sw.compress.training.moving`), or assignments stay (``--fixed``), or move
where there are no signs to learn (``--move-plain``). With ``--features`` they learn what blocks hand on, too. All
layers take the same bits a weight, or with ``--allocate`` those whose errors change the output most take more of the
same sum (:mod:`experiments.allocation`). The first layer and the depthwise ones stay at 8 bit.

DIRECTORY holds NNN.jpg, one image of each class, 224 x 224. Of the even classes, those that 10 divides are held out, to
choose settings on; the others tune. With ``--final`` they tune, too. The odd ones are for the report alone. ``--more``
names directories of any other pictures to tune with; layers are reconstructed on the images and ``--more-views`` of
those, of each directory as many. ``--small`` names an archive of small ones, such as Tiny-ImageNet's, that are
enlarged, one or four to a view. Any that may be copies of images of the report are left out. ``--made`` names pictures
of all classes that the network itself has made (:mod:`experiments.invert`). The images, each directory of ``--more``,
the small and the made ones are an equal part of each batch, however many they are. ``--judge`` names a directory of
still others, which none of the rest may be copies of: the divergence on a thousand tells more of settings than that on
a hundred images held out.

With ``--held-out``, each ``--try`` names what one more distillation has otherwise, from the same reconstructed layers,
which take longer than a short one; the container is that of the smallest divergence, of ``--judge`` if there are such
pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.common import add_machine_options, at_least_one, run_late
from sw.command_line import Parser

__all__ = ["METHODS", "NETWORKS", "main"]

NETWORKS = ("efficientnet-lite0", "mobilenetv2")

METHODS = ("ssvq", "vq")


def _none(text: str) -> None:
    if text != "none":
        raise ValueError


#: What ``--try`` can change: what reconstructed layers do not depend on.
TRIED: dict[str, Callable[[str], Any]] = {
    "steps": at_least_one,
    "lr": float,
    "batch": at_least_one,
    "mix": float,
    "features": float,
    "small": _none,
    "made": _none,
}


def _changes(text: str) -> dict[str, Any]:
    """The type of ``--try``."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        changes = {name: TRIED[name](value) for name, value in pairs}
        if len(changes) < len(pairs):
            raise ValueError
        return changes
    except (KeyError, ValueError, argparse.ArgumentTypeError):
        names = ", ".join(name for name in TRIED if TRIED[name] is not _none)
        raise argparse.ArgumentTypeError(
            f"must be NAME=VALUE, several joined by commas, each NAME once, of {names}, small=none, made=none,"
            f" not {text!r}"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(prog="python -m experiments.fewshot", description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--weights", type=Path, help="state dict, if not those of a package")
    parser.add_argument("--images", type=Path, required=True, help="directory of NNN.jpg")
    parser.add_argument("--more", type=Path, nargs="+", default=(), help="directories of other pictures to tune with")
    parser.add_argument(
        "--small", type=Path, metavar="FILE.npz", help="small pictures to tune with (experiments.images)"
    )
    parser.add_argument(
        "--made",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE.npz",
        help="pictures of experiments.invert to tune with",
    )
    parser.add_argument("--method", choices=METHODS, default="ssvq", help="%(default)s")
    parser.add_argument("--bits", type=float, default=2.0, help="a weight, codebooks included (%(default)s)")
    parser.add_argument("--allocate", action="store_true", help="give bits to the layers whose errors matter most")
    parser.add_argument(
        "--wide", action="store_true", help="with --allocate, codewords of both methods and more of them"
    )
    parser.add_argument(
        "--more-views", type=int, default=0, help="pictures of --more to reconstruct layers with, too (%(default)s)"
    )
    parser.add_argument("--features", type=float, default=0.0, help="weight of errors of block outputs (%(default)s)")
    parser.add_argument("--fixed", action="store_true", help="assignments stay, and signs alone are learned")
    parser.add_argument(
        "--move-plain", action="store_true", help="with --fixed, assignments of layers without signs move nevertheless"
    )
    parser.add_argument("--steps", type=int, default=6000, help="of distillation (%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="of distillation (%(default)s)")
    parser.add_argument("--batch", type=at_least_one, default=64, help="of distillation (%(default)s)")
    parser.add_argument("--mix", type=float, default=0.5, help="share of the batches that are mixed (%(default)s)")
    parser.add_argument(
        "--try",
        type=_changes,
        action="append",
        default=[],
        dest="tries",
        metavar="NAME=VALUE,...",
        help="with --held-out, distil with these settings in place of the options; may be given again",
    )
    parser.add_argument(
        "--limit", type=at_least_one, help="use only that many pictures of each kind, to try the command"
    )
    parser.add_argument("--held-out", action="store_true", help="report held-out images only, to choose settings")
    parser.add_argument("--judge", type=Path, help="directory of pictures whose divergence is reported, too")
    parser.add_argument("--final", action="store_true", help="tune with the held-out images too")
    parser.add_argument("--eager", action="store_true", help="on a GPU, do not replay steps as CUDA graphs")
    add_machine_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the container to write")
    parser.add_argument("--json", type=Path, help="write the report as JSON")
    return run_late(parser, arguments, "experiments.distillation")


if __name__ == "__main__":
    sys.exit(main())
