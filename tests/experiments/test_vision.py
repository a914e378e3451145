"""Segmentation and detection: networks, decoding, figures and the whole way of a study, on small ones."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from experiments import camvid, detect, detection, segmentation, shared_bits, vision_bits, vision_runs
from experiments.fastestdet import FastestDet, average_precision, boxes_of, load_state, overlaps, plan, suppress
from experiments.pictures import random_grids
from experiments.vision import Study, cases_of
from experiments.vision_runs import Task, as_results, learn
from sw.compress.methods import CompressError, Recipe
from sw.compress.training.data import ImageData, Preprocessing
from sw.compress.training.graph import integer_graph
from sw.compress.training.integer import read_network
from sw.format.container import read_container
from tests.refusals import Refused, refusals


def state_of(seed: int) -> dict[str, Tensor]:
    """Random weights and statistics under the names of FastestDet's file."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in FastestDet().state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator)
            fan = value[0].numel() if value.ndim == 4 else 1
            state[key] = drawn.abs() + 0.5 if key.endswith("running_var") else drawn * (2 / fan) ** 0.5
        else:
            state[key] = value
    return state


def as_the_file(state: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The graph of FastestDet's ONNX file, channel shuffles and all, operation by operation."""

    def conv(values: Tensor, name: str, norm: str, relu: bool, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        groups = len(weight) if weight.shape[1] == 1 and values.shape[1] > 1 else 1
        values = functional.conv2d(values, weight, None, stride, weight.shape[2] // 2, 1, groups)
        found = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        values = functional.batch_norm(values, *found)
        return values.relu() if relu else values

    def branch(values: Tensor, name: str, layers: tuple[tuple[int, bool], ...], stride: int = 1) -> Tensor:
        for number, relu in layers:
            depthwise = state[f"{name}.{number}.weight"].shape[1] == 1
            values = conv(values, f"{name}.{number}", f"{name}.{number + 1}", relu, stride if depthwise else 1)
        return values

    main = ((0, True), (3, False), (5, True))

    def stage(values: Tensor, name: str, blocks: int) -> Tensor:
        side = branch(values, f"{name}.0.branch_proj", ((0, False), (2, True)), 2)
        values = torch.cat([side, branch(values, f"{name}.0.branch_main", main, 2)], 1)
        for block in range(1, blocks):
            batch, channels, rows, columns = values.shape
            halves = values.reshape(batch * channels // 2, 2, rows * columns).permute(1, 0, 2)
            even, odd = halves.reshape(2, -1, channels // 2, rows, columns)
            values = torch.cat([even, branch(odd, f"{name}.{block}.branch_main", main)], 1)
        return values

    values = conv(images, "backbone.first_conv.0", "backbone.first_conv.1", True, 2)
    maps = [functional.max_pool2d(values, 3, 2, 1)]
    for number, blocks in ((2, 4), (3, 8), (4, 4)):
        maps.append(stage(maps[-1], f"backbone.stage{number}", blocks))
    padded = functional.avg_pool2d(functional.pad(maps[1], (1, 1, 1, 1)), 3, 2)
    joined = torch.cat([padded, maps[2], functional.interpolate(maps[3], scale_factor=2.0)], 1)
    values = branch(joined, "SPP.Conv1x1.conv1x1", ((0, True),))
    beside = [branch(values, f"SPP.S{n}", tuple((3 * i, True) for i in range(n))) for n in (1, 2, 3)]
    values = functional.relu(values + branch(torch.cat(beside, 1), "SPP.output", ((0, False),)))
    values = branch(values, "detect_head.conv1x1.conv1x1", ((0, True),))
    found = [branch(values, f"detect_head.{n}_layers.conv5x5", ((0, True), (3, False))) for n in ("obj", "reg", "cls")]
    return found[0], found[1], found[2]


def test_fastestdet_computes_what_the_file_does_without_shuffles() -> None:
    state = state_of(1)
    model = FastestDet()
    load_state(model, state)
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found, wanted = model.eval()(images), as_the_file(state, images)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())
        assert float(theirs.std()) > 0.1


@pytest.mark.parametrize(("blocks", "channels"), [(2, 4), (4, 24), (8, 48)])
def test_a_plan_reads_contiguous_channels_each_once(blocks: int, channels: int) -> None:
    found = plan(blocks, channels)
    read = [
        (source, channel)
        for pieces in (*found.reads, found.result)
        for source, start, stop in pieces
        for channel in range(start, stop)
    ]
    assert sorted(read) == [(source, channel) for source in range(blocks + 1) for channel in range(channels)]
    assert all(sorted(order) == list(range(channels)) for order in found.orders)
    assert all(sum(stop - start for _, start, stop in pieces) == channels for pieces in found.reads)


def test_weights_of_another_network_are_refused() -> None:
    state = state_of(0)
    del state["SPP.S1.0.weight"]
    with pytest.raises(CompressError, match=r"weights must be a state dict of FastestDet: .*SPP\.S1\.0\.weight"):
        load_state(FastestDet(), state)


def test_boxes_are_decoded_as_the_authors_do() -> None:
    objects = torch.full((1, 1, 2, 4), -20.0)
    objects[0, 0, 1, 2] = 0.0  # a half
    places = torch.zeros(1, 4, 2, 4)
    places[0, :, 1, 2] = torch.tensor([np.arctanh(0.5), np.arctanh(-0.25), 0.0, -np.log(3.0)])  # sides 1/2 and 1/4
    classes = torch.zeros(1, 3, 2, 4)
    classes[0, 2, 1, 2] = float(np.log(2.0))  # a half, of 1 + 1 + 2
    (boxes, scores, labels) = boxes_of((objects, places, classes))[0]
    assert labels.tolist() == [2]
    assert scores == pytest.approx([0.5**0.6 * 0.5**0.4])
    x, y = 2.5 / 4, 0.75 / 2
    assert boxes == pytest.approx(np.array([[x - 0.25, y - 0.125, x + 0.25, y + 0.125]]))


def test_the_lesser_of_two_boxes_of_a_class_is_left_out() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, 1, 0.4], [0.5, 0, 1.5, 1]], dtype=float)
    assert overlaps(boxes, boxes[:1])[:, 0] == pytest.approx([1, 0.5, 0.4, 1 / 3])
    assert suppress(boxes, np.zeros(4, dtype=np.int64), 0.45).tolist() == [0, 2, 3]
    assert suppress(boxes, np.array([0, 1, 1, 0]), 0.45).tolist() == [0, 1, 3]
    assert suppress(boxes[:0], np.zeros(0, dtype=np.int64), 0.45).tolist() == []


def test_average_precision_worked_by_hand() -> None:
    unit, far = [0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]
    wide = [0.0, 0.0, 1.0, 2.0]  # overlaps the unit square by exactly a half
    truth = [(np.array([unit, far]), np.array([5, 5])), (np.array([unit]), np.array([5]))]
    # Right, wrong (of a box already found), right: recalls 1/3, 1/3, 2/3 at precisions 1, 1/2, 2/3.
    found = [
        (np.array([unit, wide]), np.array([0.9, 0.8]), np.array([5, 5])),
        (np.array([wide]), np.array([0.7]), np.array([5])),
    ]
    # Of 101 recalls those to 0.33 have precision 1, those to 0.66 have 2/3, the others 0.
    assert average_precision(found, truth) == pytest.approx(100 * (34 * 1 + 33 * 2 / 3) / 101)
    # A second class, whose box is of another class: half as much. Boxes of classes without an object change nothing.
    other = [truth[0], (np.array([unit, far]), np.array([5, 6]))]
    more = [found[0], (np.array([wide, far]), np.array([0.7, 0.99]), np.array([5, 4]))]
    assert average_precision(more, other) == pytest.approx(average_precision(found, truth) / 2)
    exact = [(boxes, np.ones(len(boxes)), classes) for boxes, classes in truth]
    assert average_precision(exact, truth) == 100
    with pytest.raises(CompressError, match="at least one object, not 0"):
        average_precision([], [])


def test_the_detection_loss_is_zero_for_the_same_results_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    results = tuple(torch.randn(2, count, 3, 3, generator=generator) for count in (1, 4, 5))
    assert float(detection._loss(results, results)) == pytest.approx(0, abs=1e-6)
    for number in range(3):
        other = list(results)
        other[number] = results[number] + torch.randn(results[number].shape, generator=generator)
        assert float(detection._loss(tuple(other), results)) > 0.01


def archive(path: Path, files: dict[str, bytes]) -> Path:
    """A tar file."""
    with tarfile.open(path, "w") as found:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            found.addfile(member, io.BytesIO(content))
    return path


def picture(pixels: NDArray[np.uint8], kind: str) -> bytes:
    """An image's file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, lossless=True)
    return file.getvalue()


def test_coco_is_read_as_bgr_and_corners(tmp_path: Path) -> None:
    red = np.zeros((30, 40, 3), dtype=np.uint8)
    red[..., 0] = 255
    files = {f"{part}/1.webp": picture(red, "WEBP") for part in ("train2017", "val2017")}
    files |= {"train2017/1.txt": b"", "val2017/1.txt": b"7 0.5 0.25 0.2 0.1\n3 0.5 0.5 1 1\n"}
    found = detection.load_images(archive(tmp_path / "coco.tar", files))
    pixels, truth = found["val2017"]
    assert pixels.shape == (1, 3, 352, 352)
    assert pixels[0, :, 0, 0].tolist() == [0, 0, 255]
    assert truth[0][0] == pytest.approx(np.array([[0.4, 0.2, 0.6, 0.3], [0, 0, 1, 1]]))
    assert truth[0][1].tolist() == [7, 3]
    assert found["train2017"][1][0][0].shape == (0, 4)
    with pytest.raises(CompressError, match=r"must have train2017/NAME\.webp"):
        detection.load_images(archive(tmp_path / "none.tar", {}))
    with pytest.raises(CompressError, match="data must be a tar file of images and boxes, not"):
        detection.load_images(tmp_path / "missing.tar")


#: Of detection's views, beside data and weights: images as they are, the training images alone.
VIEWS = {"more": None, "small": None, "mix": 0.0, "batch": 32, "side": 352, "data_part": 0.5, "least_area": 0.2}
VIEWS |= {"images": None, "device": "cpu", "threads": 1}


def test_other_pictures_are_half_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blue = np.zeros((30, 40, 3), dtype=np.uint8)
    blue[..., 2] = 255
    files = {f"{part}/{n}.webp": picture(blue, "WEBP") for part in ("train2017", "val2017") for n in range(10)}
    files |= {name.replace("webp", "txt"): b"1 0.5 0.5 1 1\n" for name in files}
    coco, weights, more = archive(tmp_path / "coco.tar", files), tmp_path / "weights.pth", tmp_path / "more"
    torch.save(state_of(0), weights)
    more.mkdir()
    for number in range(12):
        Image.fromarray(blue[:, :, ::-1]).save(more / f"{number}.png")
    given = argparse.Namespace(**VIEWS | {"data": coco, "weights": weights, "more": more})
    views = detection.load(given).views(torch.Generator().manual_seed(0))
    # Eight of COCO's ten images are trained with; blue ones have their first channel alone, red ones the last.
    assert views.shape == (8 + 12, 3, 352, 352)
    means = views.mean((2, 3))
    assert (means[:8, 0] > means[:8, 2]).all()
    assert (means[8:, 0] < means[8:, 2]).all()
    given.more = None
    assert len(detection.load(given).views(torch.Generator().manual_seed(0))) == 8
    # Small green ones, sixteen to a view, make up the batch; of its views a part is taken.
    green = np.zeros((20, 64, 64, 3), dtype=np.uint8)
    green[..., 1] = 255
    labels = np.arange(20) % 4
    given.small, given.side, given.batch = tmp_path / "small.npz", 64, 15
    names = [f"{part}_{name}" for part in ("train", "test") for name in ("images", "labels")]
    np.savez(given.small, **dict(zip(names, [green, labels] * 2, strict=True)))
    views = detection.load(given).views(torch.Generator().manual_seed(0))
    assert views.shape == (7 + 8, 3, 64, 64)
    assert (views[7:].mean((2, 3))[:, 1] > views[7:].mean((2, 3))[:, 0]).all()
    # Whole pictures are COCO's first, then others; of each kind an equal part of a batch.
    given.more, given.small, given.side, given.batch = more, None, 352, 10
    task = detection.load(given)
    views = task.views(torch.Generator().manual_seed(0))
    assert ((views[:, 0] - views[:, 2]).mean((1, 2)) > 0).tolist() == [True] * 5 + [False] * 5
    assert len(task.sample) == 8 + 12
    assert (task.sample[:8].mean((2, 3)) == torch.tensor([1.0, 0, 0])).all()
    assert (task.sample[8:].mean((2, 3)) == torch.tensor([0, 0, 1.0])).all()
    wanted = {"batch": 10, "side": 352, "mix": 0.0, "data_part": 0.5, "least_area": 0.2}
    wanted |= {"data": 8, "more": 12, "small": 0, "whole": 20}
    assert task.settings == wanted
    said = {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "crop": 1.0, "colours": "bgr"}
    assert task.metadata == {"preprocessing": said}
    # As another program prepares a square picture by that.
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)).save(tmp_path / "one.png")
    how = Preprocessing.of(task.metadata["preprocessing"])
    images = ImageData([tmp_path / "one.png"], np.zeros(1, np.int64), 352, preprocessing=how)
    (more / "one.png").write_bytes((tmp_path / "one.png").read_bytes())
    pixels, _ = images.batch(torch.zeros(1, dtype=torch.int64), torch.device("cpu"))
    assert torch.equal(images.normalise(pixels), detection._scaled(torch.from_numpy(detection.load_more(more)[-1:])))
    monkeypatch.setattr(detection, "WHOLE", 11)
    assert len(detection.load(given).sample) == 11
    with pytest.raises(CompressError, match="more must be a directory of pictures, not"):
        detection.load_more(tmp_path / "none")


def test_views_of_a_batch_by_kind() -> None:
    options = argparse.Namespace(batch=32, data_part=0.125)
    assert detection._counts(options, [103, 5000], small=False) == [4, 28]
    assert detection._counts(options, [103, 5000], small=True) == [4, 14]
    assert detection._counts(options, [103], small=True) == [4]
    assert detection._counts(options, [103], small=False) == [32]
    assert detection._counts(options, [3, 20], small=False) == [3, 20]
    options.data_part = 0.001
    assert detection._counts(options, [103, 5000], small=False) == [1, 31]


def test_views_have_at_least_their_area() -> None:
    def areas(least: float) -> Tensor:
        grids = random_grids(2000, torch.Generator().manual_seed(0), (5, 5), torch.device("cpu"), least)
        return ((grids.amax((1, 2)) - grids.amin((1, 2))) * 5 / 8).prod(1)

    found = areas(0.6)
    # Sides are cut where a view would be longer than its picture: its area is less by a sixth at the most.
    assert 0.6 * (3 / 4) ** 0.5 < float(found.min()) < 0.62
    assert float(found.max()) > 0.98
    assert float(areas(0.2).min()) < 0.22


def test_whole_pictures_are_spread_over_the_others() -> None:
    sets = [torch.arange(4), torch.arange(100, 111)]
    assert detection._spread(sets, 7).tolist() == [0, 1, 2, 3, 100, 105, 110]
    assert detection._spread(sets, 3).tolist() == [0, 1, 2]
    assert detection._spread(sets[:1], 7).tolist() == [0, 1, 2, 3]
    assert detection._spread(sets, 99).tolist() == [0, 1, 2, 3, *range(100, 111)]


def test_camvid_is_resized_and_void_does_not_count(tmp_path: Path) -> None:
    image = np.full((360, 480, 3), 90, dtype=np.uint8)
    label = np.full((360, 480), 11, dtype=np.uint8)
    label[:, :240] = 4
    files = {"image/a.webp": picture(image, "WEBP"), "label/a.png": picture(label, "PNG")}
    pixels, labels = segmentation.load_part(archive(tmp_path / "train.tar", files))
    assert pixels.shape == (1, 3, 288, 384)
    assert (labels[0, :, :192] == 4).all()
    assert (labels[0, :, 192:] == 255).all()

    def results(values: Tensor) -> tuple[Tensor]:
        scores = torch.zeros(len(values), 11, 72, 96)
        scores[:, 4, :, :48], scores[:, 2, :, 48:] = 1, 1
        return (scores,)

    found = segmentation.mean_iou(results, torch.from_numpy(pixels), torch.from_numpy(labels).long())
    assert found["miou"] == found["pixels"] == 100
    with pytest.raises(CompressError, match="not no label of a"):
        segmentation.load_part(archive(tmp_path / "half.tar", {"image/a.webp": files["image/a.webp"]}))
    files["label/a.png"] = picture(label + 1, "PNG")
    with pytest.raises(CompressError, match=r"labels must be in 0\.\.11, not 12"):
        segmentation.load_part(archive(tmp_path / "wrong.tar", files))
    with pytest.raises(CompressError, match="data must have the parts as tar files, not"):
        segmentation.load_part(tmp_path / "missing.tar")


def test_the_segmenter_gives_a_quarter_of_the_rows_and_columns() -> None:
    model = segmentation.MobileNetSegmenter().eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 11, 16, 24)


def test_labels_are_cropped_with_their_images() -> None:
    labels = torch.arange(11).repeat_interleave(35)[:384].expand(2, 288, 384)
    images = labels.to(torch.uint8)[:, None].expand(-1, 3, -1, -1) * 20
    batch = segmentation._views(images, labels, True)(torch.Generator().manual_seed(0))
    assert batch.shape == (2, 4, 288, 384)
    own, known = batch[0, 0], batch[0, 3].round()
    means = [float(own[known == kind].mean()) for kind in range(1, 12) if bool((known == kind).any())]
    assert len(means) > 3
    assert means == sorted(means)


@pytest.mark.parametrize("module", [camvid, detect])
def test_the_commands_name_what_is_missing(module: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main(["--runs", str(tmp_path), "--device", "cpu"]) == 2  # type: ignore[attr-defined]
    assert "--data must" in capsys.readouterr().err


class Small(nn.Module):
    """Three convolutions, a depthwise one between them, and two results."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(16, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.each = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.heads = nn.ModuleList(nn.Conv2d(64, count, 1) for count in (2, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = self.each(self.middle(self.first(images)))
        return self.heads[0](values), self.heads[1](values)


class Deeper(Small):
    """Six more in its middle, of a size that a codebook of their own is dear to."""

    def __init__(self) -> None:
        super().__init__()
        more = [(nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(6)]
        self.middle.extend(nn.Sequential(*layers) for layers in more)


def small_study(cases: int = 4, statistics: bool = False, network: type[nn.Module] = Small) -> Study:
    """A study whose figure is the nearness to the float network."""
    torch.manual_seed(0)
    model, images = network().eval(), torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(3))

    def loss(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([(a - b).square().mean() for a, b in zip(found, wanted, strict=True)]).sum()

    @torch.no_grad()
    def score(results: Callable[[Tensor], tuple[Tensor, ...]]) -> dict[str, float]:
        near = 100 - 100 * float(loss(results(images), as_results(model(images))))
        return {"near": near, "choice": near}

    def task(options: argparse.Namespace) -> Task:
        del options
        return Task(
            model=model,
            sample=images,
            views=lambda generator: torch.randn(4, 3, 8, 8, generator=generator),
            loss=loss,
            choose=score,
            score=score,
            metadata={"of": "small"},
        )

    return Study(
        name="small",
        description=None,
        cases=cases_of("10x", 3.2)[:cases],
        last=("heads.0", "heads.1"),
        steps=3,
        task=task,
        add_options=lambda parser: None,
        figure="near",
        heading="near",
        note="A trial.",
        rates=(1e-3, 1e-2),
        statistics=statistics,
    )


def run_small(study: Study, folder: Path, *more: str) -> int:
    """The study's command."""
    where = ["--runs", str(folder / "runs"), "--output", str(folder), "--device", "cpu", "--threads", "1"]
    return study.main([*where, "--rates", "1e-3", "1e-2", "--seeds", "0", "1", *more])


def test_a_study_goes_the_whole_way_and_on_from_its_files(
    full: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(4 if full else 2)
    assert run_small(study, tmp_path, "--part", "0/2") == 0
    done = {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    assert {"10x-SSVQ-0.json", "10x-SSVQ-1.msvq", "try-10x-SSVQ-100-0.01.json", "float.json"} <= set(done)
    assert not any("MSVQ" in name for name in done)
    assert run_small(study, tmp_path, "--part", "1/2") == 0
    assert all((tmp_path / "runs" / name).read_bytes() == content for name, content in done.items())
    report = json.loads((tmp_path / "small.json").read_text())
    assert [each["case"] for each in report["summary"]] == [case.name for case in study.cases]
    assert all((each["seeds"], each["tries"]) == (2, 2) for each in report["summary"])
    for run in report["runs"]:
        path = tmp_path / "runs" / f"{run['case'].replace(' ', '-')}-{run['seed']}.msvq"
        assert run["bytes"] == path.stat().st_size
        assert len(read_network(path).outputs) == 2
        assert read_container(path).metadata["of"] == "small"
        assert 9.5 < run["ratio_ideal"] < 11
        # The integers are those of the network that was trained.
        assert run["integers"]["near"] == pytest.approx(run["trained"]["near"], abs=0.2)
        tries = [each for each in report["tries"] if each["case"] == run["case"]]
        assert run["lr"] == max(tries, key=lambda each: each["trained"]["choice"])["lr"]
    assert report["float"]["8 bit"]["scores"]["near"] > 99
    table = (tmp_path / "small.md").read_text()
    assert "All layers at 8 bit, not trained: 99." in table or "All layers at 8 bit, not trained: 100." in table
    assert table.count("\n| 10x") == len(study.cases)
    monkeypatch.setattr(vision_runs, "_compress", lambda *given: pytest.fail("a run was made anew"))
    assert run_small(study, tmp_path) == 0
    assert run_small(study, tmp_path, "--report-only", "--seeds", "0", "1", "0") == 0
    assert (tmp_path / "small.md").read_text() == table
    capsys.readouterr()
    assert run_small(study, tmp_path, "--steps", "9") == 2
    assert "of a run with steps 1, not 2: remove it, or name another directory by --runs" in capsys.readouterr().err
    assert run_small(study, tmp_path, "--images", "4") == 2
    assert "float.json is of a run with images None, not 4: remove it" in capsys.readouterr().err
    assert run_small(study, tmp_path, "--features", "1") == 2
    assert "of a run with features 0.0, not 1.0: remove it" in capsys.readouterr().err


def test_statistics_of_the_batch_are_replaced_by_those_of_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    begin, average = vision_runs.learn_together, vision_runs.recalibrate_batch_norm

    def learned(*given: object, **options: object) -> list[list[float]]:
        seen.append(("learn", bool(options["statistics"])))
        return begin(*given, **options)  # type: ignore[arg-type]

    def averaged(graph: nn.Module, batches: object) -> None:
        seen.append(("average", graph.training))
        average(graph, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(vision_runs, "learn_together", learned)
    monkeypatch.setattr(vision_runs, "recalibrate_batch_norm", averaged)
    where = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path), "--device", "cpu", "--threads", "1"]
    assert small_study(1, statistics=True).main([*where, "--rates", "1e-3", "--seeds", "0"]) == 0
    assert seen == [("average", False), ("learn", True), ("average", False)] * 2
    run = json.loads((tmp_path / "small.json").read_text())["runs"][0]
    assert run["integers"]["near"] == pytest.approx(run["trained"]["near"], abs=0.2)


@refusals(
    """
    --part 2/2 -> --part must be I/N with I in 0..N-1, not '2/2'
    --part half -> --part must be I/N with I in 0..N-1, not 'half'
    --steps 0 -> --steps: must be an integer of at least 1, not '0'
    --together 0 -> --together: must be an integer of at least 1, not '0'
    --runs README.md -> --runs: must be a directory, not the file 'README.md'
    --output README.md -> --output: must be a directory, not the file 'README.md'
    --features -1 -> --features must be a finite number of at least 0, not -1
    --features nan -> --features must be a finite number of at least 0, not nan
    --seeds 100 -> --seeds must not have 100
    --report-only -> there is no run to report
    """
)
def test_bad_options_are_named_before_anything_is_done(
    arguments: list[str], message: str, tmp_path: Path, refused: Refused
) -> None:
    assert message in refused(lambda given: run_small(small_study(), tmp_path, *given), arguments)
    assert not (tmp_path / "runs").exists()


def test_learning_brings_the_loss_down_and_refuses_nan() -> None:
    model = nn.Conv2d(3, 1, 1)
    images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def loss(student: nn.Module, batch: Tensor) -> Tensor:
        return (student(batch) - batch.sum(1, keepdim=True)).square().mean()

    given = {"steps": 200, "device": "cpu", "seed": 0}
    found = learn(model, lambda generator: images, loss, lr=1e-1, **given)  # type: ignore[arg-type]
    assert len(found) == 2
    assert found[1] < found[0] / 5
    with pytest.raises(CompressError, match="the loss must be finite, not nan in step 99: try a lower rate"):
        learn(model, lambda generator: images * float("nan"), loss, lr=1e-3, **given)  # type: ignore[arg-type]


def test_measured_bits_fill_the_same_sum_and_are_kept_for_all_runs(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = small_study(4 if full else 2, statistics=True)
    options = ["--allocate", "--level", "--features", "0.1", "--together", "3"]
    assert run_small(study, tmp_path, *options) == 0
    # Of 3.2 bits a weight of 16 x 64 x 9 weights.
    taken = re.findall(r"^10x \w+ ([\d,]+) of 29,491 bits$", capsys.readouterr().out, re.MULTILINE)
    assert len(taken) == len(study.cases)
    assert all(0 < int(bits.replace(",", "")) <= 29491 for bits in taken)
    report = json.loads((tmp_path / "small.json").read_text())
    for run in report["runs"]:
        bits = json.loads((tmp_path / "runs" / f"bits-{run['case'].replace(' ', '-')}-100.json").read_text())["recipes"]
        fields = ("method", "n", "m", "d", "k", "codeword_bits")
        assert bits.keys() == {"middle.0"}
        chosen = [bits["middle.0"][name] for name in fields]
        assert run["recipes"]["middle.0"][0] == chosen[0] != "int8"
        assert run["recipes"]["middle.0"][3:] == [*chosen[3:], None]
        assert 32 / run["ratio_ideal"] <= 3.2
        assert run["integers"]["near"] == pytest.approx(run["trained"]["near"], abs=0.2)
        assert run["together"] in (1, 2, 3)
        assert run["features"] == 0.1
    monkeypatch.setattr(vision_runs, "_compress", lambda *given: pytest.fail("a run was made anew"))
    assert run_small(study, tmp_path, *options) == 0
    assert run_small(study, tmp_path, "--allocate", "--level") == 2


@pytest.mark.parametrize(
    ("number", "menu"),
    [
        pytest.param(0, [(8, [(0, 0)], range(7))], id="ssvq", marks=pytest.mark.whole),
        pytest.param(1, [(16, [(4, 16), (8, 16)], range(6)), (8, [(4, 8)], range(5))], id="msvq"),
    ],
)
def test_layers_share_codebooks_within_the_same_bits(
    number: int, menu: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(statistics=True, network=Deeper)
    case = dataclasses.replace(study.cases[number], mean_bits=2.2)
    monkeypatch.setitem(vision_bits.LENGTHS, case.recipe.method, menu)
    given = ["--allocate", "--level", "--share", "--seeds", "0"]
    assert run_small(dataclasses.replace(study, cases=[case]), tmp_path, *given) == 0
    run = json.loads((tmp_path / "small.json").read_text())["runs"][0]
    names = [recipe[-1] for recipe in run["recipes"].values()]
    (shared,) = {name for name in names if names.count(name) > 1 and name is not None}
    # Of 2.2 bits a weight, the shared codebooks among them, once.
    assert 2.0 < 32 / run["ratio_ideal"] <= 2.2
    layers = read_container(next((tmp_path / "runs").glob("*-0.msvq"))).layers
    books = [layer.codebook for layer in layers if layer.codebook_name == shared]
    assert len(books) == names.count(shared)
    assert all(np.array_equal(book, books[0]) for book in books)
    assert run["integers"]["near"] == pytest.approx(run["trained"]["near"], abs=0.2)


@pytest.mark.parametrize("allocate", [False, True])
def test_runs_with_equal_bits_do_not_say_that_layers_share(
    allocate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--no-allocate`` alone takes back what a study has by default, shared codebooks among it."""
    seen: list[bool] = []
    monkeypatch.setattr(vision_runs, "run_all", lambda study, options: seen.append(options.share))
    monkeypatch.setattr(vision_runs, "report", lambda study, options: seen.append(options.share))
    study = dataclasses.replace(small_study(), share=True)
    assert run_small(study, tmp_path, "--allocate" if allocate else "--no-allocate") == 0
    assert seen == [allocate, allocate]


def test_a_shared_codebook_must_be_worth_its_bits() -> None:
    """Two books of ten bits: one is worth its bits for two layers, none for one."""
    books = [Recipe("vq", 5, 1, codeword_bits=2, scope="crosslayer", seed=seed) for seed in range(2)]
    own = Recipe("vq", 2, 1)
    choices = {
        name: [(10, 0.8, own), (30, 0.1, own), (12, 0.2, books[0]), (14, 0.1, books[1])] for name in ("a", "b", "c")
    }
    even = dict.fromkeys(choices, 1.0)
    # 36 bits of the three, and ten of their codebook.
    assert shared_bits._selected(choices, even, 46) == ({books[0]}, dict.fromkeys(choices, 2))
    assert shared_bits._selected(choices, even, 52) == ({books[1]}, dict.fromkeys(choices, 3))
    # Without room for one and what it needs, each has its own.
    assert shared_bits._selected(choices, even, 30) == (frozenset(), dict.fromkeys(choices, 0))
    assert shared_bits._selected(choices, even, 29)[1] == {}
    # Where only one layer matters, its own codewords are cheaper.
    single = {"a": choices["a"], **{name: choices[name][:1] for name in ("b", "c")}}
    assert shared_bits._selected(single, even, 51) == (frozenset(), {"a": 1, "b": 0, "c": 0})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("side", 40, "--side must be a multiple of 32 in 32..352, not 40"),
        ("side", 384, "--side must be a multiple of 32 in 32..352, not 384"),
        ("batch", 2, "--batch must be at least 3, not 2"),
        ("mix", 1.5, r"--mix must be a share in 0\.\.1, not 1\.5"),
        ("data_part", 0.0, "--data-part must be a share between 0 and 1, not 0"),
        ("data_part", 1.0, "--data-part must be a share between 0 and 1, not 1"),
        ("least_area", 0.0, "--least-area must be a share above 0 and up to 1, not 0"),
        ("least_area", 1.5, r"--least-area must be a share above 0 and up to 1, not 1\.5"),
    ],
)
def test_settings_of_views_are_checked(name: str, value: float, message: str, tmp_path: Path) -> None:
    black = np.zeros((30, 40, 3), dtype=np.uint8)
    files = {f"{part}/{n}.webp": picture(black, "WEBP") for part in ("train2017", "val2017") for n in range(5)}
    files |= {file.replace("webp", "txt"): b"1 0.5 0.5 1 1\n" for file in files}
    weights = tmp_path / "weights.pth"
    torch.save(state_of(0), weights)
    given = VIEWS | {"data": archive(tmp_path / "coco.tar", files), "weights": weights, name: value}
    with pytest.raises(CompressError, match=message):
        detection.load(argparse.Namespace(**given))


def test_level_rows_are_the_same_function() -> None:
    torch.manual_seed(1)
    model = Small().eval()
    norm = model.middle[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_var.uniform_(0.01, 2)  # type: ignore[union-attr]
    model.middle[0].weight.data *= torch.rand(64, 1, 1, 1) + 0.01  # type: ignore[operator]
    images = torch.randn(4, 3, 8, 8)
    graph = integer_graph(copy.deepcopy(model), images)
    vision_bits.level_rows(graph, ["middle.0"])
    with torch.no_grad():
        for found, wanted in zip(graph(images), model(images), strict=True):
            assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    rows = graph.get_submodule("middle.0").weight.detach().flatten(1).square().mean(1)  # type: ignore[union-attr,operator]
    assert float(rows.std() / rows.mean()) < 1e-5


def test_networks_side_by_side_learn_what_each_does_alone() -> None:
    images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def lesson(seed: int, lr: float) -> vision_runs.Lesson:
        torch.manual_seed(seed)
        views = lambda generator: images + torch.rand(4, 3, 4, 4, generator=generator)  # noqa: E731
        return vision_runs.Lesson(nn.Conv2d(3, 1, 1), views, lambda net, batch: net(batch).square().mean(), lr, seed)

    pairs = [(0, 1e-2), (1, 1e-1)]
    together = vision_runs.learn_together([lesson(*pair) for pair in pairs], steps=20, device="cpu")
    alone = [vision_runs.learn_together([lesson(*pair)], steps=20, device="cpu")[0] for pair in pairs]
    assert together == alone
    assert together[0] != together[1]


def test_the_note_says_what_runs_learned_from() -> None:
    views = {"data": 103, "more": 6543, "small": 0, "whole": 256}
    runs = [{"views": views}, {"views": views}]
    note = " Pictures: 103 of --data, 6,543 of --more; 256 whole ones for batch norms."
    assert vision_runs._pictures(runs) == note
    # Runs that learned from others are told apart; some say nothing of it.
    other = {"views": views | {"small": 45000, "whole": 64}}
    assert vision_runs._pictures([*runs, other]).count(" Pictures: ") == 2
    assert "6,543 of --more, 45,000 of --small; 64 whole" in vision_runs._pictures([other])
    assert vision_runs._pictures([{}, {"views": {}}, {"views": {"batch": 32, "more": True, "small": True}}]) == ""
