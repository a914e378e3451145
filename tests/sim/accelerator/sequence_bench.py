"""cocotb test: doorbells, aborts, resets and the interrupt's registers, in any order and at any time.

After each step the registers must be what a model of them says, as far as it is certain, and after each sequence the
memory must be what the programs that ended have made of it.
"""

from __future__ import annotations

import json
import mmap
import os
import random
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import First, Timer

from hw.control.errors import Cause
from sim.accelerator.host import PERIOD, Host

DONE, FAILED, REFUSED = 1, 2, 4
BUSY, STATUS_DONE, STATUS_FAILED = 1, 2, 4
LIMIT = 200_000


class Sequence:
    """One sequence, and what is known of the registers."""

    def __init__(self, host: Host, rng: random.Random, programs: list[tuple[int, int]]) -> None:
        self.host, self.rng, self.programs = host, rng, programs
        self.trace: list[str] = []
        self.ended: list[int] = []  # numbers of programs, in order, that reached their END; -1: one that did not
        self.forget()

    def forget(self) -> None:
        """As after a reset."""
        self.running: int | None = None  # may have ended meanwhile
        self.aborted = False
        self.enable = 0
        self.status, self.cause = 0, Cause.NONE
        self.interrupt = 0

    async def settle(self, wait: bool) -> None:
        """Find out whether the program has ended; with ``wait``, wait for that. The end must be one that may be."""
        host = self.host
        for _ in range(LIMIT // 50):
            status = await host.read("STATUS")
            if not (wait and status & BUSY):
                break
            await host.cycles(50)
        else:
            raise AssertionError("the program does not end")
        if self.running is None:
            assert status == self.status, (status, self.status)
        elif status & BUSY:
            assert status == BUSY, status
        else:
            if status == STATUS_DONE:
                self.ended.append(self.running)
                self.interrupt |= DONE
            else:
                assert (status, self.aborted) == (STATUS_FAILED, True), (status, self.aborted)
                self.ended.append(-1)
                self.interrupt |= FAILED
                self.cause = Cause.ABORTED
            self.status, self.running = status, None
        if self.running is None:
            await self.check()

    async def check(self) -> None:
        """All registers, while nothing runs."""
        host = self.host
        found = {
            name: await host.read(name) for name in ("STATUS", "INTERRUPT", "INTERRUPT_ENABLE", "ERROR", "CONTROL")
        }
        assert found == {
            "STATUS": self.status,
            "INTERRUPT": self.interrupt,
            "INTERRUPT_ENABLE": self.enable,
            "ERROR": self.cause,
            "CONTROL": 0,
        }, found
        assert int(host.dut.irq.value) == bool(self.interrupt & self.enable)

    async def ring(self) -> None:
        """The doorbell: a start, or a refusal while a program is running, which goes on."""
        number = self.rng.randrange(len(self.programs))
        address, descriptors = self.programs[number]
        await self.settle(wait=False)
        await self.clear(REFUSED)
        await self.host.write("PROGRAM_LOW", address & 0xFFFFFFFF)
        await self.host.write("PROGRAM_HIGH", address >> 32)
        await self.host.write("PROGRAM_DESCRIPTORS", descriptors)
        await self.host.write("CONTROL", 0b01)
        refused = bool(await self.host.read("INTERRUPT") & REFUSED)
        if refused:
            assert self.running is not None
            self.interrupt |= REFUSED
            self.cause = Cause.DOORBELL_WHILE_BUSY
            return
        if self.running is not None:  # it has ended since settle(); an aborted one, either way
            self.interrupt |= await self.host.read("INTERRUPT") & (DONE | FAILED)
            assert self.aborted or self.interrupt & DONE
            self.ended.append(-1 if self.aborted else self.running)
        self.running, self.aborted, self.status, self.cause = number, False, 0, Cause.NONE

    async def abort(self) -> None:
        """An abort, which wins over a start."""
        self.aborted |= self.running is not None
        await self.host.write("CONTROL", self.rng.choice([0b10, 0b11]))

    async def clear(self, mask: int) -> None:
        """Write 1 to clear."""
        if self.running is not None and mask & (DONE | FAILED):
            await self.settle(wait=False)
            if self.running is not None:
                mask &= REFUSED  # an end may come at the same time
        await self.host.write("INTERRUPT", mask)
        self.interrupt &= ~mask

    async def allow(self) -> None:
        """Another mask of the interrupt."""
        self.enable = self.rng.randrange(8)
        await self.host.write("INTERRUPT_ENABLE", self.enable)

    async def wait_for_interrupt(self) -> None:
        """As a driver does."""
        if self.running is None or not self.enable & DONE or (self.aborted and not self.enable & FAILED):
            return
        dut = self.host.dut
        if not int(dut.irq.value):
            await First(dut.irq.value_change, Timer(PERIOD * LIMIT, unit="step"))
        assert int(dut.irq.value), "no interrupt"

    async def reset(self) -> None:
        """With the interconnect, at any time; or alone, after the drain that docs/integration.md tells."""
        alone = self.rng.random() < 0.5
        if alone:
            await self.abort()
            await self.settle(wait=True)
        elif self.running is not None:
            self.ended.append(-1)
        await self.host.reset(alone=alone)
        self.forget()
        assert not int(self.host.dut.irq.value)
        await self.check()

    async def step(self) -> None:
        """One thing, some time after the last one."""
        gap = self.rng.choice([0, 0, 1, self.rng.randrange(20), self.rng.randrange(400), self.rng.randrange(6000)])
        if gap:
            await self.host.cycles(gap)
        name = self.rng.choice(["ring", "ring", "ring", "abort", "clear", "allow", "reset", "settle", "wait"])
        self.trace.append(f"{name} after {gap}")
        if name == "clear":
            await self.clear(self.rng.randrange(8))
        elif name == "settle":
            await self.settle(wait=self.rng.random() < 0.3)
        elif name == "wait":
            await self.wait_for_interrupt()
        else:
            await getattr(self, name)()

    async def end(self) -> None:
        """Whatever was before: the second program runs to its end, and raises the interrupt."""
        if self.rng.random() < 0.5:
            await self.abort()
        await self.settle(wait=True)
        await self.clear(DONE | FAILED | REFUSED)
        self.enable = DONE
        await self.host.write("INTERRUPT_ENABLE", self.enable)
        self.programs = [self.programs[1]] * 2
        await self.ring()
        self.running = 1
        await self.wait_for_interrupt()
        await self.settle(wait=True)
        assert self.status == STATUS_DONE


def check_memory(memory: np.ndarray, given: Any, ended: list[int]) -> None:
    """Programs have written nothing but what they should, and all of it where the last one that began has ended."""
    split, start = int(given["split"]), given["start"]
    written, records, expected = given["written"], given["records"], given["first"]
    first, second = memory[:split], memory[split:]
    assert np.array_equal(first[~written], start[:split][~written])
    results = written & ~records
    firsts = [number for number in ended if number < 1]
    if firsts and firsts[-1] == 0:
        assert np.array_equal(first[results], expected[results])
    else:
        assert ((first == expected) | (first == start[:split]))[results].all()
    assert np.array_equal(second, given["second"])


@cocotb.test()
async def sequences(dut) -> None:
    """Run the sequences of ``plan.json``, and say how many steps of which kind there were."""
    folder = Path(os.environ["ACCELERATOR_FOLDER"])
    plan = json.loads((folder / "plan.json").read_text())
    given = np.load(folder / "memory.npz")
    host = Host(dut)
    with Path(os.environ["ACCELERATOR_DRAM"]).open("r+b") as file:
        memory = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)
    await host.reset()
    counts: dict[str, int] = {}
    for seed in range(plan["sequences"]):
        rng = random.Random(seed)
        sequence = Sequence(host, rng, plan["programs"])
        try:
            memory[:] = given["start"]
            stall = rng.choice([0, 0, 60, 150])
            settings = {"latency": rng.choice([0, 5, 40]), "stall": stall, "reorder": int(stall > 0), "seed": seed + 1}
            for name, value in {**settings, "base": plan["base"], "fault": 0, "fault_address": 0}.items():
                getattr(dut, name).value = value
            dut.configure.value = 1
            await host.cycles(1)
            dut.configure.value = 0
            for register in ("INTERRUPT", "INTERRUPT_ENABLE"):
                await host.write(register, 7 if register == "INTERRUPT" else 0)
            sequence.status, sequence.cause = await host.read("STATUS"), Cause(await host.read("ERROR"))
            for _ in range(rng.randrange(3, 12)):
                await sequence.step()
            await sequence.end()
            assert not int(dut.violation.value), "the accelerator broke a rule of AXI; see the log"
            check_memory(memory, given, sequence.ended)
        except AssertionError as error:
            raise AssertionError(f"sequence {seed}: {'; '.join(sequence.trace)}: {error}") from error
        for line in sequence.trace:
            name = line.split()[0]
            counts[name] = counts.get(name, 0) + 1
        counts["ended"] = counts.get("ended", 0) + sum(number >= 0 for number in sequence.ended)
    (folder / "counts.json").write_text(json.dumps(counts))
