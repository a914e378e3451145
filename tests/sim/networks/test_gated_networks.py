"""Networks with gates, tables, concatenation, upsampling and several outputs, whole on the RTL."""

from __future__ import annotations

import numpy as np
import pytest

from sim.accelerator.model import accelerator_runner
from sim.accelerator.run import Bus, Job, run_jobs
from sim.networks.odd import MODEL, instance
from sw.compiler.compile import compile_network
from sw.executor import execute
from sw.perf.prediction import predict
from sw.perf.timing import measured
from tests.sw.gated_networks import GATED

CONFIG = instance()
SHAPE = (3, 4, 8)


def test_every_byte_and_the_cycles(full: bool) -> None:
    """Results of all layers, under a bus that stalls; and cycles within 3 percent of the model, under one that does
    not: of every second network the one or the other, with ``--full`` both."""
    rng = np.random.default_rng(1)
    programs, jobs, expected = [], [], []
    for number, make in enumerate(GATED):
        network = make(np.random.default_rng(0), CONFIG)
        both = [(True, Bus(20, 100, True, 7)), (False, Bus())]
        for dump, bus in both if full else both[number % 2 :][:1]:
            program = compile_network(network, SHAPE, CONFIG, dump=dump, records=not dump)
            picture = rng.integers(-128, 128, SHAPE).astype(np.int8)
            start = program.memory([picture])
            result = execute(program, start, check=True)
            for tensor, wanted in zip(program.outputs, network.results(picture[None]), strict=True):
                assert np.array_equal(program.read(result.memory, tensor).reshape(-1), wanted[0].reshape(-1))
            programs.append(program)
            expected.append(result.memory)
            jobs.append(Job(start.tobytes(), program.descriptors, program.descriptor_count, program.base, bus))
    runner = accelerator_runner(CONFIG, MODEL, quick=True)
    outcomes = run_jobs(runner, jobs, "gated")
    for program, outcome, golden in zip(programs, outcomes, expected, strict=True):
        assert outcome.done
        memory = np.frombuffer(outcome.memory, np.uint8)
        if any(layer.record is not None for layer in program.layers):
            for tensor in program.outputs:
                assert np.array_equal(program.read(memory, tensor), program.read(golden, tensor))
            cycles, model = (
                sum(timing.counters["cycles"] for timing in found)
                for found in (measured(program, memory), predict(program))
            )
            assert model == pytest.approx(cycles, rel=0.03)
        else:
            assert outcome.memory == golden.tobytes()
