"""Static timing of a netlist: from register to register, with wires, and buffers in nets of many loads.

:func:`enclosed` puts registers at the borders of a part of a design, and balanced trees of buffers, cells like any
other, into the nets that go to many loads; those that go to many copies of a part have them too.
:func:`longest_path` finds the worst arrival of each net, rising and falling, from the Liberty tables: clock to output,
gates by the load and the slew at their inputs, set-up. Nets have the library's wire load. The clock is ideal, and clock
gates are in it; what enables them has to be there before their own set-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from synth.flow import GateNetlist
from synth.liberty import LibraryError
from synth.power.cells import Arc, CellModel, Characterisation, mean_at
from synth.power.netlist import CellArray, FlatNetlist

__all__ = [
    "DIRECT",
    "TREE_LOADS",
    "Borders",
    "Path",
    "Tree",
    "border_delays",
    "buffered",
    "enclosed",
    "longest_path",
    "tree",
]

Floats = NDArray[np.float64]

#: Most loads of a net without buffers of its own.
DIRECT = 16
#: Loads for which trees are the fastest of those that are tried.
TREE_LOADS = 256
_FANS = (4, 6, 8, 12, 16)
_ROOTS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Path:
    """The longest path, ps."""

    #: From the clock edge of the register at its beginning to that of the one at its end: with clock to output, and
    #: set-up.
    delay: float
    #: The set-up in it.
    capture: float
    #: Net at which it ends.
    net: int


@dataclass(frozen=True)
class Borders:
    """What is around a part of a design, and inside of what is left out of it."""

    #: Loads that an input net goes to, of which the part is one, by its net; 1 of those that are not named.
    copies: Mapping[int, int] = field(default_factory=dict)
    #: Nets that come out of what is left out.
    sources: tuple[int, ...] = ()
    #: Nets that go into it, each as often as it has loads there.
    ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tree:
    """How nets of many loads are buffered."""

    #: The cell.
    buffer: CellModel
    #: Most loads of a buffer.
    fan: int
    #: Most buffers that the net's own driver has.
    root: int

    def levels(self, loads: int) -> list[int]:
        """Buffers of each level for so many loads, the last level's first."""
        counts: list[int] = []
        while not counts or counts[-1] > self.root:
            counts.append(-(-(counts[-1] if counts else loads) // self.fan))
        return counts


def tree(library: Characterisation) -> Tree:
    """The fastest tree from a smallest NAND2 to :data:`TREE_LOADS` of its kind."""
    return min(
        (Tree(cell, fan, root) for cell in library.buffers for fan in _FANS for root in _ROOTS if root <= fan),
        key=lambda each: (_tree_delay(library, each), each.buffer.area, each.buffer.name, each.fan, each.root),
    )


def _tree_delay(library: Characterisation, tree: Tree) -> float:
    counts = tree.levels(TREE_LOADS)[::-1]
    inputs = next(iter(tree.buffer.capacitance.values()))
    nand = max(library.nand2.capacitance.values())
    total, slew = 0.0, library.nominal_slew
    for cell, drives, of, each in zip(
        [library.nand2, *[tree.buffer] * len(counts)],
        [*counts, TREE_LOADS],
        [1, *counts],
        [inputs] * len(counts) + [nand],
        strict=True,
    ):
        loads = -(-drives // of)
        load = loads * each + library.wire.at(np.array([loads]))
        (pin,) = cell.outputs
        total += float(mean_at(cell.delay[pin], slew, load)[0])
        slew = float(mean_at(cell.slew[pin], slew, load)[0])
    return total


def _flop(library: Characterisation) -> CellModel:
    flops = [cell for cell in library.cells.values() if cell.kind == "flop"]
    if not flops:
        raise LibraryError(f"library {library.library} has no flip-flop among the cells of this design")
    return min(flops, key=lambda cell: (cell.area, cell.name))


class _Cells:
    """A netlist that grows."""

    def __init__(self, cells: Mapping[str, tuple[list[str], NDArray[np.int32]]], nets: int) -> None:
        self.pins = {name: list(pins) for name, (pins, _) in cells.items()}
        self.parts = {name: [nets] for name, (_, nets) in cells.items()}
        self.nets = nets

    def new(self, count: int) -> NDArray[np.int32]:
        self.nets += count
        return np.arange(self.nets - count, self.nets, dtype=np.int32)

    def add(self, model: CellModel, count: int, **pins: NDArray[np.int32]) -> None:
        """Instances of a cell; outputs that are not given are open, other pins low."""
        names = self.pins.setdefault(model.name, [*pins])
        open_ones = [name for name in names if name not in pins and name in model.outputs]
        columns = [
            pins[name]
            if name in pins
            else self.new(count)
            if name in open_ones
            else np.full(count, model.tied.get(name, 0))
            for name in names
        ]
        missing = [name for name in pins if name not in names]
        if missing:
            raise LibraryError(f"instances of {model.name} differ in their pins: {names}, {list(pins)}")
        self.parts.setdefault(model.name, []).append(np.stack(columns, axis=1).astype(np.int32))

    def arrays(self) -> dict[str, NDArray[np.int32]]:
        for name, parts in self.parts.items():
            self.parts[name] = [np.concatenate(parts) if len(parts) > 1 else parts[0]]
        return {name: parts[0] for name, parts in self.parts.items()}


def enclosed(gates: GateNetlist, library: Characterisation, borders: Borders) -> FlatNetlist:
    """A module with registers at its ports and at those of its instances, which are left out; nets are buffered.

    Raises
    ------
    LibraryError
        There is no flip-flop.
    """
    flop = _flop(library)
    rows = {name: (pins, np.array(nets, np.int32)) for name, (pins, nets) in gates.cells.items()}
    ports = {name: np.array(nets, np.int32) for name, nets in gates.ports.items()}
    inside = [net for _, _, connections in gates.instances for nets in connections.values() for net in nets]
    most = max([1, *inside, *(int(nets.max()) for _, nets in rows.values() if nets.size)])
    most = max([most, *(int(nets.max()) for nets in ports.values() if nets.size)])
    cells = _Cells(rows, most + 1)
    clocks = _clock_nets(rows, library)
    clock = int(ports["clk"][0]) if len(ports.get("clk", ())) else int(cells.new(1)[0])
    driven = {0, 1, clock, *clocks}
    inputs = [net for port in gates.inputs for net in ports[port].tolist()]
    sources = np.array(sorted({*inputs, *borders.sources} - driven), np.int32)
    outputs = [net for port, nets in ports.items() if port not in gates.inputs for net in nets.tolist()]
    ends = np.array(sorted(net for net in (*outputs, *borders.ends) if net not in driven), np.int32)
    (data,), output = flop.inputs[:1], next(iter(flop.outputs))
    launched = sources.copy()
    copies = np.array([borders.copies.get(net, 1) for net in sources.tolist()], np.int64)
    made = tree(library)
    (into,), (out,) = made.buffer.inputs, made.buffer.outputs
    for number in np.flatnonzero(copies > 1).tolist():
        # From the part back to the register: at each level a buffer with its neighbours, which go to other copies.
        # The buffer at the border of each copy comes first.
        leaf, counts = int(sources[number]), [int(copies[number])]
        counts += made.levels(counts[0]) if counts[0] > made.root else []
        for count, above in zip(counts, [*counts[1:], 1], strict=True):
            group = -(-count // above)
            root = cells.new(1)
            outs = cells.new(group)
            outs[0] = leaf
            cells.add(made.buffer, group, **{into: np.repeat(root, group), out: outs})
            leaf = int(root[0])
        launched[number] = leaf
    count = len(sources)
    cells.add(flop, count, **{flop.clock: np.full(count, clock), data: np.zeros(count), output: launched})
    count = len(ends)
    cells.add(flop, count, **{flop.clock: np.full(count, clock), data: ends, output: cells.new(count)})
    return buffered(
        FlatNetlist(
            cells.nets,
            {"clk": np.array([clock], np.int32)},
            ["clk"],
            {
                name: CellArray(cells.pins[name], nets, np.zeros(len(nets), np.uint8))
                for name, nets in cells.arrays().items()
            },
            ["other"],
        ),
        library,
    )


def _clock_nets(rows: Mapping[str, tuple[list[str], NDArray[np.int32]]], library: Characterisation) -> set[int]:
    """Nets at the clock pins of flip-flops and clock gates, and behind these."""
    found: set[int] = set()
    for name, (pins, nets) in rows.items():
        model = library.cells[name]
        wanted = [model.clock] if model.clock else []
        wanted += list(model.outputs) if model.kind == "gate" else []
        for pin in wanted:
            if pin in pins:
                found.update(nets[:, pins.index(pin)].tolist())
    return found


def buffered(netlist: FlatNetlist, library: Characterisation) -> FlatNetlist:
    """A netlist with a balanced tree of buffers in each net of more than :data:`DIRECT` loads, but for clocks."""
    made = tree(library)
    (into,), (out,) = made.buffer.inputs, made.buffer.outputs
    rows = {name: (cell.pins, cell.nets.copy()) for name, cell in netlist.cells.items()}
    skipped = {0, 1, *_clock_nets(rows, library)}
    cells = _Cells(rows, netlist.nets)
    arrays = cells.arrays()
    places = [
        (array, cells.pins[name].index(pin))
        for name, array in arrays.items()
        for pin in library.cells[name].capacitance
        if pin in cells.pins[name]
    ]
    loads = np.concatenate([array[:, column] for array, column in places] or [np.zeros(0, np.int32)])
    owner = np.repeat(np.arange(len(places)), [len(array) for array, _ in places])
    row = np.concatenate([np.arange(len(array)) for array, _ in places] or [np.zeros(0, np.int64)])
    counts = np.bincount(loads, minlength=cells.nets)
    counts[list(skipped)] = 0
    order = np.argsort(loads, kind="stable")
    sorted_loads = loads[order]
    for net in np.flatnonzero(counts > DIRECT).tolist():
        begin = int(np.searchsorted(sorted_loads, net))
        chosen = order[begin : begin + counts[net]]
        levels = made.levels(len(chosen))
        outs = cells.new(levels[0])
        for group, found in zip(np.array_split(chosen, levels[0]), outs, strict=True):
            for place in group.tolist():
                array, column = places[owner[place]]
                array[row[place], column] = found
        for above in [*levels[1:], 0]:
            sources = cells.new(above) if above else np.array([net], np.int32)
            groups = np.array_split(np.arange(len(outs)), len(sources))
            inputs = np.repeat(sources, [len(group) for group in groups])
            cells.add(made.buffer, len(outs), **{into: inputs, out: outs})
            outs = sources
    arrays = cells.arrays()
    return FlatNetlist(
        cells.nets,
        netlist.ports,
        netlist.inputs,
        {name: CellArray(cells.pins[name], nets, np.zeros(len(nets), np.uint8)) for name, nets in arrays.items()},
        ["other"],
    )


def _pair(arc: Arc, slew: Floats, load: Floats) -> Floats:
    """Rise and fall of the output for rise and fall of the input, ``[..., in, out]``."""
    result = np.full((*load.shape, 2, 2), -np.inf)
    for out, table in enumerate((arc.rise, arc.fall)):
        inputs = {"positive_unate": [out], "negative_unate": [1 - out]}.get(arc.sense, [0, 1])
        for given in inputs:
            result[..., given, out] = table.at(slew[..., given], load)
    return result


class _Timing:
    def __init__(self, netlist: FlatNetlist, library: Characterisation, clock_slew: float) -> None:
        self.netlist, self.library, self.clock_slew = netlist, library, clock_slew
        count = netlist.nets
        self.columns = {name: {pin: i for i, pin in enumerate(cell.pins)} for name, cell in netlist.cells.items()}
        capacitance, loads = np.zeros(count), np.zeros(count, np.int64)
        for name in netlist.cells:
            for pin, value in library.cells[name].capacitance.items():
                nets = self.net(name, pin)
                if nets is not None:
                    capacitance += np.bincount(nets, minlength=count) * value
                    loads += np.bincount(nets, minlength=count)
        self.arrival = np.full((count, 2), -np.inf)
        self.slew = np.zeros((count, 2))
        self.load = capacitance + np.where(loads > 0, library.wire.at(loads), 0.0)

    def net(self, name: str, pin: str) -> NDArray[np.int32] | None:
        column = self.columns[name].get(pin)
        return None if column is None else self.netlist.cells[name].nets[:, column]

    def gate(self, name: str, rows: NDArray[np.intp]) -> None:
        model = self.library.cells[name]
        for pin in model.outputs:
            outputs = self.net(name, pin)
            if outputs is None:
                continue
            outputs = outputs[rows]
            load = self.load[outputs]
            arrival, slew = np.full((len(rows), 2), -np.inf), np.zeros((len(rows), 2))
            for delay, transition in zip(model.delay[pin], model.slew[pin], strict=True):
                inputs = self.net(name, delay.related)
                if inputs is None:
                    continue
                at, before = self.arrival[inputs[rows]], self.slew[inputs[rows]]
                steps = at[:, :, None] + _pair(delay, before, load)
                arrival = np.maximum(arrival, steps.max(axis=1))
                # An input that never changes has no slew.
                known = np.where(np.isfinite(steps), _pair(transition, before, load), 0.0)
                slew = np.maximum(slew, known.max(axis=1))
            self.arrival[outputs], self.slew[outputs] = arrival, slew


def _levels(timing: _Timing) -> list[list[tuple[str, NDArray[np.intp]]]]:
    """Logic in order: (cell, instances) of each level."""
    netlist, library = timing.netlist, timing.library
    known = np.ones(netlist.nets, np.bool_)
    logic = [name for name in netlist.cells if library.cells[name].kind == "logic"]
    for name in logic:
        for pin in library.cells[name].outputs:
            nets = timing.net(name, pin)
            if nets is not None:
                known[nets] = False
    waiting = {name: np.arange(len(netlist.cells[name].nets)) for name in logic}
    levels = []
    while any(map(len, waiting.values())):
        ready = []
        for name, rows in waiting.items():
            columns = [timing.columns[name][pin] for pin in library.cells[name].inputs]
            free = known[netlist.cells[name].nets[rows][:, columns]].all(axis=1)
            if free.any():
                ready.append((name, rows[free]))
                waiting[name] = rows[~free]
        if not ready:
            raise LibraryError(f"{sum(map(len, waiting.values()))} cells are in loops of logic")
        for name, rows in ready:
            for pin in library.cells[name].outputs:
                nets = timing.net(name, pin)
                if nets is not None:
                    known[nets[rows]] = True
        levels.append(ready)
    return levels


def longest_path(netlist: FlatNetlist, library: Characterisation, clock_slew: float) -> Path:
    """The longest path between registers of a netlist.

    Parameters
    ----------
    netlist
        As :func:`enclosed` gives it.
    library
        Its cells.
    clock_slew
        ps of the clock at registers.

    Raises
    ------
    LibraryError
        The logic has a loop.
    """
    timing = _Timing(netlist, library, clock_slew)
    for name in netlist.cells:
        model = library.cells[name]
        if model.kind != "flop":
            continue
        for pin in model.outputs:
            nets = timing.net(name, pin)
            if nets is None:
                continue
            slews = np.full((len(nets), 2), clock_slew)
            # Both edges of an output follow the clock's rising one.
            timing.arrival[nets] = _edges(model.delay[pin][0], slews, timing.load[nets])
            timing.slew[nets] = _edges(model.slew[pin][0], slews, timing.load[nets])
    for level in _levels(timing):
        for name, rows in level:
            timing.gate(name, rows)
    return _worst(timing)


def border_delays(library: Characterisation, clock_slew: float) -> tuple[float, float]:
    """ps that a register at a border has in a path at least: clock to output without a load, and set-up."""
    flop = _flop(library)
    zero = np.zeros((1, 2))
    launch = _edges(flop.delay[next(iter(flop.outputs))][0], zero + clock_slew, np.zeros(1))
    return float(launch.min()), float(_setup(flop, flop.inputs[0], zero, clock_slew).min())


def _edges(arc: Arc, slew: Floats, load: Floats) -> Floats:
    return np.stack([arc.rise.at(slew[:, 0], load), arc.fall.at(slew[:, 1], load)], axis=1)


def _setup(cell: CellModel, pin: str, slew: Floats, clock_slew: float) -> Floats:
    """ps before the clock edge, for rise and fall."""
    result = np.zeros_like(slew)
    for arc in cell.setup.get(pin, []):
        for edge, table in enumerate((arc.rise, arc.fall)):
            result[..., edge] = np.maximum(result[..., edge], table.at(slew[..., edge], clock_slew))
    return result


def _worst(timing: _Timing) -> Path:
    best = Path(0.0, 0.0, 0)
    for name in timing.netlist.cells:
        model = timing.library.cells[name]
        for pin in model.inputs if model.kind in ("flop", "gate") else ():
            nets = timing.net(name, pin)
            if nets is None or not len(nets):
                continue
            capture = _setup(model, pin, timing.slew[nets], timing.clock_slew)
            total = np.where(np.isfinite(timing.arrival[nets]), timing.arrival[nets] + capture, -np.inf)
            place, edge = np.unravel_index(int(total.argmax()), total.shape)
            if total[place, edge] > best.delay:
                best = Path(float(total[place, edge]), float(capture[place, edge]), int(nets[place]))
    return best
