"""Interrupt, doorbell, abort and reset in random order; and the bench sees what breaks the rules of the bus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, ResetSignal, Signal
from amaranth.lib.wiring import Out

from sim.accelerator.host import OFFSETS
from sim.accelerator.model import accelerator_runner
from sim.accelerator.run import Bus, Job, run_jobs
from sim.runner import SimulationError
from tests.sim.accelerator.copier import Copier
from tests.sim.accelerator.test_robustness import BASE, CONFIG, NAME, Memory, model


def test_any_order(tmp_path: Path, full: bool) -> None:
    """1,000 sequences with ``--full``; resets of the accelerator alone, drained, among them."""
    memory = Memory.of_networks()
    first, second = (np.frombuffer(data, np.uint8) for data in memory.expected)
    start = np.frombuffer(memory.start, np.uint8)
    np.savez(
        tmp_path / "memory.npz",
        split=memory.split, start=start, written=memory.written, records=memory.records,
        first=np.pad(first, (0, memory.split - len(first))), second=second,
    )  # fmt: skip
    programs = [(program.descriptors, program.descriptor_count) for program in (memory.first, memory.second)]
    count = 1000 if full else 30
    (tmp_path / "plan.json").write_text(json.dumps({"sequences": count, "programs": programs, "base": BASE}))
    (tmp_path / "dram").write_bytes(bytes(len(start)))
    model(full).run_tests(
        "tests.sim.accelerator.sequence_bench",
        label="sequences",
        environment={"ACCELERATOR_FOLDER": str(tmp_path), "ACCELERATOR_DRAM": str(tmp_path / "dram")},
    )
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["ended"] >= count
    assert all(counts[name] >= count // 3 for name in ("ring", "abort", "clear", "allow", "reset", "settle", "wait"))


class Faulty(Copier):
    """Breaks a rule: which one, the lowest bits of PROGRAM_DESCRIPTORS say."""

    KINDS = ("none", "B goes", "R changes", "interrupt in reset")

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = Copier(self.config)
        for name, member in self.signature.members.items():
            outside, inside = getattr(self, name), getattr(inner, name)
            m.d.comb += outside.eq(inside) if member.flow is Out else inside.eq(outside)
        kind, flip = Signal(2, reset_less=True), Signal()
        m.d.sync += flip.eq(~flip)
        with m.If(self.s_axil_wvalid & (self.s_axil_awaddr == OFFSETS["PROGRAM_DESCRIPTORS"])):
            m.d.sync += kind.eq(self.s_axil_wdata)
        with m.Switch(kind):
            with m.Case(1):
                m.d.comb += [
                    self.s_axil_bvalid.eq(inner.s_axil_bvalid & flip),
                    inner.s_axil_bready.eq(self.s_axil_bready & flip),
                ]
            with m.Case(2):
                m.d.comb += self.s_axil_rdata.eq(inner.s_axil_rdata ^ flip)
            with m.Case(3):
                m.d.comb += self.o_interrupt.eq(inner.o_interrupt | ResetSignal())
        return m


@pytest.mark.parametrize("kind", range(4), ids=Faulty.KINDS)
def test_bench_sees_what_breaks_a_rule(kind: int) -> None:
    """Of the registers' side and of the reset; the DRAM's side has its rules in dram.cpp."""
    runner = accelerator_runner(CONFIG, f"{NAME}-faulty", Faulty, quick=True)
    descriptors = 4 + kind
    memory = bytes(2 * 64 * descriptors)
    job = Job(memory, 0, descriptors, bus=Bus(stall=200), actions=[(400, "reset")] if kind == 3 else [], limit=10_000)
    if kind:
        with pytest.raises(SimulationError, match="broke a rule of AXI"):
            run_jobs(runner, [job], "faulty")
    else:
        (outcome,) = run_jobs(runner, [job], "faulty")
        assert outcome.done
