"""Load unit and store unit: between DRAM and L2."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import word_bytes
from hw.bus.reader import request_layout
from hw.bus.writer import write_layout
from hw.config import AcceleratorConfig
from hw.control.bodies import body_layout, store_layout
from hw.control.descriptor import BYTES, Opcode
from hw.decoder.unpacker import Unpacker
from hw.memory.ports import ReadPort, WritePort
from hw.memory.read_queue import ReadQueue

__all__ = ["LoadUnit", "StoreUnit"]


def _dram_words(config: AcceleratorConfig, words: Value) -> Value:
    """DRAM words that ``words`` L2 words fill, the last one perhaps not all of it."""
    if config.l2_bits >= config.word_width:
        return words << (config.l2_bits // config.word_width).bit_length() - 1
    together = config.word_width // config.l2_bits
    return words + (together - 1) >> together.bit_length() - 1


class LoadUnit(wiring.Component):
    """Runs LOAD: asks the DMA reader for the words of DRAM, cuts or joins them to L2 words, and writes those.

    A DRAM word or an L2 word a cycle, whichever is shorter. The next command's words are asked for while this one's
    arrive. Where a DRAM word holds several L2 words, what is left in a command's last one is dropped.

    Members
    -------
    i_command
        LOAD.
    o_request, i_words
        To and from the channel of the DMA reader.
    o_l2
        Destination.
    o_done
        The last word of a command was taken by L2.

    Raises
    ------
    ConfigError
        ``word_width`` is no power of two.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        word_bytes(config)  # refuses what is no bus
        self.config = config
        super().__init__(
            {
                "i_command": In(stream.Signature(body_layout(Opcode.LOAD, config))),
                "o_request": Out(stream.Signature(request_layout(config))),
                "i_words": In(stream.Signature(config.word_width)),
                "o_l2": Out(WritePort(config.l2_depth, config.l2_bits)),
                "o_done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, offered, request = self.config, self.i_command.payload, self.o_request

        waiting, next_address, next_left = Signal(), Signal.like(self.o_l2.address), Signal.like(offered.words)
        m.d.comb += self.i_command.ready.eq(~request.valid & ~waiting)
        with m.If(request.valid & request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                request.valid.eq(1),
                request.payload.address.eq(offered.address),
                request.payload.words.eq(_dram_words(config, offered.words)),
                waiting.eq(1),
                next_address.eq(offered.l2_base),
                next_left.eq(offered.words),
            ]

        m.submodules.unpacker = unpacker = Unpacker(config.word_width, config.l2_bits)
        wiring.connect(m, wiring.flipped(self.i_words), unpacker.i_word)
        running, address, left = Signal(), Signal.like(self.o_l2.address), Signal.like(offered.words)
        word = unpacker.o_field
        taken = word.valid & word.ready
        ends = taken & (left == 1)
        m.d.comb += [
            unpacker.i_request.eq(running),
            unpacker.i_flush.eq(~running),
            self.o_l2.valid.eq(word.valid),
            self.o_l2.address.eq(address),
            self.o_l2.data.eq(word.payload),
            word.ready.eq(self.o_l2.ready),
        ]
        m.d.sync += self.o_done.eq(ends)
        with m.If(taken):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
        with m.If(ends):
            m.d.sync += running.eq(0)
        with m.If(~running & waiting):
            m.d.sync += [running.eq(1), waiting.eq(0), address.eq(next_address), left.eq(next_left)]
        return m


class StoreUnit(wiring.Component):
    """Runs STORE and RECORD: cuts or joins L2 words, or the performance counters, to words of DRAM for the DMA writer.

    A DRAM word or an L2 word a cycle, whichever is shorter. Where a DRAM word holds several L2 words, a command's last
    one is filled up with zeros. RECORD writes the counters as they are when it begins. Errors: :class:`LoadUnit`.

    Members
    -------
    i_command
        STORE, or RECORD where ``record`` is set.
    i_counters
        The performance counters, 16 of 32 bits, the first one lowest.
    o_l2
        Source.
    o_request, o_words, i_writer_done
        To and from the DMA writer.
    o_done
        The writer has finished a command.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        word_bytes(config)  # refuses what is no bus
        self.config = config
        super().__init__(
            {
                "i_command": In(stream.Signature(store_layout(config))),
                "i_counters": In(8 * BYTES),
                "o_l2": Out(ReadPort(config.l2_depth, config.l2_bits)),
                "o_request": Out(stream.Signature(write_layout(config))),
                "o_words": Out(stream.Signature(config.word_width)),
                "i_writer_done": In(1),
                "o_done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, offered, request = self.config, self.i_command.payload, self.o_request

        m.submodules.queue = queue = ReadQueue(config.l2_depth, config.l2_bits)
        wiring.connect(m, queue.o_port, wiring.flipped(self.o_l2))
        m.submodules.unpacker = unpacker = Unpacker(config.l2_bits, config.word_width)
        wiring.connect(m, unpacker.o_field, wiring.flipped(self.o_words))

        words = Mux(offered.record, 8 * BYTES // config.l2_bits, offered.words)
        sent = _dram_words(config, words)
        running, record = Signal(), Signal()
        address = Signal.like(self.o_l2.address)
        unread, unsent = Signal.like(words), Signal.like(sent)  # L2 words to ask for; DRAM words to send
        unfed = Signal.like(words)  # L2 words, or words of counters, that have not come to the unpacker
        counters = Signal.like(self.i_counters, reset_less=True)
        word = unpacker.i_word
        m.d.comb += [
            queue.i_address.payload.eq(address),
            queue.i_address.valid.eq(unread != 0),
            queue.o_word.ready.eq(word.ready),
            # Once all has come, zeros fill up the last DRAM word.
            word.valid.eq(record | queue.o_word.valid | (unfed == 0)),
            word.payload.eq(Mux(record, counters, Mux(unfed == 0, 0, queue.o_word.payload))),
            unpacker.i_request.eq(running & (unsent != 0)),
            unpacker.i_flush.eq(~running),
        ]
        with m.If(queue.i_address.valid & queue.i_address.ready):
            m.d.sync += [address.eq(address + 1), unread.eq(unread - 1)]
        with m.If(word.valid & word.ready):
            m.d.sync += [unfed.eq(Mux(unfed == 0, 0, unfed - 1)), counters.eq(counters >> config.l2_bits)]
        with m.If(self.o_words.valid & self.o_words.ready):
            m.d.sync += unsent.eq(unsent - 1)
        with m.If(request.valid & request.ready):
            m.d.sync += request.valid.eq(0)

        m.d.comb += self.i_command.ready.eq(~running)
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                running.eq(1),
                record.eq(offered.record),
                address.eq(offered.l2_base),
                unread.eq(Mux(offered.record, 0, words)),
                unfed.eq(words),
                unsent.eq(sent),
                counters.eq(self.i_counters),
                request.valid.eq(1),
                request.payload.address.eq(offered.address),
                request.payload.words.eq(sent),
            ]
        m.d.sync += self.o_done.eq(running & self.i_writer_done)
        with m.If(self.i_writer_done):
            m.d.sync += running.eq(0)
        return m
