"""MVQ table 3 after fine-tuning, cases A to D, with MSVQ, uniform and other baselines beside them, on CIFAR-10.

ResNet-18 takes the paper's k and d. ResNet-20 is so small that a codebook of 512 words would take most of the file:
there, each layer gets the most codewords with which it stays at 32/22 bits a weight, codebook included, in every case.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.finetune import Case
from experiments.study import Study, main_of
from sw.compress.methods import Recipe
from sw.compress.training.freezing import Freezing
from sw.compress.training.loop import TrainConfig

BITS = 32 / 22

CONFIGS = {
    "resnet18": TrainConfig(6, 256, "adamw", 1e-3, codebook_lr=0.3, sign_lr=0.3),
    "resnet20": TrainConfig(20, 256, "adamw", 2e-3, codebook_lr=1.0, sign_lr=1.0),
}


def cases(network: str) -> list[Case]:
    """The rows of the table."""
    bits = BITS if network == "resnet20" else None

    def recipe(method: str, k: int, d: int) -> Recipe:
        return Recipe(method, k, d, 4, 16)

    freezing = Freezing(interval=100)
    return [
        Case("A", recipe("vq", 1024, 8), bits=bits),
        Case("B", recipe("vq", 1024, 8), sparse=True, bits=bits),
        Case("C", recipe("vq", 512, 16), sparse=True, masks=True, bits=bits),
        Case("D", recipe("mvq", 512, 16), sparse=True, bits=bits),
        Case("MSVQ", recipe("msvq", 32, 16), sparse=True, bits=bits, freezing=freezing),
        Case("SSVQ", Recipe("ssvq", 16, 8, 0, 0), freezing=freezing),
        Case("PQF-style", recipe("vq", 1024, 8), permute=True, bits=bits),
        Case("LSQ 2 bit", uniform=2),
        Case("LSQ 3 bit", uniform=3),
        Case("LSQ 4 bit", uniform=4),
    ]


STUDY = Study(
    name="table3",
    networks=("resnet20", "resnet18"),
    cases=cases,
    config=CONFIGS.__getitem__,
    note=(
        "Accuracy of the container's integers on the 10,000 test images, in per cent; mean and standard deviation over"
        " seeds. Ratios count the coded layers; at 8 bit stay the first and the last layer, and layers that a codebook"
        " would not make smaller. A to D: MVQ table 3."
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return main_of(STUDY, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
