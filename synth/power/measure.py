"""One instance, simulated at the level of gates: what it takes while it loads, computes, waits and idles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hw.config import AcceleratorConfig
from hw.core import EVENTS_LAYOUT
from hw.generate import TOP
from synth.flow import Synthesiser
from synth.liberty import Library
from synth.power.cells import Characterisation, characterise
from synth.power.energy import Activity, Calculator, Energies
from synth.power.netlist import FlatNetlist, flatten
from synth.power.simulator import Simulator
from synth.power.workload import Lane, transfers
from synth.report import CACHE, INSTANCES, component_rtlil

__all__ = [
    "IDLE",
    "OPERATIONS",
    "TIMED",
    "WARM",
    "WINDOW",
    "Measurement",
    "PowerError",
    "Window",
    "gate_netlist",
    "measure",
]

#: Cycles from the first operation to the window, of the window, of the timed one behind it, and of stalls and idling.
WARM, WINDOW, TIMED, IDLE = 16, 96, 4, 32

#: Operations that every run has to have.
OPERATIONS = WARM + WINDOW + TIMED

#: Cycles after the last weight for it to reach the array.
_DRAIN = 24
#: Least share of nets whose toggles must come from the simulation.
_COVERAGE = 0.95


class PowerError(RuntimeError):
    """A simulation that is not what the golden model says, or sees too little of the design. The message says where."""


@dataclass(frozen=True)
class Window:
    """Some cycles, all runs together."""

    #: Of all runs together.
    cycles: int
    #: Array operations issued, and rows of weights written.
    operations: int
    row_writes: int
    #: fJ by block.
    energies: Energies


@dataclass(frozen=True)
class Measurement:
    """What one instance takes."""

    #: ``codebook``, ``load``, ``stall`` (weights are there, no activation comes), ``run`` (an operation a cycle),
    #: ``timed`` and ``functional`` (the same cycles, with glitches and without), ``idle``.
    windows: Mapping[str, Window]
    #: Names, in the order of the energies.
    blocks: Sequence[str]
    #: Of the netlist.
    cells: int
    nets: int
    #: Of its cells, in the library's unit; buffers of nets of many loads are not in it.
    area: float
    #: Share of nets whose toggles come from the simulation.
    simulated: float
    #: Share of nets that toggled at least once.
    moved: float
    #: Partial sums that were compared with the golden model.
    sums: int
    #: Names of the layers, and how many runs each has.
    layers: Mapping[str, int]
    #: Multiply-accumulates of an array operation, those with pruned weights included.
    macs: float

    def per_mac(self, window: str = "run") -> float:
        """fJ of a dense-equivalent multiply-accumulate."""
        found = self.windows[window]
        return found.energies.total / (found.operations * self.macs)

    def per_cycle(self, window: str) -> float:
        """fJ of a cycle of one run."""
        found = self.windows[window]
        return found.energies.total / found.cycles

    @property
    def per_operation(self) -> float:
        """fJ of an operation of the array."""
        run = self.windows["run"]
        return run.energies.total / run.operations

    @property
    def per_row(self) -> float:
        """fJ of a row of weights, beyond a stalled array's cycle."""
        load = self.windows["load"]
        return (load.energies.total - load.cycles * self.per_cycle("stall")) / max(1, load.row_writes)


def gate_netlist(
    config: AcceleratorConfig,
    library: Library,
    storage: str,
    cache: Path = CACHE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FlatNetlist:
    """The core of an instance as gates."""
    text = component_rtlil(config, cache, "hw.core", "AcceleratorCore")
    modules = Synthesiser(library, cache, storage).gates(text, progress=progress)
    return flatten(modules, TOP, INSTANCES, "other")


def _simulated_share(netlist: FlatNetlist, library: Characterisation) -> float:
    """Share of the nets on pins of cells that an input of the design or a cell that is simulated drives."""
    driven, used = np.zeros(netlist.nets, np.bool_), np.zeros(netlist.nets, np.bool_)
    for port in netlist.inputs:
        driven[netlist.ports[port]] = True
    for name, cell in netlist.cells.items():
        used[cell.nets.reshape(-1)] = True
        for pin in library.cells[name].outputs:
            if pin in cell.pins:
                driven[cell.nets[:, cell.pins.index(pin)]] = True
    used[:2] = False
    return float((driven & used).sum() / max(1, used.sum()))


def measure(
    config: AcceleratorConfig,
    netlist: FlatNetlist,
    library: Library,
    runs: Sequence[Lane],
    period: float,
    cache: Path = CACHE,
    wire: str | None = None,
    glitches: bool = True,
) -> Measurement:
    """Simulate an instance on real layers and report its energy.

    Parameters
    ----------
    netlist
        :func:`gate_netlist` of the instance.
    runs
        :func:`synth.power.workload.lanes`, of at least :data:`OPERATIONS` operations each.
    period
        ps of a clock cycle.
    wire
        As :func:`synth.power.cells.characterise` takes it.
    glitches
        Run the timed cycles, too.

    Raises
    ------
    PowerError
        A sum differs from the golden model, does not come, or too few nets are simulated.
    synth.power.simulator.SimulatorError
        The netlist can't be simulated.
    """
    cells = characterise(library, netlist.cells, wire)
    simulated = _simulated_share(netlist, cells)
    if simulated < _COVERAGE:
        raise PowerError(f"toggles of {100 * simulated:.1f} % of the nets are simulated, less than {_COVERAGE:.0%}")
    simulator = Simulator(netlist, cells.cells, transfers(config, runs), len(runs), cache)
    calculator = Calculator(netlist, cells, period)
    moved = np.zeros(netlist.nets, np.bool_)
    windows: dict[str, Window] = {}
    events = {name: int(netlist.ports["o_events"][number]) for number, (name, _) in enumerate(EVENTS_LAYOUT)}

    def finish(name: str, timed: bool = False) -> None:
        cycles = simulator.finish() * len(runs)
        high = simulator.high[: netlist.nets]
        toggles = (simulator.timed_toggles if timed else simulator.toggles)[: netlist.nets]
        moved[:] |= simulator.toggles[: netlist.nets] > 0
        probability = high / max(1, cycles)
        probability[1] = 1.0
        energies = calculator.energies(Activity(toggles, probability, cycles))
        windows[name] = Window(cycles, int(high[events["issue"]]), int(high[events["row_write"]]), energies)

    def until(done: Callable[[], bool], what: str) -> None:
        last = simulator.progress()
        while not done():
            simulator.run(8)
            now, cycle = simulator.progress(), simulator.cycle
            if now[0] == last[0] and cycle - last[1] > 4096:
                raise PowerError(f"nothing moved for 4096 cycles before {what}")
            if now[0] != last[0]:
                last = now

    weights = [name for name in simulator.streams if name not in ("i_activation", "i_psum", "o_psum")]
    simulator.reset()
    for name in simulator.streams:
        simulator.enable(name, name != "i_activation")
    words = np.array([run.codewords for run in runs])
    simulator.start()
    if words.any():
        until(lambda: bool((simulator.positions["i_weight"][: len(runs)] >= words).all()), "the codebooks are loaded")
        finish("codebook")
        simulator.start()
    until(lambda: all(map(simulator.done, weights)), "the weights are loaded")
    simulator.run(_DRAIN)
    finish("load")
    simulator.start()
    simulator.run(IDLE)
    finish("stall")
    simulator.enable("i_activation", True)
    simulator.run(WARM)
    simulator.start()
    simulator.run(WINDOW)
    finish("run")
    if glitches:
        delays, _ = calculator.delays()
        simulator.start()
        simulator.run_timed(TIMED, delays)
        finish("functional")
        finish("timed", timed=True)
    until(lambda: simulator.done("o_psum"), "all sums are there")
    simulator.run(8)
    simulator.start()
    simulator.run(IDLE)
    finish("idle")
    wrong = simulator.mismatch("o_psum")
    if wrong:
        raise PowerError(wrong)
    names = [run.layer for run in runs]
    return Measurement(
        windows,
        netlist.blocks,
        netlist.instances,
        netlist.nets,
        sum(len(cell.nets) * cells.cells[name].area for name, cell in netlist.cells.items()),
        simulated,
        float(moved.mean()),
        sum(len(run.expected) for run in runs) * config.L,
        {name: names.count(name) for name in dict.fromkeys(names)},
        config.H * config.L * float(np.mean([run.share for run in runs])),
    )
