"""Co-simulation: layers run on the generated Verilog and on the golden model, and every partial sum is compared."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.generate import generate
from hw.layout import Schedule
from sim.program import LayerProgram, layer_program
from sim.runner import SimulationError, VerilatorRunner
from sim.toolchain import BUILD
from sim.wrapper import TOP, wrapper_verilog
from sw.format import CompressedLayer

__all__ = ["Job", "JobResult", "Session", "build_model", "run_layers", "run_sessions"]


@dataclass(frozen=True)
class Job:
    """One layer to run: the compressed layer, int8 activations ``[C, rows, columns]`` (or ``[C]``), and its schedule."""

    layer: CompressedLayer
    activations: NDArray[np.int8]
    schedule: Schedule


@dataclass(frozen=True)
class Session:
    """Jobs that run back to back after one reset.

    Parameters
    ----------
    name
        An identifier; the name of the test in the JUnit XML is made of it.
    jobs
        In order.
    pauses
        ``{stream: density}``: in each cycle the stream is willing with that probability; streams not named always are.
    seed
        Of the pauses.
    """

    name: str
    jobs: Sequence[Job]
    pauses: Mapping[str, float] = field(default_factory=dict)
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
        Measured, and as :func:`sw.perf.sequence_cycles` predicts for streams that never pause.
    paused
        Whether a stream paused, so that ``cycles`` may exceed ``predicted``.
    utilisation
        Multiply-accumulates (those with pruned weights included) for each cycle and each of the H*L lanes.
    seconds
        Of the session, its Verilog not included.
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
    folder.mkdir(parents=True, exist_ok=True)
    source = hashlib.sha256(repr(config).encode())
    root = Path(__file__).parents[1]
    for path in sorted([*root.glob("hw/**/*.py"), root / "sim" / "wrapper.py"]):
        source.update(path.read_bytes())
    manifest_path = folder / f"{name}.json"
    verilog = [folder / f"{name}.v", folder / f"{name}.{TOP}.v"]
    stamp = folder / f"{name}.sha256"
    if not (stamp.exists() and stamp.read_text() == source.hexdigest()):
        generated = generate(config, name)
        verilog[0].write_text(generated.verilog)
        verilog[1].write_text(wrapper_verilog(generated.manifest))
        manifest_path.write_text(json.dumps(generated.manifest))
        stamp.write_text(source.hexdigest())
    runner = VerilatorRunner(name, verilog, TOP, ["-Wno-fatal"])
    runner.build_model()
    return runner, json.loads(manifest_path.read_text())


def run_sessions(
    config: AcceleratorConfig, sessions: Sequence[Session], name: str, label: str = "core"
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

    Returns
    -------
    list
        One result for each job, in order. A mismatch is in the result, not an exception.

    Raises
    ------
    sim.runner.SimulationError
        The simulation ended early, a stream broke the protocol or stood still, or transfers were left over.
    sim.program.ProgramError
        A layer does not fit the instance.
    """
    programs = [[layer_program(config, job.layer, job.activations, job.schedule) for job in s.jobs] for s in sessions]
    runner, manifest = build_model(config, name)
    return _simulate(config, sessions, programs, runner, manifest, label)


def _simulate(
    config: AcceleratorConfig,
    sessions: Sequence[Session],
    programs: Sequence[Sequence[LayerProgram]],
    runner: VerilatorRunner,
    manifest: Mapping[str, Any],
    label: str,
) -> list[JobResult]:
    folder = runner.build_dir / "sessions" / label
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    content = {s.name: (list(p), dict(s.pauses), s.seed) for s, p in zip(sessions, programs, strict=True)}
    with (folder / "sessions.pickle").open("wb") as file:
        pickle.dump((config, manifest["streams"], content), file)
    try:
        runner.run_tests("sim.core_bench", label=label, environment={"COSIM_FOLDER": str(folder)})
    except SimulationError as error:
        failure: SimulationError | None = error
    else:
        failure = None
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
) -> list[JobResult]:
    """Run layers back to back, without pauses: :func:`run_sessions` with one session."""
    listed = [job if isinstance(job, Job) else Job(*job) for job in jobs]
    return run_sessions(config, [Session(label, listed)], name, label)
