"""The accelerator's ports work with the AXI models of a third party."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hw.config import preset
from hw.layout import Schedule
from sim.accelerator.model import bare_runner
from sim.scenarios import random_activations, random_layer
from sw.executor import execute
from tests.sw.assembler import layer_program


#: The ports are those of every instance.
@pytest.mark.whole
@pytest.mark.parametrize("name", ["ews-tiny", "ews-msvq-tiny"])
@pytest.mark.parametrize("stall", [0, 0.3, 0.7])
def test_layer_is_bit_exact(tmp_path, monkeypatch, name: str, stall: float) -> None:
    config = preset(name)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    rng = np.random.default_rng(0)
    program = layer_program(config, random_layer(config, rng, (8, 8, 3, 1)), 4, 4, Schedule(config.H, config.L, 1, 1))
    memory = program.memory([random_activations(rng, (8, 4, 4), "uniform")])
    (tmp_path / "memory").write_bytes(memory.tobytes())
    (tmp_path / "expected").write_bytes(execute(program, memory, check=True).memory.tobytes())
    job = {
        "base": program.base,
        "address": program.descriptors,
        "descriptors": program.descriptor_count,
        "size": 2 * program.base,
        "stall": stall,
        "seed": 1,
        "limit": 50000,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    runner = bare_runner(config, f"{name}-accelerator", quick=True)
    runner.run_tests("cocotbext_bench", label=f"stall-{stall}", environment={"ACCELERATOR_FOLDER": str(tmp_path)})
