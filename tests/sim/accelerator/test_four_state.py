"""The generated Verilog knows what it does from its reset on: nothing depends on values that registers begin with.

In Icarus, where there is one, what is unknown is X; in Verilator it is random bits. Every variant runs one network, and
so does one with weights of 4 bits, and one with all functions of the vector unit.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest

from hw.config import VARIANTS, preset
from hw.verilog import run_at_time_zero
from sim.accelerator.four_state import MODES, Icarus, missing, without_initial_values
from sim.accelerator.model import accelerator_verilog, random_runner
from sim.accelerator.run import Bus, Job, run_jobs
from sim.runner import BuildError, SimulationError
from sw.compiler.compile import compile_network
from sw.executor import execute
from tests.hw.test_accelerator_grid import small_network
from tests.sw.gated_networks import u_net

#: Its contents are operands only. Where an input channel doesn't exist, the activation is 0 and the weight is not
#: written: 0 times X is X to a simulator, and 0 in a circuit.
OPERANDS = ("_wrf",)


#: By their names.
INSTANCES = {f"{variant}-tiny": preset(f"{variant}-tiny") for variant in VARIANTS} | {
    "ews-msvq4-tiny": preset("ews-msvq4-tiny"),
    "ews-msvq-full-tiny-weight_bits-3": preset("ews-msvq-full-tiny").override(["weight_bits=3"]),
}
#: One with a decoder in every run; all others with ``--full``.
SAMPLED = [x if x == "ews-cms-tiny" else pytest.param(x, marks=pytest.mark.whole) for x in INSTANCES]


@pytest.fixture
def _icarus() -> None:
    if (reason := missing()) is not None:
        pytest.skip(reason)


@cache
def network(name: str):
    """Program, the DRAM before, and what golden makes of it."""
    rng = np.random.default_rng(1)
    config = INSTANCES[name]
    if config.full_vector_unit:
        program = compile_network(u_net(rng, config, 2, 1), (1, 4, 4), config, dump=True, records=False)
    else:
        program = small_network(config, rng)
    start = program.memory([rng.integers(-128, 128, x.shape).astype(np.int8) for x in program.inputs])
    golden = execute(program, start, check=True).memory.tobytes()
    assert golden != start.tobytes()
    return program, start.tobytes(), golden


def bench(name: str, verilog: str, folder, mode: str = "2012") -> Icarus:
    program, start, _ = network(name)
    place = (program.base, program.descriptors, program.descriptor_count)
    return Icarus(verilog, program.config, start, *place, folder, mode)


def design(name: str) -> str:
    return accelerator_verilog(INSTANCES[name], f"{name}-accelerator").read_text()


@pytest.mark.usefixtures("_icarus")
@pytest.mark.parametrize("mode", [x if x == MODES[-1] else pytest.param(x, marks=pytest.mark.whole) for x in MODES])
def test_a_network_in_every_language_mode(mode: str, tmp_path) -> None:
    name = "ews-cms-tiny"
    assert bench(name, design(name), tmp_path, mode).run() == network(name)[2]


@pytest.mark.usefixtures("_icarus")
@pytest.mark.parametrize("name", SAMPLED)
def test_a_network_from_x(name: str, full: bool, tmp_path) -> None:
    verilog = without_initial_values(design(name), OPERANDS)
    assert not re.search(r"^  reg .*=", verilog, re.MULTILINE)
    simulation = bench(name, verilog, tmp_path)
    for reset, seed in ((1, 1), (5, 2)) if full or name == "ews-cms-tiny" else ((1, 1),):
        assert simulation.run(reset=reset, seed=seed) == network(name)[2], reset


@pytest.mark.usefixtures("_icarus")
def test_the_bench_sees_x(tmp_path) -> None:
    name = "ews-cms-tiny"
    verilog = design(name)
    # As Yosys writes it: no event at time 0 in SystemVerilog.
    yosys = re.sub(r"(  reg \\\S+ );\n  /\*.*\n.*\n.*\*/$", r"\1 = 0;", verilog, flags=re.MULTILINE)
    assert run_at_time_zero(yosys) == verilog != yosys
    assert bench(name, yosys, tmp_path, "2005").run() == network(name)[2]
    with pytest.raises(SimulationError, match="cycle 0: X in what the host reads"):
        bench(name, yosys, tmp_path, "2012").run()
    # A register that its reset leaves out.
    unreset = re.sub(r"(    if \(rst\) begin\n      _\d+_ = 1'h0;\n    end\n)", "", without_initial_values(verilog))
    with pytest.raises(SimulationError, match="X"):
        bench(name, unreset, tmp_path).run()
    with pytest.raises(SimulationError, match="X in a written byte"):
        bench(name, without_initial_values(verilog), tmp_path).run()
    with pytest.raises(SimulationError, match="cycle 100: no interrupt"):
        bench(name, verilog, tmp_path).run(limit=100)
    with pytest.raises(BuildError, match="iverilog ended with"):
        bench(name, verilog.replace("endmodule", "", 1), tmp_path)


@pytest.mark.parametrize("seed", [0, 1 << 31])
def test_seeds_that_verilator_takes(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed must be in 1\.\.2147483647, not {seed}"):
        random_runner(preset("ews-tiny"), "ews-tiny", seed)


def test_a_network_from_random_registers_and_memories(full: bool) -> None:
    for name in INSTANCES if full else ["ews-msvq-tiny"]:
        program, start, golden = network(name)
        place = (program.descriptors, program.descriptor_count, program.base)
        for seed in range(1, 5 if full else 2):
            job = Job(start, *place, Bus(latency=5, stall=60, reorder=True, seed=seed), limit=100_000)
            (outcome,) = run_jobs(random_runner(program.config, f"{name}-accelerator", seed), [job], "random")
            assert (outcome.done, outcome.memory == golden) == (True, True), (name, seed)
