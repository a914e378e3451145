"""Sums of products, any number of inputs, with and without registers."""

from __future__ import annotations

import random

import pytest

from hw.array.adder_tree import AdderTree


@pytest.mark.parametrize("register_levels", [0, 1, 2, 3])
@pytest.mark.parametrize(("inputs", "width"), [(1, 16), (2, 15), (3, 16), (4, 16), (5, 8), (7, 15), (9, 16), (16, 15)])
def test_sum_after_the_registers(simulate, inputs: int, width: int, register_levels: int) -> None:
    tree = AdderTree(inputs, width, register_levels)
    levels = (inputs - 1).bit_length()
    latency = levels // register_levels if register_levels else 0
    rng = random.Random(f"{inputs} {width}")
    low, high = -1 << (width - 1), (1 << (width - 1)) - 1
    vectors = [[low] * inputs, [high] * inputs, [low, *[high] * (inputs - 1)]]
    vectors += [[rng.randint(low, high) for _ in range(inputs)] for _ in range(60)]

    async def bench(ctx) -> None:
        # A new vector every cycle.
        for cycle in range(len(vectors) + latency):
            if cycle < len(vectors):
                packed = sum((value & (1 << width) - 1) << i * width for i, value in enumerate(vectors[cycle]))
                ctx.set(tree.i_products, packed)
                await ctx.delay(1e-9)
            if cycle >= latency:
                assert ctx.get(tree.o_sum) == sum(vectors[cycle - latency])
            if latency:
                await ctx.tick()

    simulate(tree, bench, clocked=latency > 0)
