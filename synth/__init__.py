"""Area of the accelerator by block: Yosys, cell libraries, reports."""

from typing import TYPE_CHECKING, Any

import hw  # noqa: F401 - Ctrl-C while a command loads is one line

if TYPE_CHECKING:
    from synth.report import AreaReport, area

__all__ = ["AreaReport", "area"]


def __getattr__(name: str) -> Any:
    """What the package offers, loaded at its first use: command lines that only print their help need none of it."""
    if name in __all__:
        from synth import report

        return getattr(report, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
