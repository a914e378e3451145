"""Of a classifier, which layer gets how many bits: where what it says changes most by them.

Every method has a menu of its own for each layer, of about the same number of entries. An entry's weights are those of
a k-means on the device, of some of the subvectors. Of those that are not both larger and further from the weights than
another, the divergence of the network with that layer alone compressed is measured, and
:func:`experiments.allocation.cheapest` chooses among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.allocation import cheapest
from experiments.case import Case
from experiments.common import read_run
from experiments.finetune import KEPT_8BIT
from experiments.models import build
from experiments.protocol import TRY_SEEDS
from experiments.reconstruction import nearest, weighted_kmeans
from hw.command_line import write_text
from sw.compress.methods import LayerSource, Recipe, misfit, recipe_bits
from sw.compress.network import module_sources
from sw.compress.search import recalibrated
from sw.compress.training.data import ImageData
from sw.compress.training.loop import deterministic, images_of
from sw.format.strict_json import json_text

__all__ = ["MENUS", "Choice", "measured", "recipes_of"]

_NONE = ((0, 0),)

#: Codeword lengths, each with its N:M of methods that prune, and the bits of an index.
MENUS: Mapping[str, Sequence[tuple[int, Sequence[tuple[int, int]], Sequence[int]]]] = {
    "vq": ((16, _NONE, range(5, 12)), (8, _NONE, range(3, 11)), (4, _NONE, range(2, 9)), (2, _NONE, range(2, 8))),
    "ssvq": ((16, _NONE, range(0, 11)), (8, _NONE, range(0, 9)), (4, _NONE, range(0, 8)), (2, _NONE, range(0, 6))),
    "mvq": (
        (16, ((4, 16), (6, 16), (8, 16)), range(1, 10)),
        (8, ((2, 8), (4, 8), (6, 8)), range(1, 9)),
        (4, ((2, 4), (3, 4)), range(1, 8)),
        (2, ((1, 2),), range(1, 7)),
    ),
    "msvq": (
        (16, ((2, 16), (4, 16), (6, 16), (7, 16), (8, 16), (10, 16)), range(0, 6)),
        (8, ((2, 8), (3, 8), (4, 8), (6, 8)), range(0, 7)),
        (4, ((3, 4),), range(0, 8)),
    ),
}

#: The most bits a weight, beside 8, that layers get.
MOST = 4.5

#: Images that divergences are measured on.
IMAGES = 250

#: Subvectors that a k-means is of, and its iterations.
SUBVECTORS, ITERATIONS = 1 << 14, 6


@dataclass(frozen=True)
class Choice:
    """What a layer may be: its recipe, the bits of all of it, and the divergence of the network with it alone."""

    recipe: Recipe
    bits: int
    loss: float

    def fields(self) -> dict[str, Any]:
        """For JSON: what is not the recipe's default, or the menu's."""
        own = self.recipe
        recipe = {"method": own.method, "d": own.d, "n": own.n, "m": own.m, "k": own.k}
        return {"recipe": recipe, "bits": self.bits, "loss": self.loss}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Choice:
        """The reverse of :meth:`fields`."""
        return cls(Recipe(**fields["recipe"]), fields["bits"], fields["loss"])


def _menu(source: LayerSource, method: str) -> Iterator[Recipe]:
    """What a layer may be, 8 bit among it. Codewords without masks may be 1.5 times a power of 2, too."""
    yield Recipe("int8")
    weights = source.weight.size
    for d, masks, widths in MENUS[method]:
        for n, m in masks:
            for k in dict.fromkeys(int(by * (1 << w)) for w in widths for by in ((1.0,) if m else (1.0, 1.5))):
                own = Recipe(method, k, d, n, m)
                if misfit(source, own) is None and recipe_bits(weights, own).per_weight <= MOST:
                    yield own


def _bits(source: LayerSource, recipe: Recipe) -> int:
    """Of all of a layer."""
    weights = source.weight.size
    return 8 * weights if recipe.method == "int8" else recipe_bits(weights, recipe).total


def _decoded(weight: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """A weight ``[K, C, R, S]`` as a recipe leaves it, but for the codewords' 8 bits; at 8 bit as it is."""
    if recipe.method == "int8":
        return weight
    (K, C, R, S), d = weight.shape, recipe.d
    values = weight.reshape(K // d, d, C, R, S).permute(0, 2, 3, 4, 1).reshape(-1, d)
    keep = torch.ones_like(values)
    if recipe.masked:
        groups = values.abs().reshape(-1, recipe.m)
        keep = torch.zeros_like(groups).scatter_(1, groups.topk(recipe.n, 1).indices, 1.0).reshape(values.shape)
    coded = keep * (values.abs() if recipe.signed else values)
    some = torch.randperm(len(coded), generator=generator, device=coded.device)[:SUBVECTORS]
    codebook = weighted_kmeans(coded[some], keep[some], recipe.k, generator, ITERATIONS)
    found = keep * codebook[nearest(coded, keep, codebook)]
    if recipe.signed:
        found = found.copysign(values) * keep
    return found.reshape(K // d, C, R, S, d).permute(0, 4, 1, 2, 3).reshape(K, C, R, S)


def _front(entries: Sequence[tuple[int, float]]) -> list[int]:
    """Of pairs of bits and errors the numbers of those that no other one has both less of, by bits."""
    kept: list[int] = []
    for number in sorted(range(len(entries)), key=lambda i: entries[i]):
        if not kept or entries[number][1] < entries[kept[-1]][1]:
            kept.append(number)
    return kept


@torch.no_grad()
def measured(
    model: nn.Module, sources: Sequence[LayerSource], method: str, images: Tensor, *, seed: int
) -> dict[str, list[Choice]]:
    """What layers may be by a method, and how far each one alone takes the network's softmax from what it is without.

    Batch norms take the images' statistics, with and without.

    Parameters
    ----------
    model
        In floating point, in evaluation mode, on the images' device.
    sources
        The layers.
    method
        Of :data:`MENUS`.
    images
        Normalised training images, one batch.
    seed
        Of the clusterings.
    """
    found = {}
    generator = torch.Generator(images.device).manual_seed(seed)
    with recalibrated(model):
        expected = model(images).float().log_softmax(-1)
        for source in sources:
            weight = model.get_parameter(f"{source.name}.weight")
            original, shape = weight.detach().clone(), source.shape
            menu = list(_menu(source, method))
            values = [_decoded(original.reshape(shape), own, generator) for own in menu]
            errors = torch.stack([(own - original.reshape(shape)).square().sum() for own in values]).tolist()
            bits = [_bits(source, own) for own in menu]
            front, divergences = _front(list(zip(bits, errors, strict=True))), []
            for number in front:
                weight.copy_(values[number].reshape(weight.shape))
                said = model(images).float().log_softmax(-1)
                divergences.append(functional.kl_div(said, expected, reduction="batchmean", log_target=True))
            weight.copy_(original)
            losses = torch.stack(divergences).tolist()
            found[source.name] = [
                Choice(menu[number], bits[number], max(0.0, loss)) for number, loss in zip(front, losses, strict=True)
            ]
    return found


def recipes_of(
    network: str, weights: Path, case: Case, train: ImageData, file: Path, *, device: str
) -> dict[str, Recipe]:
    """Of each layer of a study's network the recipe, for the smallest sum of divergences within the case's bits.

    Choices are :func:`measured` once, and read from ``file`` by all runs and sizes.

    Raises
    ------
    CompressError
        The file is of other weights or another number of images, or damaged.
    ValueError
        The smallest choices take more bits than the case has.
    """
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    settings = {"weights": digest, "images": len(train), "method": case.recipe.method}
    if not file.exists():
        deterministic()
        model = build(network, weights).to(device).eval()
        sources = [
            source
            for source in module_sources(model)
            if source.name not in KEPT_8BIT and misfit(source, Recipe("vq", 1, 1, 0, 0)) != "depthwise"
        ]
        images = next(images_of(train, device, batch=IMAGES))[0]
        found = measured(model, sources, case.recipe.method, images, seed=TRY_SEEDS[0])
        layers = {
            source.name: {"weights": source.weight.size, "choices": [choice.fields() for choice in found[source.name]]}
            for source in sources
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json_text(settings | {"layers": layers}))
    layers = read_run(file, settings, {})["layers"]
    choices = {name: [Choice.of(each) for each in layer["choices"]] for name, layer in layers.items()}
    assert case.mean_bits is not None
    room = int(case.mean_bits * sum(layer["weights"] for layer in layers.values()))
    chosen = cheapest({name: [(each.bits, each.loss) for each in own] for name, own in choices.items()}, room)
    return {name: choices[name][number].recipe for name, number in chosen.items()}
