"""Turns the bytes of a word."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ByteRotator"]


class ByteRotator(wiring.Component):
    """Byte i of the result is byte ``(i - amount) mod size`` of the word: combinational, a multiplexer a bit of amount.

    Parameters
    ----------
    size
        Bytes of a word, a power of two.

    Members
    -------
    i_word, i_amount, o_word
        The word, by how many bytes it turns, and the result.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__({"i_word": In(8 * size), "i_amount": In((size - 1).bit_length()), "o_word": Out(8 * size)})

    def elaborate(self, platform):
        m = Module()
        word = self.i_word
        for level in range(len(self.i_amount)):
            turned = Signal(8 * self.size, name=f"turned_{level}")
            m.d.comb += turned.eq(Mux(self.i_amount[level], word.rotate_left(8 << level), word))
            word = turned
        m.d.comb += self.o_word.eq(word)
        return m
