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


@pytest.mark.parametrize(("inputs", "register_levels"), [(9, 1), (8, 2), (5, 3)])
def test_a_level_of_registers_keeps_its_sums_without_its_enable(simulate, inputs: int, register_levels: int) -> None:
    width = 8
    tree = AdderTree(inputs, width, register_levels, enabled=True)
    registers = (inputs - 1).bit_length() // register_levels
    rng = random.Random(inputs)

    async def bench(ctx) -> None:
        kept: list[int | None] = [None] * registers  # the sum of what each level of registers holds
        for _ in range(200):
            values = [rng.randrange(-128, 128) for _ in range(inputs)]
            enable = rng.randrange(1 << registers)
            ctx.set(tree.i_products, sum((value & 0xFF) << 8 * i for i, value in enumerate(values)))
            ctx.set(tree.i_enable, enable)
            before = [sum(values), *kept]
            kept = [before[at] if enable >> at & 1 else kept[at] for at in range(registers)]
            await ctx.tick()
            if kept[-1] is not None:
                assert ctx.get(tree.o_sum) == kept[-1]

    simulate(tree, bench, clocked=True)


@pytest.mark.usefixtures("unelaborated")
def test_enables_are_there_where_they_are_wanted() -> None:
    for levels, enabled, there in ((0, True, False), (1, False, False), (1, True, True), (3, True, False)):
        assert ("i_enable" in AdderTree(4, 8, levels, enabled).signature.members) == there
