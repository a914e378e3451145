"""What the command lines share: errors in one line, output folders, files that appear complete, an end by Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import gc
import os
import re
import secrets
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.context import BaseContext

__all__ = [
    "Command",
    "Parser",
    "add_set_option",
    "called_as",
    "interruptible",
    "naming_file",
    "new_folder",
    "path_argument",
    "plain_text",
    "remove_empty",
    "temporary_path",
    "worker_pool",
    "writable_folder",
    "write_text",
]


#: There is no room for what is to be written: on the disk, in a quota, in the process's limit.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: As NumPy says it of an array.
_SHORT = re.compile(r"\d+ requested and \d+ written")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


#: A role of reStructuredText, and what it shows of its target: ``:mod:`sw.run```, ``:func:`~sw.run.main```.
_ROLE = re.compile(r":[\w:]+:`(?:~[\w.]*\.)?([^`]*)`")

#: How the docstring of a command's module begins.
_COMMAND = re.compile(r"``(?:python -m|msvq) [^`]+``: ")

#: The name that the user called a command by, where it is not the module's own.
_called_as: ContextVar[str | None] = ContextVar("called_as", default=None)


@contextlib.contextmanager
def called_as(name: str) -> Iterator[None]:
    """Within the body, parsers call their program ``name``: in usage, help and errors."""
    token = _called_as.set(name)
    try:
        yield
    finally:
        _called_as.reset(token)


def plain_text(text: str) -> str:
    """A docstring's text as a terminal shows it: without the command that it begins with, and without marks."""
    command, text = _COMMAND.match(text), _COMMAND.sub("", text, count=1)
    text = _ROLE.sub(r"\1", text[:1].upper() + text[1:] if command else text).replace("``", "")
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit code 2.

    ``prog`` is how the command is called, unless :func:`called_as` says otherwise; ``description`` may be a docstring.
    """

    def __init__(self, *, prog: str, description: str | None = None, **options: Any) -> None:
        super().__init__(prog=_called_as.get() or prog, description=plain_text(description or ""), **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As the base class. Several assignments may follow one ``--set``; what is no assignment is not one of its."""
        given = list(sys.argv[1:] if args is None else args)
        if "--set" in self._option_string_actions:
            given = list(_with_own_set(given))
        return super().parse_known_args(given, namespace)


def _with_own_set(arguments: Sequence[str]) -> Iterator[str]:
    """``--set A=1 B=2`` as ``--set A=1 --set B=2``."""
    after_set = assigned = False
    for text in arguments:
        if assigned and _ASSIGNMENT.match(text):
            yield "--set"
        else:
            assigned = after_set or text.startswith("--set=")
        after_set = text == "--set"
        yield text


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """``--set FIELD=VALUE``, alike everywhere: repeatable, and with one assignment or several."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the preset; repeatable, and several may follow one --set",
    )


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
        The folder cannot be made or written, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(f"{str(folder)!r} must be a folder, not a file") from None
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """As :func:`writable_folder`, which raises; if the body raises, what it made goes again, where that is empty."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield writable_folder(folder)
    except BaseException:
        remove_empty(missing)
        raise


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those of some folders, the innermost first, that are there and empty."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def temporary_path(path: Path) -> Path:
    """A hidden name beside ``path``, of no other process or thread: what is complete there can take its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


@contextlib.contextmanager
def naming_file(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """An error of the system names the file that the user did.

    That of a full disk names none, and others the ``temporary`` file or folder that is to take its place.
    """
    try:
        yield
    except OSError as error:
        name, place = error.filename, None
        if name is None and (error.errno in _FULL or _SHORT.fullmatch(str(error))):
            place = path
        elif temporary is not None and isinstance(name, str | os.PathLike) and Path(name).is_relative_to(temporary):
            place = path / Path(name).relative_to(temporary)
        if place is None:
            raise
        number = error.errno or errno.ENOSPC
        raise OSError(number, error.strerror or os.strerror(number), str(place)) from error


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: it appears complete or not at all, whatever others read or write."""
    temporary = temporary_path(path)
    try:
        with naming_file(path, temporary):
            temporary.write_text(text)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _end_by_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        # A process that is killed takes its workers with it: they would wait for work for ever. 1: PR_SET_PDEATHSIG.
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextlib.contextmanager
def worker_pool(workers: int, context: BaseContext | None = None) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once, without tracebacks, when the body is interrupted."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

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


class Command(Protocol):
    """The ``main`` of a command line: from arguments, those of the process without, to the exit status."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run it."""


def interruptible(main: Command) -> Command:
    """A command line that ends with one line on stderr and exit code 130 on Ctrl-C."""

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except KeyboardInterrupt as error:
            # Amaranth warns of every component that is never elaborated, when it goes.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                traceback.clear_frames(error.__traceback__)
                error.__traceback__ = error.__context__ = None
                gc.collect()
            print("interrupted", file=sys.stderr)
            return 130

    return run
