"""Runs a flat netlist on streams: 64 of them side by side, compiled for the library's cells at the first use."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth.power.cells import CellModel
from synth.power.netlist import FlatNetlist

__all__ = ["LANES", "Simulator", "SimulatorError", "Transfers"]

#: Runs side by side.
LANES = 64

SOURCE = Path(__file__).with_name("simulator.cpp")
FLAGS = ("-std=gnu++17", "-O2", "-march=native", "-shared", "-fPIC")
_CHUNK = 32


class SimulatorError(RuntimeError):
    """A netlist that cannot be simulated, or no compiler. The message says which and why."""


@dataclass(frozen=True)
class Transfers:
    """What a stream carries in every lane."""

    #: Of each lane, the payloads in order. Of an output stream: what must come.
    payloads: Sequence[Sequence[int]]
    #: Bits of a payload.
    width: int
    #: It leaves the design.
    output: bool = False


def _expression(truth: Sequence[bool], names: Sequence[str]) -> str:
    """A C expression of a truth table, the first name varying slowest."""
    if all(truth):
        return "~Word(0)"
    if not any(truth):
        return "Word(0)"
    half = len(truth) // 2
    name, rest = names[0], names[1:]
    low, high = truth[:half], truth[half:]
    if low == high:
        return _expression(low, rest)
    if all(a != b for a, b in zip(low, high, strict=True)):
        return name if not any(low) else f"({name} ^ {_expression(low, rest)})"
    a, b = _expression(low, rest), _expression(high, rest)
    if not any(low):
        return name if all(high) else f"({name} & {b})"
    if all(low):
        return f"~{name}" if not any(high) else f"(~{name} | {b})"
    if not any(high):
        return f"(~{name} & {a})"
    if all(high):
        return f"({name} | {a})"
    return f"(({name} & {b}) | (~{name} & {a}))"


def _cells(models: Sequence[CellModel]) -> str:
    """The functions of cells as C++, for CELLS of the source."""
    cases = []
    for number, model in enumerate(models):
        count = len(model.inputs)
        names = [f"v[p[{i}]]" for i in range(count)]
        lines = [f"out[{o}] = {_expression(table, names)};" for o, table in enumerate(model.outputs.values())]
        cases.append(f"    case {number}: {' '.join(lines)} return;")

    def numbers(values: Sequence[int]) -> str:
        return "{" + ", ".join(map(str, values)) + "}"

    inputs, outputs = [len(m.inputs) for m in models], [len(m.outputs) for m in models]
    return "\n".join(
        [
            f"static const int INPUTS[] = {numbers(inputs)}, OUTPUTS[] = {numbers(outputs)};",
            f"static const int PINS[] = {numbers([i + o for i, o in zip(inputs, outputs, strict=True)])};",
            f"enum {{ MOST_OUTPUTS = {max(outputs)} }};",
            "static inline void evaluate(int cell, const Word *v, const int32_t *p, Word *out) {",
            "    switch (cell) {",
            *cases,
            "    }",
            "}",
        ]
    )


def _compiled(models: Sequence[CellModel], folder: Path) -> ctypes.CDLL:
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise SimulatorError("power needs a C++ compiler: $CXX, or c++, g++ or clang++ on the path")
    text = SOURCE.read_text().replace("//CELLS", _cells(models))
    macros = subprocess.run(
        [compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull], check=True, capture_output=True
    ).stdout
    key = hashlib.sha256(b"\0".join((text.encode(), " ".join(FLAGS).encode(), macros))).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"simulator-{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source, built = Path(scratch) / "simulator.cpp", Path(scratch) / path.name
            source.write_text(text)
            done = subprocess.run(
                [compiler, *FLAGS, str(source), "-o", str(built)], check=False, capture_output=True, text=True
            )
            if done.returncode:
                raise SimulatorError(f"{compiler} did not build the simulator: {done.stderr.strip()[:300]}")
            built.replace(path)
    return ctypes.CDLL(str(path))


_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64


class _Stream(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("valid", "ready", "width", "bytes")),
        *((name, _POINTER) for name in ("nets", "payload", "first", "count", "position")),
        *((name, ctypes.c_uint64) for name in ("enabled", "offered")),
        ("output", ctypes.c_int32),
        *((name, _LONG) for name in ("mismatches", "lane", "row", "bit")),
    ]


_ARRAYS = (
    *("value", "chunk_cell", "chunk_domain", "chunk_pins", "chunk_length", "pins", "fanout_first", "fanout", "dirty"),
    *("domain_net", "domain_parent", "domain_enable", "domain_chunks_first", "domain_chunks", "active", "stream"),
)
_COUNTS = ("toggles", "high", "since")
_TIMED = ("reader_first", "readers", "instance_cell", "instance_pins", "net_delay")


class _Netlist(ctypes.Structure):
    _fields_ = [
        *((name, _LONG) for name in ("nets", "chunks", "flop_chunks", "domains", "streams")),
        ("lanes", ctypes.c_uint64),
        *((name, _POINTER) for name in _ARRAYS),
        ("cycle", _LONG),
        *((name, _POINTER) for name in (*_COUNTS, *_TIMED)),
        ("horizon", _LONG),
        ("longest", _LONG),
        *((name, _POINTER) for name in ("timed_toggles", "timed", "changed_net", "changed_value")),
    ]


def _grouped(keys: NDArray[np.int64], values: NDArray[np.int64], count: int) -> tuple[Any, Any]:
    """Values by key: where those of each key begin, and the values, each once."""
    limit = int(values.max(initial=0)) + 1
    pairs = np.unique(keys * limit + values)
    owners, found = pairs // limit, pairs % limit
    first = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=count), out=first[1:])
    return first, found.astype(np.int32)


class Simulator:
    """A netlist and the streams that it runs on.

    Parameters
    ----------
    netlist
        The design; its ports ``clk`` and ``rst`` are the clock and the reset.
    models
        Its cells.
    streams
        Transfers by name: ports ``NAME__valid``, ``NAME__ready`` and ``NAME__payload``.
    lanes
        Runs that count, 1..64.
    folder
        For the compiled simulator.

    Raises
    ------
    SimulatorError
        A net has no driver or two, the logic has a loop, a clock is neither the design's nor a clock gate's, or there
        is no compiler.
    """

    def __init__(
        self,
        netlist: FlatNetlist,
        models: Mapping[str, CellModel],
        streams: Mapping[str, Transfers],
        lanes: int,
        folder: Path,
    ) -> None:
        if not 1 <= lanes <= LANES:
            raise SimulatorError(f"lanes must be in 1..{LANES}, not {lanes}")
        self.netlist, self.models = netlist, models
        self.names = list(netlist.cells)
        self.library = _compiled([models[name] for name in self.names], folder)
        self._keep: list[Any] = []  # what the structure points to
        self.state = _Netlist()
        self.lanes = lanes
        self._columns = {
            name: {pin: column for column, pin in enumerate(cell.pins)} for name, cell in netlist.cells.items()
        }
        self._check_drivers()
        self._structure()
        self._streams(streams)
        for name in ("run", "force", "settled", "flush", "timed_start", "timed_end"):
            getattr(self.library, name).restype = None
        self.library.run.argtypes = [_POINTER, _LONG]
        self.library.force.argtypes = [_POINTER, ctypes.c_int32, ctypes.c_uint64]
        self.library.timed_start.argtypes = [_POINTER, _LONG, _LONG]
        for name in ("settled", "flush", "timed_end"):
            getattr(self.library, name).argtypes = [_POINTER]

    # Construction

    def _pins(self, name: str, pins: Sequence[str]) -> NDArray[np.int32]:
        columns = self._columns[name]
        cell = self.netlist.cells[name]
        missing = [pin for pin in pins if pin not in columns]
        if missing:
            raise SimulatorError(f"cell {name} of the netlist has no pin {', '.join(missing)}")
        return cell.nets[:, [columns[pin] for pin in pins]]

    def _outputs(self, name: str) -> list[str]:
        # An output that nothing reads may be left open.
        return [pin for pin in self.models[name].outputs if pin in self._columns[name]]

    def _check_drivers(self) -> None:
        drivers = np.zeros(self.netlist.nets, np.int32)
        drivers[:2] = 1
        for port in self.netlist.inputs:
            drivers[self.netlist.ports[port]] += 1
        read = np.zeros(self.netlist.nets, np.bool_)
        for name in self.names:
            model = self.models[name]
            for pin in self._outputs(name):
                np.add.at(drivers, self._pins(name, [pin])[:, 0], 1)
            read[self._pins(name, [*model.inputs, *([model.clock] if model.clock else [])]).reshape(-1)] = True
            for pin, wanted in model.tied.items():
                if pin in self._columns[name] and (self._pins(name, [pin]) != wanted).any():
                    raise SimulatorError(f"pin {pin} of cell {name} must be at a constant {wanted}")
        if (drivers > 1).any():
            raise SimulatorError(f"{int((drivers > 1).sum())} nets have two drivers")
        if (read & (drivers == 0)).any():
            raise SimulatorError(f"{int((read & (drivers == 0)).sum())} nets are read and have no driver")

    def _levels(self) -> dict[str, NDArray[np.int32]]:
        """The level of every logic cell: one above its highest input."""
        level = np.full(self.netlist.nets, -1, np.int32)
        level[:2] = 0
        for port in self.netlist.inputs:
            level[self.netlist.ports[port]] = 0
        logic = [name for name in self.names if self.models[name].kind == "logic"]
        for name in self.names:
            if name not in logic:
                level[self._pins(name, self._outputs(name)).reshape(-1)] = 0
        found = {name: np.full(len(self.netlist.cells[name].nets), -1, np.int32) for name in logic}
        waiting = {name: np.arange(len(found[name])) for name in logic}
        inputs = {name: self._pins(name, self.models[name].inputs) for name in logic}
        outputs = {name: self._pins(name, self._outputs(name)) for name in logic}
        while any(map(len, waiting.values())):
            ready = {}
            for name, numbers in waiting.items():
                levels = level[inputs[name][numbers]]
                known = (levels >= 0).all(axis=1)
                ready[name] = numbers[known], levels[known].max(axis=1, initial=0) + 1
                waiting[name] = numbers[~known]
            if not any(len(numbers) for numbers, _ in ready.values()):
                raise SimulatorError(f"{sum(map(len, waiting.values()))} cells are in loops of logic")
            for name, (numbers, levels) in ready.items():
                found[name][numbers] = levels
                level[outputs[name][numbers]] = levels[:, None]
        return found

    def _set(self, field: str, array: NDArray[Any]) -> NDArray[Any]:
        self._keep.append(array)
        setattr(self.state, field, array.ctypes.data)
        return array

    def _structure(self) -> None:
        netlist, state = self.netlist, self.state
        levels = self._levels()
        clock = int(netlist.ports["clk"][0])
        gates = [name for name in self.names if self.models[name].kind == "gate"]
        domain_nets, parents, enables = [clock], [-1], [0]
        for name in gates:
            model = self.models[name]
            out = next(iter(model.outputs))
            for parent, enable, net in self._pins(name, [model.clock, *model.inputs, out]).tolist():
                domain_nets.append(net)
                parents.append(parent)
                enables.append(enable)
        number = {net: i for i, net in enumerate(domain_nets)}
        if any(parent not in number for parent in parents[1:]):
            raise SimulatorError("the clock of a clock gate is neither the design's nor another gate's")
        parents = [0, *(number[parent] for parent in parents[1:])]
        if any(parent >= i for i, parent in enumerate(parents) if i):
            raise SimulatorError("clock gates behind clock gates are not in order")
        domain_of = np.full(netlist.nets, -1, np.int32)
        domain_of[domain_nets] = np.arange(len(domain_nets))
        self.domain_nets = np.array(domain_nets, np.int32)

        # Cells by (level or domain, cell), cut into chunks.
        keys, cells, pins = [], [], []
        flop_keys, flop_cells, flop_pins = [], [], []
        for cell, name in enumerate(self.names):
            model = self.models[name]
            if model.kind == "gate":
                continue
            nets = self._pins(name, model.inputs)
            outputs = np.full((len(nets), len(model.outputs)), -1, np.int32)
            for column, pin in enumerate(model.outputs):
                if pin in self._columns[name]:
                    outputs[:, column] = self._pins(name, [pin])[:, 0]
            nets = np.concatenate([nets, outputs], axis=1)
            if model.kind == "logic":
                keys.append(levels[name])
                cells.append(cell)
                pins.append(nets)
            else:
                domains = domain_of[self._pins(name, [model.clock])[:, 0]]
                if (domains < 0).any():
                    raise SimulatorError(f"the clock of a {name} is neither the design's nor a clock gate's")
                flop_keys.append(domains)
                flop_cells.append(cell)
                flop_pins.append(nets)
        # An open output has a net of its own behind all others, which nobody reads.
        spare = netlist.nets
        inputs = [len(self.models[name].inputs) for name in self.names]
        logic = _chunks(keys, cells, pins, [inputs[cell] for cell in cells])
        flops = _chunks(flop_keys, flop_cells, flop_pins, [inputs[cell] for cell in flop_cells])
        state.nets = spare + 1
        state.chunks, state.flop_chunks = len(logic.cell), len(flops.cell)
        state.lanes = (1 << self.lanes) - 1
        all_pins = np.concatenate([logic.pins, flops.pins])
        all_pins[all_pins < 0] = spare
        self._set("pins", all_pins)
        self._set("chunk_cell", np.concatenate([logic.cell, flops.cell]).astype(np.int32))
        self._set("chunk_domain", np.concatenate([np.zeros_like(logic.key), flops.key]).astype(np.int32))
        self._set("chunk_pins", np.concatenate([logic.first, flops.first + len(logic.pins)]))
        self._set("chunk_length", np.concatenate([logic.length, flops.length]))
        read = np.concatenate([logic.read_net, flops.read_net]).astype(np.int64)
        readers = np.concatenate([logic.read_chunk, flops.read_chunk + state.chunks]).astype(np.int64)
        first, fanout = _grouped(read, readers, spare + 1)
        self._set("fanout_first", first)
        self._set("fanout", fanout)
        self.dirty = self._set("dirty", np.ones(state.chunks + state.flop_chunks + 8, np.uint8))
        state.domains = len(domain_nets)
        self._set("domain_net", self.domain_nets)
        self._set("domain_parent", np.array(parents, np.int32))
        self._set("domain_enable", np.array(enables, np.int32))
        first, chunks = _grouped(flops.key.astype(np.int64), np.arange(len(flops.key)) + state.chunks, len(domain_nets))
        self._set("domain_chunks_first", first)
        self._set("domain_chunks", chunks)
        self._set("active", np.zeros(len(domain_nets), np.uint64))
        self.value = self._set("value", np.zeros(spare + 1, np.uint64))
        self.value[1] = state.lanes
        self.toggles = self._set("toggles", np.zeros(spare + 1, np.int64))
        self.high = self._set("high", np.zeros(spare + 1, np.int64))
        self.since = self._set("since", np.zeros(spare + 1, np.int64))
        self.timed_toggles = self._set("timed_toggles", np.zeros(spare + 1, np.int64))
        flops_changed = sum(nets.size for nets in flop_pins)
        self._set("changed_net", np.zeros(flops_changed + 1, np.int32))
        self._set("changed_value", np.zeros(flops_changed + 1, np.uint64))
        self._logic = logic

    def _streams(self, streams: Mapping[str, Transfers]) -> None:
        ports = self.netlist.ports
        self.streams = {name: number for number, name in enumerate(streams)}
        array = (_Stream * len(streams))()
        self.positions: dict[str, NDArray[np.int64]] = {}
        self.counts: dict[str, NDArray[np.int64]] = {}
        for stream, (name, transfers) in zip(array, streams.items(), strict=True):
            nets = np.ascontiguousarray(ports[f"{name}__payload"])
            if len(nets) != transfers.width:
                raise SimulatorError(f"{name} has {len(nets)} bits, not {transfers.width}")
            size = -(-transfers.width // 8)
            rows = b"".join(value.to_bytes(size, "little") for lane in transfers.payloads for value in lane)
            payload = np.frombuffer(rows or b"\0", np.uint8).copy()
            counts = np.zeros(LANES, np.int64)
            counts[: len(transfers.payloads)] = [len(lane) for lane in transfers.payloads]
            first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
            position = np.zeros(LANES, np.int64)
            self._keep += [nets, payload, counts, first, position]
            stream.valid, stream.ready = int(ports[f"{name}__valid"][0]), int(ports[f"{name}__ready"][0])
            stream.width, stream.bytes, stream.output = transfers.width, size, int(transfers.output)
            stream.nets, stream.payload = nets.ctypes.data, payload.ctypes.data
            stream.first, stream.count, stream.position = first.ctypes.data, counts.ctypes.data, position.ctypes.data
            self.positions[name], self.counts[name] = position, counts
        self._array = array
        self.state.streams = len(streams)
        self.state.stream = ctypes.addressof(array)
        self._outputs_ready = [int(ports[f"{name}__ready"][0]) for name, t in streams.items() if t.output]

    # Running

    def enable(self, name: str, enabled: bool) -> None:
        """Let an input stream offer transfers, or withhold those that it has not offered yet."""
        self._array[self.streams[name]].enabled = self.state.lanes if enabled else 0

    def reset(self) -> None:
        """Two cycles of reset; output streams are always ready from here on."""
        rst = int(self.netlist.ports["rst"][0])
        for net in self._outputs_ready:
            self._call("force", net, self.state.lanes)
        self._call("force", rst, self.state.lanes)
        self._call("settled")
        self._call("run", 2)
        self._call("force", rst, 0)
        self._call("settled")

    def _call(self, name: str, *arguments: int) -> None:
        getattr(self.library, name)(ctypes.addressof(self.state), *arguments)

    def run(self, cycles: int) -> None:
        """Run clock cycles, which count."""
        self._call("run", cycles)

    def start(self) -> None:
        """Begin a window of statistics."""
        self.toggles[:] = 0
        self.high[:] = 0
        self.timed_toggles[:] = 0
        self.since[:] = self.state.cycle
        self._first = self.state.cycle

    def finish(self) -> int:
        """End the window: ``toggles`` and ``high`` (lane cycles) of all nets are complete. Returns its cycles."""
        self._call("flush")
        cycles = int(self.state.cycle - self._first)
        # A clock is high for half of the cycles in which it runs; its pulses are two toggles each.
        self.high[self.domain_nets] = self.toggles[self.domain_nets] // 4
        return cycles

    @property
    def cycle(self) -> int:
        """Clock cycles so far."""
        return int(self.state.cycle)

    def progress(self) -> tuple[int, int]:
        """Transfers of all streams and lanes so far, and the cycle."""
        return int(sum(position.sum() for position in self.positions.values())), self.cycle

    def done(self, name: str) -> bool:
        """Whether a stream has carried all its transfers in every lane."""
        return bool((self.positions[name] >= self.counts[name])[: self.lanes].all())

    def mismatch(self, name: str) -> str | None:
        """The first transfer of an output stream that was not as it must be."""
        stream = self._array[self.streams[name]]
        if not stream.mismatches:
            return None
        return (
            f"{stream.mismatches} bits of {name} differ from the golden model's; first in lane {stream.lane}, "
            f"transfer {stream.row}, bit {stream.bit}"
        )

    # Timed cycles

    def run_timed(self, cycles: int, delays: NDArray[np.int32]) -> int:
        """Run clock cycles in which every change takes its cell's delay; ``timed_toggles`` counts all of them.

        Parameters
        ----------
        delays
            Of the output that drives each net, in steps, at least 1.

        Returns
        -------
        int
            Steps that the longest cycle took.

        Raises
        ------
        SimulatorError
            A cycle did not come to rest.
        """
        logic = self._logic
        if not hasattr(self, "_timed"):
            self._set("instance_cell", logic.instance_cell)
            self._set("instance_pins", logic.instance_first)
            first, readers = _grouped(logic.read_net.astype(np.int64), logic.reader, self.state.nets)
            self._set("reader_first", first)
            self._set("readers", readers)
            self._timed = True
        padded = np.ones(self.state.nets, np.int32)
        padded[: len(delays)] = np.maximum(delays, 1)
        self._set("net_delay", padded)
        self.state.horizon, self.state.longest = 1 << 20, 0
        self._call("timed_start", len(logic.instance_cell), int(padded.max()) + 2)
        try:
            before = self.state.cycle
            self._call("run", cycles)
            if self.state.cycle - before != cycles:
                raise SimulatorError("a cycle did not come to rest")
        finally:
            self._call("timed_end")
        return int(self.state.longest)


@dataclass(frozen=True)
class _Chunks:
    """Cells in the order of their evaluation. Chunks: their cell, key and instances; where their pins are."""

    cell: NDArray[np.int64]
    key: NDArray[np.int64]
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    pins: NDArray[np.int32]
    # Inputs of instances, and the chunk and the instance that each belongs to.
    read_net: NDArray[np.int32]
    read_chunk: NDArray[np.int64]
    reader: NDArray[np.int64]
    instance_cell: NDArray[np.int32]
    instance_first: NDArray[np.int64]


def _chunks(
    keys: Sequence[NDArray[np.int32]], cells: Sequence[int], pins: Sequence[NDArray[np.int32]], inputs: Sequence[int]
) -> _Chunks:
    """Cells sorted by key and cell, in chunks. ``inputs``: how many of the pins of each cell are inputs."""
    counts = [len(rows) for rows in pins]
    key = np.concatenate([np.zeros(0, np.int32), *keys]).astype(np.int64)
    part = np.repeat(np.arange(len(cells)), counts)
    order = np.lexsort((np.arange(len(key)), part, key))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    key, part = key[order], part[order]
    width = np.array([rows.shape[1] for rows in pins] or [0], np.int64)[part]
    instance_first = np.cumsum(width) - width
    begins = np.ones(len(key), np.bool_)
    begins[1:] = (key[1:] != key[:-1]) | (part[1:] != part[:-1])
    start = np.maximum.accumulate(np.where(begins, np.arange(len(key)), 0))
    begins |= (np.arange(len(key)) - start) % _CHUNK == 0
    chunk = np.cumsum(begins) - 1
    heads = np.flatnonzero(begins)
    flat = np.zeros(int(width.sum()), np.int32)
    read_net, reader = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    offset = 0
    for rows, count in zip(pins, inputs, strict=True):
        places = place[offset : offset + len(rows)]
        offset += len(rows)
        flat[instance_first[places][:, None] + np.arange(rows.shape[1])] = rows
        read_net.append(rows[:, :count].reshape(-1))
        reader.append(np.repeat(places, count))
    readers = np.concatenate(reader)
    numbers = np.array(cells or [0], np.int64)
    return _Chunks(
        cell=numbers[part[heads]],
        key=key[heads],
        first=instance_first[heads],
        length=np.diff(np.append(heads, len(key))),
        pins=flat,
        read_net=np.concatenate(read_net),
        read_chunk=chunk[readers],
        reader=readers,
        instance_cell=numbers[part].astype(np.int32),
        instance_first=instance_first,
    )
