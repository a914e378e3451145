"""Area of the accelerator by block: Yosys, cell libraries, reports."""

from synth.report import AreaReport, area

__all__ = ["AreaReport", "area"]
