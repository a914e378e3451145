"""Where things are kept that are built once and used again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["build_folder"]

_ROOT = Path(__file__).parents[1]


def build_folder(name: str) -> Path:
    """``build/NAME`` of a checkout; of an installed package the user's cache directory, never beside the package.

    That is ``$XDG_CACHE_HOME/msvq/NAME``, by default ``~/.cache/msvq/NAME``.
    """
    if (_ROOT / "pyproject.toml").is_file():
        return _ROOT / "build" / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "msvq" / name
