"""Output files that are complete or unchanged, whatever fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hw.command_line import naming_file, remove_empty, temporary_path

__all__ = ["OutputError", "staged", "staged_folder", "write_atomically"]


class OutputError(ValueError):
    """A path that must not be replaced. The message names it."""


@contextmanager
def staged(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty file beside ``path`` that takes its place when the block ends; if the block raises, nothing is left.

    So a path that cannot be written shows before the work of the block. Missing folders are made, and removed again
    if the block raises.

    Raises
    ------
    OutputError
        There is something at ``path`` that is not a regular file: a folder, a device, a pipe, a link.
    OSError
        The file cannot be written.
    """
    path = Path(path)
    # A rename would put a file in the place of a device, or of a link, and leave what that leads to as it was.
    if path.exists() and not path.is_file():
        raise OutputError(f"output {str(path)!r} must be a regular file or not exist")
    if path.is_symlink():
        place = os.path.realpath(path)
        raise OutputError(
            f"output {str(path)!r} must be a regular file or not exist, not a link: name {place!r} itself"
        )
    missing = [folder for folder in path.parents if not folder.exists()]
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming_file(path, temporary):
            temporary.write_bytes(b"")
            yield temporary
            os.replace(temporary, path)
    except BaseException:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)
        remove_empty(missing)
        raise


@contextmanager
def staged_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As :func:`staged`, of a folder of files: ``path`` does not exist before, or is an empty folder.

    Raises
    ------
    OutputError
        There is something at ``path``: a file, or a folder that is not empty.
    OSError
        The folder cannot be made.
    """
    target = Path(path).resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"output {str(path)!r} must be an empty folder or not exist")
    missing = [folder for folder in target.parents if not folder.exists()]
    temporary = temporary_path(target)
    try:
        with naming_file(Path(path), temporary):
            temporary.mkdir(parents=True)
            yield temporary
            os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        remove_empty(missing)
        raise


def write_atomically(path: str | os.PathLike[str], parts: Sequence[bytes]) -> None:
    """Write a file through :func:`staged`, which raises."""
    with staged(path) as temporary, open(temporary, "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
