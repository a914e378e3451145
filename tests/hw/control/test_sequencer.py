"""The sequencer among units that are played by the test."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from amaranth.lib import data

from hw.config import AcceleratorConfig, preset
from hw.control.descriptor import EVENTS, Descriptor, Opcode, VectorOp
from hw.control.errors import Cause
from hw.control.sequencer import CHECK_CYCLES, SETTLE_CYCLES, CommandQueue, EventCounter, Sequencer
from sim.simulation import Together
from tests.hw.simulation import shared

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
        self.dut = shared(Sequencer, config)
        self.program(program, declared)
        self.log: list[tuple[str, dict]] = []
        self.slow: set[str] = set()
        self.error: Cause | None = None
        self.result: tuple | None = None

    def program(self, program: list[bytes], declared: int | None = None) -> None:
        """What the next run is of."""
        width = self.config.word_width // 8
        joined = b"".join(program)
        self.words = [int.from_bytes(joined[i : i + width], "little") for i in range(0, len(joined), width)]
        self.declared = len(program) if declared is None else declared

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
        together = Together()
        for cycle in range(cycles):
            ready = {}
            for name in names:
                free = busy.get(name, 0) == 0 and name not in self.slow
                ready[name] = free and self.random.random() < 0.7
                together.set(getattr(dut, f"o_{name}").ready, ready[name])
            together.set(dut.o_descriptor_request.ready, 1)
            offered = requested and sent < len(self.words) and self.random.random() < 0.8
            together.set(dut.i_words.valid, offered)
            if offered:
                together.set(dut.i_words.payload, self.words[sent])
            for name, event in UNITS.items():
                left = busy.get(name, 0)
                together.set(getattr(dut, f"i_{event}"), left == 1)
                busy[name] = max(left - 1, 0)
            together.set(dut.i_abort, cycle == abort_at)
            if self.error is not None and cycle == 150:
                together.set(dut.i_error, 1)
                together.set(dut.i_error_cause, self.error)
            else:
                together.set(dut.i_error, 0)
            together.drive(ctx)
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
                assert ctx.get(dut.o_count) == sent * self.config.word_width // 512
                await ctx.tick()
                assert not ctx.get(dut.o_busy)
                return
            await ctx.tick()

    def results(self, simulate, programs: list[list[bytes]]) -> list[tuple | None]:
        """Of each program, one after the other in one simulation: a simulator takes longer to make than to run."""
        found: list[tuple | None] = []

        async def bench(ctx) -> None:
            for program in programs:
                self.program(program)
                self.result = None
                await self.run(ctx)
                found.append(self.result)

        simulate(self.dut, bench)
        return found

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


@pytest.mark.parametrize(
    ("width", "seed"),
    [
        *((8, 0), (16, 1), (64, 0), (512, 1)),
        *(pytest.param(width, seed, marks=pytest.mark.whole) for width, seed in ((8, 1), (16, 0), (64, 1), (512, 0))),
    ],
)
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
    """70,000 events of the past are more than 16 bits hold."""
    counter = EventCounter()

    async def bench(ctx) -> None:
        ctx.set(counter.i_given, 1)
        await ctx.tick().repeat(2)
        ctx.set(counter.i_done, 1)  # two commands are still under way
        await ctx.tick().repeat(70_000 - 2)
        ctx.set(counter.i_given, 0)
        ctx.set(counter.i_done, 0)
        for count, legal, left in (
            (70_000, True, 2),
            (69_999, True, 1),
            (69_998, True, 0),
            (40_000, True, 0),
            (70_001, False, None),
        ):
            ctx.set(counter.i_wait, count % 65_536)
            await ctx.tick().repeat(2)
            assert ctx.get(counter.o_legal) == legal
            assert left is None or ctx.get(counter.o_left) == left
        assert not ctx.get(counter.o_rest)
        ctx.set(counter.i_wait, 70_000 % 65_536)
        ctx.set(counter.i_done, 1)
        await ctx.tick()
        assert ctx.get(counter.o_left) == 0  # the last one is in this cycle
        await ctx.tick()
        ctx.set(counter.i_done, 0)
        assert ctx.get(counter.o_rest)

    simulate(counter, bench)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_queue_holds_back_what_waits(simulate, depth: int, seed: int) -> None:
    """Commands come out in order, each when its events have happened and not before; there are ``depth`` places."""
    rng = random.Random(seed)
    queue = CommandQueue(data.StructLayout({"number": 8}), depth)
    left: list[dict[str, int]] = []
    taken: list[int] = []

    async def bench(ctx) -> None:
        longest = 0
        for cycle in range(600):
            events = {event: rng.random() < 0.5 for event in EVENTS}
            ctx.set(queue.i_events, sum(happens << i for i, happens in enumerate(events.values())))
            wanted = {event: rng.choice([0, 0, 0, 0, 0, 0, 1, 3, 7]) for event in EVENTS}
            offered = len(left) < 200 and rng.random() < 0.6
            ctx.set(queue.i_command.valid, offered)
            ctx.set(queue.i_command.payload.number, len(left))
            ctx.set(queue.i_left, wanted)
            ready = cycle > 50 and rng.random() < 0.7
            ctx.set(queue.o_command.ready, ready)
            if ctx.get(queue.o_command.valid) and ready:
                number = ctx.get(queue.o_command.payload.number)
                assert number == len(taken)
                assert not any(left[number].values())
                taken.append(number)
            longest = max(longest, len(left) - len(taken))
            for waits in left:
                for event, happens in events.items():
                    waits[event] = max(waits[event] - happens, 0)
            if offered and ctx.get(queue.i_command.ready):
                left.append(wanted)
            await ctx.tick()
        assert longest == depth

    simulate(queue, bench)
    assert len(taken) > 30


ILLEGAL = [
    (Opcode.FETCH, FETCH | {"words": 0}),
    (Opcode.FETCH, FETCH | {"channel": 4}),
    (Opcode.FETCH, FETCH | {"address": 65}),
    (Opcode.FETCH, FETCH | {"address": 1 << 40}),
    (Opcode.LOAD, {"words": 0}),
    (Opcode.LOAD, {"words": 1, "l2_base": TINY.l2_depth}),
    (Opcode.LOAD, {"words": 1, "address": 2}),
    (Opcode.LOAD, {"words": 1, "address": 1 << TINY.address_bits}),
    (Opcode.STORE, {"words": TINY.l2_depth + 1}),
    (Opcode.COPY, COPY | {"height": 0}),
    (Opcode.COPY, COPY | {"groups": 0}),
    *((Opcode.COPY, COPY | {name: TINY.l1_ifmap_depth + 1}) for name in ("height", "width", "groups")),
    (Opcode.COPY, COPY | {"channel_words": TINY.l2_depth + 1}),
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
    (Opcode.OUTPUT, OUTPUT | {"channels": TINY.prf_depth * TINY.L + 1}),
    (Opcode.OUTPUT, OUTPUT | {"l2_base": TINY.l2_depth}),
    *((Opcode.OUTPUT, OUTPUT | {name: TINY.l2_depth + 1}) for name in ("height", "width")),
    (Opcode.VECTOR, VECTOR | {"operation": 3}),
    (Opcode.VECTOR, VECTOR | {"shift": 63}),
    (Opcode.VECTOR, VECTOR | {"pixel_words": 0}),
    *((Opcode.VECTOR, VECTOR | {name: TINY.l2_depth + 1}) for name in ("height", "width", "pixel_words")),
    (Opcode.RECORD, {"address": 32}),
]  # fmt: skip
FULL = preset("ews-msvq-full-tiny")
TABLE = VECTOR | {"operation": int(VectorOp.TABLE), "pixel_words": 256 // FULL.l2_word}
TABLE |= dict.fromkeys(("kernel_rows", "kernel_columns", "height", "width"), 1)


VECTOR_FIELDS = [
    (VECTOR | {"operation": max(VectorOp) + 1}, False),
    (VECTOR | {"operation": int(VectorOp.MERGE), "rotation": 3, "tail": 3, "upsample": 0}, True),
    (VECTOR | {"rotation": 4}, False),
    (VECTOR | {"tail": 4}, False),
    (VECTOR | {"upsample": 2, "lookup": 1, "rotate_a": 1, "a_skip": -5, "b_skip": -32768, "l2_skip": 32767}, True),
    (VECTOR | {"upsample": 3}, False),
    (TABLE, True),
    (TABLE | {"pixel_words": 63}, False),
    (TABLE | {"height": 2}, False),
    (TABLE | {"kernel_columns": 2}, False),
]


def _behind_a_copy(opcode: Opcode, body: dict) -> list[bytes]:
    return [Descriptor(Opcode.COPY, COPY).pack(), Descriptor(opcode, body).pack(), Descriptor(Opcode.END).pack()]


def test_fields_of_all_vector_functions(simulate) -> None:
    """Where the vector unit has them; elsewhere the operations are illegal, and the fields are not looked at."""
    programs = [_behind_a_copy(Opcode.VECTOR, body) for body, _ in VECTOR_FIELDS]
    results = Host(FULL, []).results(simulate, programs)
    for (body, legal), result in zip(VECTOR_FIELDS, results, strict=True):
        assert result is not None
        # The cause of the last failure stays.
        assert (result[0], result[2]) == (legal, 2 if legal else 1), body
        assert legal or result[1] is Cause.ILLEGAL_DESCRIPTOR, body


def test_illegal_fields_end_the_program(simulate) -> None:
    """A legal program behind them runs to its end."""
    programs = [_behind_a_copy(opcode, body) for opcode, body in (*ILLEGAL, (Opcode.COPY, COPY))]
    *results, last = Host(TINY.override(["word_width=128"]), []).results(simulate, programs)
    for case, result in zip(ILLEGAL, results, strict=True):
        assert result == (False, Cause.ILLEGAL_DESCRIPTOR, 1), case
    assert last is not None
    assert last[0]


WAITS = [
    ("loaded", Opcode.LOAD, {"words": 1}),
    ("copied", Opcode.COPY, COPY),
    ("fed", Opcode.TILE, TILE),
    ("stored", Opcode.OUTPUT, OUTPUT),
    ("vectored", Opcode.VECTOR, VECTOR),
    ("written", Opcode.STORE, {"words": 1}),
    ("written", Opcode.RECORD, {}),
    ("stored", Opcode.COPY, COPY),
    ("copied", Opcode.TILE, TILE),
]


def test_a_wait_for_a_later_descriptor_is_illegal(simulate) -> None:
    """It would hang: a command waits for itself, or for one behind it."""
    end = Descriptor(Opcode.END).pack()
    programs = [[Descriptor(opcode, body, waits={event: 1}).pack(), end] for event, opcode, body in WAITS]
    results = Host(TINY.override(["word_width=512"]), []).results(simulate, programs)
    assert dict(zip(map(str, WAITS), results, strict=True)) == {
        str(case): (False, Cause.ILLEGAL_DESCRIPTOR, 0) for case in WAITS
    }


@pytest.mark.parametrize(("sizes", "legal"), [({}, True), ({"A": 2}, False), ({"D": 2, "Dr": 1}, False)])
def test_a_weight_stationary_tile_is_one_weight_a_pe(simulate, sizes: dict, legal: bool) -> None:
    """Its WRF has two entries, of which the next tile loads one."""
    tile = TILE | {"A": 1, "B": 1, "D": 1, "Dr": 1, "codewords": 0, "raw": 1} | sizes
    host = Host(preset("ws-tiny"), [Descriptor(Opcode.TILE, tile).pack(), Descriptor(Opcode.END).pack()])
    simulate(host.dut, host.run)
    assert host.result == ((True, Cause.NONE, 1) if legal else (False, Cause.ILLEGAL_DESCRIPTOR, 0))


def test_unknown_opcodes(simulate) -> None:
    """Each bit of an opcode counts: END with any other bit is not END."""
    opcodes = [0, 10, 255, *(Opcode.END | 1 << bit for bit in range(4, 8))]
    programs = [[bytes([opcode]) + bytes(63), Descriptor(Opcode.END).pack()] for opcode in opcodes]
    results = Host(TINY, []).results(simulate, programs)
    assert dict(zip(opcodes, results, strict=True)) == dict.fromkeys(opcodes, (False, Cause.ILLEGAL_DESCRIPTOR, 0))


def test_a_program_does_not_count_the_events_of_the_one_before(simulate) -> None:
    """What ran before is no excuse for a wait for a descriptor behind, whether it ended well or not."""
    load, end = Descriptor(Opcode.LOAD, {"words": 1, "address": 256}), Descriptor(Opcode.END)
    early = [Descriptor(Opcode.COPY, COPY, waits={"loaded": 1}).pack(), load.pack(), end.pack()]
    good = [load.pack(), Descriptor(Opcode.COPY, COPY, waits={"loaded": 1}).pack(), end.pack()]

    async def bench(ctx) -> None:
        for program, result in (
            (good, (True, Cause.NONE, 2)),
            (early, (False, Cause.ILLEGAL_DESCRIPTOR, 0)),
            (good, (True, Cause.NONE, 2)),
        ):
            host.program(program)
            await host.run(ctx)
            assert host.result is not None
            assert host.result[0] == result[0]
            assert result[0] or host.result == result

    host = Host(TINY, good)
    simulate(host.dut, bench)


def test_programs_without_descriptors_or_end(simulate) -> None:
    host = Host(TINY, [], declared=0)
    simulate(host.dut, host.run)
    assert host.result == (False, Cause.ILLEGAL_DESCRIPTOR, 0)
    host = Host(TINY, [Descriptor(Opcode.COPY, COPY).pack()])
    simulate(host.dut, host.run)
    assert host.result == (False, Cause.ILLEGAL_DESCRIPTOR, 0)


def test_descriptors_follow_one_another_every_seven_cycles(simulate) -> None:
    """One for its only word, five of checks, one to give it out: what the cycle model says."""
    wide = TINY.override(["word_width=512"])
    program = [Descriptor(Opcode.COPY, COPY | {"l1_base": number}).pack() for number in range(5)]
    words = [int.from_bytes(descriptor, "little") for descriptor in program]
    dut = shared(Sequencer, wide)

    async def bench(ctx) -> None:
        ctx.set(dut.i_quiet, 1)
        ctx.set(dut.i_descriptors, len(words) + 1)
        ctx.set(dut.o_descriptor_request.ready, 1)
        ctx.set(dut.i_words.valid, 1)
        ctx.set(dut.o_copy.ready, 1)
        ctx.set(dut.i_start, 1)
        await ctx.tick()
        ctx.set(dut.i_start, 0)
        taken, cycles = 0, []
        for cycle in range(60):
            ctx.set(dut.i_words.payload, words[min(taken, len(words) - 1)])
            if ctx.get(dut.i_words.ready):
                taken += 1
                cycles.append(cycle)
            await ctx.tick()
        assert [b - a for a, b in pairwise(cycles)][:4] == [7] * 4

    simulate(dut, bench)


async def start_ending(ctx, dut: Sequencer) -> None:
    """Start a program of END alone, whose word is there when it is asked for."""
    ctx.set(dut.i_descriptors, 1)
    ctx.set(dut.o_descriptor_request.ready, 1)
    ctx.set(dut.i_words.valid, 1)
    ctx.set(dut.i_words.payload, int.from_bytes(Descriptor(Opcode.END).pack(), "little"))
    ctx.set(dut.i_start, 1)
    await ctx.tick()
    ctx.set(dut.i_start, 0)


def test_a_program_ends_after_seven_cycles_of_rest_and_a_reset_of_eight(simulate) -> None:
    """Fewer, as between a unit's last pulse and the flag that follows it, are no rest."""
    wide = TINY.override(["word_width=512"])
    dut = shared(Sequencer, wide)

    async def bench(ctx) -> None:
        await start_ending(ctx, dut)
        for cycle in range(80):
            ctx.set(dut.i_quiet, cycle % 7 != 0)
            assert not ctx.get(dut.o_stop)
            await ctx.tick()
        ctx.set(dut.i_quiet, 1)
        stops = resets = 0
        for _ in range(40):
            stops += ctx.get(dut.o_stop)
            resets += ctx.get(dut.o_reset)
            if ctx.get(dut.o_done):
                break
            await ctx.tick()
        assert ctx.get(dut.o_done)
        assert (stops, resets) == (16, 8)

    simulate(dut, bench)


def test_rest_is_counted_from_the_verdict_on(simulate) -> None:
    """Also where all is still before: from the last word's cycle on, its check and then seven cycles of rest."""
    dut = shared(Sequencer, TINY.override(["word_width=512"]))

    async def bench(ctx) -> None:
        ctx.set(dut.i_quiet, 1)
        await start_ending(ctx, dut)
        while not ctx.get(dut.i_words.ready):
            await ctx.tick()
        await ctx.tick()
        cycles = 0
        while not ctx.get(dut.o_stop):
            assert cycles < 50
            cycles += 1
            await ctx.tick()
        assert cycles == (CHECK_CYCLES + 1) + (SETTLE_CYCLES + 1)
        assert SETTLE_CYCLES == 7

    simulate(dut, bench)


def test_after_a_fault_units_have_as_long_to_rest_wherever_it_comes(simulate) -> None:
    """Whatever was being waited for then, such as a verdict or the end's own rest, does not count."""
    dut = shared(Sequencer, TINY.override(["word_width=512"]))
    found = []

    async def bench(ctx) -> None:
        for late in range(CHECK_CYCLES + SETTLE_CYCLES + 4):
            ctx.set(dut.i_quiet, 1)
            await start_ending(ctx, dut)
            for _ in range(late):
                await ctx.tick()
            ctx.set(dut.i_abort, 1)
            await ctx.tick()
            ctx.set(dut.i_abort, 0)
            stops = 0
            while not (ctx.get(dut.o_done) or ctx.get(dut.o_failed)):
                stops += ctx.get(dut.o_stop) and not ctx.get(dut.o_reset)
                await ctx.tick()
            found.append((ctx.get(dut.o_failed), stops))
            await ctx.tick()

    simulate(dut, bench)
    assert found == [(1, SETTLE_CYCLES + 1)] * len(found)


def test_a_channel_that_the_variant_lacks(simulate) -> None:
    """Raw weights have no signs."""
    host = Host(preset("ews-tiny"), [Descriptor(Opcode.FETCH, FETCH | {"channel": 2}).pack()] * 2)
    simulate(host.dut, host.run)
    assert host.result == (False, Cause.ILLEGAL_DESCRIPTOR, 0)


def test_errors_and_aborts(simulate) -> None:
    """One after the other in one simulation."""
    program = [descriptor.pack() for descriptor in _sound_program()]
    host = Host(TINY, program)
    runs: list[tuple[str, Cause, int | None]] = [
        *(("copy", cause, None) for cause in (Cause.READ_RESPONSE, Cause.WRITE_RESPONSE, Cause.CHECKSUM)),
        *(("vector", Cause.ABORTED, cycle) for cycle in range(1, 400, 37)),
    ]

    async def bench(ctx) -> None:
        for slow, cause, cycle in runs:
            host.program(program)
            host.slow, host.error, host.result = {slow}, None if cycle else cause, None
            await host.run(ctx, abort_at=cycle)
            assert host.result is not None
            assert host.result[:2] == (False, cause), (slow, cycle)

    simulate(host.dut, bench)
