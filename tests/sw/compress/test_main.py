from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from sw.compress.__main__ import main
from sw.format.container import read_container
from tests.refusals import Refused, refusals


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    shapes = {"conv.weight": (32, 16, 3, 3), "dw.weight": (32, 1, 3, 3), "fc.weight": (10, 32)}
    path = tmp_path / "net.npz"
    np.savez(path, **{name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})
    return str(path)


def test_writes_container_and_report(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", checkpoint, "--method", "msvq", "--nm", "2:4", "--k", "16", "--d", "8", "--quiet"]
    for name in ("a", "b"):
        assert main([*arguments, "-o", str(tmp_path / f"{name}.mvq"), "--json", str(tmp_path / f"{name}.json")]) == 0
    assert (tmp_path / "a.mvq").read_bytes() == (tmp_path / "b.mvq").read_bytes()
    report = json.loads((tmp_path / "a.json").read_text())
    assert [(row["layer"], row["method"], row["reason"]) for row in report["layers"]] == [
        ("conv", "msvq", None),
        ("dw", "int8", "depthwise"),
        ("fc", "int8", "channels: 10 is not a multiple of d = 8"),
    ]
    assert report["recipe"]["seed"] == 0
    assert report["file"]["bytes"] == (tmp_path / "a.mvq").stat().st_size
    layers = read_container(tmp_path / "a.mvq").layers
    assert [layer.method for layer in layers] == ["msvq", "int8", "int8"]
    assert "depthwise" in capsys.readouterr().out


def test_one_codebook_for_all_layers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {f"{name}.weight": rng.standard_normal((32, 16, 3, 3)).astype(np.float32) for name in "ab"}
    np.savez(tmp_path / "net.npz", **weights)
    sizes = []
    for scope in ("layerwise", "crosslayer"):
        arguments = ["--checkpoint", str(tmp_path / "net.npz"), "--k", "32", "--scope", scope, "--quiet"]
        assert main([*arguments, "-o", str(tmp_path / scope), "--json", str(tmp_path / "report.json")]) == 0
        sizes.append((tmp_path / scope).stat().st_size)
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["recipe"]["scope"] == scope
    # A codebook and its checksum less, and a name in the header.
    assert 450 < sizes[0] - sizes[1] < 516
    # 288 assignments of 5 bits and masks of 11 bits in each layer, and one codebook of 32 x 16.
    assert report["totals"][-1]["bits_per_weight"] == (2 * 576 * 16 // 2 + 32 * 16 * 8) / (2 * 32 * 16 * 9)


@pytest.mark.parametrize(("method", "bits"), [("lsq2", 2), ("lsq4", 4)])
def test_uniform_weights(checkpoint: str, method: str, bits: int, tmp_path: Path) -> None:
    assert main(["--checkpoint", checkpoint, "--method", method, "-o", str(tmp_path / "o.mvq"), "--quiet"]) == 0
    assert {layer.weight_bits for layer in read_container(tmp_path / "o.mvq").layers} == {bits}


@pytest.mark.parametrize("method", ["vq", "mvq", "ssvq", "msvq", "dkm"])
def test_narrow_codewords(checkpoint: str, method: str, tmp_path: Path) -> None:
    sizes = {}
    for bits in (None, 8, 5, 3):
        output, report = tmp_path / f"{bits}.mvq", tmp_path / f"{bits}.json"
        arguments = ["--method", method, "--k", "4", "--d", "8", "--nm", "2:4", "--quiet"]
        arguments += [] if bits is None else ["--codeword-bits", str(bits)]
        assert main(["--checkpoint", checkpoint, *arguments, "-o", str(output), "--json", str(report)]) == 0
        coded = [layer for layer in read_container(output).layers if layer.codebook is not None]
        assert {layer.codeword_bits for layer in coded} == {bits or 8}
        assert json.loads(report.read_text())["recipe"]["codeword_bits"] == (bits or 8)
        sizes[bits] = output.stat().st_size
    assert (tmp_path / "None.mvq").read_bytes() == (tmp_path / "8.mvq").read_bytes()
    assert sizes[8] != sizes[5]


def test_layers_without_codewords_of_fewer_bits(checkpoint: str, tmp_path: Path) -> None:
    arguments = ["--checkpoint", checkpoint, "--method", "int8", "--quiet"]
    assert main([*arguments, "--uniform-bits", "7", "-o", str(tmp_path / "o.mvq")]) == 0
    for layer in read_container(tmp_path / "o.mvq").layers:
        assert layer.weights is not None
        assert (layer.weight_bits, np.abs(layer.weights).max()) == (7, 63)


def test_rules_of_a_file(checkpoint: str, tmp_path: Path) -> None:
    rules = {"rules": [{"layer": "conv", "recipe": {"method": "ssvq", "k": 4, "d": 8, "n": 0, "m": 0}}]}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    outputs = ["-o", str(tmp_path / "o.mvq"), "--json", str(tmp_path / "o.json")]
    assert main(["--checkpoint", checkpoint, "--rules", str(tmp_path / "rules.json"), "--quiet", *outputs]) == 0
    assert [layer.method for layer in read_container(tmp_path / "o.mvq").layers] == ["ssvq", "int8", "int8"]
    assert json.loads((tmp_path / "o.json").read_text())["recipe"] is None


@pytest.mark.parametrize("command", ["compress", "check"])
def test_rules_for_no_layer_are_refused(command: str, checkpoint: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "rules.json").write_text(json.dumps({"rules": [{"pattern": "cnov*", "recipe": {"method": "int8"}}]}))
    check = ["check", "torch.nn:Flatten", "--shape", "1", "2", "3"]
    given = ["--checkpoint", checkpoint] if command == "compress" else check
    message = refused(main, [*given, "--rules", str(tmp_path / "rules.json")])
    assert "rule 'cnov*' must match a layer; layers are" in message


def test_ablation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = np.random.default_rng(0).standard_normal((128, 256, 1, 1)).astype(np.float32)
    np.savez(tmp_path / "net.npz", **{"conv.weight": weight})
    arguments = [
        "--checkpoint",
        str(tmp_path / "net.npz"),
        "--ablation",
        "--iterations",
        "2",
        "--init",
        "random",
        "--quiet",
    ]
    assert main([*arguments, "--json", str(tmp_path / "ablation.json")]) == 0
    report = json.loads((tmp_path / "ablation.json").read_text())
    kept = {row["name"]: row["kept_sse"] for row in report["cases"]}
    assert report["kept_sse_ratios"] == {f"{name}/D": pytest.approx(kept[name] / kept["D"]) for name in "ABC"}
    output = capsys.readouterr().out
    assert f"C/D = {report['kept_sse_ratios']['C/D']:.2f}" in output


@refusals(
    """
    --rules nowhere -> cannot read rules 'nowhere'
    --k 16 --device cuda:99 -> cuda:99
    --nm 4 -> --nm must be N:M, such as 4:16, not '4'
    --nm a:b -> --nm must be N:M, such as 4:16, not 'a:b'
    --nm 17:16 -> n must be in 1..m = 1..16, not 17
    --nm 1:3 -> m must be at least 1 and divide d = 16, not 3
    --k 0 -> k must be an integer in 1..65536, not 0
    --codeword-bits 1 -> codeword_bits must be an integer in 2..8, not 1
    --codeword-bits 9 -> codeword_bits must be an integer in 2..8, not 9
    --method lsq4 --codeword-bits 4 -> codeword_bits must be 8 for method lsq4, which has no codewords
    --uniform-bits 4 -> uniform_bits must be an integer in 5..8, not 4
    --rules x --uniform-bits 7 -> --uniform-bits must not be given with --rules, which has recipes
    --ablation --uniform-bits 7 -> --uniform-bits must not be given with --ablation, which has recipes
    --rules x --codeword-bits 4 -> --codeword-bits must not be given with --rules, which has recipes
    --ablation --codeword-bits 8 -> --codeword-bits must not be given with --ablation, which has recipes
    --seed -1 -> seed must be an integer in 0..
    --threads 0 -> --threads must be at least 1, not 0
    --ablation -o x -> --ablation writes no container
    --ablation -o '' -> -o must name a file, not ''
    -o '' -> -o must name a file, not ''
    --json '' -> --json must name a file, not ''
    -o a --json ./a -> -o and --json must name different files, not 'a', './a'
    --ablation -> the ablation needs a convolution of at least 32768 weights
    """
)
def test_bad_options_are_one_line_and_status_2(
    checkpoint: str, arguments: list[str], message: str, refused: Refused
) -> None:
    assert message in refused(main, ["--checkpoint", checkpoint, "--quiet", *arguments])


def test_missing_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--checkpoint", "nowhere.npz"]) == 2
    assert "cannot read checkpoint 'nowhere.npz'" in capsys.readouterr().err


def test_ablation_of_zeros(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "net.npz", **{"conv.weight": np.zeros((128, 256, 1, 1), np.float32)})
    path = tmp_path / "ablation.json"
    arguments = ["--checkpoint", str(tmp_path / "net.npz"), "--ablation", "--init", "random", "--quiet"]
    assert main([*arguments, "--iterations", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert report["kept_sse_ratios"] == {"A/D": None, "B/D": None, "C/D": None}
    assert set(report["relative_error_ratios"].values()) == {None}
    assert "A/D = -, " in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["-o", "--json"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "below a file"])
def test_outputs_are_checked_before_the_work_and_none_is_left(
    checkpoint: str,
    tmp_path: Path,
    bad: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    refused: Refused,
) -> None:
    monkeypatch.setattr("sw.compress.network.compress_network", lambda *_, **__: pytest.fail("work was done"))
    target = tmp_path / "bad"
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    else:
        target = Path(checkpoint) / "x"
    good = "--json" if bad == "-o" else "-o"
    before = sorted(os.listdir(tmp_path))
    assert str(target if kind != "below a file" else checkpoint) in refused(
        main, ["--checkpoint", checkpoint, bad, str(target), good, str(tmp_path / "good"), "--quiet"]
    )
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("option", ["-o", "--json"])
def test_a_folder_that_does_not_exist_is_not_made(
    checkpoint: str, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "mistyped" / "file"
    assert main(["--checkpoint", checkpoint, option, str(target), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert (
        error
        == f"python -m sw.compress: cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist\n"
    )
    assert not target.parent.exists()


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [(KeyboardInterrupt(), 130, "python -m sw.compress: interrupted\n"), (OSError("disk full"), 2, "disk full")],
)
def test_interruption_and_late_failure_leave_the_old_files(
    checkpoint: str,
    tmp_path: Path,
    raised: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    # The last step: the container is complete by then.
    monkeypatch.setattr("sw.compress.__main__.json.dumps", fail)
    (tmp_path / "o.mvq").write_bytes(b"precious")
    outputs = ["-o", str(tmp_path / "o.mvq"), "--json", str(tmp_path / "o.json")]
    assert main(["--checkpoint", checkpoint, "--method", "int8", "--quiet", *outputs]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "times smaller" not in captured.out
    assert (tmp_path / "o.mvq").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["net.npz", "o.mvq"]
