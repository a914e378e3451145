"""Exact references in plain integers."""

from __future__ import annotations

import pytest


def rounded(value: int, shift: int, low: int, high: int) -> int:
    """``clamp(round(value / 2**shift), low, high)``, halves away from zero."""
    magnitude = (2 * abs(value) + (1 << shift)) // (2 << shift)
    return max(low, min(high, magnitude if value >= 0 else -magnitude))


@pytest.fixture(name="rounded")
def rounded_fixture():
    return rounded
