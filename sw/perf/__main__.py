"""``python -m sw.perf``: cycles, traffic and utilisation of a network on an instance, or on many, from its shapes.

NETWORK is a container with its operations, or a .json file of shapes (sw/perf/shapes.py says how). With --sweep all
combinations of the values are estimated, one line each; fields that go together are one axis: N:M=2:4,4:16. For a
compiled program, the command run with --backend perf is slower and more exact.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.config import ConfigError, preset
from sw.command_line import (
    DEFAULT_PRESET,
    Parser,
    add_image_option,
    add_instance_options,
    check_outputs,
    image_shape,
    run_command,
)
from sw.perf.timing import Latencies

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    return run_command(_parser(), arguments, _run)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m sw.perf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", metavar="NETWORK")
    add_instance_options(parser, default=None)
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="FIELD=A,B,...",
        help="values of a field, or of several: N:M=2:4,4:16; preset=A,B for presets",
    )
    add_image_option(parser)
    parser.add_argument("--latency", type=int, default=Latencies().read, help="of the DRAM, in cycles (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the table; of a sweep, each instance's total")
    parser.add_argument("--csv", metavar="FILE", help="write the table of a sweep")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _run(options: argparse.Namespace) -> None:
    check_outputs(options, "json", "csv")

    from rich.console import Console
    from rich.progress import track

    from sw.format.output import staged
    from sw.perf.estimate import estimate
    from sw.perf.report import layer_entries, print_layers, print_whole
    from sw.perf.shapes import ShapesError, read_workload
    from sw.perf.sweep import check_fields, check_instances, misfit, sweep_points

    points = sweep_points(options.sweep)
    check_fields(points, sets=options.set, base=options.preset)
    options.preset = options.preset or DEFAULT_PRESET
    config = preset(options.preset).override(options.set)
    if not 0 <= options.latency < 1 << 20:
        raise ShapesError(f"--latency must be in 0..{(1 << 20) - 1}, not {options.latency}")
    if options.csv and not options.sweep:
        raise ShapesError("--csv is for a sweep")
    check_instances(options.preset, options.set, points)
    workload = read_workload(options.network, image_shape(options.image) if options.image else None)
    latencies = Latencies(read=options.latency, write=options.latency)
    if options.sweep:
        rows = [
            _row(workload, options, point, latencies)
            for point in track(
                points, "estimates", console=Console(stderr=True), transient=True,
                disable=options.quiet or not sys.stderr.isatty(),
            )
        ]  # fmt: skip
        print_whole(_sweep_table(rows))
        result: Any = rows
    else:
        network = workload.network(config)
        entries = layer_entries(config, estimate(network, config, latencies))
        print_layers(entries)
        reason = misfit(network, config)
        if reason is not None:
            print(f"python -m sw.perf: warning: this network does not fit the instance: {reason}", file=sys.stderr)
        result = {"layers": entries[:-1], "total": entries[-1], "does_not_fit": reason}
    if options.json:
        with staged(options.json) as path:
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.csv:
        with staged(options.csv) as path:
            _write_csv(path, rows)


def _row(workload: Any, options: argparse.Namespace, point: Sequence[str], latencies: Latencies) -> dict[str, Any]:
    """One line of a sweep; of an instance that there cannot be, the reason alone."""
    from sw.perf.sweep import COLUMNS, instance, network_columns, point_fields

    row: dict[str, Any] = point_fields(point) | dict.fromkeys(COLUMNS)
    try:
        config = instance(options.preset, options.set, point)
    except ConfigError as error:
        return row | {"refused": str(error)}
    return row | network_columns(workload, config, latencies)


def _sweep_table(rows: Sequence[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name in ("refused", "does_not_fit") else "right")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    return table


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
