"""``python -m tools.pictures``: the pictures and the tables of the documentation, from what the code computes.

``docs/pipeline.svg`` follows one subvector: its numbers come from :mod:`sw.compress`, its bits from :mod:`hw.layout`,
and the sizes of the blocks from the presets. ``docs/blocks.svg`` and ``docs/streams.svg`` are drawn from one
configuration, ``docs/schedule.svg`` from the signals of the core in Amaranth's simulator. The parts of
``docs/architecture.md`` between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` are written from the code.
"""

from __future__ import annotations

import argparse
import html
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from amaranth.hdl import Shape, Value
from amaranth.lib import stream, wiring
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hw.config import PRESETS, AcceleratorConfig, ConfigError, preset
from hw.control.command import command_layout
from hw.core import AcceleratorCore
from hw.layout import Schedule, is_pair_coded, layer_tiles, mask_rank, position_code_bits
from sim.scenarios import random_activations, random_layer
from sim.transfers import LayerOutputs, LayerProgram, layer_program
from sw.compress.kmeans import kmeans, member_counts
from sw.compress.pruning import nm_mask
from sw.compress.quantiser import quantise_codebook
from sw.format.layer import CompressedLayer
from sw.schedule import LayerRun, issue_slots, psum_accesses, sequence_cycles, tile_activations
from tools.marked import write_parts

DOCS = Path(__file__).parents[1] / "docs"
ARCHITECTURE = DOCS / "architecture.md"
#: The instance of docs/blocks.svg, docs/streams.svg and of most tables.
SHOWN = "ews-cms-64"

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
        bit = 0
        end = sum(width for width, _, _ in fields) if limit is None else limit
        for width, label, colour in fields:
            shown = min(width, end - bit)
            if shown > 0:
                left, wide = x + bit * pitch, shown * pitch
                self.box(left, y, wide - 1, 20, PAPER, colour, radius=2)
                texts = [text for text in (f"{label}, {width}", label) if 5.6 * len(text) < wide - 2]
                # A label that does not fit goes below.
                at = (texts[0], y + 14) if texts else (label, y + 32)
                self.text(left + wide / 2, at[1], at[0], 10, colour)
            bit += width

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
    codebook = config.k * config.d * config.element_bits
    text = f"{total} bits for {config.d} weights, {total / config.d:g} a weight; codebook {codebook:,} bits"
    drawing.text(952, y + 13, text, 11.5, INK, "end")


def _draw_hardware(drawing: Drawing, config: AcceleratorConfig) -> None:
    about = "weights stay in the array while all positions of the output go by (enhanced weight stationary)"
    drawing.section(306, 240, CHIP, "hw", GREEN, about)
    crf = f"{config.k} x {config.d} x {config.element_bits} bit"
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


# The core of one instance


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def blocks(config: AcceleratorConfig, name: str) -> str:
    """The SVG of the blocks of the core, with the sizes of one instance."""
    drawing = Drawing(980, 604, f"Blocks of the core, {name}")
    _draw_loader(drawing, config)
    _draw_array(drawing, config, name)
    return drawing.svg()


def _draw_port(drawing: Drawing, y: float, name: str, bits: int, out: bool = False, end: float = 106) -> None:
    drawing.text(88, y + 4, name, 11, INK, "end", True)
    drawing.text(88, y + 17, f"{bits} bit", 10, FAINT, "end")
    if out:
        drawing.arrow((108, y), (92, y))
    else:
        drawing.arrow((92, y), (end, y))


def _draw_loader(drawing: Drawing, config: AcceleratorConfig) -> None:
    features = config.features
    drawing.section(14, 272, FILE, "weight loader", AMBER, "one array row a cycle, of all tiles")
    colours = {"index": BLUE, "mask": GREEN, "sign": RED, "weight": BLUE}
    rows = {"index": 122, "weight": 122, "mask": 172, "sign": 218}
    for stream_name, bits in config.streams.items():
        y = rows[stream_name]
        lines = ["unpacker", f"{config.word_width} to {bits} bit a row"]
        if stream_name in config.channels:
            _draw_port(drawing, y, f"i_{stream_name}", config.word_width)
        else:
            lines = ["unpackers", lines[1], f"or {config.raw_bits} bit raw"]
        drawing.block(108, y - 20, 136, 40, lines, colours[stream_name])

    command = command_layout(config).size
    _draw_port(drawing, 264, "i_command", command)
    drawing.block(108, 244, 358, 38, ["loop nest", "q < D: r < B: s < A: rows; then the command goes on"], INK)

    weights = f"{config.tiles} x {config.weight_bits * config.multipliers} bit weights"
    lines = ["row write", weights, f"to one of {config.H} rows"]
    if config.position_bits:
        lines.insert(2, f"{config.tiles} x {config.mrf_width} bit positions")
    drawing.block(822, 62, 134, 72, lines, INK)
    if not features.codebook:
        drawing.arrow((246, 122), (820, 122))
        return

    codeword = config.d * config.element_bits
    _draw_port(drawing, 94, "i_weight", config.word_width, end=100)
    drawing.arrow((100, 94), (100, 66), (106, 66))
    drawing.arrow((100, 94), (100, 122), (106, 122))
    drawing.block(108, 46, 136, 40, ["unpacker", f"{config.word_width} to {codeword} bit codewords"], BLUE)
    drawing.arrow((246, 66), (294, 66))
    ports = _counted(config.tiles, "read port")
    codebook = f"{config.k} x {config.d * config.element_bits} bit, {ports}"
    lines = ["CRF", codebook, f"{config.k} codewords of {config.d}", "raw weights pass beside it"]
    drawing.block(296, 46, 170, 92, lines, BLUE)
    drawing.arrow((246, 122), (294, 122))
    chain: list[tuple[int, int, list[str]]] = []  # x, width, lines, from the CRF to the row write
    if features.mask:
        groups = config.tiles * config.mask_groups
        drawing.arrow((246, 172), (294, 172))
        rank = f"{config.mask_bits}-bit rank to {config.M}-bit mask"
        drawing.block(296, 150, 170, 44, [_counted(groups, "mask decoder"), rank], GREEN)
        if features.sparse:
            chain.append((520, 140, ["select", f"{config.Q} of {config.d} elements"]))
            counters = _counted(config.N, "LZC") + " each"
            drawing.block(514, 150, 152, 44, [_counted(groups, "position encoder"), counters], GREEN)
            drawing.arrow((468, 172), (512, 172))
            drawing.arrow((590, 149), (590, 118))
            if config.position_bits:
                drawing.arrow((668, 172), (889, 172), (889, 136))
        else:
            chain.append((520, 140, ["AND mask", f"{config.d} elements"]))
            drawing.arrow((468, 172), (590, 172), (590, 118))
    if features.sign:
        chain.append((690, 104, ["sign unit", f"{config.Q} signs a tile"]))
        drawing.arrow((246, 218), (742, 218), (742, 118))
    x = 468
    for left, width, lines in chain:
        drawing.arrow((x, 94), (left - 2, 94))
        drawing.block(left, 72, width, 44, lines, RED if "sign unit" in lines else GREEN)
        x = left + width + 2
    drawing.arrow((x, 94), (820, 94))


def _draw_array(drawing: Drawing, config: AcceleratorConfig, name: str) -> None:
    sparse = bool(config.position_bits)
    drawing.section(298, 292, CHIP, "array", GREEN, f"{name}, {config.H} x {config.L}")
    drawing.text(
        490,
        320,
        f"{_counted(config.latency, 'cycle')} from the issue of an operation to its sum in the PRF",
        11,
        FAINT,
        "start",
    )
    drawing.arrow((381, 284), (381, 332))
    drawing.block(296, 334, 170, 52, ["loop controller", "one operation a cycle"], INK)
    drawing.arrow((468, 360), (590, 360))
    drawing.text(529, 354, "ring addresses", 10.5, FAINT)
    drawing.arrow((381, 388), (381, 414))
    drawing.text(390, 404, f"{'WRF, MRF' if sparse else 'WRF'} and PRF addresses", 10.5, FAINT, "start")

    activation = 8 * config.H
    drawing.block(592, 330, 140, 60, ["ARF", f"{config.arf_depth} x {activation} bit", "one vector to all tiles"], INK)
    drawing.text(760, 356, "i_activation", 11.5, INK, "start", True)
    drawing.text(760, 369, f"{activation} bit", 10, FAINT, "start")
    drawing.arrow((756, 360), (734, 360))

    # Tiles behind the first, then rows behind the first.
    for i in reversed(range(min(config.tiles, 3))):
        drawing.box(232 + 6 * i, 416 + 6 * i, 708, 152, PAPER, LINE)
    drawing.text(242, 433, f"{_counted(config.tiles, 'tile')} of {config.H} x {config.d}", 11.5, GREEN, "start", True)
    for i in reversed(range(min(config.H, 3))):
        drawing.box(510 + 5 * i, 440 + 5 * i, 408, 106, SOFT, LINE)
    drawing.text(520, 457, _counted(config.H, "row"), 11.5, BLUE, "start", True)
    drawing.arrow((720, 392), (720, 464))
    drawing.arrow((930, 136), (930, 484), (914, 484))
    multipliers = [f"{config.weight_bits} x 8 bit", _counted(config.multipliers, "multiplier")][::-1]
    drawing.block(664, 466, 112, 36, multipliers, BLUE)
    drawing.block(
        806, 466, 106, 36, ["WRF", f"{config.wrf_depth} x {config.weight_bits * config.multipliers} bit"], BLUE
    )
    drawing.arrow((804, 484), (778, 484))
    trees = [
        _counted(config.d, "adder tree"),
        f"{config.H} x {config.product_width} bit",
        f"to {config.product_width + config.tree_levels} bit",
    ]
    drawing.block(372, 462, 118, 72, trees, GREEN)
    if sparse:
        demux = ["demux", f"{config.N} to {config.M}", f"{config.product_width}-bit lanes"]
        if config.mask_groups > 1:
            demux[0] = f"{config.mask_groups} demux"
        drawing.block(528, 466, 104, 76, demux, BLUE)
        drawing.block(806, 508, 106, 34, ["MRF", f"{config.wrf_depth} x {config.mrf_width} bit"], BLUE)
        drawing.arrow((930, 484), (930, 525), (914, 525))
        drawing.arrow((804, 525), (634, 525))
        drawing.arrow((662, 484), (634, 484))
        drawing.arrow((526, 498), (492, 498))
    else:
        drawing.arrow((662, 484), (492, 484))
    drawing.arrow((370, 498), (356, 498))
    psum = f"{config.prf_depth} x {config.d} x {config.psum_width} bit"
    drawing.block(244, 462, 110, 72, ["PRF", psum, "accumulates"], GREEN)
    drawing.arrow((242, 498), (206, 498))
    drawing.block(108, 472, 96, 52, ["add i_psum", f"{config.L} lanes"], INK)
    _draw_port(drawing, 484, "o_psum", config.L * config.psum_width, out=True)
    _draw_port(drawing, 512, "i_psum", config.L * config.psum_width)


def _stream_fields(config: AcceleratorConfig, name: str) -> list[tuple[int, str]]:
    """Fields of (bits, label) that a stream gives one row write, lowest bits first."""
    groups = config.mask_groups
    return {
        "weight": [(8, f"w{lane}") for lane in range(config.L)],
        "index": [(config.index_bits, f"t{t}") for t in range(config.tiles)],
        "mask": [
            (config.mask_bits, f"t{t}" if groups == 1 else f"t{t}.{g}")
            for t in range(config.tiles)
            for g in range(groups)
        ],
        "sign": [(config.Q, f"t{t}") for t in range(config.tiles)],
    }[name]


def streams(config: AcceleratorConfig, name: str) -> str:
    """The SVG of bit layouts: a command, the first words of each packed stream, an entry of WRF and MRF."""
    rows = len(config.streams)
    drawing = Drawing(980, 160 + 78 * rows + (62 if config.position_bits else 0), f"Bit layouts, {name}")
    layout = command_layout(config)
    drawing.text(24, 30, f"{name}: bit 0 is at the left; a number is the bits of a field", 12, FAINT, "start")

    def heading(y: float, text: str, about: str) -> None:
        drawing.text(24, y, text, 12.5, INK, "start", True)
        drawing.text(34 + 8.4 * len(text), y, about, 11, FAINT, "start")

    heading(58, "i_command", f"{layout.size} bit")
    fields = [(member.width, label, AMBER) for label, member in layout]
    drawing.fields(24, 66, 932 / layout.size, fields)
    y = 116
    words = 2
    for stream_name, bits in config.streams.items():
        colour = {"index": BLUE, "mask": GREEN, "sign": RED, "weight": BLUE}[stream_name]
        cycles = max(1.0, bits / config.word_width)
        about = f"{bits} bits a row write in words of {config.word_width}: {cycles:.4g} or more cycles a row write"
        if stream_name not in config.channels:
            about = f"assignments, behind the codewords: {about}"
        heading(y, f"i_{stream_name}" if stream_name in config.channels else "i_weight", about)
        pitch = 932 / (words * config.word_width)
        fields, row = [], 0
        while sum(width for width, _, _ in fields) < words * config.word_width:
            shade = colour if row % 2 == 0 else AMBER
            fields += [(width, label, shade) for width, label in _stream_fields(config, stream_name)]
            row += 1
        drawing.fields(24, y + 8, pitch, fields, words * config.word_width)
        starts = {word * config.word_width: f"word {word}" for word in range(words)}
        marks = dict(starts)
        for number in range(-(-words * config.word_width // bits)):
            marks[number * bits] = ", ".join(filter(None, (starts.get(number * bits), f"row write {number}")))
        free = 0.0
        for bit, label in sorted(marks.items()):
            left = 24 + bit * pitch
            end = left + 12 + 6 * len(label)
            # Colours tell row writes apart where there is no room for a label.
            if bit in starts or (left >= free and not any(left < 24 + x * pitch < end for x in starts) and end < 970):
                drawing.arrow((left, y + 38), (left, y + 30))
                drawing.text(left + 5, y + 40, label, 10, FAINT, "start")
                free = end
        y += 78
    heading(y, "WRF entry of a tile row", f"{config.weight_bits * config.multipliers} bit, lowest lane first")
    drawing.fields(
        24,
        y + 8,
        932 / max(config.weight_bits * config.multipliers, 64),
        [(config.weight_bits, f"w{i}", BLUE) for i in range(config.multipliers)],
    )
    if config.position_bits:
        y += 62
        low = (config.M - 1).bit_length() - 1
        ones = position_code_bits(config.N, config.M) - low * config.N
        code = [(low, f"p{i}", GREEN) for i in range(config.N) if low] + [(ones, "ones", AMBER)]
        about = f"{config.mrf_width} bit: positions without their highest bit, and how many highest bits are one"
        if is_pair_coded(config.N, config.M):
            code = [(low, "end", GREEN), (low + 1, "p1", GREEN)]
            about = f"{config.mrf_width} bit: how far p0 is from the nearer end; p1, less p0 in the lower half"
        heading(y, "MRF entry of a tile row", about)
        drawing.fields(24, y + 8, 932 / max(config.mrf_width, 30), code * config.mask_groups)
    return drawing.svg()


# A schedule over time, from the signals of the core


@dataclass(frozen=True)
class Operation:
    """One array operation: the cycle of its issue, and the register file entries that it uses."""

    cycle: int
    wrf: int
    arf: int
    prf: int


@dataclass
class Trace:
    """What the core did, as (cycle, entry) pairs. Cycle 0 is the one in which the first command is taken.

    Attributes
    ----------
    commands, codewords
        Cycles in which ``i_command``, and words of the codebook by ``i_weight``, transferred.
    wrf_writes, arf_writes
        One row of a WRF entry, and an ARF entry, were written.
    operations
        In order of issue.
    leaves
        A PRF entry left by ``o_psum``.
    """

    commands: list[int] = field(default_factory=list)
    codewords: list[int] = field(default_factory=list)
    wrf_writes: list[tuple[int, int]] = field(default_factory=list)
    arf_writes: list[tuple[int, int]] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    leaves: list[tuple[int, int]] = field(default_factory=list)


class _Probed(AcceleratorCore):
    """The core, with its blocks in reach once it is elaborated."""

    def elaborate(self, platform):
        module = super().elaborate(platform)
        self.loader, self.control = module.submodules.weight_loader, module.submodules.control
        return module


def core_trace(config: AcceleratorConfig, program: LayerProgram) -> Trace:
    """Run one layer on the core in Amaranth's simulator, with streams that never pause."""
    core = _Probed(config)
    simulator = Simulator(core)
    loader, control = core.loader, core.control
    names = [name for name in _stream_members(core) if name != "o_psum"]
    queues = {name: list(program.streams.get(name, ()))[::-1] for name in names}
    outputs = LayerOutputs([program])
    trace = Trace()
    addresses: list[tuple[int, int]] = []
    codebook_words = -(-program.run.codewords * config.d * config.element_bits // config.word_width)

    async def bench(ctx):
        cycle = 0
        ctx.set(core.o_psum.ready, 1)
        while not outputs.done:
            for name, queue in queues.items():
                port = getattr(core, name)
                ctx.set(port.valid, bool(queue))
                if queue:
                    ctx.set(Value.cast(port.payload), queue[-1])
            addresses.append((ctx.get(control.o_wrf_address), ctx.get(control.o_arf_address)))
            if ctx.get(loader.o_write):
                trace.wrf_writes.append((cycle, ctx.get(loader.o_write_address)))
            if ctx.get(control.o_accumulate):
                issued = cycle - (config.latency - 1)
                trace.operations.append(Operation(issued, *addresses[issued], ctx.get(control.o_slot)))
            taken = [name for name in names if queues[name] and ctx.get(getattr(core, name).ready)]
            for name in taken:
                if name == "i_activation":
                    trace.arf_writes.append((cycle, ctx.get(control.o_arf_write_address)))
                elif name == "i_command":
                    trace.commands.append(cycle)
                elif name == "i_weight" and len(trace.codewords) < codebook_words:
                    trace.codewords.append(cycle)
                queues[name].pop()
            if ctx.get(core.o_psum.valid):
                trace.leaves.append((cycle, ctx.get(control.o_drain_slot)))
                vector = ctx.get(Value.cast(core.o_psum.payload))
                if outputs.take(vector):
                    queues["i_psum"].insert(0, vector)
            await ctx.tick()
            cycle += 1

    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return trace


def schedule_example() -> tuple[AcceleratorConfig, LayerProgram]:
    """The layer of docs/schedule.svg: three layer tiles that add up, A = B = D = 2."""
    config = preset("ews-cms-tiny")
    rng = np.random.default_rng(0)
    layer = random_layer(config, rng, (2 * config.L, 6 * config.H, 1, 2))
    activations = random_activations(rng, (6 * config.H, 2, 4))
    return config, layer_program(config, layer, activations, Schedule(config.H, config.L, 2, 2, 1, 2))


def _lives(writes: Iterable[tuple[int, int]], uses: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """(entry, first cycle, last cycle) from the first write of an entry to its last use before the next."""
    events = sorted([(cycle, 0, entry) for cycle, entry in uses] + [(cycle, 1, entry) for cycle, entry in writes])
    live: dict[int, tuple[int, int, bool]] = {}
    for cycle, write, entry in events:
        first, last, used = live.get(entry, (cycle, cycle, False))
        if write and used:
            yield entry, first, last
            first, used = cycle, False
        live[entry] = (first, cycle, used or not write)
    for entry, (first, last, _) in live.items():
        yield entry, first, last


def _counters(
    config: AcceleratorConfig, program: LayerProgram, trace: Trace
) -> Iterator[tuple[int, int, dict[str, int]]]:
    """(cycle, number of the layer tile, loop counters) of each operation, from the WRF entry that it reads."""
    operations = iter(trace.operations)
    for number, tile in enumerate(program.tiles):
        size, base = tile.A * tile.B * tile.D, None
        for step in range(program.run.positions * size):
            operation = next(operations)
            base = operation.wrf if base is None else base
            inside = (operation.wrf - base) % config.wrf_depth
            q, r, s = inside // (tile.A * tile.B), inside // tile.A % tile.B, inside % tile.A
            yield operation.cycle, number, {"position": step // size, "q": q, "r": r, "s": s}


def schedule() -> str:
    """The SVG of one small layer over time: loops, and the entries of WRF, ARF and PRF in each cycle."""
    config, program = schedule_example()
    return draw_schedule(config, program, core_trace(config, program))


def draw_schedule(config: AcceleratorConfig, program: LayerProgram, trace: Trace) -> str:
    """The SVG of a trace."""
    left, row = 118, 10
    cycles = trace.leaves[-1][0] + 1
    pitch = (962 - left) / cycles
    heights = {"WRF": config.wrf_depth, "ARF": config.arf_depth, "PRF": config.prf_depth}
    top = 168
    drawing = Drawing(980, top + sum(row * depth + 34 for depth in heights.values()) + 34, "A schedule over time")
    tile = program.tiles[0]
    K, C, R, S = program.layer.shape
    E, F = program.output
    about = (
        f"{K} x {C} x {R} x {S} weights, {E} x {F} output positions, on {config.H} x {config.L}: "
        f"A = {tile.A}, B = {tile.B}, D = {tile.D}, {_counted(len(program.tiles), 'layer tile')}"
    )
    drawing.text(18, 28, about, 13, INK, "start", True)
    drawing.text(18, 46, f"{cycles} cycles of the core in Amaranth's simulator; no stream pauses", 11.5, FAINT, "start")
    legend = [(AMBER, "written"), (GREY, "held"), *((colour, f"layer tile {i}") for i, colour in _TILES)]
    x = 440.0
    for colour, label in [*legend, (INK, "leaves")]:
        drawing.box(x, 37, 10, 10, colour, radius=1)
        drawing.text(x + 14, 46, label, 11, FAINT, "start")
        x += 30 + 5.6 * len(label)

    def cell(cycle: float, y: float, length: float = 1, height: float = row - 1) -> tuple[float, float, float, float]:
        return left + cycle * pitch, y, max(length * pitch - 0.4, 1), height

    counted = list(_counters(config, program, trace))
    owners = [owner for _, owner, _ in counted]
    y = 64
    drawing.text(left - 8, y + 9, "loader", 11, INK, "end")
    drawing.cells((cell(cycle, y) for cycle in trace.codewords), BLUE)
    drawing.cells((cell(cycle, y) for cycle, _ in trace.wrf_writes), AMBER)
    if trace.codewords:
        drawing.text(left + trace.codewords[0] * pitch, y + 21, "CRF", 9.5, BLUE, "start")
    drawing.text(left + trace.wrf_writes[0][0] * pitch, y + 21, "row writes to the WRF", 9.5, AMBER, "start")
    labels = {"position": "position", "q": "q < D", "r": "r < B", "s": "s < A"}
    for y, (name, label) in zip(range(94, 150, 14), labels.items(), strict=True):
        drawing.text(left - 8, y + 9, label, 11, INK, "end")
        for i, colour in _TILES:
            for odd, shade in ((1, colour), (0, _PALE[colour])):
                at = (cycle for cycle, owner, values in counted if owner == i and values[name] % 2 == odd)
                drawing.cells((cell(cycle, y) for cycle in at), shade)
    seen = None
    for cycle, owner, values in counted:
        if seen != (seen := (owner, values["position"])):
            shade = PAPER if seen[1] % 2 else INK
            drawing.text(left + cycle * pitch + 2, 102, str(seen[1]), 8.5, shade, "start")

    reads = {
        "WRF": [(op.cycle, op.wrf) for op in trace.operations],
        "ARF": [(op.cycle, op.arf) for op in trace.operations],
        "PRF": [(op.cycle + config.latency - 1, op.prf) for op in trace.operations],
    }
    writes = {"WRF": trace.wrf_writes, "ARF": trace.arf_writes, "PRF": []}
    what = {
        "WRF": "weight register files: a ring of layer tiles; read at issue",
        "ARF": "activation register file: a ring of vectors; read at issue",
        "PRF": f"partial-sum register files: a ring of sums; read and written {config.latency - 1} cycles after issue",
    }
    y = top
    for name, depth in heights.items():
        drawing.text(18, y + 2, name, 12.5, INK, "start", True)
        drawing.text(left, y + 2, what[name], 11, FAINT, "start")
        y += 10
        for entry in range(depth):
            drawing.text(left - 8, y + entry * row + 8, str(entry), 8.5, FAINT, "end")
        # A sum lives from the first time that it is written to the cycle in which it leaves.
        lives = _lives(reads["PRF"], trace.leaves) if name == "PRF" else _lives(writes[name], reads[name])
        drawing.cells((cell(first, y + entry * row, last - first + 1) for entry, first, last in lives), GREY)
        drawing.cells((cell(cycle, y + entry * row) for cycle, entry in writes[name]), AMBER)
        for i, colour in _TILES:
            used = (at for at, owner in zip(reads[name], owners, strict=True) if owner == i)
            drawing.cells((cell(cycle, y + entry * row) for cycle, entry in used), colour)
        if name == "PRF":
            drawing.cells((cell(cycle, y + entry * row) for cycle, entry in trace.leaves), INK)
        y += depth * row + 24
    drawing.text(left - 8, y + 4, "cycle", 11, INK, "end")
    for cycle in range(0, cycles, 10):
        drawing.text(left + cycle * pitch, y + 4, str(cycle), 9.5, FAINT, "start")
    return drawing.svg()


_TILES = ((0, BLUE), (1, GREEN), (2, RED))
_PALE = {BLUE: "#c3d7ef", GREEN: "#c6e3d1", RED: "#f0cdc8"}
# The tables of docs/architecture.md


def _stream_members(core: AcceleratorCore) -> dict[str, wiring.Member]:
    return {
        name: member
        for name, member in core.signature.members.items()
        if member.is_signature and isinstance(member.signature, stream.Signature)
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], text_columns: int = 1) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * text_columns + "--:|" * (len(head) - text_columns)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


def _largest() -> dict[str, AcceleratorConfig]:
    return {name: config for name, config in PRESETS.items() if name.endswith("-64")}


def instances_part() -> Iterator[str]:
    """What the variants consist of."""
    head = ["instance", "tiles", "multipliers", "CRF, bits", "read ports", "WRF a row, bits", "MRF a row, bits"]
    head += ["bits a row write", "cycles a row write", "latency"]
    rows = []
    for name, config in _largest().items():
        crf = f"{config.k} x {config.d * config.element_bits}" if config.features.codebook else "-"
        rows.append(
            [
                f"`{name}`",
                config.tiles,
                config.H * config.tiles * config.multipliers,
                crf,
                config.tiles if config.features.codebook else "-",
                f"{config.wrf_depth} x {config.weight_bits * config.multipliers}",
                f"{config.wrf_depth} x {config.mrf_width}" if config.position_bits else "-",
                " + ".join(f"{bits} {stream_name}" for stream_name, bits in config.streams.items()),
                f"{max(1.0, *(bits / config.word_width for bits in config.streams.values())):.3g}",
                config.latency,
            ]
        )
    return _table(head, rows)


def ports_part() -> Iterator[str]:
    """Streams of the core and the bits of a transfer."""
    shown = {name: _largest()[name] for name in ("ews-64", "ews-cms-64", "ews-msvq-64")}
    widths: dict[str, dict[str, int]] = {}
    for name, config in shown.items():
        core = AcceleratorCore(config)
        # Amaranth warns of components that are never elaborated; here the ports are all that is wanted.
        core._MustUse__used = True
        for stream_name, member in _stream_members(core).items():
            payload = member.signature.members["payload"].shape
            widths.setdefault(stream_name, {})[name] = Shape.cast(payload).width
    return _table(
        ["stream", *(f"`{name}`" for name in shown)],
        ([f"`{stream_name}`", *(bits.get(name, "-") for name in shown)] for stream_name, bits in widths.items()),
    )


def command_part() -> Iterator[str]:
    """Fields of a command, with the meaning that the docstring gives them."""
    layout = command_layout(preset(SHOWN))
    text = inspect.getdoc(command_layout) or ""
    fields = dict(layout)
    rows = []
    for names, meaning in re.findall(r"^(``.*``)\n((?:    .*\n?)+)", text, re.MULTILINE):
        found = [fields.pop(name) for name in re.findall(r"``(\w+)``", names)]
        cells = [", ".join(str(getattr(member, key)) for member in found) for key in ("offset", "width")]
        rows.append([names.replace("``", "`"), " ".join(meaning.split()).replace("``", "`"), *cells])
    assert not fields, f"fields without a description: {', '.join(fields)}"
    return _table(["field", "meaning", "offset", "bits"], rows, text_columns=2)


def pipeline_stages(config: AcceleratorConfig) -> dict[int, list[str]]:
    """What an array operation does, by cycles after its issue."""
    stages: dict[int, list[str]] = {cycle: [] for cycle in range(config.latency + 1)}
    if config.zero_gating:
        stages[0].append("ARF is read; register")
        stages[1].append("WRF is read; operand registers hold where one is 0")
    else:
        stages[0].append("WRF and ARF are read; operand registers")
    products = stages[config.product_latency - int(config.product_register)]
    products.append("multipliers" + ("; product registers" if config.product_register else ""))
    if config.position_bits:
        stages[config.product_latency - int(config.mrf_register)].append("MRF is read")
        stages[config.product_latency].append("demultiplexers")
    every = config.tree_register_levels or config.tree_levels
    for i in range(config.tree_registers + 1):
        first, last = i * every + 1, min((i + 1) * every, config.tree_levels)
        if first <= last:
            levels = f"level {first}" if first == last else f"levels {first} to {last}"
            text = f"adder trees, {levels}" + ("; registers" if i < config.tree_registers else "")
            stages[config.product_latency + i].append(text)
    stages[config.latency - 1].append("PRF entry is read, added to and written")
    stages[config.latency].append("a finished sum can leave: PRF is read, `i_psum` is added")
    return stages


def pipeline_part() -> Iterator[str]:
    """The pipeline of two presets."""
    shown = {name: preset(name) for name in ("ews-cms-16", SHOWN)}
    stages = {name: pipeline_stages(config) for name, config in shown.items()}
    cycles = range(max(map(len, stages.values())))
    rows = [[cycle, *("; ".join(found.get(cycle, ["-"])) for found in stages.values())] for cycle in cycles]
    return _table(["cycle after issue", *(f"`{name}`" for name in shown)], rows, text_columns=3)


def tile_part() -> Iterator[str]:
    """MVQ table 2 for one tile, and what is here."""
    config = preset(SHOWN)
    H, d, Q, depth = config.H, config.d, config.Q, config.wrf_depth
    codes = (config.d - 1).bit_length()
    wide = config.product_width
    rows = [
        ("multipliers", f"H·Q = {H * Q}", f"{H * config.multipliers}"),
        ("adders", f"H·d = {H * d}", f"{(H - 1) * d} in the trees, {d} at the PRF, {d} for `i_psum`"),
        ("WRF bits", f"H·Q·16·b_w = {H * Q * 16 * 8}", f"{H * depth * config.weight_bits * config.multipliers}"),
        ("MRF bits", f"H·Q·16·log2 d = {H * Q * 16 * codes}", f"{H * depth * config.mrf_width}"),
        ("leading-zero counters", f"H·Q = {H * Q}", f"{config.mask_groups * config.N}"),
        ("demultiplexer, products steered", f"H·Q = {H * Q} of b_psum bits", f"{H * Q} of {wide} bits"),
    ]
    return _table([f"a tile of {H} x {d}, {config.N}:{config.M}", "paper, table 2", f"`{SHOWN}`"], rows, text_columns=3)


def reuse_part() -> Iterator[str]:
    """Accesses of one layer under several schedules."""
    config = preset("ews-cms-16")
    shape, size = (64, 64, 3, 3), (14, 14)
    layer = CompressedLayer(
        name="layer",
        shape=shape,
        method="int8",
        kind="conv",
        scale=np.ones(1, np.float32),
        weights=np.zeros(shape, np.int8),
        padding=(1, 1),
    )
    activations = np.zeros((shape[1], *size), np.int8)
    rows = []
    for extensions in ((1, 1, 1, 1), (4, 4, 1, 1), (4, 1, 3, 1), (4, 1, 1, 3), (2, 2, 1, 3)):
        plan = Schedule(config.H, config.L, *extensions)
        run = LayerRun(shape, size[0] * size[1], plan, config.k)
        fetched = sum(len(tile_activations(layer, tile, activations, plan)) for tile in layer_tiles(shape, plan))
        operations = issue_slots(run)
        rows.append(
            [
                ", ".join(map(str, extensions)),
                f"{operations:,}",
                f"{fetched:,}",
                f"{operations / fetched:.2f}",
                f"{psum_accesses(run):,}",
                f"{operations / psum_accesses(run):.2f}",
                f"{sequence_cycles(config, [run])[0]:,}",
            ]
        )
    head = ["A, B, Dr, Ds", "operations", "activation vectors in", "operations for each", "sums out and back in"]
    return _table([*head, "operations for each", "cycles"], rows)


def schedule_part() -> Iterator[str]:
    """What docs/schedule.svg shows, in words."""
    config, program = schedule_example()
    trace = core_trace(config, program)
    predicted = sequence_cycles(config, [program.run])[0]
    yield (
        f"{trace.leaves[-1][0] + 1} cycles, {predicted} predicted by `sw.schedule`; {len(trace.codewords)} words of "
        f"codebook, {len(trace.wrf_writes)} row writes, {len(trace.operations)} operations, {len(trace.arf_writes)} "
        f"activation vectors, {len(trace.leaves)} vectors of sums."
    )


#: The parts of docs/architecture.md that are written from the code.
PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "instances": instances_part,
    "ports": ports_part,
    "command": command_part,
    "pipeline": pipeline_part,
    "tile": tile_part,
    "reuse": reuse_part,
    "schedule": schedule_part,
}


def render(text: str) -> str:
    """docs/architecture.md with its marked parts written anew.

    Raises
    ------
    ValueError
        A part is missing or marked more than once.
    """
    return write_parts(text, PARTS, ARCHITECTURE.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.pictures", description=__doc__)
    parser.add_argument("--preset", metavar="NAME", help="draw blocks.svg and streams.svg of this instance alone")
    parser.add_argument(
        "--set", metavar="FIELD=VALUE", action="extend", nargs="+", default=[], help="override a field of the preset"
    )
    parser.add_argument("-o", metavar="DIR", type=Path, dest="folder", help="where they go; needed with --preset")
    options = parser.parse_args(arguments)
    if (options.preset is None) != (options.folder is None) or (options.set and options.preset is None):
        parser.exit(2, f"{parser.prog}: --preset and -o belong together, and --set needs them\n")
    if options.preset is not None:
        try:
            config = preset(options.preset).override(options.set)
        except ConfigError as error:
            parser.exit(2, f"{parser.prog}: {error}\n")
        options.folder.mkdir(parents=True, exist_ok=True)
        for file, draw in (("blocks", blocks), ("streams", streams)):
            path = options.folder / f"{options.preset}-{file}.svg"
            path.write_text(draw(config, options.preset))
            print(path)
        return 0
    pictures = {
        "pipeline": pipeline(),
        "blocks": blocks(preset(SHOWN), SHOWN),
        "streams": streams(preset(SHOWN), SHOWN),
        "schedule": schedule(),
    }
    for name, text in pictures.items():
        (DOCS / f"{name}.svg").write_text(text)
        print(DOCS / f"{name}.svg")
    ARCHITECTURE.write_text(render(ARCHITECTURE.read_text()))
    print(ARCHITECTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
