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
        ``count`` x ``bits`` bits: magnitudes 0..2**(bits-1)-1, or weights that are to pass unchanged.
    i_signs
        ``count`` bits, high where the value is to be negated.
    o_weights
        ``count`` x ``bits`` bits, two's complement; of 8 bits -127..127.
    """

    def __init__(self, count: int, bits: int = 8) -> None:
        self.count, self.bits = count, bits
        super().__init__({"i_values": In(bits * count), "i_signs": In(count), "o_weights": Out(bits * count)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o_weights.eq(
            Cat(
                Mux(self.i_signs[i], -value, value)[: self.bits]
                for i in range(self.count)
                for value in [self.i_values.word_select(i, self.bits)]
            )
        )
        return m
