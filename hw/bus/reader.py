"""DMA reader: DRAM words for every unit that takes them, over one AXI4 read side."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc import Algorithm
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.bus.axi import BORDER, Axi4Signature, burst_length, word_bytes
from hw.bus.fifo import WordFifo
from hw.config import AcceleratorConfig
from hw.control.errors import Cause

__all__ = [
    "CHANNELS",
    "CHECKED",
    "ID_BITS",
    "DmaReader",
    "FetchChannel",
    "crc32_step",
    "reader_channels",
    "request_layout",
]

#: All channels; a channel's place is its ID on the bus and its number in ``o_error_channel``. The first four are those
#: of :class:`hw.control.descriptor.Channel`.
CHANNELS = ("weight", "mask", "sign", "parameter", "descriptor", "load")

#: Channels whose requests may have a checksum. The others ignore ``check``.
CHECKED = CHANNELS[:4]

#: Bits of an ID.
ID_BITS = (len(CHANNELS) - 1).bit_length()

_CRC_INITIAL = 0xFFFFFFFF


def reader_channels(config: AcceleratorConfig) -> tuple[str, ...]:
    """The channels of an instance: those of :data:`CHANNELS` that its variant has streams for."""
    return tuple(name for name in CHANNELS if name not in ("mask", "sign") or name in config.streams)


def request_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A read request: ``address`` in bytes, a multiple of the word's; ``words``, at least 1; CRC-32 and its use."""
    return data.StructLayout({"address": config.address_bits, "words": 32, "checksum": 32, "check": 1})


def crc32_step(state: Value, word: Value) -> Value:
    """CRC-32 (ISO-HDLC) of one more word, its bytes in little-endian order; without the inversions at start and end.

    CRC is linear, and in the reflected form a state acts on the bits that it meets like those bits themselves.
    """
    width = len(word)
    algorithm = Algorithm(
        crc_width=32, polynomial=0x04C11DB7, initial_crc=0, reflect_input=True, reflect_output=True, xor_output=0
    )(width)
    columns = [algorithm.compute([1 << bit]) for bit in range(width)]
    rows = [sum((column >> bit & 1) << i for i, column in enumerate(columns)) for bit in range(32)]
    mixed = word ^ state[:width]
    return Cat((mixed & row).xor() for row in rows) ^ (state >> width)


class FetchChannel(wiring.Component):
    """One channel of the reader: its requests, the space in its FIFO, its words and their checksum.

    Parameters
    ----------
    config
        The instance.
    checked
        Requests may have a checksum.

    Members
    -------
    i_request, o_words
        The channel's streams.
    o_wants, o_address, o_length
        A burst may be asked for: there is space for the longest one. Its word address, and its length, which is right
        from the second cycle on after a burst.
    i_burst
        The burst is asked for.
    i_valid, i_word, i_crc
        A word has come; and the CRC of ``o_crc`` and that word.
    o_crc
        CRC of the words before, of the same request.
    o_mismatch
        The word that came in the cycle before was the last of a request whose checksum is another one.
    """

    def __init__(self, config: AcceleratorConfig, checked: bool) -> None:
        self.config, self.checked = config, checked
        offset = (word_bytes(config) - 1).bit_length()
        super().__init__(
            {
                "i_request": In(stream.Signature(request_layout(config))),
                "o_words": Out(stream.Signature(config.word_width)),
                "o_wants": Out(1),
                "o_address": Out(config.address_bits - offset),
                "o_length": Out(range(config.burst_words + 1)),
                "i_burst": In(1),
                "i_valid": In(1),
                "i_word": In(config.word_width),
                "i_crc": In(32 if checked else 0),
                "o_crc": Out(32 if checked else 0),
                "o_mismatch": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        bytes_ = word_bytes(config)
        longest = min(config.burst_words, BORDER // bytes_)

        kept = data.StructLayout({"address": len(self.o_address), "words": 32, "checksum": 32, "check": 1})
        if not self.checked:
            kept = data.StructLayout({"address": len(self.o_address), "words": 32})
        queue = SyncFIFOBuffered(width=kept.size, depth=2)
        m.submodules.queue = queue
        into, head = data.View(kept, queue.w_data), data.View(kept, queue.r_data)
        request = self.i_request.payload
        m.d.comb += [
            into.address.eq(request.address >> (bytes_ - 1).bit_length()),
            into.words.eq(request.words),
            queue.w_en.eq(self.i_request.valid),
            self.i_request.ready.eq(queue.w_rdy),
        ]

        # The request that bursts are asked for; its words may still be on their way when the next one begins.
        begin = Signal()
        left = Signal(32)
        m.d.comb += queue.r_en.eq(begin)
        with m.If(begin):
            m.d.sync += [self.o_address.eq(head.address), left.eq(head.words)]
        with m.If(self.i_burst):
            m.d.sync += [
                self.o_address.eq(self.o_address + self.o_length),
                left.eq(left - self.o_length),
            ]
        # A register of its own, as subtracting and choosing a channel in one cycle would take too long.
        m.d.sync += self.o_length.eq(burst_length(config, self.o_address, left))
        free = Signal(range(config.fifo_words + 1), init=config.fifo_words)
        taken = self.o_words.valid & self.o_words.ready
        m.d.sync += free.eq(free - Mux(self.i_burst, self.o_length, 0) + taken)
        m.d.comb += self.o_wants.eq(left.any() & (free >= longest))

        m.submodules.fifo = fifo = WordFifo(config.fifo_words, config.word_width)
        m.d.comb += [fifo.i_word.eq(self.i_word), fifo.i_valid.eq(self.i_valid)]
        wiring.connect(m, fifo.o_words, wiring.flipped(self.o_words))

        if not self.checked:
            m.d.comb += begin.eq(queue.r_rdy & ~left.any())
            return m

        m.d.comb += [into.checksum.eq(request.checksum), into.check.eq(request.check)]
        expected = data.StructLayout({"words": 32, "checksum": 32, "check": 1})
        m.submodules.begun = begun = SyncFIFOBuffered(width=expected.size, depth=2)
        promise, wanted = data.View(expected, begun.w_data), data.View(expected, begun.r_data)
        # One ahead, an end is compared alone, and not added to before.
        ahead = int(config.transfer_register)
        received = Signal(32, init=ahead)
        last = Signal()
        m.d.comb += [
            begin.eq(queue.r_rdy & ~left.any() & begun.w_rdy),
            promise.words.eq(head.words),
            promise.checksum.eq(head.checksum),
            promise.check.eq(head.check),
            begun.w_en.eq(begin & head.words.any()),
            last.eq((received if ahead else received + 1) == wanted.words),
            begun.r_en.eq(self.i_valid & last),
        ]
        crc = Signal(32, init=_CRC_INITIAL)
        m.d.comb += self.o_crc.eq(crc)
        m.d.sync += self.o_mismatch.eq(self.i_valid & last & wanted.check & (~self.i_crc != wanted.checksum))
        with m.If(self.i_valid):
            m.d.sync += [crc.eq(Mux(last, _CRC_INITIAL, self.i_crc)), received.eq(Mux(last, ahead, received + 1))]
        return m


class DmaReader(wiring.Component):
    """Reads DRAM for all channels at once.

    Each channel has a queue of requests, served in order, and a FIFO. A burst is asked for when its channel's FIFO
    has space for it, so a word is taken from the bus in the cycle in which it comes, and a channel that nobody reads
    never holds up the others. Channels take turns burst by burst; the bus may answer bursts of different channels in
    any order. A burst is asked for every second cycle at most: with bursts of 2 words and more, the bus can carry a
    word a cycle.

    Members
    -------
    i_{channel}_request
        :func:`request_layout`, for each of :func:`reader_channels`.
    o_{channel}
        The words.
    o_error, o_error_cause, o_error_channel
        One cycle for each failed word (READ_RESPONSE) and each request with the wrong checksum (CHECKSUM). A failed
        word reaches its channel no earlier than the error is out.
    i_stop
        No new bursts; requests and words that are there or come are thrown away. To be held until ``o_idle``.
    o_idle
        No burst is outstanding.
    m_axi
        The read side of AXI4; IDs are the channels' numbers in :data:`CHANNELS`.

    Raises
    ------
    hw.config.ConfigError
        ``word_width`` is no width of AXI data.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        word_bytes(config)
        members: dict[str, wiring.Member] = {}
        for name in reader_channels(config):
            members[f"i_{name}_request"] = In(stream.Signature(request_layout(config)))
            members[f"o_{name}"] = Out(stream.Signature(config.word_width))
        super().__init__(
            members
            | {
                "o_error": Out(1),
                "o_error_cause": Out(Cause),
                "o_error_channel": Out(ID_BITS),
                "i_stop": In(1),
                "o_idle": Out(1),
                "m_axi": Out(Axi4Signature(config.address_bits, config.word_width, ID_BITS, write=False)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, axi = self.config, self.m_axi
        names = reader_channels(config)
        channels: dict[int, FetchChannel] = {}
        for name in names:
            channel = FetchChannel(config, name in CHECKED)
            m.submodules[f"channel_{name}"] = ResetInserter(self.i_stop)(channel)
            wiring.connect(m, wiring.flipped(getattr(self, f"i_{name}_request")), channel.i_request)
            wiring.connect(m, channel.o_words, wiring.flipped(getattr(self, f"o_{name}")))
            channels[CHANNELS.index(name)] = channel
        numbers = list(channels)

        # Whose turn it is: the next channel behind the last one that wants a burst.
        picked = Signal(ID_BITS)
        picked_valid = Signal()
        issue = Signal()
        wants = {n: channel.o_wants & ~(picked_valid & (picked == n)) for n, channel in channels.items()}
        with m.If((~picked_valid | issue) & ~self.i_stop):
            m.d.sync += picked_valid.eq(Cat(wants.values()).any())
            with m.Switch(picked):
                for place, n in enumerate(numbers):
                    with m.Case(n):
                        turns = numbers[place + 1 :] + numbers[: place + 1]
                        for candidate in reversed(turns):
                            with m.If(wants[candidate]):
                                m.d.sync += picked.eq(candidate)
        with m.If(self.i_stop):
            m.d.sync += picked_valid.eq(0)

        address = Signal(len(channels[0].o_address))
        length = Signal(range(config.burst_words + 1))
        with m.Switch(picked):
            for n, channel in channels.items():
                with m.Case(n):
                    m.d.comb += [
                        address.eq(channel.o_address),
                        length.eq(channel.o_length),
                        channel.i_burst.eq(issue),
                    ]
        m.d.comb += issue.eq(picked_valid & ~axi.arvalid & ~self.i_stop)
        offset = config.address_bits - len(address)
        m.d.comb += [
            axi.arsize.eq(offset),
            axi.arburst.eq(1),  # INCR
            axi.arcache.eq(0b0011),  # normal memory, not cached, bufferable
        ]
        with m.If(issue):
            m.d.sync += [
                axi.arvalid.eq(1),
                axi.araddr.eq(address << offset),
                axi.arlen.eq(length - 1),
                axi.arid.eq(picked),
            ]
        with m.Elif(axi.arready):
            m.d.sync += axi.arvalid.eq(0)

        valid = Signal()
        last = Signal()
        failed = Signal()
        number = Signal(ID_BITS)
        word = Signal(config.word_width, reset_less=True)
        m.d.comb += axi.rready.eq(1)
        m.d.sync += [
            valid.eq(axi.rvalid),
            word.eq(axi.rdata),
            number.eq(axi.rid),
            last.eq(axi.rlast),
            failed.eq(axi.rresp[1]),
        ]
        bursts = Signal(range(len(channels) * config.fifo_words + 1))
        m.d.sync += bursts.eq(bursts + issue - (valid & last))
        m.d.comb += self.o_idle.eq((bursts == 0) & ~picked_valid)

        state = Signal(32)
        crc = Signal(32)
        m.d.comb += crc.eq(crc32_step(state, word))
        with m.Switch(number):
            for n, channel in channels.items():
                with m.Case(n):
                    m.d.comb += channel.i_valid.eq(valid)
                    if channel.checked:
                        m.d.comb += state.eq(channel.o_crc)
        for channel in channels.values():
            m.d.comb += channel.i_word.eq(word)
            if channel.checked:
                m.d.comb += channel.i_crc.eq(crc)

        # Beside the cycle in which a mismatch shows.
        mismatch = Cat(channel.o_mismatch for channel in channels.values() if channel.checked).any()
        late_failed = Signal()
        late_number = Signal(ID_BITS)
        m.d.sync += [late_failed.eq(valid & failed), late_number.eq(number)]
        m.d.comb += [
            self.o_error.eq((late_failed | mismatch) & ~self.i_stop),
            self.o_error_cause.eq(Mux(late_failed, Cause.READ_RESPONSE, Cause.CHECKSUM)),
            self.o_error_channel.eq(late_number),
        ]
        return m
