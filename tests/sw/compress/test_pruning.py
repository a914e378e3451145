from __future__ import annotations

import numpy as np
import pytest

from sw.compress.pruning import PruningError, nm_mask


@pytest.mark.parametrize(
    ("n", "m", "d"), [(4, 16, 16), (1, 2, 16), (2, 4, 8), (3, 5, 10), (1, 1, 4), (7, 7, 7), (1, 32, 32)]
)
def test_keeps_the_n_largest_of_every_m(n: int, m: int, d: int) -> None:
    subvectors = np.random.default_rng(0).standard_normal((50, d)).astype(np.float32)
    mask = nm_mask(subvectors, n, m)
    assert mask.shape == subvectors.shape
    magnitudes, kept = np.abs(subvectors).reshape(-1, m), mask.reshape(-1, m)
    assert (kept.sum(axis=1) == n).all()
    if n < m:
        smallest_kept = np.where(kept, magnitudes, np.inf).min(axis=1)
        assert (smallest_kept >= np.where(kept, -np.inf, magnitudes).max(axis=1)).all()


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ([0, 0, 0, 0], [1, 1, 0, 0]),
        ([1, -2, 2, 2], [0, 1, 1, 0]),
        ([1, -1, 1, 3], [1, 0, 0, 1]),
        ([-0.0, 0, 5, 0], [1, 0, 1, 0]),
    ],
)
def test_ties_go_to_the_lowest_position(row: list[float], kept: list[int]) -> None:
    assert nm_mask(np.array([row], dtype=np.float32), 2, 4).astype(int).tolist() == [kept]


@pytest.mark.parametrize(
    ("n", "m", "message"),
    [
        (5, 4, r"n must be in 1..m = 1..4, not 5"),
        (0, 4, r"n must be in 1..m = 1..4, not 0"),
        (-1, 4, r"n must be in 1..m = 1..4, not -1"),
        (1, 3, "m must be at least 1 and divide d = 8, not 3"),
        (1, 16, "m must be at least 1 and divide d = 8, not 16"),
        (1, 0, "m must be at least 1 and divide d = 8, not 0"),
    ],
)
def test_refuses_the_pattern(n: int, m: int, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        nm_mask(np.ones((2, 8), dtype=np.float32), n, m)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(PruningError, match="finite, not NaN or infinite"):
        nm_mask(np.array([[1, value]], dtype=np.float32), 1, 2)


def test_refuses_other_axes() -> None:
    with pytest.raises(PruningError, match=r"shape \[NG, d\], not \[4\]"):
        nm_mask(np.ones(4, dtype=np.float32), 1, 2)


def test_large_layers_are_sorted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(-3, 4, (1000, 16)).astype(np.float32)
    whole = nm_mask(values, 2, 8)
    monkeypatch.setattr("sw.compress.pruning._CHUNK", 100)
    np.testing.assert_array_equal(nm_mask(values, 2, 8), whole)
    values[-1, 3] = np.nan
    with pytest.raises(PruningError, match="must be finite"):
        nm_mask(values, 2, 8)
