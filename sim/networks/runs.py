"""Runs a workload: on the RTL beside the golden model, and on the cycle model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.control.descriptor import BYTES
from sim.accelerator.model import accelerator_runner, emission_cost
from sim.accelerator.run import Job, Outcome, run_jobs
from sim.networks.workloads import Workload
from sw.executor import execute
from sw.perf.prediction import predict
from sw.perf.timing import LayerTiming, measured
from sw.program import Program, ProgramLayer
from sw.program.steps import SteppedProgram, Transfer

__all__ = ["Check", "NetworkError", "Run", "check_memory", "run_workload", "top_classes"]

Memory = NDArray[np.uint8]
#: Called with what is done, and its share of the whole, 0..1.
Progress = Callable[[str, float], None]


class NetworkError(RuntimeError):
    """A program that the RTL does not run to its end."""


@dataclass(frozen=True)
class Check:
    """Bytes of DRAM after a run on the RTL that were compared with the golden model's, and those that differ."""

    #: Layers whose results were stored, and their bytes.
    layers: int
    layer_bytes: int
    #: All bytes, but for the records of counters; and how many of them differ.
    compared: int
    different: int
    #: Names of the tensors that differ.
    differing: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """What became of a workload on one instance."""

    #: The layer table of the program that the timings are of: it stores no layer's result. Of a network in steps, those
    #: of all its programs.
    layers: Sequence[ProgramLayer]
    #: Cycles of each layer, from the cycle model and from the RTL's counters; ``rtl`` is empty without the RTL.
    model: list[LayerTiming]
    rtl: list[LayerTiming]
    #: One for each image.
    checks: list[Check]
    #: Class with the largest logit, for each image; empty where the program has no logits.
    classes: list[int]
    #: Of all simulations together, one after the other.
    cycles: int
    seconds: float
    #: Seconds from the end of the build to the last comparison: by the clock, and of all processors together, which
    #: does not depend on what else the machine does.
    elapsed: float
    processor: float
    #: Of a network in steps: what the host does.
    transfers: Sequence[Transfer] = ()
    #: What emitting the Verilog and building the model took (:func:`sim.accelerator.model.emission_cost`,
    #: :attr:`sim.runner.VerilatorRunner.build_cost`).
    built: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def check_memory(program: Program, found: Memory, expected: Memory) -> Check:
    """Compare DRAM after a run with what the golden model says, all but the records of the counters."""
    same = found == expected
    for layer in program.layers:
        if layer.record is not None:
            start = layer.record - program.base
            same[start : start + BYTES] = True
    records = sum(layer.record is not None for layer in program.layers)
    tensors = {tensor.name: tensor for tensor in [*(x.tensor for x in program.layers if x.tensor), *program.outputs]}
    differing = []
    for name, tensor in tensors.items():
        start = tensor.address - program.base
        if not same[start : start + tensor.size].all():
            differing.append(name)
    return Check(
        layers=len(tensors),
        layer_bytes=sum(tensor.size for tensor in tensors.values()),
        compared=len(same) - records * BYTES,
        different=int((~same).sum()),
        differing=tuple(differing),
    )


def top_classes(program: Program, memories: Sequence[Memory]) -> list[int]:
    """Class with the largest logit of each run; empty where the program does not end in one vector of logits."""
    if len(program.outputs) != 1 or program.outputs[0].dtype != "int32" or program.outputs[0].rows != 1:
        return []
    return [int(program.read(memory, program.outputs[0]).reshape(-1).argmax()) for memory in memories]


def _job(program: Program, memory: Memory) -> Job:
    return Job(memory.tobytes(), program.descriptors, program.descriptor_count, program.base)


def _processor() -> float:
    """Processor seconds of this process and of the ones that it has started."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def run_workload(
    config: AcceleratorConfig,
    name: str,
    workload: Workload,
    *,
    rtl: bool = True,
    model_name: str | None = None,
    label: str = "network",
    processes: int | None = None,
    quick: bool | str = False,
    progress: Progress = lambda text, share: None,
) -> Run:
    """Run a workload on an instance.

    All images run with a program that stores every layer's result. The first one runs once more with one that does not,
    for the timings.

    Parameters
    ----------
    config
        The instance.
    name
        Of the instance, for messages.
    workload
        What runs.
    rtl
        Without it, the cycle model alone.
    model_name
        Of the model in ``build/sim``; ``accelerator-<name>`` without it.
    label
        Of the result files in ``build/sim``: runs of one model at the same time need different ones.
    processes
        Simulations at a time; by default one for each core.
    quick
        For a few short programs: a model that is built quickly (:func:`sim.accelerator.model.accelerator_runner`).
    progress
        Called now and then.

    Raises
    ------
    NetworkError
        The RTL did not end a program.
    sim.runner.SimulationError, sim.runner.BuildError, sim.toolchain.ToolchainError
        As :func:`sim.accelerator.run.run_jobs`.
    """
    progress(f"{name}: compiling", 0)
    plain = workload.compile(False)
    if isinstance(plain, SteppedProgram):
        return _run_steps(config, name, workload, plain, rtl, model_name, label, processes, quick, progress)
    model = predict(plain)
    if not rtl:
        return Run(plain.layers, model, [], [], [], 0, 0.0, 0.0, 0.0)
    stored = workload.compile(True)
    assert isinstance(stored, Program)
    starts = [stored.memory(images) for images in workload.images]
    jobs = [_job(stored, start) for start in starts]
    if stored.image != plain.image:
        jobs.append(_job(plain, plain.memory(workload.images[0])))
    simulation = _Simulation(config, name, model_name, label, processes, quick, progress)
    golden, outcomes = simulation.run(jobs, model, lambda: [execute(stored, start).memory for start in starts])
    memories = [np.frombuffer(outcome.memory, np.uint8) for outcome in outcomes]
    timed = memories[len(starts) :] or memories[:1]
    memories = memories[: len(starts)]
    checks = [check_memory(stored, found, known) for found, known in zip(memories, golden, strict=True)]
    return Run(
        plain.layers,
        model,
        measured(plain, timed[0]),
        checks,
        top_classes(stored, memories),
        **simulation.cost(outcomes),
    )


def _run_steps(
    config: AcceleratorConfig,
    name: str,
    workload: Workload,
    steps: SteppedProgram,
    rtl: bool,
    model_name: str | None,
    label: str,
    processes: int | None,
    quick: bool | str,
    progress: Progress,
) -> Run:
    """A network in steps. What the golden model's programs make goes into the RTL's, which must make the same."""
    programs = [steps.programs[number] for number in sorted(steps.programs)]
    layers = [layer for program in programs for layer in program.layers]
    model = [timing for program in programs for timing in predict(program)]
    if not rtl:
        return Run(layers, model, [], [], [], 0, 0.0, 0.0, 0.0, steps.transfers())
    images = np.stack([image for (image,) in workload.images])
    given: list[tuple[Program, Memory, Memory]] = []

    def run(number: int, jobs: Sequence[tuple[Program, Memory]]) -> list[Memory]:
        done = [execute(program, memory).memory for program, memory in jobs]
        given.extend((*job, memory) for job, memory in zip(jobs, done, strict=True))
        return done

    results = steps.run(images, run)
    for number, (found, wanted) in enumerate(zip(results, workload.expected(), strict=True)):
        if not np.array_equal(found, wanted):
            raise NetworkError(f"{name}: image {number}: the programs' result is not that of the integer network")
    simulation = _Simulation(config, name, model_name, label, processes, quick, progress)
    _, outcomes = simulation.run([_job(program, before) for program, before, _ in given], model, list)
    memories = [np.frombuffer(outcome.memory, np.uint8) for outcome in outcomes]
    # Programs come one after the other, each with all images.
    checks = []
    for image in range(len(images)):
        parts = [
            check_memory(program, memories[number], known)
            for number, (program, _, known) in enumerate(given)
            if number % len(images) == image
        ]
        checks.append(
            Check(
                layers=sum(part.layers for part in parts),
                layer_bytes=sum(part.layer_bytes for part in parts),
                compared=sum(part.compared for part in parts),
                different=sum(part.different for part in parts),
                differing=tuple(tensor for part in parts for tensor in part.differing),
            )
        )
    timings = [
        timing
        for number, program in enumerate(programs)
        for timing in measured(program, memories[number * len(images)])
    ]
    classes = [int(result.reshape(-1).argmax()) for result in results if result.dtype == np.int32]
    return Run(layers, model, timings, checks, classes, **simulation.cost(outcomes), transfers=steps.transfers())


class _Simulation:
    """Runs jobs on the RTL. Parameters: :func:`run_workload`."""

    def __init__(
        self,
        config: AcceleratorConfig,
        name: str,
        model_name: str | None,
        label: str,
        processes: int | None,
        quick: bool | str,
        progress: Progress,
    ) -> None:
        self.config, self.name, self.label, self.progress = config, name, label, progress
        self.model_name = model_name or f"accelerator-{name}"
        self.processes, self.quick = processes or os.cpu_count() or 1, quick
        progress(f"{name}: building the simulation", 0)
        runner = accelerator_runner(config, self.model_name, quick=quick)
        runner.build_model()
        self.built = {"verilog": emission_cost(self.model_name), "model": runner.build_cost}
        self.begin, self.used = perf_counter(), _processor()

    def run(
        self, jobs: Sequence[Job], model: Sequence[LayerTiming], beside: Callable[[], list[Memory]]
    ) -> tuple[list[Memory], list[Outcome]]:
        """The outcomes of all jobs, and what is computed meanwhile.

        Raises
        ------
        NetworkError
            A program did not run to its end.
        """
        count = min(self.processes, len(jobs))
        parts = [range(number, len(jobs), count) for number in range(count)]
        ahead = [0.0] * count
        expected_cycles = sum(timing.counters["cycles"] for timing in model)

        def show(number: int, job: int, cycles: int) -> None:
            ahead[number] = min(job + cycles / max(expected_cycles, 1), len(parts[number]))
            self.progress(f"{self.name}: simulating", sum(ahead) / len(jobs))

        def simulate(number: int) -> list[Outcome]:
            return run_jobs(
                accelerator_runner(self.config, self.model_name, quick=self.quick),  # a runner runs one thing at a time
                [jobs[index] for index in parts[number]],
                f"{self.label}-{number}",
                lambda job, cycles: show(number, job, cycles),
            )

        with ThreadPoolExecutor(count) as pool:
            running = [pool.submit(simulate, number) for number in range(count)]
            # It uses what the simulations leave of the machine.
            meanwhile = beside()
            outcomes: dict[int, Outcome] = {}
            for part, future in zip(parts, running, strict=True):
                outcomes.update(zip(part, future.result(), strict=True))
        for outcome in outcomes.values():
            if not outcome.done:
                where = f"descriptor {outcome.error_descriptor}: {outcome.cause.name}"
                raise NetworkError(f"{self.name}: the program ended early at {where}")
        return meanwhile, [outcomes[number] for number in range(len(jobs))]

    def cost(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Cycles, seconds and what came before them, as fields of :class:`Run`."""
        return {
            "cycles": sum(outcome.cycles for outcome in outcomes),
            "seconds": sum(outcome.seconds for outcome in outcomes),
            "elapsed": perf_counter() - self.begin,
            "processor": _processor() - self.used,
            "built": self.built,
        }
