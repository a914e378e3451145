"""What the command ``check`` says, and that ``finetune`` and ``search`` say it before any work."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import msvq
from sw.compress.__main__ import main
from sw.compress.frontend import FrontEndError
from sw.compress.methods import Recipe
from sw.compress.training.checking import check_network_form
from sw.compress.training.graph import integer_graph
from sw.format.container import read_container
from tests.refusals import Refused
from tests.sw.compress.frontend.networks import Net


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importable as ``users``."""
    users = types.ModuleType("users")
    users.plain = lambda: Net(lambda net, x: net.b(functional.relu(x)))  # type: ignore[attr-defined]
    users.odd = lambda: Net(lambda net, x: torch.cumsum(net.b(functional.softmax(x, 1)), 1))  # type: ignore[attr-defined]
    users.norm_of_features = lambda: nn.Sequential(  # type: ignore[attr-defined]
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 4)
    )
    users.bare = lambda: nn.Sequential(nn.ReLU())  # type: ignore[attr-defined]
    users.linear = lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users", users)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "toy.npz"
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (48, 8, 8, 3)).astype(np.uint8), np.arange(48) % 4
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:16], test_labels=labels[:16])
    return str(path)


@pytest.mark.parametrize("more", [[], ["--keep", "head"]])
def test_a_network_without_layers_is_said_to_be_one(more: list[str], data: str, refused: Refused) -> None:
    error = refused(main, ["check", "users:bare", "--data", data, *more])
    assert "the network must have at least one convolution or linear layer, not 0" in error


def test_every_layer_and_operation_is_listed(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--method", "ssvq", "--k", "4", "--d", "8", "--json", str(tmp_path / "o.json")]
    assert main(["check", "users:plain", "--data", data, *more]) == 0
    output = capsys.readouterr().out
    assert "users:plain becomes one program of integers" in output
    text = (tmp_path / "o.json").read_text()
    found = json.loads(text)
    assert text == json.dumps(found, indent=1) + "\n"
    assert found["form"] == "program"
    assert [(row["layer"], row["method"]) for row in found["layers"]] == [("a", "int8"), ("b", "ssvq"), ("fc", "int8")]
    assert [row["operation"] for row in found["operations"]] == [
        *("input", "layer", "relu", "layer", "average", "flatten", "layer")
    ]
    assert all(row["layer"] in output for row in found["layers"])
    assert found["refusals"] == []
    # Why a layer has no codewords is said of those that the default keeps, too.
    reasons = {row["layer"]: row["reason"] for row in found["layers"]}
    assert reasons == {
        "a": "its rule, the first layer's, keeps weights of 8 bits",
        "b": None,
        "fc": "its rule, the last layer's, keeps weights of 8 bits",
    }
    assert reasons["a"] in output


class Five(nn.Module):
    """Things of every stage that have no integer form: of layers, functions, outputs, windows, and effects."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.up, self.fc = nn.ConvTranspose2d(8, 8, 3, stride=3), nn.Linear(200, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.calls.add_(1)
        y = self.up(self.norm(self.a(x))).softmax(1)
        y = functional.adaptive_avg_pool2d(y, 5)
        return self.fc(y.flatten(1)), x, y


FIVE = (
    "'calls' is changed by the network's forward pass",
    "'norm' (GroupNorm)",
    "'up' (ConvTranspose2d)",
    "softmax in the network (Five)",
    "all windows must have one size, not those of (24, 24) to (5, 5)",
    "each output must be computed by the network, not be the image itself",
)


def test_all_that_is_refused_is_named_at_once() -> None:
    images = torch.randn(4, 3, 8, 8)
    rules = [("*", Recipe("ssvq", k=4, d=8, n=0, m=0))]
    found = check_network_form(Five().eval(), rules, images)
    for line in FIVE:
        assert sum(line in str(refusal) for refusal in found.refusals) == 1
    loader = [(images, torch.zeros(4, dtype=torch.long))]
    calls = (
        lambda: msvq.calibrate(Five(), images, rules, progress=False),
        lambda: msvq.finetune(
            Five(), loader, loader, rules, loss=lambda output, target: output[0].mean(), progress=False
        ),
        lambda: integer_graph(Five(), images),
    )
    for call in calls:
        with pytest.raises(FrontEndError) as raised:
            call()
        assert raised.value.refusals == found.refusals
        assert all(line in str(raised.value) for line in FIVE)


class Pooled(nn.Module):
    """What is refused where integers are made of the graph: three poolings on three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = functional.relu(self.a(x))
        first = functional.avg_pool2d(y, 3, 2, 1, count_include_pad=False)
        behind = functional.adaptive_avg_pool2d(first, 3)
        return {"behind": behind, "most": functional.max_pool2d(y, 2, dilation=2), "again": y, "twice": y}


def test_all_that_the_export_refuses_is_named_at_once() -> None:
    rules = [("*", Recipe("ssvq", k=4, d=8, n=0, m=0))]
    found = [str(each) for each in check_network_form(Pooled(), rules, torch.randn(4, 3, 8, 8)).refusals]
    lines = ("count_include_pad must be True", "(4, 4) to (3, 3)", "must have dilation 1", "'again' and 'twice' must")
    assert len(found) == len(lines)
    for line in lines:
        assert sum(line in each for each in found) == 1


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--codeword-bits", "4"], "a, fc: weights without codewords take 3 digits on 4-bit arrays"),
        (["--codeword-bits", "4", "--uniform-bits", "7"], ""),
        ([], ""),
    ],
)
def test_digits_of_layers_without_codewords(more: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "users:plain", "--method", "ssvq", "--k", "4", "--d", "8", *more]) == 0
    output = capsys.readouterr().out
    assert line in output
    assert ("digits" in output) == bool(line)


@pytest.mark.parametrize("more", [[], ["--shape", "3", "8", "8"], ["--data", "data"]])
def test_all_refusals_are_listed(more: list[str], data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "users:odd", *[data if word == "data" else word for word in more]]) == 1
    output = capsys.readouterr().out
    assert output.count("refused: ") == 2
    assert "softmax in the network (Net)" in output
    assert "cumsum in the network (Net)" in output
    assert "users:odd has no integer form" in output


def test_what_only_the_whole_shows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "users:norm_of_features"]) == 1
    assert (
        "'4' (BatchNorm1d) of features behind no layer has no integer form: put it behind a layer"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--images", "0"], "--images must be at least 1, not 0"),
        (["--shape", "3", "0", "8"], "--shape must be three numbers of at least 1, not [3, 0, 8]"),
        (["--shape", "1", "8", "8"], "the network must take images [1, 8, 8] in float32: RuntimeError: "),
        (["--data", "x", "--shape", "3", "8", "8"], "--shape must not be given with --data"),
        (["--keep", "stem"], "keep must match a layer, not 'stem'; layers are a, b, c, fc"),
        (["--mean", "1", "2"], "cannot read data 'toy.npz'"),
    ],
)
def test_bad_options_are_one_line(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*more, *(["--data", "toy.npz"] if "--mean" in more else [])]
    status = main(["check", "users:plain", *given])
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.count("\n") == 1
    assert message in captured.err or "mean must be 1 or 3 numbers" in captured.err


def test_a_network_without_convolution_needs_a_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "users:linear"]) == 2
    assert "takes no square images of a usual size: give it some of its own" in capsys.readouterr().err
    assert main(["check", "users:linear", "--shape", "3", "8", "8"]) == 0


@pytest.mark.parametrize("command", ["finetune", "search"])
def test_refused_before_any_work(
    command: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setattr("sw.compress.kmeans.kmeans_layers", lambda *_, **__: pytest.fail("clustered"))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("trained"))
    more = ["--bytes", "9999"] if command == "search" else ["--epochs", "1", "--device", "cpu"]
    given = [command, "users:odd", "--data", data, "-o", str(tmp_path / "o"), "--quiet", *more]
    error = refused(main, given)
    assert "softmax in the network (Net)" in error
    assert "cumsum in the network (Net)" in error
    assert not list(tmp_path.iterdir())


def test_layers_alone_are_trained_if_that_is_wanted(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["finetune", "users:odd", "--data", data, "-o", str(tmp_path / "o"), "--quiet", "--device", "cpu"]
    given += ["--method", "int8", "--epochs", "1", "--threads", "1", "--layers-alone"]
    assert main(given) == 0
    assert "no integer form: " in capsys.readouterr().out
    assert "operations" not in read_container(tmp_path / "o").metadata


def test_the_file_has_what_its_images_were(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    # As the page says: a few images try a command, whatever the usual batch is.
    given = ["finetune", "users:plain", "--data", data, "-o", str(tmp_path / "o"), "--quiet", "--device", "cpu"]
    given += ["--method", "int8", "--images", "16", "--epochs", "1", "--threads", "1", "--no-mirror"]
    given += ["--mean", "0.5", "--std", "0.25", "--classes", str(tmp_path / "classes.txt")]
    assert main([*given, "--json", str(tmp_path / "report.json")]) == 0
    metadata = read_container(tmp_path / "o").metadata
    assert metadata["classes"] == ["ant", "bee", "cat", "dog"]
    assert metadata["preprocessing"] == {"mean": [0.5], "std": [0.25], "interpolation": "bilinear", "crop": 0.875}
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["job"]["config"]["batch"] == 16
    assert report["job"]["config"]["mirror"] is False
    assert report["comparison"]["first_difference"] is None
    assert report["comparison"]["program"] == "equal"
    assert main(["search", "users:plain", "--data", data, "--images", "16", "--bytes", "2900", "--quiet"]) == 0
