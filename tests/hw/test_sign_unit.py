"""Magnitudes and signs, all combinations, on every weight of the unit."""

from __future__ import annotations

from itertools import product

import pytest

from hw.decoder.sign_unit import SignUnit


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("count", [1, 4])
def test_all_magnitudes_and_signs(simulate, count: int, bits: int) -> None:
    unit = SignUnit(count) if bits == 8 else SignUnit(count, bits)  # 8 where nothing is said
    half = 1 << (bits - 1)

    async def bench(ctx) -> None:
        for magnitude, negative in product(range(half), (False, True)):
            # Neighbours have other magnitudes and signs.
            magnitudes = [(magnitude + 37 * i) % half for i in range(count)]
            signs = [negative ^ bool(i % 2) for i in range(count)]
            ctx.set(unit.i_values, sum(value << bits * i for i, value in enumerate(magnitudes)))
            ctx.set(unit.i_signs, sum(sign << i for i, sign in enumerate(signs)))
            await ctx.delay(1e-9)
            weights = [ctx.get(unit.o_weights) >> bits * i & 2 * half - 1 for i in range(count)]
            expected = [-value if sign else value for value, sign in zip(magnitudes, signs, strict=True)]
            assert [weight - 2 * half * (weight >= half) for weight in weights] == expected

        # Weights of both signs pass unchanged.
        for weight in range(2 * half):
            ctx.set(unit.i_values, weight)
            ctx.set(unit.i_signs, 0)
            await ctx.delay(1e-9)
            assert ctx.get(unit.o_weights) == weight

    simulate(unit, bench, clocked=False)
