"""Codewords of 8, 5, 4 and 3 bits: MVQ, SSVQ and MSVQ, and MSVQ's masks of 2:8 in place of 4:16.

``codeword_bits`` counts the sign. Number of codewords, masks and start are those of 8 bits, so a narrow file is the
same file with a smaller codebook. The learning rate of a method is the one that was best with 8 bits, and narrow
codewords get no tries of their own; but for CIFAR-10's transformer, where each width has as many tries as any other.
Transformers learn the dense network's logits in place of the labels.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from experiments.case import Case
from experiments.study import Study
from sw.compress.methods import Recipe
from sw.compress.training.settings import Freezing, TrainConfig

#: Bits that are compared with 8.
BITS = (5, 4, 3)

CONFIGS = {
    "resnet20": TrainConfig(5, 256, "adamw", 2e-3, warmup=0.5),
    "resnet18": TrainConfig(
        3, 256, "adamw", 3e-4, codebook_lr=0.15, sign_lr=0.3, warmup=0.2, label_smoothing=0.1, erase=8
    ),
    "vit": TrainConfig(10, 256, "adamw", 5e-4, warmup=0.3, label_smoothing=0.1, distort=0.5, mix=0.5),
    "dinov2-s": TrainConfig(4, 256, "adamw", 1e-4, warmup=0.5, crop=8, distort=0.3, mix=0.5),
}

#: Networks that learn from the dense one.
TAUGHT = ("vit", "dinov2-s")

#: Networks whose cases have rates of their own.
OWN_RATES = ("vit",)

FREEZING = Freezing(interval=100)


def cases(network: str) -> list[Case]:
    """The rows of the table."""

    def rows(name: str, method: str, k: int, d: int, nm: str, scope: str, bits: Sequence[int]) -> list[Case]:
        n, m = map(int, nm.split(":")) if nm else (0, 0)
        return [
            Case(
                f"{name}, {count} bits",
                Recipe(method, k, d, n, m, scope=scope, codeword_bits=count),
                sparse=nm,
                freezing=FREEZING if method in ("ssvq", "msvq") else None,
                rate_of="" if count == bits[0] or network in OWN_RATES else f"{name}, {bits[0]} bits",
                distil=network in TAUGHT,
            )
            for count in bits
        ]

    if network == "dinov2-s":
        # A pretrained transformer does not stand masks of 4:16: see experiments.distil.
        found = rows("MSVQ 6:16", "msvq", 32, 16, "6:16", "layerwise", (8, *BITS))
        return [dataclasses.replace(case, sparse="", freezing=None, moving=True) for case in found]
    found = rows("MSVQ", "msvq", 32, 16, "4:16", "layerwise", (8, *BITS))
    found += rows("MVQ", "mvq", 2048 if network == "resnet20" else 512, 16, "4:16", "crosslayer", (8, *BITS))
    found += rows("SSVQ", "ssvq", 16, 8, "", "layerwise", (8, *BITS))
    found += rows("MSVQ 2:8", "msvq", 32, 16, "2:8", "layerwise", (8, 4))
    return found


STUDY = Study(
    "narrow",
    __doc__,
    CONFIGS,
    cases,
    "test images",
    "Bits are those of a codeword's weights, with their sign; the first and the last layer stay at 8 bit.",
)

main = STUDY.main


if __name__ == "__main__":
    sys.exit(main())
