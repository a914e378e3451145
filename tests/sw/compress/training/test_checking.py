from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import msvq
from sw.compress.methods import Recipe
from sw.compress.sources import load_model
from sw.compress.training.batches import try_batch
from sw.compress.training.checking import check_integer_form
from sw.compress.training.loop import TrainConfig


class _Dropped(nn.Module):
    """A block that is left out at random in training (stochastic depth)."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return values
        return values * torch.empty(len(values), 1, 1, 1).bernoulli_(0.8) / 0.8


class _Pair(nn.Module):
    """A module that gives something beside its tensor."""

    def forward(self, values: Tensor) -> tuple[Tensor, None]:
        return values.relu(), None


class _Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), _Dropped() if kind == "path" else nn.Dropout2d(0.5))
        if kind == "weight norm":
            self.block[0] = nn.utils.parametrizations.spectral_norm(self.block[0])
        self.pair = _Pair()
        self.drop, self.head = nn.AlphaDropout() if kind == "alpha" else nn.Dropout(), nn.Linear(8, 4)

    def train(self, mode: bool = True) -> _Net:
        super().train(mode)
        if self.kind == "frozen":
            self.norm.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        values, _ = self.pair(self.norm(self.stem(images)))
        values = values + self.block(values)
        if self.kind == "plain":
            values = functional.dropout(values, 0.2, self.training, inplace=True)
        if self.kind == "noise" and self.training:
            values = values + torch.randn_like(values)
        return self.head(self.drop(values.mean((2, 3))))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("plain", None),
        ("weight norm", None),
        ("path", "'block.1' (_Dropped)"),
        ("alpha", "'drop' (AlphaDropout)"),
        ("frozen", "'norm' (BatchNorm2d)"),
        ("noise", "the network itself"),
    ],
)
def test_what_training_does_beside_dropout_and_batch_norm_is_named(kind: str, named: str | None) -> None:
    """The graph is of evaluation mode: stochastic depth and the like do nothing in it, and batch norms all learn."""
    torch.manual_seed(0)
    model, images = _Net(kind).eval(), torch.randn(16, 3, 6, 6)
    state, numbers = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_integer_form(model, [], images)
        if named is None:
            check_integer_form(model, [], images, trained=True)
    if named is not None:
        with pytest.warns(UserWarning, match=f"mode with dropout and batch norm: look at {re.escape(named)}$"):
            check_integer_form(model, [], images, trained=True)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)


class _Silent(_Net):
    def __init__(self) -> None:
        super().__init__("frozen")

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


def test_a_train_of_ones_own_need_not_return_the_network() -> None:
    images, model = torch.randn(8, 3, 6, 6), load_model(f"{__name__}:_Silent")
    assert isinstance(model, _Silent)
    assert msvq.calibrate(model, images, Recipe("int8"), progress=False).network is not None
    loader = DataLoader(TensorDataset(images, torch.arange(8) % 4), 4)
    with pytest.warns(UserWarning, match=r"look at 'norm' \(BatchNorm2d\)$"):
        msvq.finetune(model, loader, loader, Recipe("int8"), TrainConfig(1, threads=1), progress=False)


class _Counting(nn.Module):
    """A network whose buffer is another tensor behind each call in training mode."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 2), nn.Buffer(torch.ones(()))

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            self.calls = self.calls * 2
        return self.layer(values) * self.calls


def test_a_try_in_training_mode_leaves_a_buffer_that_is_replaced() -> None:
    model = _Counting()
    try_batch(model, torch.ones(3, 4), torch.tensor([0, 1, 0]), functional.cross_entropy)
    assert model.calls == 1


def test_a_last_batch_is_not_tried_with_a_part_of_a_sample() -> None:
    """Two frames of each sample, of which the network computes one result."""
    model = nn.Sequential(nn.Unflatten(0, (-1, 2)), nn.Flatten(), nn.Linear(8, 16))
    pairs = DataLoader(TensorDataset(torch.randn(5, 2, 4), torch.arange(5)), 4)
    options = {"inputs": lambda batch: batch[0].flatten(0, 1), "layers_alone": True, "progress": False}
    done = msvq.finetune(model, pairs, pairs, Recipe("int8"), TrainConfig(1, threads=1), **options)
    assert len(done.report["losses"]) == 1
