"""Leading-zero counters and the positions that a cascade of them gives."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.array.position_encoder import (
    LeadingZeroCounter,
    PositionEncoder,
    decode_positions,
    encode_positions,
)
from hw.layout import position_code, position_code_bits


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


class _RoundTrip(wiring.Component):
    """A position encoder, and its positions through a position code."""

    def __init__(self, n: int, m: int) -> None:
        self.n, self.m = n, m
        width = (m - 1).bit_length()
        code = position_code_bits(n, m)
        super().__init__({"i_mask": In(m), "o_code": Out(code), "o_positions": Out(n * width)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.encoder = encoder = PositionEncoder(self.n, self.m)
        positions = [getattr(encoder, f"o_position_{i}") for i in range(self.n)]
        m.d.comb += [
            encoder.i_mask.eq(self.i_mask),
            self.o_code.eq(encode_positions(positions, self.m)),
            self.o_positions.eq(Cat(decode_positions(self.o_code, self.n, self.m))),
        ]
        return m


@pytest.mark.parametrize(
    ("n", "m"), [(1, 2), (2, 2), (2, 4), (2, 8), (2, 16), (2, 12), (3, 4), (3, 7), (4, 16), (6, 16), (8, 16)]
)
def test_position_code_and_back(simulate, n: int, m: int) -> None:
    design = _RoundTrip(n, m)
    rng = random.Random(0)
    width = (m - 1).bit_length()

    async def bench(ctx) -> None:
        for kept in [list(range(n)), list(range(m - n, m)), *(sorted(rng.sample(range(m), n)) for _ in range(300))]:
            ctx.set(design.i_mask, sum(1 << position for position in kept))
            await ctx.delay(1e-9)
            assert ctx.get(design.o_code) == position_code(kept, m) < 1 << position_code_bits(n, m)
            assert ctx.get(design.o_positions) == sum(position << i * width for i, position in enumerate(kept))

    simulate(design, bench, clocked=False)
