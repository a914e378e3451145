from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.training.checking import check_integer_form


class _Dropped(nn.Module):
    """A block that is left out at random in training (stochastic depth)."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return values
        return values * torch.empty(len(values), 1, 1, 1).bernoulli_(0.8) / 0.8


class _Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), _Dropped() if kind == "path" else nn.Dropout2d(0.5))
        if kind == "weight norm":
            self.block[0] = nn.utils.parametrizations.spectral_norm(self.block[0])
        self.drop, self.head = nn.AlphaDropout() if kind == "alpha" else nn.Dropout(), nn.Linear(8, 4)

    def train(self, mode: bool = True) -> _Net:
        super().train(mode)
        if self.kind == "frozen":
            self.norm.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        values = functional.relu(self.norm(self.stem(images)))
        values = functional.dropout(values + self.block(values), 0.2, self.training, inplace=True)
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
