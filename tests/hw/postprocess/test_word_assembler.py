"""Bytes keep their order between slots and words of any sizes, at the rate of the slower side."""

from __future__ import annotations

from math import lcm

import pytest
from amaranth.hdl import Value

from hw.postprocess.word_assembler import WordAssembler


@pytest.mark.parametrize(("slot", "word"), [(1, 1), (1, 4), (4, 4), (3, 4), (4, 2), (16, 64), (6, 4), (8, 1)])
def test_bytes_in_order_at_full_rate(simulate, traffic, slot: int, word: int) -> None:
    assembler = WordAssembler(slot, word)
    size = lcm(slot, word)
    data = traffic.rng.randbytes(20 * size)
    slots = [int.from_bytes(data[i : i + slot], "little") for i in range(0, len(data), slot)]
    source, sink = traffic.source(assembler.i_slot, slots), traffic.sink(assembler.o_word)

    async def bench(ctx) -> None:
        await traffic.until(ctx, lambda: len(sink.items) * word == len(data))
        assert b"".join(item.to_bytes(word, "little") for item in sink.items) == data
        assert len(Value.cast(assembler.o_word.payload)) == 8 * word
        assert len(Value.cast(assembler.i_slot.payload)) == 8 * slot
        assert source.idle
        if traffic.density == 1:
            assert sink.cycles[-1] - sink.cycles[0] == 19 * max(size // slot, size // word) + size // word - 1

    simulate(assembler, bench)
