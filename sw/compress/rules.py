"""Recipes of layers in JSON, as the command ``search`` writes them and others read them."""

from __future__ import annotations

import dataclasses
import glob
import os
from pathlib import Path

from sw.compress.methods import CompressError, Recipe
from sw.format.strict_json import parse_json

__all__ = ["read_candidates", "read_rules"]


def read_rules(path: str | os.PathLike[str]) -> list[tuple[str, Recipe]]:
    """The rules of a JSON file of :func:`sw.compress.search.plan_json`.

    A rule may have a shell ``pattern`` in place of a ``layer``.

    Raises
    ------
    CompressError
        The file is no such JSON, or a recipe is out of range.
    """
    try:
        content = parse_json(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise CompressError(f"cannot read rules {os.fspath(path)!r}: {error}") from error
    entries = content.get("rules") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise CompressError(f"rules {os.fspath(path)!r} must be an object with a list of rules")
    names = {field.name for field in dataclasses.fields(Recipe)}
    rules = []
    for number, entry in enumerate(entries):
        place = f"rules {os.fspath(path)!r}, rule {number}"
        if not isinstance(entry, dict) or set(entry) not in ({"layer", "recipe"}, {"pattern", "recipe"}):
            raise CompressError(f"{place} must have a layer or a pattern, and a recipe")
        given, name = entry["recipe"], entry.get("layer", entry.get("pattern"))
        if not isinstance(name, str):
            raise CompressError(f"{place}: the name must be text, not {name!r}")
        if not isinstance(given, dict) or not set(given) <= names:
            raise CompressError(f"{place}: the recipe must be an object of {', '.join(sorted(names))}")
        try:
            rules.append((glob.escape(name) if "layer" in entry else name, Recipe(**given)))
        except ValueError as error:
            raise CompressError(f"{place}: {error}") from None
    return rules


def read_candidates(path: str | os.PathLike[str]) -> list[Recipe]:
    """Recipes of a JSON file: those of its rules (:func:`read_rules`), whatever layers they are for."""
    return [recipe for _, recipe in read_rules(path)]
