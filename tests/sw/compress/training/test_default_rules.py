"""Which layers stay at 8 bit where nobody says so: not a classifier that is most of the file."""

from __future__ import annotations

import numpy as np
import pytest

from sw.compress.methods import LayerSource, Recipe
from sw.compress.training.default_rules import default_rules, method_rules

MVQ = Recipe("mvq", 32, 16, 4, 16)
SSVQ = Recipe("ssvq", 16, 8, 0, 0)


def layers(classes: int, width: int, inner: int = 64) -> list[LayerSource]:
    """A stem, a convolution of 3 x 3 and a classifier."""
    shapes = [(16, 3, 3, 3), (inner, inner, 3, 3), (classes, width, 1, 1)]
    names = ["conv[1]", "body", "fc"]
    return [
        LayerSource(name=name, kind="linear" if name == "fc" else "conv", weight=np.ones(shape, np.float32))
        for name, shape in zip(names, shapes, strict=True)
    ]


def test_a_small_classifier_stays() -> None:
    rules, why = default_rules(layers(10, 64), MVQ)
    assert rules == [("conv[[]1]", Recipe("int8")), ("fc", Recipe("int8")), ("*", MVQ)]
    assert why.startswith("The first layer 'conv[1]' and the last 'fc' stay at 8 bits, the last with 0.00064 of 0.0")
    assert method_rules(layers(10, 64), MVQ) == rules


@pytest.mark.parametrize(
    ("recipe", "instead", "how"),
    [(SSVQ, SSVQ, "it gets ssvq, and"), (MVQ, Recipe("lsq4"), "it gets lsq4, as mvq does not fit it, and")],
)
def test_a_large_classifier_is_compressed(recipe: Recipe, instead: Recipe, how: str) -> None:
    """1000 channels are a multiple of 8, not of 16."""
    rules, why = default_rules(layers(1000, 128), recipe)
    assert rules == [("conv[[]1]", Recipe("int8")), ("fc", instead), ("*", recipe)]
    assert "stays at 8 bits, but not the last, 'fc', which would be 0.128 of 0.13" in why
    assert how in why
    assert why.endswith("--keep conv[[]1] fc keeps it.")
    kept = method_rules(layers(1000, 128), recipe, ["fc"])
    assert kept == [("fc", Recipe("int8")), ("*", recipe)]


def test_the_file_is_at_most_half_again_as_large() -> None:
    """Where the last layer stays, the file is no larger than that; else compressing it made it that much smaller."""
    for classes in range(8, 400, 8):
        sources = layers(classes, 64)
        rules, _ = default_rules(sources, SSVQ)
        bits = {"int8": 8.0, "ssvq": 1.5}
        codebook = 16 * 8 * 7 / 8
        inner = sources[0].weight.size + sources[1].weight.size * 1.5 / 8 + codebook
        large, small = (
            inner + sources[2].weight.size * bits[method] / 8 + codebook * (method == "ssvq")
            for method in ("int8", "ssvq")
        )
        fits = classes * 64 // 8 >= SSVQ.k and (small - inner) < sources[2].weight.size
        expected = "ssvq" if fits and large > 1.5 * small else "int8"
        if fits:
            assert rules[1][1].method == expected, classes


def test_of_8_bit_and_of_one_layer() -> None:
    assert default_rules(layers(10, 64), Recipe("int8"))[1] == "All layers stay at 8 bits."
    rules, why = default_rules(layers(10, 64)[:1], MVQ)
    assert rules[0][1] == Recipe("int8")
    assert why == "The only layer stays at 8 bits."
