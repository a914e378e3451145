"""Block RAM in the place of DRAM: an AXI4 subordinate with wait states, and a byte port beside it."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import Axi4Signature, Response, word_bytes
from hw.bus.reader import ID_BITS
from hw.config import AcceleratorConfig, ConfigError

__all__ = ["BoardMemory"]


class BoardMemory(wiring.Component):
    """A memory from address 0 on, with one burst at a time on each side of the bus.

    Each burst waits for ``wait_states`` cycles, and words pause at random (a shift register decides). What is beyond
    the memory answers DECERR and is left alone.

    Parameters
    ----------
    config
        The instance: widths of the bus.
    size
        Bytes, a multiple of 4096.
    init
        The first bytes; the others are 0.
    wait_states
        Cycles from a request to its first word, 0..255.

    Members
    -------
    axi
        The bus.
    i_address, i_read, i_write, i_data, o_data
        The byte port: ``o_data`` is the byte of the read in the cycle before. Only while no burst is running.

    Raises
    ------
    ConfigError
        A parameter is out of range.
    """

    def __init__(self, config: AcceleratorConfig, size: int, init: bytes, wait_states: int = 3) -> None:
        self.word = word_bytes(config)
        last = 1 << min(config.address_bits, 24)
        if type(size) is not int or size % 4096 or not 4096 <= size <= last:
            raise ConfigError(f"memory must be a multiple of 4096 bytes in 4096..{last}, not {size!r}")
        if len(init) > size:
            raise ConfigError(f"contents must be at most the memory's {size} bytes, not {len(init)}")
        if type(wait_states) is not int or not 0 <= wait_states <= 255:
            raise ConfigError(f"wait_states must be in 0..255, not {wait_states!r}")
        self.config, self.size, self.init, self.wait_states = config, size, bytes(init), wait_states
        super().__init__(
            {
                "axi": In(Axi4Signature(config.address_bits, config.word_width, ID_BITS)),
                "i_address": In(range(size)),
                "i_read": In(1),
                "i_write": In(1),
                "i_data": In(8),
                "o_data": Out(8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, axi, word = self.config, self.axi, self.word
        shift = (word - 1).bit_length()
        depth = self.size // word
        padded = self.init.ljust(-(-len(self.init) // word) * word, b"\0")
        words = [int.from_bytes(padded[at : at + word], "little") for at in range(0, len(padded), word)]
        m.submodules.storage = storage = memory.Memory(shape=config.word_width, depth=depth, init=words)
        write, read = storage.write_port(granularity=8), storage.read_port()

        # Taps of a maximal sequence (x^16 + x^14 + x^13 + x^11 + 1).
        noise = Signal(16, init=0xACE1)
        m.d.sync += noise.eq(Cat(noise[5] ^ noise[3] ^ noise[2] ^ noise[0], noise[:-1]))
        bits = config.address_bits - shift

        def within(address):
            return address < depth

        # Read
        r_address, r_left, r_id = Signal(bits), Signal(8), Signal(ID_BITS)
        r_wait = Signal(8)
        m.d.comb += [
            axi.rid.eq(r_id),
            axi.rdata.eq(read.data),
            axi.rlast.eq(r_left == 0),
            axi.rresp.eq(Mux(within(r_address), Response.OKAY, Response.DECERR)),
        ]
        burst_read = Signal()
        with m.FSM(name="read"):
            with m.State("IDLE"):
                m.d.comb += axi.arready.eq(1)
                with m.If(axi.arvalid):
                    m.d.sync += [
                        r_address.eq(axi.araddr[shift:]),
                        r_left.eq(axi.arlen),
                        r_id.eq(axi.arid),
                        r_wait.eq(self.wait_states),
                    ]
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += r_wait.eq(r_wait - 1)
                with m.If(r_wait == 0):
                    m.next = "FETCH"
            with m.State("FETCH"), m.If(noise[:2] != 0):
                m.d.comb += burst_read.eq(1)
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += axi.rvalid.eq(1)
                with m.If(axi.rready):
                    m.d.sync += [r_address.eq(r_address + 1), r_left.eq(r_left - 1)]
                    m.next = "FETCH"
                    with m.If(axi.rlast):
                        m.next = "IDLE"
        lane = Signal(max(shift, 1))
        with m.If(self.i_read):
            m.d.sync += lane.eq(self.i_address[:shift] if shift else 0)
        m.d.comb += [
            read.en.eq(burst_read | self.i_read),
            read.addr.eq(Mux(self.i_read, self.i_address[shift:], r_address)),
            self.o_data.eq(read.data.word_select(lane, 8) if shift else read.data),
        ]

        # Write
        w_address, w_id, w_bad = Signal(bits), Signal(ID_BITS), Signal()
        w_wait = Signal(8)
        m.d.comb += [
            write.addr.eq(Mux(self.i_write, self.i_address[shift:], w_address)),
            write.data.eq(Mux(self.i_write, self.i_data.replicate(word), axi.wdata)),
            axi.bid.eq(w_id),
            axi.bresp.eq(Mux(w_bad, Response.DECERR, Response.OKAY)),
        ]
        with m.If(self.i_write):
            m.d.comb += write.en.eq(1 << self.i_address[:shift] if shift else 1)
        with m.FSM(name="write"):
            with m.State("IDLE"):
                m.d.comb += axi.awready.eq(1)
                with m.If(axi.awvalid):
                    m.d.sync += [
                        w_address.eq(axi.awaddr[shift:]),
                        w_id.eq(axi.awid),
                        w_bad.eq(0),
                        w_wait.eq(self.wait_states),
                    ]
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += w_wait.eq(w_wait - 1)
                with m.If(w_wait == 0):
                    m.next = "WORDS"
            with m.State("WORDS"):
                m.d.comb += axi.wready.eq(noise[4:6] != 0)
                with m.If(axi.wvalid & axi.wready):
                    with m.If(within(w_address)):
                        m.d.comb += write.en.eq(axi.wstrb)
                    with m.Else():
                        m.d.sync += w_bad.eq(1)
                    m.d.sync += w_address.eq(w_address + 1)
                    with m.If(axi.wlast):
                        m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += axi.bvalid.eq(1)
                with m.If(axi.bready):
                    m.next = "IDLE"
        return m
