"""The tables of ``docs/architecture.md``, from the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from amaranth.hdl import Shape

from hw.config import PRESETS, AcceleratorConfig, preset
from hw.control.command import command_layout
from hw.core import AcceleratorCore
from hw.layout import Schedule, layer_tiles
from sw.format.layer import CompressedLayer
from sw.schedule import LayerRun, issue_slots, psum_accesses, sequence_cycles, tile_activations
from tools.marked import write_parts
from tools.schedule_picture import core_trace, schedule_example, stream_members

DOCS = Path(__file__).parents[1] / "docs"
ARCHITECTURE = DOCS / "architecture.md"
#: The instance of most tables.
SHOWN = "ews-cms-64"


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
        for stream_name, member in stream_members(core).items():
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
    stages: dict[int, list[str]] = {cycle: [] for cycle in range(config.drain_latency + 1)}
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
    leaves, added = "a finished sum can leave: PRF is read", "`i_psum` is added"
    if config.psum_register:
        stages[config.latency] += [leaves, "register"]
        stages[config.drain_latency].append(added)
    else:
        stages[config.latency].append(f"{leaves}, {added}")
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
