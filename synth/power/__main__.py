"""``python -m synth.power``: energy of the variants from gate-level simulation, into build/synth/power.json and .md.

Netlists come from the flow of the area report. Layers of a real network run on them, 64 layer tiles side by side, and
every sum is compared with the golden model. Toggles and the energies of the Liberty file give fJ a multiply-accumulate,
by block, with and without glitches, and of stalls and idling.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from hw.command_line import add_set_option, interruptible, path_argument, worker_pool, writable_folder
from hw.config import ConfigError, preset
from synth.libraries import LibraryParser, clock_gating, instance_label

if TYPE_CHECKING:
    from synth.power.report import Described

__all__ = ["PRESETS", "main"]

#: Instances that ``make power`` measures. N = 8 is for the paper's comparison with S2TA, at 50 %.
PRESETS = (
    *(
        f"{variant}-{size}"
        for size in (16, 64)
        for variant in ("ws", "ws-cms", "ews", "ews-c", "ews-cm", "ews-cms", "ews-ssvq", "ews-msvq", "ews-msvq4")
    ),
    "ews-cms-64 N=8",
)

#: Networks whose layers can run (:data:`synth.power.sources.NETWORKS`).
NETWORKS = ("efficientnet-lite0", "resnet18", "resnet20")

#: The paper's clock of 0.3 GHz, ps.
PERIOD = 1e12 / 300e6

STORAGES = ("gated", "flipflop")


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 1 if the netlist and the golden model differ, or 2."""
    parser = LibraryParser("synth.power", (__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--preset",
        metavar="NAME",
        action="append",
        help=f'fields may follow the name, as in "ews-cms-64 N=8" (default: {", ".join(PRESETS)})',
    )
    add_set_option(parser)
    parser.add_argument(
        "--storage", choices=STORAGES, default=STORAGES[0], help="registers behind clock gates, pipeline registers too"
    )
    parser.add_argument("--network", choices=NETWORKS, default="efficientnet-lite0", help="whose layers run")
    parser.add_argument("--photograph", type=path_argument, help="what the network sees (one of scikit-learn's)")
    parser.add_argument("--period", metavar="PS", type=float, default=PERIOD, help="clock cycle (default: 0.3 GHz)")
    parser.add_argument("--wire", metavar="NAME", help="a wire_load of the library (its default)")
    parser.add_argument("--no-glitches", action="store_true", help="leave out the timed cycles")
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s); results are the same")
    options = parser.parse_args(arguments)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hw.yosys import YosysError
    from sim.networks.activations import load_photograph, photograph_path
    from sw.compress.methods import CompressError
    from sw.format.picture import PictureError
    from synth.liberty import LibraryError
    from synth.power.cells import characterise
    from synth.power.measure import TIMED, PowerError
    from synth.power.report import measure_instance, write
    from synth.power.simulator import SimulatorError
    from synth.power.sources import SourceError, check_network

    console = Console(stderr=True)
    if not 0 < options.period < 1e9:
        parser.error(f"--period must be above 0 and below 1e9 ps, not {options.period:g}")
    if not 1 <= options.jobs <= 64:
        parser.error(f"--jobs must be in 1..64, not {options.jobs}")
    try:
        gating = clock_gating(options.storage)
        configs = {}
        for name in options.preset or PRESETS:
            base, *fields = name.split() or [name]
            configs[instance_label(name, options.set)] = preset(base).override([*fields, *gating, *options.set])
        library = parser.library(options)
        if options.storage == "gated" and library.clock_gate is None:
            raise LibraryError(f"library {library.name} has no clock gate, which storage gated needs")
        wire = characterise(library, [], options.wire).wire.name  # before the minutes that large arrays take
        for name, config in configs.items():
            try:
                check_network(options.network, config)
            except SourceError as error:
                raise SourceError(f"{name}: {error}") from None
        if options.photograph is not None:
            load_photograph(options.photograph)
        folder = writable_folder(options.folder)
        chosen = {
            "network": options.network,
            "photograph": options.photograph or photograph_path(),
            "storage": options.storage,
            "period": options.period,
            "wire": options.wire,
            "glitches": not options.no_glitches,
        }
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        found: dict[str, Described] = {}
        with Progress(*columns, console=console) as progress, worker_pool(options.jobs) as pool:
            task = progress.add_task("energy", total=len(configs))
            futures = {pool.submit(measure_instance, config, library, chosen): name for name, config in configs.items()}
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                progress.advance(task)
        presets = {name: found[name] for name in configs}
        settings = {
            "network": options.network,
            "photograph": Path(chosen["photograph"]).name,
            "storage": options.storage,
            "period": options.period,
            "wire": wire,
            "timed_cycles": 0 if options.no_glitches else TIMED,
            "area_unit": library.area_unit,
            "unit": "fJ" if library.area_unit == "um2" else "C V^2 / 1000",
        }
        paths = write(presets, library, settings, folder)
    except (PowerError, SimulatorError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except (ConfigError, LibraryError, SourceError, CompressError, YosysError) as error:
        parser.error(str(error))
    except PictureError as error:
        parser.error(f"--photograph {str(options.photograph)!r}: {error}")
    except OSError as error:
        parser.error(f"cannot read or write: {error}")
    print(paths[1].read_text())
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
