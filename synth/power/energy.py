"""Energy of a netlist from the toggles of its nets and the Liberty energies of its cells.

The model, for what a toggle count and a Liberty file leave open:

- A net charges the capacitances of its pins and of its wire (:class:`synth.power.cells.WireLoad`): C * V**2 / 2 a
  toggle. One of more than :data:`FANOUT` loads has a balanced tree of buffers, whose own energies are in it.
- Slews are those of the driver's tables for its load, at a nominal input slew: that of the smallest NAND2 that drives
  four of its kind. Half of the transitions rise.
- A toggle of an output takes the energy of one of its arcs: the mean over the inputs, each by how often it toggles
  where the output depends on it. Conditions (``when``) count by the probabilities of their pins, taken as independent.
- An input pin's own energies count for each of its transitions. At a rising edge of a clock a flip-flop's input differs
  from its output as often as the output toggles.
- Outputs of one cell add up, as their tables do in Liberty.
- Leakage by the probabilities of its conditions.

Energies are in fJ, all runs together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synth.liberty import LibraryError, truth
from synth.power.cells import Arc, CellModel, Characterisation, Table, mean_at
from synth.power.netlist import FlatNetlist

__all__ = ["FANOUT", "Activity", "Calculator", "CellEnergy", "Energies"]

#: Most loads of a net without buffers, and of a buffer.
FANOUT = 16

Floats = NDArray[np.float64]

_PART = 1 << 15


@dataclass(frozen=True)
class Activity:
    """What nets do in some cycles."""

    #: Of each net.
    toggles: NDArray[np.int64]
    #: Probability that the net is high.
    high: Floats
    #: Clock cycles of all runs together.
    cycles: int


@dataclass(frozen=True)
class Energies:
    """fJ by block: of logic and of what registers take and hold, of the clock (its pins, nets, gates and buffers), and
    of leakage."""

    data: Floats
    clock: Floats
    leakage: Floats

    @property
    def total(self) -> float:
        """fJ of all blocks."""
        return float(self.data.sum() + self.clock.sum() + self.leakage.sum())


class _States:
    """The states of a cell's pins: combinations of those that are free, the first one varying slowest.

    A flip-flop's first output is free, and a clock gate's output is low unless enable and clock are high.
    """

    def __init__(self, cell: CellModel) -> None:
        self.cell = cell
        outputs = list(cell.outputs)
        self.free = [*cell.inputs, *([cell.clock] if cell.clock else []), *(outputs[:1] if cell.kind == "flop" else [])]
        self.rows = np.array(list(itertools.product((0, 1), repeat=len(self.free))), np.intp).reshape(
            -1, len(self.free)
        )
        values = {pin: self.rows[:, column] for column, pin in enumerate(self.free)}
        places = np.zeros(len(self.rows), np.intp)
        for pin in cell.inputs:
            places = places * 2 + values[pin]
        for pin, table in cell.outputs.items():
            if cell.kind == "logic":
                values[pin] = np.array(table, np.intp)[places]
            elif cell.kind == "gate":
                values[pin] = values[cell.inputs[0]] * values[cell.clock]
            elif pin != outputs[0]:
                # Both follow one state: alike, or one the inverse of the other.
                values[pin] = values[outputs[0]] ^ int(table != cell.outputs[outputs[0]])
        values |= {pin: np.full(len(self.rows), constant) for pin, constant in cell.tied.items()}
        self.values = values
        self.takes = (
            np.array(cell.outputs[outputs[0]], np.intp)[places] if cell.kind == "flop" else np.zeros_like(places)
        )

    def column(self, pin: str) -> int:
        return self.free.index(pin)

    def holds(self, when: str | None) -> NDArray[np.bool_]:
        """In which states a condition holds."""
        if when is None:
            return np.ones(len(self.rows), np.bool_)
        names = list(self.values)
        named = [name for name in names if name in _words(when)]
        table = truth(when, named)
        if table is None:
            raise LibraryError(f"cannot read condition {when!r} of cell {self.cell.name}")
        place = np.zeros(len(self.rows), np.intp)
        for name in named:
            place = place * 2 + self.values[name]
        return np.array(table)[place]

    def probability(self, high: Floats) -> Floats:
        """Probabilities of each state, ``[instances, states]``, from the probabilities that free pins are high."""
        result = np.ones((len(high), len(self.rows)))
        for column in range(len(self.free)):
            part = high[:, column : column + 1]
            result *= np.where(self.rows[:, column] == 1, part, 1 - part)
        return result

    def differs(self, pin: str, output: str) -> NDArray[np.bool_]:
        """In which states the output changes if this input alone does."""
        column = self.column(pin)
        other = self.rows.copy()
        other[:, column] ^= 1
        place = np.zeros(len(self.rows), np.intp)
        for part in range(len(self.free)):
            place = place * 2 + other[:, part]
        return self.values[output] != self.values[output][place]


def _words(text: str) -> set[str]:
    word, words = "", set()
    for character in text + " ":
        if character.isalnum() or character in "_[]":
            word += character
        elif word:
            words.add(word)
            word = ""
    return words


def _conditional(states: _States, arcs: Sequence[Arc]) -> list[tuple[Arc, Floats]]:
    """Arcs with the share that each has of every state: those whose condition holds, else those without one."""
    if not arcs:
        return []
    holds = np.array([states.holds(arc.when) for arc in arcs])
    given = np.array([arc.when is not None for arc in arcs])
    special = (holds & given[:, None]).any(axis=0)
    holds &= given[:, None] | ~special
    shares = holds / np.maximum(holds.sum(axis=0), 1)
    return list(zip(arcs, shares, strict=True))


class CellEnergy:
    """What instances of one cell take inside.

    Parameters
    ----------
    cell
        The cell.
    slews
        ps at each input, ``[instances, pins]`` in the order inputs, clock.
    loads
        fF at each output, ``[instances, outputs]``.
    """

    def __init__(self, cell: CellModel, slews: Floats, loads: Floats) -> None:
        self.cell, self.states = cell, _States(cell)
        self.sources = [*cell.inputs, *([cell.clock] if cell.clock else [])]
        # Copies of a module have equal slews and loads: tables are looked up once for each pair.
        kinds, self._kind = np.unique(np.round(np.concatenate([slews, loads], axis=1), 6), axis=0, return_inverse=True)
        self._kind = self._kind.reshape(-1)
        self._slews, self._loads = kinds[:, : len(self.sources)], kinds[:, len(self.sources) :]
        self._outputs = [
            (number, pin, self._terms(output, pin, self._loads[:, number]))
            for number, output in enumerate(cell.outputs)
            for pin in ([cell.clock] if cell.kind == "flop" else self.sources)
        ]
        self._inputs = [(self.sources.index(pin), self._terms(pin, pin, np.zeros(len(kinds)))) for pin in cell.inputs]
        self._leakage = self._shares([Arc("", when, _constant(nw), _constant(nw)) for when, nw in cell.leakage])

    def part(self, instances: slice) -> CellEnergy:
        """Some of the instances."""
        found = copy(self)
        found._kind = self._kind[instances]
        return found

    def _shares(self, arcs: Sequence[Arc]) -> list[tuple[Arc, Floats]]:
        return _conditional(self.states, arcs)

    def _terms(self, owner: str, pin: str, loads: Floats) -> Floats | None:
        """fJ of a transition in each state, ``[kinds, states]``: the mean of rise and fall; None without arcs."""
        arcs = self.cell.energy.get(owner, [])
        if owner != pin:
            arcs = [arc for arc in arcs if arc.related in (pin, "")]
        if not arcs:
            return None
        slews = self._slews[:, self.sources.index(pin)]
        total = np.zeros((len(slews), len(self.states.rows)))
        for arc, share in self._shares(arcs):
            total += ((arc.rise.at(slews, loads) + arc.fall.at(slews, loads)) / 2)[:, None] * share
        return total

    def at(self, toggles: Floats, high: Floats) -> tuple[Floats, Floats, Floats]:
        """fJ of data and of the clock, and nW of leakage, of each instance.

        Parameters
        ----------
        toggles
            Of inputs, clock, outputs: ``[instances, pins]``.
        high
            Probability that each is high, in the same order.
        """
        cell, states = self.cell, self.states
        probability = states.probability(high[:, : len(states.free)])
        data, clock = np.zeros(len(toggles)), np.zeros(len(toggles))
        outputs = list(cell.outputs)
        for number in range(len(outputs)):
            # The arcs of all inputs count, each by how often it is what makes the output toggle.
            energy, weight = np.zeros((2, len(toggles))), np.zeros((2, len(toggles)))
            for which, pin, terms in self._outputs:
                if which != number or terms is None:
                    continue
                often = probability
                if cell.kind != "flop":
                    often = probability * states.differs(pin, outputs[number])
                total = often.sum(axis=1)
                each = np.einsum("is,is->i", often, terms[self._kind])
                # Where no input that matters toggles, inputs count alike.
                for way, share in enumerate((toggles[:, self.sources.index(pin)], 1.0)):
                    energy[way] += share * each
                    weight[way] += share * total
            mean = np.divide(energy, weight, out=np.zeros_like(energy), where=weight > 0)
            count = toggles[:, len(self.sources) + number]
            part = count * np.where(weight[0] > 0, mean[0], mean[1])
            if cell.kind == "gate":
                clock += part
            else:
                data += part
        for column, terms in self._inputs:
            if terms is not None:
                data += toggles[:, column] * np.einsum("is,is->i", probability, terms[self._kind])
        if cell.clock:
            clock += self._clock_pin(toggles, probability)
        leakage = np.zeros(len(toggles))
        for arc, share in self._leakage:
            leakage += probability @ share * arc.rise.values[0, 0]
        return data, clock, leakage

    def _clock_pin(self, toggles: Floats, probability: Floats) -> Floats:
        cell, states = self.cell, self.states
        pulses = toggles[:, len(cell.inputs)] / 2
        passed = toggles[:, len(cell.inputs) + 1]
        if cell.kind == "gate":
            # Every pulse that passes is two toggles of the output.
            passed = passed / 2
            changes = states.values[cell.inputs[0]] == 1
        else:
            changes = states.takes != states.values[next(iter(cell.outputs))]
        share = np.clip(np.divide(passed, pulses, out=np.zeros_like(passed), where=pulses > 0), 0, 1)
        low = states.rows[:, states.column(cell.clock)] == 0

        def within(chosen: NDArray[np.bool_]) -> Floats:
            part = probability * chosen
            total = part.sum(axis=1, keepdims=True)
            even = np.broadcast_to(chosen / max(1, chosen.sum()), part.shape)
            return np.where(total > 0, part / np.where(total > 0, total, 1), even)

        # At the rising edge the output moves in `share` of the pulses; at the falling one inputs are what they are,
        # and a clock gate's output follows the clock in those that it passed.
        rising = share[:, None] * within(low & changes) + (1 - share[:, None]) * within(low & ~changes)
        falling = within(low)
        if cell.kind == "gate":
            falling = falling * (1 - share[:, None])
        slews = self._slews[:, self.sources.index(cell.clock)]
        rise, fall = np.zeros((len(slews), len(low))), np.zeros((len(slews), len(low)))
        for arc, states_share in self._shares(cell.energy.get(cell.clock, [])):
            rise += arc.rise.at(slews, 0.0)[:, None] * states_share
            fall += arc.fall.at(slews, 0.0)[:, None] * states_share
        both = np.einsum("is,is->i", rising, rise[self._kind]) + np.einsum("is,is->i", falling, fall[self._kind])
        return pulses * both


@dataclass(frozen=True)
class _Drive:
    """How a net is driven: fJ of a toggle for all its capacitance and buffers, the driver's load, the loads' slew."""

    energy: Floats
    load: Floats
    slew: Floats
    delay: Floats
    leakage: Floats


class Calculator:
    """Energies of one netlist.

    Parameters
    ----------
    netlist
        The design.
    library
        Its cells.
    period
        ps of a clock cycle, for leakage.
    """

    def __init__(self, netlist: FlatNetlist, library: Characterisation, period: float) -> None:
        self.netlist, self.library, self.period = netlist, library, period
        self.nominal = library.nominal_slew
        self._columns = {
            name: {pin: column for column, pin in enumerate(cell.pins)} for name, cell in netlist.cells.items()
        }
        self._find_loads()
        self._drive = self._driven()
        self._inside: dict[str, tuple[CellEnergy, NDArray[np.int32]]] = {}

    @property
    def clock_nets(self) -> NDArray[np.bool_]:
        """Which nets carry a clock."""
        return self._is_clock

    def _net(self, name: str, pin: str) -> NDArray[np.int32] | None:
        column = self._columns[name].get(pin)
        return None if column is None else self.netlist.cells[name].nets[:, column]

    def _find_loads(self) -> None:
        count = self.netlist.nets
        capacitance = np.zeros(count)
        loads = np.zeros(count, np.int64)
        owner = np.full(count, self.netlist.blocks.index("other") if "other" in self.netlist.blocks else 0, np.int64)
        is_clock = np.zeros(count, np.bool_)
        is_clock[self.netlist.ports["clk"]] = True
        for name, cell in self.netlist.cells.items():
            model = self.library.cells[name]
            for pin, value in model.capacitance.items():
                nets = self._net(name, pin)
                if nets is not None:
                    capacitance += np.bincount(nets, minlength=count) * value
                    loads += np.bincount(nets, minlength=count)
            for pin in model.outputs:
                nets = self._net(name, pin)
                if nets is not None:
                    owner[nets] = cell.blocks
                    if model.kind == "gate":
                        is_clock[nets] = True
        capacitance[:2], loads[:2] = 0, 0
        self._capacitance, self._loads, self._owner, self._is_clock = capacitance, loads, owner, is_clock

    def _driven(self) -> _Drive:
        """Wires and buffers of every net."""
        library = self.library
        buffer = library.buffer
        (buffer_input,) = buffer.capacitance.values()
        (output,) = buffer.outputs
        count = self.netlist.nets
        half = library.voltage**2 / 2
        loads, capacitance = self._loads.copy(), self._capacitance.copy()
        energy, delay, leakage = np.zeros(count), np.zeros(count), np.zeros(count)
        slew = np.zeros(count)
        buffer_leakage = sum(value for _, value in buffer.leakage) / len(buffer.leakage)
        buffered = np.zeros(count, np.bool_)
        while (many := np.flatnonzero(loads > FANOUT)).size:
            # A level of buffers takes the place of the loads; each has an even part of them.
            buffers = -(-loads[many] // FANOUT)
            each = capacitance[many] / buffers + library.wire.at(-(-loads[many] // buffers))
            inside = mean_at(buffer.energy.get(output, []), self.nominal, each)
            inside = inside + mean_at(buffer.energy.get(buffer.inputs[0], []), self.nominal, np.zeros(1))
            energy[many] += buffers * (each * half + inside)
            leakage[many] += buffers * buffer_leakage
            delay[many] += mean_at(buffer.delay[output], self.nominal, each)
            first = many[~buffered[many]]
            slew[first] = mean_at(buffer.slew[output], self.nominal, each)[~buffered[many]]
            buffered[many] = True
            capacitance[many], loads[many] = buffers * buffer_input, buffers
        load = capacitance + np.where(loads > 0, library.wire.at(loads), 0.0)
        energy += load * half
        own_slew, own_delay = np.full(count, self.nominal), np.full(count, self.nominal)
        for name in self.netlist.cells:
            model = library.cells[name]
            for pin in model.outputs:
                nets = self._net(name, pin)
                if nets is not None:
                    own_slew[nets] = mean_at(model.slew[pin], self.nominal, load[nets])
                    own_delay[nets] = mean_at(model.delay[pin], self.nominal, load[nets])
        flops = [own_delay[nets] for name in self.netlist.cells for nets in self._flop_nets(name)]
        for port in self.netlist.inputs:
            # What comes from outside comes from registers.
            own_delay[self.netlist.ports[port]] = np.concatenate(flops).mean() if flops else self.nominal
        return _Drive(energy, load, np.where(buffered, slew, own_slew), delay + own_delay, leakage)

    def _flop_nets(self, name: str) -> list[NDArray[np.int32]]:
        model = self.library.cells[name]
        nets = [self._net(name, pin) for pin in model.outputs] if model.kind == "flop" else []
        return [each for each in nets if each is not None]

    def delays(self, steps: float = 8.0) -> tuple[NDArray[np.int32], float]:
        """Delay of what drives each net, in steps, and the ps of a step: the nominal slew has ``steps`` of them."""
        step = self.nominal / steps
        return np.maximum(1, np.rint(self._drive.delay / step)).astype(np.int32), step

    def energies(self, activity: Activity) -> Energies:
        """Energy by block (:attr:`FlatNetlist.blocks`)."""
        blocks = len(self.netlist.blocks)
        data, clock, leakage = np.zeros(blocks), np.zeros(blocks), np.zeros(blocks)
        count = self.netlist.nets
        toggles = activity.toggles[:count].astype(np.float64)
        nets = toggles * self._drive.energy
        is_clock = self._is_clock
        data += np.bincount(self._owner[~is_clock], weights=nets[~is_clock], minlength=blocks)
        clock += np.bincount(self._owner[is_clock], weights=nets[is_clock], minlength=blocks)
        # nW * ps = 1e-6 fJ
        time = activity.cycles * self.period * 1e-6
        leakage += np.bincount(self._owner, weights=self._drive.leakage, minlength=blocks) * time
        for name, cell in self.netlist.cells.items():
            inside, pins = self._instances(name)
            for start in range(0, len(pins), _PART):
                part = slice(start, start + _PART)
                values = inside.part(part).at(toggles[pins[part]], activity.high[pins[part]])
                for target, found in zip((data, clock, leakage), values, strict=True):
                    scale = time if target is leakage else 1.0
                    target += np.bincount(cell.blocks[part], weights=found, minlength=blocks) * scale
        return Energies(data, clock, leakage)

    def _instances(self, name: str) -> tuple[CellEnergy, NDArray[np.int32]]:
        """The energies of one cell, and the nets of its inputs, clock and outputs."""
        if name not in self._inside:
            model, rows, columns = self.library.cells[name], self.netlist.cells[name].nets, self._columns[name]
            spare = np.zeros(len(rows), np.int32)
            sources = [rows[:, columns[pin]] for pin in (*model.inputs, *([model.clock] if model.clock else []))]
            outputs = [rows[:, columns[pin]] if pin in columns else spare for pin in model.outputs]
            slews = self._drive.slew[np.stack(sources, axis=1)]
            loads = self._drive.load[np.stack(outputs, axis=1)]
            self._inside[name] = CellEnergy(model, slews, loads), np.stack([*sources, *outputs], axis=1)
        return self._inside[name]


def _constant(value: float) -> Table:
    return Table(np.zeros(1), np.zeros(1), np.full((1, 1), value))
