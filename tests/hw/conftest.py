"""Amaranth's simulator as a fixture."""

from __future__ import annotations

import pytest
from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator


@pytest.fixture
def simulate():
    """Runs an asynchronous function of the simulation's context on a component; ``clocked`` ones get a clock."""

    def run(component, bench, clocked: bool = True) -> None:
        top = Module()
        top.submodules += component
        if clocked:
            # Some parameters of a component leave no register in it.
            top.domains.sync = ClockDomain()
        simulator = Simulator(top)
        if clocked:
            simulator.add_clock(1e-6)
        finished = False

        async def testbench(ctx) -> None:
            nonlocal finished
            await bench(ctx)
            finished = True

        simulator.add_testbench(testbench)
        simulator.run()
        assert finished

    return run
