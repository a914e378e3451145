"""Detection: FastestDet on COCO's images, AP50, compressed to about 20x.

    python -m experiments.detect --data coco256.tar --weights FastestDet.pth

The tar file has ``train2017/NAME.webp`` and ``val2017/NAME.webp`` with ``NAME.txt`` beside them, a line an object:
class, centre and size, relative. The network learns what the float network gives for views of four fifths of the
training images, of ``--more`` and of ``--small`` pictures; settings are chosen by the divergence on the others, and the
validation images are for the report. Boxes are decoded on the host.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.common import at_least_one
from experiments.vision import Study, cases_of, load_late

__all__ = ["main"]

#: Layers whose sums are results.
LAST = tuple(f"detect_head.{name}_layers.conv5x5.3" for name in ("obj", "reg", "cls"))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="tar file of images and boxes")
    parser.add_argument("--weights", type=Path, help="FastestDet's state dict")
    parser.add_argument("--more", type=Path, help="directory of other pictures, a part of each batch (none)")
    parser.add_argument("--small", type=Path, help="archive of small pictures, sixteen to a view, another part (none)")
    parser.add_argument("--own", type=float, help="share of COCO's own images in a batch (as much as each other part)")
    parser.add_argument("--sample", type=at_least_one, default=64, help="whole pictures for statistics (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="views of a step (%(default)s)")
    parser.add_argument("--side", type=int, default=352, help="rows and columns of them, a part of each (%(default)s)")
    parser.add_argument("--least", type=float, default=0.2, help="least share of a picture in a view (%(default)s)")
    parser.add_argument("--colours", type=float, default=0.3, help="most that colours change by (%(default)s)")
    parser.add_argument("--mix", type=float, default=0.3, help="share of the batches that are mixed (%(default)s)")


STUDY = Study(
    name="detect",
    description=__doc__,
    cases=cases_of("20x", 1.6),
    last=LAST,
    steps=4000,
    task=load_late("experiments.detection"),
    add_options=_add_options,
    figure="ap50",
    heading="AP50",
    note=(
        "FastestDet, 352 x 352; AP50 on 128 of COCO's validation images, in per cent, for differences to float"
        " alone, by the container's integers, boxes decoded on the host; mean and standard deviation over seeds."
        " Distilled from the float network with 103 training images, 1,367 other pictures and Tiny-ImageNet's 45,000, a"
        " third of each batch each, no labels, batch norms with the statistics of the batch, and errors of the layers'"
        " outputs beside the loss; each case's rate is the best of its tries, of a fifth"
        " of the steps, by the divergence on 25 more training images. Bits go to the layers where the loss is most by"
        " them, from equal menus of each method; ratios by eq. 7 count all"
        " layers but the first, the depthwise and the last, which stay at 8 bit; the file holds all."
    ),
    rates=(1e-2, 2e-2),
    statistics=True,
    features=100.0,
    allocate=True,
    level=True,
)

main = STUDY.main


if __name__ == "__main__":
    sys.exit(main())
