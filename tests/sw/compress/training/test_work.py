"""A directory of checkpoints is one job's: another loss and other data are refused, what may differ is not."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset

import msvq
from sw.compress.methods import CompressError, Recipe
from sw.compress.training.data import ImageData, load_data
from sw.compress.training.settings import TrainConfig
from sw.compress.training.work import claim, seen_batch, settings_of

CONFIG = TrainConfig(1, 8, lr=1e-3, threads=1)


def network(between: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    between = nn.ReLU() if between is None else between
    return nn.Sequential(nn.Conv2d(3, 8, 3), between, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def batches(seed: int = 0, labels: int = 4) -> list[tuple[Tensor, Tensor]]:
    images = torch.randn(2, 16, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return [(part, torch.arange(16) % labels) for part in images]


def tuned(
    work: Path, train: Any = None, loss: Any = None, between: Any = None, test: Any = None, **options: Any
) -> None:
    train, options = batches() if train is None else train, {"loss": loss, "work": work, "progress": False} | options
    msvq.finetune(network(between), train, test or batches(), Recipe("int8"), CONFIG, **options)


class Focal(nn.Module):
    """Has settings, what its calls change, and a loss of PyTorch's."""

    def __init__(self, gamma: float, smoothing: float = 0.0, run: str = "") -> None:
        super().__init__()
        self.gamma, self.run, self.calls = gamma, run, 0
        self.inner = nn.CrossEntropyLoss(label_smoothing=smoothing)
        self.random = nn.Parameter(torch.full((1,), float(len(run))), requires_grad=False)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        self.mean += output.detach().mean()
        return self.inner(output, target) ** self.gamma


def enclosing(smoothing: float, inner: Callable[..., Tensor] = functional.cross_entropy) -> Callable[..., Tensor]:
    return lambda output, target, factor=1.0: factor * inner(output, target) + smoothing


class Called:
    def __init__(self, factor: float, run: str = "") -> None:
        self.factor, self.run, self.last = factor, run, None

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.last = functional.cross_entropy(output, target)
        return self.factor * self.last


CROSS = nn.CrossEntropyLoss


@pytest.mark.parametrize(
    ("loss", "other", "message"),
    [
        (CROSS(), CROSS(label_smoothing=0.1), "its label_smoothing was 0.0, and is 0.1"),
        (CROSS(), CROSS(reduction="sum"), "its reduction was mean, and is sum"),
        (CROSS(weight=torch.ones(4)), CROSS(weight=torch.arange(4.0)), "its weight is another tensor"),
        (Focal(2.0), Focal(1.0), "its gamma was 2.0, and is 1.0"),
        (Focal(2.0), Focal(2.0, 0.2), "its inner.label_smoothing was 0.0, and is 0.2"),
        (Called(2.0), Called(1.0), "its factor was 2.0, and is 1.0"),
        (enclosing(0.0), enclosing(0.5), "its smoothing was 0.0, and is 0.5"),
        (enclosing(0.0, CROSS()), enclosing(0.0, CROSS(label_smoothing=0.1)), "its inner.label_smoothing was 0.0"),
        (
            functools.partial(functional.cross_entropy, label_smoothing=0.1),
            functools.partial(functional.cross_entropy, label_smoothing=0.2),
            "its label_smoothing was 0.1, and is 0.2",
        ),
    ],
)
def test_a_loss_of_other_settings_is_refused(loss: Any, other: Any, message: str, tmp_path: Path) -> None:
    tuned(tmp_path / "work", loss=loss)
    tuned(tmp_path / "work", loss=loss)
    with pytest.raises(CompressError, match=rf"work '.*work' must be new or of the same loss: {message}"):
        tuned(tmp_path / "work", loss=other)


def test_what_a_run_of_the_same_script_may_change_is_no_setting(tmp_path: Path) -> None:
    for one, other in ((Focal(2.0, run="first"), Focal(2.0, run="second")), (Called(2.0, "first"), Called(2.0, "x"))):
        work = tmp_path / type(one).__name__
        tuned(work, loss=one)
        # The same one, too, which counts its calls.
        for loss in (one, other):
            tuned(work, loss=loss)
    for loss in (None, sum, network().forward, CROSS, nn.CrossEntropyLoss(weight=None).forward):
        assert settings_of(loss) == {}
    unset = lambda: later  # noqa: E731
    assert settings_of(unset) == {}
    later = 1.0
    assert settings_of(unset) == {"later": later}
    odd = {"a": float("nan"), "b": np.array(["x"]), "c": np.array([1.0]), "d": object(), "_e": 1, "f": True}
    assert settings_of(functools.partial(sum, **odd)).keys() == {"c", "f"}


def test_another_first_batch_is_refused(tmp_path: Path) -> None:
    message = r"work '.*work' must be new or of the same data: the first batch is another one than it was"
    work = tmp_path / "work"
    tuned(work)
    tuned(work)
    for other in (batches(1), batches(0, 3), [(part[:, :, :5], target) for part, target in batches()]):
        with pytest.raises(CompressError, match=message):
            tuned(work, other, test=other)
    # As of pictures that another machine decodes.
    tuned(work, [(part + 1e-2 * torch.randn_like(part), target) for part, target in batches()])
    # A directory from before these were in it goes on.
    known = json.loads((work / "job.json").read_text())
    (work / "job.json").write_text(
        json.dumps({name: known[name] for name in known.keys() - {"batch", "loss_settings"}})
    )
    tuned(work, batches(1))


class Scaled(nn.Module):
    """Has a constant that is in no state dict, and may have what cannot be captured."""

    def __init__(self, factor: float, traced: bool = True) -> None:
        super().__init__()
        self.factor, self.traced = torch.full((8, 1, 1), factor), traced

    def extra_repr(self) -> str:
        return f"{float(self.factor[0])}, {object()}"

    def forward(self, values: Tensor) -> Tensor:
        return values * self.factor if self.traced or values.sum() > -1e9 else values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.ReLU(), nn.ReLU6()),
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (nn.Identity(), nn.Dropout(0.1)),
        (Scaled(0.5), Scaled(0.25)),
        (Scaled(0.5, False), Scaled(0.25, False)),
    ],
)
def test_another_network_of_the_same_weights_is_refused(one: nn.Module, other: nn.Module, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for _ in range(2):
        tuned(work, between=one, layers_alone=True)
    message = r"work '.*work' must be new or of the same network: its weights are the same, and it computes something"
    with pytest.raises(CompressError, match=message):
        tuned(work, between=other, layers_alone=True)
    known = json.loads((work / "job.json").read_text())
    version, *graph = known.pop("graph")
    assert version == torch.__version__
    # A directory from before it was in it goes on, and so does one of another version of torch.
    for said in ({}, {"graph": ["2.0", *graph]}):
        (work / "job.json").write_text(json.dumps(known | said))
        tuned(work, between=one, layers_alone=True)


@pytest.mark.parametrize("computed", [False, True])
def test_a_network_is_captured_once(computed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its graph is handed on; one of parametrised layers is another once their weights are parameters."""
    captured: list[nn.Module] = []
    export = torch.export.export

    def counted(model: nn.Module, *given: Any, **options: Any) -> Any:
        captured.append(model)
        return export(model, *given, **options)

    monkeypatch.setattr(torch.export, "export", counted)
    between = weight_norm(nn.Conv2d(8, 8, 1)) if computed else nn.ReLU()
    tuned(tmp_path / "work", between=between)
    assert len(captured) == 1 + computed
    msvq.calibrate(network(between), batches()[0][0], Recipe("int8"), progress=False)
    assert len(captured) == 2 * (1 + computed)


def test_work_of_another_network_is_not_to_be_deleted(tmp_path: Path) -> None:
    """From before a directory said what its network computes: one that has other quantisers."""
    work = tmp_path / "work"
    tuned(work)
    known = json.loads((work / "job.json").read_text())
    del known["graph"]
    (work / "job.json").write_text(json.dumps(known))
    with pytest.raises(CompressError, match="must be of this training, not of another network") as raised:
        tuned(work, between=nn.Hardswish())
    assert "delete" not in str(raised.value)


def test_a_loader_that_never_gives_the_same_goes_on(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)

    class Drawn(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            for part, target in super().__iter__():
                yield part + torch.randn(part.shape, generator=rng), target

    for _ in range(2):
        tuned(tmp_path / "work", Drawn(batches()))
    (images, labels), _ = batches()
    for _ in range(2):
        # Its order is drawn by what is seeded.
        tuned(tmp_path / "shuffled", DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True))
    assert json.loads((tmp_path / "shuffled" / "job.json").read_text())["batch"] is not None
    assert json.loads((tmp_path / "work" / "job.json").read_text())["batch"] is None


def test_other_images_of_the_same_labels_are_refused(tmp_path: Path) -> None:
    def data(seed: int, **more: Any) -> ImageData:
        pixels = np.random.default_rng(seed).integers(0, 100 + 20 * seed, (16, 3, 6, 6), np.uint8)
        return ImageData(pixels, np.arange(16) % 4, 6, **more)

    tuned(tmp_path / "work", data(0))
    tuned(tmp_path / "work", data(0))
    with pytest.raises(CompressError, match="must be new or of the same data"):
        tuned(tmp_path / "work", data(1))
    for split in ("train", "test"):
        for number in range(2):
            folder = tmp_path / "data" / split / f"class{number}"
            folder.mkdir(parents=True)
            for each in range(4):
                pixels = np.random.default_rng(each).integers(0, 256, (9, 9, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{each}.png")
    for size, fits in ((6, True), (6, True), (7, False)):
        given = load_data(tmp_path / "data", "train", size=size)
        if fits:
            tuned(tmp_path / "folder", given)
            continue
        with pytest.raises(CompressError, match="must be new or of the same data"):
            tuned(tmp_path / "folder", given, test=given)


def test_batches_of_any_kind(tmp_path: Path) -> None:
    parts = {
        "tokens": torch.arange(6),
        "mask": torch.ones(2, 3, dtype=torch.bool),
        "bytes": torch.ones(2, dtype=torch.uint8),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.empty(0, 3),
        "nan": torch.tensor([torch.nan]),
        "sparse": torch.eye(2).to_sparse(),
        "complex": torch.ones(1, dtype=torch.complex64),
        "text": "x",
    }
    found = seen_batch(lambda: iter([(parts, [torch.ones(1)])]))
    assert found is not None
    assert [len(each) for each in found] == [3, 3, 5, 6, 2, 2, 2, 2, 4]
    assert seen_batch(lambda: iter([("x", 1)])) is None
    huge = [*found[:2], [*found[2][:3], 10**400, -(10**400)], *found[3:]]
    path = tmp_path / "work" / "job.json"
    claim(path, {"a": 1}, True, {"batch": found, "loss_settings": {}})
    for wrong in (found[1:], [*found[1:], found[0]], 7, [None] * len(found), [["int64", [6], "x"], *found[1:]], huge):
        content = {"a": 1, "batch": wrong, "loss_settings": wrong}
        path.write_text(json.dumps(content))
        with pytest.raises(CompressError, match="must be new or of the same data"):
            claim(path, {"a": 1}, False, {"batch": found})
