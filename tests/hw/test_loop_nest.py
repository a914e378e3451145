"""The counters of MVQ figure 7's inner loops."""

from __future__ import annotations

import random
from itertools import product

import pytest

from hw.config import preset
from hw.control.command import LoopNest


@pytest.mark.parametrize("pauses", [False, True])
def test_iterations_in_order(simulate, pauses: bool) -> None:
    nest = LoopNest(preset("ews-tiny"))
    rng = random.Random(0)

    async def bench(ctx) -> None:
        for A, B, D in [*product((1, 2, 3), repeat=3), (8, 2, 1), (1, 8, 1), (1, 1, 8), (5, 1, 3)]:
            ctx.set(nest.i_A, A)
            ctx.set(nest.i_B, B)
            ctx.set(nest.i_D, D)
            for q, r, s in product(range(D), range(B), range(A)):
                while pauses and rng.random() < 0.4:
                    ctx.set(nest.i_step, 0)
                    await ctx.tick()
                ctx.set(nest.i_step, 1)
                last = (s == A - 1, r == B - 1, q == D - 1)
                assert ctx.get(nest.o_s) == s
                assert ctx.get(nest.o_first) == (q == r == 0)
                assert (ctx.get(nest.o_last_s), ctx.get(nest.o_last_r), ctx.get(nest.o_last_q)) == last
                assert ctx.get(nest.o_last) == all(last)
                await ctx.tick()

    simulate(nest, bench)
