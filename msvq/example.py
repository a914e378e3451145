"""``msvq example DIR``: a small trained network and images to try the commands on. No data set is needed.

Grey images of 16 x 16 with a shape of five kinds (:data:`KINDS`) at a random place under noise; a network of three
convolutions, trained in some seconds. Equal seeds give equal files on the same version of PyTorch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sw.command_line import Parser, run_command
from sw.compress.methods import CompressError
from sw.format.output import staged_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KINDS", "NETWORK", "images_of_shapes", "main"]

#: What is in the images, in the order of the labels.
KINDS = ("bar", "column", "cross", "diagonal", "square")

#: Rows and columns of an image.
SIZE = 16

#: Images to train on, and to test.
COUNTS = {"train": 600, "test": 200}

#: The module with the network's definition, as it is written.
NETWORK = '''"""The network of the example: three convolutions, batch norm, ReLU, and a linear layer."""

from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(16, 32, 3, 2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Linear(32, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.stem(images))).mean((2, 3)))
'''


def images_of_shapes(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Grey images ``[count, 16, 16]`` and their labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (count, SIZE, SIZE))
    labels = rng.integers(0, len(KINDS), count)
    side = 7
    shapes = np.zeros((len(KINDS), side, side), np.int64)
    shapes[0, side // 2] = shapes[1, :, side // 2] = 1
    shapes[2] = shapes[0] | shapes[1]
    shapes[3] = np.eye(side, dtype=np.int64)
    shapes[4] = 1
    shapes[4, 1:-1, 1:-1] = 0
    for image, label in zip(images, labels, strict=True):
        row, column = rng.integers(0, SIZE - side, 2)
        image[row : row + side, column : column + side] += shapes[label] * rng.integers(90, 165)
    return images.astype(np.uint8), labels.astype(np.int64)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(prog="msvq example", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new folder: net.py, net.pt, images.npz, image.npy")
    parser.add_argument("--epochs", type=int, default=5, help="of the training (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of images and weights (%(default)s)")
    return run_command(parser, arguments, _write)


def _write(options: argparse.Namespace) -> None:
    folder: Path = options.folder
    if folder.exists():
        raise CompressError(f"{str(folder)!r} must be new: nothing is written over")
    if options.epochs < 1:
        raise CompressError(f"--epochs must be at least 1, not {options.epochs}")

    import torch

    from sw.compress.checkpoints import write_state
    from sw.compress.training.data import ImageData
    from sw.compress.training.loop import accuracy, fit
    from sw.compress.training.settings import TrainConfig
    from sw.format.npz import write_npz

    scope: dict[str, type[torch.nn.Module]] = {}
    exec(compile(NETWORK, "net.py", "exec"), scope)
    parts = {split: images_of_shapes(count, options.seed + i) for i, (split, count) in enumerate(COUNTS.items())}
    data = {split: ImageData(images[:, None], labels, SIZE) for split, (images, labels) in parts.items()}
    torch.manual_seed(options.seed)
    model = scope["Net"]()
    config = TrainConfig(options.epochs, 50, lr=3e-3, crop=0, seed=options.seed)
    fit(model, data["train"], config, progress=sys.stderr.isatty())
    right = accuracy(model, data["test"])
    with staged_folder(folder) as place:
        (place / "net.py").write_text(NETWORK, encoding="utf-8")
        write_state(place / "net.pt", model.state_dict())
        with open(place / "images.npz", "wb") as file:
            arrays: dict[str, NDArray[Any]] = {f"{split}_images": images for split, (images, _) in parts.items()}
            write_npz(file, arrays | {f"{split}_labels": labels for split, (_, labels) in parts.items()})
        first = data["test"].normalise(torch.from_numpy(data["test"].images[:1]))
        np.save(place / "image.npy", first.numpy())
    print(f"{folder}: net.py, net.pt, images.npz, image.npy; {right:.2f} % of {COUNTS['test']} test images, in floats")


if __name__ == "__main__":
    sys.exit(main())
