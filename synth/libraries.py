"""The cell libraries that a command line offers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.command_line import Parser, path_argument, writable_folder
from hw.config import AcceleratorConfig, preset

if TYPE_CHECKING:
    from synth.liberty import Library

__all__ = ["STORAGES", "LibraryParser", "clock_gating", "instance_label", "instances", "write_tables"]

#: How registers are kept. ``flipflop``: a register with an enable is flip-flops with multiplexers, which every library
#: has. ``gated``: a clock gate stops its clock instead. ``latch``: the bits of register files are latches behind clock
#: gates.
STORAGES = ("flipflop", "gated", "latch")


def clock_gating(storage: str) -> list[str]:
    """Changes of a configuration (:meth:`hw.config.AcceleratorConfig.override`) that a storage needs: where a library's
    clock gates are used, pipeline registers are behind them, too."""
    return [] if storage == "flipflop" else ["clock_gating=true"]


def instance_label(preset_name: str, changes: Sequence[str]) -> str:
    """What tables call an instance: the preset, and what was changed of it (``--set``), as ``--preset`` reads both."""
    return " ".join([preset_name, *changes])


def instances(names: Iterable[str], changes: Sequence[str], storage: str) -> dict[str, AcceleratorConfig]:
    """Presets as they are changed, with what a storage needs, by what tables call them.

    Raises
    ------
    hw.config.ConfigError
        There is no such preset, or it cannot be changed so.
    """
    given = [*clock_gating(storage), *changes]
    return {instance_label(name, changes): preset(name).override(given) for name in names}


class LibraryParser(Parser):
    """A parser with ``--pdk``, ``--lib`` and ``-o``. Errors are one line and exit code 2."""

    def __init__(self, module: str, description: str) -> None:
        super().__init__(prog=f"python -m {module}", description=description)
        self.add_argument("--pdk", metavar="NAME", help="generic (the default) or osu018")
        self.add_argument(
            "--lib",
            metavar="PATH",
            action="append",
            type=path_argument,
            default=[],
            help="a Liberty file, plain or .gz; more than one adds up",
        )
        self.add_argument(
            "-o",
            metavar="DIR",
            type=path_argument,
            dest="folder",
            default=Path("build/synth"),
            help="where reports go",
        )

    @staticmethod
    def library(options: argparse.Namespace) -> Library:
        """The library that the options name.

        Raises
        ------
        LibraryError
            There is no such library, or both options are given.
        """
        from synth.generic import generic
        from synth.liberty import LibraryError, load
        from synth.osu018 import osu018

        if options.pdk and options.lib:
            raise LibraryError("give a named library or Liberty files, not both")
        if options.lib:
            return load(options.lib)
        if options.pdk in (None, "generic"):
            return generic()
        if options.pdk == "osu018":
            return osu018(Path("build/synth"))
        raise LibraryError(
            f"unknown library {options.pdk!r}; the libraries are generic, osu018, or a Liberty file with --lib (LIB=)"
        )


def write_tables(
    name: str,
    about: str,
    measure: Callable[[Library], dict[str, Any]],
    markdown: Callable[[dict[str, Any]], Iterator[str]],
    arguments: Sequence[str] | None,
) -> int:
    """The command ``python -m synth.NAME``: measure with a library, write ``NAME.json`` and ``NAME.md``, print these.

    Returns the exit code: 0, or 2 after one line on stderr.
    """
    parser = LibraryParser(f"synth.{name}", about)
    options = parser.parse_args(arguments)

    from hw.yosys import YosysError
    from sw.format.strict_json import json_text
    from synth.liberty import LibraryError
    from synth.report import write_files

    try:
        library = parser.library(options)
        folder = writable_folder(options.folder)
        report = measure(library)
        text = "\n".join(markdown(report)) + "\n"
        write_files(folder, {f"{name}.json": json_text(report), f"{name}.md": text})
    except (LibraryError, YosysError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write: {error}")
    print(text)
    return 0
