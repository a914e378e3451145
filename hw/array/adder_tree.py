"""Sums the products of a lane over the rows of a tile."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["AdderTree"]


class AdderTree(wiring.Component):
    """A binary tree of adders, optionally pipelined.

    Parameters
    ----------
    inputs
        Products to add.
    width
        Bits of a signed product.
    register_levels
        A register behind every this many levels; 0 for a combinational tree.
    enabled
        Registers hold unless ``i_enable`` is high.

    Members
    -------
    i_products
        ``inputs`` x ``width`` bits, two's complement.
    i_enable
        A bit for each register level, if there are any and they are enabled.
    o_sum
        ``width + ceil(log2 inputs)`` bits, two's complement.
    """

    def __init__(self, inputs: int, width: int, register_levels: int = 0, enabled: bool = False) -> None:
        self.inputs, self.width, self.register_levels = inputs, width, register_levels
        self.levels = (inputs - 1).bit_length()
        registers = self.levels // register_levels if register_levels else 0
        self.enabled = enabled and registers > 0
        members = {"i_products": In(inputs * width), "o_sum": Out(signed(width + self.levels))}
        super().__init__(members | ({"i_enable": In(registers)} if self.enabled else {}))

    def elaborate(self, platform):
        m = Module()
        # In offset binary, x + 2**(width - 1) or x with its sign bit inverted, terms are unsigned, and no adder needs
        # the bit that a sign extension costs.
        sign = 1 << (self.width - 1)
        terms = [self.i_products.word_select(i, self.width) ^ sign for i in range(self.inputs)]
        for level in range(1, self.levels + 1):
            registered = self.register_levels and level % self.register_levels == 0
            domain = m.d.sync if registered else m.d.comb
            sums = []
            for i in range(0, len(terms), 2):
                # An odd one out passes through, and must take the same number of registers.
                total = Signal(self.width + level, name=f"sum_{level}_{i // 2}", reset_less=True)
                assignment = total.eq(terms[i] + terms[i + 1] if i + 1 < len(terms) else terms[i])
                if registered and self.enabled:
                    with m.If(self.i_enable[level // self.register_levels - 1]):
                        m.d.sync += assignment
                else:
                    domain += assignment
                sums.append(total)
            terms = sums
        # With a power of two of inputs this inverts the highest bit.
        m.d.comb += self.o_sum.eq(terms[0] - self.inputs * sign)
        return m
