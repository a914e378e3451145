"""Archives of arrays (``.npz``): any names, the same bytes for the same arrays, and no more unpacked than allowed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArchiveError", "check_unpacked", "read_npz", "write_npz"]

#: What an archive may hold, unpacked: so many bytes, or so many times its own size where that is more. Weights and
#: pictures don't shrink by as much; an archive that does is there to fill memories.
MAX_UNPACKED, MAX_RATIO = 64 << 20, 50


class ArchiveError(ValueError):
    """An archive that is damaged, or too large unpacked. The message says why, not which."""


def check_unpacked(path: str | os.PathLike[str]) -> None:
    """Refuse a zip archive that is too large unpacked; a file that is none is not looked at.

    Raises
    ------
    ArchiveError
        It has more than :data:`MAX_UNPACKED` bytes and more than :data:`MAX_RATIO` times its own size.
    OSError
        The file cannot be read.
    """
    packed = os.stat(path).st_size
    allowed = max(MAX_UNPACKED, MAX_RATIO * packed)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except OSError:
        raise
    except Exception:  # whatever is wrong with it is for its reader to say
        return
    if unpacked > allowed:
        raise ArchiveError(f"must hold at most {allowed} bytes, unpacked, not {unpacked}")


def read_npz(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of an archive by name: the named ones, or all.

    Raises
    ------
    ArchiveError
        The file is no such archive, is damaged, has objects in it, is too large (:func:`check_unpacked`), or lacks a
        named array.
    OSError
        The file cannot be read.
    """
    check_unpacked(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ArchiveError("must be an archive of arrays, not an array")
        with loaded as arrays:
            for name in names or ():
                if name not in arrays:
                    raise ArchiveError(f"array {name!r} is missing; the archive has {', '.join(arrays) or 'none'}")
            return {name: arrays[name] for name in (arrays if names is None else names)}
    except (OSError, ArchiveError):
        raise
    except Exception as error:  # numpy and zipfile let errors of every kind out where bytes are not what they expect
        reason = " ".join(str(error).split())
        raise ArchiveError(f"not an archive of arrays ({type(error).__name__}: {reason})") from None


def write_npz(file: BinaryIO, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an archive that ``numpy.load`` reads; ``numpy.savez`` takes some names for its own parameters."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            # The time of a ZipInfo is always the same.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
