"""Figures of the papers as data, and ours beside them. ``python -m synth.papers`` computes what they need."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["published", "values"]


@lru_cache
def published() -> dict[str, dict[str, Any]]:
    """All tables and figures, by name, such as ``table 7``: paper, section, title, unit, conditions and values.

    MVQ is arXiv 2412.10261, whose pages as HTML have no numbers: tables, figures and sections say where. SSVQ is arXiv
    2503.08668.
    """
    found: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "figures.json").read_text())
    return found


def values(name: str) -> Any:
    """The values of one table or figure."""
    return published()[name]["values"]
