from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hw.config import preset
from sw.compiler.__main__ import main
from sw.executor import execute, run_program
from sw.format.container import write_container
from sw.network import write_network
from sw.program import read_program
from sw.program.steps import read_stepped_program
from tests.refusals import Refused, refusals
from tests.sw.networks import every_operation
from tests.sw.steps import small_transformer

SHAPE = (3, 9, 8)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "network.mvq"
    write_network(path, every_operation(np.random.default_rng(0), preset("ews-cms-tiny")))
    return path


def test_container_to_program(container: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "network.program"
    changes = ["--preset", "ews-cms-tiny", "--set", "psum_width=26", "--set", "H=8"]
    assert main([str(container), *changes, "--image", "3,9,8", "-o", str(output), "--dump", "--base", "4096"]) == 0
    program = read_program(output)
    assert (program.config.H, program.config.psum_width, program.base) == (8, 26, 4096)
    assert all(layer.tensor and layer.record is not None for layer in program.layers)
    text = capsys.readouterr().out
    assert f"{program.descriptor_count} descriptors, image of {len(program.image)} bytes" in text
    picture = np.random.default_rng(1).integers(-128, 128, SHAPE).astype(np.int8)
    network = every_operation(np.random.default_rng(0), preset("ews-cms-tiny"))
    expected = network.run(picture[None])[0]
    assert np.array_equal(run_program(program, [picture])["logits"].reshape(-1), expected)

    assert main(["list", str(output)]) == 0
    assert "depthwise" in capsys.readouterr().out


def test_layers_of_more_digits_than_need_be_are_named(
    container: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of -20..20: three digits of -3..3, where -15..15 have two."""
    given = ["--preset", "ews-cms-tiny", "--image", "3,9,8", "-o", str(tmp_path / "network.program")]
    for setting in ("psum_width=26", "variant=ews-ssvq", "weight_bits=3"):
        given += ["--set", setting]
    assert main([str(container), *given]) == 0
    advice, _ = capsys.readouterr().out.splitlines()
    assert advice.startswith("stem, depthwise, odd and 3 more: weights without codewords take 3 digits on 3-bit arrays")
    assert advice.endswith("compressed with --uniform-bits 5 they take 2")


@refusals(
    """
    --image 3,9 -> --image must be three integers C,R,S, such as 3,224,224, not '3,9'
    --preset ews-17 -> unknown preset 'ews-17'
    --set H=0 -> H must be in 1..256, not 0
    --image 4,9,8 -> layer 'stem' must read int8 [3 x rows x columns], not int8 [4 x 9 x 8]
    --base 7 -> base must be a multiple of 64 in 0..2**32 - 64, not 7
    --base -64 -> base must be a multiple of 64 in 0..2**32 - 64, not -64
    --base 4294967296 -> base must be a multiple of 64 in 0..2**32 - 64, not 4294967296
    --set word_width=24 -> word_width must be a power of two, as AXI has it, not 24
    """
)
def test_bad_input_is_one_line_and_no_file(
    container: Path, tmp_path: Path, refused: Refused, arguments: list[str], message: str
) -> None:
    output = tmp_path / "network.program"
    given = ["--preset", "ews-cms-tiny", "--set", "psum_width=26", "--image", "3,9,8", "-o", str(output)]
    assert message in refused(main, [str(container), *given, *arguments])
    assert not output.exists()


def test_container_of_layers_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = every_operation(np.random.default_rng(0), preset("ews-cms-tiny"))
    path = tmp_path / "layers.mvq"
    write_container(path, list(network.layers.values()))
    assert main([str(path), "--image", "3,9,8", "-o", str(tmp_path / "network.program")]) == 2
    assert "must hold a network's operations, not layers alone" in capsys.readouterr().err


def test_network_in_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = preset("ews-msvq-tiny")
    network, images = small_transformer(config)
    source, output = tmp_path / "network.msvq", tmp_path / "network.steps"
    write_network(source, network)
    given = [str(source), "--preset", "ews-msvq-tiny", "-o", str(output)]
    assert main([*given, "--base", "4096"]) == 0
    steps = read_stepped_program(output)
    assert min(program.base for program in steps.programs.values()) == 4096
    assert "22 steps, 8 of them programs, images of " in capsys.readouterr().out
    found = steps.run(images[:1], lambda _, jobs: [execute(program, memory).memory for program, memory in jobs])
    assert np.array_equal(found[0], network.run(images[:1])[0])
    output.unlink()
    for changes in (["--dump"], ["--image", "3,8,8"]):
        assert main([*given, *changes]) == 2
        assert f"{changes[0]} is not for a network in steps" in capsys.readouterr().err
    assert main([*given, "--set", "psum_width=16"]) == 2
    assert "beyond -32768..32767 of 16 bits" in capsys.readouterr().err
    assert not output.exists()
