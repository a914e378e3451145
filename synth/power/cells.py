"""What the cells of a library do, and what Liberty says of their energy, as power needs it.

Units: fJ, fF, nW, ps, V, whatever the file's own are.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from synth.liberty import Library, LibraryError, truth
from synth.power.groups import Group, library_groups

__all__ = ["Arc", "CellModel", "Characterisation", "Table", "WireLoad", "characterise", "mean_at"]

Floats = NDArray[np.float64]

_ENERGY = ("internal_power", "rise_power", "fall_power")
_POWERS = {"f": 1.0, "p": 1e3, "n": 1e6, "u": 1e9, "m": 1e12, "": 1e15}


@dataclass(frozen=True)
class Table:
    """A table over input slew (ps) and load (fF), linear between its points and beyond its ends.

    An axis that the table does not depend on has one point.
    """

    slews: Floats
    loads: Floats
    values: Floats

    def at(self, slew: Floats | float, load: Floats | float) -> Floats:
        """The value at each pair."""
        slew, load = np.broadcast_arrays(np.asarray(slew, np.float64), np.asarray(load, np.float64))
        low, part = _place(self.slews, slew)
        left, share = _place(self.loads, load)
        high, right = np.minimum(low + 1, len(self.slews) - 1), np.minimum(left + 1, len(self.loads) - 1)
        first = self.values[low, left] * (1 - share) + self.values[low, right] * share
        second = self.values[high, left] * (1 - share) + self.values[high, right] * share
        return np.asarray(first * (1 - part) + second * part)


def _place(points: Floats, wanted: Floats) -> tuple[NDArray[np.intp], Floats]:
    if len(points) == 1:
        return np.zeros(wanted.shape, np.intp), np.zeros(wanted.shape)
    low = np.clip(np.searchsorted(points, wanted, side="right") - 1, 0, len(points) - 2)
    return low, (wanted - points[low]) / (points[low + 1] - points[low])


@dataclass(frozen=True)
class Arc:
    """One ``internal_power``, ``timing`` or ``leakage_power`` group."""

    #: The input pin behind it; empty for those of an input pin itself, and of leakage.
    related: str
    #: Its condition, or None.
    when: str | None
    #: Of energies: fJ of one transition of the pin. Of delays and slews: ps.
    rise: Table
    fall: Table
    #: Liberty's ``timing_sense`` of delays and slews.
    sense: str = ""


@dataclass(frozen=True)
class CellModel:
    """One cell."""

    #: In the library.
    name: str
    #: ``logic``, ``flop`` (a flip-flop of the rising edge) or ``gate`` (a clock gate).
    kind: str
    #: Pins that the function depends on. Not the clock of a flip-flop.
    inputs: list[str]
    #: Truth table of each output over ``inputs``, the first input varying slowest; of a flip-flop what it takes at an
    #: edge.
    outputs: Mapping[str, tuple[bool, ...]]
    #: Clock pin of a flip-flop or a clock gate, else empty.
    clock: str
    #: Pins that have to be at a constant: asynchronous set and reset, and test pins.
    tied: Mapping[str, int]
    #: In the library's unit.
    area: float
    #: fF of each input pin.
    capacitance: Mapping[str, float]
    #: fF.
    max_load: float
    #: Energies by pin, those of outputs and of inputs.
    energy: Mapping[str, list[Arc]]
    #: Of each output.
    delay: Mapping[str, list[Arc]]
    slew: Mapping[str, list[Arc]]
    #: (condition or None, nW).
    leakage: list[tuple[str | None, float]]
    #: ps before the clock edge by which data must be there, by data pin.
    setup: Mapping[str, list[Arc]] = field(default_factory=dict)

    @property
    def pins(self) -> list[str]:
        """Inputs, clock, tied pins, then outputs."""
        return [*self.inputs, *([self.clock] if self.clock else []), *self.tied, *self.outputs]


@dataclass(frozen=True)
class WireLoad:
    """Capacitance of a net's wire by the number of its loads (Liberty's ``wire_load``)."""

    #: For reports.
    name: str
    #: By number of loads, ascending; between them linear, beyond the last ``slope`` more a load.
    lengths: Mapping[int, float]
    slope: float
    #: fF a length.
    capacitance: float

    def at(self, loads: NDArray[np.int64]) -> Floats:
        """fF of nets with so many loads."""
        known = sorted(self.lengths)
        lengths = np.interp(loads, [0, *known], [0.0, *(self.lengths[n] for n in known)])
        beyond = np.maximum(loads - known[-1], 0) * self.slope
        return np.asarray((lengths + beyond) * self.capacitance)


@dataclass(frozen=True)
class Characterisation:
    """The cells of a library that a design uses."""

    #: Its name.
    library: str
    #: V of the supply.
    voltage: float
    #: Of nets.
    wire: WireLoad
    #: By name.
    cells: Mapping[str, CellModel]
    #: The cell that drives nets of many loads.
    buffer: CellModel
    #: All buffers that may be used.
    buffers: Sequence[CellModel]
    #: The smallest two-input NAND.
    nand2: CellModel
    #: ps of the file's unit of time.
    time: float = 1.0

    @cached_property
    def nominal_slew(self) -> float:
        """ps at the output of the smallest NAND2 that drives four of its kind, each with this slew at its input."""
        load = np.array([4 * max(self.nand2.capacitance.values())])
        slew = 0.0
        for _ in range(30):
            slew = float(mean_at(next(iter(self.nand2.slew.values())), slew, load)[0])
        return slew


def mean_at(arcs: Sequence[Arc], slew: float, load: Floats) -> Floats:
    """The mean of rise and fall of all arcs."""
    tables = [table for arc in arcs for table in (arc.rise, arc.fall)]
    return sum((table.at(slew, load) for table in tables), np.zeros_like(load)) / max(1, len(tables))


@dataclass(frozen=True)
class _Units:
    capacitance: float  # fF
    time: float  # ps
    energy: float  # fJ
    power: float  # nW
    templates: Mapping[str, Group]


def _unit(text: str, unit: str, name: str) -> float:
    match = re.fullmatch(rf"\s*([\d.eE+-]*)\s*,?\s*\"?([fpnum]?){unit}\"?\s*", text, re.IGNORECASE)
    if match is None:
        raise LibraryError(f"cannot read {name} of the library: {text!r}")
    return float(match[1] or 1) * _POWERS[match[2].lower()]


def _units(library: Group) -> _Units:
    attributes = library.attributes
    capacitance = _unit(attributes.get("capacitive_load_unit", "1,pf"), "f", "capacitive_load_unit")
    volts = _unit(attributes.get("voltage_unit", "1V"), "v", "voltage_unit") / 1e15
    return _Units(
        capacitance=capacitance,
        time=_unit(attributes.get("time_unit", "1ns"), "s", "time_unit") / 1e3,
        # The Liberty manual: internal power is in the unit of capacitance times that of voltage squared.
        energy=capacitance * volts**2,
        power=_unit(attributes.get("leakage_power_unit", "1nW"), "w", "leakage_power_unit") / 1e6,
        templates={group.arguments[0]: group for group in library.groups if group.kind.endswith("_template")},
    )


def _table(group: Group | None, units: _Units, scale: float) -> Table:
    """A table of a timing or power group; zero without one."""
    one = np.zeros(1)
    if group is None:
        return Table(one, one, np.zeros((1, 1)))
    template = units.templates.get(group.arguments[0] if group.arguments else "")
    axes: list[tuple[str, Floats]] = []
    values = np.array(group.numbers("values")) * scale
    for number in (1, 2):
        given = group.numbers(f"index_{number}") or (template.numbers(f"index_{number}") if template else [])
        variable = template.attributes.get(f"variable_{number}", "") if template else ""
        if given and (variable or number == 1 or len(values) > 1):
            axes.append((variable, np.array(given)))
    if len(values) == 1 or not axes:
        return Table(one, one, values[:1].reshape(1, 1))
    if len(values) != np.prod([len(points) for _, points in axes]):
        raise LibraryError(f"table {group.kind} has {len(values)} values for {[len(p) for _, p in axes]} points")
    values = values.reshape([len(points) for _, points in axes])
    loads = [("load" in name or "capacitance" in name or ("related" in name)) for name, _ in axes]
    if len(axes) == 1:
        points = axes[0][1]
        if loads[0]:
            return Table(one, points * units.capacitance, values[None])
        return Table(points * units.time, one, values[:, None])
    if loads == [True, False]:
        values, axes = values.T, axes[::-1]
    second = units.time if "related" in axes[1][0] or "constrained" in axes[1][0] else units.capacitance
    return Table(axes[0][1] * units.time, axes[1][1] * second, values)


def _grounds(cell: Group) -> set[str]:
    return {pin.arguments[0] for pin in cell.inside("pg_pin") if "ground" in pin.attributes.get("pg_type", "")}


def _arcs(
    cell: Group,
    pin: Group,
    kind: tuple[str, str, str],
    units: _Units,
    scale: float,
    types: Collection[str] = (),
) -> list[Arc]:
    """Arcs of a pin. ``kind``: the group, and its tables of rise and fall."""
    name, rise, fall = kind
    grounds = _grounds(cell)
    arcs = []
    for group in pin.inside(name):
        # Where energies are given for each rail, what leaves by the ground has come in by the supply.
        if group.attributes.get("related_pg_pin") in grounds:
            continue
        if types and group.attributes.get("timing_type", "combinational") not in types:
            continue
        tables = {table.kind: table for table in group.groups}
        either = tables.get("power")
        if name == "timing" and rise not in tables and fall not in tables:
            continue
        related = group.attributes.get("related_pin", "").split()
        for source in related or [""]:
            arcs.append(
                Arc(
                    source,
                    group.attributes.get("when"),
                    _table(tables.get(rise, either), units, scale),
                    _table(tables.get(fall, either), units, scale),
                    group.attributes.get("timing_sense", ""),
                )
            )
    return arcs


def _rows(count: int) -> list[tuple[bool, ...]]:
    return list(itertools.product((False, True), repeat=count))


def _function(text: str, inputs: Sequence[str], cell: str) -> tuple[bool, ...]:
    found = truth(text, inputs)
    if found is None:
        raise LibraryError(f"cannot read function {text!r} of cell {cell}")
    return found


def _model(group: Group, units: _Units) -> CellModel:
    name = group.arguments[0]
    pins = {pin.arguments[0]: pin for pin in group.inside("pin")}
    direction = {pin: found.attributes.get("direction", "") for pin, found in pins.items()}
    inputs = [pin for pin, found in direction.items() if found == "input"]
    outputs = [pin for pin, found in direction.items() if found == "output"]
    clock, tied, kind = "", {}, "logic"
    functions: dict[str, tuple[bool, ...]] = {}
    flop = next(group.inside("ff"), None)
    if group.attributes.get("clock_gating_integrated_cell"):
        roles = {
            role: pin
            for pin, found in pins.items()
            for role in ("clock", "enable", "out", "test")
            if found.attributes.get(f"clock_gate_{role}_pin") == "true"
        }
        if not {"clock", "enable", "out"} <= roles.keys():
            raise LibraryError(f"clock gate {name} does not say which pin is what")
        kind, clock = "gate", roles["clock"]
        tied = {pin: 0 for pin in inputs if pin not in (clock, roles["enable"])}
        inputs = [roles["enable"]]
        functions = {roles["out"]: (False, True)}
    elif flop is not None:
        kind, clock = "flop", flop.attributes.get("clocked_on", "").strip("() ")
        if clock not in inputs:
            raise LibraryError(f"flip-flop {name} is not clocked by the rising edge of one pin: {clock!r}")
        state = flop.arguments
        next_state = flop.attributes.get("next_state", "")
        for role in ("clear", "preset"):
            text = flop.attributes.get(role, "")
            pin = re.sub(r"[\s()!']", "", text)
            if pin:
                tied[pin] = int("!" in text or "'" in text)
        data = [pin for pin in inputs if pin != clock and pin not in tied]
        inputs = [pin for pin in data if re.search(rf"\b{re.escape(pin)}\b", next_state)]
        taken = _function(next_state, inputs, name)
        for pin in outputs:
            kept = truth(pins[pin].attributes.get("function", ""), [state[0]])
            if kept is None and len(state) > 1:
                inverse = truth(pins[pin].attributes.get("function", ""), [state[1]])
                kept = None if inverse is None else (inverse[1], inverse[0])
            if kept is None:
                raise LibraryError(f"cannot read output {pin} of flip-flop {name}")
            functions[pin] = tuple(kept[value] for value in taken)
    elif any(group.inside("latch")) or any(group.inside("statetable")):
        raise LibraryError(f"power has no model of latch {name}")
    else:
        for pin in outputs:
            functions[pin] = _function(pins[pin].attributes.get("function", ""), inputs, name)
    edges: tuple[str, ...] = (
        ("rising_edge",) if kind == "flop" else ("combinational", "combinational_rise", "combinational_fall")
    )
    edges += ("rising_edge", "falling_edge") if kind == "gate" else ()
    leakage = [
        (found.attributes.get("when"), found.number("value") * units.power)
        for found in group.inside("leakage_power")
        if found.attributes.get("related_pg_pin") not in _grounds(group)
    ] or [(None, group.number("cell_leakage_power") * units.power)]

    def arcs(of: Collection[str], kind: tuple[str, str, str], types: Collection[str] = ()) -> dict[str, list[Arc]]:
        scale = units.energy if kind is _ENERGY else units.time
        return {pin: _arcs(group, pins[pin], kind, units, scale, types) for pin in of}

    capacitance = {
        pin: pins[pin].number("capacitance") * units.capacitance for pin in pins if direction[pin] == "input"
    }
    return CellModel(
        name,
        kind,
        inputs,
        functions,
        clock,
        tied,
        group.number("area"),
        capacitance,
        max((pins[pin].number("max_capacitance") for pin in outputs), default=0.0) * units.capacitance,
        arcs([*capacitance, *functions], _ENERGY),
        arcs(functions, ("timing", "cell_rise", "cell_fall"), edges),
        arcs(functions, ("timing", "rise_transition", "fall_transition"), edges),
        leakage,
        arcs(capacitance, ("timing", "rise_constraint", "fall_constraint"), ("setup_rising",)),
    )


def _wire(files: Sequence[Group], units: Sequence[_Units], nand: float, name: str | None) -> WireLoad:
    found = {
        group.arguments[0]: (group, unit)
        for library, unit in zip(files, units, strict=True)
        for group in library.inside("wire_load")
    }
    default = next((library.attributes.get("default_wire_load") for library in files), None)
    if name is not None and name not in found:
        raise LibraryError(f"unknown wire load {name!r}; the library has {', '.join(found) or 'none'}")
    wanted = name or default
    if wanted not in found:
        # One input capacitance of a NAND2 of wire for every load.
        return WireLoad("one NAND2 input a load", {1: 1.0}, 1.0, nand)
    group, unit = found[wanted]
    lengths = {}
    for pair in group.attributes.get("fanout_length", "").split(";"):
        fanout, length, *_ = (float(value) for value in pair.split(","))
        lengths[int(fanout)] = length
    return WireLoad(str(wanted), lengths, group.number("slope"), group.number("capacitance") * unit.capacitance)


def characterise(library: Library, cells: Collection[str], wire: str | None = None) -> Characterisation:
    """What Liberty says of these cells, and of a buffer.

    Parameters
    ----------
    wire
        Name of a ``wire_load`` of the library; its default by default. A library without one has one NAND2 input
        capacitance of wire for every load.

    Raises
    ------
    LibraryError
        A cell is missing, is a latch, or its groups can't be read; the library has no buffer or no wire load of that
        name.
    """
    buffers = [
        cell.name
        for cell in library.cells.values()
        if not cell.dont_use and len(cell.inputs) == 1 and list(cell.outputs.values()) == [cell.inputs[0]] and cell.area
    ]
    if not buffers:
        raise LibraryError(f"library {library.name} has no buffer, which nets of many loads need")
    files = library_groups(library, {*cells, *buffers, library.nand2.name})
    units = [_units(file.library) for file in files]
    models = {
        name: _model(group, unit) for file, unit in zip(files, units, strict=True) for name, group in file.cells.items()
    }
    nand = max(models[library.nand2.name].capacitance.values())
    # Sixteen loads of two NAND2 inputs each, within the cell's own limit; the smallest that has one.
    wanted = 16 * 2 * nand
    fitting = [models[name] for name in buffers if not models[name].max_load or models[name].max_load >= wanted]
    smallest = min(fitting or [max((models[name] for name in buffers), key=lambda cell: cell.max_load)], key=_by_area)
    voltage = files[0].library.number("nom_voltage", 1.0)
    return Characterisation(
        library.name,
        voltage,
        _wire([file.library for file in files], units, nand, wire),
        models,
        smallest,
        sorted((models[name] for name in buffers), key=_by_area),
        models[library.nand2.name],
        units[0].time,
    )


def _by_area(cell: CellModel) -> tuple[float, str]:
    return cell.area, cell.name
