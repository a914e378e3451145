"""Tiny-ImageNet, 100 classes: where compression hurts. Plain VQ, PQF, DKM, MVQ, SSVQ with its ablation, MSVQ and LSQ.

At about 21x, with sizes from 16x to 32x beside it: all cases of one size take the same bits a weight, codebooks
included, to 1 %. ``dinov2-s`` is DINOv2's ViT-S/14, fine-tuned at 98 x 98 pixels; the others are trained from scratch
at 64 x 64. MVQ and MSVQ start from a network trained 4:16 sparse. Learning rates: ``--rates``
(:mod:`experiments.protocol`).
"""

from __future__ import annotations

import dataclasses
import sys

from experiments.case import Case
from experiments.study import RATIOS, Study
from sw.compress.methods import Recipe
from sw.compress.training.settings import Freezing, TrainConfig

#: Bits a weight of each size, codebooks included: what SSVQ takes with 16 codewords of 8, and 256 of 8 or 8 of 16.
#: At 30x it has hardly more than its signs, at 32x, of most layers, these alone.
BITS = {"21x": 1.515, "16x": 2.02, "26x": 1.225, "30x": 1.07, "32x": 1.005}

CONFIGS = {
    "dinov2-s": TrainConfig(3, 256, "adamw", 3e-4, warmup=0.3, label_smoothing=0.1, crop=8, distort=0.3),
    "resnet18-64": TrainConfig(3, 256, "adamw", 1e-3, warmup=0.3, label_smoothing=0.1, crop=6, erase=16),
    "mobilenetv2-64": TrainConfig(4, 256, "adamw", 1e-3, warmup=0.3, label_smoothing=0.1, crop=6),
}

#: Of the longest training: some fifty times.
FREEZING = Freezing(interval=20)


def cases(network: str) -> list[Case]:
    """The rows of the table."""

    def case(name: str, method: str, d: int, size: str = "21x", **settings: object) -> Case:
        masked = method in ("mvq", "msvq")
        recipe = Recipe(method, 2, d, *((4, 16) if masked else (0, 0)))
        if size != "21x":
            settings["rate_of"], name = name, f"{size} {name}"
        if method in ("ssvq", "msvq") and "freezing" not in settings:
            settings["freezing"] = FREEZING
        sparse = "4:16" if masked else ""
        return Case(name, recipe, mean_bits=BITS[size], sparse=sparse, **settings)  # type: ignore[arg-type]

    rows = [
        case("VQ d=8", "vq", 8),
        case("SSVQ", "ssvq", 8),
        case("MVQ", "mvq", 16),
        case("MSVQ", "msvq", 16),
        case("VQ d=4", "vq", 4),
        case("SSVQ fixed signs", "ssvq", 8, learn_signs=False, freezing=None),
        case("SSVQ learned signs", "ssvq", 8, freezing=None),
        case("SSVQ frozen, EMA", "ssvq", 8, freezing=dataclasses.replace(FREEZING, value="ema")),
        Case("LSQ 2 bit", Recipe("lsq2")),
        Case("LSQ 3 bit", Recipe("lsq3")),
        Case("LSQ 4 bit", Recipe("lsq4")),
    ]
    if network != "dinov2-s":
        # Of a transformer there are no channels between two convolutions to reorder.
        rows.append(case("PQF-style", "vq", 8, permute=True))
    rows.append(case("DKM", "dkm", 8))
    sizes = [("26x", 16), ("16x", 8), ("30x", 16)]
    if network == "resnet18-64":
        # The others have layers that 16 does not divide, whose 8 bits signs alone leave no room for.
        sizes.append(("32x", 16))
    for size, length in sizes:
        rows += [
            case("VQ d=8", "vq", 8, size),
            case("SSVQ", "ssvq", length, size),
            case("MVQ", "mvq", 16, size),
            case("MSVQ", "msvq", 16, size),
        ]
    return rows


STUDY = Study(
    "tiny",
    __doc__,
    CONFIGS,
    cases,
    "5,000 validation images of 100 classes",
    f"{RATIOS} SSVQ is frozen, by majority, unless it says so. LSQ takes its own sizes.",
)

main = STUDY.main


if __name__ == "__main__":
    sys.exit(main())
