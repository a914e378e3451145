from __future__ import annotations

from math import comb

import numpy as np
import pytest

from sw.format.example import random_layer
from sw.format.packing import rank_masks


@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize("method", ["int8", "vq", "mvq", "ssvq", "msvq"])
def test_corner_values_are_there(method: str, bits: int) -> None:
    coding = {"d": 4, "k": 8, "codeword_bits": bits} if method != "int8" else {"weight_bits": bits}
    coding |= {"n": 2, "m": 4} if method in ("mvq", "msvq") else {}
    layer = random_layer(np.random.default_rng(5), method, (8, 3, 1, 1), requantised=True, **coding)
    stored = layer.weights if layer.codebook is None else layer.codebook
    assert stored is not None
    high = (1 << (bits - 1)) - 1
    low = 0 if layer.signs is not None else -high - 1
    assert {low, high, 0} <= set(stored.reshape(-1).tolist())
    if layer.assignments is not None:
        assert {0, 7} <= set(layer.assignments.tolist())
    if layer.masks is not None:
        assert {0, comb(4, 2) - 1} <= set(rank_masks(layer.masks, 2).tolist())
    assert layer.requantisation is not None
    assert (layer.requantisation.multiplier >= 1 << 30).all()
    again = random_layer(np.random.default_rng(5), method, (8, 3, 1, 1), requantised=True, **coding)
    assert np.array_equal(again.integer_weights(), layer.integer_weights())
