"""The Pareto front of a sweep, its table and its picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from synth.charts import Scatter, scatter
from synth.report import table

__all__ = ["OBJECTIVES", "csv_text", "markdown", "pareto", "picture"]

#: What a point can be good at, and whether less is better.
OBJECTIVES: Mapping[str, bool] = {
    "area": True,
    "cycles": True,
    "energy": True,
    "bits_a_weight": True,
    "dram_bytes": True,
    "accuracy": False,
}


def pareto(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[bool]:
    """Whether each row is on the front: no other one is at least as good in all objectives and better in one.

    A row without a value of every objective, that is refused, or whose network does not fit is not on it.
    """
    points: list[tuple[float, ...] | None] = []
    for row in rows:
        values = [(row.get(name), OBJECTIVES[name]) for name in objectives]
        point = tuple(float(value if less else -value) for value, less in values if value is not None)
        usable = len(point) == len(objectives) and not row.get("refused") and not row.get("does_not_fit")
        points.append(point if usable else None)

    def beaten(point: tuple[float, ...]) -> bool:
        return any(
            other is not None and other != point and all(x <= y for x, y in zip(other, point, strict=True))
            for other in points
        )

    return [point is not None and not beaten(point) for point in points]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "front":
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:,.4f}" if name == "utilisation" else f"{value:,.2f}"
    return f"{value:,}" if type(value) is int else str(value)


def markdown(rows: Sequence[Mapping[str, Any]], front: bool = False) -> str:
    """All rows, or those of the front alone, as Markdown; columns that are empty everywhere are left out."""
    chosen = [row for row in rows if row["front"]] if front else rows
    names = [name for name in (rows[0] if rows else ()) if any(row[name] not in (None, "") for row in rows)]
    names = [name for name in names if name != "area_unit" and not (front and name == "front")]
    return table(
        [name.replace("_", " ") for name in names], [[_cell(name, row[name]) for name in names] for row in chosen]
    )


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows and columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def picture(rows: Sequence[Mapping[str, Any]], axes: Sequence[str], objectives: Sequence[str], network: str) -> str:
    """SVG: the first two objectives of all points, those of the front joined and labelled.

    Parameters
    ----------
    axes
        Names of the fields that differ, for the labels.
    """
    x, y = objectives[:2]
    unit = {"um2": "um2", "NAND2": "NAND2"}.get(
        str(next((row["area_unit"] for row in rows if row.get("area_unit")), ""))
    )
    titles = {
        "area": f"area of array and decoder, {unit}",
        "cycles": f"cycles of {network}",
        "energy": "fJ a multiply-accumulate",
        "accuracy": "accuracy, %",
    }
    points = [
        Scatter(
            x=float(row[x]),
            y=float(row[y]),
            label=", ".join(str(row[name]) for name in axes),
            chosen=bool(row["front"]),
            group=str(row.get("preset") or row.get("variant") or ""),
        )
        for row in rows
        if row.get(x) is not None and row.get(y) is not None and not row.get("does_not_fit")
    ]
    return scatter(points, titles.get(x, x.replace("_", " ")), titles.get(y, y.replace("_", " ")), "Pareto front")
