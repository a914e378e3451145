"""``python -m experiments.images DIRECTORY OUT.npz``: images of one size, in folders, as an ``.npz`` at that size.

The directory is one that :func:`sw.compress.training.data.load_data` takes. It resizes images and crops their edges;
those of Tiny-ImageNet, 64 x 64, are to be used as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sw.command_line import Parser, exit_status
from sw.compress.methods import CompressError
from sw.compress.training.settings import SPLITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sw.compress.training.data import ImageData

__all__ = ["arrays_of", "main", "resized"]


def _pixels(path: Path) -> NDArray[np.uint8]:
    import numpy as np

    from experiments.common import picture

    return np.asarray(picture(path))


def arrays_of(directory: str | Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` for :func:`sw.compress.training.data.load_data`.

    Raises
    ------
    CompressError
        An image has another size than the first one.
    """
    import numpy as np

    from sw.compress.training.data import load_data

    arrays: dict[str, NDArray[Any]] = {}
    for split in SPLITS:
        data = load_data(directory, split)
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(_pixels, data.images))
        for path, image in zip(data.images, pixels, strict=True):
            if image.shape != pixels[0].shape:
                raise CompressError(f"image {str(path)!r} must be {pixels[0].shape[:2]}, not {image.shape[:2]}")
        arrays |= {f"{split}_images": np.stack(pixels), f"{split}_labels": data.labels}
    return arrays


def resized(data: ImageData, size: int) -> ImageData:
    """Images in memory, at another size: bicubic, rounded to uint8."""
    import numpy as np
    import torch
    from torch.nn import functional

    from sw.compress.training.data import ImageData

    parts = []
    for first in range(0, len(data), 1000):
        images = torch.from_numpy(np.asarray(data.images[first : first + 1000])).float()
        larger = functional.interpolate(images, size=(size, size), mode="bicubic", align_corners=False)
        parts.append(larger.round_().clamp_(0, 255).to(torch.uint8).numpy())
    return ImageData(np.concatenate(parts), data.labels, size)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 2 for bad input, with one line on standard error."""
    parser = Parser(prog="python -m experiments.images", description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("output", help="the .npz to write")
    options = parser.parse_args(arguments)
    return exit_status(parser.prog, lambda: _convert(options.directory, options.output))


def _convert(source: str, output: str) -> None:
    import numpy as np

    from sw.format.output import staged

    with staged(output) as temporary:
        arrays = arrays_of(source)
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)


if __name__ == "__main__":
    sys.exit(main())
