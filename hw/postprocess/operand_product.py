"""The product of two int8 operands that lie side by side, or what lies there as it is."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["OperandProduct"]


class OperandProduct(wiring.Component):
    """One lane: a register with ``i_factor``, or with the product of its two lower bytes.

    Parameters
    ----------
    width
        Bits of a factor, at least 16.

    Members
    -------
    i_enable
        The register takes a value.
    i_factor
        The factor, or two int8, the first one lowest.
    i_multiply
        It is two int8.
    o_factor
        The register.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(
            {
                "i_enable": In(1),
                "i_factor": In(signed(width)),
                "i_multiply": In(1),
                "o_factor": Out(signed(width)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        a, b = (self.i_factor[start : start + 8].as_signed() for start in (0, 8))
        factor = Signal(signed(self.width), reset_less=True)
        with m.If(self.i_enable):
            m.d.sync += factor.eq(Mux(self.i_multiply, a * b, self.i_factor))
        m.d.comb += self.o_factor.eq(factor)
        return m
