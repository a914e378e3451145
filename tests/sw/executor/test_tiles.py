"""Tiles that are multiplied together leave what they leave one by one."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hw.config import AcceleratorConfig, preset
from sw.executor.tiles import Array

_FIELDS = {"rows": 0, "codewords": 0, "passes": 1, "advance_columns": 1, "start": 0, "raw": 1, "Dr": 1, "height": 1}
_PITCHES = {"line_pitch": 1, "position_pitch": 1, "dr_pitch": 1, "ds_pitch": 1, "b_pitch": 1}


def _body(r: random.Random, config: AcceleratorConfig, written: np.ndarray) -> dict[str, int]:
    """A TILE whose sums lie among the first entries, as those of others do; it goes on where all are there."""
    A, B, D = r.choice([(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 4, 4)])
    width = r.randint(1, 4)
    base = r.randint(0, 3)
    accumulate = int(bool(written[base : base + width * A].all()) and r.random() < 0.8)
    digits = int(bool(accumulate) and config.weight_bits < 8 and r.random() < 0.3)
    last = int(r.random() < 0.3)
    shape = {"A": A, "B": B, "D": D, "width": width, "shift": digits, "accumulate": accumulate, "last": last}
    return {**_FIELDS, **_PITCHES, **shape, "rows": config.H, "psum_base": base, "l1_base": r.randint(0, 3)}


@pytest.mark.parametrize("settings", [(), ("psum_width=20",), ("weight_bits=4",)])
@pytest.mark.parametrize("seed", range(4))
def test_together_is_one_by_one(settings: tuple[str, ...], seed: int) -> None:
    config = preset("ews-16").override(["arf_depth=16", *settings])
    r, values = random.Random(seed), np.random.default_rng(seed)
    arrays = Array(config, together=True), Array(config, together=False)
    joined = 0
    for _ in range(300):
        if r.random() < 0.1:
            vectors = values.integers(-128, 128, (r.randint(1, 8), config.H), np.int8)
            base = r.randint(0, 12)
            for array in arrays:
                array.write_l1(base, vectors)
        body = _body(r, config, arrays[1].psum_written)
        weights = values.integers(-128, 128, (body["D"], body["B"], body["A"], config.H, config.L), np.int8)
        found = []
        for array in arrays:
            tile = array.shape(body)
            array.check_entries(body, tile)
            found.append(array.multiply(body, tile, weights, array.windows(body, array.region(body))))
        joined = max(joined, *(len(chain.factors) for chain in arrays[0].chains), 0)
        assert found[1] is not None
        if body["last"]:
            np.testing.assert_array_equal(found[0], found[1])
        else:
            assert found[0] is None
    assert joined > 1
    arrays[0].settle(0, len(arrays[0].psum))
    np.testing.assert_array_equal(*(array.psum for array in arrays))
    np.testing.assert_array_equal(*(array.psum_written for array in arrays))


def test_sums_that_nothing_has_written() -> None:
    config = preset("ews-16")
    array = Array(config, together=True)
    body = {**_FIELDS, **_PITCHES, "A": 1, "B": 1, "D": 1, "width": 2, "shift": 0, "accumulate": 1, "last": 0}
    body |= {"rows": config.H, "psum_base": 0, "l1_base": 0}
    weights = np.ones((1, 1, 1, config.H, config.L), np.int8)
    with pytest.raises(ValueError, match="accumulates psum entries that no TILE has written"):
        array.multiply(body, array.shape(body), weights, array.windows(body, array.region(body)))
