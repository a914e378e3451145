"""Detection: the network, decoding and average precision, images and views."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from experiments import detection
from experiments.fastestdet import FastestDet, average_precision, boxes_of, load_state, overlaps, plan, suppress
from experiments.pictures import random_grids
from sw.compress.methods import CompressError
from sw.compress.training.data import ImageData, Preprocessing
from tests.experiments.archives import archive, picture


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
        # Classes' divergence counts as often as it is said, and no other.
        more = float(detection._loss(tuple(other), results, class_weight=3.0))
        assert more == pytest.approx(float(detection._loss(tuple(other), results)) * (3 if number == 2 else 1))
    even = float(detection._loss(tuple(other), results, class_power=0.0))
    divergence = functional.kl_div(other[2].log_softmax(1), results[2].log_softmax(1), reduction="sum", log_target=True)
    assert even == pytest.approx(float(divergence) / 2, rel=1e-5)


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


def coco_of(path: Path, pixels: Callable[[], np.ndarray], count: int) -> Path:
    """A tar file of so many images of each part, with one object of the whole image each."""
    files = {f"{part}/{n}.webp": picture(pixels(), "WEBP") for part in ("train2017", "val2017") for n in range(count)}
    return archive(path, files | {name.replace("webp", "txt"): b"1 0.5 0.5 1 1\n" for name in files})


#: Of detection's views, beside data and weights: images as they are, the training images alone.
VIEWS = {
    "more": None,
    "small": None,
    "mix": 0.0,
    "batch": 32,
    "side": 352,
    "data_part": 0.5,
    "least_area": 0.2,
    "recolour": 1.0,
    "balance": 0.0,
    "four_part": 0.0,
    "class_weight": 1.0,
    "class_power": 1.0,
}


VIEWS |= {"images": None, "device": "cpu", "threads": 1}


def test_other_pictures_are_half_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blue = np.zeros((30, 40, 3), dtype=np.uint8)
    blue[..., 2] = 255
    coco = coco_of(tmp_path / "coco.tar", lambda: blue, 10)
    weights, more = tmp_path / "weights.pth", tmp_path / "more"
    torch.save(state_of(0), weights)
    more.mkdir()
    for number in range(12):
        Image.fromarray(blue[:, :, ::-1]).save(more / f"{number}.png")
    given = argparse.Namespace(**VIEWS | {"data": coco, "weights": weights, "more": [more]})
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
    given.more, given.small, given.side, given.batch = [more], None, 352, 10
    task = detection.load(given)
    views = task.views(torch.Generator().manual_seed(0))
    assert ((views[:, 0] - views[:, 2]).mean((1, 2)) > 0).tolist() == [True] * 5 + [False] * 5
    assert len(task.sample) == 8 + 12
    assert (task.sample[:8].mean((2, 3)) == torch.tensor([1.0, 0, 0])).all()
    assert (task.sample[8:].mean((2, 3)) == torch.tensor([0, 0, 1.0])).all()
    wanted = {"batch": 10, "side": 352, "mix": 0.0, "data_part": 0.5, "least_area": 0.2, "recolour": 1.0}
    wanted |= {"balance": 0.0, "four_part": 0.0, "class_weight": 1.0, "class_power": 1.0}
    wanted |= {"data": 8, "more": 12, "small": 0, "whole": 20}
    assert task.settings == wanted
    # Views in the pictures' own colours.
    assert float(views.std((0, 2, 3)).max()) > 0.1
    given.recolour = 0.0
    views = detection.load(given).views(torch.Generator().manual_seed(0))
    pure = torch.tensor([[1.0, 0, 0]] * 5 + [[0, 0, 1.0]] * 5)
    assert float((views - pure[:, :, None, None]).abs().max()) < 1e-5
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
    options = argparse.Namespace(batch=32, data_part=0.125, four_part=0.0)
    assert detection._counts(options, [103, 5000], small=False) == [4, 28, 0]
    assert detection._counts(options, [103, 5000], small=True) == [4, 14, 0]
    assert detection._counts(options, [103], small=True) == [4, 0, 0]
    assert detection._counts(options, [103], small=False) == [32, 0, 0]
    assert detection._counts(options, [3, 20], small=False) == [3, 20, 0]
    few = argparse.Namespace(batch=3, data_part=0.9, four_part=0.9)
    assert detection._counts(few, [103, 5000], small=True) == [1, 1, 0]
    assert detection._counts(few, [103, 5000], small=False) == [2, 1, 0]
    options.data_part = 0.001
    assert detection._counts(options, [103, 5000], small=False) == [1, 31, 0]
    options.four_part = 0.25
    assert detection._counts(options, [103, 5000], small=False) == [1, 23, 8]
    assert detection._counts(options, [103, 5000], small=True) == [1, 7, 8]
    assert detection._counts(options, [103, 14], small=False) == [1, 14, 3]
    assert detection._counts(options, [103], small=True) == [1, 0, 0]


def test_four_pictures_lie_side_by_side_at_half_their_size() -> None:
    pictures = torch.zeros(8, 3, 352, 352, dtype=torch.uint8)
    for number in range(8):
        pictures[number, number % 3] = 10 * number + 9
    pictures[5, :, ::2] = 7  # every second row: halves are means of both
    found = detection.by_four(pictures)
    assert found.shape == (2, 3, 352, 352)
    for number in range(8):
        row, column = divmod(number % 4, 2)
        part = found[number // 4, :, 176 * row : 176 * row + 176, 176 * column : 176 * column + 176]
        wanted = functional.avg_pool2d(pictures[number][None].float(), 2)[0]
        assert torch.equal(part.float(), wanted.round())


class Seen(torch.nn.Module):
    """A network that finds one object in each picture, of the class that the first pixel says."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        label = (images[:, 0, 0, 0] * 255).round().long()
        objects = torch.full((len(images), 1, 2, 2), -20.0)
        objects[:, :, 0, 0] = 20.0
        classes = torch.zeros(len(images), 5, 2, 2)
        classes[torch.arange(len(images)), label] = 30.0
        return objects, torch.zeros(len(images), 4, 2, 2), classes


def test_pictures_of_rare_classes_are_drawn_more_often() -> None:
    pictures = torch.zeros(10, 3, 4, 4, dtype=torch.uint8)
    pictures[8:, 0] = 3  # eight of class 0, two of class 3
    weights = detection.picture_weights(Seen(), pictures, 1.0)
    # One object each, by as many as there are of its class and one more.
    own = torch.tensor([1 / 9] * 8 + [1 / 3] * 2, dtype=torch.float64)
    assert weights.numpy() == pytest.approx((own + detection.FLOOR * own.mean()).numpy())
    assert detection.picture_weights(Seen(), pictures, 0.0).tolist() == [1.0] * 10
    # Those without any object are drawn, too.
    nothing = lambda images: (torch.full((len(images), 1, 2, 2), -20.0), None, torch.zeros(len(images), 5, 2, 2))  # noqa: E731
    assert (detection.picture_weights(nothing, pictures, 1.0) > 0).all()


def test_sure_boxes_are_those_of_high_scores() -> None:
    classes = torch.zeros(1, 4, 1, 3)
    classes[0, torch.tensor([1, 2, 3]), 0, torch.arange(3)] = 30.0
    places = torch.zeros(1, 4, 1, 3)
    places[:, 2:] = -2.0
    logit = float(np.log(detection.SURE ** (1 / 0.6) / (1 - detection.SURE ** (1 / 0.6))))
    results = (torch.tensor([5.0, logit + 0.01, logit - 0.01]).reshape(1, 1, 1, 3), places, classes)
    (found,) = detection.sure_boxes(results)
    assert found[1].tolist() == [1, 2]
    assert found[0].shape == (2, 4)


def test_settings_are_chosen_by_the_float_networks_boxes_of_pictures_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)

    def noise() -> np.ndarray:
        return generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)

    coco = coco_of(tmp_path / "coco.tar", noise, 10)
    weights, more = tmp_path / "weights.pth", tmp_path / "more"
    state = state_of(0)
    for part in ("weight", "bias"):  # boxes of one size
        state[f"detect_head.reg_layers.conv5x5.4.{part}"].zero_()
    torch.save(state, weights)
    more.mkdir()
    for number in range(12):
        Image.fromarray(noise()).save(more / f"{number:02d}.png")
    given = argparse.Namespace(**VIEWS | {"data": coco, "weights": weights, "more": [more]})
    monkeypatch.setattr(detection, "OTHERS_HELD_OUT", 4)
    task = detection.load(given)
    # Three of twelve others are held out, beside two of COCO's ten.
    assert task.settings["more"] == 9
    asked = []

    def results(images: Tensor) -> tuple[Tensor, ...]:
        asked.append(images)
        found: tuple[Tensor, ...] = task.model(images)
        return found

    found = task.choose(results)
    assert found["choice"] == 100
    assert found["divergence"] == pytest.approx(0, abs=1e-3)
    held = detection._scaled(torch.from_numpy(detection.load_more(more)[3::4]))
    assert any(len(images) == 5 and torch.equal(images[2:], held) for images in asked)
    assert not any(torch.equal(whole, each) for whole in task.sample for each in held)
    monkeypatch.setattr(detection, "SURE", 2.0)
    with pytest.raises(
        CompressError, match="the float network must find an object in the 5 pictures that are held out"
    ):
        detection.load(given)


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
        ("recolour", 1.5, r"--recolour must be in 0\.\.1, not 1\.5"),
        ("recolour", float("nan"), "--recolour must be in 0..1, not nan"),
        ("least_area", 1.5, r"--least-area must be a share above 0 and up to 1, not 1\.5"),
        ("four_part", 1.0, "--four-part must be a share from 0 to below 1, not 1"),
        ("balance", -0.5, r"--balance must be in 0\.\.1, not -0\.5"),
        ("class_power", 2.0, r"--class-power must be in 0\.\.1, not 2"),
        ("class_weight", 0.0, "--class-weight must be a finite number above 0, not 0"),
        ("class_weight", float("inf"), "--class-weight must be a finite number above 0, not inf"),
    ],
)
def test_settings_of_views_are_checked(name: str, value: float, message: str, tmp_path: Path) -> None:
    black = np.zeros((30, 40, 3), dtype=np.uint8)
    weights = tmp_path / "weights.pth"
    torch.save(state_of(0), weights)
    given = VIEWS | {"data": coco_of(tmp_path / "coco.tar", lambda: black, 5), "weights": weights, name: value}
    with pytest.raises(CompressError, match=message):
        detection.load(argparse.Namespace(**given))
