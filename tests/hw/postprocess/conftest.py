"""Exact references in plain integers, and the models of what stands around a unit."""

from __future__ import annotations

import pytest

from tests.hw.memory.conftest import density, traffic  # noqa: F401


def rounded(value: int, shift: int, low: int, high: int) -> int:
    """``clamp(round(value / 2**shift), low, high)``, halves away from zero."""
    magnitude = (2 * abs(value) + (1 << shift)) // (2 << shift)
    return max(low, min(high, magnitude if value >= 0 else -magnitude))


@pytest.fixture(name="rounded")
def rounded_fixture():
    return rounded
