"""The core's command can say all that an instance can do, and the loop nest counts through it."""

from __future__ import annotations

from itertools import product

import pytest
from amaranth.lib import data

from hw.config import AcceleratorConfig, preset
from hw.control.command import LoopNest, command_layout


def most(config: AcceleratorConfig) -> dict[str, int]:
    """The greatest value of each field, from its meaning."""
    wrf, arf = config.wrf_depth, config.arf_depth
    window = min(wrf, arf)
    fields = {"A": min(wrf, config.prf_depth), "B": window, "D": window, "advance": window, "rows": config.H}
    fields |= {"start": 1, "accumulate": 1, "width": (1 << config.loop_bits) - 1, "height": (1 << config.loop_bits) - 1}
    return fields | ({"codewords": config.k, "raw": 1} if config.features.codebook else {})


@pytest.mark.parametrize("name", ["ws-tiny", "ews-tiny", "ews-msvq-tiny", "ews-16", "ews-msvq-64"])
def test_every_field_holds_its_greatest_value(name: str) -> None:
    config = preset(name)
    layout = command_layout(config)
    wanted = most(config)
    assert set(layout.members) == set(wanted)
    found = layout.from_bits(layout.const(wanted).as_value().value)
    assert {field: int(found[field]) for field in wanted} == wanted


@pytest.mark.parametrize("bounds", [(1, 1, 1), (2, 3, 2), (1, 2, 4), (8, 1, 1), (1, 1, 8), (1, 8, 1)])
def test_nest_counts_the_inner_loops(simulate, bounds: tuple[int, int, int]) -> None:
    config = preset("ews-msvq-tiny")
    nest = LoopNest(config)
    assert isinstance(nest.layout, data.StructLayout)
    bounds = tuple(min(x, most(config)[name]) for x, name in zip(bounds, "ABD", strict=True))
    A, B, D = bounds

    async def bench(ctx) -> None:
        for name, bound in zip("ABD", bounds, strict=True):
            ctx.set(getattr(nest, f"i_{name}"), bound)
        for _ in range(2):
            for q, r, s in product(range(D), range(B), range(A)):
                ctx.set(nest.i_step, 0)
                await ctx.tick()
                assert ctx.get(nest.o_s) == s
                assert ctx.get(nest.o_first) == (q == r == 0)
                lasts = s == A - 1, r == B - 1, q == D - 1
                assert tuple(ctx.get(getattr(nest, f"o_last_{name}")) for name in "srq") == lasts
                assert ctx.get(nest.o_last) == all(lasts)
                ctx.set(nest.i_step, 1)
                await ctx.tick()

    simulate(nest, bench)
