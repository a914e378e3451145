"""FIFO of the DMA reader."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.memory.read_queue import ReadQueue
from hw.memory.sram import Sram

__all__ = ["WordFifo"]


class WordFifo(wiring.Component):
    """Words in a memory macro, with two more in flip-flops at the output; one in and one out a cycle.

    Parameters
    ----------
    depth, width
        Words of the memory, a power of two of at least 2, and bits of a word.

    Members
    -------
    i_valid, i_word
        A word comes. Who sends it knows that there are fewer than ``depth`` words here.
    o_words
        The words.
    """

    def __init__(self, depth: int, width: int) -> None:
        self.depth, self.width = depth, width
        super().__init__({"i_valid": In(1), "i_word": In(width), "o_words": Out(stream.Signature(width))})

    def elaborate(self, platform):
        m = Module()
        sram = Sram(self.depth, self.width)
        m.submodules[sram.name] = sram
        m.submodules.output = output = ReadQueue(self.depth, self.width)
        wiring.connect(m, output.o_word, wiring.flipped(self.o_words))
        port = output.o_port

        level = Signal(range(self.depth + 1))  # words in the memory
        first, after = Signal(range(self.depth)), Signal(range(self.depth))
        read = Signal()
        m.d.comb += [
            sram.i_write.eq(self.i_valid),
            sram.i_write_address.eq(after),
            sram.i_write_data.eq(self.i_word),
            output.i_address.valid.eq(level != 0),
            output.i_address.payload.eq(first),
            read.eq(port.valid),
            port.ready.eq(1),
            sram.i_read.eq(read),
            sram.i_read_address.eq(port.address),
            port.data.eq(sram.o_data),
        ]
        m.d.sync += [
            port.data_valid.eq(read),
            level.eq(level + self.i_valid - read),
            after.eq(after + self.i_valid),
            first.eq(first + read),
        ]
        return m
