"""How settings are chosen: what is held out, and that final runs never see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import dinov2, images, study
from experiments.models import VisionTransformer, build, image_size
from experiments.protocol import bytes_apart, held_out, part_of
from sw.compress.methods import CompressError
from sw.compress.training.data import ImageData, load_data


def numbered(labels: list[int]) -> ImageData:
    """Images that hold their own number."""
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    return ImageData(pixels, np.array(labels, np.int64), 4)


def test_a_tenth_of_every_class_is_held_out() -> None:
    data = numbered(sorted([0] * 100 + [1] * 50 + [2] * 5 + [3]))
    rest, held = held_out(data)
    assert np.bincount(held.labels, minlength=4).tolist() == [10, 5, 1, 0]
    numbers = [part.images[:, 0, 0, 0] for part in (rest, held)]
    assert sorted(np.concatenate(numbers)) == list(range(156))
    for part, found in zip((rest, held), numbers, strict=True):
        assert (part.labels == data.labels[found]).all()
    # The first images calibrate: not all of one class, as the data's are.
    assert len(np.unique(rest.labels[:20])) > 1
    again = held_out(data)[1]
    assert (again.images == held.images).all()


def test_paths_are_held_out_too() -> None:
    data = ImageData([Path(str(number)) for number in range(20)], np.zeros(20, np.int64), 8)
    rest, held = held_out(data)
    assert len(held) == 2
    assert {str(path) for path in (*rest.images, *held.images)} == {str(number) for number in range(20)}
    assert [str(path) for path in part_of(data, np.array([3, 1])).images] == ["3", "1"]


def test_nothing_to_hold_out() -> None:
    with pytest.raises(CompressError, match="a class of two images or more to hold some out, not 3 classes"):
        held_out(numbered([0, 1, 2]))


def test_bytes_apart() -> None:
    assert bytes_apart([1000, 1010, 1005]) == pytest.approx(0.01)


@pytest.mark.parametrize("rates", [None, [1e-3]])
def test_runs_are_scored_on_held_out_images_or_on_test_images(
    monkeypatch: pytest.MonkeyPatch, rates: list[float] | None
) -> None:
    train, test = numbered([0] * 30 + [1] * 30), numbered([1] * 7)
    monkeypatch.setattr(study, "data", lambda options, network: (train, test))

    class Options:
        network = "resnet20"

    options: Any = Options()
    options.rates = rates
    own, scored = study._parts_of(options)
    assert len(own) == 54
    assert len(scored) == (6 if rates else 7)
    assert not set(own.images[:, 0, 0, 0]) & set(held_out(train)[1].images[:, 0, 0, 0])


def folder(path: Path, sizes: tuple[int, int]) -> Path:
    from PIL import Image

    for split, size in zip(("train", "val"), sizes, strict=True):
        for label in ("a", "b"):
            (path / split / label).mkdir(parents=True)
            Image.fromarray(np.full((size, size, 3), 10 * ord(label[0]) % 256, np.uint8)).save(
                path / split / label / "0.png"
            )
    return path


def test_images_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.npz"
    assert images.main([str(folder(tmp_path / "good", (12, 12))), str(output)]) == 0
    train = load_data(output, "train")
    assert train.images.shape == (2, 3, 12, 12)
    assert train.images[:, 0, 0, 0].tolist() == [10 * ord("a") % 256, 10 * ord("b") % 256]
    larger = images.resized(train, 20)
    assert larger.size == 20
    assert larger.images.shape == (2, 3, 20, 20)
    assert (larger.images == train.images[:, :, :1, :1]).all()
    bad = folder(tmp_path / "bad", (12, 12))
    (bad / "val" / "a" / "0.png").rename(bad / "val" / "a" / "1.png")
    (folder(tmp_path / "other", (9, 9)) / "val" / "a" / "0.png").rename(bad / "val" / "a" / "0.png")
    assert images.main([str(bad), str(output)]) == 2
    assert "must be (9, 9), not (12, 12)" in capsys.readouterr().err


def test_dinov2_keeps_its_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the original's formula, layer scales and three layers of attention, written out."""
    assert image_size("dinov2-s") == 98
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) * 0.1

    width = 8
    state = {"cls": draw(1, 1, width), "pos_cls": draw(1, 1, width), "pos": draw(1, 1369, width)}
    state |= {"patch.weight": draw(width, 3, 14, 14), "patch.bias": draw(width)}
    state |= {"norm.weight": draw(width) + 1, "norm.bias": draw(width)}
    for name, shape in (
        [(f"blocks.0.{part}.weight", (width, width)) for part in ("q", "k", "v", "proj")]
        + [("blocks.0.fc1.weight", (4 * width, width)), ("blocks.0.fc2.weight", (width, 4 * width))]
        + [(f"blocks.0.{part}", (width,)) for part in ("ls1", "ls2", "norm1.weight", "norm2.weight")]
        + [(f"blocks.0.{part}.bias", (width,)) for part in ("q", "k", "v", "proj", "fc2", "norm1", "norm2")]
        + [("blocks.0.fc1.bias", (4 * width,))]
    ):
        state[name] = draw(*shape)
    model = VisionTransformer(1, width, 2, patch=14, side=37 * 14, classes=5, class_token=True, epsilon=1e-6).eval()
    model.load_state_dict(dinov2.converted(state, model))
    image = draw(1, 3, 37 * 14, 37 * 14)
    functional = torch.nn.functional

    def linear(name: str, values: torch.Tensor) -> torch.Tensor:
        return functional.linear(values, state[f"blocks.0.{name}.weight"], state[f"blocks.0.{name}.bias"])

    def norm(name: str, values: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(values, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    pixels = functional.conv2d(image, state["patch.weight"], state["patch.bias"], 14).flatten(2).transpose(1, 2)
    tokens = torch.cat([state["cls"] + state["pos_cls"], pixels + state["pos"]], dim=1)
    values = norm("blocks.0.norm1", tokens)
    q, k, v = (linear(part, values).reshape(1, -1, 2, width // 2).transpose(1, 2) for part in "qkv")
    mixed = ((q @ k.transpose(2, 3) / (width // 2) ** 0.5).softmax(-1) @ v).transpose(1, 2).reshape(1, -1, width)
    tokens = tokens + state["blocks.0.ls1"] * linear("proj", mixed)
    hidden = functional.gelu(linear("fc1", norm("blocks.0.norm2", tokens)))
    features = norm("norm", tokens + state["blocks.0.ls2"] * linear("fc2", hidden))[:, 0]
    with torch.no_grad():
        torch.testing.assert_close(model(image), model.linear(features), rtol=1e-4, atol=1e-5)
    del state["blocks.0.ls2"]
    torch.save(state, tmp_path / "state.pt")
    assert dinov2.main([str(tmp_path / "state.pt"), str(tmp_path / "out.pt")]) == 2
    assert "state must be one of DINOv2 ViT-S/14, but 'blocks.0.ls2' is missing" in capsys.readouterr().err


def test_the_start_of_a_network_does_not_depend_on_the_machine() -> None:
    assert torch.equal(build("dinov2-s").linear.weight, build("dinov2-s").linear.weight)
