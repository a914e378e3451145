"""The accelerator itself: bit-exact beside the golden run, and whole again after every kind of failure."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hw.config import preset
from hw.control.descriptor import BYTES, Opcode
from hw.control.errors import Cause
from hw.layout import Schedule
from sim.accelerator.model import accelerator_runner
from sim.accelerator.run import Bus, Job, run_jobs
from sim.scenarios import random_activations, random_layer
from sw.golden.program import execute
from tests.sw.assembler import layer_program

CONFIG = preset("ews-msvq-tiny")
TRIALS = 50


@pytest.fixture(scope="module")
def runner():
    return accelerator_runner(CONFIG, "ews-msvq-tiny-accelerator")


def job_of(program, memory: bytes, **options) -> Job:
    options = {"bus": Bus(latency=8), "limit": 100000} | options
    return Job(memory, program.descriptors, program.descriptor_count, program.base, **options)


@pytest.fixture(scope="module")
def layer():
    """A program of one layer; its memory before and after."""
    rng = np.random.default_rng(0)
    program = layer_program(CONFIG, random_layer(CONFIG, rng, (8, 8, 3, 1)), 4, 4, Schedule(CONFIG.H, CONFIG.L, 1, 1))
    memory = program.memory([random_activations(rng, (8, 4, 4), "uniform")])
    return program, memory.tobytes(), execute(program, memory, check=True).memory.tobytes()


def test_layers_are_bit_exact_whatever_the_bus_does(runner) -> None:
    rng = np.random.default_rng(1)
    jobs, expected = [], []
    for number, (shape, size, extensions) in enumerate(
        [((12, 10, 3, 3), (5, 6), (2, 2)), ((8, 4, 1, 1), (3, 3), (1, 1)), ((16, 7, 2, 3), (4, 7), (1, 2))]
    ):
        schedule = Schedule(CONFIG.H, CONFIG.L, *extensions)
        program = layer_program(CONFIG, random_layer(CONFIG, rng, shape), *size, schedule)
        memory = program.memory([random_activations(rng, (shape[1], *size), "uniform")])
        after = execute(program, memory, check=True).memory.tobytes()
        assert after != memory.tobytes()
        for bus in (
            Bus(latency=0),
            Bus(latency=60),
            Bus(latency=10, stall=100, reorder=True, seed=number),
            Bus(latency=20, stall=230, seed=number),
        ):
            jobs.append(job_of(program, memory.tobytes(), bus=bus, reset=False))
            expected.append(after)
    for outcome, after in zip(run_jobs(runner, jobs, "exact"), expected, strict=True):
        assert (outcome.done, outcome.cause) == (True, Cause.NONE)
        assert outcome.memory == after


def changed(memory: bytes, offset: int, value: int) -> bytes:
    return memory[:offset] + bytes([value]) + memory[offset + 1 :]


def test_failures_have_their_cause_and_the_next_program_runs(runner, layer) -> None:
    program, memory, after = layer
    kinds = [descriptor.opcode for descriptor in program.listing]
    first = {kind: kinds.index(kind) for kind in set(kinds)}
    descriptors = program.descriptors - program.base

    def field(kind: Opcode, name: str) -> int:
        return program.listing[first[kind]].body[name]

    fetched = field(Opcode.FETCH, "address")
    trials = {
        "no such opcode": (
            job_of(program, changed(memory, descriptors + BYTES * first[Opcode.TILE], 200)),
            Cause.ILLEGAL_DESCRIPTOR,
        ),
        "a field out of range": (
            job_of(program, changed(memory, descriptors + BYTES * first[Opcode.TILE] + 16, 255)),
            Cause.ILLEGAL_DESCRIPTOR,
        ),
        "no END": (
            job_of(program, changed(memory, descriptors + BYTES * (len(kinds) - 1), 2)),
            Cause.ILLEGAL_DESCRIPTOR,
        ),
        "no program": (
            Job(memory, program.descriptors, 0, program.base, limit=1000),
            Cause.ILLEGAL_DESCRIPTOR,
        ),
        "weights changed": (
            job_of(program, changed(memory, fetched - program.base, memory[fetched - program.base] ^ 4)),
            Cause.CHECKSUM,
        ),
        "read of weights": (
            job_of(program, memory, bus=Bus(8, fault="read", fault_address=fetched)),
            Cause.READ_RESPONSE,
        ),
        "read of a descriptor": (
            job_of(program, memory, bus=Bus(8, fault="read", fault_address=program.descriptors + 3 * BYTES)),
            Cause.READ_RESPONSE,
        ),
        "read of the input": (
            job_of(program, memory, bus=Bus(8, fault="read", fault_address=field(Opcode.LOAD, "address"))),
            Cause.READ_RESPONSE,
        ),
        "write": (
            job_of(program, memory, bus=Bus(8, fault="write", fault_address=field(Opcode.STORE, "address"))),
            Cause.WRITE_RESPONSE,
        ),
        "no memory there": (
            Job(memory, program.descriptors + (1 << 24), 3, program.base, limit=1000),
            Cause.READ_RESPONSE,
        ),
        "doorbell while busy": (job_of(program, memory, actions=[(50, "start")]), Cause.DOORBELL_WHILE_BUSY),
    }
    jobs = [each for job, _ in trials.values() for each in (job, job_of(program, memory, reset=False))]
    outcomes = run_jobs(runner, jobs, "failures")
    for (name, (_, cause)), failed, good in zip(trials.items(), outcomes[::2], outcomes[1::2], strict=True):
        assert failed.cause == cause, name
        assert failed.done == (failed.memory == after) == failed.refused == (cause == Cause.DOORBELL_WHILE_BUSY), name
        assert (good.done, good.cause, good.refused) == (True, Cause.NONE, False), name
        assert good.memory == after, name
    by_name = dict(zip(trials, outcomes[::2], strict=True))
    assert by_name["no such opcode"].error_descriptor == first[Opcode.TILE]
    assert by_name["no END"].error_descriptor == len(kinds) - 1


@pytest.mark.parametrize("action", ["abort", "reset"])
def test_program_runs_after_an_end_at_any_time(runner, layer, action: str) -> None:
    program, memory, after = layer
    rng = random.Random(action)
    (whole,) = run_jobs(runner, [job_of(program, memory)], "whole")
    jobs = []
    for seed in range(TRIALS):
        bus = Bus(latency=8, stall=rng.choice([0, 80]), reorder=True, seed=seed)
        cycle = rng.randrange(whole.cycles)
        jobs.append(job_of(program, memory, bus=bus, actions=[(cycle, action)]))
        jobs.append(job_of(program, memory, reset=False))
    outcomes = run_jobs(runner, jobs, action)
    for number, (ended, good) in enumerate(zip(outcomes[::2], outcomes[1::2], strict=True)):
        if action == "abort":
            assert ended.cause == (Cause.NONE if ended.done else Cause.ABORTED), number
        assert (good.done, good.cause) == (True, Cause.NONE), number
        assert good.memory == after, number
    assert sum(outcome.done for outcome in outcomes[::2]) < TRIALS // 5
