"""The functions that a vector unit has beside pooling and addition, against plain loops and against sw.network."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hw.config import AcceleratorConfig, preset
from hw.control.descriptor import VectorOp
from hw.generate import to_rtlil
from hw.postprocess.byte_rotator import ByteRotator
from hw.postprocess.vector_unit import VectorUnit
from sw.network.spatial import Concatenate, Multiply, Slice, Table, Upsample
from tests.hw.postprocess.vector_bench import VectorBench, integers

TINY = preset("ews-msvq-full-tiny")
SMALL = {"l2_bytes": 5000, "l1_ifmap_bytes": 1 << 10, "l1_psum_bytes": 1 << 12, "vector_unit_functions": "full"}
CONFIGS = {
    "tiny": TINY,
    "all channels at once": AcceleratorConfig(variant="ews", H=8, L=16, d=4, vector_lanes=8, **SMALL),
    "a channel at a time": AcceleratorConfig(variant="ews", H=16, L=16, d=8, vector_lanes=1, **SMALL),
    "one channel": AcceleratorConfig(variant="ews", H=1, L=3, d=1, **SMALL),
}
#: The last but one takes the longest.
SAMPLED = [
    pytest.param(config, id=name, marks=[pytest.mark.whole] if name == "a channel at a time" else [])
    for name, config in CONFIGS.items()
]
#: Fields of a window of one word, of every operation.
PLAIN = {
    **dict.fromkeys(("kernel_rows", "kernel_columns", "stride_rows", "stride_columns"), 1),
    **dict.fromkeys(("padding_rows", "padding_columns", "shift", "a_base", "b_base", "l2_base"), 0),
    **dict.fromkeys(("a_skip", "b_skip", "l2_skip", "rotation", "tail", "rotate_a", "upsample", "lookup"), 0),
    **{"low": -128, "high": 127, "multiplier_a": 1, "multiplier_b": 0},
}


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_ports_of_the_rotator(size: int) -> None:
    rotator = ByteRotator(size)
    assert [len(x) for x in (rotator.i_word, rotator.i_amount, rotator.o_word)] == [
        8 * size,
        size.bit_length() - 1,
        8 * size,
    ]


def span(command: dict, pixels: int, skip: str) -> int:
    """Words from the first to the last of a tensor's pixels."""
    return (pixels - 1) * max(0, command["pixel_words"] + command[skip]) + command["pixel_words"]


def random_command(config: AcceleratorConfig, rng: random.Random, operation: VectorOp | str, **fixed) -> dict:
    while True:
        c = PLAIN | {"operation": int(VectorOp.SUM), "pixel_words": rng.randint(1, 3)}
        c |= {"rows": rng.randint(1, 5), "columns": rng.randint(1, 5)}
        c |= {f"{name}_skip": rng.randint(0, 2) for name in ("a", "b", "l2")}
        c |= {"lookup": rng.randrange(2), "tail": rng.choice([0, config.l2_word - 1, rng.randrange(config.l2_word)])}
        if operation == "upsample":
            c |= {"upsample": rng.randint(1, 2)}
            if c["upsample"] == 1:
                c |= {"padding_rows": rng.randrange(2), "padding_columns": rng.randrange(2)}
        else:
            c |= {"operation": int(operation)}
        if operation == VectorOp.MULTIPLY:
            shift = rng.randrange(63)
            limit = min(1 << 31, 1 << max(0, shift - 5)) - 1
            c |= {"shift": shift, "multiplier_a": rng.choice([-limit - 1, limit, rng.randint(-limit - 1, limit)])}
            c["low"], c["high"] = sorted(rng.randint(-128, 127) for _ in range(2))
            if rng.random() < 0.5:
                c["b_skip"] = -c["pixel_words"]
        if operation == VectorOp.MERGE:
            c |= {"kernel_columns": rng.randint(1, 2), "rotate_a": rng.randrange(2)}
            # It does not scale, whatever is there.
            c |= {"multiplier_a": rng.randint(-99, 99), "shift": rng.randrange(20)}
            c |= {"rotation": rng.choice([0, config.l2_word - 1, rng.randrange(config.l2_word)])}
        if operation == VectorOp.TABLE:
            c |= {"rows": 1, "columns": 1, "pixel_words": 256 // config.l2_word, "lookup": 0}
        factor = 2 if c["upsample"] else 1
        c |= {size: factor * c[of] + 2 * c[f"padding_{of}"] for size, of in (("height", "rows"), ("width", "columns"))}
        c |= fixed
        source, result = c["rows"] * c["columns"], c["height"] * c["width"]
        sizes = [span(c, source, "a_skip"), span(c, source, "b_skip"), span(c, result, "l2_skip")]
        if sum(sizes) > config.l2_depth:
            continue
        end = rng.randint(0, config.l2_depth - sum(sizes))
        for i in rng.sample(range(3), 3):
            c[("a_base", "b_base", "l2_base")[i]] = end
            end += sizes[i]
        if operation == VectorOp.MERGE and rng.random() < 0.3:
            # The first tensor is the result: bytes that stay.
            c |= {"a_base": c["l2_base"], "a_skip": c["l2_skip"]}
        return c | fixed


def expected(config: AcceleratorConfig, c: dict, l2: np.ndarray, table: np.ndarray, rounded):
    """L2 and the table after a command."""
    W = config.l2_word
    if c["operation"] == VectorOp.TABLE:
        return l2, l2[c["a_base"] : c["a_base"] + 256 // W].reshape(-1).copy()
    after = l2.copy()
    for e, f, word in np.ndindex(c["height"], c["width"], c["pixel_words"]):
        u, v, outside = e, f, False
        if c["upsample"]:
            u, v = e - c["padding_rows"], f - c["padding_columns"]
            outside = c["upsample"] == 2 and (u % 2 or v % 2)
            u, v = (min(max(at // 2, 0), c[of] - 1) for at, of in ((u, "rows"), (v, "columns")))
        number = u * c["columns"] + v
        a, b = (
            l2[(c[f"{x}_base"] + number * (c["pixel_words"] + c[f"{x}_skip"]) + word) % len(l2)].astype(int)
            for x in "ab"
        )
        if c["operation"] == VectorOp.MERGE:
            turn, r = (lambda x: np.roll(x, c["rotation"])), c["rotation"]
            found = turn(a) if c["rotate_a"] else a
            if c["kernel_columns"] == 2:
                found = np.concatenate([found[:r], turn(b)[r:]])
            found = found.clip(c["low"], c["high"])
        else:
            factor = b if c["operation"] == VectorOp.MULTIPLY else 0 if outside else 1
            values = (int(x) * c["multiplier_a"] for x in a * factor)
            found = np.array([rounded(x, c["shift"], c["low"], c["high"]) for x in values])
        if c["lookup"]:
            found = table[found % 256]
        if word == c["pixel_words"] - 1 and c["tail"]:
            found = np.where(np.arange(W) < c["tail"], found, 0)
        to = c["l2_base"] + (e * c["width"] + f) * (c["pixel_words"] + c["l2_skip"]) + word
        after[to] = found
    return after, table


class Bench(VectorBench):
    """With a table, at the beginning of L2, whose entries are all different."""

    def __init__(self, traffic, config: AcceleratorConfig) -> None:
        entries = np.random.default_rng(config.L).permutation(256).astype(np.uint8).view(np.int8)
        super().__init__(traffic, config, entries.reshape(256 // config.l2_word, -1))
        self.table = np.zeros(256, np.int8)

    def put(self, base: int, words: np.ndarray) -> None:
        """Write words into L2."""
        self.l2[base : base + len(words)] = words
        self.memory[base : base + len(words)] = integers(words)

    async def run(self, ctx, command: dict, rounded) -> None:
        """One command; checks all of L2."""
        self.l2, self.table = expected(self.config, command, self.l2, self.table, rounded)
        await self.finish(ctx, command)
        assert self.memory == integers(self.l2), command

    def table_command(self, base: int = 0) -> dict:
        sizes = dict.fromkeys(("rows", "columns", "height", "width"), 1)
        words = {"pixel_words": 256 // self.config.l2_word}
        return PLAIN | sizes | words | {"operation": int(VectorOp.TABLE), "a_base": base}


OPERATIONS = [VectorOp.MULTIPLY, VectorOp.MERGE, VectorOp.TABLE, "upsample"]


@pytest.mark.parametrize("density", [pytest.param(1, marks=pytest.mark.whole), 0.6], indirect=True)
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
@pytest.mark.parametrize("config", SAMPLED)
def test_commands_one_after_the_other(simulate, traffic, rounded, config: AcceleratorConfig, operation) -> None:
    bench = Bench(traffic, config)

    async def run(ctx) -> None:
        await bench.run(ctx, bench.table_command(), rounded)
        for _ in range(2 if operation == VectorOp.TABLE else 5):
            await bench.run(ctx, random_command(config, traffic.rng, operation), rounded)
            if operation == VectorOp.TABLE:
                await bench.run(ctx, random_command(config, traffic.rng, "upsample", lookup=1), rounded)

    simulate(bench.unit, run)


@pytest.mark.parametrize("density", [1], indirect=True)
def test_old_operations_where_the_new_ones_are(simulate, traffic, rounded) -> None:
    """Additions, sums and maxima of 1 x 1 with pitches of their own, mixed with the others."""
    bench = Bench(traffic, TINY)
    order = [VectorOp.MERGE, VectorOp.ADD, VectorOp.MULTIPLY, VectorOp.SUM, "upsample", VectorOp.MAXIMUM]

    def added(c: dict) -> dict:
        l2, W = bench.l2.astype(int), c["pixel_words"]
        for n, word in np.ndindex(c["height"] * c["width"], W):
            a, b = (l2[c[f"{x}_base"] + n * (W + c[f"{x}_skip"]) + word] for x in "ab")
            total = a * c["multiplier_a"] + b * c["multiplier_b"] if c["operation"] == VectorOp.ADD else a
            found = [rounded(int(x), c["shift"], -128, 127) for x in total]
            to = c["l2_base"] + n * (W + c["l2_skip"]) + word
            bench.l2[to] = bench.table[np.array(found) % 256] if c["lookup"] else found
        return c

    async def run(ctx) -> None:
        await bench.run(ctx, bench.table_command(), rounded)
        for operation in [*order, *reversed(order)]:
            c = random_command(TINY, traffic.rng, operation, tail=0)
            if operation in (VectorOp.ADD, VectorOp.SUM, VectorOp.MAXIMUM):
                c |= {"multiplier_a": 1 if operation == VectorOp.SUM else 57, "multiplier_b": -129}
                c |= {"shift": 8 if operation == VectorOp.ADD else 0}
                added(c)
                before = len(bench.done.cycles)
                bench.given.items.append(c)
                await traffic.until(ctx, lambda before=before: len(bench.done.cycles) > before)
                assert bench.memory == [int.from_bytes(word.tobytes(), "little") for word in bench.l2], c
            else:
                await bench.run(ctx, c, rounded)

    simulate(bench.unit, run)


def in_words(values: np.ndarray, W: int, words: int) -> np.ndarray:
    """A map ``[C, rows, columns]`` as words of L2, ``words`` a pixel."""
    C, rows, columns = values.shape
    found = np.zeros((rows, columns, words * W), np.int8)
    found[..., :C] = values.transpose(1, 2, 0)
    return found.reshape(-1, W)


def from_words(words: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    C, rows, columns = shape
    return words.reshape(rows, columns, -1)[..., :C].transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [3, 4, 7])
def test_as_the_integer_network_says(simulate, traffic, rounded, channels: int) -> None:
    """Products, tables and upsampling as sw.network computes them; concatenation and slices by two commands each."""
    bench, W = Bench(traffic, TINY), TINY.l2_word
    rng = np.random.default_rng(channels)
    a, b = rng.integers(-128, 128, (2, channels, 3, 4)).astype(np.int8)
    a[0, 0], b[0, 0] = [-128, -128, 127, 127], [-128, 127, -128, 127]
    gate = b[:, :1, :1].copy()
    gate[0] = -128
    entries = rng.permutation(256).astype(np.uint8).view(np.int8)
    words = -(-channels // W)
    places = {"a": 100, "b": 200, "gate": 300}
    tables = type("Tables", (), {"layers": {}, "constants": {"t": entries}})()
    size = {"rows": 3, "columns": 4, "height": 3, "width": 4, "pixel_words": words}
    plain = PLAIN | size | {"a_base": 100, "b_base": 200, "l2_base": 400, "operation": int(VectorOp.SUM)}
    twice = {"height": 6, "width": 8}
    product = {"operation": int(VectorOp.MULTIPLY), "multiplier_a": 91, "shift": 14}
    cases = [
        (Multiply(multiplier=91, shift=14), (a, b), product),
        (Multiply(multiplier=91, shift=14), (a, gate), product | {"b_base": 300, "b_skip": -words}),
        (Multiply(multiplier=-1, shift=0), (a, b), product | {"multiplier_a": -1, "shift": 0}),
        (Multiply(multiplier=1 << 30, shift=45), (a, b), product | {"multiplier_a": 1 << 30, "shift": 45}),
        (Table(table="t"), (a,), {"lookup": 1}),
        (Upsample(mode="nearest"), (a,), {"upsample": 1} | twice),
        (Upsample(mode="zeros"), (a,), {"upsample": 2} | twice),
    ]

    async def run(ctx) -> None:
        bench.put(0, entries.reshape(-1, W))
        for name, values in (("a", a), ("b", b), ("gate", gate)):
            bench.put(places[name], in_words(values, W, words))
        await bench.run(ctx, bench.table_command(), rounded)
        for operation, values, fields in cases:
            await bench.run(ctx, plain | fields, rounded)
            wanted = operation.compute(tables, *(x[None] for x in values))[0]
            count = wanted[0].size * words
            assert np.array_equal(from_words(bench.l2[400 : 400 + count], wanted.shape), wanted), operation
        # a, then b behind it.
        wanted = Concatenate(inputs=(0, 1)).compute(tables, a[None], b[None])[0]
        total, turn = -(-2 * channels // W), channels % W
        merge = plain | {"operation": int(VectorOp.MERGE), "rotation": turn}
        await bench.run(ctx, merge | {"l2_skip": total - words}, rounded)
        to = 400 + channels // W
        if turn:
            # The word in which both meet, the words of b alone, and the last one, if no word of b begins in it.
            first = {"pixel_words": 1, "kernel_columns": 2, "a_base": to, "l2_base": to, "a_skip": total - 1}
            await bench.run(ctx, merge | first | {"b_skip": words - 1, "l2_skip": total - 1}, rounded)
            rest = total - channels // W - 1
            inner = min(rest, words - 1)
            skips = {"a_skip": words - inner, "b_skip": words - inner, "l2_skip": total - inner}
            if inner:
                second = {"pixel_words": inner, "kernel_columns": 2, "a_base": 200, "b_base": 201, "rotate_a": 1}
                await bench.run(ctx, merge | second | skips | {"l2_base": to + 1}, rounded)
            if rest > inner:
                last = {"pixel_words": 1, "rotate_a": 1, "a_base": 200 + words - 1, "l2_base": to + 1 + inner}
                await bench.run(ctx, merge | last | {"a_skip": words - 1, "l2_skip": total - 1}, rounded)
        else:
            move = {"a_base": 200, "l2_base": to, "l2_skip": total - words}
            await bench.run(ctx, merge | move, rounded)
        count = 12 * total
        assert np.array_equal(from_words(bench.l2[400 : 400 + count], wanted.shape), wanted)
        # Channels 1 and 2.
        wanted = Slice(start=1, stop=3).compute(tables, a[None])[0]
        fields = {"pixel_words": 1, "rotation": W - 1, "rotate_a": 1, "tail": 2, "a_skip": words - 1}
        await bench.run(ctx, merge | fields, rounded)
        assert np.array_equal(bench.l2[400:412].reshape(3, 4, W).transpose(2, 0, 1)[:2], wanted)
        assert not bench.l2[400:412, 2:].any()

    simulate(bench.unit, run)


@pytest.mark.parametrize("density", [1], indirect=True)
@pytest.mark.parametrize("operation", ["MULTIPLY", "MERGE", "upsample"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_rate(simulate, traffic, rounded, config: AcceleratorConfig, operation: str) -> None:
    bench = Bench(traffic, config)
    kind = VectorOp[operation] if operation != "upsample" else operation
    fixed = {"rows": 4, "columns": 5, "pixel_words": 2, "lookup": 1}
    fixed |= {"kernel_columns": 2} if operation == "MERGE" else {}

    async def run(ctx) -> None:
        await bench.run(ctx, random_command(config, traffic.rng, kind, **fixed), rounded)
        groups = config.l2_word // config.vector_unit_lanes
        period = groups if operation == "upsample" else max(2, groups)
        cycles = bench.writes.cycles
        assert cycles[-1] - cycles[0] == (len(cycles) - 1) * period
        assert len(bench.busy.cycles) <= len(cycles) * period + 50

    simulate(bench.unit, run)


@pytest.mark.parametrize("density", [1], indirect=True)
def test_a_table_takes_a_cycle_a_byte(simulate, traffic, rounded) -> None:
    bench = Bench(traffic, TINY)

    async def run(ctx) -> None:
        await bench.run(ctx, bench.table_command(), rounded)
        assert 256 <= len(bench.busy.cycles) <= 256 + 50
        assert not bench.writes.cycles

    simulate(bench.unit, run)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_byte_rotator(simulate, size: int) -> None:
    unit = ByteRotator(size)
    word = bytes(range(17, 17 + size))

    async def run(ctx) -> None:
        ctx.set(unit.i_word, int.from_bytes(word, "little"))
        for amount in range(size):
            ctx.set(unit.i_amount, amount)
            await ctx.delay(1e-9)
            turned = bytes(word[(i - amount) % size] for i in range(size))
            assert ctx.get(unit.o_word) == int.from_bytes(turned, "little")

    simulate(unit, run, clocked=False)


@pytest.mark.whole
def test_large_presets_elaborate_with_and_without() -> None:
    full, basic = (to_rtlil(VectorUnit(preset(name))) for name in ("ews-msvq-full-64", "ews-msvq-64"))
    assert "rotator" in full
    assert "rotator" not in basic
