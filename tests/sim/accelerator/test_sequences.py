"""Interrupt, doorbell, abort and reset in random order; and the bench sees what breaks the rules of the bus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sim.accelerator.run import Bus, Job, run_jobs
from sim.runner import SimulationError
from tests.sim.accelerator.copier import KIND, Faulty, copier
from tests.sim.accelerator.test_robustness import BASE, Memory, model


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
    count = 1000 if full else 12
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


@pytest.mark.parametrize("kind", range(4), ids=Faulty.KINDS)
def test_bench_sees_what_breaks_a_rule(kind: int) -> None:
    """Of the registers' side and of the reset; the DRAM's side has its rules in dram.cpp."""
    base, descriptors = kind << KIND, 20
    memory = bytes(2 * 64 * descriptors)
    actions = [(400, "reset")] if kind == 3 else []
    job = Job(memory, base, descriptors, base, Bus(stall=200), actions=actions, limit=10_000)
    if kind:
        with pytest.raises(SimulationError, match="broke a rule of AXI"):
            run_jobs(copier(), [job], "faulty")
    else:
        (outcome,) = run_jobs(copier(), [job], "faulty")
        assert outcome.done
