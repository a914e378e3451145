"""Nested counters."""

from __future__ import annotations

import random
from itertools import product

import pytest
from amaranth.hdl import Module, Signal

from hw.postprocess.loops import count


@pytest.mark.parametrize("bounds", [(3, 1, 4), (1, 1, 1), (2, 7, 5), (1, 6, 2)])
def test_the_ends_of_a_nest(simulate, bounds: tuple[int, ...]) -> None:
    """Each iteration of three nests, one after the other, whatever pauses there are between the steps."""
    m, step = Module(), Signal()
    # The innermost first; a bound may be a number.
    sizes = {"x": Signal(3), "y": Signal(3), "z": bounds[2]}
    ends = count(m, step, sizes)
    shown = {name: Signal(name=f"{name}_shown") for name in ends}
    m.d.comb += [signal.eq(ends[name]) for name, signal in shown.items()]
    rng = random.Random(str(bounds))

    async def bench(ctx) -> None:
        ctx.set(sizes["x"], bounds[0])
        ctx.set(sizes["y"], bounds[1])
        for _ in range(3):
            for z, y, x in product(*map(range, reversed(bounds))):
                while True:
                    ctx.set(step, steps := rng.random() < 0.6)
                    last = [x == bounds[0] - 1, y == bounds[1] - 1, z == bounds[2] - 1]
                    wanted = [all(last[: i + 1]) for i in range(3)]
                    assert [ctx.get(shown[name]) for name in sizes] == wanted
                    await ctx.tick()
                    if steps:
                        break

    simulate(m, bench)
