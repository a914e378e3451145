"""Segmentation: MobileNet-v2 with a small decoder on CamVid, mIoU, compressed to about 19x.

    python -m experiments.camvid --data DIRECTORY --weights mobilenet_v2.pth

DIRECTORY has ``train.tar``, ``val.tar`` and ``test.tar`` with ``image/*.webp`` and ``label/*.png``: 11 classes, and 11
for void. Images are resized to 384 x 288, labels to their nearest. The encoder starts from ImageNet's weights
(torchvision's names) and is trained on the train part; the network gives logits for every fourth row and column, which
the host interpolates before it compares them. Settings are chosen on the val part, the test part is for the report.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.common import at_least_one
from experiments.vision import Study, cases_of, load_late

__all__ = ["main"]

#: Layers whose sums are results.
LAST = ("head",)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="directory of train.tar, val.tar and test.tar")
    parser.add_argument("--weights", type=Path, help="ImageNet's state dict of MobileNet-v2, with torchvision's names")
    parser.add_argument("--float-steps", type=at_least_one, default=2500, help="of float training (%(default)s)")


STUDY = Study(
    name="camvid",
    description=__doc__,
    cases=cases_of("19x", 32 / 19),
    last=LAST,
    steps=1000,
    task=load_late("experiments.segmentation"),
    add_options=_add_options,
    figure="miou",
    heading="mIoU",
    note=(
        "MobileNet-v2's encoder and a decoder on CamVid, 384 x 288; mean IoU of 11 classes on the 233 test images,"
        " in per cent, by the container's integers, their logits interpolated on the host; mean and standard"
        " deviation over seeds. Trained with the 367 images of the train part alone, distilled from the float"
        " network; each case's rate is the best of its tries, of a fifth of the steps, on the 101 images of the"
        " val part. Ratios by eq. 7 count all layers but the first, the depthwise and the last, which stay at"
        " 8 bit; the file holds those too."
    ),
    rates=(1e-3, 3e-3),
)

main = STUDY.main


if __name__ == "__main__":
    sys.exit(main())
