"""The table of layers: what a run, or a model of it, says of each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

from hw.config import AcceleratorConfig
from sw.perf.timing import CAUSES, LayerTiming, total, traffic_bytes, utilisation

__all__ = ["layer_entries", "layer_table", "print_layers", "print_whole", "traffic_table"]


def layer_entries(
    config: AcceleratorConfig, timings: Sequence[LayerTiming], model: Sequence[LayerTiming] | None = None
) -> list[dict[str, Any]]:
    """What JSON can hold of each layer, and of all together.

    Parameters
    ----------
    config
        The instance.
    timings
        Of the layers.
    model
        What a model says beside it: its cycles come too, as ``model_cycles``.

    A layer's cycles end with it and begin where the layer before ends. Where its operations and its waiting are more
    than that, it began beside the layer before: ``overlap`` is how much earlier, and utilisation is of all the cycles
    in which the layer ran. ``other`` of ``lost`` is what remains of its cycles.
    """
    predicted = {timing.name: timing.counters["cycles"] for timing in model or ()}
    predicted["total"] = sum(predicted.get(timing.name, 0) for timing in timings)
    found = []
    for timing in [*timings, LayerTiming("total", "", sum(timing.macs for timing in timings), total(timings))]:
        counters = timing.counters
        lost = {cause: counters[counter] for cause, counter in CAUSES.items()}
        rest = counters["cycles"] - counters["operations"] - sum(lost.values())
        overlap, lost["other"] = max(0, -rest), max(0, rest)
        entry: dict[str, Any] = {
            "layer": timing.name,
            "operation": timing.operation,
            "macs": timing.macs,
            "overlap": overlap,
            "utilisation": utilisation(config, timing.macs, counters["cycles"] + overlap),
            "lost": lost,
            "bytes": traffic_bytes(config, counters),
            "counters": counters,
        }
        if model is not None:
            entry["model_cycles"] = predicted.get(timing.name)
        found.append(entry)
    return found


def _table(entries: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None)
    table.add_column("layer", no_wrap=True, min_width=max(len(entry["layer"]) for entry in entries))
    table.add_column("operation", no_wrap=True)
    return table


def layer_table(entries: Sequence[dict[str, Any]], traffic: bool = True) -> Table:
    """The entries of :func:`layer_entries` for a terminal, with the bytes at each memory or without."""
    compared = "model_cycles" in entries[0]
    table = _table(entries)
    headings = ["cycles", *(["model %"] if compared else []), "begun before", "MACs", "utilisation %"]
    headings += entries[0]["lost"]
    memories = list(entries[0]["bytes"]) if traffic else []
    for heading in (*headings, *(name.replace("_", " ") for name in memories)):
        table.add_column(heading, justify="right")
    for entry in entries:
        cycles = entry["counters"]["cycles"]
        cells = [str(cycles)]
        if compared:
            predicted = entry["model_cycles"]
            cells.append("-" if not cycles or predicted is None else f"{100 * (predicted / cycles - 1):+.2f}")
        cells += [
            str(entry["overlap"]),
            str(entry["macs"]),
            f"{100 * entry['utilisation']:.1f}",
            *(str(x) for x in entry["lost"].values()),
        ]
        table.add_row(entry["layer"], entry["operation"], *cells, *(str(entry["bytes"][name]) for name in memories))
    return table


def traffic_table(entries: Sequence[dict[str, Any]]) -> Table:
    """The bytes at each memory alone."""
    table = _table(entries)
    for name in entries[0]["bytes"]:
        table.add_column(name.replace("_", " "), justify="right")
    for entry in entries:
        table.add_row(entry["layer"], entry["operation"], *(str(x) for x in entry["bytes"].values()))
    return table


def print_whole(what: RenderableType) -> None:
    """Print for a terminal of its width, and into a file or a pipe with nothing cut, however wide."""
    console = Console()
    if not sys.stdout.isatty():
        wide = console.options.update(width=1 << 16)
        console = Console(width=Measurement.get(console, wide, what).maximum)
    console.print(what)


def print_layers(entries: Sequence[dict[str, Any]]) -> None:
    """Print the table of layers; where the terminal is too narrow, its bytes in a second one below."""
    table, console = layer_table(entries), Console()
    wide = console.options.update(width=1 << 16)
    if not sys.stdout.isatty() or Measurement.get(console, wide, table).maximum <= console.width:
        print_whole(table)
        return
    console.print(layer_table(entries, traffic=False))
    console.print()
    console.print(traffic_table(entries))
