"""``python -m tools.pictures``: the pictures of the documentation, drawn from what the code computes.

``docs/pipeline.svg`` follows one subvector: its numbers come from :mod:`sw.compress`, its bits from :mod:`hw.layout`,
and the sizes of the blocks from the presets.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig, preset
from hw.layout import mask_rank
from sw.compress.kmeans import kmeans, member_counts
from sw.compress.pruning import nm_mask
from sw.compress.quantiser import quantise_codebook

DOCS = Path(__file__).parents[1] / "docs"

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

    def section(self, y: float, height: float, fill: str, name: str, colour: str, about: str) -> None:
        """A band across the picture, named after a package."""
        self.box(14, y, 952, height, fill)
        self.text(28, y + 22, name, 13, colour, "start", True)
        self.text(38 + 8.2 * len(name), y + 22, about, 11.5, FAINT, "start")

    def svg(self) -> str:
        """The whole text."""
        return "\n".join([*self.parts, "</svg>", ""])


@dataclass(frozen=True)
class _Example:
    """One subvector ``[d]`` of a clustering: its mask, its decoded codeword, and its fields in the packed streams."""

    weights: NDArray[np.float32]
    mask: NDArray[np.bool_]
    codeword: NDArray[np.float32]
    assignment: int
    fields: dict[str, str]


def _example(config: AcceleratorConfig) -> _Example:
    """Random weights, compressed as the configuration says. The subvector and its mask do not depend on the method."""
    weights = np.random.default_rng(3).normal(size=(1 << 15, config.d)).astype(np.float32)
    masks = nm_mask(weights, config.N, config.M)
    split = config.features.sign
    found = kmeans(np.abs(weights) if split else weights, config.k, masks=masks, iterations=8)
    counts = member_counts(masks, found.assignments, config.k, config.d)
    codebook, scale = quantise_codebook(found.codebook, counts, magnitudes=split)
    chosen = 9
    mask, assignment = masks[chosen], int(found.assignments[chosen])
    fields = {
        "index": f"{assignment:0{config.index_bits}b}",
        "mask rank": f"{mask_rank([bool(kept) for kept in mask], config.N):0{config.mask_bits}b}",
    }
    if split:
        fields["signs"] = "".join(str(int(value < 0)) for value in weights[chosen][mask])
    return _Example(weights[chosen], mask, codebook[assignment] * scale, assignment, fields)


def pipeline() -> str:
    """The SVG of the whole path: compression of one subvector, its bits in the file, and the blocks that they reach."""
    mvq, msvq = preset("ews-cms-16"), preset("ews-msvq-16")
    drawing = Drawing(980, 560, "From float weights to the sums of the accelerator")
    _draw_compression(drawing, mvq, _example(mvq))
    for i, (name, config) in enumerate((("MVQ", mvq), ("MSVQ", msvq))):
        if i == 0:
            drawing.section(194, 100, FILE, "sw.format", AMBER, "the same subvector in the compressed container")
        _draw_bits(drawing, 226 + 32 * i, f"{name}, k = {config.k}", config, _example(config).fields)
    _draw_hardware(drawing, mvq)
    return drawing.svg()


def _draw_compression(drawing: Drawing, config: AcceleratorConfig, example: _Example) -> None:
    drawing.section(
        14,
        168,
        SOFT,
        "sw.compress",
        BLUE,
        f"one subvector of random weights: d = {config.d} consecutive output channels",
    )
    scale = 28 / float(np.abs([example.weights, example.codeword]).max())
    signed = [BLUE if value > 0 else RED for value in example.weights]
    kept = [colour if keep else GREY for colour, keep in zip(signed, example.mask, strict=True)]
    decoded = np.where(example.mask, example.codeword, 0)
    panels = [
        ("float32 weights", example.weights, signed, f"{32 * config.d} bits"),
        (f"{config.N}:{config.M} pruning", example.weights, kept, f"the mask keeps {config.N} of {config.M}"),
        ("masked k-means", example.codeword, [AMBER] * config.d, f"codeword {example.assignment} of {config.k}, int8"),
        ("codeword AND mask", decoded, [GREEN] * config.d, "the decoded weights"),
    ]
    for i, (title, values, colours, caption) in enumerate(panels):
        x = 34 + i * 236
        drawing.box(x, 50, 204, 120, PAPER, GREY)
        drawing.text(x + 102, 69, title, 12.5, bold=True)
        drawing.bars(x + 34, 112, [float(value) for value in values], colours, scale)
        drawing.text(x + 102, 160, caption, 11, FAINT)
        if i < len(panels) - 1:
            drawing.arrow((x + 206, 110), (x + 234, 110))


def _draw_bits(drawing: Drawing, y: float, name: str, config: AcceleratorConfig, fields: dict[str, str]) -> None:
    drawing.text(28, y + 14, name, 12, INK, "start", True)
    x = 128.0
    for label, bits in fields.items():
        end = drawing.bits(x, y, bits, FIELDS[label])
        drawing.text(end + 4, y + 13, label, 10.5, FIELDS[label], "start")
        x = end + 18 + 6 * len(label)
    total = sum(map(len, fields.values()))
    codebook = config.k * config.d * config.codeword_bits
    text = f"{total} bits for {config.d} weights, {total / config.d:g} a weight; codebook {codebook:,} bits"
    drawing.text(952, y + 13, text, 11.5, INK, "end")


def _draw_hardware(drawing: Drawing, config: AcceleratorConfig) -> None:
    about = "weights stay in the array while all positions of the output go by (enhanced weight stationary)"
    drawing.section(306, 240, CHIP, "hw", GREEN, about)
    crf = f"{config.k} x {config.d} x {config.codeword_bits} bit"
    decoder = [
        ("index", ["codebook register file", crf]),
        ("mask rank", ["mask decoder", f"rank to {config.M}-bit mask"]),
        ("signs", ["sign unit", "with SSVQ and MSVQ"]),
    ]
    for i, (label, lines) in enumerate(decoder):
        y = 352 + 62 * i
        drawing.text(90, y + 28, label, 11.5, FIELDS[label], "end", True)
        drawing.arrow((94, y + 24), (122, y + 24))
        drawing.block(124, y, 168, 48, lines, FIELDS[label])
    drawing.block(340, 384, 122, 108, ["weight loader", "codeword,", "AND mask, with sign"], INK)
    drawing.arrow((294, 376), (316, 376), (316, 408), (338, 408))
    drawing.arrow((294, 438), (338, 438))
    drawing.arrow((294, 500), (316, 500), (316, 468), (338, 468))
    drawing.block(512, 384, 120, 46, ["WRF", f"{config.wrf_depth} weights a PE"], INK)
    drawing.block(512, 446, 120, 46, ["MRF", "positions, from LZCs"], INK)
    for y in (407, 469):
        drawing.arrow((464, y), (510, y))
        drawing.arrow((634, y), (678, y))
    multipliers = f"{config.multipliers} multipliers for {config.d} lanes"
    drawing.block(680, 384, 158, 108, ["sparse tile", f"{config.H} rows of", multipliers, "demux, adder trees"], GREEN)
    drawing.text(560, 362, "int8 activations", 11.5, INK, "end", True)
    drawing.arrow((566, 358), (678, 358))
    drawing.block(680, 344, 158, 28, ["ARF"], INK)
    drawing.arrow((759, 373), (759, 383))
    drawing.block(876, 396, 78, 84, ["PRF", f"{config.psum_width}-bit sums"], INK)
    drawing.arrow((840, 438), (874, 438))
    drawing.arrow((915, 482), (915, 521), (800, 521))
    drawing.text(794, 525, "int32 sums, equal bit for bit to sw.golden", 12, GREEN, "end", True)


def main() -> None:
    """Draw all pictures."""
    DOCS.mkdir(exist_ok=True)
    (DOCS / "pipeline.svg").write_text(pipeline())
    print(DOCS / "pipeline.svg")


if __name__ == "__main__":
    main()
