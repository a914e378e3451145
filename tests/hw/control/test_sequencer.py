"""The sequencer among units that are played by the test."""

from __future__ import annotations

import random

import pytest
from amaranth.lib import data

from hw.config import AcceleratorConfig, preset
from hw.control.bodies import body_layout
from hw.control.descriptor import Descriptor, Opcode
from hw.control.errors import Cause
from hw.control.sequencer import CommandQueue, Sequencer

TINY = preset("ews-msvq-tiny")
TILE = {
    "A": 2,
    "B": 2,
    "D": 3,
    "Dr": 3,
    "rows": 4,
    "width": 5,
    "height": 6,
    "advance_columns": 1,
    "passes": 1,
    "codewords": 8,
}
COPY = {"height": 1, "width": 1, "groups": 1}
OUTPUT = {"A": 1, "width": 1, "height": 1, "channels": 8}
VECTOR = {"kernel_rows": 1, "kernel_columns": 1, "height": 1, "width": 1, "pixel_words": 1}
FETCH = {"address": 64, "words": 3, "checksum": 0x12345678}

# The output that takes an opcode, and the input that says it is done.
UNITS = {
    "load": "loaded",
    "copy": "copied",
    "read": "fed",
    "output": "stored",
    "vector": "vectored",
    "store": "written",
}


class Host:
    """The sequencer's surroundings: a source of words, units that take commands and are done later."""

    def __init__(self, config: AcceleratorConfig, program: list[bytes], *, seed: int = 0, declared: int | None = None):
        self.config, self.random = config, random.Random(seed)
        self.dut = Sequencer(config)
        width = config.word_width // 8
        joined = b"".join(program)
        self.words = [int.from_bytes(joined[i : i + width], "little") for i in range(0, len(joined), width)]
        self.declared = len(program) if declared is None else declared
        self.log: list[tuple[str, dict]] = []
        self.slow: set[str] = set()
        self.error: Cause | None = None
        self.result: tuple | None = None

    async def run(self, ctx, *, cycles: int = 4000, abort_at: int | None = None) -> None:
        dut = self.dut
        names = [*UNITS, "tile", "psum", *(f"request_{name}" for name in dut.channels)]
        busy: dict[str, int] = {}
        sent, requested = 0, False
        ctx.set(dut.i_quiet, 1)
        ctx.set(dut.i_address, 0x1000)
        ctx.set(dut.i_descriptors, self.declared)
        ctx.set(dut.i_start, 1)
        await ctx.tick()
        ctx.set(dut.i_start, 0)
        for cycle in range(cycles):
            ready = {}
            for name in names:
                free = busy.get(name, 0) == 0 and name not in self.slow
                ready[name] = free and self.random.random() < 0.7
                ctx.set(getattr(dut, f"o_{name}").ready, ready[name])
            ctx.set(dut.o_descriptor_request.ready, 1)
            offered = requested and sent < len(self.words) and self.random.random() < 0.8
            ctx.set(dut.i_words.valid, offered)
            if offered:
                ctx.set(dut.i_words.payload, self.words[sent])
            for name, event in UNITS.items():
                left = busy.get(name, 0)
                ctx.set(getattr(dut, f"i_{event}"), left == 1)
                busy[name] = max(left - 1, 0)
            ctx.set(dut.i_abort, cycle == abort_at)
            if self.error is not None and cycle == 150:
                ctx.set(dut.i_error, 1)
                ctx.set(dut.i_error_cause, self.error)
            else:
                ctx.set(dut.i_error, 0)
            for name in names:
                port = getattr(dut, f"o_{name}")
                if ready[name] and ctx.get(port.valid):
                    payload = ctx.get(port.payload)
                    layout = port.payload.shape()
                    assert isinstance(layout, data.StructLayout)
                    self.log.append((name, {key: int(payload[key]) for key in layout.members}))
                    if name in UNITS:
                        busy[name] = self.random.randrange(1, 40)
            if ctx.get(dut.o_descriptor_request.valid):
                request = ctx.get(dut.o_descriptor_request.payload)
                assert (request["address"], request["words"]) == (0x1000, self.declared * 512 // self.config.word_width)
                requested = True
            if offered and ctx.get(dut.i_words.ready):
                sent += 1
            if ctx.get(dut.o_done) or ctx.get(dut.o_failed):
                self.result = (
                    bool(ctx.get(dut.o_done)),
                    Cause(int(ctx.get(dut.o_cause))),
                    ctx.get(dut.o_descriptor),
                )
                assert ctx.get(dut.o_reset)
                await ctx.tick()
                assert not ctx.get(dut.o_busy)
                return
            await ctx.tick()

    def taken(self, name: str) -> list[dict]:
        return [payload for unit, payload in self.log if unit == name]


def _sound_program() -> list[Descriptor]:
    return [
        Descriptor(Opcode.LOAD, {"words": 4, "address": 256}),
        Descriptor(Opcode.FETCH, FETCH | {"channel": 0}),
        Descriptor(Opcode.FETCH, FETCH | {"channel": 1}),
        Descriptor(Opcode.FETCH, FETCH | {"channel": 2}),
        Descriptor(Opcode.FETCH, FETCH | {"channel": 3}),
        Descriptor(Opcode.COPY, COPY | {"first_row": -1, "l1_base": 9}, waits={"loaded": 1}),
        Descriptor(Opcode.OUTPUT, OUTPUT | {"low": -128, "high": 127}),
        Descriptor(Opcode.TILE, TILE, waits={"copied": 1}),
        Descriptor(Opcode.VECTOR, VECTOR | {"multiplier_a": -5}, waits={"stored": 1, "fed": 1}),
        Descriptor(Opcode.RECORD, {"address": 1 << 12}, waits={"vectored": 1}),
        Descriptor(Opcode.STORE, {"address": 64, "words": 2, "l2_base": 3}, waits={"written": 1}),
        Descriptor(Opcode.END),
    ]


@pytest.mark.parametrize("width", [8, 16, 64, 512])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_units_get_their_commands(simulate, width: int, seed: int) -> None:
    config = TINY.override([f"word_width={width}"])
    program = _sound_program()
    host = Host(config, [descriptor.pack() for descriptor in program], seed=seed)
    simulate(host.dut, host.run)
    assert host.result == (True, Cause.NONE, len(program) - 1)
    assert host.taken("tile") == [
        {
            "codewords": 8,
            "raw": 0,
            "start": 0,
            "A": 2,
            "B": 2,
            "D": 3,
            "rows": 4,
            "width": 5,
            "height": 6,
            "advance": 6,
            "accumulate": 0,
        }
    ]
    assert len(host.taken("read")) == len(host.taken("psum")) == 1
    assert host.taken("copy")[0]["first_row"] == -1
    assert host.taken("vector")[0]["multiplier_a"] == -5
    assert [command["record"] for command in host.taken("store")] == [1, 0]
    for name in host.dut.channels:
        assert host.taken(f"request_{name}") == [{"address": 64, "words": 3, "checksum": 0x12345678, "check": 1}]
    # What waits comes after what it waits for.
    order = [name for name, _ in host.log]
    places = [order.index(name) for name in ("load", "copy", "read", "vector", "store")]
    assert places == sorted(places)


def test_a_wait_holds_one_unit_alone(simulate) -> None:
    """Without COPY's end the activation reader is still; weights load, and the vector unit goes on."""
    program = [
        Descriptor(Opcode.COPY, COPY),
        Descriptor(Opcode.TILE, TILE, waits={"copied": 1}),
        Descriptor(Opcode.VECTOR, VECTOR),
        Descriptor(Opcode.END),
    ]
    host = Host(TINY, [descriptor.pack() for descriptor in program])
    host.slow.add("copy")
    simulate(host.dut, lambda ctx: host.run(ctx, cycles=600))
    assert host.result is None
    assert [len(host.taken(name)) for name in ("tile", "psum", "read", "vector")] == [1, 1, 0, 1]


def test_counts_wrap(simulate) -> None:
    """70,000 events of the past are more than 16 bits hold: a wait modulo 2**16 is met, the next one not."""
    queue = CommandQueue(body_layout(Opcode.COPY))

    async def bench(ctx) -> None:
        ctx.set(queue.i_events.fed, 70_000 % 65_536)
        ctx.set(queue.i_waits.fed, 70_000 % 65_536)
        ctx.set(queue.i_command.valid, 1)
        ctx.set(queue.o_command.ready, 1)
        await ctx.tick()
        ctx.set(queue.i_waits.fed, 70_001 % 65_536)
        taken = 0
        for _ in range(20):
            taken += ctx.get(queue.o_command.valid)
            await ctx.tick()
            ctx.set(queue.i_command.valid, 0)
        assert taken == 1

    simulate(queue, bench)


ILLEGAL = [
    (Opcode.FETCH, FETCH | {"words": 0}),
    (Opcode.FETCH, FETCH | {"channel": 4}),
    (Opcode.FETCH, FETCH | {"address": 65}),
    (Opcode.FETCH, FETCH | {"address": 1 << 40}),
    (Opcode.LOAD, {"words": 0}),
    (Opcode.LOAD, {"words": 1, "l2_base": TINY.l2_depth}),
    (Opcode.LOAD, {"words": 1, "address": 2}),
    (Opcode.STORE, {"words": TINY.l2_depth + 1}),
    (Opcode.COPY, COPY | {"height": 0}),
    (Opcode.COPY, COPY | {"groups": 0}),
    (Opcode.COPY, COPY | {"l1_base": TINY.l1_ifmap_depth}),
    *((Opcode.TILE, TILE | change) for change in (
        {"A": 0},
        {"A": 9},
        {"B": 0},
        {"D": 9},
        {"B": 3, "D": 3, "A": 1},
        {"A": 3},
        {"Dr": 4},
        {"rows": 5},
        {"rows": 0},
        {"width": 4096},
        {"height": 0},
        {"codewords": 9},
        {"advance_columns": 0},
        {"advance_columns": 2},
        {"passes": 0},
        {"passes": 3},
        {"psum_base": TINY.l1_psum_depth},
        {"l1_base": TINY.l1_ifmap_depth},
    )),
    (Opcode.OUTPUT, OUTPUT | {"channels": 0}),
    (Opcode.OUTPUT, OUTPUT | {"l2_base": TINY.l2_depth}),
    (Opcode.VECTOR, VECTOR | {"operation": 3}),
    (Opcode.VECTOR, VECTOR | {"shift": 63}),
    (Opcode.VECTOR, VECTOR | {"pixel_words": 0}),
    (Opcode.RECORD, {"address": 32}),
]  # fmt: skip


@pytest.mark.parametrize(("opcode", "body"), ILLEGAL)
def test_illegal_fields_end_the_program(simulate, opcode: Opcode, body: dict) -> None:
    program = [Descriptor(Opcode.COPY, COPY), Descriptor(opcode, body), Descriptor(Opcode.END)]
    host = Host(TINY, [descriptor.pack() for descriptor in program])
    simulate(host.dut, host.run)
    assert host.result == (False, Cause.ILLEGAL_DESCRIPTOR, 1)


@pytest.mark.parametrize("opcode", [0, 10, 255])
def test_unknown_opcodes(simulate, opcode: int) -> None:
    host = Host(TINY, [bytes([opcode]) + bytes(63), Descriptor(Opcode.END).pack()])
    simulate(host.dut, host.run)
    assert host.result == (False, Cause.ILLEGAL_DESCRIPTOR, 0)


def test_programs_without_descriptors_or_end(simulate) -> None:
    host = Host(TINY, [], declared=0)
    simulate(host.dut, host.run)
    assert host.result == (False, Cause.ILLEGAL_DESCRIPTOR, 0)
    host = Host(TINY, [Descriptor(Opcode.COPY, COPY).pack()])
    simulate(host.dut, host.run)
    assert host.result == (False, Cause.ILLEGAL_DESCRIPTOR, 0)


def test_a_channel_that_the_variant_lacks(simulate) -> None:
    """Raw weights have no signs."""
    host = Host(preset("ews-tiny"), [Descriptor(Opcode.FETCH, FETCH | {"channel": 2}).pack()] * 2)
    simulate(host.dut, host.run)
    assert host.result == (False, Cause.ILLEGAL_DESCRIPTOR, 0)


def test_errors_and_aborts(simulate) -> None:
    program = [descriptor.pack() for descriptor in _sound_program()]
    for cause in (Cause.READ_RESPONSE, Cause.WRITE_RESPONSE, Cause.CHECKSUM):
        host = Host(TINY, program)
        host.slow.add("copy")
        host.error = cause
        simulate(host.dut, host.run)
        assert host.result is not None
        assert host.result[:2] == (False, cause)
    for cycle in range(1, 400, 37):
        host = Host(TINY, program)
        host.slow.add("vector")
        simulate(host.dut, lambda ctx, host=host, cycle=cycle: host.run(ctx, abort_at=cycle))
        assert host.result is not None
        assert host.result[:2] == (False, Cause.ABORTED)
