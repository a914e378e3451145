"""Calibration without training, and the measuring of a file's integers, from images of any shape to figures."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sw.compress.__main__ import main
from sw.compress.methods import CompressError, Recipe
from sw.compress.training import calibration, modules
from sw.compress.training.calibration import calibrate_network
from sw.compress.training.data import ImageData, Preprocessing
from sw.compress.training.evaluation import VOID, evaluate, evaluate_classes, evaluate_maps
from sw.compress.training.finetune import Finetuning, finetune
from sw.compress.training.integer import read_network, write_network
from sw.compress.training.modules import convert
from sw.compress.training.settings import TrainConfig
from sw.format.container import read_container
from sw.format.picture import COLOURS
from tests.refusals import Refused
from tests.sw.compress.training.training_job import two_convolutions

RULES = [("0", Recipe("int8")), ("*", Recipe("msvq", k=8, d=8, n=2, m=8))]


def network() -> nn.Sequential:
    """Tells images of grey by where they are bright; what it gives is the mean brightness of each half and more."""
    model = two_convolutions(1, 16, 6)
    model[1].running_mean.uniform_(-0.3, 0.3)
    return model.eval()


def pixels(count: int, shape: tuple[int, int] = (6, 10)) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 1, *shape)).astype(np.uint8)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Grey images that are not square, with the labels that the float network gives them; and a module with it."""
    module = types.ModuleType("users")
    module.network = network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users", module)
    arrays = {}
    for split, count in (("train", 40), ("test", 50)):
        images = pixels(count)
        data = ImageData(images, np.zeros(count, np.int64), (6, 10))
        with torch.no_grad():
            labels = network()(data.normalise(torch.from_numpy(images))).argmax(1).numpy()
        arrays |= {f"{split}_images": images[:, 0], f"{split}_labels": labels}
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path


def test_from_images_to_a_file_and_its_accuracy(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, container = str(files / "data.npz"), str(files / "net.msvq")
    recipe = ["--method", "msvq", "--k", "8", "--d", "8", "--nm", "4:8", "--keep", "0", "7", "--quiet"]
    command = ["calibrate", "users:network", "--data", data, *recipe, "-o", container]
    assert main([*command, "--json", str(files / "report.json")]) == 0
    report = json.loads((files / "report.json").read_text())
    assert report["images"] == 40
    assert report["comparison"]["forced"] is False
    assert report["batch_norm"] in ("kept", "recalibrated")
    assert f"{report['bytes']} bytes" in capsys.readouterr().out
    first = Path(container).read_bytes()
    assert main(command) == 0
    assert Path(container).read_bytes() == first
    capsys.readouterr()
    assert main(["evaluate", container, "--data", data, "--quiet", "--json", str(files / "accuracy.json")]) == 0
    measured = json.loads((files / "accuracy.json").read_text())
    assert f"top-1 {measured['top1']:.2f} %, top-5 {measured['top5']:.2f} % of 50 images" in capsys.readouterr().out
    # By hand, from the reference.
    integers = read_network(container)
    held = ImageData(pixels(50), np.load(data)["test_labels"].astype(np.int64), (6, 10))
    scores = integers.run(integers.quantise(held.normalise(torch.from_numpy(held.images)))).flatten(1)
    right = (scores.argmax(1).numpy() == held.labels).mean()
    assert measured["top1"] == pytest.approx(100 * right)


def test_what_images_are_like_is_no_guess_in_silence(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, container = str(files / "data.npz"), str(files / "net.msvq")
    recipe = ["--method", "vq", "--k", "8", "--d", "8", "--quiet", "--mean", "0.2", "--std", "0.5"]
    assert main(["calibrate", "users:network", "--data", data, *recipe, "-o", container]) == 0
    measure = ["evaluate", container, "--data", data, "--quiet"]
    capsys.readouterr()
    assert main(measure) == 0
    said = capsys.readouterr()
    assert said.err == ""
    write_network(container, read_network(container))
    assert main(measure) == 0
    assert "does not say what its images are like; ImageNet's mean and std are taken" in capsys.readouterr().err
    assert main([*measure, "--mean", "0.2", "--std", "0.5"]) == 0
    assert capsys.readouterr() == said


def test_a_file_says_in_which_order_its_network_reads_colours(files: Path, refused: Refused) -> None:
    """The same network for RGB and, its weights the other way round, for BGR: of one set of images the same scores."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 1, 1)).astype(np.uint8).repeat(6, 2).repeat(10, 3)
    how = Preprocessing((0.1, 0.4, 0.5), (0.2, 0.3, 0.4))
    model = two_convolutions(3, 16, 6).eval()
    data = ImageData(images, np.zeros(60, np.int64), (6, 10), preprocessing=how)
    with torch.no_grad():
        scores = model(data.normalise(torch.from_numpy(images)))
        model[-1].bias -= scores.mean(0)
        labels = (scores - scores.mean(0)).argmax(1).numpy()
    np.savez(files / "colours.npz", test_images=images, test_labels=labels)
    found = {}
    for colours in COLOURS:
        turned = how
        if colours == "bgr":
            model[0].weight.data = model[0].weight.data.flip(1)
            turned = Preprocessing(how.mean[::-1], how.std[::-1], colours="bgr")
        own = dataclasses.replace(data, preprocessing=turned)
        done = calibrate_network(copy.deepcopy(model), own, [("*", Recipe("int8"))], progress=False)
        done.write(files / colours)
        measure = ["evaluate", str(files / colours), "--data", str(files / "colours.npz"), "--quiet"]
        assert main([*measure, "--json", str(files / "figures.json")]) == 0
        found[colours] = json.loads((files / "figures.json").read_text())["top1"]
    said = {colours: read_container(files / colours).metadata["preprocessing"] for colours in COLOURS}
    assert "colours" not in said["rgb"]
    assert said["bgr"]["colours"] == "bgr"
    assert found["rgb"] == found["bgr"] > 95
    # Read as RGB, the network of BGR gives other results: so no other word is passed over.
    for metadata, message in [
        ({"preprocessing": said["bgr"] | {"colours": "grb"}}, "bgr: colours must be one of rgb, bgr, not 'grb'"),
        ({"preprocessing": said["bgr"] | {"order": "bgr"}}, "bgr: preprocessing must have no fields but mean, std, "),
        ({"preprocessing": said["bgr"], "classes": "ab"}, "bgr: classes must be a list of names, not ab"),
    ]:
        write_network(files / "bgr", read_network(files / "bgr"), metadata=metadata)
        assert message in refused(main, measure)
    wrong = {name: value for name, value in said["bgr"].items() if name != "colours"}
    write_network(files / "bgr", read_network(files / "bgr"), metadata={"preprocessing": wrong})
    assert main([*measure, "--json", str(files / "figures.json")]) == 0
    assert json.loads((files / "figures.json").read_text())["top1"] < 70


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["calibrate", "users:network", "-o", "{0}/x.msvq", "--images", "0"], "--images must be at least 1, not 0"),
        (["calibrate", "users:network", "-o", "{0}/none/x.msvq"], "none' does not exist"),
        (["calibrate", "users:network", "-o", "{0}/x.msvq", "--keep", "nothing"], "nothing"),
        (["evaluate", "{0}/none.msvq"], "No such file"),
        (["evaluate", "{0}/data.npz"], "must begin with"),
        (["evaluate", "{0}/data.npz", "--images", "-1"], "--images must be at least 1, not -1"),
    ],
)
def test_bad_input_is_one_line(files: Path, refused: Refused, command: list[str], message: str) -> None:
    words = [word.format(files) for word in command]
    assert message in refused(main, [*words, "--data", str(files / "data.npz"), "--quiet"])
    assert not (files / "x.msvq").exists()


def test_calibration_takes_a_tensor_and_keeps_the_better_statistics() -> None:
    images = torch.randn(30, 1, 6, 10, generator=torch.Generator().manual_seed(1))
    expected = network()(images).detach()
    done = calibrate_network(network(), images, [("*", Recipe("int8"))], progress=False)
    # At 8 bit nothing is lost, and the statistics of noise are not those that the network was given.
    assert done.report["batch_norm"] == "kept"
    assert done.report["error"] < 1e-3
    assert done.network is not None
    found = done.network.run(done.network.quantise(images)).flatten(1)
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.9
    with pytest.raises(
        CompressError, match=r"images must be normalised floats \[n, C, rows, columns\], not torch.uint8"
    ):
        calibrate_network(network(), torch.zeros(1, 1, 6, 10, dtype=torch.uint8), RULES, progress=False)


MISSPELT = [*RULES, ("haed", Recipe("int8"))]


@pytest.mark.parametrize(
    "call",
    [
        lambda model: convert(model, MISSPELT, progress=False),
        lambda model: calibrate_network(model, torch.randn(4, 1, 6, 10), MISSPELT, progress=False),
        lambda model: finetune(model, [], [], Finetuning(MISSPELT, TrainConfig(1)), progress=False),
    ],
    ids=["convert", "calibrate_network", "finetune"],
)
def test_a_rule_for_no_layer_is_refused_below_the_public_functions_too(
    call: Callable[[nn.Module], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was meant for would stay at 8 bit; nothing is clustered or measured before."""
    monkeypatch.setattr(modules, "compress_layers", None)
    monkeypatch.setattr(calibration, "_batches", None)
    with pytest.raises(CompressError, match=r"^rule 'haed' must match a layer; layers are 0, 3, 7$"):
        call(network())


class Spare(nn.Module):
    """Has a layer that it does not use, and two that a function makes, one of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.spare = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 1)
        self.own = nn.Parameter(torch.randn(4, 8, 1, 1))
        self.register_buffer("fixed", torch.randn(4, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(nn.functional.conv2d(self.first(x).relu(), self.own), self.fixed)


def test_rules_may_name_layers_that_the_graph_leaves_out_or_makes() -> None:
    rules = [(name, Recipe("int8", uniform_bits=7)) for name in ("spare", "own", "fixed", "fir*")]
    done = calibrate_network(Spare(), torch.randn(4, 1, 6, 10), rules, progress=False)
    assert [(layer.name, layer.weight_bits) for layer in done.layers] == [("first", 7), ("own", 7), ("fixed", 7)]


@pytest.mark.parametrize("factor", [1e19, 1e-19])
def test_the_error_of_large_and_small_results_is_relative(factor: float) -> None:
    """Their squares are no float32."""
    model = network()
    with torch.no_grad():
        model[-1].weight.mul_(factor)
        model[-1].bias.mul_(factor)
    images = torch.randn(20, 1, 6, 10, generator=torch.Generator().manual_seed(1))
    found = calibrate_network(model, images, RULES, progress=False).report["error"]
    assert found == pytest.approx(calibrate_network(network(), images, RULES, progress=False).report["error"], rel=0.1)


def test_accuracies_by_hand() -> None:
    scores = np.array([[3, 3, 1, 0, 0, 0], [0, 5, 6, 7, 8, 9], [9, 0, 0, 0, 0, 1]], np.int32)
    report = evaluate_classes([(scores[:2], np.array([1, 0])), (scores[2:], np.array([0]))])
    assert report == {"images": 3, "classes": 6, "top1": pytest.approx(100 / 3), "top5": pytest.approx(200 / 3)}
    with pytest.raises(CompressError, match=r"labels must be in 0..5, as the network has it, not 6"):
        evaluate_classes([(scores[:1], np.array([6]))])
    with pytest.raises(CompressError, match=r"labels must be in 0..5, as the network has it, not -2"):
        evaluate_classes([(scores[:2], np.array([-2, 3]))])
    with pytest.raises(CompressError, match="at least one image"):
        evaluate_classes([])


@pytest.mark.parametrize(
    ("shape", "advice"), [((3, 1), ""), ((1,), ""), ((2,), ""), ((3, 7), ""), ((3, 6), r"; .*is argmax\(1\)")]
)
def test_classes_need_one_label_for_each_image(shape: tuple[int, ...], advice: str) -> None:
    """Each of these gave an accuracy of other pairs than the image and its label, or NumPy's error."""
    given = re.escape(str(list(shape)))
    with pytest.raises(CompressError, match=rf"labels must be \[3\], the number of .*, not {given}{advice}$"):
        evaluate_classes([(np.zeros((3, 6, 1, 1) if len(shape) < 2 else (3, 6), np.int32), np.zeros(shape, int))])


def test_labels_of_a_loader_are_refused_by_their_shape() -> None:
    done = calibrate_network(network(), torch.randn(8, 1, 6, 10), [("*", Recipe("int8"))], progress=False)
    assert done.network is not None
    images, labels = torch.randn(8, 1, 6, 10), torch.zeros(8, dtype=torch.int64)
    for wrong in (labels[:, None], nn.functional.one_hot(labels, 6), labels[:1]):
        with pytest.raises(CompressError, match=r"labels must be \[8\], the number of its class for each image, not"):
            evaluate(done.network, [(images, wrong)], progress=False)
    with pytest.raises(CompressError, match=r"labels must be integers, .* not complex64 \[8\]"):
        evaluate(done.network, [(images, labels + 0j)], progress=False)


def test_intersection_over_union_by_hand() -> None:
    scores = np.zeros((1, 3, 1, 4), np.int32)
    scores[0, [0, 0, 1, 1], 0, range(4)] = 1
    labels = np.array([[[0, 1, 1, VOID]]])
    # Class 0: 1 of 2, class 1: 1 of 2, class 2 does not occur; two of three pixels are right.
    assert evaluate_maps([(scores, labels)]) == {
        "images": 1,
        "classes": 3,
        "miou": pytest.approx(50.0),
        "pixels": pytest.approx(200 / 3),
    }
    assert evaluate_maps([(scores, labels.repeat(2, 1).repeat(2, 2))])["miou"] == pytest.approx(50.0)
    with pytest.raises(CompressError, match="1 x 4 pixels or a multiple of them, not 1 x 6"):
        evaluate_maps([(scores, np.zeros((1, 1, 6), int))])
    with pytest.raises(CompressError, match=r"labels must be in 0..2 or 255, not 3"):
        evaluate_maps([(scores, np.full((1, 1, 4), 3))])
    with pytest.raises(CompressError, match=r"labels must be in 0..2 or 255, not -1"):
        evaluate_maps([(scores, np.array([[[-1, 0, 2, VOID]]]))])
    for wrong in ((2, 1, 4), (1, 1, 1, 4)):
        with pytest.raises(CompressError, match=r"labels must be \[1, rows, columns\], .*, not \[\d, 1, "):
            evaluate_maps([(scores, np.zeros(wrong, int))])


def test_a_result_is_chosen_by_name(files: Path) -> None:
    done = calibrate_network(network(), torch.randn(8, 1, 6, 10), [("*", Recipe("int8"))], progress=False)
    data: Any = ImageData(pixels(3), np.zeros(3, np.int64), (6, 10))
    assert done.network is not None
    name = done.network.outputs[0].name
    assert evaluate(done.network, data, output=name, progress=False)["images"] == 3
    with pytest.raises(CompressError, match=f"output must be one of {name}, not 'other'"):
        evaluate(done.network, data, output="other", progress=False)


class _Pooled(nn.Module):
    """A batch norm of features, which of one image has no variance; and an even kernel that pads one side more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 16, 4, padding="same"), nn.BatchNorm1d(16)
        self.hidden, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.hidden(self.conv(images).relu().mean((2, 3)))).relu())


@pytest.mark.parametrize("images", [1, 101, [50, 50, 1]])
def test_one_image_has_no_statistics(images: int | list[int]) -> None:
    """It counts for nothing, and a batch norm that sees no others keeps those it had."""
    torch.manual_seed(0)
    model = _Pooled()
    given = torch.randn(images, 1, 6, 6) if isinstance(images, int) else [torch.randn(n, 1, 6, 6) for n in images]
    done = calibrate_network(model, given, [("*", Recipe("int8"))], progress=False)
    assert done.report["images"] == (images if isinstance(images, int) else sum(images))
    assert done.report["error"] < 0.01
    if images == 1:
        assert done.report["batch_norm"] == "kept"


def test_the_command_takes_what_check_says_it_would(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.modules["users"].pooled = _Pooled  # type: ignore[attr-defined]
    common = ["users:pooled", "--data", str(files / "data.npz")]
    assert main(["check", *common]) == 0
    assert "users:pooled becomes one program of integers" in capsys.readouterr().out
    assert main(["calibrate", *common, "--method", "int8", "--quiet", "-o", str(files / "even.msvq")]) == 0


class _Recurrent(nn.Module):
    """Most of whose weights are of no layer that is compressed."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(10, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.rows(images[:, 0])[0][:, -1])


def test_the_command_says_what_layers_alone_leave(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.modules["users"].rows = _Recurrent  # type: ignore[attr-defined]
    command = ["calibrate", "users:rows", "--data", str(files / "data.npz"), "--layers-alone", "--quiet"]
    assert main([*command, "-o", str(files / "rows.msvq")]) == 0
    assert (
        "the file has the 96 weights of its layers, that of finetune's --rest all else: 5," in capsys.readouterr().out
    )
