"""Sums pass between the tiles of a group, with a core in between that adds in the same cycle."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module, Mux, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.memory.psum_buffer import PsumBuffer


class Core(wiring.Component):
    """The drain of the core: ``o_psum`` and ``i_psum`` are combinational paths, as in ``hw.core``."""

    def __init__(self, config: AcceleratorConfig) -> None:
        psums = data.ArrayLayout(signed(config.psum_width), config.L)
        self.config = config
        super().__init__(
            {
                "i_own": In(stream.Signature(data.StructLayout({"psums": psums, "accumulate": 1}))),
                "i_psum": In(stream.Signature(psums)),
                "o_psum": Out(stream.Signature(psums)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        adds = self.i_own.payload.accumulate
        for lane in range(self.config.L):
            earlier = Mux(adds, self.i_psum.payload[lane], 0)
            m.d.comb += self.o_psum.payload[lane].eq(self.i_own.payload.psums[lane] + earlier)
        m.d.comb += [
            self.o_psum.valid.eq(self.i_own.valid & (~adds | self.i_psum.valid)),
            self.i_psum.ready.eq(self.i_own.valid & adds & self.o_psum.ready),
            self.i_own.ready.eq(self.o_psum.valid & self.o_psum.ready),
        ]
        return m


class Pair(wiring.Component):
    """The buffer beside the core's drain."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.buffer, self.core = PsumBuffer(config), Core(config)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer, m.submodules.core = self.buffer, self.core
        wiring.connect(m, self.core.o_psum, self.buffer.i_psum)
        wiring.connect(m, self.buffer.o_psum, self.core.i_psum)
        return m


def group(config: AcceleratorConfig, rng, tiles: int, size: tuple[int, int, int] | None = None) -> list[dict]:
    """The tiles of one group of output channels."""
    while size is None or size[0] * size[1] * size[2] > config.l1_psum_depth:
        size = (rng.randint(1, min(config.prf_depth, config.wrf_depth)), rng.randint(1, 5), rng.randint(1, 4))
    A, width, height = size
    # Often at the end of the memory
    base = rng.choice(
        [config.l1_psum_depth - A * width * height, rng.randint(0, config.l1_psum_depth - A * width * height)]
    )
    shape = {"A": A, "width": width, "height": height, "psum_base": base}
    tiles = [shape | {"accumulate": int(i > 0), "last": int(i == tiles - 1)} for i in range(tiles)]
    if config.weight_bits < 8:
        tiles = [tile | {"shift": int(tile["accumulate"] and rng.random() < 0.5)} for tile in tiles]
    return tiles


def run(simulate, traffic, config: AcceleratorConfig, tiles: list[dict]):
    """Returns the cycles of the transfers out of the core."""
    rng, bits, L = traffic.rng, config.psum_width, config.L

    def joined(values) -> int:
        return sum((value & (1 << bits) - 1) << i * bits for i, value in enumerate(values))

    own, wanted, held, reads, writes = [], [], {}, 0, 0
    for tile in tiles:
        for n in range(tile["A"] * tile["width"] * tile["height"]):
            vector = [rng.randrange(-(1 << bits - 1), 1 << bits - 1) for _ in range(L)]
            own.append(joined(vector) | tile["accumulate"] << bits * L)
            address = tile["psum_base"] + n
            if tile["accumulate"]:
                shift = config.digit_bits if tile.get("shift") else 0
                vector = [a + (b << shift) for a, b in zip(vector, held[address], strict=True)]
                reads += 1
            if tile["last"]:
                wanted.append(joined(vector))
            else:
                held[address] = vector
                writes += 1

    pair = Pair(config)
    traffic.source(pair.buffer.i_command, tiles)
    sums = traffic.source(pair.core.i_own, own)
    out = traffic.sink(pair.buffer.o_sums)
    read, write = traffic.pulses(pair.buffer.o_read), traffic.pulses(pair.buffer.o_write)

    async def bench(ctx) -> None:
        await traffic.until(ctx, lambda: sums.idle and len(out.items) >= len(wanted), 200 + 20 * len(own))
        for _ in range(5):
            await traffic.step(ctx)
        assert out.items == wanted
        assert (len(read.cycles), len(write.cycles)) == (reads, writes)

    simulate(pair, bench)
    return sums.cycles


def test_groups_of_tiles(simulate, traffic, config: AcceleratorConfig) -> None:
    tiles = [tile for _ in range(5) for tile in group(config, traffic.rng, traffic.rng.randint(1, 4))]
    run(simulate, traffic, config, tiles)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 1), (1, 3, 1), (1, 1, 5)])
@pytest.mark.parametrize("config", [{}], indirect=True)
def test_short_tiles_wait_for_the_one_before(simulate, traffic, config: AcceleratorConfig, size) -> None:
    run(simulate, traffic, config, group(config, traffic.rng, 8, size) + group(config, traffic.rng, 1, size))


@pytest.mark.parametrize("config", [{}], indirect=True)
def test_groups_that_take_turns(simulate, traffic, config: AcceleratorConfig) -> None:
    """Tiles of two groups in turn, in different parts of the memory."""
    first, second = (
        [tile | {"psum_base": base} for tile in group(config, traffic.rng, 4, (2, 3, 2))] for base in (40, 9)
    )
    run(simulate, traffic, config, [tile for pair in zip(first, second, strict=True) for tile in pair])


@pytest.mark.parametrize("density", [1], indirect=True)
def test_one_vector_a_cycle(simulate, traffic, config: AcceleratorConfig) -> None:
    tiles = [tile for count in (3, 1, 2, 4) for tile in group(config, traffic.rng, count, (2, 3, 2))]
    # The first vector waits in the buffer for its command.
    cycles = run(simulate, traffic, config, tiles)[1:]
    assert cycles == list(range(cycles[0], cycles[0] + len(cycles)))


@pytest.mark.parametrize("config", [{}], indirect=True)
def test_no_stream_path_in_the_same_cycle(simulate, config: AcceleratorConfig) -> None:
    """What the core shows cannot reach what it sees in the same cycle, but by ready of the storer."""
    buffer = PsumBuffer(config)

    async def bench(ctx) -> None:
        ctx.set(buffer.i_command.payload, {"A": 1, "width": 8, "height": 1, "last": 1, "accumulate": 0})
        ctx.set(buffer.i_command.valid, 1)
        await ctx.tick()
        ctx.set(buffer.i_command.valid, 0)
        for _ in range(2):
            for valid in (0, 1):
                ctx.set(buffer.i_psum.valid, valid)
                for ready in (0, 1):
                    ctx.set(buffer.o_psum.ready, ready)
                    assert ctx.get(buffer.i_psum.ready)
                    assert not ctx.get(buffer.o_psum.valid)
                    assert not ctx.get(buffer.o_sums.valid)
            ctx.set(buffer.i_psum.valid, 0)
            await ctx.tick()
        ctx.set(buffer.i_psum.valid, 1)
        ctx.set(Value.cast(buffer.i_psum.payload), 5)
        await ctx.tick()
        for ready in (0, 1):
            ctx.set(buffer.o_sums.ready, ready)
            assert ctx.get(buffer.i_psum.ready) == ready
            assert ctx.get(buffer.o_sums.valid)

    simulate(buffer, bench)
