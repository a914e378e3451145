"""JSON as this project's files allow it: no key twice, no number that is not finite."""

from __future__ import annotations

import json
from collections import Counter
from math import isfinite
from typing import Any

__all__ = ["parse_json"]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Readers differ in which of two equal keys they take, so the formats allow none."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"key {name!r} must not be there twice")
    return dict(pairs)


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"a number must be finite, not {text}")
    return value


def parse_json(data: bytes) -> Any:
    """The value of a JSON text.

    Raises
    ------
    ValueError
        The text is no JSON, an object has a key twice, a number is not finite, or lists lie too deep in lists.
    """
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None
