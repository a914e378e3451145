"""Which recipe each layer of a network gets where one is named for all: what keeps whole weights, and why."""

from __future__ import annotations

import glob
from collections.abc import Sequence

from sw.compress.methods import LayerSource, Recipe, kept_recipe, misfit, recipe_bits

__all__ = ["default_rules", "method_rules"]

#: A file that is larger by this with its last layer at 8 bit than with it compressed has it compressed.
_LARGER = 1.5


def method_rules(
    sources: Sequence[LayerSource], recipe: Recipe, keep: Sequence[str] | None = None
) -> list[tuple[str, Recipe]]:
    """Rules that compress all layers by one recipe, but for some that keep weights of 8 bits (``uniform_bits``).

    Parameters
    ----------
    sources
        Of the network.
    recipe
        How.
    keep
        Shell patterns of the layers that stay; by default those of :func:`default_rules`.
    """
    if keep is None:
        return default_rules(sources, recipe)[0]
    return [*((pattern, kept_recipe(recipe)) for pattern in keep), ("*", recipe)]


def default_rules(sources: Sequence[LayerSource], recipe: Recipe) -> tuple[list[tuple[str, Recipe]], str]:
    """Rules that keep the first layer at 8 bits (``uniform_bits``), and the last one if that costs little.

    Both are what compression harms most, and of most networks a small part. Where the file would be more than half
    again as large, as of a network for phones with a classifier of a thousand classes, the last layer is compressed,
    too: by the recipe, or, where that does not fit it (:func:`sw.compress.methods.misfit`), uniformly to 4 bits.

    Parameters
    ----------
    sources
        Of the network.
    recipe
        Of the other layers.

    Returns
    -------
    tuple
        Rules, and a sentence that says what they are and why.
    """
    first, last = sources[:1], sources[-1:]
    bits = recipe.uniform_bits
    rules = [(glob.escape(source.name), kept_recipe(recipe)) for source in (*first, *last)] + [("*", recipe)]
    if recipe.method == "int8" or len(sources) < 2:
        which = "All layers stay" if recipe.method == "int8" else "The only layer stays"
        return rules, f"{which} at {bits} bits."
    instead = recipe if misfit(last[0], recipe) is None else Recipe("lsq4")
    whole = last[0].weight.size * bits / 8
    rest = sum(_bytes(source, recipe) for source in sources[1:-1]) + first[0].weight.size * bits / 8
    kept, coded = rest + whole, rest + _bytes(last[0], instead)
    names = repr(first[0].name), repr(last[0].name)
    share = f"{whole / 1e6:.3g} of {kept / 1e6:.3g} MB"
    if kept <= _LARGER * coded:
        text = f"The first layer {names[0]} and the last {names[1]} stay at {bits} bits, the last with {share}"
        return rules, f"{text}: --keep names others."
    how = instead.method if instead is recipe else f"{instead.method}, as {recipe.method} does not fit it"
    text = (
        f"The first layer {names[0]} stays at {bits} bits, but not the last, {names[1]}, which would be {share}: it"
        f" gets {how}, and the weights {coded / 1e6:.3g} MB."
        f" --keep {glob.escape(first[0].name)} {glob.escape(last[0].name)} keeps it."
    )
    rules = [rules[0], (glob.escape(last[0].name), instead), ("*", recipe)]
    return rules, text


def _bytes(source: LayerSource, recipe: Recipe) -> float:
    """Bytes of a layer's weights in a file."""
    if recipe.method.startswith("lsq"):
        return source.weight.size * int(recipe.method[3:]) / 8
    if recipe.stored == "int8" or misfit(source, recipe) is not None:
        return source.weight.size * recipe.uniform_bits / 8
    return recipe_bits(source.weight.size, recipe).total / 8
