"""Which layer gets how many of a network's bits: those whose error the network says most of (:func:`allocate`)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from experiments.reconstruction import columns, levelled, norms_of, quantised, regularised, subvectors, weighted_kmeans
from sw.compress.methods import LayerSource, Recipe, compress_layer, misfit, recipe_bits
from sw.compress.network import module_sources
from sw.compress.search import loss_sensitivity

__all__ = ["allocate", "cheapest"]

#: What is tried, by the method asked for: method, codeword length, bits of an index. Where signs alone would be most of
#: a layer's bits, codewords have them.
MENUS: dict[str, tuple[tuple[str, int, range], ...]] = {
    "ssvq": (
        ("vq", 8, range(4, 9)),
        ("ssvq", 8, range(1, 11)),
        ("ssvq", 4, range(2, 9)),
        ("ssvq", 2, range(1, 7)),
    ),
    "vq": (("vq", 8, range(4, 12)), ("vq", 4, range(4, 11)), ("vq", 2, range(4, 8))),
}
#: With ``wide``, all of both: plain codewords for every layer, and more of them for the largest.
MENUS["wide"] = MENUS["vq"] + MENUS["ssvq"][1:]

#: Subvectors of a layer that an error is measured on.
SUBVECTORS = 1 << 15

#: One in so many images is for divergences alone. On those that a classifier's codes were made with, it seems to lose
#: next to nothing.
APART = 5

_BATCH = 20


def _edge(own: Sequence[tuple[int, float]]) -> list[int]:
    """Numbers of the choices that are best at some price of a bit: the lower convex hull, from few bits to many."""

    def slope(first: int, second: int) -> float:
        return (own[second][1] - own[first][1]) / (own[second][0] - own[first][0])

    found: list[int] = []
    for i in sorted(range(len(own)), key=lambda i: own[i]):
        if found and own[i][1] >= own[found[-1]][1]:
            continue
        while len(found) > 1 and slope(found[-2], found[-1]) >= slope(found[-1], i):
            found.pop()
        found.append(i)
    return found


def cheapest(choices: Mapping[str, Sequence[tuple[int, float]]], room: int) -> dict[str, int]:
    """Of each layer the number of a choice, of the smallest sum of losses that was found within so many bits.

    The losses of all layers are weighed against their bits at one price, the lowest that the room allows; what is left
    goes, one step at a time, to where a bit wins most.

    Parameters
    ----------
    choices
        Of each layer: bits, and what they lose.
    room
        Bits of all layers together.

    Raises
    ------
    ValueError
        The smallest choices take more.
    """

    edges = {name: _edge(own) for name, own in choices.items()}

    def at(price: float) -> dict[str, int]:
        return {
            name: min(edges[name], key=lambda i: (own[i][1] + price * own[i][0], own[i][0]))
            for name, own in choices.items()
        }

    def bits(chosen: Mapping[str, int]) -> int:
        return sum(choices[name][i][0] for name, i in chosen.items())

    found = {name: min(range(len(own)), key=lambda i: own[i][0]) for name, own in choices.items()}
    if bits(found) > room:
        raise ValueError(f"room must be {bits(found)} bits at least, not {room}")
    low, high = 0.0, 1.0
    for _ in range(100):
        price = (low + high) / 2
        if bits(at(price)) <= room:
            high, found = price, at(price)
        else:
            low = price
    while True:
        left = room - bits(found)
        steps = [
            ((choices[name][i][1] - loss) / (taken - choices[name][i][0]), name, number)
            for name, i in found.items()
            for number, (taken, loss) in enumerate(choices[name])
            if 0 < taken - choices[name][i][0] <= left and loss < choices[name][i][1]
        ]
        if not steps:
            return found
        _, name, number = max(steps)
        found[name] = number


def _hessians(model: nn.Module, names: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """The mean of ``x x^T`` of each layer's inputs, ``[n, n]``."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def add(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            values = columns(module, given[0])
            sums[name] = sums.get(name, 0) + values.T @ values
            counts[name] = counts.get(name, 0) + len(values)

        return layer.register_forward_pre_hook(add)

    handles = [watch(name, model.get_submodule(name)) for name in names]
    for part in images.split(_BATCH):
        model(part)
    for handle in handles:
        handle.remove()
    return {name: regularised(sums[name], counts[name]) for name in names}


@torch.no_grad()
def allocate(
    model: nn.Module,
    images: Tensor,
    sources: Sequence[LayerSource],
    recipe: Recipe,
    room: int,
    *,
    others: Tensor | None = None,
    wide: bool = False,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Recipe]:
    """Codeword length and codewords of each layer, for the smallest sum of what each layer alone does to the output.

    For each layer, the divergence of the network with it alone compressed at two bits a weight is measured; other bits
    change it as they change the weighted squared error of a k-means.

    Parameters
    ----------
    model
        In evaluation mode, in floating point.
    images
        Normalised, on the model's device.
    sources
        The layers that get codewords.
    recipe
        Its method; of signs split off, common codewords serve large layers of few bits.
    room
        Bits of all of them together.
    others
        Pictures of anything else, normalised: codes are made with them, too, but no divergence is measured on them. Of
        pictures that are unlike what its classes are, a network says so little that its classifier seems to need next
        to no bits.
    wide
        Codewords of both methods, whatever the recipe's is.
    seed, report
        Of the k-means, and told a line about each layer.
    """
    device = images.device
    generator = torch.Generator(device).manual_seed(seed)
    norms = norms_of(fx.symbolic_trace(model))
    apart = torch.arange(len(images), device=device) % APART == 0
    shown = images[~apart] if others is None else torch.cat([images[~apart], others])
    hessians = _hessians(model, [source.name for source in sources], shown)
    medium = dataclasses.replace(recipe, d=8, k=256)
    menu = MENUS["wide" if wide else recipe.method]
    layers, menus, errors = [], {}, {}
    for source in sources:
        weight = torch.from_numpy(source.weight).flatten(1).to(device)
        weight, gains = levelled(weight, norms[source.name])
        own = [
            dataclasses.replace(recipe, method=method, d=d, k=1 << width)
            for method, d, widths in menu
            for width in widths
        ]
        own = [each for each in own if misfit(source, each) is None]
        reference = medium if medium in own else own[len(own) // 2]
        errors[source.name] = [
            _error(*subvectors(weight, hessians[source.name], gains, each), each.k, generator) for each in own
        ]
        # Among the others, so that its error is measured as theirs are.
        scale = errors[source.name][own.index(reference)]
        errors[source.name] = [error / scale for error in errors[source.name]]
        menus[source.name] = own
        layers.append(quantised(source, reference, weight, hessians[source.name], gains, generator)[0])
    # Rows of one energy: a batch norm takes its statistics of them here.
    compared = copy.deepcopy(model)
    known = {layer.name for layer in layers}
    every = [layer for layer in layers] + [
        compress_layer(source, Recipe("int8")) for source in module_sources(model) if source.name not in known
    ]
    per_error = loss_sensitivity(compared, every[: len(layers)], images[apart], batch=100, progress=False)
    choices = {}
    for source, layer in zip(sources, layers, strict=True):
        decoded = torch.from_numpy(layer.float_weights()).double().flatten()
        squares = float((decoded - torch.from_numpy(source.weight).double().flatten()).square().sum())
        divergence = per_error[source.name] * squares
        choices[source.name] = [
            (recipe_bits(source.weight.size, each).total, divergence * error)
            for each, error in zip(menus[source.name], errors[source.name], strict=True)
        ]
        report(f"{source.name} {source.weight.size} divergence {divergence:.4f}")
    found = cheapest(choices, room)
    for name, number in found.items():
        bits, loss = choices[name][number]
        chosen = menus[name][number]
        report(f"{name} {chosen.method} d={chosen.d} k={chosen.k} {bits} bits, divergence {loss:.4f}")
    return {name: menus[name][number] for name, number in found.items()}


def _error(values: Tensor, weights: Tensor, k: int, generator: torch.Generator) -> float:
    """Weighted squared error of so many codewords, as a share of the energy; of some of the subvectors."""
    if len(values) > SUBVECTORS:
        some = torch.randperm(len(values), generator=generator, device=values.device)[:SUBVECTORS]
        values, weights = values[some], weights[some]
    codebook = weighted_kmeans(values, weights, k, generator, iterations=8)
    distances = []
    for v, w in zip(values.split(1 << 14), weights.split(1 << 14), strict=True):
        nearest = (w @ (codebook**2).T - 2 * (w * v) @ codebook.T).amin(1)
        distances.append(nearest.sum() + (w * v * v).sum())
    return float(torch.stack(distances).sum() / (weights * values**2).sum())
