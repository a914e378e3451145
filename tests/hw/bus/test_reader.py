"""The DMA reader: every channel gets its words in order, the bus is kept busy, errors are told, stop leaves nothing."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from hw.bus.axi import BORDER, Response
from hw.bus.reader import CHANNELS, CHECKED, DmaReader, reader_channels
from hw.config import AcceleratorConfig, ConfigError, preset
from hw.control.errors import Cause
from hw.generate import to_rtlil
from sim.accelerator.axi_memory import AxiMemory

TINY = preset("ews-cms-tiny")
CONFIGS = {
    "ews-cms-tiny": TINY,
    "ews-ssvq-tiny": preset("ews-ssvq-tiny"),
    "ews-16": preset("ews-16"),
    "bytes, shortest FIFO": TINY.override(["word_width=8", "burst_words=1", "fifo_words=2", "address_bits=16"]),
    "512 bits, longest bursts": TINY.override(["word_width=512", "burst_words=256", "fifo_words=512"]),
    "H is not L": preset("ews-msvq-tiny").override(["H=6", "word_width=128", "address_bits=64", "burst_words=8"]),
    "transfer register": TINY.override(["transfer_register=true"]),
}
SIZE = 1 << 14


@dataclass
class Request:
    address: int
    words: int
    checksum: int | None = None


@dataclass
class Consumer:
    """Sends a channel's requests and takes its words."""

    reader: DmaReader
    name: str
    requests: list[Request]
    rng: random.Random
    density: float = 1.0
    words: list[int] = field(default_factory=list)

    async def run(self, ctx) -> None:
        request, words = getattr(self.reader, f"i_{self.name}_request"), getattr(self.reader, f"o_{self.name}")
        pending = list(self.requests)
        offered = ready = False
        while True:
            if pending and not offered and self.rng.random() < self.density:
                offered = True
                ctx.set(request.payload.address, pending[0].address)
                ctx.set(request.payload.words, pending[0].words)
                ctx.set(request.payload.checksum, pending[0].checksum or 0)
                ctx.set(request.payload.check, pending[0].checksum is not None)
            ready = self.rng.random() < self.density
            ctx.set(request.valid, offered)
            ctx.set(words.ready, ready)
            _, _, taken, valid, word = await ctx.tick().sample(request.ready, words.valid, words.payload)
            if offered and taken:
                pending.pop(0)
                offered = False
            if ready and valid:
                self.words.append(word)


def memory_of(rng: random.Random) -> bytearray:
    return bytearray(rng.randbytes(SIZE))


def random_request(rng: random.Random, config: AcceleratorConfig, data: bytes, most: int, check: bool) -> Request:
    size = config.word_width // 8
    words = rng.randint(1, most)
    # Around the border, half of the time.
    centre = BORDER // size if rng.random() < 0.5 else rng.randrange(SIZE // size)
    first = min(max(centre - rng.randint(0, words), 0), SIZE // size - words)
    content = data[first * size : (first + words) * size]
    return Request(first * size, words, zlib.crc32(content) if check else None)


def expected(config: AcceleratorConfig, data: bytes, requests: list[Request]) -> list[int]:
    size = config.word_width // 8
    return [
        int.from_bytes(data[address : address + size], "little")
        for request in requests
        for address in range(request.address, request.address + request.words * size, size)
    ]


async def wait(ctx, condition: Callable[[], bool], limit: int = 20000) -> int:
    for cycle in range(limit):
        if condition():
            return cycle
        await ctx.tick()
    raise AssertionError(f"nothing after {limit} cycles")


@pytest.mark.parametrize("density", [pytest.param(1, marks=pytest.mark.whole), 0.4])
@pytest.mark.parametrize("name", CONFIGS)
def test_words_of_all_channels(simulate, name: str, density: float, full: bool) -> None:
    config = CONFIGS[name]
    rng = random.Random(f"{name} {density}")
    reader = DmaReader(config)
    data = memory_of(rng)
    stall = 1 - density
    memory = AxiMemory(reader.m_axi, data, latency=(1, 40), stall=stall, reorder=density < 1, seed=1)
    consumers = []
    for channel in reader_channels(config):
        requests = [
            random_request(
                rng,
                config,
                data,
                min(4 * config.burst_words, 96, 16384 // config.word_width),
                channel in CHECKED and rng.random() < 0.8,
            )
            for _ in range(3 if full else 2)
        ]
        consumers.append(Consumer(reader, channel, requests, random.Random(rng.random()), density))
    errors = []

    async def bench(ctx) -> None:
        wanted = {c.name: expected(config, data, c.requests) for c in consumers}
        for _ in range(40000):
            _, _, error = await ctx.tick().sample(reader.o_error)
            errors.append(error)
            if all(len(c.words) >= len(wanted[c.name]) for c in consumers):
                break
        for _ in range(100):
            await ctx.tick()
        assert {c.name: c.words for c in consumers} == wanted
        assert ctx.get(reader.o_idle)

    simulate(reader, bench, beside=[memory.run, *(c.run for c in consumers)])
    assert not any(errors)
    assert all(words <= config.burst_words for _, _, words in memory.reads)
    assert {identifier for identifier, _, _ in memory.reads} == {CHANNELS.index(c.name) for c in consumers}


def test_a_channel_that_nobody_reads_holds_up_no_other(simulate) -> None:
    rng = random.Random(0)
    reader = DmaReader(TINY)
    data = memory_of(rng)
    memory = AxiMemory(reader.m_axi, data)
    blocked = Consumer(reader, "load", [Request(0, 1000), Request(0, 1)], rng, 0)
    blocked.density = 1
    flowing = Consumer(reader, "weight", [Request(64, 300)], rng)

    async def bench(ctx) -> None:
        ctx.set(reader.i_load_request.payload.words, 1000)
        ctx.set(reader.i_load_request.valid, 1)
        assert await wait(ctx, lambda: len(flowing.words) == 300) < 340
        assert ctx.get(reader.o_load.valid)

    simulate(reader, bench, beside=[memory.run, flowing.run])
    assert flowing.words == expected(TINY, data, flowing.requests)
    assert sum(words for channel, _, words in memory.reads if CHANNELS[channel] == "load") == TINY.fifo_words


@pytest.mark.parametrize("channels", [("weight",), ("weight", "load"), ("weight", "parameter", "load")])
@pytest.mark.parametrize("name", ["ews-cms-tiny", "ews-16"])
def test_a_word_a_cycle(simulate, name: str, channels: tuple[str, ...]) -> None:
    """With a latency that the outstanding bursts of one FIFO cover."""
    config = preset(name)
    rng = random.Random(0)
    reader = DmaReader(config)
    latency = config.fifo_words - config.burst_words - 6
    memory = AxiMemory(reader.m_axi, memory_of(rng), latency=(latency, latency))
    size = config.word_width // 8
    requests = [Request(0, 80), Request(80 * size, 80)]
    consumers = [Consumer(reader, channel, requests, rng) for channel in channels]
    total = 160 * len(channels)

    async def bench(ctx) -> None:
        cycles = await wait(ctx, lambda: sum(len(c.words) for c in consumers) == total)
        assert cycles < total * 1.05 + latency + 20

    simulate(reader, bench, beside=[memory.run, *(c.run for c in consumers)])


@pytest.mark.parametrize("channel", CHECKED)
def test_checksum_mismatch_is_told_once(simulate, channel: str) -> None:
    config = preset("ews-msvq-tiny").override([f"transfer_register={str(channel == 'mask').lower()}"])
    rng = random.Random(channel)
    reader = DmaReader(config)
    data = memory_of(rng)
    memory = AxiMemory(reader.m_axi, data, latency=(1, 5), stall=0.3)
    good = [random_request(rng, config, data, 30, True) for _ in range(5)]
    flawed = [*good[:2], Request(good[2].address, good[2].words, good[2].checksum ^ 1 << 31), *good[3:]]
    consumer = Consumer(reader, channel, flawed, rng)
    errors = []

    async def bench(ctx) -> None:
        total = sum(request.words for request in good)
        while len(consumer.words) < total:
            _, _, error, *what = await ctx.tick().sample(reader.o_error, reader.o_error_cause, reader.o_error_channel)
            if error:
                errors.append((*what, len(consumer.words) >= sum(r.words for r in good[:3]) - 4))

    simulate(reader, bench, beside=[memory.run, consumer.run])
    assert errors == [(Cause.CHECKSUM, CHANNELS.index(channel), True)]


@pytest.mark.parametrize("response", [Response.SLVERR, Response.DECERR])
@pytest.mark.parametrize("channel", ["weight", "descriptor", "load"])
def test_bus_error_is_told_before_the_word(simulate, channel: str, response: Response) -> None:
    rng = random.Random(0)
    reader = DmaReader(TINY)
    data = memory_of(rng)
    memory = AxiMemory(reader.m_axi, data, fault=lambda write, address: response if address == 20 else None)
    consumer = Consumer(reader, channel, [Request(0, 30)], rng)
    errors = []

    async def bench(ctx) -> None:
        for _ in range(100):
            _, _, error, *what = await ctx.tick().sample(reader.o_error, reader.o_error_cause, reader.o_error_channel)
            if error:
                errors.append((*what, len(consumer.words) <= 10))

    simulate(reader, bench, beside=[memory.run, consumer.run])
    assert errors == [(Cause.READ_RESPONSE, CHANNELS.index(channel), True)]


@pytest.mark.parametrize("seed", range(5))
def test_stop_at_any_time_then_go_on(simulate, seed: int) -> None:
    rng = random.Random(seed)
    reader = DmaReader(CONFIGS["transfer register"] if seed % 2 else TINY)
    data = memory_of(rng)
    memory = AxiMemory(reader.m_axi, data, latency=(1, 30), stall=0.2, reorder=True, seed=seed)
    names = reader_channels(TINY)
    requests = {name: [random_request(rng, TINY, data, 60, name in CHECKED)] for name in names}

    async def bench(ctx) -> None:
        for name in names:
            port = getattr(reader, f"i_{name}_request")
            ctx.set(port.payload.words, 50)
            ctx.set(port.payload.check, 1)  # and a wrong checksum, which is not told any more
            ctx.set(port.valid, 1)
            ctx.set(getattr(reader, f"o_{name}").ready, rng.random() < 0.5)
        for _ in range(rng.randint(2, 60)):
            await ctx.tick()
        ctx.set(reader.i_stop, 1)
        assert not ctx.get(reader.o_error)
        await ctx.tick()
        for name in names:
            ctx.set(getattr(reader, f"i_{name}_request").valid, 0)
        asked = len(memory.reads) + ctx.get(reader.m_axi.arvalid)
        for _ in range(1000):
            assert not ctx.get(reader.o_error)
            assert not any(ctx.get(getattr(reader, f"o_{name}").valid) for name in names)
            if ctx.get(reader.o_idle):
                break
            await ctx.tick()
        assert ctx.get(reader.o_idle)
        assert memory.outstanding == 0
        assert len(memory.reads) == asked
        ctx.set(reader.i_stop, 0)
        consumers = [Consumer(reader, name, requests[name], rng) for name in names]
        await run_consumers(ctx, consumers)
        assert {c.name: c.words for c in consumers} == {c.name: expected(TINY, data, c.requests) for c in consumers}

    async def run_consumers(ctx, consumers: list[Consumer]) -> None:
        """One after the other: a test bench cannot start another."""
        for consumer in consumers:
            request, words = getattr(reader, f"i_{consumer.name}_request"), getattr(reader, f"o_{consumer.name}")
            ctx.set(words.ready, 1)
            (wanted,) = consumer.requests
            ctx.set(request.payload.address, wanted.address)
            ctx.set(request.payload.words, wanted.words)
            ctx.set(request.payload.checksum, wanted.checksum or 0)
            ctx.set(request.payload.check, wanted.checksum is not None)
            ctx.set(request.valid, 1)
            await ctx.tick()
            ctx.set(request.valid, 0)
            for _ in range(1000):
                if len(consumer.words) == wanted.words:
                    break
                _, _, valid, word, error = await ctx.tick().sample(words.valid, words.payload, reader.o_error)
                assert not error
                if valid:
                    consumer.words.append(word)

    simulate(reader, bench, beside=[memory.run])


def test_channels_take_turns_while_the_bus_holds_addresses_back(simulate) -> None:
    """All want a burst at all times; whoever is chosen waits for the bus, and the next one comes behind it."""
    config = preset("ews-msvq-tiny").override(["word_width=16", "burst_words=1", "fifo_words=8"])
    reader = DmaReader(config)
    names = reader_channels(config)
    rng = random.Random(0)

    async def bench(ctx) -> None:
        axi = reader.m_axi
        for name in names:
            request = getattr(reader, f"i_{name}_request")
            ctx.set(request.payload.words, 1)
            ctx.set(request.valid, 1)
            ctx.set(getattr(reader, f"o_{name}").ready, 1)
        order: list[int] = []
        for _ in range(200):
            ready = rng.random() < 0.3
            ctx.set(axi.arready, ready)
            taken = ready and ctx.get(axi.arvalid)
            if taken:
                order.append(ctx.get(axi.arid))
            await ctx.tick()
            ctx.set(axi.rvalid, taken)
            ctx.set(axi.rlast, 1)
            ctx.set(axi.rid, order[-1] if order else 0)
        numbers = [CHANNELS.index(name) for name in names]
        assert len(order) > 30
        # From the second round on all have something to ask for.
        for before, after in pairwise(order[2 * len(names) :]):
            assert after == numbers[(numbers.index(before) + 1) % len(numbers)]

    simulate(reader, bench)


def test_widths_that_are_no_bus() -> None:
    with pytest.raises(ConfigError, match="word_width"):
        DmaReader(TINY.override(["word_width=24"]))


def test_elaborates_for_a_large_array() -> None:
    assert "m_axi__araddr" in to_rtlil(DmaReader(preset("ews-msvq-64")))
