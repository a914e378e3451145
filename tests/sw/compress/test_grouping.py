from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hw.layout import Schedule, row_subvectors
from sw.compress.grouping import GroupingError, group, ungroup


@pytest.mark.parametrize(("shape", "d"), [((8, 3, 2, 5), 4), ((8, 1, 1, 1), 8), ((6, 2, 3, 3), 1), ((16, 4, 1, 1), 2)])
def test_order_is_the_canonical_one_and_ungroup_reverses_it(shape: tuple[int, int, int, int], d: int) -> None:
    K, C, R, S = shape
    weight = np.arange(K * C * R * S, dtype=np.float32).reshape(shape)
    subvectors = group(weight, d)
    for kb in range(K // d):
        for c, r, s in np.ndindex(C, R, S):
            number = ((kb * C + c) * R + r) * S + s
            np.testing.assert_array_equal(subvectors[number], weight[kb * d : kb * d + d, c, r, s])
    np.testing.assert_array_equal(ungroup(subvectors, shape), weight)


def test_every_subvector_is_loaded_once() -> None:
    shape, d = (8, 3, 2, 2), 4
    weight = np.zeros(shape, dtype=np.float32)
    numbers = [number for row in row_subvectors(shape, d, Schedule(H=2, L=8, B=2)) for number in row]
    assert sorted(numbers) == list(range(len(group(weight, d))))


@pytest.mark.parametrize(
    ("shape", "d", "message"),
    [
        ((8, 2, 1), 4, r"four axes \[K, C, R, S\], not shape \[8, 2, 1\]"),
        ((10, 2, 1, 1), 4, "divide the 10 output channels, not 4"),
        ((10, 2, 1, 1), 0, "at least 1 .* not 0"),
        ((8, 2, 1, 1), 8.0, r"d must be an integer of at least 1 and divide the 8 output channels, not 8\.0"),
        ((10, 2, 1, 1), 20, "divide the 10 output channels, not 20"),
    ],
)
def test_group_refuses(shape: tuple[int, ...], d: Any, message: str) -> None:
    with pytest.raises(GroupingError, match=message):
        group(np.zeros(shape, dtype=np.float32), d)


@pytest.mark.parametrize(
    ("subvectors", "shape", "message"),
    [
        ((6, 4), (8, 3, 1), r"shape must be \[K, C, R, S\], not \[8, 3, 1\]"),
        ((24,), (8, 3, 1, 1), r"shape \[NG, d\], not \[24\]"),
        ((5, 4), (8, 3, 1, 1), "takes 6 subvectors, not 5"),
        ((6, 4), (6, 4, 1, 1), "divide the 6 output channels, not 4"),
    ],
)
def test_ungroup_refuses(subvectors: tuple[int, ...], shape: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(GroupingError, match=message):
        ungroup(np.zeros(subvectors, dtype=np.float32), shape)
