"""How long a command takes before its first tap: a bit of each factor a cycle, whatever came before."""

from __future__ import annotations

import pytest

from hw.config import preset
from hw.control.descriptor import VectorOp
from hw.postprocess.window_walker import WindowWalker
from sw.perf.vector_times import vector_cost

FIELDS = {
    "operation": int(VectorOp.MAXIMUM), "kernel_rows": 1, "kernel_columns": 1, "rows": 5, "pixel_words": 1,
    "height": 1, "width": 1, "columns": 1, "stride_rows": 1, "stride_columns": 1, "padding_rows": 0,
    "padding_columns": 0,
}  # fmt: skip


@pytest.mark.parametrize("every_function", [False, True])
def test_the_first_tap_comes_as_soon_as_the_factors_are_through(every_function: bool, simulate) -> None:
    config = preset("ews-msvq-full-tiny" if every_function else "ews-cms-tiny")
    dut = WindowWalker(config)

    async def bench(ctx) -> None:
        ctx.set(dut.o_tap.ready, 1)
        for changes in ({}, {"columns": 7}, {"stride_rows": 2, "stride_columns": 5}, {"padding_rows": 9}, {}):
            fields = FIELDS | changes
            for name, value in fields.items():
                ctx.set(getattr(dut.i_command.payload, name), value)
            ctx.set(dut.i_command.valid, 1)
            while not ctx.get(dut.i_command.ready):
                await ctx.tick()
            await ctx.tick()
            ctx.set(dut.i_command.valid, 0)
            cycles = 1
            while not ctx.get(dut.o_tap.valid):
                assert cycles < 200
                cycles += 1
                await ctx.tick()
            # With the one in which it is taken, and the one before the first tap.
            assert cycles == vector_cost(config, fields).setup, changes

    simulate(dut, bench)
