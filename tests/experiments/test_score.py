"""How far a container is behind its float network, on labelled images."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import msvq
from experiments import distillation, score
from experiments.pictures import Network
from experiments.scoring import apart, compared, fitted_scale, summary
from sw.compress.methods import Recipe, compress_layers
from sw.compress.network import module_sources
from sw.compress.training.graph import calibrate, quantise_activations
from sw.compress.training.integer import export_integers, read_network, write_network
from sw.compress.training.modules import load_layers
from sw.format import read_container
from sw.network import file
from tests.experiments.test_fewshot import NETWORK
from tests.refusals import Refused


def test_a_difference_is_as_sure_as_the_images_that_only_one_has_right() -> None:
    right = torch.tensor([True, True, False, False, False, True, False, False])
    wanted = torch.tensor([True, True, True, True, True, False, False, False])
    found = compared(right, wanted)
    # Three images of eight are lost and one is won: each counts 1 or -1, the others 0.
    values = np.array([0, 0, 1, 1, 1, -1, 0, 0])
    assert (found["float_alone"], found["container_alone"]) == (3, 1)
    assert found["lost"] == pytest.approx(100 * values.mean()) == found["float"] - found["accuracy"]
    assert found["error"] == pytest.approx(100 * values.std() / np.sqrt(8))
    assert compared(right, right)["error"] == 0


def test_networks_are_apart_by_the_divergence_of_their_classes() -> None:
    wanted, found = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0], [3.0, 0.0, 0.0]])
    values = apart(found, wanted)
    p, q = (np.exp(each[0].numpy()) / np.exp(each[0].numpy()).sum() for each in (wanted, found))
    assert values.tolist() == [[pytest.approx((p * np.log(p / q)).sum(), abs=1e-6), 0], [0, 100]]
    # Logits of other scales and offsets are the same classes, but for how sure they are.
    assert apart(found + 5, wanted).numpy() == pytest.approx(values.numpy(), abs=1e-6)
    got = summary(torch.tensor([[0.5, 0], [0.1, 100], [0.3, 100]], dtype=torch.float64))
    error = np.std([0.5, 0.1, 0.3]) / np.sqrt(3)
    assert (got["divergence"], got["divergence_error"]) == (pytest.approx(0.3), pytest.approx(error))
    assert (got["agreement"], got["agreement_error"]) == (pytest.approx(200 / 3), pytest.approx(27.2166, abs=1e-3))


def test_integers_have_the_scale_at_which_they_are_least_apart() -> None:
    wanted = 5 * torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    assert fitted_scale((wanted / 0.013).round(), wanted) == pytest.approx(0.013, rel=0.01)
    noisy = wanted / 0.013 + 300 * torch.randn(50, 10, generator=torch.Generator().manual_seed(1))
    scale = fitted_scale(noisy, wanted)
    own, less, more = (float(apart(noisy * each, wanted)[:, 0].mean()) for each in (scale, 0.97 * scale, 1.03 * scale))
    assert own < min(less, more)
    assert scale < 0.013


def files(path: Path, classes: int) -> Path:
    for number in range(6):
        own = path / "test" / f"class{number % classes}"
        own.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (256, 256, 3), np.uint8)
        Image.fromarray(pixels).save(own / f"{number}.png")
    return path


def written(path: Path, monkeypatch: pytest.MonkeyPatch, codewords: int = 8) -> Path:
    """A container of a small network that stands for MobileNet-v2."""
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8)]
    teacher = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU6(), *head).eval()
    network = Network(lambda weights: copy.deepcopy(teacher), NETWORK.mean, NETWORK.deviation)
    monkeypatch.setitem(distillation.NETWORKS, "mobilenetv2", network)
    model = copy.deepcopy(teacher)
    load_layers(model, compress_layers(module_sources(model), [Recipe("int8"), Recipe("vq", 4, codewords, 0, 0)]))
    with torch.no_grad():
        graph = quantise_activations(model, torch.zeros(2, 3, 224, 224)).eval()
        calibrate(graph, torch.randn(8, 3, 224, 224))
    write_network(path, export_integers(graph, (3, 224, 224)))
    return path


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    data, report = files(tmp_path / "data", 3), tmp_path / "report.json"
    container = written(tmp_path / "net.msvq", monkeypatch)
    names = tmp_path / "classes.txt"
    names.write_text("".join(f"class{number}\n" for number in range(5)))
    command = ["mobilenetv2", str(container), "--data", str(data), "--classes", str(names), "--device", "cpu"]
    read: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(file, "read_container", lambda path: read.append(path) or read_container(path))
        assert score.main([*command, "--json", str(report), "--name", "six"]) == 0
    # Network and metadata at once: some containers take seconds.
    assert read == [container]
    found = json.loads(report.read_text())
    own = found["containers"]["net.msvq"]
    assert (found["images"], found["data"]) == (6, "six")
    assert own["accuracy"] == pytest.approx(own["float"] - own["lost"])
    assert f"net.msvq: {own['accuracy']:.2f} %, float {own['float']:.2f} %" in capsys.readouterr().out
    other = tmp_path / "lite.msvq"
    metadata = {"preprocessing": distillation.NETWORKS["efficientnet-lite0"].preprocessing.to_dict()}
    write_network(other, read_network(container), metadata=metadata)
    message = "must take its images as mobilenetv2 does, not by {'mean': [0.498"
    assert message in refused(score.main, [command[0], str(other), *command[2:]])
    small = tmp_path / "small.msvq"
    model = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    msvq.calibrate(model, torch.randn(2, 3, 32, 32), Recipe("int8"), progress=False).write(small)
    message = f"{str(small)!r} must take images of 3 x 224 x 224 as mobilenetv2 does, not of 3 x 32 x 32"
    assert message in refused(score.main, [command[0], str(small), *command[2:]])
    wide = tmp_path / "wide.msvq"
    model = nn.Sequential(nn.Conv2d(3, 9, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    msvq.calibrate(model, torch.randn(2, 3, 224, 224), Recipe("int8"), progress=False).write(wide)
    message = "results of 'wide.msvq' must be [[8]] as mobilenetv2's are, not [[9]]"
    for images in (command[2:], ["--pictures", str(data), "--device", "cpu"]):
        assert message in refused(score.main, [*command[:2], str(wide), *images])
    names.write_text("class0\nclass1\n")
    assert "class2" in refused(score.main, command)
    assert "none.msvq" in refused(score.main, [command[0], str(tmp_path / "none.msvq"), *command[2:]])
    twice = tmp_path / "other" / "net.msvq"
    message = "containers must have names of their own, not 'net.msvq' twice"
    assert message in refused(score.main, [*command[:2], str(twice), *command[2:]])


def test_files_are_chosen_by_pictures_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    one = written(tmp_path / "one.msvq", monkeypatch, codewords=2)
    other = written(tmp_path / "other.msvq", monkeypatch)
    some, more, tuned = files(tmp_path / "some", 3), files(tmp_path / "more", 2), tmp_path / "tuned"
    tuned.mkdir()
    # Two of the pictures have been tuned with, one of them as another file.
    (tuned / "0.png").write_bytes((some / "test" / "class0" / "0.png").read_bytes())
    with Image.open(some / "test" / "class1" / "4.png") as picture:
        picture.resize((300, 300)).save(tuned / "4.jpg", quality=80)
    report = tmp_path / "report.json"
    command = ["mobilenetv2", str(one), str(other), "--pictures", str(some), "--device", "cpu", "--json", str(report)]
    assert score.main([*command, "--unlike", str(tuned)]) == 0
    found = json.loads(report.read_text())
    assert [(row["pictures"], row["images"], row["copies_left_out"]) for row in found["sets"]] == [("some", 4, 2)]
    first, second = found["containers"]["one.msvq"], found["containers"]["other.msvq"]
    # Two codewords for sixteen vectors say less than eight.
    assert first["divergence"] > 2 * second["divergence"] > 0
    assert found["least_divergence"] == "other.msvq"
    assert second["from_first"]["divergence"] == pytest.approx(second["divergence"] - first["divergence"])
    # The pictures are alike to so small a network, and what it loses of them is nearly the same.
    assert 0 < second["from_first"]["divergence_error"] < first["divergence_error"]
    assert f"one.msvq: divergence {first['divergence']:.4f} ± " in capsys.readouterr().out
    assert score.main([*command[:4], str(some), str(more), *command[5:]]) == 0
    found = json.loads(report.read_text())
    assert [row["images"] for row in found["sets"]] == [6, 6]
    assert found["images"] == 12
    assert found["containers"]["one.msvq"]["divergence"] == pytest.approx(
        sum(row["containers"]["one.msvq"]["divergence"] for row in found["sets"]) / 2
    )
    assert [row["containers"]["one.msvq"]["from_first"]["divergence"] for row in found["sets"]] == [0, 0]
    capsys.readouterr()
    message = f"pictures must not be copies of --unlike, as all of '{some}' are"
    assert message in refused(score.main, [*command, "--unlike", str(more)])
    assert "unlike must be a directory of pictures" in refused(score.main, [*command, "--unlike", str(tmp_path / "no")])
    message = "--unlike must be given with --pictures"
    assert message in refused(score.main, [*command[:3], "--data", str(some), "--unlike", str(tuned)])
    message = "--classes must be given with --data"
    assert message in refused(score.main, [*command, "--classes", str(tmp_path / "classes.txt")])
    assert "not allowed with argument --pictures" in refused(score.main, [*command, "--data", str(some)])
