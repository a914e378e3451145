"""``python -m sim``: co-simulate every variant, tiny and 16 x 16, against the golden model."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.command_line import Parser, interruptible, worker_pool, writable_folder, write_text
from hw.config import PRESETS, VARIANTS, ConfigError, preset
from sim.toolchain import BUILD, check_extra

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sim.cosim import JobResult

SIZES = ("tiny", "16")


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def _totals(results: Sequence[JobResult]) -> dict[str, int]:
    unpaused = [result for result in results if not result.paused]
    return {
        "layers": len(results),
        "sums": sum(result.sums for result in results),
        "psums": sum(result.psums for result in results),
        "mismatches": sum(result.mismatches for result in results),
        "cycles": sum(result.cycles for result in unpaused),
        "predicted": sum(result.predicted for result in unpaused),
    }


def _table(totals: Mapping[str, Mapping[str, int]], failures: Iterable[str]) -> Table:
    from rich.table import Table

    table = Table(title="Co-simulation against the golden model")
    table.add_column("preset")
    columns = ("layers", "sums", "psums", "mismatches", "cycles", "predicted")
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in totals.items():
        table.add_row(name, *(f"{values[column]:,}" for column in columns))
    for name in failures:
        table.add_row(name, *["failed", *[""] * 5])
    table.caption = "cycles and predicted: of the layers that ran without pauses"
    return table


def report(
    results: Mapping[str, Sequence[JobResult]],
    errors: Mapping[str, str],
    facts: Mapping[str, Any],
    folder: Path = BUILD,
) -> int:
    """Write ``summary.json``, print the table and what failed, and return the exit status.

    Parameters
    ----------
    results
        By preset.
    errors
        Presets that gave no results, and why.
    facts
        Goes into the summary as it is.
    """
    console = _console()
    failures = dict(errors)
    for name, jobs in results.items():
        wrong = [f"{x.session}: {x.message or f'{x.cycles} cycles, not {x.predicted}'}" for x in jobs if not x.passed]
        if wrong:
            failures[name] = "\n".join(wrong)
    totals = {name: _totals(jobs) for name, jobs in results.items()}
    whole = {key: sum(values[key] for values in totals.values()) for key in _totals([])}
    console.print(_table({**totals, "total": whole}, errors))
    for name, text in failures.items():
        console.print(f"{name}: {text}", markup=False)
    summary = {
        "passed": not failures,
        **facts,
        "total": whole,
        "failures": failures,
        "presets": {
            name: {
                "configuration": PRESETS[name].to_dict(),
                "total": totals[name],
                "jobs": [asdict(result) for result in jobs],
            }
            for name, jobs in results.items()
        },
    }
    write_text(writable_folder(folder) / "summary.json", json.dumps(summary, indent=1) + "\n")
    verdict = "FAILED" if failures else "all bit-exact, in as many cycles as predicted"
    console.print(f"{whole['sums']:,} sums and {whole['psums']:,} partial sums compared: {verdict}")
    return 1 if failures else 0


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0 if everything is bit-exact and in as many cycles as predicted, else 1."""
    parser = Parser(prog="python -m sim", description=__doc__)
    names = [f"{variant}-{size}" for size in reversed(SIZES) for variant in VARIANTS]
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"default: {', '.join(sorted(names))}")
    parser.add_argument("--seed", type=int, default=0, help="of layers, activations and pauses (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="instances at a time (default: 2)")
    options = parser.parse_args(arguments)
    check_extra(parser)

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from sim.runner import BuildError, SimulationError
    from sim.scenarios import run_preset
    from sim.toolchain import ToolchainError, verilator_version

    for name in options.presets:
        try:
            preset(name)
        except ConfigError as error:
            parser.error(str(error))
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {options.jobs}")
    if options.seed < 0:
        parser.error(f"--seed must be at least 0, not {options.seed}")
    names = options.presets or names
    try:
        versions = {package: metadata.version(package) for package in ("cocotb", "amaranth", "pyosys")}
        tools = {"verilator": verilator_version(), **versions}
    except ToolchainError as error:
        print(error, file=sys.stderr)
        return 1

    started = time.perf_counter()
    results: dict[str, list[JobResult]] = {}
    failures: dict[str, str] = {}
    spawn = multiprocessing.get_context("spawn")
    with (
        Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=_console()) as progress,
        worker_pool(options.jobs, spawn) as pool,
    ):
        task = progress.add_task("building and simulating", total=len(names))
        futures = {pool.submit(run_preset, name, options.seed): name for name in names}
        for future in as_completed(futures):
            name = futures[future]
            try:
                results[name] = future.result()
            except (BuildError, SimulationError) as error:
                failures[name] = str(error)
            progress.update(task, advance=1, description=f"{name} done")

    results = {name: results[name] for name in names if name in results}
    return report(results, failures, {"seconds": time.perf_counter() - started, "seed": options.seed, "tools": tools})


if __name__ == "__main__":
    sys.exit(main())
