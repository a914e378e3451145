"""Networks in steps for an instance: the file, what fits what, what the host moves."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw.config import preset
from sw.compiler.steps import compile_steps
from sw.network import NetworkError
from sw.network.spatial import Flatten
from sw.program import ProgramError
from sw.program.steps import MAGIC, SteppedProgram, is_stepped_program, read_stepped_program, write_stepped_program
from tests.sw.headers import check_lengths, rewritten
from tests.sw.steps import small_transformer

CONFIG = preset("ews-msvq-tiny")


@pytest.fixture(scope="module")
def steps() -> SteppedProgram:
    return compile_steps(small_transformer(CONFIG)[0], CONFIG)


@pytest.fixture
def path(steps: SteppedProgram, tmp_path: Path) -> Path:
    write_stepped_program(tmp_path / "a", steps)
    return tmp_path / "a"


def test_written_and_read_again(steps: SteppedProgram, path: Path, tmp_path: Path) -> None:
    assert is_stepped_program(path)
    again = read_stepped_program(path)
    assert again.operations == steps.operations
    assert again.programs == steps.programs
    assert again.config == CONFIG
    assert [output.name for output in again.outputs] == ["head"]
    assert again.input.shape == (3, 8, 8)
    assert again.input.tensor.scale == steps.input_scale
    write_stepped_program(tmp_path / "b", again)
    assert path.read_bytes() == (tmp_path / "b").read_bytes()


def test_flipped_bytes_and_truncations_are_found(path: Path) -> None:
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(data), 150).tolist()
    for at in places:
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :])
        with pytest.raises((NetworkError, ProgramError)):
            read_stepped_program(path)
    path.write_bytes(data)
    check_lengths(path, places, read_stepped_program, "steps")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda header: header.pop("constants"),
            "header: must be an object of operations, constants, input_scale, pro",
        ),
        (lambda header: header.update(programs=[[1]]), "header: programs must be pairs of an operation's number and b"),
        (lambda header: header["programs"].reverse(), "header: programs must be in the order of their operations"),
        (lambda header: header["programs"].pop(), "the file is too long: "),
        (lambda header: header["programs"][0].__setitem__(0, 2), r"operation 1 \(layer\): it must have a program"),
        (lambda header: header["operations"][2].update(op="swish"), "operation 2: op must be one of .*, not 'swish'"),
        (lambda header: header.update(input_scale=0), "input_scale must be a number in "),
        (lambda header: header["constants"].clear(), r"\(embed\): positions must be the name of a constant"),
    ],
)
def test_header_out_of_range(path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    rewritten(path, change)
    with pytest.raises((NetworkError, ProgramError), match=message):
        read_stepped_program(path)


def test_other_version_and_no_json(path: Path) -> None:
    rewritten(path, lambda header: None, version=2)
    with pytest.raises(ProgramError, match="version: must be 1, not 2"):
        read_stepped_program(path)
    prefix = struct.pack("<8sII", MAGIC, 1, 1) + b"{"
    path.write_bytes(prefix + struct.pack("<I", zlib.crc32(prefix)))
    with pytest.raises(ProgramError, match="header: must be JSON"):
        read_stepped_program(path)


def test_a_program_in_it_is_named(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ProgramError, match="program of operation 21: image: checksum mismatch"):
        read_stepped_program(path)


def numbers(steps: SteppedProgram, kind: str) -> list[int]:
    return [number for number, op in enumerate(steps.operations) if op.kind == kind]


def test_programs_must_fit_the_operations(steps: SteppedProgram) -> None:
    layer, product = numbers(steps, "layer")[1], numbers(steps, "matmul")[0]

    def replaced(number: int, **fields: Any) -> None:
        programs = {**steps.programs, number: dataclasses.replace(steps.programs[number], **fields)}
        dataclasses.replace(steps, programs=programs)

    program = steps.programs[product]
    with pytest.raises(
        NetworkError, match=rf"operation {layer} \(layer\): its program must read 1 inputs \[16, 1, 5\], not "
    ):
        dataclasses.replace(steps, programs={**steps.programs, layer: program})
    with pytest.raises(NetworkError, match=r"its program must read 2 inputs \[8, 1, 5\], not \[\(8, 1, 5\)\]"):
        replaced(product, inputs=program.inputs[:1])
    with pytest.raises(NetworkError, match=r"its program must have operands for int8 \[2 x 5 x 8\], not \[\]"):
        replaced(product, operands=())
    other = dataclasses.replace(program.outputs[0], channels=4)
    with pytest.raises(NetworkError, match="all outputs of its program must be of one kind"):
        replaced(product, outputs=(other, program.outputs[1]))
    with pytest.raises(ProgramError, match=r"there must be programs for operations \[1, 4, .*\], not \[0, 1, 4, "):
        dataclasses.replace(steps, programs={**steps.programs, 0: program})
    with pytest.raises(ProgramError, match="there must be an operation of the accelerator"):
        dataclasses.replace(steps, operations=(steps.operations[0], Flatten(inputs=(0,))), outputs=(), programs={})
    with pytest.raises(ProgramError, match="all programs must be for one instance"):
        replaced(product, config=CONFIG.override(["fifo_words=32"]))


def test_transfers_count_inputs_operands_checksums_and_outputs(steps: SteppedProgram) -> None:
    transfers = {entry.number: entry for entry in steps.transfers()}
    assert [*transfers] == list(range(1, len(steps.operations)))
    for number, entry in transfers.items():
        assert entry.operation == steps.operations[number].kind
        program = steps.programs.get(number)
        assert (entry.written > 0) == (entry.read > 0) == (program is not None)
    entry = transfers[numbers(steps, "matmul")[0]]
    # Two heads: 5 tokens of 8 channels, 5 x 8 weights in two passes of 2 of every 4 columns, 8 of them, a checksum.
    assert entry.written == 2 * (5 * 8 + 8 * 8 + 4)
    assert entry.read == 2 * 5 * 8


def test_operands_that_the_array_lacks_are_refused(steps: SteppedProgram) -> None:
    number = numbers(steps, "matmul")[0]
    values = [np.zeros((2, 8, 5), np.int8), np.full((2, 5, 8), -128, np.int8)]
    with pytest.raises(ProgramError, match=r"weights on ews-msvq must be in -127\.\.127, not -128"):
        steps._prepare(number, values)
