"""Archives of pictures, for tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def archive(path: Path, files: dict[str, bytes]) -> Path:
    """A tar file."""
    with tarfile.open(path, "w") as found:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            found.addfile(member, io.BytesIO(content))
    return path


def picture(pixels: NDArray[np.uint8], kind: str) -> bytes:
    """An image's file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, lossless=True)
    return file.getvalue()
