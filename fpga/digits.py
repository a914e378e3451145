"""Handwritten digits: scikit-learn's 1797 images of 8 x 8, a small network, trained and compressed in seconds.

``python -m fpga.digits FILE.msvq`` trains, writes the container and prints the accuracies.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.command_line import Parser, interruptible
from hw.config import PRESETS, AcceleratorConfig, preset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from sw.compress.training.data import ImageData
    from sw.compress.training.finetune import Finetuned
    from sw.compress.training.integer import IntegerNetwork

__all__ = ["TEST", "digits_data", "digits_inputs", "digits_network", "train_digits"]

#: The last images are for the test: by other writers than most of the first.
TEST = 360


def digits_data() -> tuple[ImageData, ImageData]:
    """Training and test images, the three colours equal, values 0..255.

    Raises
    ------
    sw.compress.methods.CompressError
        scikit-learn is not installed.
    """
    import numpy as np

    from sw.compress.methods import CompressError
    from sw.compress.training.data import ImageData

    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise CompressError(
            "network 'digits' needs scikit-learn, which has its images: pip install scikit-learn"
        ) from None

    found: Any = load_digits()
    # 0..16 in the data set.
    grey: NDArray[np.uint8] = np.minimum(found.images * 16, 255).astype(np.uint8)
    images, labels = np.repeat(grey[:, None], 3, 1), found.target.astype(np.int64)
    return ImageData(images[:-TEST], labels[:-TEST], 8), ImageData(images[-TEST:], labels[-TEST:], 8)


def digits_network(seed: int = 0) -> nn.Sequential:
    """Three convolutions and a linear layer; 14 thousand weights."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def train_digits(config: AcceleratorConfig, epochs: int = 40, tuning: int = 20, progress: bool = False) -> Finetuned:
    """Train in floats, then compress by MSVQ for an instance and fine-tune. Same arguments, same bytes.

    Parameters
    ----------
    config
        The instance: k, d, N and M of the codebooks, and the bits of their codewords.
    epochs, tuning
        Of the training in floats, and of each of sparse training and fine-tuning.
    progress
        Show bars.
    """
    from sw.compress.methods import Recipe
    from sw.compress.training.finetune import Finetuning, finetune
    from sw.compress.training.loop import TrainConfig, fit

    train, test = digits_data()
    model = digits_network()
    settings: dict[str, Any] = {"batch": 64, "crop": 0, "threads": 1}
    fit(model, train, TrainConfig(epochs, lr=3e-3, **settings), progress=progress)
    recipe = Recipe("msvq", config.k, config.d, config.N, config.M, codeword_bits=config.weight_bits)
    # The first convolution has too few weights for a codebook to pay, and logits are worth their bits.
    rules = [("0", Recipe("int8")), ("11", Recipe("int8")), ("*", recipe)]
    tuned = TrainConfig(tuning, lr=1e-3, **settings)
    return finetune(model.eval(), train, test, Finetuning(rules, tuned, sparse=tuned), progress=progress)


def digits_inputs(network: IntegerNetwork) -> NDArray[np.int8]:
    """The test images as a network's input, ``[360, 3, 8, 8]``."""
    import torch

    from sw.compress.training.loop import images_of

    images = [images for images, _ in images_of(digits_data()[1], "cpu")]
    inputs: NDArray[np.int8] = network.quantise(torch.cat(images)).numpy()
    return inputs


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = Parser(prog="python -m fpga.digits", description=__doc__)
    parser.add_argument("output", type=Path, metavar="FILE.msvq")
    parser.add_argument("--preset", choices=PRESETS, default="ews-msvq-fpga")
    options = parser.parse_args(arguments)

    from sw.command_line import check_folders, exit_status

    def run() -> None:
        check_folders(str(options.output))
        done = train_digits(preset(options.preset), progress=sys.stderr.isatty())
        done.write(options.output)
        for name, value in done.report.items():
            if isinstance(value, int | float):
                print(f"{name}: {value:.2f}")

    return exit_status(parser.prog, run)


if __name__ == "__main__":
    sys.exit(main())
