"""VECTOR against plain loops over numpy arrays: every word of L2, whatever pauses, and at the promised rate."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hw.config import AcceleratorConfig, preset
from hw.control.descriptor import VectorOp
from hw.generate import to_rtlil
from hw.postprocess.vector_unit import SUM_BITS, VectorUnit
from tests.hw.postprocess.vector_bench import VectorBench, integers

TINY = preset("ews-cms-tiny")
#: What every instance has.
BASIC = (VectorOp.MAXIMUM, VectorOp.SUM, VectorOp.ADD)
SMALL = {"l2_bytes": 5000, "l1_ifmap_bytes": 1 << 10, "l1_psum_bytes": 1 << 12}
CONFIGS = {
    "tiny": TINY,
    "all channels at once": AcceleratorConfig(variant="ews", H=8, L=16, d=4, vector_lanes=8, **SMALL),
    "a channel at a time": AcceleratorConfig(variant="ews", H=8, L=8, d=8, vector_lanes=1, **SMALL),
    "one channel": AcceleratorConfig(variant="ews", H=1, L=3, d=1, scaler_register=True, **SMALL),
}


def random_command(config: AcceleratorConfig, rng: random.Random, **fixed) -> dict:
    while True:
        operation = fixed.get("operation", rng.choice(BASIC))
        command = {
            "operation": int(operation),
            "kernel_rows": rng.randint(1, 4),
            "kernel_columns": rng.randint(1, 4),
            "stride_rows": rng.randint(1, 3),
            "stride_columns": rng.randint(1, 3),
            "rows": rng.randint(1, 7),
            "columns": rng.randint(1, 7),
            "pixel_words": rng.randint(1, 3),
            "low": -128,
            "high": 127,
        } | fixed
        kernel = command["kernel_rows"], command["kernel_columns"]
        command |= {"padding_rows": rng.randrange(kernel[0]), "padding_columns": rng.randrange(kernel[1])} | fixed
        if rng.random() < 0.5:
            command["low"], command["high"] = sorted(rng.randint(-128, 127) for _ in range(2))
        if operation == VectorOp.ADD:
            command |= {"height": command["rows"], "width": command["columns"], "shift": rng.randrange(32)}
            limit = min(1 << 22, 2 << command["shift"]) - 1
        else:
            for size, source, axis in (("height", "rows", 0), ("width", "columns", 1)):
                padding, stride = command[f"padding_{source}"], command[f"stride_{source}"]
                command[size] = (command[source] + 2 * padding - kernel[axis]) // stride + 1
            # As far beyond the range as inside it.
            command["shift"] = rng.randrange(63)
            limit = min(1 << 31, 1 << max(0, command["shift"] - 2)) - 1
        command |= {f"multiplier_{name}": rng.randint(-limit, limit) for name in "ab"} | fixed
        sizes = [command["rows"] * command["columns"] * command["pixel_words"]] * 2
        sizes.append(command["height"] * command["width"] * command["pixel_words"])
        if min(command["height"], command["width"]) >= 1 and sum(sizes) <= config.l2_depth:
            bases, end = {}, rng.randint(0, config.l2_depth - sum(sizes))
            names = ["a_base", "b_base", "l2_base"]
            order = rng.sample(range(3), 3)
            for i in order:
                bases[names[i]] = end
                end += sizes[i]
            return command | bases


def expected(command: dict, l2: np.ndarray, rounded) -> np.ndarray:
    """The result, int8 ``[height, width, channels]``."""
    c = command
    count = c["rows"] * c["columns"] * c["pixel_words"]
    a, b = (
        l2[c[base] : c[base] + count].reshape(c["rows"], c["columns"], -1).astype(int) for base in ("a_base", "b_base")
    )
    low, high = c["low"], c["high"]
    scaled = np.vectorize(lambda value: rounded(int(value), c["shift"], low, high))
    if c["operation"] == VectorOp.ADD:
        return scaled(a * c["multiplier_a"] + b * c["multiplier_b"])
    maximum = c["operation"] == VectorOp.MAXIMUM
    result = np.full((c["height"], c["width"], a.shape[2]), -128 if maximum else 0)
    for e, f, r, s in np.ndindex(c["height"], c["width"], c["kernel_rows"], c["kernel_columns"]):
        row = e * c["stride_rows"] - c["padding_rows"] + r
        column = f * c["stride_columns"] - c["padding_columns"] + s
        if 0 <= row < c["rows"] and 0 <= column < c["columns"]:
            value = a[row, column]
            result[e, f] = np.maximum(result[e, f], value) if maximum else result[e, f] + value
    return result.clip(low, high) if maximum else scaled(result.astype(object) * c["multiplier_a"])


class Bench(VectorBench):
    """Knows when a command must be done, too."""

    async def run(self, ctx, command: dict, rounded) -> None:
        """One command; checks all of L2."""
        values = expected(command, self.l2, rounded)
        count = command["height"] * command["width"] * command["pixel_words"]
        before, busy = len(self.done.cycles), len(self.busy.cycles)
        await self.finish(ctx, command)
        self.l2[command["l2_base"] : command["l2_base"] + count] = values.reshape(count, -1)
        assert self.memory == integers(self.l2), command
        assert self.done.cycles[before:] == [self.writes.cycles[-1] + 1]
        assert self.busy.cycles[busy:] == list(range(self.given.cycles[-1] + 1, self.done.cycles[-1]))


@pytest.mark.parametrize("density", [pytest.param(1, marks=pytest.mark.whole), 0.6], indirect=True)
@pytest.mark.parametrize("operation", BASIC, ids=lambda operation: operation.name)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_commands_one_after_the_other(simulate, traffic, rounded, config: AcceleratorConfig, operation) -> None:
    bench = Bench(traffic, config)

    async def run(ctx) -> None:
        for _ in range(3):
            await bench.run(ctx, random_command(config, traffic.rng, operation=operation), rounded)

    simulate(bench.unit, run)


def test_operations_mixed(simulate, traffic, rounded) -> None:
    bench = Bench(traffic, TINY)

    async def run(ctx) -> None:
        for operation in [*BASIC, *reversed(BASIC)]:
            await bench.run(ctx, random_command(TINY, traffic.rng, operation=operation, pixel_words=1), rounded)

    simulate(bench.unit, run)


@pytest.mark.parametrize("density", [1], indirect=True)
@pytest.mark.parametrize(
    ("operation", "kernel"),
    [(VectorOp.MAXIMUM, 1), (VectorOp.MAXIMUM, 3), (VectorOp.SUM, 1), (VectorOp.SUM, 2), (VectorOp.ADD, 1)],
)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_rate(simulate, traffic, rounded, config: AcceleratorConfig, operation, kernel: int) -> None:
    bench = Bench(traffic, config)
    fixed = {"operation": operation, "rows": 5, "columns": 7, "height": 2, "width": 3, "pixel_words": 2}
    fixed |= {"kernel_rows": kernel, "kernel_columns": kernel, "stride_rows": 2, "stride_columns": 2}
    fixed |= {"padding_rows": 0, "padding_columns": 0}
    if operation == VectorOp.ADD:
        fixed |= {"height": 5, "width": 7, "pixel_words": 1}

    async def run(ctx) -> None:
        await bench.run(ctx, random_command(config, traffic.rng, **fixed), rounded)
        groups = config.l2_word // config.vector_unit_lanes
        taps = 2 if operation == VectorOp.ADD else kernel * kernel
        cycles = bench.writes.cycles
        period = groups if taps == 1 else taps + max(0, groups - 2)
        if operation == VectorOp.ADD:
            assert period == max(2, groups)
        assert cycles[-1] - cycles[0] == (len(cycles) - 1) * period
        # Products of sizes at first, the pipeline at the end.
        assert len(bench.busy.cycles) <= len(cycles) * period + 50

    simulate(bench.unit, run)


def test_large_sums(simulate, traffic, rounded) -> None:
    assert 1 << SUM_BITS - 1 > 255 * 255 * 128
    bench = Bench(traffic, TINY)
    size = 16
    bench.l2[:] = -128
    bench.memory[:] = [0x80808080] * TINY.l2_depth
    fixed = {"operation": VectorOp.SUM, "kernel_rows": size, "kernel_columns": size, "rows": size, "columns": size}
    fixed |= {"padding_rows": 0, "padding_columns": 0, "pixel_words": 1, "multiplier_a": -(1 << 31), "shift": 40}

    async def run(ctx) -> None:
        await bench.run(ctx, random_command(TINY, traffic.rng, **fixed), rounded)

    simulate(bench.unit, run)


def test_a_large_preset_elaborates() -> None:
    config = preset("ews-cms-64")
    text = to_rtlil(VectorUnit(config))
    # The lanes are instances of one module.
    assert text.count("\nmodule \\core_scaler\n") == 1
    assert text.count("cell \\core_scaler ") == config.vector_unit_lanes == 32
