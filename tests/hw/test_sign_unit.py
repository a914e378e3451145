"""Magnitudes and signs, all combinations, on every weight of the unit."""

from __future__ import annotations

from itertools import product

import pytest

from hw.decoder.sign_unit import SignUnit


@pytest.mark.parametrize("count", [1, 4])
def test_all_magnitudes_and_signs(simulate, count: int) -> None:
    unit = SignUnit(count)

    async def bench(ctx) -> None:
        for magnitude, negative in product(range(128), (False, True)):
            # Neighbours have other magnitudes and signs.
            magnitudes = [(magnitude + 37 * i) % 128 for i in range(count)]
            signs = [negative ^ bool(i % 2) for i in range(count)]
            ctx.set(unit.i_values, sum(value << 8 * i for i, value in enumerate(magnitudes)))
            ctx.set(unit.i_signs, sum(sign << i for i, sign in enumerate(signs)))
            await ctx.delay(1e-9)
            weights = ctx.get(unit.o_weights).to_bytes(count, "little")
            expected = [-value if sign else value for value, sign in zip(magnitudes, signs, strict=True)]
            assert [int.from_bytes([byte], signed=True) for byte in weights] == expected

        # Weights of both signs pass unchanged.
        for weight in range(256):
            ctx.set(unit.i_values, weight)
            ctx.set(unit.i_signs, 0)
            await ctx.delay(1e-9)
            assert ctx.get(unit.o_weights) == weight

    simulate(unit, bench, clocked=False)
