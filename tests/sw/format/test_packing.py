from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from hw.layout import mask_rank, mask_unrank
from sw.format.packing import PackingError, mask_code_bits, pack_fields, rank_masks, unpack_fields, unrank_masks


@pytest.mark.parametrize("bits", range(1, 33))
def test_fields_against_one_long_integer(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for count in (0, 1, 7, 8, 61):
        values = rng.integers(0, 1 << bits, count, dtype=np.int64)
        values[:2] = [0, (1 << bits) - 1][:count]
        number = sum(int(value) << (bits * i) for i, value in enumerate(values))
        packed = pack_fields(values, bits)
        assert packed == number.to_bytes(-(-count * bits // 8), "little")
        assert np.array_equal(unpack_fields(packed, bits, count), values)
        assert np.array_equal(unpack_fields(packed + bytes(5), bits, count), values)


def test_pack_takes_any_shape_and_dtype() -> None:
    assert pack_fields([[True, False], [True, True]], 1) == b"\x0d"
    assert pack_fields(np.array([1, 2], np.uint64), 4) == b"\x21"
    assert pack_fields([], 5) == b""


@pytest.mark.parametrize(
    ("values", "bits", "message"),
    [
        pytest.param([0], 0, r"bits must be in 1\.\.32, not 0", id="no bits"),
        pytest.param([0], 33, r"bits must be in 1\.\.32, not 33", id="33 bits"),
        pytest.param([0], 2.0, r"bits must be in 1\.\.32, not 2\.0", id="float bits"),
        pytest.param([3, 8], 3, r"values must be in 0\.\.7 for 3 bits, not 8", id="too large"),
        pytest.param([3, -1], 3, r"values must be in 0\.\.7 for 3 bits, not -1", id="negative"),
        pytest.param([0.5], 3, r"values must be integers, not float64", id="float values"),
        pytest.param([2**32], 32, r"values must be in 0\.\.4294967295 for 32 bits, not 4294967296", id="33rd bit"),
    ],
)
def test_pack_refuses(values: list[int], bits: int, message: str) -> None:
    with pytest.raises(PackingError, match=message):
        pack_fields(values, bits)


@pytest.mark.parametrize(
    ("data", "bits", "count", "message"),
    [
        pytest.param(b"\x00", 3, 3, r"3 fields of 3 bits need 2 bytes, not 1", id="too short"),
        pytest.param(b"\x00", 3, -1, r"count must be at least 0, not -1", id="negative count"),
        pytest.param(b"\x40", 3, 2, r"padding behind 2 fields of 3 bits must be zero", id="padding bit"),
        pytest.param(b"\x00\x01", 8, 1, r"padding behind 1 fields of 8 bits must be zero", id="padding byte"),
        pytest.param(b"\x00", 40, 1, r"bits must be in 1\.\.32, not 40", id="40 bits"),
    ],
)
def test_unpack_refuses(data: bytes, bits: int, count: int, message: str) -> None:
    with pytest.raises(PackingError, match=message):
        unpack_fields(data, bits, count)


@pytest.mark.parametrize(("n", "m"), [(4, 16), (1, 2), (2, 4), (6, 16), (1, 1), (3, 3), (7, 8)])
def test_ranks_of_all_masks(n: int, m: int) -> None:
    # Colexicographic order without the formula: compare kept positions from the last to the first.
    kept = sorted(combinations(range(m), n), key=lambda positions: positions[::-1])
    masks = np.zeros((len(kept), m), np.bool_)
    for rank, positions in enumerate(kept):
        masks[rank, list(positions)] = True
    ranks = np.arange(comb(m, n))
    assert np.array_equal(rank_masks(masks, n), ranks)
    assert np.array_equal(unrank_masks(ranks, n, m), masks)
    assert [mask_rank(mask, n) for mask in masks.tolist()] == ranks.tolist()
    assert [mask_unrank(rank, n, m) for rank in ranks.tolist()] == masks.tolist()


def test_ranks_of_the_widest_masks() -> None:
    ranks = np.array([[0, 1], [comb(32, 16) - 1, 123456789]])
    masks = unrank_masks(ranks, 16, 32)
    assert masks.shape == (2, 2, 32)
    assert np.array_equal(rank_masks(masks, 16), ranks)
    assert mask_rank(masks[1, 1].tolist(), 16) == 123456789
    assert mask_code_bits(16, 32) == 30
    # One position of many pruned: binomials in between are larger than any rank.
    assert np.array_equal(rank_masks(unrank_masks(np.arange(200), 199, 200), 199), np.arange(200))


def test_mask_code_bits() -> None:
    assert [mask_code_bits(*nm) for nm in ((4, 16), (1, 2), (2, 4), (8, 8))] == [11, 1, 3, 0]


def test_mask_code_refuses() -> None:
    with pytest.raises(PackingError, match=r"mask rank must be in 0\.\.5 for 2:4, not 6"):
        unrank_masks([0, 6], 2, 4)
    with pytest.raises(PackingError, match=r"mask rank must be in 0\.\.5 for 2:4, not -1"):
        unrank_masks([0, -1], 2, 4)
    with pytest.raises(PackingError, match="masks must keep 2 of every 4 positions, not 3"):
        rank_masks(np.array([[True, True, True, False]]), 2)
    with pytest.raises(PackingError, match="the rank of a 20:40 mask must fit 32 bits, not 38"):
        mask_code_bits(20, 40)
    with pytest.raises(PackingError, match=r"n must be in 1\.\.m = 1\.\.4, not 0"):
        mask_code_bits(0, 4)
