"""Pictures as SVG: boxes, text, arrows and bars, in one set of colours."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = [
    "AMBER",
    "BLUE",
    "CHIP",
    "FAINT",
    "FIELDS",
    "FILE",
    "GREEN",
    "GREY",
    "INK",
    "LINE",
    "PAPER",
    "RED",
    "SOFT",
    "Drawing",
    "counted",
]

INK, FAINT, LINE, PAPER = "#1f2933", "#6b7785", "#9aa5b1", "#ffffff"
SOFT, FILE, CHIP = "#eef4fb", "#fdf5e6", "#eef7f0"
BLUE, RED, GREEN, AMBER, GREY = "#2f6db5", "#c4473a", "#3a8f5c", "#c98a1b", "#cbd2d9"
FIELDS = {"index": BLUE, "mask rank": GREEN, "signs": RED}


class Drawing:
    """An SVG text that grows from the back to the front."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" font-family="Helvetica, Arial, sans-serif"><title>{html.escape(title)}</title>',
            f'<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 8 4 0 8z" fill="{FAINT}"/></marker>',
        ]
        self.box(0, 0, width, height, PAPER, radius=10)

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", radius: float = 6
    ) -> None:
        """A rectangle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
            f'stroke="{stroke}"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 12,
        fill: str = INK,
        anchor: str = "middle",
        bold: bool = False,
    ) -> None:
        """One line; x is its start, middle or end."""
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}" text-anchor="{anchor}"{weight}>'
            f"{html.escape(text)}</text>"
        )

    def arrow(self, *points: tuple[float, float]) -> None:
        """A polyline with a tip at its last point."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{FAINT}" stroke-width="1.5" marker-end="url(#tip)"/>'
        )

    def bars(self, x: float, y: float, values: Sequence[float], colours: Sequence[str], scale: float) -> None:
        """A bar for each value, upwards and downwards from y."""
        pitch = 8.5
        self.parts.append(
            f'<line x1="{x - 2:g}" y1="{y:g}" x2="{x + pitch * len(values):g}" y2="{y:g}" stroke="{LINE}" '
            'stroke-width="0.75"/>'
        )
        for i, (value, colour) in enumerate(zip(values, colours, strict=True)):
            height = abs(value) * scale
            top = y - height if value > 0 else y
            self.box(x + i * pitch, round(top, 2), 6.5, round(height, 2), colour, radius=1)

    def bits(self, x: float, y: float, text: str, colour: str) -> float:
        """Cells with one bit each; returns where the next begins."""
        for bit in text:
            self.box(x, y, 13, 18, PAPER, colour, radius=2)
            self.text(x + 6.5, y + 13, bit, 11, colour)
            x += 14
        return x

    def block(self, x: float, y: float, width: float, height: float, lines: Sequence[str], colour: str) -> None:
        """A labelled block; the first line is its name."""
        self.box(x, y, width, height, PAPER, colour)
        top = y + height / 2 - 7.5 * (len(lines) - 1) + 4
        for i, line in enumerate(lines):
            self.text(
                x + width / 2, top + 15 * i, line, 12.5 if i == 0 else 10.5, INK if i == 0 else FAINT, bold=i == 0
            )

    def cells(self, boxes: Iterable[tuple[float, float, float, float]], fill: str) -> None:
        """Many rectangles (x, y, width, height) of one colour."""
        path = "".join(f"M{x:.5g} {y:.5g}h{width:.4g}v{height:.4g}h-{width:.4g}z" for x, y, width, height in boxes)
        if path:
            self.parts.append(f'<path d="{path}" fill="{fill}"/>')

    def fields(
        self, x: float, y: float, pitch: float, fields: Sequence[tuple[int, str, str]], limit: int | None = None
    ) -> None:
        """Adjacent fields of (bits, label, colour), bit 0 at the left; those past bit ``limit`` are cut there."""
        bit, taken = 0, 0.0
        end = sum(width for width, _, _ in fields) if limit is None else limit
        for width, label, colour in fields:
            shown = min(width, end - bit)
            if shown > 0:
                left, wide = x + bit * pitch, shown * pitch
                self.box(left, y, wide - 1, 20, PAPER, colour, radius=2)
                texts = [text for text in (f"{label}, {width}", label) if 5.6 * len(text) < wide - 2]
                middle, below = left + wide / 2, y + 32
                if texts:
                    below = y + 14
                else:
                    # A label that does not fit goes below, and lower where the one before lies.
                    half = 2.8 * len(label)
                    below += 9 * (middle - half < taken)
                    taken = middle + half
                self.text(middle, below, texts[0] if texts else label, 10, colour)
            bit += width

    def section(self, y: float, height: float, fill: str, name: str, colour: str, about: str) -> None:
        """A band across the picture, named after a package."""
        self.box(14, y, 952, height, fill)
        self.text(28, y + 22, name, 13, colour, "start", True)
        self.text(38 + 8.2 * len(name), y + 22, about, 11.5, FAINT, "start")

    def svg(self) -> str:
        """The whole text."""
        return "\n".join([*self.parts, "</svg>", ""])


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
