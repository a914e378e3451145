"""What the demo prints, made from its summary alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from synth.report import BLOCKS

__all__ = ["area_table", "closing_line", "compression_table", "cosimulation_table", "totals_table", "verilog_line"]


def _table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose columns after ``>`` are numbers."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def compression_table(reports: Sequence[dict[str, Any]]) -> Table:
    """One row for each layer and recipe: errors, and compression ratios by equation 7 and by the bytes of the file."""
    table = _table(
        "Layers", "layer", "shape", "method", ">SSE", ">SSE kept", ">eq. 7", ">file", "kept at 8 bit because"
    )
    for report in reports:
        table.add_row(f"[bold]{report['recipe']}[/bold]")
        for row in report["layers"]:
            table.add_row(
                row["layer"],
                "x".join(map(str, row["shape"])),
                row["method"],
                _number(row["sse"]),
                _number(row["kept_sse"]),
                f"{row['ideal_ratio']:.2f}",
                f"{row['file_ratio']:.2f}",
                row["reason"] or "",
            )
        table.add_section()
    return table


def totals_table(reports: Sequence[dict[str, Any]]) -> Table:
    """One row for each recipe: its compressed layers together, and the whole file."""
    columns = (
        "recipe",
        ">layers",
        ">at 8 bit",
        ">SSE",
        ">SSE kept",
        ">error %",
        ">ratio, eq. 7",
        ">file bytes",
        ">ratio, file",
    )
    table = _table("Networks: errors and equation 7 over the compressed layers, file with all convolutions", *columns)
    for report in reports:
        compressed, file = report["totals"][0], report["container"]
        raw = sum(row["method"] == "int8" for row in report["layers"])
        table.add_row(
            report["recipe"],
            str(len(report["layers"]) - raw),
            str(raw),
            _number(compressed["sse"]),
            _number(compressed["kept_sse"]),
            f"{100 * compressed['relative_error']:.1f}",
            f"{compressed['ideal_ratio']:.2f}",
            f"{file['bytes']:,}",
            f"{file['ratio']:.2f}",
        )
    return table


def verilog_line(report: dict[str, Any]) -> str:
    """What was generated."""
    files = ", ".join(f"{name} ({size:,} bytes)" for name, size in report["files"].items())
    return f"[bold]Verilog[/bold] of {report['preset']}: {files}\n"


def cosimulation_table(reports: Sequence[dict[str, Any]], preset: str) -> Table:
    """One row for each layer that ran."""
    columns = (
        "layer",
        "shape",
        "method",
        "activations",
        ">sums compared",
        ">different",
        ">cycles",
        ">predicted",
        ">utilisation",
    )
    table = _table(f"Co-simulation of {preset} against the golden model, on a photograph's activations", *columns)
    for report in reports:
        table.add_row(
            report["layer"],
            "x".join(map(str, report["shape"])),
            report["method"],
            "x".join(map(str, report["activations"])),
            f"{report['sums']:,}",
            str(report["mismatches"]),
            f"{report['cycles']:,}",
            f"{report['predicted']:,}",
            f"{100 * report['utilisation']:.1f} %",
        )
    return table


def area_table(report: dict[str, Any]) -> Table:
    """One row for each block, one column for each array; totals also relative to the dense array of that size."""
    presets = report["presets"]
    title = f"Area in thousands of NAND2, library {report['library']}"
    table = _table(title, "block", *(f">{name}" for name in presets))
    for block in BLOCKS:
        cells = (values["blocks"].get(block) for values in presets.values())
        table.add_row(block, *("" if cell is None else f"{cell['nand2'] / 1000:,.1f}" for cell in cells))
    table.add_section()
    for label, key in (("total", "total_nand2"), ("without CRF", "without_crf_nand2")):
        table.add_row(label, *(f"{values[key] / 1000:,.1f}" for values in presets.values()))
        table.add_row(f"{label}, to EWS", *(_to_dense(presets, name, key) for name in presets))
    return table


def _to_dense(presets: dict[str, Any], name: str, key: str) -> str:
    dense = presets[f"ews-{name.rpartition('-')[2]}"]
    return f"{100 * (presets[name][key] / dense[key] - 1):+.1f} %"


def closing_line(summary: dict[str, Any], folder: Path) -> str:
    """How long it took, and where everything is."""
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in summary["seconds"].items())
    return f"{seconds}. Containers, Verilog and summary.json are in {folder}"
