"""DMA writer: words of the store unit to DRAM, over one AXI4 write side."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hw.bus.axi import BORDER, Axi4Signature, burst_length, word_bytes
from hw.bus.reader import ID_BITS
from hw.config import AcceleratorConfig
from hw.control.errors import Cause

__all__ = ["AHEAD", "OUTSTANDING", "DmaWriter", "write_layout"]

#: Bursts that may be asked for before their words are sent.
AHEAD = 4

#: Bursts that may wait for their answer.
OUTSTANDING = 16


def write_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A write request: ``address`` in bytes, a multiple of the word's; and ``words``, at least 1."""
    return data.StructLayout({"address": config.address_bits, "words": 32})


class DmaWriter(wiring.Component):
    """Writes words to DRAM, one request after the other, a word a cycle.

    All bytes of a word are written. Addresses run ahead of the words by up to :data:`AHEAD` bursts; they never wait
    for each other.

    Members
    -------
    i_request
        :func:`write_layout`; taken when the request before is done.
    i_data
        The words of the requests.
    o_done
        One cycle for each request, when all its bursts have been answered.
    o_error, o_error_cause
        One cycle for each burst that failed, no later than ``o_done``; WRITE_RESPONSE.
    i_stop
        No new bursts; those that were begun end with words that write nothing. Requests and words that come are thrown
        away, and there is no ``o_done``. To be held until ``o_idle``.
    o_idle
        Nothing is left to do.
    m_axi
        The write side of AXI4; the ID is 0.

    Attributes
    ----------
    outstanding
        Signal: bursts that wait for their answer, those included that are only offered; at most :data:`OUTSTANDING`.

    Errors: :class:`hw.bus.reader.DmaReader`.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        word_bytes(config)
        self.outstanding = Signal(range(OUTSTANDING + 1), name="open_")
        super().__init__(
            {
                "i_request": In(stream.Signature(write_layout(config))),
                "i_data": In(stream.Signature(config.word_width)),
                "o_done": Out(1),
                "o_error": Out(1),
                "o_error_cause": Out(Cause),
                "i_stop": In(1),
                "o_idle": Out(1),
                "m_axi": Out(Axi4Signature(config.address_bits, config.word_width, ID_BITS, read=False)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, axi, open_ = self.config, self.m_axi, self.outstanding
        offset = (word_bytes(config) - 1).bit_length()
        longest = min(config.burst_words, BORDER // word_bytes(config))

        # Addresses
        address = Signal(config.address_bits - offset)
        left = Signal(32)
        length = Signal(range(longest + 1))
        issue = Signal()
        known = left.any()  # and ``length``
        if config.transfer_register:
            # Behind a burst the register has the next one's length in time: its address is still on the bus.
            begun = Signal()
            m.d.sync += [length.eq(burst_length(config, address, left)), begun.eq(known)]
            known &= begun
        else:
            m.d.comb += length.eq(burst_length(config, address, left))
        m.submodules.lengths = lengths = SyncFIFO(width=max(1, (longest - 1).bit_length()), depth=AHEAD)
        m.d.comb += [
            issue.eq(known & lengths.w_rdy & (open_ != OUTSTANDING) & ~axi.awvalid & ~self.i_stop),
            lengths.w_en.eq(issue),
            lengths.w_data.eq(length - 1),
            self.o_error_cause.eq(Cause.WRITE_RESPONSE),
            axi.awsize.eq(offset),
            axi.awburst.eq(1),  # INCR
            axi.awcache.eq(0b0011),  # normal memory, not cached, bufferable
        ]
        with m.If(issue):
            m.d.sync += [
                axi.awvalid.eq(1),
                axi.awaddr.eq(address << offset),
                axi.awlen.eq(length - 1),
                address.eq(address + length),
                left.eq(left - length),
            ]
        with m.Elif(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(self.i_stop):
            m.d.sync += left.eq(0)

        # Words
        sent = Signal(len(lengths.r_data))
        fill = Signal()  # the register of the W channel takes a word
        last = Signal()
        free = ~axi.wvalid | axi.wready
        m.d.comb += [
            fill.eq(lengths.r_rdy & free & (self.i_data.valid | self.i_stop)),
            last.eq(sent == lengths.r_data),
            lengths.r_en.eq(fill & last),
            self.i_data.ready.eq(self.i_stop | (lengths.r_rdy & free)),
        ]
        with m.If(fill):
            m.d.sync += [
                axi.wvalid.eq(1),
                axi.wdata.eq(self.i_data.payload),
                axi.wstrb.eq(Mux(self.i_stop, 0, -1)),
                axi.wlast.eq(last),
                sent.eq(Mux(last, 0, sent + 1)),
            ]
        with m.Elif(axi.wready):
            m.d.sync += axi.wvalid.eq(0)

        # Answers
        m.d.comb += axi.bready.eq(1)
        m.d.sync += [open_.eq(open_ + issue - axi.bvalid), self.o_error.eq(axi.bvalid & axi.bresp[1] & ~self.i_stop)]

        running = Signal()
        ends = running & ~left.any() & (open_ == 0)
        m.d.comb += [
            self.o_done.eq(ends & ~self.i_stop),
            self.o_idle.eq(~running),
            self.i_request.ready.eq(~running),
        ]
        with m.If(self.i_request.valid & ~running & ~self.i_stop):
            m.d.sync += [
                running.eq(1),
                address.eq(self.i_request.payload.address >> offset),
                left.eq(self.i_request.payload.words),
            ]
        with m.If(ends):
            m.d.sync += running.eq(0)
        return m
