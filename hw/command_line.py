"""What the command lines share: errors in one line, output folders, files that appear complete, an end by Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import multiprocessing
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import NoReturn

__all__ = [
    "Parser",
    "interruptible",
    "naming_file",
    "path_argument",
    "temporary_path",
    "worker_pool",
    "writable_folder",
    "write_text",
]


#: There is no room for what is to be written: on the disk, in a quota, in the process's limit.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def path_argument(text: str) -> Path:
    """The type of an argument that is a path. An empty text would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def writable_folder(folder: Path) -> Path:
    """Make a folder, before the work whose results go there.

    Raises
    ------
    OSError
        The folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder


def temporary_path(path: Path) -> Path:
    """A hidden name beside ``path``, of no other process or thread: what is complete there can take its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """An error of a full disk names the file, which the system's does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _FULL:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: it appears complete or not at all, whatever others read or write."""
    temporary = temporary_path(path)
    try:
        with naming_file(path):
            temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _end_by_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def worker_pool(workers: int, context: BaseContext | None = None) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once, without tracebacks, when the body is interrupted."""
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_by_interrupt)
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, KeyboardInterrupt):
            for child in multiprocessing.active_children():
                child.terminate()
        raise
    finally:
        pool.shutdown()


def interruptible(main: Callable[[Sequence[str] | None], int]) -> Callable[[Sequence[str] | None], int]:
    """A command line that ends with one line on stderr and exit code 130 on Ctrl-C."""

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return run
