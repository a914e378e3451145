"""Programs run between a DRAM and a host inside the simulator; a copier stands for the accelerator."""

from __future__ import annotations

import random

import pytest

from hw.control.counters import COUNTERS
from hw.control.errors import Cause
from sim.accelerator.run import Bus, Job, run_jobs
from sim.runner import SimulationError
from tests.sim.accelerator.copier import copier


@pytest.fixture(scope="module")
def runner():
    return copier()


def contents(pieces: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(64 * pieces) + bytes(64 * pieces)


def copied(memory: bytes) -> bytes:
    half = len(memory) // 2
    return memory[:half] * 2


@pytest.mark.parametrize(
    "bus",
    [
        Bus(latency=0),
        Bus(latency=1),
        Bus(latency=100),
        Bus(latency=10, stall=100, seed=1),
        Bus(latency=3, stall=220, reorder=True, seed=2),
    ],
)
def test_program_runs(runner, bus: Bus) -> None:
    memory, base = contents(100), 0x12340
    job = Job(memory, base, 100, base, bus)
    (outcome,) = run_jobs(runner, [job], f"runs-{bus.latency}-{bus.stall}")
    assert outcome.memory == copied(memory)
    assert (outcome.done, outcome.refused, outcome.cause, outcome.descriptors) == (True, False, Cause.NONE, 100)
    assert list(outcome.counters) == list(COUNTERS)
    assert 0 <= outcome.cycles - outcome.counters["cycles"] < 10
    if not bus.stall and bus.latency < 10:
        assert outcome.cycles < 800 + 40


def test_jobs_in_one_simulation_whatever_happens_to_one(runner) -> None:
    memory = contents(50)
    good = Job(memory, 0, 50)
    stalls = Bus(latency=20, stall=50)
    jobs = [
        good,
        Job(memory, 0, 50, bus=Bus(fault="read", fault_address=1000)),
        Job(memory, 0, 50, bus=Bus(fault="write", fault_address=4000)),
        Job(memory, 0, 80),  # writes beyond the end
        Job(memory, 0, 50, bus=stalls, actions=[(100, "abort")]),
        Job(memory, 0, 50, bus=stalls, actions=[(100, "start")], reset=False),
        Job(memory, 0, 50, bus=stalls, actions=[(200, "reset")]),
        good,
    ]
    outcomes = run_jobs(runner, jobs, "mixed")
    assert [outcome.done for outcome in outcomes] == [True, False, False, False, False, True, False, True]
    assert [outcome.cause for outcome in outcomes] == [
        Cause.NONE,
        Cause.READ_RESPONSE,
        Cause.WRITE_RESPONSE,
        Cause.WRITE_RESPONSE,
        Cause.ABORTED,
        Cause.DOORBELL_WHILE_BUSY,
        Cause.NONE,
        Cause.NONE,
    ]
    assert [outcome.refused for outcome in outcomes] == [False] * 5 + [True, False, False]
    assert outcomes[1].error_descriptor == 7
    for outcome in outcomes:
        assert (outcome.memory == copied(memory)) == outcome.done
        assert outcome.memory[: 64 * 50] == memory[: 64 * 50]
    assert outcomes[0].counters == outcomes[-1].counters


@pytest.mark.parametrize("action", ["reset", "abort"])
def test_next_program_runs_after_an_end_at_any_time(runner, action: str) -> None:
    memory = contents(20)
    rng = random.Random(action)
    buses = [Bus(latency=5, stall=rng.choice([0, 100]), reorder=True, seed=seed) for seed in range(20)]
    ended = [Job(memory, 0, 20, bus=bus, actions=[(rng.randint(0, 300), action)]) for bus in buses]
    good = Job(memory, 0, 20, bus=Bus(latency=5), reset=False)
    outcomes = run_jobs(runner, [job for pair in ended for job in (pair, good)], action)
    assert all(outcome.done and outcome.memory == copied(memory) for outcome in outcomes[1::2])
    done = sum(outcome.done for outcome in outcomes[::2])
    assert done < 20
    assert action == "reset" or done


def test_hung_program_is_an_error(runner) -> None:
    with pytest.raises(SimulationError, match=r"no interrupt after 3\d\d cycles: \{'status': 1"):
        run_jobs(runner, [Job(contents(1000), 0, 1000, limit=300)], "hung")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bus(latency=-1), r"latency must be in 0\.\.2147483647, not -1"),
        (lambda: Bus(stall=256), r"stall must be in 0\.\.255, not 256"),
        (lambda: Bus(fault="both"), "fault must be None, 'read' or 'write', not 'both'"),
        (lambda: Job(b"", 0, 1, actions=[(3, "stop")]), "action must be one of abort, start, reset, not 'stop'"),
    ],
)
def test_refused_values(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
