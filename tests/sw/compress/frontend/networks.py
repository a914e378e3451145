"""Small networks written in every way that torch allows, and what must hold of each: refused by name, or equal."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.methods import CompressError, Recipe
from sw.compress.training.comparison import compare_file
from sw.compress.training.integer import export_integers, write_network
from sw.compress.training.prepare import prepare

#: What a user's network does between its layers.
Body = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Three convolutions, a classifier, and what is between them."""

    def __init__(self, body: Body, seed: int = 1, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = body
        self.a = nn.Conv2d(3, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.c = nn.Conv2d(width, width, 3, padding=1)
        self.norm, self.act, self.fc = nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Linear(width, 5)
        self.norm.running_mean.normal_(0, 0.2)  # type: ignore[union-attr, operator]
        self.norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        values = self.body(self, self.a(images))
        return self.fc(functional.adaptive_avg_pool2d(values, 1).flatten(1))  # type: ignore[no-any-return]


def sample(size: int = 9, seed: int = 2) -> Tensor:
    """Images for it."""
    return torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(seed))


def outcome(
    model: nn.Module, images: Tensor, folder: Path, rules: list[tuple[str, Recipe]] | None = None
) -> str | None:
    """Why a network is refused; None if its file computes what it does.

    Fails where neither holds: its integers are not those of the graph, within what rounding explains, or the graph, at
    its own precision, is not the network.
    """
    model = model.eval()
    with torch.no_grad():
        expected = model(images.clone()).float()
    try:
        graph, reason = prepare(model, rules or [("*", Recipe("int8"))], images.clone(), progress=False)
        if reason is not None:
            return reason
        network = export_integers(graph, (images.shape[1], images.shape[2], images.shape[3]))  # type: ignore[arg-type]
    except CompressError as error:
        return str(error)
    write_network(folder / "network", network)
    compare_file(folder / "network", graph, images.float())
    if rules is None:
        # 8 bits: what is another network is farther away than this.
        logits = network.run(network.quantise(images.float()), golden=False).double()
        scale = (expected * logits).sum() / (logits**2).sum()
        error = float((expected - scale * logits).norm() / expected.norm())
        assert error < 0.05, f"another network, by {error:.3f}"
    return None


def copied(model: nn.Module) -> nn.Module:
    """Another one like it."""
    return copy.deepcopy(model)
