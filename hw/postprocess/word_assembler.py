"""From slots of a few bytes to words of a memory."""

from __future__ import annotations

from math import lcm

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["WordAssembler"]


class WordAssembler(wiring.Component):
    """Joins slots to words, or cuts them into words, the lowest byte first.

    Two buffers of the least common multiple of both: one is filled while the other one is read. A slot and a word a
    cycle at most, whichever takes longer; all outputs but the payload's multiplexer come from registers.

    Parameters
    ----------
    slot, word
        Bytes of each.

    Members
    -------
    i_slot, o_word
        The streams.
    """

    def __init__(self, slot: int, word: int) -> None:
        self.slot, self.word = slot, word
        super().__init__({"i_slot": In(stream.Signature(8 * slot)), "o_word": Out(stream.Signature(8 * word))})

    def elaborate(self, platform):
        m = Module()
        size = lcm(self.slot, self.word)
        buffers = [Signal(8 * size, name=f"buffer_{i}", reset_less=True) for i in range(2)]
        full = Signal(2)

        def side(name, parts, step):
            # The buffer in use, and the part of it; the step at its last part goes on to the other buffer.
            buffer, part, last = (
                Signal(name=f"{name}_buffer"),
                Signal(range(parts), name=f"{name}_part"),
                Signal(name=f"{name}_last"),
            )
            m.d.comb += last.eq(step & (part == parts - 1))
            with m.If(step):
                m.d.sync += part.eq(Mux(last, 0, part + 1))
            with m.If(last):
                m.d.sync += buffer.eq(~buffer)
            return buffer, part, last

        put, taken = self.i_slot.valid & self.i_slot.ready, self.o_word.valid & self.o_word.ready
        written, slot, filled = side("write", size // self.slot, put)
        read, word, emptied = side("read", size // self.word, taken)
        m.d.comb += [
            self.i_slot.ready.eq(~full.bit_select(written, 1)),
            self.o_word.valid.eq(full.bit_select(read, 1)),
            self.o_word.payload.eq(Mux(read, *(b.word_select(word, 8 * self.word) for b in reversed(buffers)))),
        ]
        for number, buffer in enumerate(buffers):
            with m.If(put & (written == number)):
                m.d.sync += buffer.word_select(slot, 8 * self.slot).eq(self.i_slot.payload)
            with m.If(filled & (written == number)):
                m.d.sync += full[number].eq(1)
            with m.Elif(emptied & (read == number)):
                m.d.sync += full[number].eq(0)
        return m
