"""Rounding, saturation and scaling: exhaustive where that is possible, at every edge and by proof elsewhere."""

from __future__ import annotations

import random
from itertools import product

import pytest
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.generate import to_rtlil
from hw.postprocess.scaler import Rounder, Scaler
from hw.yosys import YosysError, run_yosys
from sim.simulation import Together


def edges(width: int, shift: int) -> set[int]:
    """Values at and beside every half and every saturation that a result of 8 bits can see, and the extremes."""
    unit = 1 << shift
    halves = (n * unit + half for n in (-130, -129, -128, -127, -2, -1, 0, 1, 126, 127, 128) for half in (0, unit // 2))
    extremes = (-1 << width - 1, (1 << width - 1) - 1)
    near = {value + d for value in (*halves, *extremes) for d in (-1, 0, 1)}
    return {value for value in near if extremes[0] <= value <= extremes[1]}


async def through(ctx, component, inputs, pauses: float = 0):
    """Results of a pipeline for dictionaries of inputs, one a step."""
    rng = random.Random(0)
    results = []
    together = Together()
    for given in [*inputs, *[{}] * component.stages]:
        for name, value in given.items():
            together.set(getattr(component, f"i_{name}"), value)
        while rng.random() < pauses:
            together.set(component.i_enable, 0)
            together.drive(ctx)
            await ctx.tick()
        together.set(component.i_enable, 1)
        together.drive(ctx)
        await ctx.tick()
        results.append(ctx.get(component.o_result))
    return results[component.stages - 1 : -1]


def test_widths_of_ports() -> None:
    rounder, scaler = Rounder(20), Scaler(20)
    assert len(rounder.i_shift) == len(scaler.i_shift) == 6
    for unit in (rounder, scaler):
        assert [len(getattr(unit, name)) for name in ("i_low", "i_high", "o_result")] == [8, 8, 8]


def check_rounder(simulate, rounded, rounder: Rounder, cases: list[tuple[int, int]], low: int, high: int) -> None:
    """Values and shifts, one after the other, give what the model of rounding gives."""

    async def bench(ctx) -> None:
        ctx.set(rounder.i_low, low)
        ctx.set(rounder.i_high, high)
        results = await through(ctx, rounder, [{"value": value, "shift": shift} for value, shift in cases])
        assert results == [rounded(value, shift, low, high) for value, shift in cases]

    simulate(rounder, bench)


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-3, 5)])
def test_rounder_exhaustive(simulate, rounded, low: int, high: int) -> None:
    width, shift_bits = 10, 2
    rounder = Rounder(width, shift_bits)
    cases = list(product(range(-1 << width - 1, 1 << width - 1), range(1 << shift_bits)))
    check_rounder(simulate, rounded, rounder, cases, low, high)


@pytest.mark.parametrize(("width", "shift_bits"), [(65, 6), (56, 6), (71, 6), (8, 3), (2, 2), (39, 5)])
def test_rounder_edges(simulate, rounded, width: int, shift_bits: int) -> None:
    rounder = Rounder(width, shift_bits)
    rng = random.Random(width)
    cases = [(value, shift) for shift in range(1 << shift_bits) for value in sorted(edges(width, shift))]
    cases += [(rng.getrandbits(width) - (1 << width - 1), rng.randrange(1 << shift_bits)) for _ in range(200)]
    check_rounder(simulate, rounded, rounder, cases, -128, 127)


@pytest.mark.parametrize(
    ("width", "registered", "pauses"), [(24, False, 0.4), (24, True, 0), (33, False, 0), (33, True, 0.4)]
)
def test_scaler_by_a_multiplier_of_32_bits(simulate, rounded, width: int, registered: bool, pauses: float) -> None:
    scaler = Scaler(width, registered)
    assert scaler.stages == 5 + 2 * registered
    rng = random.Random(width)
    numbers = (-1 << width - 1, (1 << width - 1) - 1, -1, 0, 1)
    multipliers = (-1 << 31, (1 << 31) - 1, -1, 0, 1, 1 << 16, -1 << 16, (1 << 16) - 1, 1 << 15)
    cases = list(product(numbers, multipliers, (0, 1, 15, 31, 61, 62)))
    for _ in range(500):
        multiplier, shift = rng.randint(-1 << 31, (1 << 31) - 1), rng.randrange(63)
        # Products near the result's range as often as anywhere.
        value = (
            round(rng.uniform(-130, 130) * 2**shift / (multiplier or 1)) if rng.random() < 0.7 else rng.choice(numbers)
        )
        cases.append((max(numbers[0], min(numbers[1], value)), multiplier, shift))

    async def bench(ctx) -> None:
        ctx.set(scaler.i_low, -128)
        ctx.set(scaler.i_high, 127)
        ctx.set(scaler.i_halves, 1)
        inputs = [
            {"x0": value, "y0": multiplier & 0xFFFF, "x1": value, "y1": multiplier >> 16, "shift": shift}
            for value, multiplier, shift in cases
        ]
        results = await through(ctx, scaler, inputs, pauses)
        assert results == [rounded(value * multiplier, shift, -128, 127) for value, multiplier, shift in cases]

    simulate(scaler, bench)


@pytest.mark.parametrize("registered", [False, True])
def test_scaler_adds_two_products(simulate, rounded, registered: bool) -> None:
    scaler = Scaler(24, registered)
    rng = random.Random(1)
    factors = (-(1 << 22) + 1, (1 << 22) - 1, 0, 1, 12345)
    cases = list(product(factors, (-128, 127, 0), factors, (-128, 127), (0, 15, 22, 31)))
    cases += [
        (rng.choice(factors), rng.randint(-128, 127), rng.choice(factors), rng.randint(-128, 127), rng.randrange(32))
        for _ in range(500)
    ]

    async def bench(ctx) -> None:
        ctx.set(scaler.i_low, -100)
        ctx.set(scaler.i_high, 90)
        inputs = [dict(zip(("x0", "y0", "x1", "y1", "shift"), case, strict=True)) for case in cases]
        results = await through(ctx, scaler, inputs)
        assert results == [rounded(a * x + b * y, shift, -100, 90) for a, x, b, y, shift in cases]

    simulate(scaler, bench)


class Difference(wiring.Component):
    """High where a rounder and the definition give different results. ``wrong`` spoils the definition."""

    def __init__(self, width: int, shift_bits: int, wrong: int) -> None:
        self.width, self.shift_bits, self.wrong = width, shift_bits, wrong
        super().__init__(
            {
                "i_value": In(signed(width)),
                "i_shift": In(shift_bits),
                "i_low": In(signed(8)),
                "i_high": In(signed(8)),
                "o_differs": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.rounder = rounder = Rounder(self.width, self.shift_bits)
        half = Signal(1 << self.shift_bits)
        magnitude, result = Signal(self.width + 2), Signal(signed(self.width + 3))
        m.d.comb += [
            rounder.i_enable.eq(1),
            rounder.i_value.eq(self.i_value),
            rounder.i_shift.eq(self.i_shift),
            rounder.i_low.eq(self.i_low),
            rounder.i_high.eq(self.i_high),
            half.eq((1 << self.i_shift) >> 1),
            magnitude.eq((abs(self.i_value) + half - self.wrong) >> self.i_shift),
            result.eq(Mux(self.i_value < 0, -magnitude, magnitude)),
        ]
        expected = Mux(result < self.i_low, self.i_low, Mux(result > self.i_high, self.i_high, result))
        m.d.comb += self.o_differs.eq((self.i_low <= self.i_high) & (rounder.o_result != expected))
        return m


@pytest.mark.parametrize("wrong", [0, 1])
@pytest.mark.parametrize(("width", "shift_bits"), [(24, 5), (65, 6)])
def test_rounder_proof(tmp_path, width: int, shift_bits: int, wrong: int) -> None:
    # Its registers become wires: there is no feedback, and what remains is one function of its inputs.
    (tmp_path / "wires.v").write_text(
        '(* techmap_celltype = "$dff" *)\nmodule wire_ (CLK, D, Q);\nparameter WIDTH = 1;\n'
        "parameter CLK_POLARITY = 1;\ninput CLK;\ninput [WIDTH-1:0] D;\noutput [WIDTH-1:0] Q;\n"
        "assign Q = D;\nendmodule\n"
    )
    (tmp_path / "design.il").write_text(to_rtlil(Difference(width, shift_bits, wrong), "top"))
    commands = [
        "read_rtlil design.il",
        "hierarchy -top top",
        "proc",
        "flatten",
        "opt",
        "techmap -map wires.v",
        "opt -full",
    ]
    commands += ["select -assert-none t:$dff* t:$sdff* t:$adff*", "sat -verify -prove o_differs 0 top"]
    if wrong:
        with pytest.raises(YosysError, match="proof did fail"):
            run_yosys(commands, tmp_path)
    else:
        run_yosys(commands, tmp_path)
