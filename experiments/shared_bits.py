"""Of a study's network (:mod:`experiments.vision`), layers that share codebooks, and which of them has how many bits.

A layer of some thousand weights has no room for a codebook of its own. Layers of one recipe share one (MVQ section
4.1), which may then have many codewords. How much a layer's loss grows with its squared error is measured once for
each; which codebooks there are, and which layer takes which, or one of its own, or 8 bits, is then a matter of errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from experiments.allocation import cheapest
from experiments.case import Case
from experiments.vision_bits import IMAGES, LEAST, MOST, batch_statistics, bits_of, menu, method_recipes, variants
from sw.compress.methods import LayerSource, Recipe, compress_layer, compress_layers, misfit, recipe_bits

__all__ = ["shared_recipes"]

#: Bits of an index of a shared codebook that are tried.
WIDTHS = range(9)

#: The part of a layer's weights, in random directions, that its loss is measured with.
NOISE = 0.4

Choices = dict[str, list[tuple[int, float, Recipe]]]


def _shared(recipes: Sequence[Recipe]) -> Iterator[Recipe]:
    """The codebooks that layers may share."""
    return variants([dataclasses.replace(recipe, scope="crosslayer") for recipe in recipes], WIDTHS)


def _codebook_bits(recipe: Recipe) -> int:
    return recipe_bits(recipe.d, recipe).codebook


@torch.no_grad()
def _sensitivities(
    graph: fx.GraphModule,
    sources: Sequence[LayerSource],
    loss: Callable[[nn.Module, Tensor], Tensor],
    images: Tensor,
    seed: int,
) -> dict[str, float]:
    """Of each layer, what is added to the loss for an error of all of its squares."""
    found = {}
    generator = torch.Generator().manual_seed(seed)
    with batch_statistics(graph):
        whole = float(loss(graph, images))
        for source in sources:
            weight = graph.get_submodule(source.name).weight
            assert isinstance(weight, Tensor)
            original = weight.detach().clone()
            size = original.square().mean().sqrt()
            noise = torch.randn(original.shape, generator=generator).to(original.device)
            weight.copy_(original + NOISE * size * noise)
            found[source.name] = max(0.0, float(loss(graph, images)) - whole) / NOISE**2
            weight.copy_(original)
    # None counts as nothing: the loss of one that is small is mostly the noise of the measurement.
    least = 0.1 * float(np.median(list(found.values())))
    return {name: max(value, least) for name, value in found.items()}


def _errors(source: LayerSource, weights: np.ndarray) -> float:
    """The squared error as a share of the weights' squares."""
    wide = source.weight.astype(np.float64)
    return float(((weights - wide) ** 2).sum() / (wide**2).sum())


def _choices(sources: Sequence[LayerSource], recipes: Sequence[Recipe], threads: int) -> Choices:
    """Of each layer: bits without a shared codebook, error, and recipe."""
    found: Choices = {source.name: [] for source in sources}
    for source in sources:
        for own in menu(source, recipes):
            error = _errors(source, compress_layer(source, own, threads=threads).float_weights())
            found[source.name].append((bits_of(source, own), error, own))
    for own in _shared(recipes):
        fitting = [source for source in sources if misfit(source, own) is None]
        if sum(source.weight.size for source in fitting) < own.k * own.d:
            continue
        for source, layer in zip(fitting, compress_layers(fitting, [own] * len(fitting), threads=threads), strict=True):
            bits = dataclasses.replace(recipe_bits(source.weight.size, own), codebook=0).total
            if LEAST <= bits / source.weight.size <= MOST:
                found[source.name].append((bits, _errors(source, layer.float_weights()), own))
    return found


def _best(
    choices: Choices, sensitivities: Mapping[str, float], room: int, codebooks: frozenset[Recipe]
) -> tuple[float, dict[str, int]]:
    """The sum of losses with these shared codebooks, and each layer's choice; infinite where they leave no room."""
    room -= sum(map(_codebook_bits, codebooks))
    numbers = {
        name: [i for i, (_, _, recipe) in enumerate(own) if recipe.scope != "crosslayer" or recipe in codebooks]
        for name, own in choices.items()
    }
    some = {
        name: [(choices[name][i][0], sensitivities[name] * choices[name][i][1]) for i in own]
        for name, own in numbers.items()
    }
    try:
        chosen = cheapest(some, room)
    except ValueError:
        return np.inf, {}
    total = sum(some[name][i][1] for name, i in chosen.items())
    return total, {name: numbers[name][i] for name, i in chosen.items()}


def _selected(
    choices: Choices, sensitivities: Mapping[str, float], room: int
) -> tuple[frozenset[Recipe], dict[str, int]]:
    """Shared codebooks, one after the other the one that takes most away, and each layer's choice with them."""
    known = dict.fromkeys(recipe for own in choices.values() for _, _, recipe in own if recipe.scope == "crosslayer")
    codebooks: frozenset[Recipe] = frozenset()
    least, chosen = _best(choices, sensitivities, room, codebooks)
    while True:
        tried = [codebooks | {recipe} for recipe in known if recipe not in codebooks]
        tried += [codebooks - {recipe} for recipe in known if recipe in codebooks]
        results = [(*_best(choices, sensitivities, room, own), own) for own in tried]
        total, found, own = min(results, key=lambda result: result[0])
        if not total < least * (1 - 1e-4):
            break
        least, chosen, codebooks = total, found, own
    used = {choices[name][i][2] for name, i in chosen.items()}
    return codebooks & used, chosen


def shared_recipes(
    graph: fx.GraphModule,
    sources: Sequence[LayerSource],
    case: Case,
    loss: Callable[[nn.Module, Tensor], Tensor],
    images: Tensor,
    *,
    seed: int,
    threads: int,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Recipe]:
    """Of each layer the recipe, shared codebooks among them, for the smallest sum of losses within the case's bits.

    A layer's loss is taken as proportional to its squared error: how much it grows is measured with random errors of
    all layers, one at a time. Parameters and errors are those of :func:`experiments.vision_bits.measured_recipes`.

    Raises
    ------
    ValueError
        The smallest choices take more bits than the case has.
    """
    assert case.mean_bits is not None
    room = int(case.mean_bits * sum(source.weight.size for source in sources))
    sensitivities = _sensitivities(graph, sources, loss, images[:IMAGES], seed)
    choices = _choices(sources, method_recipes(case, seed), threads)
    codebooks, chosen = _selected(choices, sensitivities, room)
    if not chosen:
        raise ValueError(f"room must be more than {room} bits")
    taken = sum(map(_codebook_bits, codebooks)) + sum(choices[name][i][0] for name, i in chosen.items())
    for recipe in sorted(codebooks, key=_codebook_bits):
        layers = sum(choices[name][i][2] == recipe for name, i in chosen.items())
        report(
            f"{recipe.k} codewords of {recipe.d} x {recipe.codeword_bits} bits, {recipe.n}:{recipe.m}: {layers} layers"
        )
    for name, i in chosen.items():
        _, error, recipe = choices[name][i]
        of = "shared" if recipe.scope == "crosslayer" else "own" if recipe.method != "int8" else "none"
        report(f"{name} {recipe.method} d={recipe.d} k={recipe.k} {of}: error {error:.4f} x {sensitivities[name]:.3f}")
    report(f"{taken:,} of {room:,} bits")
    return {name: choices[name][i][2] for name, i in chosen.items()}
