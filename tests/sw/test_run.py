from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hw.config import preset
from sw import run
from sw.compiler import listing
from sw.compiler.steps import compile_steps
from sw.compress.training.data import ImageData, Preprocessing
from sw.executor import execute, run_program
from sw.format.container import write_container
from sw.format.example import random_layer
from sw.network import Network, write_network
from sw.program import Input, Program, read_program, write_program
from sw.program.steps import write_stepped_program
from sw.run import main, read_images
from tests.refusals import refusals
from tests.sw.assembler import layer_program
from tests.sw.steps import small_transformer

SHAPE = (3, 5, 4)


@pytest.fixture(scope="module")
def program() -> Program:
    layer = random_layer(np.random.default_rng(0), "int8", (9, 3, 5, 4), requantised=True, name="head")
    made = layer_program(preset("ews-tiny"), layer, *SHAPE[1:], wide=True)
    return replace(made, inputs=(Input(replace(made.inputs[0].tensor, scale=0.25)),))


@pytest.fixture
def path(program: Program, tmp_path: Path) -> str:
    write_program(tmp_path / "p", program)
    return str(tmp_path / "p")


def saved(path: Path, values) -> str:
    np.save(path, values)
    return str(path)


def test_golden_writes_and_prints(program: Program, path: str, tmp_path: Path, capsys) -> None:
    images = np.random.default_rng(1).integers(-128, 128, (2, *SHAPE)).astype(np.int8)
    expected = np.stack([run_program(program, [values])["output0"] for values in images])
    arguments = ["--check", "--quiet", path, saved(tmp_path / "x.npy", images)]
    assert main([*arguments, "--output", str(tmp_path / "y.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)
    shown = capsys.readouterr().out
    assert "output0: int32 [2 x 9 x 1 x 1], CRC-32" in shown
    best = int(expected[1].argmax())
    assert f"image 1: class {best} {expected[1].reshape(-1)[best]}, class" in shown
    assert main([*arguments, "--output", str(tmp_path / "y.npz")]) == 0
    assert np.array_equal(np.load(tmp_path / "y.npz")["output0"], expected)


def test_floats_are_divided_by_the_scale(program: Program, tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.float32)
    values.reshape(-1)[:5] = [0.125, 0.375, -0.625, 100, -100]
    images = read_images(saved(tmp_path / "x.npy", values), program.inputs[0])
    assert images.dtype == np.int8
    assert images.shape == (1, *SHAPE)
    assert images.reshape(-1)[:6].tolist() == [0, 2, -2, 127, -128, 0]


def test_picture_is_cropped_resized_and_normalised(program: Program, tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = (255, 51, 0)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    images = read_images(str(tmp_path / "x.png"), program.inputs[0], (0, 0.2, 0.5), (1, 1, 0.25))
    assert images[0].reshape(3, -1).min(axis=1).tolist() == images[0].reshape(3, -1).max(axis=1).tolist() == [4, 0, -8]
    # Mean and deviation are of the channels as the network reads them.
    turned = read_images(str(tmp_path / "x.png"), program.inputs[0], (0.5, 0.2, 0), (0.25, 1, 1), "bgr")
    assert np.array_equal(turned[0], images[0, ::-1])


def test_a_picture_keeps_its_proportions(program: Program, tmp_path: Path) -> None:
    entry = program.inputs[0]
    rng, how = np.random.default_rng(0), ((0.1, 0.2, 0.5), (1, 0.5, 0.25))
    pixels = rng.integers(0, 256, (5, 4, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    floats = (np.float32(pixels) / 255 - np.float32(how[0])) / np.float32(how[1])
    wanted = read_images(saved(tmp_path / "x.npy", floats.transpose(2, 0, 1)), entry)
    assert np.array_equal(read_images(str(tmp_path / "x.png"), entry, *how), wanted)
    for pad in (((0, 0), (3, 3), (0, 0)), ((2, 2), (0, 0), (0, 0))):
        Image.fromarray(np.pad(pixels, pad)).save(tmp_path / "wide.png")
        assert np.array_equal(read_images(str(tmp_path / "wide.png"), entry, *how), wanted)


@pytest.mark.parametrize("how", [{"crop": 0.7, "colours": "bgr"}, {"interpolation": "nearest", "crop": 1.0}, {}])
def test_a_picture_is_taken_as_the_file_says(network, steps: str, tmp_path: Path, how: dict) -> None:
    """By ``--container`` of a network in steps, and by a program that says it itself: as ``msvq evaluate`` takes it."""
    given, _ = network
    C, rows, columns = given.image_shape
    channels = {"mean": [0.1, 0.2, 0.4], "std": [0.5, 0.4, 0.3]}
    write_network(tmp_path / "net.msvq", given, metadata={"preprocessing": channels | how})
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 57, 3), np.uint8)).save(tmp_path / "x.png")
    said = Preprocessing.of(channels | how)
    data = ImageData([tmp_path / "x.png"], np.zeros(1, np.int64), (rows, columns), preprocessing=said, channels=C)
    floats = data.normalise(data.batch(torch.arange(1), torch.device("cpu"))[0]).numpy()
    taken = ["--container", str(tmp_path / "net.msvq")]
    for name, more in (("x.png", taken), (saved(tmp_path / "x.npy", floats), [])):
        output = tmp_path / f"logits{Path(name).suffix}.npy"
        assert main(["--quiet", steps, str(tmp_path / name), *more, "--output", str(output)]) == 0
    assert np.array_equal(np.load(tmp_path / "logits.png.npy"), np.load(tmp_path / "logits.npy.npy"))


def test_a_program_may_say_what_is_done_to_a_picture(program: Program, tmp_path: Path, capsys, refused) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).save(tmp_path / "x.png")
    said = {"mean": [0.1, 0.2, 0.4], "std": [0.5, 0.4, 0.3]}
    for name, value in (("p", said), ("q", {"sharpen": 1})):
        write_program(tmp_path / name, replace(program, metadata={"preprocessing": value}))
    picture, shown = str(tmp_path / "x.png"), []
    for more in ([], ["--mean", "0.1,0.2,0.4", "--std", "0.5,0.4,0.3"], ["--colours", "bgr"]):
        assert main(["--quiet", str(tmp_path / "p"), picture, *more]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2]
    error = refused(main, [str(tmp_path / "q"), picture])
    assert "q: preprocessing must have no fields but mean, std, interpolation, crop, colours, not 'sharpen'" in error


def test_another_network_is_no_container_of_a_program(network, steps: str, path: str, tmp_path: Path, refused) -> None:
    Image.new("RGB", (9, 7)).save(tmp_path / "x.png")
    write_network(tmp_path / "net.msvq", network[0])
    picture, taken = str(tmp_path / "x.png"), ["--container", str(tmp_path / "net.msvq")]
    error = refused(main, [path, picture, *taken])
    assert "net.msvq' must be the network of the program: its input is another one" in error
    error = refused(main, [steps, picture, *taken])
    assert "net.msvq' does not say what is done to a picture: give --mean and --std" in error
    write_container(tmp_path / "net.msvq", list(network[0].layers.values()))
    error = refused(main, [steps, picture, *taken])
    assert "--container container" in error
    assert "it must hold a network's operations" in error


def test_without_the_extra_there_is_no_simulation(path: str, tmp_path: Path, refused, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    image = saved(tmp_path / "x.npy", np.zeros(SHAPE, np.int8))
    assert "--backend rtl needs the extra sim: pip install" in refused(main, [path, image, "--backend", "rtl"])


@refusals(
    """
    {p} -> the program takes an INPUT for each of its 1 inputs, not 0
    {p} {x} {x} -> the program takes an INPUT for each of its 1 inputs, not 2
    {p} {wrong} -> must be [3 x 5 x 4] or [images x 3 x 5 x 4], not [4, 4]
    {p} {double} -> input 'input0': values must be int8 or float, not int64
    {p} {nan} -> input 'input0': values must be finite
    {p} {archive} -> archive.npz: must be .npy or a picture, not .npz: np.save one of its arrays
    {p} {text} -> a picture needs --mean and --std of 3 channels
    {p} {text} --mean 0,0,0 --std 1,1,1 -> must be .npy or a picture
    {p} {x} --output y.txt -> --output must end in .npy, or .npz for several outputs, not 'y.txt'
    {p} {p} -> is a program, and an INPUT is wanted: .npy or a picture
    {p} {container} -> is a container, and an INPUT is wanted: .npy or a picture
    {p} {text} --mean 0,0,0 -> --mean and --std must be given together
    {p} {x} --mean 0,0,0 --std 1,1,1 -> --mean is for pictures, and no INPUT is one: .npy is taken as int8 or normalised
    {p} {x} --std 1,1,1 -> --std is for pictures, and no INPUT is one
    {p} {x} --colours bgr -> --colours is for pictures, and no INPUT is one
    {p} --backend perf --colours bgr -> --colours is for pictures, and no INPUT is one
    {p} {bad} -> must be an array in .npy format
    {p} {zip} -> must be an array in .npy format
    {p} {huge} -> must be an array in .npy format
    {p} {x} --json {t} -> --json is for rtl and perf
    --backend perf {p} {x} -> perf takes no INPUT and no --output
    {x} {x} -> magic: the file must begin with
    """
)
def test_refusals(path: str, tmp_path: Path, refused, arguments: list[str], message: str) -> None:
    (tmp_path / "bad.npy").write_bytes(b"")
    (tmp_path / "text").write_text("no picture")
    (tmp_path / "container").write_bytes(b"\x89MVQ\r\n\x1a\n")
    np.savez(tmp_path / "archive.npz", np.zeros(SHAPE, np.int8))
    np.savez(tmp_path / "zip.npz", np.zeros(SHAPE, np.int8))
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    with open(tmp_path / "huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|i1", "fortran_order": False, "shape": (1 << 45,)})
    names = {
        "p": path,
        "archive": str(tmp_path / "archive.npz"),
        **{name: str(tmp_path / name) for name in ("t", "text", "container")},
        **{name: str(tmp_path / f"{name}.npy") for name in ("bad", "zip", "huge")},
        "x": saved(tmp_path / "x.npy", np.zeros(SHAPE, np.int8)),
        "wrong": saved(tmp_path / "w.npy", np.zeros((4, 4), np.int8)),
        "double": saved(tmp_path / "d.npy", np.zeros(SHAPE, np.int64)),
        "nan": saved(tmp_path / "n.npy", np.full(SHAPE, np.nan, np.float32)),
    }
    error = refused(main, [argument.format(**names) for argument in arguments])
    assert error.startswith("python -m sw.run: ")
    assert message in error
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", ["allow_pickle", "file", "a/b", "self", "arr_0"])
def test_outputs_of_any_name(program: Program, tmp_path: Path, name: str) -> None:
    renamed = replace(program, outputs=(replace(program.outputs[0], name=name),))
    write_program(tmp_path / "p", renamed)
    values = np.random.default_rng(1).integers(-128, 128, SHAPE).astype(np.int8)
    arguments = ["--quiet", str(tmp_path / "p"), saved(tmp_path / "x.npy", values)]
    for target in ("y.npz", "z.npz"):
        assert main([*arguments, "--output", str(tmp_path / target)]) == 0
    with np.load(tmp_path / "y.npz") as arrays:
        assert np.array_equal(arrays[name], run_program(program, [values])["output0"][None])
    assert (tmp_path / "y.npz").read_bytes() == (tmp_path / "z.npz").read_bytes()


def test_a_damaged_picture_is_said_once(program: Program, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pillow logs some of what it then raises, and so it would be printed twice."""
    path = tmp_path / "x.tiff"
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HHI", 277, 3, 1))  # samples of a pixel
    data[at + 8 : at + 10] = struct.pack("<H", 300)
    path.write_bytes(data)
    with pytest.raises(run.RunError, match=r"must be \.npy or a picture|cannot be read as a picture"):
        read_images(str(path), program.inputs[0], (0, 0, 0), (1, 1, 1))
    assert caplog.records == []


def test_pictures_that_are_damaged_or_too_large(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    whole, rng = path.read_bytes(), random.Random(1)
    errors = 0
    for _ in range(200):
        start = rng.randrange(200)
        path.write_bytes(whole[:start] + rng.randbytes(rng.randrange(4)) + whole[start + rng.randrange(4) :])
        with suppress(run.RunError):
            read_images(str(path), program.inputs[0], (0, 0, 0), (1, 1, 1))
            continue
        errors += 1
    assert errors > 50
    Image.new("1", (8000, 8000)).save(path)
    with pytest.raises(run.RunError, match="a picture must have at most 33554432 pixels, not 8000 x 8000"):
        read_images(str(path), program.inputs[0], (0, 0, 0), (1, 1, 1))


def test_means_are_numbers(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--mean", "0,x", "program"])
    assert "argument --mean: must be numbers with commas between them, not '0,x'" in capsys.readouterr().err


def test_floats_need_a_scale(program: Program, tmp_path: Path) -> None:
    entry = Input(replace(program.inputs[0].tensor, scale=None))
    with pytest.raises(run.RunError, match="values must be int8, since the program does not say the input's scale"):
        read_images(saved(tmp_path / "x.npy", np.zeros(SHAPE, np.float32)), entry)


def test_perf_prints_and_writes_the_table(path: str, tmp_path: Path, capsys) -> None:
    assert main(["--backend", "perf", path, "--json", str(tmp_path / "t.json")]) == 0
    table = json.loads((tmp_path / "t.json").read_text())
    (layer,) = table["layers"]
    assert layer["layer"] == "head"
    counters = layer["counters"]
    assert counters["operations"] == 2 * 20
    assert sum(layer["lost"].values()) + counters["operations"] == counters["cycles"] > 40
    assert layer["bytes"]["l1_writes"] == 4 * counters["l1_writes"]
    assert table["total"]["counters"] == counters
    assert str(counters["cycles"]) in capsys.readouterr().out


def test_nothing_of_the_simulation_is_imported() -> None:
    code = "import sys, sw.run; assert not [name for name in sys.modules if name.split('.')[0] == 'sim']"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("fault", [None, "byte", "status"])
def test_rtl_by_a_simulation_that_is_golden(
    program: Program, path: str, tmp_path: Path, capsys, monkeypatch, fault: str | None
) -> None:
    """In the place of the simulation, with its arguments: the golden model, which may be made to err."""
    record = program.base + program.dram_bytes
    layers = (replace(program.layers[0], record=record),)
    write_program(path, replace(program, dram_bytes=program.dram_bytes + 64, layers=layers))

    def simulation(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        assert command[1:3] == ["-m", "sim.accelerator"]
        given = read_program(command[3])
        for before, after in zip(command[4::2], command[5::2], strict=True):
            memory = execute(given, np.fromfile(before, np.uint8)).memory
            memory[-64:].view("<u4")[:3] = [1000, 40, 7]
            if fault == "byte":
                memory[given.outputs[0].address - given.base + 2] ^= 1
            memory.tofile(after)
        return subprocess.CompletedProcess(command, 3 if fault == "status" else 0)

    monkeypatch.setattr(run.subprocess, "run", simulation)
    images = np.random.default_rng(1).integers(-128, 128, (2, *SHAPE)).astype(np.int8)
    status = main(["--backend", "rtl", "--check", "--quiet", path, saved(tmp_path / "x.npy", images)])
    shown, errors = capsys.readouterr()
    if fault == "status":
        assert status == 2
        assert "the simulation ended with status 3" in errors
        return
    assert status == (1 if fault else 0)
    if fault:
        assert "image 0: 1 of 64 bytes of 'output0' differ from golden; first byte 2: " in shown
    else:
        assert "128 bytes of 1 tensors, 2 images: equal to golden" in shown
    assert "1000" in shown


# Networks in steps


@pytest.fixture(scope="module")
def network() -> tuple[Network, np.ndarray]:
    return small_transformer(preset("ews-msvq-tiny"))


@pytest.fixture
def steps(network, tmp_path: Path) -> str:
    write_stepped_program(tmp_path / "s", compile_steps(network[0], preset("ews-msvq-tiny")))
    return str(tmp_path / "s")


def test_steps_give_the_logits_of_the_integer_network(network, steps: str, tmp_path: Path, capsys) -> None:
    given, images = network
    arguments = ["--check", "--quiet", steps, saved(tmp_path / "x.npy", np.stack(images[:3]))]
    assert main([*arguments, "--output", str(tmp_path / "y.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), np.stack(given.run(images[:3])))
    shown = capsys.readouterr().out
    assert "head: int32 [3 x 10 x 1], CRC-32" in shown
    assert "image 2: class" in shown


def test_steps_take_floats(network, steps: str, tmp_path: Path) -> None:
    given, images = network
    floats = images[0].astype(np.float32) * np.float32(given.input_scale)
    arguments = ["--quiet", steps, saved(tmp_path / "x.npy", floats), "--output", str(tmp_path / "y.npy")]
    assert main(arguments) == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), np.stack(given.run(images[:1])))


def test_steps_in_the_cycle_model(steps: str, tmp_path: Path, capsys) -> None:
    assert main(["--backend", "perf", steps, "--json", str(tmp_path / "t.json")]) == 0
    table = json.loads((tmp_path / "t.json").read_text())
    names = [layer["layer"] for layer in table["layers"]]
    assert names[:4] == ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.scores.0", "blocks.0.scores.1"]
    assert table["total"]["counters"]["cycles"] == sum(layer["counters"]["cycles"] for layer in table["layers"])
    products = [layer for layer in table["layers"] if layer["operation"] == "matmul"]
    assert all(0 < layer["utilisation"] < 1 for layer in products)
    moved = [entry for entry in table["host"] if entry["operation"] == "matmul"]
    assert all(entry["written"] and entry["read"] for entry in moved)
    shown = capsys.readouterr().out
    assert "matmul blocks.0.shares" in shown
    assert "host writes bytes" in shown


@pytest.mark.parametrize("fault", [False, True])
def test_steps_on_a_simulation_that_is_golden(network, steps: str, tmp_path: Path, capsys, monkeypatch, fault) -> None:
    given, images = network
    runs = []

    def simulation(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        program = read_program(command[3])
        runs.append(program)
        for before, after in zip(command[4::2], command[5::2], strict=True):
            # Operands and checksums are in the DRAM, and not in the program's file.
            memory = np.fromfile(before, np.uint8)
            bound = replace(program, image=memory[: len(program.image)].tobytes())
            memory = execute(bound, memory).memory
            if fault and program.operands:
                memory[program.outputs[0].address - program.base] ^= 1
            memory.tofile(after)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(run.subprocess, "run", simulation)
    arguments = ["--backend", "rtl", "--check", "--quiet", steps, saved(tmp_path / "x.npy", np.stack(images[:2]))]
    status = main([*arguments, "--output", str(tmp_path / "y.npy")])
    shown = capsys.readouterr().out
    assert len(runs) == 8
    if fault:
        assert status == 1
        assert "image 0: 1 of 40 bytes of 'blocks.0.scores.0' differ from golden; first byte 0: " in shown
    else:
        assert status == 0
        assert np.array_equal(np.load(tmp_path / "y.npy"), np.stack(given.run(images[:2])))
        assert "bytes of 10 tensors, 2 images: equal to golden" in shown


def test_an_unknown_host_operation_is_refused_before_anything_is_written(steps: str, tmp_path: Path, capsys) -> None:
    data = Path(steps).read_bytes().replace(b'"op":"gelu"', b'"op":"silu"')
    length = struct.unpack_from("<I", data, 12)[0] + 16
    Path(steps).write_bytes(data[:length] + struct.pack("<I", zlib.crc32(data[:length])) + data[length + 4 :])
    image = saved(tmp_path / "x.npy", np.zeros((3, 8, 8), np.int8))
    assert main([steps, image, "--output", str(tmp_path / "y.npy")]) == 2
    assert "operation 16: op must be one of input, layer, " in capsys.readouterr().err
    assert not (tmp_path / "y.npy").exists()


def test_steps_are_listed(steps: str, capsys) -> None:
    assert listing.main([steps, "--layer", "blocks.0.scores.1"]) == 0
    shown = capsys.readouterr().out
    assert "step 9: softmax of 8 on the host\n" in shown
    assert "of it operand 'blocks.0.scores.0', written by the host: 5 x 8" in shown
    assert "blocks.0.mlp.fc1'" not in shown
    assert listing.main([steps, "--layer", "none"]) == 2
    assert "steps: there must be a layer 'none'; the layers are blocks.0.attn.proj, " in capsys.readouterr().err
