"""Pictures of the whole: the path from a checkpoint to the Verilog, the IP, and the rooms of the house.

What is in them comes from the code: the files' endings from the commands, the units from the accelerator's own parts,
the arrows between rooms from the imports.
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from pathlib import Path

from hw.config import AcceleratorConfig
from tools.drawing import AMBER, BLUE, CHIP, FAINT, FILE, GREEN, INK, LINE, RED, SOFT, Drawing

__all__ = ["ROOMS", "arrows", "house", "path", "whole_ip"]

ROOT = Path(__file__).parents[1]

#: Rooms of the house: level from below, and what each is.
ROOMS = {
    "hw": (0, "hardware, configuration"),
    "sw": (1, "compression, compiler"),
    "synth": (3, "area, delays, energy"),
    "sim": (2, "co-simulation, whole networks"),
    "formal": (2, "proofs"),
    "fpga": (3, "boards"),
    "msvq": (3, "the library's face"),
    "demo": (4, "the main job"),
    "experiments": (2, "accuracy"),
    "tools": (4, "pictures, tables"),
}


def path() -> str:
    """From a checkpoint to bits and to the Verilog: files, and the commands between them."""
    drawing = Drawing(980, 330, "From a checkpoint to bits and to the Verilog")
    drawing.section(14, 148, SOFT, "sw", BLUE, "numbers: PyTorch, then integers that are the same everywhere")
    drawing.section(172, 144, CHIP, "hw, sim", GREEN, "the circuit, from one configuration")
    boxes = [
        (28, 56, 140, ["checkpoint", "and images"], FILE),
        (288, 56, 150, ["net.msvq", "codebooks, indices,", "masks, signs, operations"], FILE),
        (558, 56, 150, ["net.prog", "descriptors, streams,", "parameters"], FILE),
        (818, 56, 134, ["outputs", "bit for bit"], FILE),
        (28, 222, 140, ["AcceleratorConfig", "a preset, --set"], FILE),
        (288, 222, 150, ["npu.v", "Verilog, C driver,", "constraints"], FILE),
        (558, 222, 150, ["Verilator", "AXI memory, host"], FILE),
        (818, 222, 134, ["outputs", "the same bytes"], FILE),
    ]
    for x, y, width, lines, _ in boxes:
        drawing.block(x, y, width, 78, lines, INK)
    for start, end, y, label in (
        (168, 288, 95, "msvq calibrate, finetune"),
        (438, 558, 95, "msvq compile"),
        (708, 818, 95, "msvq run"),
        (168, 288, 261, "msvq generate"),
        (438, 558, 261, "--backend rtl"),
        (708, 818, 261, "--check"),
    ):
        drawing.arrow((start + 2, y), (end - 3, y))
        drawing.text((start + end) / 2, y - 8, label, 9.5 if len(label) > 16 else 10.5, FAINT)
    drawing.arrow((633, 136), (633, 220))
    drawing.arrow((98, 220), (98, 196), (520, 196), (520, 118), (556, 118))
    drawing.text(430, 190, "the same instance for both", 10.5, FAINT)
    drawing.text(885, 180, "every byte compared", 10.5, FAINT)
    return drawing.svg()


def whole_ip(config: AcceleratorConfig, name: str) -> str:
    """The accelerator as an IP: its ports, units, memories and what goes between them."""
    drawing = Drawing(980, 470, f"The whole accelerator, {name}")
    drawing.section(14, 442, CHIP, "accelerator", GREEN, f"{name}: one clock, one synchronous reset")
    word = 8 * config.l2_word
    drawing.block(34, 60, 150, 56, ["registers", "AXI4-Lite subordinate"], BLUE)
    drawing.block(250, 60, 190, 56, ["sequencer", "descriptors, events, checks"], BLUE)
    drawing.block(520, 60, 190, 56, ["command queues", "one a unit"], BLUE)
    drawing.arrow((186, 88), (248, 88))
    drawing.text(217, 80, "start", 10, FAINT)
    drawing.arrow((442, 88), (518, 88))
    drawing.arrow((712, 88), (840, 88))
    drawing.text(848, 84, "to every unit", 10.5, FAINT, "start")
    reader = ["DMA reader", "AXI4 manager,", f"{config.word_width} bit,", f"{config.fifo_words} words a channel"]
    drawing.block(34, 170, 150, 96, reader, RED)
    drawing.block(34, 330, 150, 66, ["DMA writer", "AXI4 manager"], RED)
    drawing.block(250, 170, 190, 60, ["weight loader", "decoder: index, mask, sign"], INK)
    array = ["array", f"{config.H} x {config.L}, tiles of {config.H} x {config.d}", "partial sums in the PRF"]
    drawing.block(520, 160, 190, 80, array, INK)
    drawing.block(770, 170, 170, 60, ["psum buffer, storer", "requantisation"], INK)
    drawing.block(250, 330, 190, 66, ["L2", f"{config.l2_bytes // 1024} KiB, words of {word} bit"], AMBER)
    drawing.block(520, 330, 190, 66, ["ifmap loader, L1", f"{config.l1_ifmap_bytes // 1024} KiB of activations"], AMBER)
    drawing.block(770, 330, 170, 66, ["vector unit", "pool, add, tables"], INK)
    drawing.arrow((186, 200), (248, 200))
    drawing.text(217, 192, "streams", 10, FAINT)
    drawing.arrow((442, 200), (518, 200))
    drawing.text(480, 192, "weights", 10, FAINT)
    drawing.arrow((712, 200), (768, 200))
    drawing.text(740, 192, "sums", 10, FAINT)
    drawing.arrow((186, 250), (220, 250), (220, 350), (248, 350))
    drawing.text(224, 318, "load", 10, FAINT, "start")
    drawing.arrow((248, 378), (186, 378))
    drawing.text(217, 392, "store", 10, FAINT)
    drawing.arrow((442, 352), (518, 352))
    drawing.text(480, 344, "copy", 10, FAINT)
    drawing.arrow((615, 328), (615, 242))
    drawing.text(622, 290, f"activations, {8 * config.H} bit", 10, FAINT, "start")
    drawing.arrow((855, 232), (855, 282), (345, 282), (345, 328))
    drawing.text(720, 276, "ofmap, int8", 10, FAINT)
    drawing.arrow((855, 398), (855, 428), (345, 428), (345, 398))
    drawing.arrow((380, 398), (380, 414), (820, 414), (820, 398))
    drawing.text(600, 442, "windows of feature maps, and back", 10, FAINT)
    return drawing.svg()


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Rooms that each room imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module]
                found[room] |= {name.split(".")[0] for name in names} & ROOMS.keys() - {room}
    return dict(found)


def house() -> str:
    """The rooms, lowest below; an arrow from each to the rooms that it imports."""
    drawing = Drawing(980, 460, "The rooms of the house, and who imports whom")
    levels: dict[int, list[str]] = defaultdict(list)
    for room, (level, _) in ROOMS.items():
        levels[level].append(room)
    places = {}
    for level, rooms in levels.items():
        width = 940 / len(rooms)
        for i, room in enumerate(rooms):
            places[room] = (20 + width * (i + 0.5), 395 - 92 * level)
    for room, others in sorted(arrows().items()):
        for other in sorted(others):
            (x, y), (u, v) = places[room], places[other]
            down = v > y
            drawing.arrow((x, y + (27 if down else -27)), (u, v + (-29 if down else 29)))
    for room, (x, y) in places.items():
        drawing.block(x - 84, y - 26, 168, 52, [room, ROOMS[room][1]], GREEN if room == "hw" else BLUE)
    drawing.text(
        28,
        444,
        "Arrows go downwards: hw imports nobody. tests import all, and nobody imports them.",
        11,
        FAINT,
        "start",
    )
    drawing.text(952, 444, "from the imports in the code", 10, LINE, "end")
    return drawing.svg()
