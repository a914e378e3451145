"""Reads see writes of earlier cycles, on every port."""

from __future__ import annotations

import random

import pytest

from hw.memory.register_file import RegisterFile


@pytest.mark.parametrize(("depth", "width", "ports"), [(2, 1, 1), (16, 32, 1), (8, 24, 2), (5, 7, 3), (512, 128, 2)])
def test_reads_and_writes(simulate, depth: int, width: int, ports: int) -> None:
    file = RegisterFile(depth, width, ports)
    rng = random.Random(f"{depth} {width}")

    async def bench(ctx) -> None:
        content = [rng.getrandbits(width) for _ in range(depth)]
        ctx.set(file.i_write, 1)
        for address, value in enumerate(content):
            ctx.set(file.i_write_address, address)
            ctx.set(file.i_write_data, value)
            await ctx.tick()
        for _ in range(300):
            address, value, write = rng.randrange(depth), rng.getrandbits(width), rng.random() < 0.5
            ctx.set(file.i_write, write)
            ctx.set(file.i_write_address, address)
            ctx.set(file.i_write_data, value)
            for port in range(ports):
                # Often the entry that is written: it still reads as before.
                read = address if rng.random() < 0.3 else rng.randrange(depth)
                ctx.set(getattr(file, f"i_address_{port}"), read)
                assert ctx.get(getattr(file, f"o_data_{port}")) == content[read]
            await ctx.tick()
            if write:
                content[address] = value

    simulate(file, bench)
    assert len(file.i_write_address) == len(file.i_address_0) == (depth - 1).bit_length()


@pytest.mark.usefixtures("unelaborated")
def test_one_port_where_nothing_is_said() -> None:
    file = RegisterFile(4, 8)
    assert [name for name in file.signature.members if name.startswith("o_")] == ["o_data_0"]
