from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hw.config import preset
from sw.compiler.listing import list_program, main
from sw.format.example import random_layer
from sw.program import Program, ProgramError, write_program
from tests.sw.assembler import layer_program


@pytest.fixture(scope="module")
def program() -> Program:
    layer = random_layer(np.random.default_rng(0), "int8", (8, 4, 3, 3), requantised=True, padding=(1, 1), name="stem")
    return layer_program(preset("ews-tiny"), layer, 4, 5)


def test_every_descriptor_has_a_line(program: Program) -> None:
    lines = list(list_program(program))
    start = next(i for i, line in enumerate(lines) if line.startswith("layer 0"))
    numbered = [line.split() for line in lines[start + 1 :]]
    assert [(int(fields[0]), fields[1]) for fields in numbered] == [
        (number, descriptor.opcode.name) for number, descriptor in enumerate(program.listing)
    ]
    text = "\n".join(lines)
    copy = next(line for line in lines if " COPY " in line)
    assert "first_row=-1 first_column=-1" in copy
    assert copy.endswith("after loaded 1  -> copied 1")
    assert f"{program.inputs[0].tensor.address:#012x}" in text
    assert "int8 [4 x 4 x 5], 1 L2 words a pixel" in text
    fetched = sum(d.body["words"] for d in program.listing if d.opcode.name == "FETCH") * 2
    row = next(line.split() for line in lines if " stem " in line)
    assert row[:7] == ["0", "stem", "conv", "0", str(fetched), "9", "1"]


def test_layers_and_summary(program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "p")
    write_program(path, program)
    assert main([path, "--layer", "stem"]) == 0
    whole = capsys.readouterr().out
    assert main([path, "--summary"]) == 0
    summary = capsys.readouterr().out
    assert whole.startswith(summary)
    assert "TILE" not in summary
    assert main([path, "--layer", "head"]) == 2
    assert "there must be a layer 'head'; the layers are stem" in capsys.readouterr().err
    with pytest.raises(ProgramError, match="there must be a layer 'head'"):
        next(list_program(program, layers=["head"]))
    assert main([str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_reader_that_stops_early_is_no_error(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "p"
    write_program(path, program)
    command = f"{sys.executable} -m sw.compiler.listing {path} | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("program for ews, 4 x 8")
    assert result.stderr == ""
