"""Fields come out of packed words in order, whatever the widths and pauses."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from hw.decoder.unpacker import Unpacker

PAIRS = [
    *[(8, field) for field in (1, 3, 7, 8, 9, 11, 16, 20, 64)],
    *[(16, field) for field in (2, 5, 11, 16, 24, 33)],
    *[(24, field) for field in (9, 16, 32)],
    *[(64, field) for field in (4, 9, 11, 20, 44, 64, 128, 80)],
    *[(128, field) for field in (9, 36, 44, 512)],
]


@pytest.mark.parametrize("density", [1, 0.5])
@pytest.mark.parametrize(("word", "field"), PAIRS)
def test_fields_in_order_then_flush(simulate, word: int, field: int, density: float) -> None:
    rng = random.Random(f"{word} {field} {density}")
    # Segments end in the middle of a word where the widths allow; the rest of that word is dropped.
    counts = [rng.randint(1, 2 * word // field + 3) for _ in range(6)]
    segments = [[rng.getrandbits(field) for _ in range(count)] for count in counts]
    unpacker = Unpacker(word, field)
    words, fields = unpacker.i_word, unpacker.o_field

    def willing() -> bool:
        return rng.random() < density

    async def bench(ctx) -> None:
        for segment in segments:
            stream = sum(value << i * field for i, value in enumerate(segment))
            used = -(-len(segment) * field // word)
            # The word behind the segment's last must stay where it is.
            pending = [stream >> i * word & (1 << word) - 1 for i in range(used)] + [rng.getrandbits(word)]
            got, cycles, taken, offered = [], 0, 0, False
            while len(got) < len(segment):
                offered = offered or willing()
                request, ready = willing(), willing()
                ctx.set(words.valid, offered)
                ctx.set(words.payload, pending[taken])
                ctx.set(unpacker.i_request, request)
                ctx.set(fields.ready, ready)
                if ctx.get(fields.valid) and ready:
                    assert request
                    got.append(ctx.get(fields.payload))
                took = offered and ctx.get(words.ready)
                await ctx.tick()
                if took:
                    taken, offered = taken + 1, False
                cycles += 1
                assert cycles < 100 * (used + len(segment))
            assert got == segment
            assert taken == used
            if density == 1:
                ends = [-(-i * field // word) for i in range(len(segment) + 1)]
                assert cycles == sum(max(1, b - a) for a, b in pairwise(ends))
            ctx.set(unpacker.i_request, 0)
            ctx.set(words.valid, 0)
            ctx.set(unpacker.i_flush, 1)
            await ctx.tick()
            ctx.set(unpacker.i_flush, 0)

    simulate(unpacker, bench)


def test_nothing_is_taken_without_a_request(simulate) -> None:
    unpacker = Unpacker(8, 12)

    async def bench(ctx) -> None:
        ctx.set(unpacker.i_word.valid, 1)
        ctx.set(unpacker.o_field.ready, 1)
        for _ in range(3):
            assert not ctx.get(unpacker.i_word.ready)
            assert not ctx.get(unpacker.o_field.valid)
            await ctx.tick()

    simulate(unpacker, bench)
