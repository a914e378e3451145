"""SSVQ on a transformer: plain vector quantisation beside it, its ablation of learned and frozen signs, MVQ and MSVQ.

About 21x: SSVQ takes k = 16, d = 8 (1.5 bits a weight). Plain VQ gets the most codewords that fit the same bits,
codebook included, for d = 4 and d = 8. MVQ 4:16 with k = 512 and MSVQ 4:16 with k = 32 take 1.25 bits a weight without
their codebooks; with them MVQ's file is much larger, so there is an MSVQ of its size too. The narrow transformer, of a
third of the width, has less to spare.
"""

from __future__ import annotations

import sys

from experiments.case import Case
from experiments.study import Study
from sw.compress.methods import Recipe
from sw.compress.training.settings import Freezing, TrainConfig

#: Bits a weight of plain VQ, codebooks included. SSVQ's codebooks take more of the narrow transformer's small layers.
BITS = {"vit": 32 / 21, "vit-narrow": 1.63, "mobilenetv2": 32 / 21}

#: Bits a weight of MVQ 4:16 with k = 512 over the transformer's layers, codebooks included.
MVQ_BITS = 32 / 17.37

CONFIGS = {
    "vit": TrainConfig(10, 256, "adamw", 5e-4, warmup=0.3, label_smoothing=0.1, distort=0.5, mix=0.5),
    "vit-narrow": TrainConfig(10, 256, "adamw", 1e-3, warmup=0.3, label_smoothing=0.1, distort=0.5, mix=0.5),
    "mobilenetv2": TrainConfig(3, 256, "adamw", 1e-3, warmup=0.3, label_smoothing=0.1),
}


def cases(network: str) -> list[Case]:
    """The rows of the table."""
    ssvq = Recipe("ssvq", 16, 8, 0, 0)
    freezing = Freezing(interval=100)
    rows = [
        Case("VQ d=4", Recipe("vq", 64, 4, 0, 0), bits=BITS[network]),
        Case("VQ d=8", Recipe("vq", 512, 8, 0, 0), bits=BITS[network]),
        Case("SSVQ fixed signs", ssvq, learn_signs=False),
        Case("SSVQ learned signs", ssvq),
        Case("SSVQ frozen, majority", ssvq, freezing=freezing),
        Case("SSVQ frozen, EMA", ssvq, freezing=Freezing(interval=100, value="ema")),
    ]
    if network == "vit":
        rows += [
            Case("MVQ 4:16 k=512", Recipe("mvq", 512, 16, 4, 16), sparse="4:16"),
            Case("MSVQ 4:16 k=32", Recipe("msvq", 32, 16, 4, 16), sparse="4:16", freezing=freezing),
            Case(
                "MSVQ 4:16, MVQ's bits", Recipe("msvq", 32, 16, 4, 16), sparse="4:16", bits=MVQ_BITS, freezing=freezing
            ),
        ]
    return rows


STUDY = Study(
    "signs",
    __doc__,
    CONFIGS,
    cases,
    "10,000 test images",
    "The transformer is a network in steps: its normalisation, softmax and GELU are integers, too.",
)

main = STUDY.main


if __name__ == "__main__":
    sys.exit(main())
