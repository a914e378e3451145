from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw.config import preset
from hw.control.descriptor import Opcode
from sw.format.example import random_layer
from sw.golden.layer import layer_sums
from sw.program import (
    MAGIC,
    MAX_DRAM_BYTES,
    Fold,
    Input,
    Program,
    ProgramError,
    ProgramLayer,
    Tensor,
    read_program,
    write_program,
)
from tests.sw.assembler import layer_program
from tests.sw.headers import check_lengths, rewritten

FOLD = Fold(3, 9, 8, (3, 3), (2, 2), (1, 1), 2)


@pytest.fixture(scope="module")
def program() -> Program:
    layer = random_layer(np.random.default_rng(0), "int8", (8, 4, 3, 3), requantised=True, padding=(1, 1))
    made = layer_program(preset("ews-tiny"), layer, 4, 5)
    tensor = replace(made.inputs[0].tensor, scale=0.5)
    layers = (replace(made.layers[0], macs=5, record=made.base + made.dram_bytes, note="some"),)
    folded = Input(Tensor("folded", made.base + made.dram_bytes + 64, *FOLD.shape, 4, 5), FOLD)
    return replace(
        made,
        dram_bytes=made.dram_bytes + 64 + 512,
        inputs=(Input(tensor), folded),
        layers=(*layers, ProgramLayer("add", "add", tensor=made.outputs[0])),
        metadata={"network": "none"},
    )


def test_written_and_read_again(program: Program, tmp_path: Path) -> None:
    for name in "ab":
        write_program(tmp_path / name, program)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_program(tmp_path / "a") == program


def test_every_flipped_byte_is_found(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_program(path, program)
    data = path.read_bytes()
    for place in range(0, len(data), 37):
        wrong = bytearray(data)
        wrong[place] ^= 1 << place % 8
        path.write_bytes(wrong)
        with pytest.raises(ProgramError, match=r"^(magic|version|header|image): "):
            read_program(path)


def test_every_truncation_is_found(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_program(path, program)
    size = path.stat().st_size
    check_lengths(path, [*range(0, size, 41), size - 1], read_program, "image")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(more=1), "header: must be an object of config,"),
        (lambda h: h.pop("base"), "header: must be an object of config,"),
        (lambda h: h.update(image_bytes=-1), "header: image_bytes must be an integer in 0"),
        (lambda h: h.update(image_bytes=1 << 29), "image: the file is truncated"),
        (lambda h: h.update(metadata=[]), "header: config and metadata must be objects"),
        (lambda h: h["config"].update(H=0), "config: H must be in 1..256, not 0"),
        (lambda h: h["config"].update(speed=1), "config: unknown field 'speed'"),
        (lambda h: h.update(base=1), "program: base must be a multiple of 64, not 1"),
        (lambda h: h.update(base=1 << 32), "program: base must be an integer in 0"),
        (lambda h: h.update(dram_bytes=2 * MAX_DRAM_BYTES), "program: dram_bytes must be an integer in 64"),
        (lambda h: h.update(dram_bytes=64), "program: image must have at most 64 bytes"),
        (lambda h: h.update(descriptor_count=1 << 20), "program: descriptors must be an integer in"),
        (lambda h: h.update(descriptors=h["descriptors"] + 4), "program: descriptors must be"),
        (lambda h: h.update(inputs={}), "inputs: must be a list, not dict"),
        (lambda h: h["inputs"].append(7), "input: must be an object, not int"),
        (lambda h: h["inputs"].append(h["inputs"][0]), "input names must be unique, not 2 times 'input0'"),
        (lambda h: h["inputs"][0].update(half=1), "input: unknown field 'half'"),
        (lambda h: h["inputs"][0]["tensor"].pop("rows"), "tensor: field 'rows' is missing"),
        (lambda h: h["inputs"][0]["tensor"].update(rows=0), "tensor 'input0': rows must be an integer in 1..65535"),
        (lambda h: h["inputs"][0]["tensor"].update(name=""), "tensor: name must be text and not empty, not ''"),
        (lambda h: h["inputs"][0]["tensor"].update(dtype="f4"), "dtype must be one of int8, int32, not 'f4'"),
        (lambda h: h["inputs"][0]["tensor"].update(dtype=[1]), "dtype must be one of int8, int32, not [1]"),
        (lambda h: h["inputs"][0]["tensor"].update(dtype="int32"), "a pixel must hold 16 bytes of channels, not 4"),
        (lambda h: h["inputs"][0]["tensor"].update(scale=0), "scale must be finite and positive, or None, not 0"),
        (lambda h: h["inputs"][0]["tensor"].update(address=0), "tensor 'input0': address must be a multiple of 4 in"),
        (lambda h: h["inputs"][0]["tensor"].update(word_bytes=2, pixel_words=2), "word_bytes must be 4, not 2"),
        (lambda h: h["inputs"][1]["tensor"].update(rows=3), "input 'folded': shape must be that of the fold"),
        (lambda h: h["inputs"][1]["fold"].update(kernel=3), "fold: kernel must be two integers in 1..255, not 3"),
        (lambda h: h["inputs"][1]["fold"].update(fold_rows=4), "fold: fold_rows must be an integer in 1..3, not 4"),
        (lambda h: h["outputs"][0].update(rows=65535), "tensor 'output0': address must be"),
        (lambda h: h["layers"][0].update(record=64), "layer 'random': record must be a multiple of 64 in"),
        (lambda h: h["layers"][0].update(macs=1.5), "layer 'random': macs must be an integer"),
        (lambda h: h["layers"][0].update(operation=""), "layer 'random': operation must be text and not empty"),
        (lambda h: h["layers"][0].update(note=3), "layer 'random': note must be text, not 3"),
    ],
)
def test_header_out_of_range(
    program: Program, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "a"
    write_program(path, program)
    rewritten(path, change)
    with pytest.raises(ProgramError) as caught:
        read_program(path)
    assert message in str(caught.value)


def test_other_version_and_no_json(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_program(path, program)
    rewritten(path, lambda header: None, version=2)
    with pytest.raises(ProgramError, match="version: must be 1, not 2"):
        read_program(path)
    prefix = MAGIC + struct.pack("<II", 1, 14) + b'{"a":1, "a":1}'
    path.write_bytes(prefix + struct.pack("<I", zlib.crc32(prefix)))
    with pytest.raises(ProgramError, match="header: must be JSON: key 'a' must not be there twice"):
        read_program(path)


def test_metadata_must_be_json(program: Program, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="header: metadata must be plain JSON"):
        write_program(tmp_path / "a", replace(program, metadata={"x": float("nan")}))
    assert not list(tmp_path.iterdir())


def test_bodies_are_the_listing(program: Program) -> None:
    for (opcode, fields), descriptor in zip(program.bodies(), program.listing, strict=True):
        waits = {f"wait_{event}": count for event, count in descriptor.waits.items()}
        own = {"opcode": int(descriptor.opcode), "layer": descriptor.layer}
        assert (opcode, fields) == (descriptor.opcode, own | waits | dict(descriptor.body))
    assert any(fields.get("first_row", 0) < 0 for _, fields in program.bodies())


def test_unknown_opcode_is_named(program: Program) -> None:
    image = bytearray(program.image)
    image[program.descriptors - program.base + 2 * 64] = 77
    wrong = replace(program, image=bytes(image))
    with pytest.raises(ProgramError, match=r"descriptor 2: opcode must be in 1..9, not 77"):
        wrong.bodies()
    with pytest.raises(ProgramError, match=r"descriptor 2: opcode must be in 1..9, not 77"):
        assert wrong.listing[0].opcode == Opcode.LOAD


@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_tensor_packs_pixels_of_whole_words(dtype: str) -> None:
    tensor = Tensor("t", 0, 5, 2, 3, 4, 6, dtype)
    values = np.arange(30).reshape(5, 2, 3).astype(dtype) - 7
    data = tensor.pack(values)
    assert len(data) == tensor.size == 2 * 3 * 24
    assert np.array_equal(tensor.unpack(data), values)
    pixels = np.frombuffer(data, np.dtype(dtype)).reshape(2, 3, -1)
    assert np.array_equal(pixels[1, 2, :5], values[:, 1, 2])
    assert not pixels[..., 5:].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 2, 3)), "values must be int8, not float64"),
        (np.zeros((5, 3, 2), np.int8), "values must have shape [5, 2, 3], not [5, 3, 2]"),
        ([1], "values must be int8, not list"),
    ],
)
def test_tensor_refuses(values: Any, message: str) -> None:
    tensor = Tensor("t", 0, 5, 2, 3, 4, 2)
    with pytest.raises(ProgramError) as caught:
        tensor.pack(values)
    assert message in str(caught.value)
    with pytest.raises(ProgramError, match="must have 48 bytes, not 3"):
        tensor.unpack(b"123")


def test_memory_takes_an_image_for_each_input(program: Program) -> None:
    with pytest.raises(ProgramError, match="there must be 2 inputs, not 1"):
        program.memory([np.zeros((4, 4, 5), np.int8)])


@pytest.mark.parametrize("fold_rows", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (4, 3), (3, 1)])
def test_fold_gives_the_same_sums(fold_rows: int, stride: tuple[int, int]) -> None:
    rng = np.random.default_rng(fold_rows)
    layer = random_layer(rng, "int8", (4, 3, 7, 5), stride=stride, padding=(3, 2))
    values = rng.integers(-128, 128, (3, 13, 11)).astype(np.int8)
    fold = Fold(3, 13, 11, (7, 5), stride, (3, 2), fold_rows)
    folded = fold.image(values)
    assert folded.shape == fold.shape
    assert layer.weights is not None
    weights = fold.weights(layer.weights)
    assert weights.shape == (4, fold.shape[0], *fold.layer_kernel)
    other = replace(
        layer,
        shape=weights.shape,
        weights=weights,
        stride=fold.layer_stride,
        dilation=fold.layer_dilation,
        padding=(0, 0),
    )
    assert np.array_equal(layer_sums(other, folded), layer_sums(layer, values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "fold: rows must be an integer in 1..65535, not 0"),
        ({"stride": (0, 1)}, r"fold: stride must be two integers in 1..255, not \(0, 1\)"),
        ({"kernel": (12, 3)}, "fold: padded rows must be at least 12, not 11"),
    ],
)
def test_fold_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        replace(FOLD, **change)
    with pytest.raises(ProgramError, match=r"the image must be int8 \[3, 9, 8\], not float64 \[3, 9, 8\]"):
        FOLD.image(np.zeros((3, 9, 8)))  # type: ignore[arg-type]


def test_address_space_is_too_small(program: Program) -> None:
    config = replace(program.config, address_bits=16)
    with pytest.raises(
        ProgramError, match=r"dram_bytes must be at most 2\*\*address_bits, not 131072 with address_bits = 16"
    ):
        replace(program, config=config, dram_bytes=1 << 17)
