"""Pictures in any format that Pillow reads, and one error for whatever is wrong with a file."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "COLOURS",
    "MAX_PIXELS",
    "PictureError",
    "UnknownPictureError",
    "middle_part",
    "middle_square",
    "read_picture",
]

#: Orders of a picture's colours in which a network reads them.
COLOURS = ("rgb", "bgr")

#: Of a picture: what has more is there to fill memories.
MAX_PIXELS = 1 << 25


class PictureError(ValueError):
    """A file that is no picture, is damaged, or too large. The message says why, not which."""


class UnknownPictureError(PictureError):
    """A file of no format that Pillow knows."""


def read_picture(file: str | os.PathLike[str] | BinaryIO, mode: str | None = None, most: int = MAX_PIXELS) -> Image:
    """A picture, decoded. Needs ``pillow``.

    Parameters
    ----------
    file
        Its path, or the file itself, open.
    mode
        What it is converted to, such as ``RGB`` or ``L``; None: as it is.
    most
        Pixels that it may have.

    Raises
    ------
    PictureError
        It is none (:class:`UnknownPictureError`), is damaged, or has too many pixels.
    OSError
        There is no such file, or it must not be read.
    """
    from PIL import Image, UnidentifiedImageError

    # What is wrong with a file is said once, by the error.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > most:
                given = f"{picture.width} x {picture.height}"
                raise PictureError(f"a picture must have at most {most} pixels, not {given}: scale it down")
            picture.load()
            # 16 bits of grey are mode I in .pgm, and in .png with older versions.
            sixteen = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))
            if mode is not None and sixteen:
                # Pillow takes the least of 255 and the value.
                values = np.asarray(picture).astype(np.float32) / 257
                return Image.fromarray(values.round().astype(np.uint8)).convert(mode)
            if mode is not None and picture.mode in ("I", "F"):
                raise PictureError(f"a picture must have 8 or 16 bits a channel, not Pillow's mode {picture.mode}")
            return picture.copy() if mode is None else picture.convert(mode)
    except UnidentifiedImageError:
        raise UnknownPictureError("must be a picture") from None
    except (FileNotFoundError, PermissionError, IsADirectoryError, PictureError):
        raise
    except Exception as error:  # Pillow lets errors of every kind out of damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"cannot be read as a picture: {reason}") from None


def middle_part(picture: Image, rows: int, columns: int) -> Image:
    """The largest part in the middle of a picture that has the proportions of ``rows`` x ``columns``, to the pixel."""
    width = max(1, min(picture.width, picture.height * columns // rows))
    height = max(1, min(picture.height, picture.width * rows // columns))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def middle_square(picture: Image) -> Image:
    """The largest square in the middle of a picture."""
    return middle_part(picture, 1, 1)
