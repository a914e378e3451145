"""``python -m synth``: area by block of the variants, into build/synth/area.json and area.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hw.command_line import interruptible, writable_folder
from hw.config import ConfigError, preset
from hw.yosys import YosysError
from synth.flow import STORAGES
from synth.liberty import LibraryError
from synth.libraries import LibraryParser
from synth.report import CACHE, area, rtlil_texts, unit_area, unit_areas, write

__all__ = ["MATRIX", "main"]

#: What ``make synth`` reports.
MATRIX = tuple(
    f"{variant}-{size}" for size in (16, 64) for variant in ("ws", "ews", "ews-c", "ews-cm", "ews-cms", "ews-msvq")
)


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 after one line on stderr."""
    parser = LibraryParser("synth", __doc__ or "")
    parser.add_argument("--preset", metavar="NAME", action="append", help=f"default: {', '.join(MATRIX)}")
    parser.add_argument("--set", metavar="FIELD=VALUE", action="extend", nargs="+", default=[], help="override a field")
    parser.add_argument("--storage", choices=STORAGES, default=STORAGES[0], help="how registers are kept")
    parser.add_argument("--unit", metavar="NAME", help="print the area of one unit alone: mask_decoder, row, tile, ...")
    parser.add_argument("--around", action="store_true", help="also what stands around the array: takes minutes")
    options = parser.parse_args(arguments)
    try:
        configs = {name: preset(name).override(options.set) for name in options.preset or MATRIX}
        library = parser.library(options)
        console = Console()
        if options.unit:
            for name, config in configs.items():
                part, count = unit_area(config, options.unit, library, options.storage)
                delay = "no gates" if part.delay is None else f"delay {part.delay:.0f}"
                nand2 = part.area / library.nand2.area
                figures = f"{part.area:.1f} {library.area_unit} = {nand2:.1f} NAND2 each, {count} of them, {delay}"
                console.print(f"{name} {options.unit}: {figures}", soft_wrap=True)
            return 0
        writable_folder(options.folder)  # before the minutes that large arrays take
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("RTLIL", total=len(configs))
            texts = rtlil_texts(configs, progress=lambda name: progress.advance(task))
            reports = {}
            for name, config in configs.items():
                task = progress.add_task(name, total=None)

                def step(done: int, total: int, task: Any = task) -> None:
                    progress.update(task, completed=done, total=total)

                reports[name] = area(config, library, options.storage, CACHE, texts[name], step)
                if options.around and config.word_width & (config.word_width - 1) == 0:  # others have no bus
                    task = progress.add_task(f"{name}, around the array", total=None)
                    units, bits = unit_areas(config, library, options.storage, CACHE, partial(step, task=task))
                    reports[name] = replace(reports[name], units=units, memory_bits=bits)
        paths = write(reports, library, options.storage, options.folder)
    except (ConfigError, LibraryError, YosysError, ValueError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write: {error}")
    console.print(Markdown(paths[1].read_text())) if console.is_terminal else print(paths[1].read_text())
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
