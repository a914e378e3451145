"""``python -m tools.pictures``: the pictures and the tables of the documentation, from what the code computes.

``docs/pipeline.svg`` follows one subvector: its numbers come from :mod:`sw.compress`, its bits from :mod:`hw.layout`,
and the sizes of the blocks from the presets. ``docs/blocks.svg`` and ``docs/streams.svg`` are drawn from one
configuration, and so is ``docs/ip.svg``; ``docs/path.svg`` and ``docs/house.svg`` are :mod:`tools.overview`'s;
``docs/schedule.svg`` comes from the signals of the core in Amaranth's simulator. The parts of
``docs/architecture.md`` between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` are written from the code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hw.command_line import Parser, add_set_option, interruptible, path_argument, writable_folder, write_text
from hw.config import AcceleratorConfig, ConfigError, preset
from hw.generate import instance_name
from hw.layout import is_pair_coded, mask_rank, position_code_bits
from tools.drawing import (
    AMBER,
    BLUE,
    CHIP,
    FAINT,
    FIELDS,
    FILE,
    GREEN,
    GREY,
    INK,
    LINE,
    PAPER,
    RED,
    SOFT,
    Drawing,
    counted,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    import numpy as np

    from sw.compress.kmeans import kmeans, member_counts
    from sw.compress.pruning import nm_mask
    from sw.compress.quantiser import quantise_codebook

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
    import numpy as np

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
    from hw.control.command import command_layout

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
        half = 20 if len(lines) < 3 else 26
        drawing.block(108, y - half, 136, 2 * half, lines, colours[stream_name])

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
    ports = counted(config.tiles, "read port")
    codebook = f"{config.k} x {config.d * config.element_bits} bit, {ports}"
    lines = ["CRF", codebook, f"{config.k} codewords of {config.d}", "raw weights pass beside it"]
    drawing.block(296, 46, 170, 92, lines, BLUE)
    drawing.arrow((246, 122), (294, 122))
    chain: list[tuple[int, int, list[str]]] = []  # x, width, lines, from the CRF to the row write
    if features.mask:
        groups = config.tiles * config.mask_groups
        drawing.arrow((246, 172), (294, 172))
        rank = f"{config.mask_bits}-bit rank to {config.M}-bit mask"
        drawing.block(296, 150, 170, 44, [counted(groups, "mask decoder"), rank], GREEN)
        if features.sparse:
            chain.append((520, 140, ["select", f"{config.Q} of {config.d} elements"]))
            counters = counted(config.N, "LZC") + " each"
            drawing.block(514, 150, 152, 44, [counted(groups, "position encoder"), counters], GREEN)
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
        f"{counted(config.latency, 'cycle')} from the issue of an operation to its sum in the PRF",
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
    drawing.text(242, 433, f"{counted(config.tiles, 'tile')} of {config.H} x {config.d}", 11.5, GREEN, "start", True)
    for i in reversed(range(min(config.H, 3))):
        drawing.box(510 + 5 * i, 440 + 5 * i, 408, 106, SOFT, LINE)
    drawing.text(520, 457, counted(config.H, "row"), 11.5, BLUE, "start", True)
    drawing.arrow((720, 392), (720, 464))
    drawing.arrow((930, 136), (930, 484), (914, 484))
    multipliers = [f"{config.weight_bits} x 8 bit", counted(config.multipliers, "multiplier")][::-1]
    drawing.block(664, 466, 112, 36, multipliers, BLUE)
    drawing.block(
        806, 466, 106, 36, ["WRF", f"{config.wrf_depth} x {config.weight_bits * config.multipliers} bit"], BLUE
    )
    drawing.arrow((804, 484), (778, 484))
    trees = [
        counted(config.d, "adder tree"),
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
    from hw.control.command import command_layout

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


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after one line on stderr."""
    parser = Parser(prog="python -m tools.pictures", description=__doc__)
    parser.add_argument("--preset", metavar="NAME", help="draw blocks.svg and streams.svg of this instance alone")
    add_set_option(parser)
    parser.add_argument(
        "-o", metavar="DIR", type=path_argument, dest="folder", help="where they go; needed with --preset"
    )
    options = parser.parse_args(arguments)
    if (options.preset is None) != (options.folder is None) or (options.set and options.preset is None):
        parser.error("--preset and -o belong together, and --set needs them")

    from tools.architecture import ARCHITECTURE, DOCS, SHOWN, render
    from tools.overview import house, path, whole_ip
    from tools.schedule_picture import schedule

    if options.preset is not None:
        try:
            config = preset(options.preset).override(options.set)
            name = instance_name(options.preset, config)
            folder = writable_folder(options.folder)
            for file, draw in (("blocks", blocks), ("streams", streams)):
                write_text(folder / f"{name}-{file}.svg", draw(config, name))
                print(folder / f"{name}-{file}.svg")
        except ConfigError as error:
            parser.error(str(error))
        except OSError as error:
            parser.error(f"cannot write: {error}")
        return 0
    pictures = {
        "pipeline": pipeline(),
        "blocks": blocks(preset(SHOWN), SHOWN),
        "streams": streams(preset(SHOWN), SHOWN),
        "schedule": schedule(),
        "path": path(),
        "ip": whole_ip(preset(SHOWN), SHOWN),
        "house": house(),
    }
    for name, text in pictures.items():
        (DOCS / f"{name}.svg").write_text(text)
        print(DOCS / f"{name}.svg")
    ARCHITECTURE.write_text(render(ARCHITECTURE.read_text()))
    print(ARCHITECTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
