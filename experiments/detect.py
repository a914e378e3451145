"""Detection: FastestDet on COCO's images, AP50, compressed to about 20x.

    python -m experiments.detect --data coco256.tar --weights FastestDet.pth

The tar file has ``train2017/NAME.webp`` and ``val2017/NAME.webp`` with ``NAME.txt`` beside them, a line an object:
class, centre and size, relative. The network learns what the float network gives for views of four fifths of the
training images, of ``--more`` and of ``--small`` pictures; batch norms get their statistics from whole ones at the end.
Settings are chosen by how many boxes of the float network are found in the other fifth and in one of forty other
pictures, and the validation images are for the report. Boxes are decoded on the host.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from experiments.vision import Study, cases_of, load_late

__all__ = ["main"]

#: Layers whose sums are results.
LAST = tuple(f"detect_head.{name}_layers.conv5x5.3" for name in ("obj", "reg", "cls"))

#: At 20x all methods, and layers that may have any of them; SSVQ and MSVQ at sizes that lose less, too.
SMALLEST = cases_of("20x", 1.6)
MIXED = dataclasses.replace(SMALLEST[0], name="20x mixed", others=("msvq", "vq", "mvq"))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="tar file of images and boxes")
    parser.add_argument("--weights", type=Path, help="FastestDet's state dict")
    parser.add_argument(
        "--more", type=Path, nargs="+", help="directories of other pictures, a part of each batch (none)"
    )
    parser.add_argument("--small", type=Path, help="archive of small pictures, sixteen to a view, another part (none)")
    parser.add_argument("--batch", type=int, default=32, help="views of a step (%(default)s)")
    parser.add_argument("--side", type=int, default=352, help="rows and columns of them, a part of each (%(default)s)")
    parser.add_argument(
        "--data-part", type=float, default=0.125, help="share of a batch's views that are of --data (%(default)s)"
    )
    parser.add_argument("--least-area", type=float, default=0.8, help="least area of a view (%(default)s)")
    parser.add_argument(
        "--recolour", type=float, default=0.3, metavar="S", help="how much views' colours vary, 0..1 (%(default)s)"
    )
    parser.add_argument(
        "--balance",
        type=float,
        default=0.5,
        help="how far pictures of rare classes are drawn more often, 0..1 (%(default)s)",
    )
    parser.add_argument(
        "--four-part", type=float, default=0.25, help="share of a batch's views that show four of --more (%(default)s)"
    )
    parser.add_argument(
        "--class-weight", type=float, default=4.0, metavar="W", help="of the classes in the loss (%(default)s)"
    )
    parser.add_argument(
        "--class-power",
        type=float,
        default=0.5,
        metavar="P",
        help="of the objectness that a cell's classes count by, 0..1 (%(default)s)",
    )
    parser.add_argument("--mix", type=float, default=0.0, help="share of the batches that are mixed (%(default)s)")


STUDY = Study(
    name="detect",
    description=__doc__,
    cases=[*SMALLEST, MIXED, *cases_of("14x", 32 / 14)[:2], *cases_of("10x", 3.2)[:2]],
    last=LAST,
    steps=6500,
    task=load_late("experiments.detection"),
    add_options=_add_options,
    figure="ap50",
    heading="AP50",
    note=(
        "FastestDet, 352 x 352; AP50 on 128 of COCO's validation images, in per cent, for differences to float"
        " alone, by the container's integers, boxes decoded on the host; mean and standard deviation over seeds."
        " Distilled from the float network with training images and other pictures, no labels, batch norms with the"
        " statistics of the batch in training and of whole pictures at the end, errors of the layers' outputs beside"
        " the loss; each case's rate is the best of its tries, by the average precision on pictures that no run learns"
        " from, the float network's boxes taken for the truth. Bits go to the layers where the loss is most by them,"
        " from equal menus of each method; ratios by eq. 7"
        " count all layers but the first, the depthwise and the last, which stay at 8 bit; the file holds all."
    ),
    rates=(3e-3, 6e-3),
    statistics=True,
    features=100.0,
    allocate=True,
    share=True,
    level=True,
)

main = STUDY.main


if __name__ == "__main__":
    sys.exit(main())
