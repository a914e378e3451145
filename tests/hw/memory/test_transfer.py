"""LOAD, STORE and RECORD move bytes, whatever the widths of L2 and DRAM."""

from __future__ import annotations

import pytest

from hw.config import AcceleratorConfig, ConfigError
from hw.memory.transfer import LoadUnit, StoreUnit

# Bits of a DRAM word, bytes of an L2 word
WIDTHS = [(16, 4), (64, 8), (8, 2), (512, 4), (512, 64), (8, 1), (32, 64)]


def config_of(word_width: int, l2_word: int) -> AcceleratorConfig:
    size = max(l2_word, 4)
    return AcceleratorConfig(
        variant="ews", H=size, L=size, d=4, word_width=word_width, l2_word_bytes=l2_word, l2_bytes=100 * l2_word + 200
    )


def words_of(data: bytes, size: int) -> list[int]:
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


def random_moves(config: AcceleratorConfig, rng, count: int) -> list[dict[str, int]]:
    """Regions of L2, and addresses that are multiples of both words."""
    unit = max(config.l2_word, config.word_width // 8)
    words = [rng.choice([1, 2, 3, rng.randint(1, 40)]) for _ in range(count)]
    return [
        {"address": unit * rng.randint(0, 20), "l2_base": rng.randint(0, config.l2_depth - n), "words": n}
        for n in words
    ]


def dram_words(config: AcceleratorConfig, words: int) -> int:
    return -(-8 * words * config.l2_word // config.word_width)


@pytest.fixture(params=WIDTHS, ids=lambda pair: f"{pair[0]}bit-{pair[1]}B")
def config(request) -> AcceleratorConfig:
    return config_of(*request.param)


def test_load(simulate, traffic, config: AcceleratorConfig) -> None:
    bus = config.word_width // 8
    dram = traffic.rng.randbytes(128 * 64)
    moves = random_moves(config, traffic.rng, 6)
    unit = LoadUnit(config)
    traffic.source(unit.i_command, moves)
    requests = traffic.sink(unit.o_request)
    words = traffic.source(unit.i_words)
    l2: dict[int, int] = {}
    writes = traffic.writable(unit.o_l2, l2)
    done = traffic.pulses(unit.o_done)

    async def bench(ctx) -> None:
        served = 0
        for number, move in enumerate(moves):
            while len(done.cycles) == number:
                for value in requests.items[served:]:
                    request = unit.o_request.payload.shape().from_bits(value)
                    assert request.check == 0
                    count = dram_words(config, moves[served]["words"])
                    assert (request.address, request.words) == (moves[served]["address"], count)
                    words.items += words_of(dram[request.address : request.address + request.words * bus], bus)
                    served += 1
                await traffic.until(ctx, lambda before=traffic.cycle: traffic.cycle > before)
                assert traffic.cycle < 5000
            start = move["address"]
            wanted = words_of(dram[start : start + move["words"] * config.l2_word], config.l2_word)
            assert [l2[move["l2_base"] + i] for i in range(move["words"])] == wanted
            assert done.cycles[-1] == writes.cycles[-1] + 1
        assert len(writes.cycles) == sum(move["words"] for move in moves)
        assert words.idle
        if traffic.density == 1:
            # Between commands a cycle or two; then what is shorter paces the other.
            moved = sum(max(move["words"], dram_words(config, move["words"])) for move in moves)
            assert done.cycles[-1] <= moved + 2 * len(moves) + 3

    simulate(unit, bench)


def test_store_and_record(simulate, traffic, config: AcceleratorConfig) -> None:
    rng = traffic.rng
    content = rng.randbytes(config.l2_depth * config.l2_word)
    moves = random_moves(config, rng, 6)
    commands = [{"record": int(i % 3 == 1), **move} for i, move in enumerate(moves)]
    counters = [rng.getrandbits(512) for _ in range(3000)]
    unit = StoreUnit(config)
    taken = traffic.source(unit.i_command, commands)
    requests, words = traffic.sink(unit.o_request), traffic.sink(unit.o_words)
    reads = traffic.readable(unit.o_l2, words_of(content, config.l2_word))
    done = traffic.pulses(unit.o_done)
    bus = config.word_width // 8

    async def step(ctx) -> None:
        ctx.set(unit.i_counters, counters[traffic.cycle])
        await traffic.step(ctx)

    async def bench(ctx) -> None:
        for number, command in enumerate(commands):
            sent = len(words.items)
            data = content[command["l2_base"] * config.l2_word :][: command["words"] * config.l2_word]
            count = 512 // config.word_width if command["record"] else dram_words(config, command["words"])
            while len(words.items) < sent + count or len(requests.items) <= number:
                await step(ctx)
                assert traffic.cycle < 2500
            if command["record"]:
                data = counters[taken.cycles[number]].to_bytes(64, "little")
            data = data.ljust(count * bus, b"\0")
            assert words.items[sent:] == words_of(data, bus)
            request = unit.o_request.payload.shape().from_bits(requests.items[number])
            assert (request.address, request.words) == (command["address"], count)
            if traffic.density == 1:
                pace = count * max(1, bus // config.l2_word)
                assert words.cycles[-1] - taken.cycles[number] <= pace + 3
            for _ in range(rng.randint(0, 3)):
                await step(ctx)
            assert len(taken.cycles) == number + 1
            assert len(done.cycles) == number
            ctx.set(unit.i_writer_done, 1)
            await step(ctx)
            ctx.set(unit.i_writer_done, 0)
            await step(ctx)
            assert len(done.cycles) == number + 1
        assert len(words.items) == sum(
            512 // config.word_width if command["record"] else dram_words(config, command["words"])
            for command in commands
        )
        assert len(reads.cycles) == sum(command["words"] for command in commands if not command["record"])

    simulate(unit, bench)


@pytest.mark.usefixtures("unelaborated")
@pytest.mark.parametrize("unit", [LoadUnit, StoreUnit])
def test_widths_that_are_no_bus(unit) -> None:
    with pytest.raises(ConfigError, match=r"word_width must be a power of two in 8\.\.512 for AXI, not 24"):
        unit(AcceleratorConfig(word_width=24))
