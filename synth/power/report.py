"""Energies of instances as a file, and as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hw.config import AcceleratorConfig
from hw.control.descriptor import BYTES
from hw.generate import source_hash
from hw.yosys import yosys_version
from sw.format.strict_json import json_text
from sw.perf.estimate import estimate
from sw.perf.shapes import Shapes
from synth.liberty import Library
from synth.power.measure import IDLE, OPERATIONS, TIMED, WARM, WINDOW, Measurement, gate_netlist, measure
from synth.power.memories import memory_energy
from synth.power.sources import SHAPES, first_layer, real_layers
from synth.power.workload import lanes
from synth.report import CACHE, table, write_files

__all__ = ["Described", "describe", "markdown", "measure_instance", "network_energy", "write"]

Described = dict[str, Any]


@dataclass(frozen=True)
class NetworkEnergy:
    """A whole network: its counters (:data:`hw.control.counters.COUNTERS`), bytes of weights that come from DRAM, and
    fJ of the parts; ``first`` is what of the operations is of layers with 8-bit weights, the first and the last."""

    macs: int
    counts: Mapping[str, int]
    weights: int
    first: float
    operations: float
    row_writes: float
    waiting: float

    @property
    def array(self) -> float:
        """fJ of array and decoder."""
        return self.operations + self.row_writes + self.waiting


def network_energy(config: AcceleratorConfig, described: Mapping[str, Any], inner: bool = False) -> NetworkEnergy:
    """Energy of ResNet-18 without memories: its operations, rows of weights and cycles of waiting, each as measured.

    Layers with 8-bit weights on every instance, the first and the last one, take what was measured of the first layer
    (:func:`synth.power.sources.first_layer`): they use a part of the array, or run in passes of which each does.

    Not in it: what is around the array (sequencer, DMA, loaders, storer), and the writes of codewords.

    Parameters
    ----------
    described
        :func:`describe` of the instance, with its first layer.
    inner
        Without the layers with 8-bit weights, and without what loads the input.
    """
    entries = json.loads(SHAPES.read_text())
    network = Shapes(entries).network(config)
    raw = {entry["name"] for entry in entries if entry.get("raw") or entry["op"] == "logits"}
    word, places = config.word_width // 8, config.H * config.L
    counts: dict[str, int] = {}
    macs, fetched, operations, rows, ends = 0, 0, 0.0, 0.0, 0.0
    for timing, own in zip(estimate(network, config), network.mapped(config).counters, strict=True):
        if inner and timing.name in raw:
            continue
        for name, value in timing.counters.items():
            counts[name] = counts.get(name, 0) + value
        macs += timing.macs
        # Not the descriptors; ``own`` has no input.
        fetched += own["dram_reads"] - own["descriptors"] * max(1, BYTES // word)
        if timing.name in raw:
            energy = timing.counters["operations"] * described["first"]["operation"]
            rows += timing.counters["row_writes"] * described["first"]["row_write"]
            ends += energy
        else:
            # These layers fill the array, which the measured ones need not.
            energy = timing.counters["operations"] * described["per_mac"] * places
            rows += timing.counters["row_writes"] * described["row_write"]
        operations += energy
    waiting = max(0, counts["cycles"] - counts["operations"]) * described["stall"] * places
    return NetworkEnergy(macs, counts, fetched * word, ends, operations, rows, waiting)


def _network(config: AcceleratorConfig, described: Mapping[str, Any], inner: bool) -> Described:
    found = network_energy(config, described, inner)
    return {
        "macs": found.macs,
        "counters": dict(found.counts),
        "weights": found.weights,
        "first": found.first / found.macs,
        "array": {name: getattr(found, name) / found.macs for name in ("operations", "row_writes", "waiting")},
        "array_per_mac": found.array / found.macs,
    }


def describe(
    config: AcceleratorConfig, measured: Measurement, source: str, voltage: float | None, first: Measurement | None
) -> Described:
    """One instance, JSON-compatible.

    Parameters
    ----------
    first
        Of the first layer, for a network as a whole; None without one.
    source
        Where weights and activations come from.
    voltage
        V, for the memories; None for a library without a voltage of its own, whose energies are no fJ.
    """
    run, stall = measured.windows["run"], measured.windows["stall"]
    places = config.H * config.L
    macs, cycles = run.operations * measured.macs, stall.cycles * places
    blocks = {}
    for number, name in enumerate(measured.blocks):
        parts = {
            "data": run.energies.data[number] / macs,
            "clock": run.energies.clock[number] / macs,
            "leakage": run.energies.leakage[number] / macs,
            "stall": (stall.energies.data[number] + stall.energies.clock[number] + stall.energies.leakage[number])
            / cycles,
        }
        if any(parts.values()):
            blocks[name] = {key: float(value) for key, value in parts.items()}
    described: Described = {
        "configuration": config.to_dict(),
        "source": source,
        "layers": dict(measured.layers),
        "cells": measured.cells,
        "area": measured.area,
        "nets": measured.nets,
        "simulated": measured.simulated,
        "moved": measured.moved,
        "sums": measured.sums,
        "per_mac": measured.per_mac(),
        "blocks": blocks,
        "stall": measured.per_cycle("stall") / places,
        "idle": measured.per_cycle("idle") / places,
        "operation": measured.per_operation,
        "share": measured.macs / places,
        "row_write": measured.per_row,
    }
    if "timed" in measured.windows:
        described["glitches"] = measured.per_mac("timed") / measured.per_mac("functional") - 1
    if first is None:
        return described
    described["first"] = {
        "layers": dict(first.layers),
        "share": first.macs / places,
        "sums": first.sums,
        "operation": first.per_operation,
        "row_write": first.per_row,
    }
    entry: Described = {"name": SHAPES.stem, **_network(config, described, inner=False)}
    entry["inner"] = _network(config, described, inner=True)
    if voltage is not None:
        entry["voltage"] = voltage
    described["network"] = entry
    return described


def add_memories(presets: Mapping[str, Described]) -> None:
    """The memories of each instance's network, beside its array.

    The paper's costs are in multiply-accumulates: here those of multipliers and adder trees of the ``ews`` array of the
    same size, else of the instance itself.
    """

    def mac(entry: Described) -> float:
        parts = [entry["blocks"].get(name, {}) for name in ("multipliers", "adder trees")]
        return float(sum(part.get("data", 0.0) + part.get("clock", 0.0) for part in parts))

    units = {
        (e["configuration"]["H"], e["configuration"]["L"]): mac(e)
        for e in presets.values()
        if e["configuration"]["variant"] == "ews" and e["configuration"]["weight_bits"] == 8
    }
    for entry in presets.values():
        network = entry["network"]
        if "voltage" not in network:
            continue
        config = AcceleratorConfig.from_dict(entry["configuration"])
        unit = units.get((config.H, config.L), mac(entry))
        for scope in (network, network["inner"]):
            found = memory_energy(config, scope["counters"], network["voltage"], unit, scope["weights"])
            scope["memories"] = {
                "bytes": dict(found.bytes),
                "parts": {name: value / scope["macs"] for name, value in found.parts.items()},
                "model_per_mac": found.model / scope["macs"],
                "paper_per_mac": found.paper / scope["macs"],
                "staged_per_mac": found.staged / scope["macs"],
                "mac": unit,
            }


def _rounded(value: Any) -> Any:
    """Figures to eight digits: what sums of another order would change is beyond them."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def markdown(presets: Mapping[str, Described], settings: Mapping[str, Any]) -> Iterator[str]:
    """The tables, line by line."""
    unit = settings["unit"]
    base = {
        (e["configuration"]["H"], e["configuration"]["L"]): e
        for e in presets.values()
        if e["configuration"]["variant"] == "ews" and e["configuration"]["weight_bits"] == 8
    }

    def ratio(entry: Described, figure: Any) -> str:
        other = base.get((entry["configuration"]["H"], entry["configuration"]["L"]))
        return "" if other is None else f"{figure(other) / figure(entry):.2f}"

    yield f"# Energy, library {settings['library']['name']}, registers: {settings['storage']}, Yosys {yosys_version()}"
    yield ""
    header = ["preset", f"{unit} a MAC", "EWS / it", "with glitches", "EWS / it", "stall", "idle", "cells"]
    header += [f"area, {settings.get('area_unit', 'um2')}", "nets simulated", "moved", "sums compared"]
    rows = []
    for name, e in presets.items():
        glitches = 1 + e["glitches"] if "glitches" in e else None
        rows.append(
            [
                name,
                f"{e['per_mac']:.1f}",
                ratio(e, lambda x: x["per_mac"]),
                "" if glitches is None else f"{e['per_mac'] * glitches:.1f}",
                "" if glitches is None else ratio(e, lambda x: x["per_mac"] * (1 + x.get("glitches", 0.0))),
                f"{e['stall']:.1f}",
                f"{e['idle']:.1f}",
                f"{e['cells']:,}",
                f"{e['area']:,.0f}",
                f"{100 * e['simulated']:.1f} %",
                f"{100 * e['moved']:.1f} %",
                f"{e['sums']:,}",
            ]
        )
    yield table(header, rows)
    yield ""
    yield (
        "A MAC is one of H * L an array operation, those with pruned weights included, but not rows and columns that a "
        f"layer leaves empty, while an operation is issued every cycle. Stall and idle: {unit} of a cycle, divided by "
        "H * L: weights are there and no activation comes; and nothing runs."
    )
    yield ""
    names = list(dict.fromkeys(block for e in presets.values() for block in e["blocks"]))

    def part(e: Described, block: str) -> str:
        parts = e["blocks"].get(block)
        return "" if parts is None else f"{parts['data']:.1f} + {parts['clock']:.1f} + {parts['leakage']:.1f}"

    yield f"By block, {unit} a MAC: data + clock + leakage."
    yield ""
    yield table(["block", *presets], [[block, *(part(e, block) for e in presets.values())] for block in names])
    yield ""
    yield from _network_table(presets, unit, ratio)
    yield ""
    yield (
        f"Settings, fixed before anything was compared: {WARM} cycles from the first operation, {WINDOW} that count, "
        f"{TIMED} with glitches, {IDLE} of stalls and of idling, 64 runs side by side; clock cycle "
        f"{settings['period']:,.0f} ps; wires: {settings['wire']}. The model of energy: synth/power/energy.py. Not "
        "included: what is around the array, pads, test logic."
    )


def _network_table(presets: Mapping[str, Described], unit: str, ratio: Any) -> Iterator[str]:
    first = next(iter(presets.values()))["network"]
    yield f"{first['name']} as a whole, {unit} a MAC, from the counts of `sw.perf`:"
    yield ""
    memories = all("memories" in e["network"] for e in presets.values())
    yield _scope_table(presets, ratio, memories, lambda e: e["network"])
    yield ""
    yield "Without its first and last layer, which have 8-bit weights on every instance:"
    yield ""
    yield _scope_table(presets, ratio, memories, lambda e: e["network"]["inner"])
    if not memories:
        return
    yield ""
    yield (
        "Memories: bytes of L2 and L1 that the network moves. Macro model: Horowitz, ISSCC 2014, figure 1.1.9 (45 "
        "nm, 0.9 V), by capacity, times the square of the voltage. MVQ table 8: L2 15 and L1 6 MACs "
        "a byte, those of the EWS array's multipliers and adder trees. Weights through L2: on the paper's machine "
        "weights lie in L2, a write and a read each byte; ours come from the bus to the weight loader. DRAM is not "
        "included, as in the paper."
    )
    yield ""
    yield f"What goes in and out of memories, bytes a 1,000 MACs of the whole, and {unit} a MAC by the macro model:"
    yield ""
    places = list(first["memories"]["bytes"])
    rows = []
    for name, e in presets.items():
        memory, macs = e["network"]["memories"], e["network"]["macs"]
        cells = []
        for place in places:
            cell = f"{1000 * memory['bytes'][place] / macs:.2f}"
            if place in memory["parts"]:
                cell += f" ({memory['parts'][place]:.1f})"
            cells.append(cell)
        rows.append([name, *cells])
    yield table(["preset", *("weights, from DRAM" if place == "weights" else place for place in places)], rows)


def _scope_table(presets: Mapping[str, Described], ratio: Any, memories: bool, scope: Any) -> str:
    header = ["preset", "operations", "of them 8-bit layers", "rows of weights", "waiting", "array", "EWS / it"]
    if memories:
        for title in ("memories, macro model", "memories, MVQ table 8", "the same, weights through L2"):
            header += [title, "sum", "EWS / it"]
    rows = []
    for name, e in presets.items():
        network = scope(e)
        parts = network["array"]
        row = [name, f"{parts['operations']:.1f}", f"{network['first']:.1f}"]
        row += [f"{parts['row_writes']:.1f}", f"{parts['waiting']:.1f}"]
        row += [f"{network['array_per_mac']:.1f}", ratio(e, lambda x: scope(x)["array_per_mac"])]
        for key in ("model_per_mac", "paper_per_mac", "staged_per_mac") if memories else ():

            def total(x: Described, key: str = key) -> float:
                return float(scope(x)["array_per_mac"] + scope(x)["memories"][key])

            row += [f"{network['memories'][key]:.1f}", f"{total(e):.1f}", ratio(e, total)]
        rows.append(row)
    return table(header, rows)


def write(presets: dict[str, Described], library: Library, settings: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``power.json`` and ``power.md`` into ``folder``.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    add_memories(presets)
    described = {
        "library": {"name": library.name, "sha256": library.sha256},
        "settings": {**settings, "warm": WARM, "window": WINDOW, "timed": TIMED, "idle": IDLE},
        "tools": {name: metadata.version(name) for name in ("pyosys", "amaranth", "numpy")},
        "hw_sha256": source_hash(),
        "presets": presets,
    }
    lines = markdown(presets, {**settings, "library": described["library"]})
    texts = {
        "power.json": json_text(_rounded(described)),
        "power.md": "\n".join(lines) + "\n",
    }
    return write_files(folder, texts)


def measure_instance(config: AcceleratorConfig, library: Library, options: Mapping[str, Any]) -> Described:
    """Synthesise one instance, run layers of a network on its netlist, and describe what that took.

    Parameters
    ----------
    config, library
        The instance, and its cells.
    options
        ``network`` (:data:`synth.power.sources.NETWORKS`) and the path of the ``photograph`` that it sees; ``storage``,
        ``period`` in ps and ``wire`` of the netlist; whether ``glitches`` are timed. Unless ``network_energy`` is
        false, the first layer of ResNet-18 runs, too, and the energy of that network is put together.

    Raises
    ------
    synth.power.measure.PowerError
        A sum of the netlist differs from the golden model's.
    synth.power.simulator.SimulatorError
        The simulator cannot be built, or fails.
    synth.power.sources.SourceError, sw.compress.methods.CompressError
        The instance cannot run the network's layers.
    """
    from synth.power.cells import characterise

    layers, source = real_layers(options["network"], config, options["photograph"])
    netlist = gate_netlist(config, library, options["storage"], CACHE)
    runs = lanes(config, layers, OPERATIONS)
    measured = measure(config, netlist, library, runs, options["period"], CACHE, options["wire"], options["glitches"])
    first = None
    if options.get("network_energy", True):
        runs = lanes(config, [first_layer(config, options["photograph"])], OPERATIONS)
        first = measure(config, netlist, library, runs, options["period"], CACHE, options["wire"], glitches=False)
    voltage = characterise(library, netlist.cells, options["wire"]).voltage if library.area_unit == "um2" else None
    return describe(config, measured, source, voltage, first)
