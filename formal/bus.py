"""The bus: rules of AXI (AMBA AXI and ACE, IHI 0022) that reader, writer and registers keep, whatever comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, Value

from formal.prove import Method, Specification
from formal.streams import free_inputs, holds
from hw.bus.axi import BORDER
from hw.bus.reader import DmaReader, reader_channels
from hw.bus.registers import RegisterBank
from hw.bus.writer import DmaWriter
from hw.config import AcceleratorConfig, preset

__all__ = ["specifications"]

Build = Callable[[], tuple[Module, list[Value]]]


def _request(m: Module, axi: Any, channel: str, config: AcceleratorConfig, rules: str) -> None:
    """An offer holds; and what a burst may be: whole words, so many at most, and no border of 4 KiB inside."""
    valid, address, length = (getattr(axi, f"{channel}{name}") for name in ("valid", "addr", "len"))
    size = config.word_width // 8
    payload = Cat(
        *(getattr(axi, f"{channel}{name}") for name in ("id", "addr", "len", "size", "burst", "cache", "prot"))
    )
    if "hold" in rules:
        holds(m, valid, getattr(axi, f"{channel}ready"), payload, channel)
    if "burst" not in rules:
        return
    last = address[:12] + (length << (size - 1).bit_length()) + size - 1
    m.d.comb += [
        Assert(~valid | (last < BORDER)),
        Assert(~valid | (address & (size - 1) == 0)),
        Assert(~valid | (length < config.burst_words)),
        Assert(~valid | (1 << getattr(axi, f"{channel}size") == size)),
        Assert(~valid | (getattr(axi, f"{channel}burst") == 1)),
    ]


def _quiet_low(m: Module, *valids: Value) -> None:
    for valid in valids:
        m.d.comb += Assert(~valid)


def _writer(config: AcceleratorConfig, what: str) -> Build:
    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = DmaWriter(config)
        axi = dut.m_axi
        if what == "low in reset":
            _quiet_low(m, axi.awvalid, axi.wvalid)
            return m, free_inputs(dut)
        for stream, name in ((dut.i_request, "request"), (dut.i_data, "data")):
            holds(m, stream.valid, stream.ready | dut.i_stop, Value.cast(stream.payload), name, Assume)
        if what == "requests":
            _request(m, axi, "aw", config, "hold and burst")
            holds(m, axi.wvalid, axi.wready, Cat(axi.wdata, axi.wstrb, axi.wlast), "w")
        else:
            # The burst of a free number: its words are as many as its request said.
            number, held, begun = Signal(3), Signal(3), Signal()
            asked, done, words = Signal(4), Signal(4), Signal(9)
            length, known, sent, complete = Signal(8), Signal(), Signal(9), Signal()
            aw, w = axi.awvalid & axi.awready, axi.wvalid & axi.wready
            m.d.sync += [held.eq(number), begun.eq(1)]
            m.d.comb += Assume(~begun | (number == held))
            m.d.comb += [Assume(~axi.bvalid | (done != 0)), Assume(~dut.i_stop)]
            with m.If(aw):
                m.d.sync += asked.eq(asked + 1)
                with m.If(asked == number):
                    m.d.sync += [known.eq(1), length.eq(axi.awlen)]
            with m.If(w):
                m.d.sync += words.eq(Mux(axi.wlast, 0, words + 1))
                with m.If(axi.wlast):
                    m.d.sync += done.eq(done + 1)
                    with m.If(done == number):
                        m.d.sync += [complete.eq(1), sent.eq(words)]
            m.d.comb += [Assert(~(known & complete) | (sent == length)), Assert(~w | axi.wstrb.all())]
        return m, free_inputs(dut)

    return build


def _reader(config: AcceleratorConfig, what: str) -> Build:
    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = DmaReader(config)
        if what == "low in reset":
            _quiet_low(m, dut.m_axi.arvalid)
        else:
            for name in reader_channels(config):
                stream = getattr(dut, f"i_{name}_request")
                holds(m, stream.valid, stream.ready | dut.i_stop, Value.cast(stream.payload), name, Assume)
            m.d.comb += Assert(dut.m_axi.rready)
            if what.startswith("room"):
                _room(m, dut, config.fifo_words - (what == "room for less"))
            else:
                _request(m, dut.m_axi, "ar", config, what)
        return m, free_inputs(dut)

    return build


def _room(m: Module, dut: DmaReader, words: int) -> None:
    """A free channel asks for no more words than so many that have not come; for none that has no place in its FIFO."""
    axi = dut.m_axi
    channel, held, begun, open_ = Signal.like(axi.arid), Signal.like(axi.arid), Signal(), Signal(16)
    m.d.sync += [held.eq(channel), begun.eq(1)]
    m.d.comb += [Assume(~begun | (channel == held)), Assume(~dut.i_stop)]
    asked = axi.arvalid & axi.arready & (axi.arid == channel)
    come = axi.rvalid & (axi.rid == channel)
    m.d.comb += Assume(~come | (open_ != 0))
    m.d.sync += open_.eq(open_ + Mux(asked, axi.arlen + 1, 0) - come)
    m.d.comb += Assert(open_ <= words)


def _registers(what: str) -> Build:
    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = RegisterBank(preset("ews-cms-tiny"))
        axi = dut.s_axil
        ports = free_inputs(dut)
        if what == "low in reset":
            _quiet_low(m, axi.bvalid, axi.rvalid, dut.o_interrupt, dut.o_start, dut.o_abort)
            return m, ports
        holds(m, axi.awvalid, axi.awready, Cat(axi.awaddr, axi.awprot), "aw", Assume)
        holds(m, axi.wvalid, axi.wready, Cat(axi.wdata, axi.wstrb), "w", Assume)
        holds(m, axi.arvalid, axi.arready, Cat(axi.araddr, axi.arprot), "ar", Assume)
        if what == "hold":
            holds(m, axi.bvalid, axi.bready, axi.bresp, "b")
            holds(m, axi.rvalid, axi.rready, Cat(axi.rdata, axi.rresp), "r")
        elif what == "answers":
            # Each request has one answer: what is open is exactly what the block is busy with.
            opened = {name: Signal(4, name=f"open_{name}") for name in ("aw", "w", "ar")}
            answers = {"aw": axi.bvalid & axi.bready, "w": axi.bvalid & axi.bready, "ar": axi.rvalid & axi.rready}
            for name, count in opened.items():
                taken = getattr(axi, f"{name}valid") & getattr(axi, f"{name}ready")
                m.d.sync += count.eq(count + taken - answers[name])
            m.d.comb += [
                Assert(opened["aw"] == ~axi.awready + axi.bvalid),
                Assert(opened["w"] == ~axi.wready + axi.bvalid),
                Assert(opened["ar"] == ~axi.arready),
                Assert(~axi.rvalid | (opened["ar"] == 1)),
            ]
        else:
            m.d.comb += [
                Assume(axi.bready),
                Assume(axi.rready),
                Assume(axi.awvalid),
                Assume(axi.wvalid),
                Assume(axi.arvalid),
            ]
            for name, valid in (("b", axi.bvalid), ("r", axi.rvalid)):
                waited = Signal(4, name=f"waited_{name}")
                m.d.sync += waited.eq(Mux(valid, 0, waited + 1))
                m.d.comb += Assert(waited <= 3)
        return m, ports

    return build


def specifications() -> Iterator[Specification]:
    """Reader and writer of two widths, and the registers."""
    for width in (16, 512):
        config = preset("ews-msvq-tiny").override([f"word_width={width}", "burst_words=4", "fifo_words=8"])
        for block, make in (("DmaReader", _reader), ("DmaWriter", _writer)):
            yield Specification(f"{block}, {width} bits: low in reset", make(config, "low in reset"), Method.RESET)
        burst = "size, alignment, length, 4 KiB"
        yield Specification(
            f"DmaWriter, {width} bits: AW and W hold; {burst}", _writer(config, "requests"), Method.INDUCTION, 4
        )
        yield Specification(f"DmaReader, {width} bits: AR holds", _reader(config, "hold"), Method.INDUCTION, 2)
        # The length lies a register behind the address, which an induction would have to know.
        yield Specification(f"DmaReader, {width} bits: {burst}", _reader(config, "burst"), Method.BOUNDED, 8)
        room = f"DmaReader, {width} bits: outstanding words have room in the FIFO"
        yield Specification(room, _reader(config, "room"), Method.BOUNDED, 12)
        if width == 16:
            less = "DmaReader, 16 bits: outstanding words leave room in the FIFO"
            yield Specification(less, _reader(config, "room for less"), Method.BOUNDED, 12, refuted=True)
    config = preset("ews-msvq-tiny").override(["word_width=16", "burst_words=4", "fifo_words=8"])
    yield Specification("DmaWriter, 16 bits: WLAST where AWLEN says", _writer(config, "last"), Method.BOUNDED, 14)
    yield Specification("RegisterBank: B and R hold", _registers("hold"), Method.INDUCTION, 2)
    yield Specification("RegisterBank: one answer to a request", _registers("answers"), Method.INDUCTION, 3)
    yield Specification("RegisterBank: an answer within 4 cycles", _registers("progress"), Method.INDUCTION, 6)
    yield Specification("RegisterBank: low in reset", _registers("low in reset"), Method.RESET)
