from __future__ import annotations

from math import comb, prod
from typing import Any

import pytest

from hw.layout import (
    LayerTile,
    Schedule,
    layer_tiles,
    mask_rank,
    mask_unrank,
    position_code,
    position_code_bits,
    row_subvectors,
)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (4, 16), (6, 16), (3, 3), (0, 3)])
def test_rank_and_unrank_are_inverse_over_all_ranks(n: int, m: int) -> None:
    masks = [mask_unrank(rank, n, m) for rank in range(comb(m, n))]
    assert all(len(mask) == m and sum(mask) == n for mask in masks)
    assert [mask_rank(mask, n) for mask in masks] == list(range(comb(m, n)))


def test_first_and_last_rank() -> None:
    assert mask_unrank(0, 4, 16) == [True] * 4 + [False] * 12
    assert mask_unrank(1819, 4, 16) == [False] * 12 + [True] * 4
    assert [mask_unrank(rank, 2, 4) for rank in (1, 2)] == [[True, False, True, False], [False, True, True, False]]


@pytest.mark.parametrize("rank", [-1, 6])
def test_unrank_refuses(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"mask rank must be in 0\.\.5 for 2:4, not {rank}"):
        mask_unrank(rank, 2, 4)


@pytest.mark.parametrize(
    ("rank", "n", "m", "message"),
    [
        (1.5, 2, 4, r"mask rank must be in 0\.\.5 for 2:4, not 1\.5"),
        (0, 5, 4, r"n must be an integer in 0\.\.4, not 5"),
        (0, -1, 4, r"n must be an integer in 0\.\.4, not -1"),
        (0, 0, 0, "m must be an integer of at least 1, not 0"),
    ],
)
def test_unrank_refuses_the_pattern(rank: Any, n: int, m: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_unrank(rank, n, m)


def test_position_code_by_hand() -> None:
    # 3-bit positions 1, 6, 7: low bits 01, 10, 11 from the right, then 2 positions of at least 4.
    assert position_code([1, 6, 7], 8) == 0b10_11_10_01
    assert position_code_bits(3, 8) == 8
    # Pairs: near the lower end, and near the upper one.
    assert (position_code([1, 6], 8), position_code([5, 6], 8)) == (0b101_01, 0b110_10)
    assert (position_code_bits(2, 4), position_code_bits(2, 8), position_code_bits(2, 12)) == (4, 5, 8)
    assert (position_code_bits(4, 16), position_code_bits(8, 16), position_code_bits(1, 1)) == (15, 28, 0)


@pytest.mark.parametrize("m", [8, 16, 32])
def test_codes_of_pairs_differ(m: int) -> None:
    codes = [position_code([p, q], m) for q in range(m) for p in range(q)]
    assert len(set(codes)) == len(codes)
    assert max(codes) < 1 << position_code_bits(2, m)


@pytest.mark.parametrize(
    ("n", "m", "message"),
    [
        (5, 4, r"n must be an integer in 1\.\.4, not 5"),
        (0, 4, r"n must be an integer in 1\.\.4, not 0"),
        (1, 0, "m must be an integer of at least 1, not 0"),
        (1, 4.0, r"m must be an integer of at least 1, not 4\.0"),
    ],
)
def test_position_code_bits_refuses(n: int, m: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        position_code_bits(n, m)


@pytest.mark.parametrize("positions", [[1, 1, 1], [1, 0], [0, 2], [-1, 0], [0.5]])
def test_position_code_refuses(positions: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"positions must be integers that ascend in 0\.\.1, not \["):
        position_code(positions, 2)
    with pytest.raises(ValueError, match="m must be an integer of at least 1, not 0"):
        position_code([], 0)


def test_rank_refuses() -> None:
    with pytest.raises(ValueError, match="mask must keep 2 of 4 positions, not 3"):
        mask_rank([1, 1, 1, 0], 2)


@pytest.mark.parametrize("name", ["H", "L", "A", "B", "Dr", "Ds"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None])
def test_schedule_refuses(name: str, value: object) -> None:
    fields = {"H": 4, "L": 4} | {name: value}
    with pytest.raises(ValueError, match=rf"{name} must be an integer of at least 1, not {value!r}"):
        Schedule(**fields)  # type: ignore[arg-type]


def test_tiles_of_a_layer_with_edges() -> None:
    """12 output and 7 input channels, kernel 1 x 2, on 3 rows and 4 columns with A = B = 2."""
    tiles = list(layer_tiles((12, 7, 1, 2), Schedule(3, 4, A=2, B=2)))
    assert tiles == [
        LayerTile(k0, c0, 0, s0, A, B, 1, 1, rows, first=(c0, s0) == (0, 0), last=(c0, s0) == (6, 1))
        for k0, A in ((0, 2), (8, 1))
        for c0, B, rows in ((0, 2, 3), (6, 1, 1))
        for s0 in (0, 1)
    ]
    assert Schedule(3, 4, Dr=3, Ds=2).D == 6
    assert next(layer_tiles((4, 3, 3, 2), Schedule(3, 4, Dr=3, Ds=2))).D == 6


def test_order_by_hand() -> None:
    # K = 4 in blocks of 2 on 4 columns (two tiles), C = 3 on 2 rows with B = 2, kernel 2 x 2 in one pass.
    writes = list(row_subvectors((4, 3, 2, 2), 2, Schedule(2, 4, B=2, Dr=2, Ds=2)))
    kernel = [0, 2, 1, 3]  # (r, s) = (0, 0), (1, 0), (0, 1), (1, 1): columns outside
    assert writes == [[c * 4 + q, (3 + c) * 4 + q] for q in kernel for c in range(3)]
    # A = 2 column groups of one tile each: both are written for a row group before the next.
    writes = list(row_subvectors((4, 3, 1, 1), 2, Schedule(2, 2, A=2)))
    assert writes == [[0], [1], [3], [4], [2], [5]]
    # A third block alone in the second pair of tiles.
    assert list(row_subvectors((6, 1, 1, 1), 2, Schedule(1, 4))) == [[0, 1], [2, -1]]


@pytest.mark.parametrize("schedule", [Schedule(1, 4), Schedule(5, 8, 2, 3, 3, 1), Schedule(16, 64, 4, 4, 1, 3)])
def test_every_subvector_is_written_once(schedule: Schedule) -> None:
    shape = (20, 13, 3, 3)
    writes = list(row_subvectors(shape, 4, schedule))
    assert sorted(j for write in writes for j in write if j >= 0) == list(range(prod(shape) // 4))
    assert {len(write) for write in writes} == {schedule.L // 4}
    if schedule == Schedule(1, 4):
        assert [write[0] for write in writes] == list(range(len(writes)))


@pytest.mark.parametrize(
    ("shape", "d", "schedule", "message"),
    [
        *(
            pytest.param((6, 1, 1, 1), d, Schedule(1, 4), f"d must be an integer of at least 1, not {d}", id=f"d {d}")
            for d in (0, -1)
        ),
        *(
            pytest.param(
                shape, 1, Schedule(1, 4), rf"shape must be four integers of at least 1 \[K, C, R, S\], not \[{shape[0]}"
            )
            for shape in ((0, 1, 1, 1), (-8, 1, 1, 1), (8, 0, 1, 1), (8.0, 1, 1, 1))
        ),
        pytest.param((6, 1, 1, 1), 4, Schedule(1, 4), "output channels must be a multiple of d = 4, not 6", id="K"),
        pytest.param((8, 1, 1, 1), 4, Schedule(1, 6), "L must be a multiple of d = 4, not 6", id="L"),
        pytest.param((8, 1, 3, 3), 4, Schedule(1, 4, Dr=2), "Dr x Ds must divide the kernel 3 x 3, not 2 x 1", id="Dr"),
        pytest.param((8, 1, 3, 3), 4, Schedule(1, 4, Ds=4), "Dr x Ds must divide the kernel 3 x 3, not 1 x 4", id="Ds"),
    ],
)
def test_order_refuses(shape: tuple[int, ...], d: int, schedule: Schedule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(row_subvectors(shape, d, schedule))


@pytest.mark.parametrize("shape", [(0, 1, 1, 1), (-8, 1, 1, 1), (8, 1, 1)])
def test_tiles_refuse(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"shape must be four integers of at least 1 .*, not \[{shape[0]}"):
        list(layer_tiles(shape, Schedule(1, 4)))
