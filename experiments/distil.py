"""Tiny-ImageNet at 16x to 30x, learned from the dense network's logits: assignments stay, or move with weights.

The bits a weight are those of :mod:`experiments.tiny`. Every case starts from the dense network in floating point and
learns its logits, on images of which half are mixed. Moving ones train the weights, and assignments, signs and masks
follow from them (:mod:`sw.compress.training.moving`): so MVQ and MSVQ need no network that was trained sparse before,
and their masks can be milder. Those of 6:16 leave MSVQ the bits for its signs and some 32 codewords, those of 8:16 for
four. At 26x there is room for masks of 4:16 with signs, and of 6:16 without; at 30x signs leave SSVQ two codewords or
one. Those rows take the rates of 21x.
"""

from __future__ import annotations

import dataclasses
import sys

from experiments.case import Case
from experiments.study import RATIOS, Study
from experiments.tiny import BITS, FREEZING
from sw.compress.methods import Recipe
from sw.compress.training.settings import TrainConfig

CONFIGS = {
    "dinov2-s": TrainConfig(4, 256, "adamw", 1e-4, warmup=0.5, crop=8, distort=0.3, mix=0.5),
    "resnet18-64": TrainConfig(4, 256, "adamw", 3e-4, warmup=0.5, crop=6, mix=0.5),
    "mobilenetv2-64": TrainConfig(4, 256, "adamw", 3e-4, warmup=0.5, crop=6, mix=0.5),
}

#: Masks that are also left as the clustering found them.
FIXED = ("MSVQ 6:16", "MSVQ 8:16")

#: The rows of other sizes: case, the one whose rate it takes, and codeword length. Fewer bits an index need longer
#: codewords.
SMALLER = (
    ("VQ d=8", "VQ d=8", 8),
    ("SSVQ", "SSVQ", 16),
    ("MVQ 6:16, moving", "MVQ 6:16, moving", 16),
    ("MSVQ, moving", "MSVQ 6:16, moving", 16),
)
LARGER = (
    ("VQ d=8", "VQ d=8", 8),
    ("SSVQ", "SSVQ", 8),
    ("MVQ 6:16, moving", "MVQ 6:16, moving", 16),
    ("MSVQ 6:16, moving", "MSVQ 6:16, moving", 16),
)

#: At 26x there are also the bits for signs of six of sixteen weights, but hardly for any codewords.
MILDER = (("MSVQ 6:16, moving", "MSVQ 6:16, moving", 16),)

#: Networks on whose held-out images plain VQ is better with assignments that move: its rows of other sizes have them.
MOVING_VQ = ("dinov2-s",)

#: DKM's case where codewords of eight are few; else they are thousands, and each subvector attends to all of them.
DKM = {"mobilenetv2-64": ("DKM", 8)}


def cases(network: str) -> list[Case]:
    """The rows of the table."""
    rows = []
    for name, method, d, nm in (
        ("VQ d=8", "vq", 8, ""),
        ("SSVQ", "ssvq", 8, ""),
        ("MVQ", "mvq", 16, "4:16"),
        ("MSVQ", "msvq", 16, "4:16"),
        ("MVQ 6:16", "mvq", 16, "6:16"),
        ("MSVQ 6:16", "msvq", 16, "6:16"),
        ("MSVQ 8:16", "msvq", 16, "8:16"),
    ):
        n, m = map(int, nm.split(":")) if nm else (0, 0)
        case = Case(f"{name}, moving", Recipe(method, 2, d, n, m), mean_bits=BITS["21x"], distil=True, moving=True)
        if not nm or name in FIXED:
            freezing = FREEZING if method in ("ssvq", "msvq") else None
            rows.append(dataclasses.replace(case, name=name, moving=False, freezing=freezing))
        rows.append(case)
    known = {case.name: case for case in rows}
    for size, own in (("16x", LARGER), ("26x", (*SMALLER, *MILDER)), ("30x", SMALLER)):
        for name, rate_of, d in own:
            if name == "VQ d=8" and network in MOVING_VQ:
                name = rate_of = "VQ d=8, moving"
            case = known[name]
            recipe = dataclasses.replace(case.recipe, d=d)
            rows.append(
                dataclasses.replace(case, name=f"{size} {name}", recipe=recipe, mean_bits=BITS[size], rate_of=rate_of)
            )
    if network != "dinov2-s":
        # Of a transformer there are no channels between two convolutions to reorder.
        rows.append(dataclasses.replace(known["VQ d=8"], name="PQF-style", permute=True))
    name, d = DKM.get(network, ("DKM d=4", 4))
    rows.append(dataclasses.replace(known["VQ d=8"], name=name, recipe=Recipe("dkm", 2, d)))
    for bits in (2, 3, 4):
        rows.append(Case(f"LSQ {bits} bit", Recipe(f"lsq{bits}"), distil=True))
    return rows


STUDY = Study(
    "distil",
    __doc__,
    CONFIGS,
    cases,
    "5,000 validation images of 100 classes",
    f"{RATIOS} All learn the dense network's logits. SSVQ is frozen, by majority. LSQ takes its own sizes.",
)

main = STUDY.main


if __name__ == "__main__":
    sys.exit(main())
