"""Products of activations: weights that come with each run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hw.config import VARIANTS, preset
from hw.control.descriptor import Opcode
from sw.compiler.compile import Product, compile_products
from sw.compiler.graph import CompileError
from sw.executor import execute
from sw.format.layer import Requantisation
from sw.golden import PsumOverflowError, requantise
from sw.program import Operand, Program, ProgramError, program_bytes, program_from_bytes, read_program
from sw.program import write_program as write

SIZES = [(19, 10, 13), (3, 16, 7), (40, 9, 19), (1, 1, 1)]


def run(program: Program, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    bound = program.with_operands(list(b))
    memory = execute(bound, bound.memory([values[:, None] for values in a]), check=True).memory
    return [bound.read(memory, tensor)[:, 0] for tensor in bound.outputs]


@pytest.mark.parametrize(("K", "C", "T"), SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_products_are_exact(variant: str, K: int, C: int, T: int) -> None:
    rng = np.random.default_rng(K)
    a = rng.integers(-128, 128, (2, C, T)).astype(np.int8)
    b = rng.integers(-127, 128, (2, K, C)).astype(np.int8)
    b[rng.random(b.shape) < 0.3] = 0
    program = compile_products([Product(f"head{g}", K, C, T) for g in range(2)], preset(f"{variant}-tiny"))
    assert [layer.operation for layer in program.layers] == ["matmul", "matmul"]
    assert [layer.macs for layer in program.layers] == [K * C * T] * 2
    program = program_from_bytes(program_bytes(program))
    for found, expected in zip(run(program, a, b), b.astype(np.int32) @ a, strict=True):
        assert found.dtype == np.int32
        assert np.array_equal(found, expected)
    # Bound weights can take the place of others.
    again = program.with_operands(list(b)).with_operands([values * 0 for values in b])
    assert again.image == program.image


def test_several_strips_and_tiles() -> None:
    """Each strip fetches the weights again; every one of its FETCHes gets the checksum."""
    config = preset("ews-msvq-tiny").override(["l1_ifmap_bytes=256", "psum_width=32"])
    rng = np.random.default_rng(0)
    a, b = rng.integers(-127, 128, (1, 70, 50)).astype(np.int8), rng.integers(-127, 128, (1, 33, 70)).astype(np.int8)
    program = compile_products([Product("p", 33, 70, 50)], config)
    assert sum(x.opcode == Opcode.FETCH and x.body["channel"] == 0 for x in program.listing) > 1
    assert len(program.operands[0].tiles) > 1
    assert np.array_equal(run(program, a, b)[0], b[0].astype(np.int32) @ a[0])


def test_requantised() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(-128, 128, (1, 8, 5)).astype(np.int8), rng.integers(-128, 128, (1, 6, 8)).astype(np.int8)
    given = Requantisation(np.full(6, 7, np.int32), np.full(6, 1 << 30, np.int32), np.full(6, 38, np.uint8))
    program = compile_products([Product("p", 6, 8, 5, given)], preset("ews-tiny"))
    expected = requantise((b[0].astype(np.int32) @ a[0])[:, None], given)[:, 0]
    assert np.array_equal(run(program, a, b)[0], expected)


def test_sums_that_may_overflow_are_refused() -> None:
    # 31 x 128 x 128 fits 20 bits, 32 x 128 x 128 does not.
    compile_products([Product("p", 4, 31, 4)], preset("ews-tiny"))
    with pytest.raises(PsumOverflowError, match="layer 'p': output channel 0 reaches partial sums of 524288"):
        compile_products([Product("p", 4, 32, 4)], preset("ews-tiny"))
    with pytest.raises(CompileError, match="there must be at least one layer"):
        compile_products([], preset("ews-tiny"))


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_products([Product("p", 5, 6, 4)], preset("ews-msvq-tiny"))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "program: there must be 1 operands, not 0"),
        ([np.zeros((5, 6))], r"operand 'p': weights must be int8 \[5, 6\], not float64 \[5, 6\]"),
        ([np.zeros((6, 5), np.int8)], r"operand 'p': weights must be int8 \[5, 6\], not int8 \[6, 5\]"),
        ([np.full((5, 6), -128, np.int8)], "operand 'p': weights on ews-msvq must be in -127..127, not -128"),
    ],
)
def test_weights_are_refused(program: Program, weights: list[Any], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        program.with_operands(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "operand: name must be text"),
        ({"shape": [5, 6]}, "shape must be K and C, not"),
        ({"shape": (0, 6)}, "shape must be an integer in 1..65535, not 0"),
        ({"address": -1}, "address must be an integer in 0.."),
        ({"size": 0}, "size must be an integer in 1.."),
        ({"tiles": ()}, "tiles must be a list and not empty, not "),
        ({"tiles": ((1, 2),)}, "a tile must be i, A, g, B, p0, passes, rows, not "),
        ({"tiles": ((0, 0, 0, 1, 0, 1, 1),)}, "A of a tile must be an integer in 1..65535, not 0"),
    ],
)
def test_operand_out_of_range(program: Program, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        replace(program.operands[0], **change)


def test_operand_that_does_not_fit_the_program(program: Program) -> None:
    operand, config = program.operands[0], program.config
    weights = [np.zeros((5, 6), np.int8)]

    def moved(**change: Any) -> Program:
        return replace(program, operands=(replace(operand, **change),))

    with pytest.raises(ProgramError, match="operand 'p': address must be an integer in "):
        moved(address=program.base + len(program.image))
    with pytest.raises(ProgramError, match="operand names must be unique, not 2 times 'p'"):
        replace(program, operands=(operand, operand))
    with pytest.raises(ProgramError, match="operand 'p': no FETCH reads its address"):
        moved(address=operand.address + 2).with_operands(weights)
    with pytest.raises(ProgramError, match=r"operand 'p': tiles must give \d+ bytes, not "):
        replace(operand, size=operand.size + 2).order(config)
    with pytest.raises(ProgramError, match="operand 'p': tiles must give each of 4 x 6 weights once"):
        Operand("p", (4, 6), operand.address, operand.size, ((1, *operand.tiles[0][1:]), *operand.tiles[1:])).order(
            config
        )


def test_written_and_read_again(program: Program, tmp_path) -> None:
    write(tmp_path / "p", program)
    assert read_program(tmp_path / "p") == program
