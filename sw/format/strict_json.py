"""JSON as this project's files allow it, no key twice and no number that is not finite, and as its reports have it."""

from __future__ import annotations

import json
from collections import Counter
from math import isfinite
from typing import Any

__all__ = ["json_text", "parse_json"]


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


#: Longest line of a report's JSON that could be broken without breaking up an item.
_JSON_COLUMNS = 120


def json_text(value: Any) -> str:
    """A report as JSON, an item of a list a line: two reports are compared by lines.

    Items that have items themselves, and objects of which a line would be longer than 120 characters, take more.
    """
    return _json_lines(value, "", item=False) + "\n"


def _json_lines(value: Any, indent: str, *, item: bool) -> str:
    line = json.dumps(value)
    if not value or not isinstance(value, dict | list):
        return line
    if (item and not _has_items(value)) or len(indent) + len(line) <= _JSON_COLUMNS:
        return line
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}: {_json_lines(own, inner, item=False)}" for name, own in value.items()]
    elif any(isinstance(own, dict | list) for own in value):
        parts = [_json_lines(own, inner, item=True) for own in value]
    else:
        return line
    text = f",\n{inner}".join(parts)
    return f"{{\n{inner}{text}\n{indent}}}" if isinstance(value, dict) else f"[\n{inner}{text}\n{indent}]"


def _has_items(value: Any) -> bool:
    """There is a list of objects in it."""
    if isinstance(value, list):
        return any(isinstance(own, dict) or _has_items(own) for own in value)
    return isinstance(value, dict) and any(_has_items(own) for own in value.values())
