"""Tiny-ImageNet at 21x to 30x, each layer with the bits that the network's output asks for: VQ, MVQ, SSVQ and MSVQ.

Sizes and training are those of :mod:`experiments.distil`. There all layers take the same bits a weight, with one
codeword length and one N:M; here each one has those of its method's menu (:mod:`experiments.measured_bits`) that lose
the least in all. Methods with signs or masks have fixed assignments, and moving ones.
"""

from __future__ import annotations

import dataclasses
import sys

from experiments.case import Case
from experiments.distil import CONFIGS
from experiments.study import RATIOS, Study
from experiments.tiny import BITS, FREEZING
from sw.compress.methods import Recipe

__all__ = ["STUDY", "main"]

#: Rates are tried at the first size; the others take them. At 30x signs leave SSVQ next to nothing to choose by, where
#: masks can be from 2:16 to 10:16.
SIZES = ("30x", "26x", "21x")

#: Of each row: method, and whether assignments move.
ROWS = (
    ("VQ", "vq", False),
    ("SSVQ", "ssvq", False),
    ("SSVQ, moving", "ssvq", True),
    ("MVQ", "mvq", False),
    ("MVQ, moving", "mvq", True),
    ("MSVQ", "msvq", False),
    ("MSVQ, moving", "msvq", True),
)


def cases(network: str) -> list[Case]:
    """The rows of the table."""
    found = []
    for size in SIZES:
        for name, method, moving in ROWS:
            # Codeword lengths and N:M are the menus'.
            recipe = Recipe(method, 2, 16, *((8, 16) if method in ("mvq", "msvq") else (0, 0)))
            case = Case(f"{size} {name}", recipe, mean_bits=BITS[size], measured=True, distil=True, moving=moving)
            if method in ("ssvq", "msvq") and not moving:
                case = dataclasses.replace(case, freezing=FREEZING)
            found.append(case if size == SIZES[0] else dataclasses.replace(case, rate_of=f"{SIZES[0]} {name}"))
    return found


STUDY = Study(
    "measured",
    __doc__,
    CONFIGS,
    cases,
    "5,000 validation images of 100 classes",
    f"{RATIOS} All learn the dense network's logits. Each layer has the codeword length, N:M and number of codewords"
    " that lose least, measured on training images.",
)

main = STUDY.main


if __name__ == "__main__":
    sys.exit(main())
