"""MVQ table 3 after fine-tuning, cases A to D, with MSVQ, the baselines and a mixed search beside them, on CIFAR-10.

ResNet-18 takes the paper's k and d. ResNet-20 is so small that a codebook of 512 words would take most of the file:
there, each layer gets the most codewords with which it stays at 32/22 bits a weight, codebook included, in every case;
with a crosslayer codebook, all layers together do. It also has two smaller sizes, 32/26 and 32/38 bits. The smallest
has no bits for 4:16 masks with more than 4 codewords: MVQ and MSVQ start from a network that was trained 2:16 sparse.
The mixed search may take as many bytes as the file of case A; on ResNet-20 also as those of the largest single method
at 32/22 bits, which is D crosslayer, of case D at 32/26, and of MVQ 2:16 at 32/38. Crosslayer codebooks are tried
within A's bytes, too.
"""

from __future__ import annotations

import sys

from experiments.case import Case
from experiments.study import RATIOS, Study
from sw.compress.candidates import METHOD_CANDIDATES
from sw.compress.methods import Recipe
from sw.compress.training.settings import Freezing, TrainConfig

BITS, SMALL_BITS, SMALLEST_BITS = 32 / 22, 32 / 26, 32 / 38

#: Of the file of case A; of ResNet-20's case D crosslayer, its case D at 32/26 bits, and MVQ 2:16 at 32/38.
BYTES = {"resnet18": 1_952_637, "resnet20": 57_886}
CROSSLAYER_BYTES, SMALL_BYTES, SMALLEST_BYTES = 59_336, 52_283, 39_325

#: Each case has its own learning rate, found by ``--rates``.
CONFIGS = {
    "resnet18": TrainConfig(
        3, 256, "adamw", 3e-4, codebook_lr=0.15, sign_lr=0.3, warmup=0.2, label_smoothing=0.1, erase=8
    ),
    "resnet20": TrainConfig(5, 256, "adamw", 4e-3, warmup=0.5),
}

FREEZING = Freezing(interval=100)

#: What the mixed search tries for weights that are not sparse.
DENSE = tuple(recipe for recipe in METHOD_CANDIDATES if not recipe.masked)

#: What it tries at 32/38 bits: fewer codewords, and 2:16 masks, too.
SMALLEST_CANDIDATES = (
    *METHOD_CANDIDATES,
    *(Recipe("vq", k, d, 0, 0) for d in (8, 16) for k in (8, 16, 32)),
    *(Recipe("mvq", k, 16, n, 16) for n in (2, 3, 4) for k in (4, 8, 16, 32)),
    *(Recipe("msvq", k, 16, 2, 16) for k in (4, 8, 16, 32)),
    *(Recipe("vq", k, 8, 0, 0, scope="crosslayer") for k in (32, 64, 128, 256)),
    *(Recipe("vq", k, 16, 0, 0, scope="crosslayer") for k in (128, 256, 512, 1024)),
    *(Recipe("mvq", k, 16, 4, 16, scope="crosslayer") for k in (4, 16, 64, 256)),
    *(Recipe("mvq", k, 16, 2, 16, scope="crosslayer") for k in (16, 64, 256)),
    *(Recipe("msvq", k, 16, 4, 16, scope="crosslayer") for k in (4, 8, 16)),
    *(Recipe("msvq", k, 16, 2, 16, scope="crosslayer") for k in (4, 16, 64)),
)


def cases(network: str) -> list[Case]:
    """The rows of the table."""
    small = network == "resnet20"
    bits = BITS if small else None

    def recipe(method: str, k: int, d: int, scope: str = "layerwise", n: int = 4) -> Recipe:
        return Recipe(method, k, d, n, 16, scope=scope)

    rows = [
        Case("A", recipe("vq", 1024, 8), bits=bits),
        Case("B", recipe("vq", 1024, 8), sparse="4:16", bits=bits),
        Case("C", recipe("vq", 512, 16), sparse="4:16", masks=True, bits=bits),
        Case("D", recipe("mvq", 512, 16), sparse="4:16", bits=bits),
        Case("D crosslayer", recipe("mvq", 2048, 16, "crosslayer"), sparse="4:16", bits=bits),
        Case("MSVQ k=32", recipe("msvq", 32, 16), sparse="4:16", freezing=FREEZING),
        Case("MSVQ", recipe("msvq", 64, 16), sparse="4:16", bits=bits, freezing=FREEZING),
        Case("MSVQ crosslayer", recipe("msvq", 128, 16, "crosslayer"), sparse="4:16", bits=bits, freezing=FREEZING),
        Case("SSVQ", Recipe("ssvq", 8, 8, 0, 0), bits=bits, freezing=FREEZING),
        Case("PQF-style", recipe("vq", 1024, 8), permute=True, bits=bits),
        Case("mixed search", sparse="4:16", file_bytes=BYTES[network], freezing=FREEZING),
        Case("mixed search, dense start", file_bytes=BYTES[network], candidates=DENSE, freezing=FREEZING),
        Case("LSQ 2 bit", Recipe("lsq2")),
        Case("LSQ 3 bit", Recipe("lsq3")),
        Case("LSQ 4 bit", Recipe("lsq4")),
        Case("DKM", recipe("dkm", 1024, 8), bits=bits),
    ]
    if small:
        rows += [
            Case("D crosslayer, A's bytes", recipe("mvq", 288, 16, "crosslayer"), sparse="4:16"),
            Case("MSVQ crosslayer, A's bytes", recipe("msvq", 64, 16, "crosslayer"), sparse="4:16", freezing=FREEZING),
            Case("mixed search, D crosslayer's bytes", sparse="4:16", file_bytes=CROSSLAYER_BYTES, freezing=FREEZING),
            Case("26x A", recipe("vq", 1024, 8), bits=SMALL_BITS),
            Case("26x D", recipe("mvq", 512, 16), sparse="4:16", bits=SMALL_BITS),
            Case("26x D crosslayer", recipe("mvq", 2048, 16, "crosslayer"), sparse="4:16", bits=SMALL_BITS),
            Case("26x MSVQ", recipe("msvq", 64, 16), sparse="4:16", bits=SMALL_BITS, freezing=FREEZING),
            Case(
                "26x MSVQ crosslayer",
                recipe("msvq", 128, 16, "crosslayer"),
                sparse="4:16",
                bits=SMALL_BITS,
                freezing=FREEZING,
            ),
            Case("26x SSVQ", Recipe("ssvq", 8, 16, 0, 0), bits=SMALL_BITS, freezing=FREEZING),
            Case("26x mixed search", sparse="4:16", file_bytes=SMALL_BYTES, freezing=FREEZING),
            Case("38x B crosslayer", recipe("vq", 64, 8, "crosslayer"), sparse="4:16", bits=SMALLEST_BITS),
            Case("38x B crosslayer, d=16", recipe("vq", 512, 16, "crosslayer"), sparse="4:16", bits=SMALLEST_BITS),
            Case("38x MVQ 2:16 crosslayer", recipe("mvq", 64, 16, "crosslayer", 2), sparse="2:16", bits=SMALLEST_BITS),
            Case(
                "38x MSVQ 2:16 crosslayer",
                recipe("msvq", 64, 16, "crosslayer", 2),
                sparse="2:16",
                bits=SMALLEST_BITS,
                freezing=FREEZING,
            ),
        ]
        rows += [
            Case(name, sparse=sparse, file_bytes=SMALLEST_BYTES, candidates=SMALLEST_CANDIDATES, freezing=FREEZING)
            for name, sparse in (("38x mixed search", "4:16"), ("38x mixed search, 2:16 start", "2:16"))
        ]
    return rows


STUDY = Study("table3", __doc__, CONFIGS, cases, "10,000 test images", f"{RATIOS} A to D: MVQ table 3.")

main = STUDY.main


if __name__ == "__main__":
    sys.exit(main())
