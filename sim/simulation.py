"""A component in Amaranth's simulator, made ready once for any number of runs, each of which begins anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

__all__ = ["Bench", "Simulation"]

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
