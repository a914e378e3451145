"""Amaranth's simulator as a fixture."""

from __future__ import annotations

import pytest
from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator


@pytest.fixture
def simulate():
    """Runs an asynchronous function of the simulation's context on a component; ``clocked`` ones get a clock.

    The functions ``beside`` it run for as long as it does, and before it after each edge.
    """

    def run(component, bench, clocked: bool = True, beside=()) -> None:
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

        for function in beside:
            simulator.add_testbench(function, background=True)
        simulator.add_testbench(testbench)
        simulator.run()
        assert finished

    return run
