"""cocotb test that runs programs on the accelerator: only doorbells, interrupts and registers are seen from here."""

from __future__ import annotations

import json
import mmap
import os
import time
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, First, Timer

from hw.bus.register_map import REGISTERS
from hw.control.counters import COUNTERS

PERIOD = 2  # simulator steps
WATCH_CYCLES = 1 << 14
ACCESS_CYCLES = 1000
OFFSETS = {register.name: register.offset for register in REGISTERS}


class Host:
    """The host's side of ``bench.sv``."""

    def __init__(self, dut) -> None:
        self.dut = dut
        dut.rst.value = 1
        dut.configure.value = 0
        dut.alone.value = 0
        dut.host_request.value = 0
        self._request = 0
        Clock(dut.clk, PERIOD, unit="step").start()

    async def cycles(self, count: int) -> None:
        """Wait, from falling edge to falling edge."""
        await Timer(PERIOD * count, unit="step")

    async def reset(self, alone: bool = False) -> None:
        """Reset the accelerator and, unless ``alone``, the DRAM's bus, not its contents."""
        self.dut.alone.value = int(alone)
        self.dut.rst.value = 1
        await FallingEdge(self.dut.clk)
        await self.cycles(4)
        self.dut.rst.value = 0
        await self.cycles(2)

    async def _access(self, write: bool, name: str, data: int) -> int:
        dut = self.dut
        dut.host_write.value = int(write)
        dut.host_address.value = OFFSETS[name]
        dut.host_data.value = data
        self._request ^= 1
        before = int(dut.host_done.value)
        dut.host_request.value = self._request
        await First(dut.host_done.value_change, Timer(PERIOD * ACCESS_CYCLES, unit="step"))
        assert int(dut.host_done.value) != before, f"{name}: no answer in {ACCESS_CYCLES} cycles"
        assert int(dut.host_response.value) == 0, f"{name}: response {int(dut.host_response.value)}"
        return int(dut.host_result.value)

    async def write(self, name: str, data: int) -> None:
        """Write a register."""
        await self._access(True, name, data)

    async def read(self, name: str) -> int:
        """Read a register."""
        return await self._access(False, name, 0)

    async def state(self) -> dict[str, Any]:
        """What the registers say about the last program."""
        names = ("STATUS", "INTERRUPT", "ERROR", "ERROR_DESCRIPTOR", "DESCRIPTORS")
        found: dict[str, Any] = {name.lower(): await self.read(name) for name in names}
        found["counters"] = {name: await self.read(f"COUNTER_{name.upper()}") for name in COUNTERS}
        return found


async def prepare(host: Host, job: dict[str, Any], memory: mmap.mmap) -> bytes:
    """Fill the DRAM as a job has it, and set how the DRAM behaves. Gives the contents."""
    data = Path(job["memory"]).read_bytes()
    memory[: len(data)] = data
    for name, value in job["settings"].items():
        getattr(host.dut, name).value = value
    host.dut.configure.value = 1
    await host.cycles(1)
    host.dut.configure.value = 0
    return data


async def run_job(host: Host, job: dict[str, Any], memory: mmap.mmap, watch) -> dict[str, Any]:
    """One program, from its memory's contents to its end."""
    dut = host.dut
    data = await prepare(host, job, memory)
    if job["reset"]:
        await host.reset()
    await host.write("INTERRUPT", 0b111)
    await host.write("INTERRUPT_ENABLE", 0b011)
    await host.write("PROGRAM_LOW", job["address"] & 0xFFFFFFFF)
    await host.write("PROGRAM_HIGH", job["address"] >> 32)
    await host.write("PROGRAM_DESCRIPTORS", job["descriptors"])
    started = time.perf_counter()
    await host.write("CONTROL", 0b01)
    first = int(dut.start_edge.value)
    actions = sorted(map(tuple, job["actions"]))
    was_reset = False
    while not int(dut.irq.value) and not was_reset:
        done = int(dut.edges.value) - first
        assert not int(dut.violation.value), "the accelerator broke a rule of AXI; see the log"
        if done >= job["limit"]:
            raise AssertionError(f"no interrupt after {done} cycles: {await host.state()}")
        await watch(done)
        step = min(WATCH_CYCLES, job["limit"] - done, *(max(cycle - done, 0) for cycle, _ in actions[:1]))
        if step:
            await First(dut.irq.value_change, Timer(PERIOD * step, unit="step"))
        elif actions[0][1] == "reset":
            await host.reset()
            was_reset = True
        else:
            await host.write("CONTROL", 0b10 if actions[0][1] == "abort" else 0b01)
        if not step:
            actions.pop(0)
    seconds = time.perf_counter() - started
    report = await host.state()
    assert not int(dut.violation.value), "the accelerator broke a rule of AXI; see the log"
    report |= {"cycles": int(dut.irq_edge.value) - first, "seconds": seconds}
    Path(job["result"]).write_bytes(memory[: len(data)])
    return report


@cocotb.test()
async def programs(dut) -> None:
    """Run the jobs of ``jobs.json``, and write a report of each."""
    folder = Path(os.environ["ACCELERATOR_FOLDER"])
    jobs = json.loads((folder / "jobs.json").read_text())
    host = Host(dut)
    with Path(os.environ["ACCELERATOR_DRAM"]).open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    await host.reset()
    for number, job in enumerate(jobs):

        async def watch(done: int, number: int = number) -> None:
            temporary = folder / "progress.new"
            temporary.write_text(json.dumps([number, done]))
            temporary.replace(folder / "progress")

        report = await run_job(host, job, memory, watch)
        (folder / f"report-{number}.json").write_text(json.dumps(report))
