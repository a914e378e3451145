"""``python -m sw.perf``: cycles, traffic and utilisation of a network on an instance, or on many, from its shapes.

NETWORK is a container with its operations, or a .json file of shapes (sw/perf/shapes.py says how). With --sweep all
combinations of the values are estimated, one line each; fields that go together are one axis: N:M=2:4,4:16. For a
compiled program, python -m sw.run --backend perf is slower and more exact.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.config import AcceleratorConfig, ConfigError, preset
from sw.command_line import Parser, add_instance_options, check_folders, exit_status
from sw.perf.timing import Latencies

if TYPE_CHECKING:
    from rich.table import Table

    from sw.perf.estimate import Network

__all__ = ["main", "sweep_points"]

#: Columns of a sweep beside the fields that it changes.
COLUMNS = ("cycles", "utilisation", "dram_bytes", "l2_bytes", "l1_bytes", "psum_bytes", "refused", "does_not_fit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    return exit_status(parser.prog, lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m sw.perf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", metavar="NETWORK")
    add_instance_options(parser)
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="FIELD=A,B,...",
        help="values of a field, or of several: N:M=2:4,4:16",
    )
    parser.add_argument("--image", metavar="C,R,S", help="channels, rows and columns of the image (the container's)")
    parser.add_argument("--latency", type=int, default=Latencies().read, help="of the DRAM, in cycles (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the table; of a sweep, each instance's total")
    parser.add_argument("--csv", metavar="FILE", help="write the table of a sweep")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _image(text: str) -> tuple[int, int, int]:
    from sw.perf.shapes import ShapesError

    parts = text.split(",")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ShapesError(f"--image must be three integers C,R,S, such as 3,224,224, not {text!r}")
    C, rows, columns = map(int, parts)
    return C, rows, columns


def sweep_points(sweeps: Sequence[str]) -> list[tuple[str, ...]]:
    """All combinations of ``FIELD=A,B,...``, each as assignments for :meth:`AcceleratorConfig.override`.

    ``FIELD:FIELD=A:B,C:D,...`` is one axis of fields that go together, such as ``N:M=2:4,4:16``.

    Raises
    ------
    ShapesError
        One has no value, a field is swept twice, or values are not as many as their fields.
    """
    from sw.perf.shapes import ShapesError

    axes: list[list[tuple[str, ...]]] = []
    seen: set[str] = set()
    for text in sweeps:
        name, equals, values = text.partition("=")
        names = name.split(":")
        if not equals or not all(names) or not all(values.split(",")):
            raise ShapesError(f"--sweep must be FIELD=A,B,..., not {text!r}")
        for field in names:
            if field in seen:
                raise ShapesError(f"--sweep has {field} twice; give all its values at once: {field}=A,B,...")
            seen.add(field)
        axis = []
        for value in values.split(","):
            parts = value.split(":") if len(names) > 1 else [value]
            if len(parts) != len(names) or not all(parts):
                raise ShapesError(f"--sweep {name}: {value!r} must be {len(names)} values with colons between them")
            axis.append(tuple(f"{field}={part}" for field, part in zip(names, parts, strict=True)))
        axes.append(axis)
    return [tuple(itertools.chain(*point)) for point in itertools.product(*axes)]


def _misfit(network: Network, config: AcceleratorConfig) -> str | None:
    """Why the network's feature maps have no place in the instance's L2; the estimate is as if they had."""
    from sw.compiler.graph import CompileError
    from sw.compiler.placement import place

    try:
        place(config, network.graph, {})
    except CompileError as error:
        return str(error)
    return None


def _run(options: argparse.Namespace) -> None:
    check_folders(options.json, options.csv)

    from rich.console import Console
    from rich.progress import track

    from sw.format.output import staged
    from sw.perf.estimate import estimate
    from sw.perf.report import layer_entries, print_layers, print_whole
    from sw.perf.shapes import ShapesError, read_workload

    config = preset(options.preset).override(options.set)
    if not 0 <= options.latency < 1 << 20:
        raise ShapesError(f"--latency must be in 0..{(1 << 20) - 1}, not {options.latency}")
    if options.csv and not options.sweep:
        raise ShapesError("--csv is for a sweep")
    points = sweep_points(options.sweep)
    workload = read_workload(options.network, _image(options.image) if options.image else None)
    latencies = Latencies(read=options.latency, write=options.latency)
    if options.sweep:
        rows = [
            _point(workload, config, point, latencies)
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
        reason = _misfit(network, config)
        if reason is not None:
            print(f"python -m sw.perf: warning: this network does not fit the instance: {reason}", file=sys.stderr)
        result = {"layers": entries[:-1], "total": entries[-1], "does_not_fit": reason}
    if options.json:
        with staged(options.json) as path:
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.csv:
        with staged(options.csv) as path:
            _write_csv(path, rows)


def _point(workload: Any, config: AcceleratorConfig, point: Sequence[str], latencies: Latencies) -> dict[str, Any]:
    """One line of a sweep; of an instance that there cannot be, or that cannot run the network, the reason alone."""
    from sw.compiler.graph import CompileError
    from sw.perf.estimate import estimate
    from sw.perf.report import layer_entries

    row: dict[str, Any] = {text.partition("=")[0]: text.partition("=")[2] for text in point}
    row |= dict.fromkeys(COLUMNS)
    unknown = [name for name in row if name not in COLUMNS and name not in config.to_dict()]
    if unknown:
        raise ConfigError(f"unknown field {unknown[0]!r}; the fields are {', '.join(config.to_dict())}")
    try:
        instance = config.override(point)
        network = workload.network(instance)
        entry = layer_entries(instance, estimate(network, instance, latencies))[-1]
    except (ConfigError, CompileError) as error:
        return row | {"refused": str(error)}
    moved = entry["bytes"]
    row |= {"cycles": entry["counters"]["cycles"], "utilisation": round(entry["utilisation"], 4)}
    row["does_not_fit"] = _misfit(network, instance)
    return row | {
        f"{memory}_bytes": moved[f"{memory}_reads"] + moved[f"{memory}_writes"]
        for memory in ("dram", "l2", "l1", "psum")
    }


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
