"""From addresses to words, where whoever takes the words may pause."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hw.memory.ports import ReadPort

__all__ = ["ReadQueue"]


class ReadQueue(wiring.Component):
    """Reads a stream of addresses from a memory: one word a cycle as long as the memory and the consumer keep up.

    A word waits here in a queue of two. A read is asked for only when there is room for what is under way, so a
    consumer's ``ready`` reaches the memory's ``valid`` in the same cycle.

    Parameters
    ----------
    depth, width
        Of the memory: words, and bits of a word.

    Members
    -------
    i_address
        What to read.
    o_port
        To the memory.
    o_word
        The words, in the order of their addresses, two cycles after the memory took the read at the earliest.
    """

    def __init__(self, depth: int, width: int) -> None:
        self.depth, self.width = depth, width
        super().__init__(
            {
                "i_address": In(stream.Signature(range(depth))),
                "o_port": Out(ReadPort(depth, width)),
                "o_word": Out(stream.Signature(width)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        port = self.o_port
        m.submodules.words = words = SyncFIFO(width=self.width, depth=2)
        wiring.connect(m, words.r_stream, wiring.flipped(self.o_word))
        room = Signal()
        taken = self.o_word.valid & self.o_word.ready
        m.d.comb += [
            room.eq(taken | (words.level + port.data_valid < 2)),
            port.address.eq(self.i_address.payload),
            port.valid.eq(self.i_address.valid & room),
            self.i_address.ready.eq(port.ready & room),
            words.w_data.eq(port.data),
            words.w_en.eq(port.data_valid),
        ]
        return m
