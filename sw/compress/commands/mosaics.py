"""``python -m sw.compress.commands.mosaics DIRECTORY OUT.npz``: an ``.npz`` of a directory of mosaics of images."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sw.command_line import Parser, check_folders, run_command
from sw.compress.methods import CompressError
from sw.compress.training.settings import SPLITS
from sw.format.npz import read_npz, write_npz
from sw.format.output import staged
from sw.format.picture import PictureError, read_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["main", "mosaics"]


def mosaics(directory: str | os.PathLike[str], *, progress: bool = True) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` for :func:`load_data`, from a directory of mosaics.

    The directory holds ``train_00.webp``, ... and ``test_00.webp``, ..., each 25 x 40 images of 32 x 32 pixels, row by
    row, and ``labels.npz`` with the arrays ``train`` and ``test``. Needs ``pillow``.

    Raises
    ------
    CompressError
        There are no such files, a mosaic has another size, or there is not a label for each image.
    """
    import numpy as np

    from sw.compress.network import progress_bar

    directory = Path(directory)
    arrays: dict[str, NDArray[Any]] = {}
    if not (directory / "labels.npz").is_file():
        raise CompressError(f"{str(directory)!r} must hold labels.npz and mosaics")
    labels = read_npz(directory / "labels.npz", SPLITS)
    with progress_bar(progress) as bar:
        for split in SPLITS:
            parts = []
            for file in bar.track(sorted(directory.glob(f"{split}_*.webp")), description=f"{split} mosaics"):
                try:
                    image = read_picture(file, "RGB")
                except PictureError as error:
                    raise CompressError(f"mosaic {file.name!r}: {error}") from None
                mosaic = np.asarray(image)
                if mosaic.shape != (25 * 32, 40 * 32, 3):
                    raise CompressError(f"mosaic {file.name!r} must be 1280 x 800, not {image.width} x {image.height}")
                parts.append(mosaic.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3))
            if 1000 * len(parts) != len(labels[split]):
                raise CompressError(f"{split} must have {len(labels[split]) / 1000} mosaics, not {len(parts)}")
            arrays |= {f"{split}_images": np.concatenate(parts), f"{split}_labels": labels[split].astype(np.int64)}
    return arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(
        prog="python -m sw.compress.commands.mosaics", description=(mosaics.__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("directory")
    parser.add_argument("output", help="the .npz to write")
    return run_command(parser, arguments, lambda options: _write(options.directory, options.output))


def _write(directory: str, output: str) -> None:
    check_folders(output)
    with staged(output) as path:
        arrays = mosaics(directory)
        with open(path, "wb") as file:
            write_npz(file, arrays)


if __name__ == "__main__":
    sys.exit(main())
