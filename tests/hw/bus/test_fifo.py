"""The reader's FIFO: words in order, none lost at any level, a word a cycle."""

from __future__ import annotations

import random

import pytest

from hw.bus.fifo import WordFifo
from hw.generate import to_rtlil


@pytest.mark.parametrize(
    ("depth", "fill", "drain"), [(2, 1, 1), (2, 0.5, 0.7), (4, 0.9, 0.3), (16, 0.3, 0.9), (8, 1, 1)]
)
def test_words_in_order(simulate, depth: int, fill: float, drain: float) -> None:
    fifo = WordFifo(depth, 12)
    rng = random.Random(f"{depth} {fill} {drain}")
    sent: list[int] = []
    got: list[int] = []
    full = 0

    async def bench(ctx) -> None:
        nonlocal full
        while len(got) < 300:
            write = len(sent) - len(got) < depth and rng.random() < fill
            ready = rng.random() < drain
            full += len(sent) - len(got) == depth
            word = rng.getrandbits(12)
            ctx.set(fifo.i_valid, write)
            ctx.set(fifo.i_word, word)
            ctx.set(fifo.o_words.ready, ready)
            if write:
                sent.append(word)
            _, _, valid, payload = await ctx.tick().sample(fifo.o_words.valid, fifo.o_words.payload)
            if valid and ready:
                got.append(payload)
            assert len(sent) < 1000

    simulate(fifo, bench)
    assert got == sent[: len(got)]
    assert full or drain > fill or depth == 8


def test_a_word_a_cycle(simulate) -> None:
    fifo = WordFifo(8, 12)

    async def bench(ctx) -> None:
        ctx.set(fifo.i_valid, 1)
        ctx.set(fifo.o_words.ready, 1)
        valids = []
        for _ in range(100):
            _, _, valid = await ctx.tick().sample(fifo.o_words.valid)
            valids.append(valid)
        assert valids[valids.index(1) :] == [1] * sum(valids)
        assert sum(valids) > 95

    simulate(fifo, bench)


def test_words_are_in_a_macro() -> None:
    assert "sram_8x12" in to_rtlil(WordFifo(8, 12))
