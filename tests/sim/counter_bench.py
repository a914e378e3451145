"""cocotb tests of counter.v, run by test_runner.py."""

from __future__ import annotations

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge


async def count(dut, cycles: int) -> int:
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value, dut.enable.value = 1, 0
    await FallingEdge(dut.clk)
    dut.rst.value, dut.enable.value = 0, 1
    for _ in range(cycles):
        await FallingEdge(dut.clk)
    return int(dut.count.value)


@cocotb.test()
async def counts_enabled_cycles(dut) -> None:
    assert await count(dut, 300) == 300


@cocotb.test()
async def hides_registers(dut) -> None:
    assert not hasattr(dut, "hidden")


@cocotb.test()
async def is_wrong(dut) -> None:
    assert await count(dut, 3) == 4
