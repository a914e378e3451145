"""Streams: an offer holds until it is taken, and what comes out is what went in, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import gcd
from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Assert, Assume, Module, Mux, Signal, Value
from amaranth.lib import data, wiring

from formal.prove import Method, Specification
from hw.bus.fifo import WordFifo
from hw.config import preset
from hw.control.descriptor import EVENTS
from hw.control.sequencer import CommandQueue
from hw.decoder.unpacker import Unpacker
from hw.memory.read_queue import ReadQueue
from hw.postprocess.word_assembler import WordAssembler

__all__ = ["free_inputs", "holds", "scoreboard", "specifications"]

Build = Callable[[], tuple[Module, list[Value]]]


def free_inputs(component: wiring.Component) -> list[Value]:
    """Everything that comes into a component."""
    flat = component.signature.flatten(component)
    return [Value.cast(value) for _, member, value in flat if member.flow == wiring.In]


def holds(m: Module, valid: Value, ready: Value, payload: Value, name: str, claim: type = Assert) -> None:
    """An offer that is not taken is there in the next cycle, too (AMBA AXI, A3.2.1). ``claim`` may be ``Assume``."""
    waited, offered = Signal(name=f"{name}_waited"), Signal(len(payload), name=f"{name}_offered")
    m.d.sync += [waited.eq(valid & ~ready), offered.eq(payload)]
    m.d.comb += claim(~waited | (valid & (payload == offered)))


def _stream(m: Module, stream: Any, name: str, claim: type = Assert) -> None:
    holds(m, stream.valid, stream.ready, Value.cast(stream.payload), name, claim)


def scoreboard(m: Module, source: Any, sink: Any, part: int, count_bits: int) -> list[Value]:
    """Bits in are bits out, in order: a free one of them, of ``part`` bits, is followed from one end to the other.

    Returns the free inputs: the number of the part that is followed, constant.
    """
    number, held, begun = Signal(count_bits), Signal(count_bits), Signal()
    m.d.sync += [held.eq(number), begun.eq(1)]
    m.d.comb += Assume(~begun | (number == held))
    # Below the wrap.
    counts, seen = {}, Signal()
    value = Signal(part)
    for name, stream in (("in", source), ("out", sink)):
        parts = len(Value.cast(stream.payload)) // part
        count = counts[name] = Signal(count_bits, name=f"parts_{name}")
        taken = Signal(name=f"taken_{name}")
        m.d.comb += [taken.eq(stream.valid & stream.ready), Assume(count < (1 << count_bits) - 2 * parts)]
        with m.If(taken):
            m.d.sync += count.eq(count + parts)
        for place in range(parts):
            here = Signal(name=f"{name}_{place}")
            m.d.comb += here.eq(taken & (count + place == number))
            bits = Value.cast(stream.payload)[place * part : (place + 1) * part]
            if name == "in":
                with m.If(here):
                    m.d.sync += [seen.eq(1), value.eq(bits)]
            else:
                # It may come and go in one cycle.
                source_parts = len(Value.cast(source.payload)) // part
                same = number - counts["in"]
                now = Value.cast(source.payload).word_select(same[: max(1, (source_parts - 1).bit_length())], part)
                arrives = source.valid & source.ready & (number >= counts["in"]) & (same < source_parts)
                m.d.comb += Assert(~here | Mux(seen, bits == value, arrives & (bits == now)))
    return [number]


def _progress(m: Module, waits: Value, moves: Value, bound: int) -> None:
    """Nothing waits longer than so many cycles without a move."""
    count = Signal(range(bound + 2))
    m.d.sync += count.eq(Mux(moves | ~waits, 0, count + 1))
    m.d.comb += Assert(count <= bound)


def _unpacker(word: int, field: int, what: str) -> Build:
    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = Unpacker(word, field)
        ports = free_inputs(dut)
        if what != "order":
            _stream(m, dut.i_word, "word", Assume)
        # The consumer goes on waiting for a field, and flushes between layers only.
        waited = Signal()
        m.d.sync += waited.eq(dut.i_request & ~(dut.o_field.valid & dut.o_field.ready))
        m.d.comb += [Assume(~(dut.i_request & dut.i_flush)), Assume(~waited | dut.i_request)]
        if what == "hold":
            _stream(m, dut.o_field, "field")
        elif what == "order":
            m.d.comb += Assume(~dut.i_flush)
            ports += scoreboard(m, dut.i_word, dut.o_field, gcd(word, field), 8)
        else:
            m.d.comb += [Assume(dut.i_request), Assume(dut.i_word.valid), Assume(dut.o_field.ready)]
            moves = dut.o_field.valid
            _progress(m, ~moves, moves, -(-field // word))
        return m, ports

    return build


def _assembler(slot: int, word: int, what: str) -> Build:
    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = WordAssembler(slot, word)
        ports = free_inputs(dut)
        if what == "hold":
            _stream(m, dut.o_word, "word")
        elif what == "order":
            ports += scoreboard(m, dut.i_slot, dut.o_word, 8 * gcd(slot, word), 8)
        else:
            m.d.comb += [Assume(dut.i_slot.valid), Assume(dut.o_word.ready)]
            _progress(m, ~dut.o_word.valid, dut.o_word.valid, 2 * -(-max(slot, word) // min(slot, word)) + 2)
        return m, ports

    return build


def _read_queue(what: str) -> Build:
    """The memory gives back the address: words out are addresses in."""

    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = ReadQueue(8, 3)
        port = dut.o_port
        ports = [dut.i_address.valid, dut.i_address.payload, dut.o_word.ready, port.ready]
        address = Signal(3)
        m.d.comb += port.data.eq(address)
        m.d.sync += [port.data_valid.eq(port.valid & port.ready), address.eq(port.address)]
        if what == "hold":
            _stream(m, dut.o_word, "word")
        elif what == "order":
            ports += scoreboard(m, dut.i_address, dut.o_word, 3, 5)
        else:
            m.d.comb += [Assume(dut.i_address.valid), Assume(dut.o_word.ready), Assume(port.ready)]
            _progress(m, ~dut.o_word.valid, dut.o_word.valid, 3)
        return m, ports

    return build


def _fifo(what: str, sound: bool = True) -> Build:
    """``sound``: who sends words knows how many there are; without, words are lost, which must be found."""

    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = WordFifo(4, 3)
        ports = free_inputs(dut)
        inside = Signal(4)
        taken = dut.o_words.valid & dut.o_words.ready
        m.d.sync += inside.eq(inside + dut.i_valid - taken)
        if sound:
            m.d.comb += Assume(~dut.i_valid | (inside < 4))
        if what == "hold":
            _stream(m, dut.o_words, "word")
        elif what == "order":
            source = SimpleNamespace(valid=dut.i_valid, ready=Value.cast(1), payload=dut.i_word)
            ports += scoreboard(m, source, dut.o_words, 3, 5)
        else:
            m.d.comb += Assume(dut.o_words.ready)
            _progress(m, (inside != 0) & ~dut.o_words.valid, dut.o_words.valid, 4)
        return m, ports

    return build


def _command_queue(depth: int, what: str) -> Build:
    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = CommandQueue(data.StructLayout({"number": 3}), depth)
        ports = free_inputs(dut)
        if what == "hold":
            _stream(m, dut.o_command, "command")
        elif what == "order":
            ports += scoreboard(m, dut.i_command, dut.o_command, 3, 6)
        else:
            # Each event happens, and the unit takes its commands.
            m.d.comb += [Assume(dut.i_events.all()), Assume(dut.o_command.ready)]
            most = (1 << len(Value.cast(dut.i_left)) // len(EVENTS)) - 1
            _progress(m, ~dut.o_empty & ~dut.o_command.valid, dut.o_command.valid, most + depth)
        return m, ports

    return build


def specifications() -> Iterator[Specification]:
    """Every block with a stream: hold by induction where it closes; order and progress up to a bound."""
    config = preset("ews-msvq-16")
    blocks: list[tuple[str, Callable[[str], Build], int]] = [
        *(
            (f"Unpacker {word} to {field}", lambda what, word=word, field=field: _unpacker(word, field, what), 10)
            for word, field in ((8, 8), (16, 11), (8, 20), (12, 8), (config.word_width, config.index_bits))
        ),
        *(
            (f"WordAssembler {slot} to {word}", lambda what, s=slot, w=word: _assembler(s, w, what), 12)
            for slot, word in ((1, 4), (4, 1), (2, 3), (4, 4))
        ),
        ("ReadQueue", _read_queue, 12),
        ("WordFifo of 4", _fifo, 12),
        *((f"CommandQueue of {n}", lambda what, n=n: _command_queue(n, what), 8) for n in (1, 3)),
    ]
    yield Specification(
        "WordFifo of 4, overrun: words in are words out, in order",
        _fifo("order", sound=False),
        Method.BOUNDED,
        12,
        refuted=True,
    )
    for name, make, bound in blocks:
        # Levels and pointers of a FIFO of Amaranth's agree, which an induction from outside cannot know.
        fifo = name.startswith(("ReadQueue", "WordFifo"))
        method = (Method.BOUNDED, 16) if fifo else (Method.INDUCTION, 2)
        yield Specification(f"{name}: an offer holds", make("hold"), *method)
        yield Specification(f"{name}: words in are words out, in order", make("order"), Method.BOUNDED, bound)
        yield Specification(f"{name}: progress", make("progress"), Method.BOUNDED, 2 * bound)
