"""A component in Amaranth's simulator, made ready once for any number of runs, each of which begins anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from amaranth.hdl import Cat, ClockDomain, Const, Module, ShapeCastable, Value, ValueCastable
from amaranth.sim import Simulator

__all__ = ["Bench", "Simulation", "Together"]

#: A testbench: it gets the simulator's context.
Bench = Callable[[Any], Awaitable[None]]


class Simulation:
    """A component in the simulator. Making it ready takes longer than most runs.

    A run that failed leaves behind what waits: it must be the last one.

    Parameters
    ----------
    component
        What is simulated.
    clocked
        Give it a clock.
    beside
        Run for as long as the bench does, and before it after each edge. With such functions there is one run.
    """

    def __init__(self, component: Any, clocked: bool = True, beside: Sequence[Bench] = ()) -> None:
        self.component = component
        top = Module()
        top.submodules += component
        if clocked:
            # Some parameters of a component leave no register in it.
            top.domains.sync = ClockDomain()
        self.simulator = Simulator(top)
        if clocked:
            self.simulator.add_clock(1e-6)
        for function in beside:
            self.simulator.add_testbench(function, background=True)
        self.simulator.add_testbench(self._testbench)
        self._used = self._finished = False

    async def _testbench(self, ctx: Any) -> None:
        await self._bench(ctx)
        self._finished = True

    def run(self, bench: Bench) -> None:
        """Run a bench to its end, on the component as it is at first."""
        self._bench = bench
        if self._used:
            self.simulator.reset()
        self._used, self._finished = True, False
        self.simulator.run()
        assert self._finished


class Together:
    """Signals that a bench drives before it looks at any: logic is computed once for all, which takes longest."""

    def __init__(self) -> None:
        self._signals: list[Value] = []
        self._bits = self._width = 0

    def set(self, signal: Any, value: Any) -> None:
        """As the simulator's context has it; of a signal's values the last one counts."""
        if isinstance(signal, ValueCastable) and isinstance(shape := signal.shape(), ShapeCastable):
            value = shape.const(value)
        target, bits = Value.cast(signal), value if type(value) is int else Const.cast(value).value
        self._signals.append(target)
        self._bits |= (bits & (1 << len(target)) - 1) << self._width
        self._width += len(target)

    def drive(self, ctx: Any) -> None:
        """All that was set since the last time, in a simulator's context."""
        if self._signals:
            ctx.set(Cat(*self._signals), self._bits)
        self._signals.clear()
        self._bits = self._width = 0
