"""Leading-zero counters and the positions that a cascade of them gives."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from hw.array.position_encoder import LeadingZeroCounter, PositionEncoder


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 16])
def test_leading_zero_counter(simulate, width: int) -> None:
    counter = LeadingZeroCounter(width)
    values = range(1 << width) if width <= 8 else [0, *random.Random(0).sample(range(1 << width), 300)]

    async def bench(ctx) -> None:
        for value in values:
            ctx.set(counter.i_bits, value)
            await ctx.delay(1e-9)
            lowest = value & -value
            assert ctx.get(counter.o_one_hot) == lowest
            assert ctx.get(counter.o_count) == max(lowest.bit_length() - 1, 0)

    simulate(counter, bench, clocked=False)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 2), (2, 4), (3, 4), (4, 4), (3, 7), (4, 16), (6, 16)])
def test_positions_of_kept_weights(simulate, n: int, m: int) -> None:
    encoder = PositionEncoder(n, m)
    masks = list(combinations(range(m), n))
    if len(masks) > 300:
        masks = [masks[0], masks[-1], *random.Random(0).sample(masks, 300)]

    async def bench(ctx) -> None:
        for kept in masks:
            ctx.set(encoder.i_mask, sum(1 << position for position in kept))
            await ctx.delay(1e-9)
            assert tuple(ctx.get(getattr(encoder, f"o_position_{i}")) for i in range(n)) == kept

    simulate(encoder, bench, clocked=False)
