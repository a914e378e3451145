"""A program between the AXI models of cocotbext-axi, with random pauses on every channel; run by test_cocotbext.py."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam, AxiResp

from hw.bus.register_map import REGISTERS

OFFSETS = {register.name: register.offset for register in REGISTERS}
PERIOD = 10


def pauses(seed: str, part: float) -> Iterator[bool]:
    rng = random.Random(seed)
    while True:
        yield rng.random() < part


@cocotb.test()
async def program(dut) -> None:
    folder = Path(os.environ["ACCELERATOR_FOLDER"])
    job = json.loads((folder / "job.json").read_text())
    memory = (folder / "memory").read_bytes()
    Clock(dut.clk, PERIOD, unit="ns").start()
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=job["size"])
    host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    channels = {
        f"{side} {name}": getattr(getattr(side_of, half), f"{name}_channel")
        for side, side_of in (("ram", ram), ("host", host))
        for half, names in (("write_if", ("aw", "w", "b")), ("read_if", ("ar", "r")))
        for name in names
    }
    for name, channel in channels.items():
        channel.set_pause_generator(pauses(f"{job['seed']} {name}", job["stall"]))

    async def bounded(wait, cycles: int = 5000):
        return await with_timeout(wait, cycles * PERIOD, "ns")

    async def write(name: str, value: int) -> None:
        answer = await bounded(host.write(OFFSETS[name], value.to_bytes(4, "little")))
        assert answer.resp is AxiResp.OKAY

    async def read(name: str) -> int:
        answer = await bounded(host.read(OFFSETS[name], 4))
        assert answer.resp is AxiResp.OKAY
        return int.from_bytes(answer.data, "little")

    dut.rst.value = 1
    await ClockCycles(dut.clk, 5)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    for register in REGISTERS:
        assert await read(register.name) == register.reset, register.name
    answer = await bounded(host.read(0xFFC, 4))
    assert answer.resp is AxiResp.SLVERR

    for _ in range(2):
        ram.write(job["base"], memory)
        await write("PROGRAM_LOW", job["address"])
        await write("PROGRAM_DESCRIPTORS", job["descriptors"])
        await write("INTERRUPT_ENABLE", 0b111)
        await write("CONTROL", 1)
        if not dut.o_interrupt.value:
            await bounded(RisingEdge(dut.o_interrupt), job["limit"])
        assert await read("STATUS") == 0b010
        assert await read("ERROR") == 0
        assert await read("INTERRUPT") == 0b001
        await write("INTERRUPT", 0b001)
        assert await read("INTERRUPT") == 0
        await ClockCycles(dut.clk, 2)
        assert not dut.o_interrupt.value
        assert ram.read(job["base"], len(memory)) == (folder / "expected").read_bytes()
