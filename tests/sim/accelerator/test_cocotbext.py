"""The ports work with the AXI models of a third party."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hw.config import preset
from sim.accelerator.model import bare_runner

HERE = Path(__file__).parent
BASE = 1 << 12


@pytest.mark.parametrize("stall", [0, 0.3, 0.8])
def test_copier(copier, tmp_path, monkeypatch, stall: float) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    memory = random.Random(0).randbytes(64 * 30) + bytes(64 * 30)
    (tmp_path / "memory").write_bytes(memory)
    (tmp_path / "expected").write_bytes(memory[: 64 * 30] * 2)
    job = {"base": BASE, "address": BASE, "descriptors": 30, "size": 1 << 14, "stall": stall, "seed": 1, "limit": 20000}
    (tmp_path / "job.json").write_text(json.dumps(job))
    runner = bare_runner(preset("ews-cms-16"), "copier", copier)
    runner.run_tests("cocotbext_bench", label=f"stall-{stall}", environment={"ACCELERATOR_FOLDER": str(tmp_path)})
