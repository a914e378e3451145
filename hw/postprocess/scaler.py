"""Scaling by a multiplier and a right shift, rounded and clamped to int8: of the requantiser and of the vector unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Rounder", "Scaler"]

#: Rows of a multiplier, one for each bit of the factor, that are brought to two where there is a register inside: with
#: so many, both sides of it take as long.
_ROWS = 6


class Rounder(wiring.Component):
    """``clamp(round(value / 2**shift), low, high)``, halves away from zero, exact for every value and shift.

    Of the shifted value only the bits are kept that tell the results from one another, and whether one of the others
    differs from the sign. A value of 0 or more is rounded up from the half on; a negative one only above the half, that
    is, if a bit below it is set too.

    Parameters
    ----------
    width
        Bits of the value.
    shift_bits
        Bits of the shift, at least 2; ``width`` is at most ``2**shift_bits + 7``.

    Members
    -------
    i_enable
        The pipeline of :attr:`stages` registers goes on.
    i_value, i_shift
        The value and its shift.
    i_low, i_high
        The range of the result. They hold while values are in the pipeline.
    o_result
        The result.
    """

    stages = 3

    def __init__(self, width: int, shift_bits: int = 6) -> None:
        self.width, self.shift_bits = width, shift_bits
        super().__init__(
            {
                "i_enable": In(1),
                "i_value": In(signed(width)),
                "i_shift": In(shift_bits),
                "i_low": In(signed(8)),
                "i_high": In(signed(8)),
                "o_result": Out(signed(8)),
            }
        )

    def elaborate(self, platform):
        m = Module()

        def registered(name, value):
            held = Signal.like(value, name=name, reset_less=True)
            with m.If(self.i_enable):
                m.d.sync += held.eq(value)
            return held

        # Twice the value, so that the lowest bit after the shift is the half; 9 bits of it are -128..127.5 and one
        # half beyond. Large shifts first: what the smaller ones can no longer bring down is cut off.
        value = Signal(signed(8 + (1 << self.shift_bits)))
        m.d.comb += value.eq(Cat(0, self.i_value).as_signed())
        negative, shift = self.i_value[-1], self.i_shift
        beyond = below = 0
        for level in reversed(range(self.shift_bits)):
            step = 1 << level
            kept = 8 + step
            shifted = Signal(signed(kept), name=f"shifted_{step}")
            m.d.comb += shifted.eq(Mux(shift[level], value[step:], value[:kept]))
            cut = value[kept - 1 :]
            beyond = beyond | (~shift[level] & (cut ^ negative.replicate(len(cut))).any())
            below = below | (shift[level] & value[:step].any())
            value = shifted
            if level in (self.shift_bits // 2, 0):
                value, negative = registered(f"value_{step}", value), registered(f"negative_{step}", negative)
                beyond, below = registered(f"beyond_{step}", beyond), registered(f"below_{step}", below)
                shift = registered(f"shift_{step}", shift) if level else None

        rounded = Signal(signed(9))
        result = Signal(signed(8))
        m.d.comb += [rounded.eq((value + (~negative | below)) >> 1), result.eq(rounded)]
        with m.If(Mux(beyond, negative, rounded < self.i_low)):
            m.d.comb += result.eq(self.i_low)
        with m.Elif(beyond | (rounded > self.i_high)):
            m.d.comb += result.eq(self.i_high)
        m.d.comb += self.o_result.eq(registered("result", result))
        return m


class Scaler(wiring.Component):
    """One lane: ``clamp(round((x0 * y0 + x1 * y1 * unit) / 2**shift), low, high)``; ``unit`` is 1, or 2**16.

    With ``unit`` 2**16, the two products are those of one value by the halves of one int32 multiplier.

    Parameters
    ----------
    width
        Bits of x0 and x1.
    registered
        A register inside the multipliers, from which on sums stay in carry-save form, and one in the only carry chain.

    Attributes
    ----------
    stages
        Registers from the factors to the result.

    Members
    -------
    i_enable
        The pipeline of :attr:`stages` registers goes on.
    i_x0, i_y0, i_x1, i_y1
        The factors.
    i_halves
        ``unit`` is 2**16. Holds while values are in the pipeline.
    i_shift
        0..63, with the factors.
    i_low, i_high, o_result
        As in :class:`Rounder`.
    """

    def __init__(self, width: int, registered: bool = False) -> None:
        self.width, self.registered = width, registered
        self.stages = self.stages_of(registered)
        super().__init__(
            {
                "i_enable": In(1),
                "i_x0": In(signed(width)),
                "i_y0": In(signed(17)),
                "i_x1": In(signed(width)),
                "i_y1": In(signed(16)),
                "i_halves": In(1),
                "i_shift": In(6),
                "i_low": In(signed(8)),
                "i_high": In(signed(8)),
                "o_result": Out(signed(8)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        total = Signal(signed(self.width + 32), reset_less=True)
        shifts = [Signal(6, name=f"shift_{i}", reset_less=True) for i in range(self.stages - Rounder.stages)]
        m.submodules.rounder = rounder = Rounder(self.width + 32)
        if self.registered:
            summed = self._two_halves(m, *self._carry_save(m))
        else:
            # The halves of a 32-bit multiplier give no more than the width of one product with it.
            products = [
                Signal(signed(self.width + bits), name=f"product_{i}", reset_less=True)
                for i, bits in ((0, 17), (1, 16))
            ]
            summed = products[0] + Mux(self.i_halves, products[1] << 16, products[1])
        with m.If(self.i_enable):
            if not self.registered:
                m.d.sync += [products[0].eq(self.i_x0 * self.i_y0), products[1].eq(self.i_x1 * self.i_y1)]
            m.d.sync += [
                total.eq(summed),
                shifts[0].eq(self.i_shift),
                *(after.eq(before) for before, after in pairwise(shifts)),
            ]
        m.d.comb += [
            rounder.i_enable.eq(self.i_enable),
            rounder.i_value.eq(total),
            rounder.i_shift.eq(shifts[-1]),
            rounder.i_low.eq(self.i_low),
            rounder.i_high.eq(self.i_high),
            self.o_result.eq(rounder.o_result),
        ]
        return m

    @staticmethod
    def stages_of(registered: bool) -> int:
        """:attr:`stages`, without an instance."""
        return 2 + 2 * int(registered) + Rounder.stages

    def _carry_save(self, m: Module) -> tuple[Signal, Signal]:
        """Registers with two terms of the sum of both products, behind others with a few of each."""

        def held(name: str, values: Iterable[Value], width: int) -> list[Signal]:
            registers = []
            for number, value in enumerate(values):
                register = Signal(min(width, len(value)), name=f"{name}_{number}", reset_less=True)
                with m.If(self.i_enable):
                    m.d.sync += register.eq(value)
                registers.append(register)
            return registers

        width = self.width + 32
        constants, terms = [], []
        for number, (x, y) in enumerate(((self.i_x0, self.i_y0), (self.i_x1, self.i_y1))):
            rows, constant = _rows(x, y)
            groups = [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]
            pairs = [term for group in groups for term in _two_terms(m, group)]
            terms.append(held(f"rows_{number}", pairs, width))
            constants.append(constant)
        upper = [Mux(self.i_halves, term << 16, term) for term in terms[1]]
        whole, halves = (Const((constants[0] + (constants[1] << place)) % (1 << width), width) for place in (0, 16))
        first, second = held(
            "term", (x[:width] for x in _two_terms(m, [*terms[0], *upper, Mux(self.i_halves, halves, whole)])), width
        )
        return first, second

    def _two_halves(self, m: Module, a: Signal, b: Signal) -> Value:
        """Their sum, of which the lower half comes from registers, and so do the terms of the upper half."""
        half = len(a) // 2
        lower = Signal(half + 1, reset_less=True)
        uppers = [Signal(len(a) - half, name=f"upper_{i}", reset_less=True) for i in range(2)]
        with m.If(self.i_enable):
            m.d.sync += [
                lower.eq(a[:half] + b[:half]),
                *(upper.eq(term[half:]) for upper, term in zip(uppers, (a, b), strict=True)),
            ]
        return Cat(lower[:half], (uppers[0] + uppers[1] + lower[half])[: len(a) - half])


def _rows(x: Value, y: Value) -> tuple[list[Value], int]:
    """Unsigned terms of the product of two signed factors, one for each bit of y, and the constant that goes with them.

    A sign bit t of weight -w is (1 - t) of weight w, less w (C. R. Baugh and B. A. Wooley, 1973); of the row of y's
    own sign, which is taken away, all other bits are inverted.
    """
    sign = 1 << (len(x) - 1)
    rows, constant = [], 0
    for place, bit in enumerate(y):
        inverted = sign if place < len(y) - 1 else sign - 1
        rows.append(((x.as_unsigned() & bit.replicate(len(x))) ^ inverted) << place)
        constant -= inverted << place
    return rows, constant


def _two_terms(m: Module, terms: Sequence[Value]) -> list[Value]:
    """Two terms with the sum of all, by levels of full adders (C. S. Wallace, 1964)."""
    terms = list(terms)
    while len(terms) > 2:
        following: list[Value] = []
        for first in range(0, len(terms) - 2, 3):
            # Signals, as each is read several times on the next level.
            a, b, c = (Signal(len(term)) for term in terms[first : first + 3])
            m.d.comb += [given.eq(term) for given, term in zip((a, b, c), terms[first : first + 3], strict=True)]
            following += [a ^ b ^ c, ((a & b) | (a & c) | (b & c)) << 1]
        terms = following + terms[len(terms) // 3 * 3 :]
    return terms
