"""Applies sign bits to magnitudes (SSVQ: W_q = C[A] o sign)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["SignUnit"]


class SignUnit(wiring.Component):
    """``count`` weights from magnitudes and sign bits. Combinational.

    Members
    -------
    i_values
        ``count`` x 8 bits: magnitudes 0..127, or weights that are to pass unchanged.
    i_signs
        ``count`` bits, high where the value is to be negated.
    o_weights
        ``count`` x 8 bits, two's complement, -127..127.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__({"i_values": In(8 * count), "i_signs": In(count), "o_weights": Out(8 * count)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o_weights.eq(
            Cat(
                Mux(self.i_signs[i], -value, value)[:8]
                for i in range(self.count)
                for value in [self.i_values.word_select(i, 8)]
            )
        )
        return m
