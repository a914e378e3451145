"""Small networks written in every way that torch allows, and what must hold of each: refused by name, or equal."""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_leaves

from sw.compress.methods import CompressError, Recipe
from sw.compress.training.comparison import compare_file
from sw.compress.training.device import device_results
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
    model: nn.Module,
    images: Tensor,
    folder: Path,
    rules: list[tuple[str, Recipe]] | None = None,
    program: bool = True,
) -> str | None:
    """Why a network is refused; None if its file computes what it does.

    Fails where neither holds: its integers are not those of the graph, within what rounding explains, or the graph, at
    its own precision, is not the network.
    """
    model = model.eval()
    with torch.no_grad():
        expected = [each.float() for each in tree_leaves(model(images.clone()))]
    try:
        graph, reason = prepare(model, rules or [("*", Recipe("int8"))], images.clone(), progress=False)
        if reason is not None:
            return reason
        network = export_integers(graph, (images.shape[1], images.shape[2], images.shape[3]))  # type: ignore[arg-type]
    except CompressError as error:
        return str(error)
    write_network(folder / "network", network)
    compare_file(folder / "network", graph, images.float(), program=program)
    found = device_results(network, network.quantise(images.float()))
    assert len(found) == len(expected)
    for result, floats, output in zip(found, expected, network.outputs, strict=True):
        integers = result.double()
        scale = output.scale if output.scale is not None else float((floats * integers).sum() / (integers**2).sum())
        error = float((floats - scale * integers).norm() / floats.norm())
        if rules is None:
            # 8 bits: what is another network is farther away than this.
            assert error < 0.05, f"another network, by {error:.3f}"
    return None


def copied(model: nn.Module) -> nn.Module:
    """Another one like it."""
    return copy.deepcopy(model)


class Random(nn.Module):
    """A network of random operations, written in random ways: in place, by modules, functions and methods, on views.

    Parameters
    ----------
    seed
        Of all that is random in it.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        width = self.width = rng.choice([4, 8])
        self.stem = nn.Conv2d(3, width, rng.choice([1, 3]), padding=rng.choice([0, 1]))
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=rng.choice([1, 1, width]), bias=rng.random() < 0.7)
            for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        for norm in self.norms:
            norm.running_mean.normal_(0, 0.2)  # type: ignore[union-attr, operator]
            norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
        self.act, self.drop = nn.ReLU(inplace=rng.random() < 0.5), nn.Dropout(0.3)
        self.fc = nn.Linear(width, 5)
        self.steps = [self.step(rng) for _ in range(rng.randint(2, 7))]
        if rng.random() < 0.2:
            rng.choice(list(self.convs)).register_forward_hook(rng.choice(HOOKS))
        if rng.random() < 0.2 and self.convs[1].groups == self.convs[2].groups:
            self.convs[2].weight = self.convs[1].weight
        if rng.random() < 0.1:
            parametrizations.weight_norm(rng.choice(list(self.convs)))

    def step(self, rng: random.Random) -> tuple[str, int, int]:
        """An operation, and numbers that it may use."""
        kinds = ["layer"] * 5 + ["relu"] * 4 + ["add"] * 3 + ["pool", "drop", "odd"]
        kind = rng.choice(kinds)
        names = {
            "layer": ["conv", "norm"],
            "relu": ["relu", "relu_", "module", "statement", "relu6_", "clamp"],
            "add": ["add", "iadd", "add_", "keep", "alias"],
            "pool": ["maximum", "average"],
            "drop": ["drop", "drop_relu"],
            "odd": ["view", "slice", "scale", "silu", "flip", "cat"],
        }
        return rng.choice(names.get(kind, [kind])), rng.randrange(3), rng.randrange(2)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        x = kept = self.stem(images)
        for name, i, j in self.steps:
            if name == "conv":
                x = self.convs[i](x)
            elif name == "norm":
                x = self.norms[j](self.convs[i](x))
            elif name in ("keep", "alias"):
                kept = x if name == "alias" else x.clone()
            elif name in ("add", "iadd", "add_") and kept.shape == x.shape:
                x = x + kept if name == "add" else x.add_(kept) if name == "add_" else operator.iadd(x, kept)
            elif name in SIMPLE:
                x = SIMPLE[name](self, x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def _statement(run: Callable[[Random, Tensor], object]) -> Callable[[Random, Tensor], Tensor]:
    def body(net: Random, x: Tensor) -> Tensor:
        run(net, x)
        return x

    return body


#: Operations of one value.
SIMPLE: dict[str, Callable[[Random, Tensor], Tensor]] = {
    "relu": lambda net, x: functional.relu(x),
    "relu_": _statement(lambda net, x: x.relu_()),
    "module": lambda net, x: net.act(x),
    "statement": _statement(lambda net, x: net.act(x)),
    "relu6_": _statement(lambda net, x: functional.relu6(x, inplace=True)),
    "clamp": lambda net, x: x.clamp(min=0),
    "maximum": lambda net, x: functional.max_pool2d(x, 2, 1),
    "average": lambda net, x: functional.avg_pool2d(x, 2, 1),
    "drop": lambda net, x: net.drop(x),
    "drop_relu": lambda net, x: net.drop(x).relu_(),
    "view": _statement(lambda net, x: x.flatten(2).relu_()),
    "slice": _statement(lambda net, x: x[:, : net.width // 2].relu_()),
    "scale": _statement(lambda net, x: x.mul_(2)),
    "silu": lambda net, x: functional.silu(x),
    "flip": lambda net, x: x.flip(3),
    "cat": lambda net, x: torch.cat([x[:, :1], x[:, 1:]], 1),
}
#: Of these, those without integer form: in place on a part or another shape of a value, and mirrored.
REFUSED = frozenset({"view", "slice", "flip"})
HOOKS: list[Callable[..., Any]] = [
    lambda module, given, result: result.relu(),
    lambda module, given, result: result.relu_(),
    lambda module, given, result: None,
    lambda module, given, result: result * 2,
]
