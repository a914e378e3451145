"""What the search tries for a layer (:mod:`sw.compress.search`): plain recipes, apart from the search itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sw.compress.methods import Recipe

__all__ = ["BITS", "CANDIDATES", "METHOD_CANDIDATES", "with_codeword_bits"]


def _candidates() -> tuple[Recipe, ...]:
    recipes = [Recipe(method) for method in ("int8", "lsq4", "lsq3", "lsq2")]
    recipes += [Recipe("vq", k, d, 0, 0) for d in (4, 8) for k in (64, 256, 1024)]
    recipes += [Recipe("ssvq", k, d, 0, 0) for d in (8, 16) for k in (4, 16, 64)]
    recipes += [Recipe("mvq", k, 16, n, 16) for n in (4, 6, 8) for k in (64, 256, 512)]
    recipes += [Recipe("msvq", k, 16, n, 16) for n in (3, 4, 6, 8) for k in (4, 16, 32, 128)]
    recipes += [Recipe("mvq", k, 16, 4, 16, scope="crosslayer") for k in (512, 1024, 2048)]
    recipes += [Recipe("msvq", k, 16, 4, 16, scope="crosslayer") for k in (32, 64, 128, 256)]
    return tuple(recipes)


#: Bits of codewords that :data:`CANDIDATES` have.
BITS = (8, 4)


def with_codeword_bits(recipes: Sequence[Recipe], bits: Sequence[int]) -> tuple[Recipe, ...]:
    """The recipes, those with codewords once with each of these ``codeword_bits``.

    Raises
    ------
    CompressError
        A number of bits is out of range.
    """
    return tuple(
        recipe if recipe.stored == "int8" else dataclasses.replace(recipe, codeword_bits=count)
        for recipe in recipes
        for count in (bits if recipe.stored != "int8" else bits[:1])
    )


#: Methods, k, d and N:M of :data:`CANDIDATES`.
METHOD_CANDIDATES = _candidates()

#: What a layer is tried with by default.
CANDIDATES = with_codeword_bits(METHOD_CANDIDATES, BITS)
