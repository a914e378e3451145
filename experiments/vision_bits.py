"""Of a study's network (:mod:`experiments.vision`), which layer gets how many bits: where the loss is most by them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from experiments.allocation import cheapest
from experiments.case import Case
from experiments.reconstruction import norms_of
from sw.compress.methods import LayerSource, Recipe, compress_layer, misfit, recipe_bits

__all__ = ["batch_statistics", "bits_of", "level_rows", "measured_recipes", "menu", "method_recipes", "variants"]

#: Codeword lengths, each with its N:M of methods that prune, and the bits of an index.
LENGTHS: Mapping[str, Sequence[tuple[int, Sequence[tuple[int, int]], Sequence[int]]]] = {
    "vq": ((8, ((0, 0),), range(3, 9)), (4, ((0, 0),), range(2, 8)), (2, ((0, 0),), range(2, 6))),
    "ssvq": ((8, ((0, 0),), range(0, 7)), (4, ((0, 0),), range(0, 6)), (2, ((0, 0),), range(1, 5))),
    "mvq": (
        (16, ((4, 16), (6, 16), (8, 16)), range(1, 8)),
        (8, ((2, 8), (4, 8), (5, 8)), range(1, 7)),
        (4, ((2, 4), (3, 4)), range(2, 6)),
    ),
    "msvq": (
        (16, ((4, 16), (6, 16), (8, 16)), range(0, 6)),
        (8, ((2, 8), (4, 8), (5, 8)), range(0, 5)),
        (4, ((2, 4), (3, 4)), range(0, 4)),
    ),
}

#: Bits of a codeword's weight that are tried: narrow ones leave small layers more codewords.
CODEWORD_BITS = (8, 4)

#: Bits a weight, beside 8, that layers get at least and at the most.
LEAST, MOST = 0.6, 4.5

#: Images that losses are measured on.
IMAGES = 32


@torch.no_grad()
def level_rows(graph: fx.GraphModule, names: Sequence[str]) -> None:
    """Give the rows of these layers' weights one energy, where a batch norm takes their factors: the same function.

    A codeword stands for weights of several output channels, which then are of one size.
    """
    norms = norms_of(graph)
    for name in names:
        layer, norm = graph.get_submodule(name), norms[name]
        if norm is None:
            continue
        assert isinstance(layer.weight, Tensor)
        size = layer.weight.flatten(1).square().mean(1).sqrt().clamp_min(1e-12)
        size /= size.square().mean().sqrt()
        layer.weight /= size.reshape(-1, 1, 1, 1)
        if isinstance(layer.bias, Tensor):
            layer.bias /= size
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean /= size
        # The sum with epsilon is what is divided by.
        norm.running_var.copy_((norm.running_var + norm.eps) / size.square() - norm.eps)


def method_recipes(case: Case, seed: int) -> list[Recipe]:
    """Of each method that the case's layers may have a recipe, with the first of its lengths and masks."""
    found = []
    for method in (case.recipe.method, *case.others):
        d, masks, _ = LENGTHS[method][0]
        n, m = masks[0]
        found.append(dataclasses.replace(case.recipe, method=method, d=d, n=n, m=m, seed=seed))
    return found


def variants(recipes: Sequence[Recipe], widths: Sequence[int] | None = None) -> Iterator[Recipe]:
    """Each recipe with all its method's lengths, masks, bits of an index (or these) and bits of a codeword."""
    for recipe in recipes:
        for d, masks, own in LENGTHS[recipe.method]:
            for (n, m), width, bits in itertools.product(masks, widths or own, CODEWORD_BITS):
                yield dataclasses.replace(recipe, d=d, n=n, m=m, k=1 << width, codeword_bits=bits)


def menu(source: LayerSource, recipes: Sequence[Recipe]) -> list[Recipe]:
    """What a layer may be by these methods, 8 bit among it."""
    size = source.weight.size
    fitting = [
        own
        for own in variants(recipes)
        if misfit(source, own) is None and LEAST <= recipe_bits(size, own).per_weight <= MOST
    ]
    return [Recipe("int8", seed=recipes[0].seed), *fitting]


def bits_of(source: LayerSource, recipe: Recipe) -> int:
    """What a layer takes by an entry of its menu, its codebook included."""
    size = source.weight.size
    return 8 * size if recipe.method == "int8" else recipe_bits(size, recipe).total


@contextlib.contextmanager
def batch_statistics(graph: nn.Module) -> Iterator[None]:
    """Batch norms take the statistics of the batch, and keep their own as they are."""
    norms = [module for module in graph.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    graph.train()
    try:
        yield
    finally:
        graph.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@torch.no_grad()
def measured_recipes(
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
    """Of each layer the recipe, for the smallest sum of what each one alone adds to the loss, within the case's bits.

    The graph's batch norms take the statistics of the batch, as in training; where ``loss`` compares it with a network
    that has its own, it is not 0 before anything is compressed, and a layer that brings it below that counts as adding
    nothing. Of small networks this may be so of choices of few bits: those are taken, and bits are left over, which
    the last line that is reported says.

    Parameters
    ----------
    graph
        In floating point, on the images' device, in evaluation mode.
    sources
        The layers that are compressed.
    case
        Its methods, and ``mean_bits`` of all of ``sources`` together, codebooks included.
    loss
        Of a network for a batch.
    images
        Normalised training images, ``[n, 3, rows, columns]``; the first :data:`IMAGES` count.
    seed, threads, report
        Of the clusterings, and told a line about each layer, and one about all.

    Raises
    ------
    ValueError
        The smallest choices take more bits than the case has.
    """
    assert case.mean_bits is not None
    room = int(case.mean_bits * sum(source.weight.size for source in sources))
    choices: dict[str, list[tuple[int, float]]] = {}
    menus: dict[str, list[Recipe]] = {}
    images = images[:IMAGES]
    with batch_statistics(graph):
        whole = float(loss(graph, images))
        for source in sources:
            weight = graph.get_submodule(source.name).weight
            assert isinstance(weight, Tensor)
            original = weight.detach().clone()
            menus[source.name] = menu(source, method_recipes(case, seed))
            choices[source.name] = []
            for own in menus[source.name]:
                values = compress_layer(source, own, threads=threads).float_weights().astype(np.float32)
                weight.copy_(torch.from_numpy(values))
                added = max(0.0, float(loss(graph, images)) - whole)
                choices[source.name].append((bits_of(source, own), added))
            weight.copy_(original)
    found, taken = cheapest(choices, room), 0
    for source in sources:
        number = found[source.name]
        own, (bits, added) = menus[source.name][number], choices[source.name][number]
        taken += bits
        report(
            f"{source.name} {bits / source.weight.size:.2f} bits a weight: {own.method} {own.n}:{own.m} d={own.d}"
            f" k={own.k} of {own.codeword_bits} bits, loss {added:.3f}"
        )
    report(f"{taken:,} of {room:,} bits")
    return {name: menus[name][number] for name, number in found.items()}
