"""Co-simulation: layers run on the generated Verilog and on the golden model, and every partial sum is compared."""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.command_line import write_text
from hw.config import AcceleratorConfig
from hw.generate import generate, write
from hw.layout import Schedule
from sim.runner import SimulationError, VerilatorRunner, locked
from sim.toolchain import BUILD
from sim.transfers import LayerProgram, layer_program
from sim.wrapper import TOP, wrapper_verilog
from sw.format import CompressedLayer

__all__ = ["Job", "JobResult", "Session", "build_model", "run_layers", "run_sessions", "simulate"]


@dataclass(frozen=True)
class Job:
    """One layer to run: compressed, with int8 activations ``[C, rows, columns]`` (or ``[C]``), and its schedule."""

    layer: CompressedLayer
    activations: NDArray[np.int8]
    schedule: Schedule


@dataclass(frozen=True)
class Session:
    """Jobs that run back to back after one reset."""

    #: Names the test in the JUnit XML, and a file.
    name: str
    #: In order.
    jobs: Sequence[Job]
    #: ``{stream: density}``: in each cycle the stream is willing with that probability; streams not named always are.
    pauses: Mapping[str, float] = field(default_factory=dict)
    #: Of the pauses.
    seed: int = 0


@dataclass(frozen=True)
class JobResult:
    """What became of one job.

    Attributes
    ----------
    session, layer
        Names.
    sums, psums
        Sums of the layer, and partial sums of all its layer tiles, that were compared.
    mismatches
        How many differ; ``message`` describes the first.
    cycles, predicted
        Measured, and as :func:`sw.schedule.sequence_cycles` predicts for streams that never pause.
    paused
        Whether a stream paused, so that ``cycles`` may exceed ``predicted``.
    utilisation
        Multiply-accumulates (those with pruned weights included) for each cycle and each of the H*L lanes.
    seconds
        That the session's simulation took.
    """

    session: str
    layer: str
    sums: int
    psums: int
    mismatches: int
    message: str
    cycles: int
    predicted: int
    paused: bool
    utilisation: float
    seconds: float

    @property
    def passed(self) -> bool:
        """Bit-exact, and in as many cycles as predicted where that is exact."""
        return not self.mismatches and (self.paused or self.cycles == self.predicted)


def build_model(config: AcceleratorConfig, name: str) -> tuple[VerilatorRunner, dict[str, Any]]:
    """Generate the Verilog of an instance and build its model, unless both are there already.

    Returns
    -------
    tuple
        The runner, and the design's manifest.

    Raises
    ------
    sim.runner.BuildError, sim.toolchain.ToolchainError
        Verilator is missing or refuses the design.
    """
    folder = BUILD / "designs"
    versions = [metadata.version(package) for package in ("amaranth", "pyosys")]
    source = hashlib.sha256(repr((config, versions)).encode())
    root = Path(__file__).parents[1]
    for path in sorted([*root.glob("hw/**/*.py"), root / "sim" / "wrapper.py"]):
        source.update(path.read_bytes())
    design, manifest, wrapper, stamp = (folder / f"{name}{end}" for end in (".v", ".json", f".{TOP}.v", ".sha256"))
    outputs = (design, manifest, wrapper)
    with locked(folder / f"{name}.lock"):
        if not (stamp.exists() and stamp.read_text() == _stamp(source.hexdigest(), outputs)):
            generated = generate(config, name)
            write(generated, folder)
            write_text(wrapper, wrapper_verilog(generated.manifest))
            write_text(stamp, _stamp(source.hexdigest(), outputs))
    # Yosys leaves widths and unreachable cases implicit in its Verilog.
    lint = [f"-Wno-{kind}" for kind in ("WIDTHEXPAND", "WIDTHTRUNC", "CASEINCOMPLETE")]
    runner = VerilatorRunner(name, [design, wrapper], TOP, lint)
    runner.build_model()
    return runner, json.loads(manifest.read_text())


def _stamp(source: str, outputs: Sequence[Path]) -> str:
    """Hash of what files were made from and of the files themselves, so that a damaged one is made again."""
    digest = hashlib.sha256(source.encode())
    for path in outputs:
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.exists() else b"missing")
    return digest.hexdigest()


def run_sessions(
    config: AcceleratorConfig,
    sessions: Sequence[Session],
    name: str,
    label: str = "core",
    progress: Callable[[float], None] | None = None,
) -> list[JobResult]:
    """Run sessions on one instance, one after the other in one process.

    Parameters
    ----------
    config
        The instance.
    sessions
        With different names.
    name
        Of the model in ``build/sim``; a preset's name, usually.
    label
        Of the result files: ``build/sim/<name>.<label>.xml`` is JUnit XML.
    progress
        Called now and then with the part of the simulation that is done, 0 to 1.

    Returns
    -------
    list
        One result for each job, in order. A mismatch is in the result, not an exception.

    Raises
    ------
    sim.runner.SimulationError
        The simulation ended early, a stream broke the protocol or stood still, or transfers were left over.
    sim.transfers.ProgramError
        A layer does not fit the instance.
    """
    programs = [[layer_program(config, job.layer, job.activations, job.schedule) for job in s.jobs] for s in sessions]
    runner, manifest = build_model(config, name)
    return simulate(config, sessions, programs, runner, manifest, label, progress)


def _run(runner: VerilatorRunner, folder: Path, label: str, progress: Callable[[float], None]) -> None:
    with ThreadPoolExecutor(1) as pool:
        environment = {"COSIM_FOLDER": str(folder)}
        running = pool.submit(runner.run_tests, "sim.core_bench", label=label, environment=environment)
        while True:
            with suppress(OSError, ValueError):
                progress(float((folder / "progress").read_text()))
            with suppress(StillRunning):
                running.result(timeout=0.2)
                progress(1.0)
                return


def simulate(
    config: AcceleratorConfig,
    sessions: Sequence[Session],
    programs: Sequence[Sequence[LayerProgram]],
    runner: VerilatorRunner,
    manifest: Mapping[str, Any],
    label: str,
    progress: Callable[[float], None] | None = None,
) -> list[JobResult]:
    """The second half of :func:`run_sessions`: run programs on a model that has been built."""
    # Not in the model's own folder, which goes where the model is built again.
    with tempfile.TemporaryDirectory(prefix=f"{runner.name}-{label}-", dir=runner.build_dir.parent) as name:
        folder = Path(name)
        content = {s.name: (list(p), dict(s.pauses), s.seed) for s, p in zip(sessions, programs, strict=True)}
        with (folder / "sessions.pickle").open("wb") as file:
            pickle.dump((config, manifest["streams"], content), file)
        failure: SimulationError | None = None
        try:
            _run(runner, folder, label, progress or (lambda done: None))
        except SimulationError as error:
            failure = error
        results = []
        for session, layers in zip(sessions, programs, strict=True):
            path = folder / f"{session.name}.json"
            if not path.exists():
                assert failure is not None
                raise failure
            report = json.loads(path.read_text())
            for program, values in zip(layers, report["layers"], strict=True):
                results.append(
                    JobResult(
                        session=session.name,
                        layer=program.layer.name,
                        paused=bool(session.pauses),
                        utilisation=program.operations / (values["cycles"] * config.H * config.L),
                        seconds=report["seconds"],
                        **values,
                    )
                )
    if failure is not None and all(result.passed for result in results):
        raise failure
    return results


def run_layers(
    config: AcceleratorConfig,
    jobs: Sequence[Job | tuple[CompressedLayer, NDArray[np.int8], Schedule]],
    name: str,
    label: str = "layers",
    progress: Callable[[float], None] | None = None,
) -> list[JobResult]:
    """Run layers back to back, without pauses: :func:`run_sessions` with one session.

    Parameters
    ----------
    jobs
        Jobs, or tuples of what a :class:`Job` holds.
    """
    listed = [job if isinstance(job, Job) else Job(*job) for job in jobs]
    return run_sessions(config, [Session(label, listed)], name, label, progress)
