"""A component in Amaranth's simulator. Making one ready takes longer than most runs: tests of the same one share it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

__all__ = ["SHARED", "Simulation", "shared"]

Bench = Callable[[Any], Awaitable[None]]


class Simulation:
    """A component in the simulator, with functions ``beside`` the bench; those without any run as often as wanted."""

    def __init__(self, component: Any, clocked: bool = True, beside: Sequence[Bench] = ()) -> None:
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


class _Shared:
    """Components by what they are made of, the last few of them, with their simulations."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.components: dict[Any, Any] = {}
        self.simulations: dict[int, Simulation] = {}

    def component(self, make: Callable[..., Any], *parameters: Any) -> Any:
        """``make(*parameters)``, the same one as before where it is still there."""
        key = make, *parameters
        found = self.components.pop(key, None)
        self.components[key] = make(*parameters) if found is None else found
        if len(self.components) > self.most:
            first = self.components.pop(next(iter(self.components)))
            self.simulations.pop(id(first), None)
        return self.components[key]

    def run(self, component: Any, bench: Bench) -> bool:
        """Run a bench, if the component is one of these."""
        if all(component is not each for each in self.components.values()):
            return False
        # Where a run fails, something is left that waits: it is not run again.
        simulation = self.simulations.pop(id(component), None) or Simulation(component)
        simulation.run(bench)
        self.simulations[id(component)] = simulation
        return True


SHARED = _Shared(6)
shared = SHARED.component
