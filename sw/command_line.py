"""What the command lines share: the options of an instance, and how they end."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from hw.command_line import Parser, add_set_option
from hw.config import PRESETS

__all__ = [
    "DEFAULT_PRESET",
    "DefaultsFormatter",
    "OptionError",
    "Parser",
    "add_image_option",
    "add_instance_options",
    "check_folders",
    "check_outputs",
    "exit_status",
    "image_shape",
    "run_command",
]

#: Options of commands that are files which they read.
INPUTS = (
    "network", "model", "weights", "checkpoint", "module", "data", "classes", "rules", "candidates", "container",
    "program", "inputs",
)  # fmt: skip

#: The instance where none is named.
DEFAULT_PRESET = "ews-cms-16"


class OptionError(ValueError):
    """An option's value that is none of those it takes. The message names the option, the value and an example."""


class DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default of an argument to its help, where there is one and the help does not say it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.default is None or action.default is False or "default" in (action.help or "")
        return action.help if told else super()._get_help_string(action)


def check_folders(*paths: str | None) -> None:
    """Check that the folders of files to write are there: a mistyped one is not made.

    Raises
    ------
    FileNotFoundError
        One is not; the message names it.
    """
    for path in paths:
        if path and not (folder := Path(path).parent).exists():
            raise FileNotFoundError(f"cannot write {path!r}: the folder {str(folder)!r} does not exist")


def check_outputs(options: argparse.Namespace, *names: str, kept: Sequence[Path] = ()) -> None:
    """Check files to write, before long work: their folders (:func:`check_folders`), and that they replace no input.

    Parameters
    ----------
    options
        Of the command. Its inputs are those of :data:`INPUTS`, of a network ``NAME:CLASS`` its module's file, and of
        a checkpoint in parts (``.index.json``) each part.
    names
        Options of files to write; those that are None are not written.
    kept
        Files that the command reads and writes itself, such as checkpoints.

    Raises
    ------
    OptionError
        A file to write has no name.
    FileNotFoundError
        A folder does not exist.
    FileExistsError
        A file to write or one that is kept is an input, or a file to write is another one of these.
    """
    outputs = {name: str(value) for name in names if (value := getattr(options, name)) is not None}
    for name, path in outputs.items():
        if not path:
            # As of a variable of a script that is not set: nothing would be written, without a word.
            raise OptionError(f"{_flag(name)} must name a file, not {path!r}")
    check_folders(*outputs.values())
    inputs: list[str] = []
    for name in INPUTS:
        value = getattr(options, name, None)
        inputs += [str(each) for each in (value if isinstance(value, list | tuple) else [value]) if each is not None]
    inputs += [f"{each.partition(':')[0].replace('.', '/')}.py" for each in inputs if ":" in each]
    inputs += [str(Path(each).with_name(name)) for each in inputs for name in _parts(each)]
    known = {os.path.realpath(each): each for each in inputs if os.path.isfile(each)}
    places = [os.path.realpath(path) for path in outputs.values()]
    own = {os.path.realpath(each): str(each) for each in kept}
    written = dict(zip(outputs.values(), places, strict=True))
    for path, place in (written | {path: place for place, path in own.items()}).items():
        if place in known:
            raise FileExistsError(f"cannot write {path!r}: it would replace {known[place]!r}, which the command reads")
    for path, place in written.items():
        if place in own:
            raise FileExistsError(f"cannot write {path!r}: it is a file of the command's own, {own[place]!r}")
    if len(set(places)) < len(places):
        *flags, last = map(_flag, names)
        given = ", ".join(map(repr, outputs.values()))
        raise FileExistsError(f"{', '.join(flags)} and {last} must name different files, not {given}")


def _flag(name: str) -> str:
    return "-o" if name == "output" else f"--{name}"


def _parts(path: str) -> set[str]:
    """Names of the files beside it that a checkpoint in parts is in; none of anything else."""
    if not path.endswith(".index.json"):
        return set()
    try:
        named = json.loads(Path(path).read_bytes())["weight_map"].values()
        return {name for name in named if isinstance(name, str) and Path(name).name == name}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()  # whoever reads it says what is wrong


def add_instance_options(parser: argparse.ArgumentParser, default: str | None = DEFAULT_PRESET) -> None:
    """``--preset`` and ``--set``. ``default`` is the preset's; with None it can be told whether one was named."""
    parser.add_argument("--preset", default=default, metavar="NAME", help=f"{', '.join(PRESETS)} ({DEFAULT_PRESET})")
    add_set_option(parser)


def add_image_option(parser: argparse.ArgumentParser) -> None:
    """``--image C,R,S``, for :func:`image_shape`."""
    parser.add_argument("--image", metavar="C,R,S", help="channels, rows and columns of the image (the container's)")


def image_shape(text: str) -> tuple[int, int, int]:
    """``[C, rows, columns]`` of what ``--image`` says.

    Raises
    ------
    OptionError
        They are not three integers.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise OptionError(f"--image must be three integers C,R,S, such as 3,224,224, not {text!r}")
    C, rows, columns = map(int, parts)
    return C, rows, columns


def run_command(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    run: Callable[[argparse.Namespace], int | None],
    interrupted: str = "interrupted",
) -> int:
    """The exit status of a command (:func:`exit_status`) that runs with the options that its parser finds.

    ``arguments`` are those of the command line by default; the parser ends the program where they are bad.
    """
    options = parser.parse_args(arguments)
    return exit_status(parser.prog, lambda: run(options), interrupted)


def exit_status(prog: str, run: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """What a command returns, 0 for None; or with one line on standard error 2 for bad input, and 130 for Ctrl-C.

    ``interrupted`` is what that line says after Ctrl-C. Every other exception is a fault of this program: 70, and a
    line that names it and its place; with the environment variable ``MSVQ_TRACEBACK`` it is raised.
    """
    try:
        return run() or 0
    except (ValueError, OSError) as error:
        print(f"{prog}: {_one_line(error)}", file=sys.stderr)
        return 2
    except MemoryError as error:
        return _no_memory(prog, error)
    except RecursionError:
        print(f"{prog}: what a file holds is nested too deeply", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: {interrupted}", file=sys.stderr)
        return 130
    except Exception as error:
        # Torch has errors of its own for it, on the CPU and on a GPU.
        if "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
            return _no_memory(prog, error)
        if os.environ.get("MSVQ_TRACEBACK"):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"{prog}: internal error, {type(error).__name__}: {_one_line(error)} ({Path(place.filename).name}, line"
            f" {place.lineno}); MSVQ_TRACEBACK=1 shows where it came from",
            file=sys.stderr,
        )
        return 70


def _no_memory(prog: str, error: BaseException) -> int:
    print(f"{prog}: there is not enough memory: {_one_line(error) or 'an allocation failed'}", file=sys.stderr)
    return 2


def _one_line(error: BaseException) -> str:
    """The message, whatever a library or a name in a file puts into it."""
    return " ".join(str(error).split())
