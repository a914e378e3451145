from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hw.config import preset
from hw.control.errors import Cause
from sim.accelerator import __main__ as command
from sw.format.example import random_layer
from sw.program import write_program
from tests.sw.assembler import layer_program


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    layer = random_layer(np.random.default_rng(0), "int8", (8, 4, 1, 1), requantised=True)
    program = layer_program(preset("ews-tiny"), layer, 2, 2)
    write_program(tmp_path / "p", program)
    (tmp_path / "before").write_bytes(program.memory().tobytes())
    return [str(tmp_path / name) for name in ("p", "before", "after")]


def test_models_are_named_by_preset_or_fields() -> None:
    config = preset("ews-tiny")
    assert command.model_name(config) == "accelerator-ews-tiny"
    names = {command.model_name(config.override([f"k={k}"])) for k in (3, 4)}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files[1:2], "the following arguments are required: BEFORE AFTER"),
        (lambda files: files[:2], "BEFORE and AFTER must come in pairs, not 1 files"),
        (lambda files: [files[0], files[0], files[2]], "must have 65664 bytes, not"),
        (lambda files: [files[1], *files[1:]], "magic: the file must begin with"),
        (lambda files: [*files, "--latency", "-1"], "latency must be in 0.."),
    ],
)
def test_refusals(files: list[str], capsys: pytest.CaptureFixture[str], change, message: str) -> None:
    try:
        status = command.main(change(files))
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("python -m sim.accelerator: ")
    assert message in error
    assert not Path(files[2]).exists()


@pytest.mark.parametrize("done", [True, False])
def test_writes_the_memory_of_a_program_that_ends(
    files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    def run_jobs(runner, jobs, progress):
        (job,) = jobs
        progress(0, 10)
        assert job.memory == Path(files[1]).read_bytes()
        return [SimpleNamespace(done=done, memory=job.memory[::-1], cause=Cause.CHECKSUM, error_descriptor=3)]

    monkeypatch.setattr(
        "sim.accelerator.model.accelerator_runner", lambda config, name, **_: SimpleNamespace(build_model=lambda: None)
    )
    monkeypatch.setattr("sim.accelerator.run.run_jobs", run_jobs)
    assert command.main(files) == (0 if done else 1)
    assert Path(files[2]).exists() == done
    if done:
        assert Path(files[2]).read_bytes() == Path(files[1]).read_bytes()[::-1]
    else:
        assert "the program failed: CHECKSUM at descriptor 3" in capsys.readouterr().err
