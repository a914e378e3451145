"""Runs programs on the RTL of the accelerator: memory in, memory out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hw.config import AcceleratorConfig
from hw.control.errors import Cause

if TYPE_CHECKING:
    from sim.runner import VerilatorRunner

__all__ = ["ACTIONS", "Bus", "Job", "Outcome", "run_jobs", "run_program"]

#: What the host can do while a program runs.
ACTIONS = ("abort", "start", "reset")


@dataclass(frozen=True)
class Bus:
    """How the DRAM behaves.

    Parameters
    ----------
    latency
        Cycles from a request to its first answer; where there are stalls, up to that many more at random.
    stall
        Of 256 cycles, in how many each channel pauses, at random; 0..255.
    reorder
        Words of reads with different IDs come in any order.
    seed
        Of everything random.
    fault
        ``"read"`` or ``"write"``: accesses of the word at ``fault_address`` are answered with SLVERR.
    """

    latency: int = 32
    stall: int = 0
    reorder: bool = False
    seed: int = 0
    fault: str | None = None
    fault_address: int = 0

    def __post_init__(self) -> None:
        if type(self.latency) is not int or not 0 <= self.latency < 1 << 31:
            raise ValueError(f"latency must be in 0..{(1 << 31) - 1}, not {self.latency!r}")
        if type(self.stall) is not int or not 0 <= self.stall <= 255:
            raise ValueError(f"stall must be in 0..255, not {self.stall!r}")
        if self.fault not in (None, "read", "write"):
            raise ValueError(f"fault must be None, 'read' or 'write', not {self.fault!r}")


@dataclass(frozen=True)
class Job:
    """One run of a program."""

    #: The DRAM from ``base`` on.
    memory: bytes
    #: DRAM byte address of the first descriptor, and their number.
    address: int
    descriptors: int
    #: DRAM byte address of ``memory``; the bus answers with DECERR elsewhere.
    base: int = 0
    #: How the DRAM behaves.
    bus: Bus = field(default_factory=Bus)
    #: ``(cycle, action)``: what the host does so many cycles after the doorbell, one of :data:`ACTIONS`. A reset ends
    #: the job.
    actions: Sequence[tuple[int, str]] = ()
    #: Reset the accelerator first. Without it, it is as the job before has left it.
    reset: bool = True
    #: Cycles after which the program counts as hung.
    limit: int = 1 << 32

    def __post_init__(self) -> None:
        for _, action in self.actions:
            if action not in ACTIONS:
                raise ValueError(f"action must be one of {', '.join(ACTIONS)}, not {action!r}")


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    #: The DRAM afterwards.
    memory: bytes
    #: The program has ended at its END.
    done: bool
    #: A doorbell was refused.
    refused: bool
    #: Why it ended early, and at which descriptor.
    cause: Cause
    error_descriptor: int
    #: Given out.
    descriptors: int
    #: By name (:data:`hw.control.counters.COUNTERS`).
    counters: dict[str, int]
    #: From the write of CONTROL.start to the interrupt.
    cycles: int
    #: That the simulation of the program took.
    seconds: float


def _prepare(job: Job, folder: Path, number: int) -> dict[str, object]:
    (folder / f"memory-{number}").write_bytes(job.memory)
    return {
        "memory": str(folder / f"memory-{number}"),
        "result": str(folder / f"result-{number}"),
        "address": job.address,
        "descriptors": job.descriptors,
        "settings": {
            "base": job.base,
            "latency": job.bus.latency,
            "stall": job.bus.stall,
            "reorder": int(job.bus.reorder),
            "seed": job.bus.seed,
            "fault": {None: 0, "read": 1, "write": 2}[job.bus.fault],
            "fault_address": job.bus.fault_address,
        },
        "actions": [list(action) for action in job.actions],
        "reset": job.reset,
        "limit": job.limit,
    }


def _outcome(folder: Path, number: int) -> Outcome:
    report = json.loads((folder / f"report-{number}.json").read_text())
    return Outcome(
        memory=(folder / f"result-{number}").read_bytes(),
        done=bool(report["status"] & 0b010),
        refused=bool(report["interrupt"] & 0b100),
        cause=Cause(report["error"]),
        **{name: report[name] for name in ("error_descriptor", "descriptors", "counters", "cycles", "seconds")},
    )


def run_jobs(
    runner: VerilatorRunner,
    jobs: Sequence[Job],
    label: str = "programs",
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Run jobs one after the other, in one simulation.

    Parameters
    ----------
    runner
        From :func:`sim.accelerator.model.accelerator_runner`.
    jobs
        In order.
    label
        Of the result files: ``build/sim/<name>.<label>.xml`` is JUnit XML.
    progress
        Called now and then with the number of the running job and the cycles that it has run.

    Raises
    ------
    sim.runner.SimulationError
        A program hung, or the accelerator broke a rule of AXI. A program that fails is in its outcome, not an
        exception.
    sim.runner.BuildError, sim.toolchain.ToolchainError
        Verilator is missing or refuses the design.
    """
    runner.build_model()
    # Not in the model's own folder, which goes where the model is built again.
    with tempfile.TemporaryDirectory(prefix=f"{runner.name}-{label}-", dir=runner.build_dir.parent) as name:
        folder = Path(name)
        dram = folder / "dram"
        with dram.open("wb") as file:
            file.truncate(max(len(job.memory) for job in jobs))
        (folder / "jobs.json").write_text(json.dumps([_prepare(job, folder, n) for n, job in enumerate(jobs)]))
        environment = {"ACCELERATOR_FOLDER": str(folder), "ACCELERATOR_DRAM": str(dram)}
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(runner.run_tests, "sim.accelerator.host", label=label, environment=environment)
            while True:
                if progress is not None:
                    with suppress(OSError, ValueError):
                        progress(*json.loads((folder / "progress").read_text()))
                with suppress(StillRunning):
                    running.result(timeout=0.2)
                    break
        return [_outcome(folder, number) for number in range(len(jobs))]


def run_program(
    config: AcceleratorConfig,
    memory: bytes,
    address: int,
    descriptors: int,
    *,
    name: str,
    base: int = 0,
    bus: Bus | None = None,
    label: str = "program",
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Build an instance, unless that is done, and run one program on it: :func:`run_jobs` with one :class:`Job`.

    Parameters
    ----------
    config
        The instance.
    memory, address, descriptors, base, bus
        As in :class:`Job`.
    name
        Of the model in ``build/sim``.
    """
    from sim.accelerator.model import accelerator_runner

    job = Job(memory, address, descriptors, base, bus or Bus())
    return run_jobs(accelerator_runner(config, name), [job], label, progress)[0]
