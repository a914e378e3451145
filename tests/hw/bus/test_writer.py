"""The DMA writer: all words arrive and no others, a word a cycle, errors are told, stop writes nothing more."""

from __future__ import annotations

import random

import pytest

from hw.bus.axi import BORDER, Response
from hw.bus.writer import AHEAD, OUTSTANDING, DmaWriter
from hw.config import preset
from hw.control.errors import Cause
from hw.generate import to_rtlil
from sim.accelerator.axi_memory import AxiMemory

TINY = preset("ews-cms-tiny")
CONFIGS = {
    "ews-cms-tiny": TINY,
    "ews-16": preset("ews-16"),
    "bytes, single": TINY.override(["word_width=8", "burst_words=1", "fifo_words=2", "address_bits=16"]),
    "512 bits, longest bursts": TINY.override(["word_width=512", "burst_words=256", "fifo_words=512"]),
    "H is not L": preset("ews-msvq-tiny").override(["H=6", "word_width=128", "address_bits=64", "burst_words=8"]),
    "transfer register": TINY.override(["transfer_register=true"]),
    "transfer register, single": TINY.override(["burst_words=1", "fifo_words=2", "transfer_register=true"]),
}
SIZE = 1 << 14


class Store:
    """Gives the writer requests and words, and counts what it says about them."""

    def __init__(self, writer: DmaWriter, requests: list[tuple[int, list[int]]], rng: random.Random, density: float):
        self.writer, self.requests, self.rng, self.density = writer, requests, rng, density
        self.done: list[int] = []
        self.errors: list[int] = []

    async def run(self, ctx) -> None:
        writer, rng = self.writer, self.rng
        request, words = writer.i_request, writer.i_data
        requests = [(address, len(values)) for address, values in self.requests]
        values = [value for _, values in self.requests for value in values]
        asking = offering = False
        cycle = 0
        while True:
            if requests and not asking and rng.random() < self.density:
                asking = True
                ctx.set(request.payload.address, requests[0][0])
                ctx.set(request.payload.words, requests[0][1])
            if values and not offering and rng.random() < self.density:
                offering = True
                ctx.set(words.payload, values[0])
            ctx.set(request.valid, asking)
            ctx.set(words.valid, offering)
            _, _, taken, took, done, error = await ctx.tick().sample(
                request.ready, words.ready, writer.o_done, writer.o_error
            )
            cycle += 1
            if asking and taken:
                requests.pop(0)
                asking = False
            if offering and took:
                values.pop(0)
                offering = False
            if done:
                self.done.append(cycle)
            if error:
                self.errors.append(cycle)


def random_requests(rng: random.Random, width: int, most: int) -> list[tuple[int, list[int]]]:
    size = width // 8
    requests = []
    for part in range(4):  # of the memory, so that no two write the same
        first, after = part * SIZE // 4 // size, (part + 1) * SIZE // 4 // size
        words = rng.randint(1, min(most, after - first))
        start = rng.choice([first, after - words])
        requests.append((start * size, [rng.getrandbits(width) for _ in range(words)]))
    return requests


@pytest.mark.parametrize("density", [1, 0.4])
@pytest.mark.parametrize("name", CONFIGS)
def test_words_arrive_and_no_others(simulate, name: str, density: float) -> None:
    config = CONFIGS[name]
    rng = random.Random(f"{name} {density}")
    writer = DmaWriter(config)
    size = config.word_width // 8
    requests = random_requests(rng, config.word_width, 150)
    requests[1] = (BORDER - 3 * size, [rng.getrandbits(config.word_width) for _ in range(6)])
    data = bytearray(rng.randbytes(SIZE))
    expected = bytearray(data)
    for address, words in requests:
        for word in words:
            expected[address : address + size] = word.to_bytes(size, "little")
            address += size
    memory = AxiMemory(writer.m_axi, data, latency=(1, 20), stall=1 - density)
    store = Store(writer, requests, rng, density)

    async def bench(ctx) -> None:
        for _ in range(20000):
            if len(store.done) == len(requests):
                break
            await ctx.tick()
        assert data == expected
        for _ in range(50):
            await ctx.tick()
        assert ctx.get(writer.o_idle)
        assert len(store.done) == len(requests)
        assert not store.errors

    simulate(writer, bench, beside=[memory.run, store.run])
    assert memory.written == memory.written_words * size == size * sum(len(words) for _, words in requests)
    assert all(words <= config.burst_words for _, _, words in memory.writes)


@pytest.mark.parametrize("name", ["ews-cms-tiny", "ews-16", "H is not L", "transfer register"])
def test_a_word_a_cycle(simulate, name: str) -> None:
    config = CONFIGS[name]
    writer = DmaWriter(config)
    memory = AxiMemory(writer.m_axi, bytearray(SIZE), latency=(20, 20))
    store = Store(writer, [(0, list(range(300)))], random.Random(0), 1)

    async def bench(ctx) -> None:
        for _ in range(1000):
            if store.done:
                break
            await ctx.tick()

    simulate(writer, bench, beside=[memory.run, store.run])
    assert store.done[0] < 300 + 20 + 10


def test_done_waits_for_the_last_answer_and_answers_are_limited(simulate) -> None:
    writer = DmaWriter(TINY)
    memory = AxiMemory(writer.m_axi, bytearray(SIZE), latency=(500, 500))
    store = Store(writer, [(0, [1] * 4 * (OUTSTANDING + 3))], random.Random(0), 1)

    async def bench(ctx) -> None:
        for _ in range(400):
            await ctx.tick()
        assert len(memory.writes) == OUTSTANDING
        assert not store.done
        for _ in range(1000):
            await ctx.tick()
        assert len(store.done) == 1
        assert store.done[0] > 1000

    simulate(writer, bench, beside=[memory.run, store.run])


@pytest.mark.parametrize("response", [Response.SLVERR, Response.DECERR])
def test_bus_error_is_told_by_the_time_of_done(simulate, response: Response) -> None:
    writer = DmaWriter(TINY)
    memory = AxiMemory(writer.m_axi, bytearray(SIZE), fault=lambda write, address: response if address == 56 else None)
    store = Store(writer, [(0, [1] * 32), (256, [2] * 8)], random.Random(0), 1)

    async def bench(ctx) -> None:
        for _ in range(100):
            await ctx.tick()
        assert ctx.get(writer.o_error_cause) == Cause.WRITE_RESPONSE

    simulate(writer, bench, beside=[memory.run, store.run])
    assert len(store.done) == 2
    assert len(store.errors) == 1
    assert store.errors[0] <= store.done[0]


@pytest.mark.parametrize("seed", range(10))
def test_stop_at_any_time_then_go_on(simulate, seed: int) -> None:
    rng = random.Random(seed)
    writer = DmaWriter(CONFIGS["transfer register"] if seed % 2 else TINY)
    data = bytearray(SIZE)
    memory = AxiMemory(writer.m_axi, data, latency=(1, 30), stall=0.3, seed=seed)
    request, words = writer.i_request, writer.i_data

    async def bench(ctx) -> None:
        ctx.set(request.payload.words, 100)
        ctx.set(request.valid, 1)
        ctx.set(words.payload, 0xFFFF)
        ctx.set(words.valid, rng.random() < 0.8)
        for _ in range(rng.randint(1, 60)):
            await ctx.tick()
        ctx.set(writer.i_stop, 1)
        ctx.set(request.valid, 0)
        ctx.set(words.valid, 0)
        begun = memory.written + 2 * (ctx.get(writer.m_axi.wvalid))
        for _ in range(1000):
            if ctx.get(writer.o_idle):
                break
            assert not ctx.get(writer.o_done)
            await ctx.tick()
        assert ctx.get(writer.o_idle)
        assert memory.outstanding == 0
        assert memory.written == begun
        assert len(memory.writes) <= AHEAD + begun // 8 + 2
        ctx.set(writer.i_stop, 0)

        ctx.set(request.payload.address, SIZE // 2)
        ctx.set(request.payload.words, 20)
        ctx.set(request.valid, 1)
        ctx.set(words.payload, 0x1234)
        ctx.set(words.valid, 1)
        await ctx.tick()
        ctx.set(request.valid, 0)
        for _ in range(1000):
            if ctx.get(writer.o_done):
                break
            await ctx.tick()
        assert data[SIZE // 2 :] == b"\x34\x12" * 20 + bytes(SIZE // 2 - 40)

    simulate(writer, bench, beside=[memory.run])


def test_elaborates_for_a_large_array() -> None:
    assert "m_axi__awaddr" in to_rtlil(DmaWriter(preset("ews-msvq-64")))
