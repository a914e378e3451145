"""The bus: rules of AXI (AMBA AXI and ACE, IHI 0022) that reader, writer and registers keep, whatever comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, Value

from formal.prove import Method, Specification
from formal.streams import free_inputs, holds, scoreboard
from hw.bus.axi import BORDER
from hw.bus.reader import DmaReader, reader_channels
from hw.bus.registers import RegisterBank
from hw.bus.writer import OUTSTANDING, DmaWriter
from hw.config import AcceleratorConfig, preset

__all__ = ["specifications"]

#: Cycles of a request of 1 to 4 words: until the writer takes the next one, and until the reader's first word.
WRITER_CYCLES, READER_CYCLES = 11, 10

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
        elif what.startswith("outstanding"):
            # The bus answers bursts that it has taken, and those alone.
            taken = Signal(6)
            m.d.sync += taken.eq(taken + (axi.awvalid & axi.awready) - axi.bvalid)
            most = 1 if what == "outstanding, one" else OUTSTANDING
            m.d.comb += [
                Assume(~axi.bvalid | (taken != 0)),
                Assert(dut.outstanding == taken + axi.awvalid),
                Assert(dut.outstanding <= most),
            ]
        elif what == "done":
            # One end for each request, and none without.
            pending = Signal(4)
            m.d.sync += pending.eq(pending + (dut.i_request.valid & dut.i_request.ready) - dut.o_done)
            m.d.comb += [Assume(~dut.i_stop), Assert(pending == ~dut.i_request.ready)]
        elif what == "order":
            m.d.comb += Assume(~dut.i_stop)
            sink = SimpleNamespace(valid=axi.wvalid, ready=axi.wready, payload=axi.wdata)
            return m, free_inputs(dut) + scoreboard(m, dut.i_data, sink, 16, 5)
        elif what == "progress":
            # A bus that takes what is offered and answers each burst two cycles behind its last word.
            answers = Signal(2)
            m.d.sync += answers.eq(Cat(axi.wvalid & axi.wlast, answers[0]))
            words = dut.i_request.payload.words
            m.d.comb += [
                Assume(~dut.i_stop),
                Assume(dut.i_data.valid & axi.awready & axi.wready & (axi.bvalid == answers[1])),
                Assume((words != 0) & (words <= 4)),
            ]
            waits = Signal(6)
            m.d.sync += waits.eq(Mux(dut.i_request.ready, 0, waits + 1))
            m.d.comb += Assert(waits <= WRITER_CYCLES + int(config.transfer_register))
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
            elif what == "order":
                # Of one channel: what comes was asked for.
                axi, wanted = dut.m_axi, Signal(16)
                come = axi.rvalid & (axi.rid == 0)
                asked = axi.arvalid & axi.arready & (axi.arid == 0)
                m.d.sync += wanted.eq(wanted + Mux(asked, axi.arlen + 1, 0) - come)
                m.d.comb += [Assume(~dut.i_stop), Assume(~come | (wanted != 0))]
                source = SimpleNamespace(valid=come, ready=Value.cast(1), payload=axi.rdata)
                return m, free_inputs(dut) + scoreboard(m, source, dut.o_weight, 16, 5)
            elif what == "progress":
                _reader_progress(m, dut)
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


def _reader_progress(m: Module, dut: DmaReader) -> None:
    """One channel has requests, of 1 to 4 words; the bus takes every burst and gives a word of it a cycle."""
    axi, request = dut.m_axi, dut.i_weight_request
    on_bus, due, waits = Signal(8), Signal(8), Signal(6)
    quiet = [getattr(dut, f"i_{name}_request").valid for name in reader_channels(dut.config) if name != "weight"]
    words = request.payload.words
    m.d.sync += [
        on_bus.eq(on_bus + Mux(axi.arvalid, axi.arlen + 1, 0) - axi.rvalid),
        due.eq(due + Mux(request.valid & request.ready, words[:3], 0) - dut.o_weight.valid),
        waits.eq(Mux(dut.o_weight.valid | (due == 0), 0, waits + 1)),
    ]
    m.d.comb += [
        Assume(~dut.i_stop & ~Cat(quiet).any()),
        Assume((words != 0) & (words <= 4)),
        Assume(dut.o_weight.ready & axi.arready & (axi.rid == 0)),
        Assume(axi.rvalid == (on_bus != 0)),
        Assert(waits <= READER_CYCLES),
    ]


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
    name = "DmaWriter, 16 bits"
    yield Specification(
        f"{name}: outstanding bursts, at most {OUTSTANDING}", _writer(config, "outstanding"), Method.INDUCTION, 2
    )
    one = f"{name}: outstanding bursts, at most 1"
    yield Specification(one, _writer(config, "outstanding, one"), Method.BOUNDED, 10, refuted=True)
    yield Specification(f"{name}: one end of a request", _writer(config, "done"), Method.INDUCTION, 2)
    yield Specification(f"{name}: words in are words out, in order", _writer(config, "order"), Method.BOUNDED, 10)
    progress = f"{name}: progress, the next request within {WRITER_CYCLES + 1} cycles"
    yield Specification(progress, _writer(config, "progress"), Method.BOUNDED, 24)
    # Its length is a register behind the address, too.
    cut = config.override(["transfer_register=true"])
    name = "DmaWriter, 16 bits, transfer register"
    for claim, what, method, depth in (
        (f"AW and W hold; {burst}", "requests", Method.BOUNDED, 8),
        ("WLAST where AWLEN says", "last", Method.BOUNDED, 14),
        (f"outstanding bursts, at most {OUTSTANDING}", "outstanding", Method.INDUCTION, 2),
        ("one end of a request", "done", Method.INDUCTION, 2),
        ("words in are words out, in order", "order", Method.BOUNDED, 10),
        (f"progress, the next request within {WRITER_CYCLES + 2} cycles", "progress", Method.BOUNDED, 24),
    ):
        yield Specification(f"{name}: {claim}", _writer(cut, what), method, depth)
    name = "DmaReader, 16 bits"
    yield Specification(f"{name}: words in are words out, in order", _reader(config, "order"), Method.BOUNDED, 14)
    progress = f"{name}: progress, a word within {READER_CYCLES + 1} cycles"
    yield Specification(progress, _reader(config, "progress"), Method.BOUNDED, 24)
    yield Specification("RegisterBank: B and R hold", _registers("hold"), Method.INDUCTION, 2)
    yield Specification("RegisterBank: one answer to a request", _registers("answers"), Method.INDUCTION, 3)
    yield Specification("RegisterBank: an answer within 4 cycles", _registers("progress"), Method.INDUCTION, 6)
    yield Specification("RegisterBank: low in reset", _registers("low in reset"), Method.RESET)
