"""The schedule of the core, drawn from its signals in Amaranth's simulator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from amaranth.hdl import Value
from amaranth.lib import stream, wiring
from amaranth.sim import Simulator

from hw.config import AcceleratorConfig, preset
from hw.core import AcceleratorCore
from hw.layout import Schedule
from sim.scenarios import random_activations, random_layer
from sim.transfers import LayerOutputs, LayerProgram, layer_program
from tools.drawing import AMBER, BLUE, FAINT, GREEN, GREY, INK, PAPER, RED, Drawing, counted


@dataclass(frozen=True)
class Operation:
    """One array operation: the cycle of its issue, and the register file entries that it uses."""

    cycle: int
    wrf: int
    arf: int
    prf: int


@dataclass
class Trace:
    """What the core did, as (cycle, entry) pairs. Cycle 0 is the one in which the first command is taken."""

    #: Cycles in which ``i_command``, and words of the codebook by ``i_weight``, transferred.
    commands: list[int] = field(default_factory=list)
    codewords: list[int] = field(default_factory=list)
    #: One row of a WRF entry, and an ARF entry, were written.
    wrf_writes: list[tuple[int, int]] = field(default_factory=list)
    arf_writes: list[tuple[int, int]] = field(default_factory=list)
    #: In order of issue.
    operations: list[Operation] = field(default_factory=list)
    #: A PRF entry left by ``o_psum``.
    leaves: list[tuple[int, int]] = field(default_factory=list)


class _Probed(AcceleratorCore):
    """The core, with its blocks in reach once it is elaborated."""

    def elaborate(self, platform):
        module = super().elaborate(platform)
        self.loader, self.control = module.submodules.weight_loader, module.submodules.control
        return module


def stream_members(core: AcceleratorCore) -> dict[str, wiring.Member]:
    return {
        name: member
        for name, member in core.signature.members.items()
        if member.is_signature and isinstance(member.signature, stream.Signature)
    }


def core_trace(config: AcceleratorConfig, program: LayerProgram) -> Trace:
    """Run one layer on the core in Amaranth's simulator, with streams that never pause."""
    core = _Probed(config)
    simulator = Simulator(core)
    loader, control = core.loader, core.control
    names = [name for name in stream_members(core) if name != "o_psum"]
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
        f"A = {tile.A}, B = {tile.B}, D = {tile.D}, {counted(len(program.tiles), 'layer tile')}"
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

    numbers = list(_counters(config, program, trace))
    owners = [owner for _, owner, _ in numbers]
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
                at = (cycle for cycle, owner, values in numbers if owner == i and values[name] % 2 == odd)
                drawing.cells((cell(cycle, y) for cycle in at), shade)
    seen = None
    for cycle, owner, values in numbers:
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
