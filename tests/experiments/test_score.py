"""How far a container is behind its float network, on labelled images."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from experiments import distillation, score
from experiments.pictures import Network
from experiments.scoring import compared
from sw.compress.methods import Recipe, compress_layers
from sw.compress.network import module_sources
from sw.compress.training.graph import calibrate, quantise_activations
from sw.compress.training.integer import export_integers, read_network, write_network
from sw.compress.training.modules import load_layers
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


def files(path: Path, classes: int) -> Path:
    from PIL import Image

    for number in range(6):
        own = path / "test" / f"class{number % classes}"
        own.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (256, 256, 3), np.uint8)
        Image.fromarray(pixels).save(own / f"{number}.png")
    return path


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8)]
    teacher = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU6(), *head).eval()
    network = Network(lambda weights: copy.deepcopy(teacher), NETWORK.mean, NETWORK.deviation)
    monkeypatch.setitem(distillation.NETWORKS, "mobilenetv2", network)
    data, container, report = files(tmp_path / "data", 3), tmp_path / "net.msvq", tmp_path / "report.json"
    model = copy.deepcopy(teacher)
    load_layers(model, compress_layers(module_sources(model), [Recipe("int8"), Recipe("vq", 4, 8, 0, 0)]))
    with torch.no_grad():
        graph = quantise_activations(model, torch.zeros(2, 3, 224, 224)).eval()
        calibrate(graph, torch.randn(8, 3, 224, 224))
    write_network(container, export_integers(graph, (3, 224, 224)))
    names = tmp_path / "classes.txt"
    names.write_text("".join(f"class{number}\n" for number in range(5)))
    command = ["mobilenetv2", str(container), "--data", str(data), "--classes", str(names), "--device", "cpu"]
    assert score.main([*command, "--json", str(report), "--name", "six"]) == 0
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
    names.write_text("class0\nclass1\n")
    assert "class2" in refused(score.main, command)
    assert "none.msvq" in refused(score.main, [command[0], str(tmp_path / "none.msvq"), *command[2:]])
    twice = tmp_path / "other" / "net.msvq"
    message = "containers must have names of their own, not 'net.msvq' twice"
    assert message in refused(score.main, [*command[:2], str(twice), *command[2:]])
