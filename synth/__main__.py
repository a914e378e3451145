"""``python -m synth``: area by block and delays of the variants, into build/synth/area.json, timing.json and .md.

The array with its decoder of every variant (:data:`MATRIX`), all of the accelerator of some (:data:`WHOLE`), and the
delays of :data:`synth.timing.PRESETS`, section by section. With ``--preset`` the areas of those alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hw.command_line import add_set_option, interruptible, writable_folder
from hw.config import VARIANTS, AcceleratorConfig, ConfigError, preset
from synth.libraries import STORAGES, LibraryParser, clock_gating, instances

__all__ = ["MATRIX", "WHOLE", "main"]

#: Variants of MVQ table 7, and the best of ours.
_PAPER = ("ws", "ws-cms", "ews", "ews-c", "ews-cm", "ews-cms", "ews-msvq")

#: All variants, and those that differ from one in a field.
_ALL = (*VARIANTS, "ews-msvq-full", "ews4", "ews-msvq4")

#: Presets of which ``make synth`` reports array and decoder; of the size 32 those of the paper's table.
MATRIX = (
    *(f"{name}-{size}" for size, names in ((16, _ALL), (32, _PAPER), (64, _ALL)) for name in names),
    *("ews-cms-500mhz", "ews-msvq-500mhz", "ews-msvq4-500mhz", "ews-msvq4-800mhz"),
)

#: Those of which it reports what is around the array, too.
WHOLE = tuple(
    f"{name}-{size}"
    for size in (16, 64)
    for name in ("ews", "ews-cms", "ews-msvq", "ews-msvq-full", "ews4", "ews-msvq4")
)


def _around(options: argparse.Namespace, configs: Mapping[str, AcceleratorConfig]) -> Collection[str]:
    """Names of those of which there is to be a report of what is around the array, too."""
    if not options.preset:
        return WHOLE
    if not options.around:
        return ()
    for name, config in configs.items():
        if config.word_width & (config.word_width - 1):
            raise ConfigError(
                f"--around needs a bus: the word_width of {name} must be a power of two, not {config.word_width}"
            )
    return configs


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 after one line on stderr."""
    parser = LibraryParser("synth", (__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", metavar="NAME", action="append", help=f"default: {', '.join(MATRIX)}")
    add_set_option(parser)
    parser.add_argument(
        "--storage",
        choices=STORAGES,
        default=STORAGES[0],
        help="how registers are kept; but for %(default)s clock gates, and clock_gating in every instance",
    )
    parser.add_argument("--unit", metavar="NAME", help="print the area of one unit alone: mask_decoder, row, tile, ...")
    parser.add_argument("--around", action="store_true", help="of each --preset also what is around the array")
    options = parser.parse_args(arguments)

    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hw.yosys import YosysError
    from synth import timing
    from synth.liberty import LibraryError
    from synth.opensta import OpenSTAError
    from synth.report import CACHE, area, rtlil_texts, unit_area, unit_areas, write

    if options.set and not options.preset:
        parser.error(
            f"--set must be given with --preset NAME, whose field it changes; without it {len(MATRIX)} presets are"
            " synthesised as they are"
        )
    if options.around and (options.unit or not options.preset):
        parser.error(
            "--around must be given with --preset NAME and without --unit; without --preset it is reported of"
            f" {len(WHOLE)} presets"
        )
    try:
        gating = clock_gating(options.storage)
        configs = instances(options.preset or MATRIX, options.set, options.storage)
        around = _around(options, configs)
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
        if not options.preset:
            print(
                f"{len(MATRIX)} arrays, {len(WHOLE)} of them with all around them, and delays of {len(timing.PRESETS)}:"
                " many minutes where they are not cached; --preset NAME is one array",
                file=sys.stderr,
            )
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
                if name in around:
                    task = progress.add_task(f"{name}, around the array", total=None)
                    units, bits = unit_areas(config, library, options.storage, CACHE, partial(step, task=task))
                    reports[name] = replace(reports[name], units=units, memory_bits=bits)
            # Delays know no latches.
            style = "gated" if gating else "flipflop"
            names = () if options.preset else timing.PRESETS
            timed = {name: preset(name).override(gating) for name in names}
            delays = {}
            for name, config in timed.items():
                task = progress.add_task(f"{name}, delays", total=None)
                delays[name] = timing.delays(config, library, progress=partial(step, task=task), style=style)
        paths = write(reports, library, options.storage, options.folder)
        if delays:
            paths += timing.write(delays, timed, library, timing.CLOCK, options.folder, style)
    except (ConfigError, LibraryError, OpenSTAError, YosysError, ValueError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write: {error}")
    for path in paths[1::2]:
        console.print(Markdown(path.read_text())) if console.is_terminal else print(path.read_text())
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
