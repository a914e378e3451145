"""cocotb tests of the testbench class on echo.v, run by test_testbench.py."""

from __future__ import annotations

import random

import cocotb

from sim.testbench import StreamError, Testbench

STREAMS = {
    "i_a": {"direction": "in", "payload": {"width": 40}},
    "o_b": {"direction": "out", "payload": {"width": 40}},
}


async def echo(dut, mode: int, densities: dict[str, float], count: int = 200) -> int:
    """Send random payloads and compare what comes back; the cycles that it took."""
    bench = Testbench(dut, STREAMS)
    dut.mode.value = mode
    await bench.reset()
    bench.pause(densities, seed=1)
    rng = random.Random(0)
    sent = [rng.getrandbits(40) for _ in range(count)]
    got: list[int] = []
    bench.sinks["o_b"].received = got.append
    bench.send("i_a", sent)
    start = bench.cycle
    await bench.run(lambda: len(got) == count)
    assert got == sent
    assert int(dut.o_full.value) == 0
    return bench.cycle - start


@cocotb.test()
async def one_transfer_a_cycle(dut) -> None:
    assert await echo(dut, 0, {}) == 201


@cocotb.test()
@cocotb.parametrize(source=[0.1, 0.5, 1.0], sink=[0.1, 0.5, 1.0])
async def pauses_slow_it_down(dut, source: float, sink: float) -> None:
    cycles = await echo(dut, 0, {"i_a": source, "o_b": sink})
    slower = min(source, sink)
    assert 200 / slower * 0.7 < cycles < 200 / slower * 2.5


@cocotb.test()
@cocotb.parametrize(mode=[1, 2])
async def broken_protocol(dut, mode: int) -> None:
    try:
        await echo(dut, mode, {"o_b": 0.5})
    except StreamError as error:
        assert "an output stream changed before it was taken" in str(error)  # noqa: PT017 (pytest is not here)
    else:
        raise AssertionError("the monitor saw nothing")


@cocotb.test()
async def stands_still(dut) -> None:
    await echo(dut, 3, {})
