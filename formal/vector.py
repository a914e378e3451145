"""What the vector unit has with all functions: turned words, products, tables, and steps of an upsampled source."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from amaranth.hdl import Assert, Assume, Const, Module, Mux, Signal, Value, signed

from formal.prove import Method, Specification
from formal.streams import free_inputs
from hw.control.descriptor import TABLE_BYTES
from hw.memory.register_file import RegisterFile
from hw.postprocess.byte_rotator import ByteRotator
from hw.postprocess.operand_product import OperandProduct
from hw.postprocess.vector_unit import SUM_BITS
from hw.postprocess.window_walker import upsampled_step

__all__ = ["specifications"]

Build = Callable[[], tuple[Module, list[Value]]]


def _rotator(size: int, wrong: bool = False) -> Build:
    """Every byte is the one so many places below it; the other way round where the proof must fail."""

    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = ByteRotator(size)
        with m.Switch(dut.i_amount):
            for amount in range(size):
                with m.Case(amount):
                    for place in range(size):
                        of = (place + amount if wrong else place - amount) % size
                        m.d.comb += Assert(dut.o_word.word_select(place, 8) == dut.i_word.word_select(of, 8))
        return m, free_inputs(dut)

    return build


def _product() -> Build:
    """The register holds the sum of the shifted first factor over the bits of the second one, the factor, or itself."""

    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = OperandProduct(SUM_BITS)
        a = dut.i_factor[:8].as_signed()
        # Two's complement: the highest bit of the second factor counts negative.
        parts = [Mux(dut.i_factor[8 + bit], a << bit, 0) for bit in range(8)]
        expected, begun = Signal(signed(SUM_BITS)), Signal()
        m.d.sync += begun.eq(1)
        with m.If(dut.i_enable):
            m.d.sync += expected.eq(Mux(dut.i_multiply, sum(parts[:7]) - parts[7], dut.i_factor))
        taken = Signal()
        m.d.sync += taken.eq(taken | dut.i_enable)
        m.d.comb += Assert(~taken | (dut.o_factor == expected))
        return m, free_inputs(dut)

    return build


def _table(lanes: int) -> Build:
    """Every lane finds what was written last at its address, whichever it is, also beside a write to another one."""

    def build() -> tuple[Module, list[Value]]:
        m = Module()
        m.submodules.dut = dut = RegisterFile(TABLE_BYTES, 8, ports=lanes)
        # The entry that is followed, constant; a lane of the specification's own looks at it all the time.
        place, held, begun = Signal(8), Signal(8), Signal()
        value, known = Signal(8), Signal()
        m.d.sync += [held.eq(place), begun.eq(1)]
        m.d.comb += [Assume(~begun | (place == held)), Assume(dut.i_address_0 == place)]
        with m.If(dut.i_write & (dut.i_write_address == place)):
            m.d.sync += [value.eq(dut.i_write_data), known.eq(1)]
        for lane in range(lanes):
            here = getattr(dut, f"i_address_{lane}") == place
            m.d.comb += Assert(~known | ~here | (getattr(dut, f"o_data_{lane}") == value))
        return m, [*free_inputs(dut), place]

    return build


def _upsampled(wrong: bool = False) -> Build:
    """From a padded first position on, the source is at half the position, kept inside the tensor."""

    def build() -> tuple[Module, list[Value]]:
        m = Module()
        extent, padding, kept_extent, kept_padding = Signal(16), Signal(8), Signal(16), Signal(8)
        at, source, begun = Signal(signed(18)), Signal(16), Signal()
        m.d.sync += [kept_extent.eq(extent), kept_padding.eq(padding), begun.eq(1)]
        m.d.comb += [
            Assume(~begun | ((extent == kept_extent) & (padding == kept_padding))),
            Assume((extent > 0) & (at < (1 << 17) - 1)),
        ]
        step = upsampled_step(Const(1), at, extent, Const(1, 16))
        with m.If(~begun):
            m.d.sync += [at.eq(-padding), source.eq(0)]
        with m.Else():
            m.d.sync += [at.eq(at + 1), source.eq(source + step)]
        half = Mux(at < 0, 0, at >> 1)
        last = extent if wrong else extent - 1
        m.d.comb += Assert(~begun | (source == Mux(half > last, last, half)))
        return m, [extent, padding]

    return build


def specifications() -> Iterator[Specification]:
    """Everything that is claimed of them."""
    for size in (2, 4, 8, 16):
        yield Specification(f"ByteRotator {size}: every byte from where it was", _rotator(size), Method.STATE)
    name = "ByteRotator 4: every byte from the other side"
    yield Specification(name, _rotator(4, wrong=True), Method.STATE, refuted=True)
    yield Specification("OperandProduct: the product, the factor, or what it holds", _product())
    for lanes in (1, 4):
        yield Specification(f"RegisterFile of a table, {lanes} lanes: what was written last", _table(lanes))
    yield Specification("WindowWalker, upsampling: half the position, inside", _upsampled())
    name = "WindowWalker, upsampling: one beyond the last"
    yield Specification(name, _upsampled(wrong=True), Method.BOUNDED, 8, refuted=True)
