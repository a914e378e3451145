"""Vector unit: pooling and addition of feature maps in L2; products, tables, moves of channels, and upsampling."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.bodies import body_layout
from hw.control.descriptor import TABLE_BYTES, Opcode, VectorOp
from hw.emission import shared
from hw.memory.ports import ReadPort, WritePort
from hw.memory.register_file import RegisterFile
from hw.postprocess.byte_rotator import ByteRotator
from hw.postprocess.loops import count
from hw.postprocess.operand_product import OperandProduct
from hw.postprocess.scaler import Scaler
from hw.postprocess.window_walker import WindowWalker
from hw.postprocess.word_assembler import WordAssembler

__all__ = ["SUM_BITS", "VectorUnit"]

#: Bits of a sum over a window of 255 x 255 int8, and of a multiplier of ADD and its sign with one to spare.
SUM_BITS = 24


@dataclass(frozen=True)
class _Kinds:
    """What the running command is; MULTIPLY and MERGE where the unit has them. A ``pair`` is kept side by side."""

    add: Signal
    maximum: Signal
    pair: Value
    multiply: Signal | None = None
    merge: Signal | None = None


@dataclass(frozen=True)
class _Operand:
    """The word that is combined next, and whether it is the first or the last of its window."""

    word: Signal
    valid: Signal
    first: Signal
    last: Signal


class VectorUnit(wiring.Component):
    """Runs VECTOR commands: for each output word, the words of its window are read and combined.

    With ``G = l2_word / vector_unit_lanes`` cycles to scale a word, and K words in a window (ADD: 2, one of each
    tensor), an output word takes ``K + max(G - 2, 0)`` cycles, and ``G`` if K is 1. Words outside the tensor take a
    cycle each and are the least int8 for MAXIMUM and 0 otherwise. MAXIMUM clamps to ``low`` and ``high``, too.

    With all functions (``config.full_vector_unit``): MULTIPLY is as ADD, with a product in place of the first sum.
    MERGE turns the bytes of words, so that channels come to another place in a word, and puts two words together. TABLE
    takes 256 bytes of L2 into the table, a byte a cycle; ``lookup`` puts any result through it, in every lane. The
    pipeline is two cycles longer.

    Members
    -------
    i_command
        A VECTOR.
    o_l2_read, o_l2_write
        To L2.
    o_done
        The last word of a command is in L2.
    o_busy
        A command runs.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        word = config.l2_bits
        super().__init__(
            {
                "i_command": In(stream.Signature(body_layout(Opcode.VECTOR, config))),
                "o_l2_read": Out(ReadPort(config.l2_depth, word)),
                "o_l2_write": Out(WritePort(config.l2_depth, word)),
                "o_done": Out(1),
                "o_busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        channels, lanes = config.l2_word, config.vector_unit_lanes
        groups = channels // lanes

        command = Signal(body_layout(Opcode.VECTOR, config))
        full = config.full_vector_unit
        add, maximum = Signal(), Signal()
        m.d.comb += [add.eq(command.operation == VectorOp.ADD), maximum.eq(command.operation == VectorOp.MAXIMUM)]
        kinds = _Kinds(add, maximum, pair=add)
        if full:
            multiply, merge, load = Signal(), Signal(), Signal()
            m.d.comb += [
                multiply.eq(command.operation == VectorOp.MULTIPLY),
                merge.eq(command.operation == VectorOp.MERGE),
                load.eq(command.operation == VectorOp.TABLE),
            ]
            kinds = _Kinds(add, maximum, add | multiply, multiply, merge)
        given = self.i_command.payload
        word = Signal(range(config.l2_depth))
        start, finish = Signal(), Signal()
        m.submodules.walker = walker = WindowWalker(config)
        m.d.comb += [
            walker.i_command.payload.eq(given),
            walker.i_command.valid.eq(self.i_command.valid & ~self.o_busy),
            self.i_command.ready.eq(walker.i_command.ready & ~self.o_busy),
            start.eq(self.i_command.valid & self.i_command.ready),
        ]
        m.d.sync += self.o_done.eq(finish)
        with m.If(finish):
            m.d.sync += self.o_busy.eq(0)
        with m.If(start):
            m.d.sync += [self.o_busy.eq(1), command.eq(given), word.eq(given.l2_base)]
            unscaled = given.operation == VectorOp.MAXIMUM
            if full:
                unscaled |= given.operation == VectorOp.MERGE
            with m.If(unscaled):
                m.d.sync += [command.multiplier_a.eq(1), command.shift.eq(0)]

        use = Signal()
        operand, turned = self._fetch(m, command, walker.o_tap, maximum, use)
        totals, combined = self._combine(m, command, kinds, operand, turned, use)

        # Scale. The first group of a word comes from `combined`, the others from `totals` afterwards.
        enable, scale = Signal(), Signal()
        group = Signal(range(groups))
        last_group = group == groups - 1
        ready, ending = operand.valid & enable & ((group == 0) | (last_group & ~operand.last)), operand.last
        if full:
            m.submodules.lookup_table = table = RegisterFile(TABLE_BYTES, 8, ports=lanes)
            index = Signal(8)
            place = index[: (channels - 1).bit_length()]
            m.d.comb += [
                table.i_write.eq(operand.valid & load),
                table.i_write_address.eq(index),
                table.i_write_data.eq(operand.word.word_select(place, 8)),
            ]
            with m.If(start):
                m.d.sync += index.eq(0)
            with m.Elif(table.i_write):
                m.d.sync += index.eq(index + 1)
            ready, ending = Mux(load, operand.valid & (place == channels - 1), ready), operand.last & ~load
        m.d.comb += [use.eq(ready), scale.eq((use & ending) | (group != 0))]
        with m.If(enable & scale):
            m.d.sync += group.eq(Mux(last_group, 0, group + 1))
        factors = Signal(SUM_BITS * lanes, reset_less=True)
        selected = Cat(totals).word_select(group, SUM_BITS * lanes)
        tags = Signal(1 + Scaler.stages_of(config.scaler_register) + (2 if full else 0))
        with m.If(enable):
            m.d.sync += [
                factors.eq(Mux(group == 0, Cat(combined[:lanes]), selected)),
                tags.eq(Cat(scale, tags[:-1])),
            ]
        results = []
        for lane in range(lanes):
            factor = factors.word_select(lane, SUM_BITS)
            result = self._scale(m, platform, lane, factor, command, kinds, enable)
            if full:
                scaled, result = result, Signal(8, name=f"result_{lane}", reset_less=True)
                m.d.comb += getattr(table, f"i_address_{lane}").eq(scaled)
                with m.If(enable):
                    m.d.sync += result.eq(Mux(command.lookup, getattr(table, f"o_data_{lane}"), scaled.as_unsigned()))
            results.append(result)

        # Words into L2.
        m.submodules.assembler = assembler = WordAssembler(lanes, channels)
        put = Signal()
        stored = count(m, put, {"word": command.pixel_words, "word_column": command.width, "word_row": command.height})
        assembled = assembler.o_word.payload
        if full:
            # Channels that do not exist are 0, whatever the table makes of 0.
            cut = stored["word"] & (command.tail != 0)
            gone = [cut & (channel >= command.tail) if channel < channels - 1 else cut for channel in range(channels)]
            first = assembled[:8]
            others = [Mux(gone[i], 0, assembled.word_select(i, 8)) for i in range(1, channels)]
            assembled = Cat(first, others)
        m.d.comb += [
            assembler.i_slot.valid.eq(tags[-1]),
            assembler.i_slot.payload.eq(Cat(results)),
            enable.eq(~tags[-1] | assembler.i_slot.ready),
            self.o_l2_write.valid.eq(assembler.o_word.valid),
            self.o_l2_write.data.eq(assembled),
            self.o_l2_write.address.eq(word),
            assembler.o_word.ready.eq(self.o_l2_write.ready),
            put.eq(assembler.o_word.valid & self.o_l2_write.ready),
            finish.eq(put & stored["word_row"]),
        ]
        following = word + 1
        if full:
            following += Mux(stored["word"], command.l2_skip, 0)
            with m.If(load):
                m.d.comb += finish.eq(table.i_write & (index == TABLE_BYTES - 1))
        with m.If(put):
            m.d.sync += word.eq(following)
        return m

    def _fetch(
        self, m: Module, command: data.View, tap: stream.Interface, maximum: Signal, use: Signal
    ) -> tuple[_Operand, Value | None]:
        """Words from L2: one may be on its way or kept, one more is the operand; its bytes turned for MERGE, too."""
        channels = self.config.l2_word
        flags = Signal(data.StructLayout({"outside": 1, "first": 1, "last": 1}))
        come, fresh = Signal(), Signal()
        kept, incoming, operand = (
            Signal(8 * channels, name=n, reset_less=True) for n in ("kept", "incoming", "operand")
        )
        operand_valid, operand_first, operand_last = (
            Signal(name=n) for n in ("operand_valid", "operand_first", "operand_last")
        )
        move, room = Signal(), Signal()
        m.d.comb += [
            move.eq(come & (~operand_valid | use)),
            room.eq(~come | move),
            self.o_l2_read.valid.eq(tap.valid & ~tap.p.outside & room),
            self.o_l2_read.address.eq(tap.p.address),
            tap.ready.eq(room & (tap.p.outside | self.o_l2_read.ready)),
            incoming.eq(Mux(fresh, self.o_l2_read.data, kept)),
        ]
        m.d.sync += fresh.eq(self.o_l2_read.valid & self.o_l2_read.ready)
        with m.If(fresh):
            m.d.sync += kept.eq(self.o_l2_read.data)
        with m.If(tap.valid & tap.ready):
            m.d.sync += [
                come.eq(1),
                flags.outside.eq(tap.p.outside),
                flags.first.eq(tap.p.first),
                flags.last.eq(tap.p.last),
            ]
        with m.Elif(move):
            m.d.sync += come.eq(0)
        with m.If(move):
            outside = Mux(maximum, 0x80, 0)
            m.d.sync += [
                operand_valid.eq(1),
                operand.eq(Mux(flags.outside, Cat(outside[:8] for _ in range(channels)), incoming)),
                operand_first.eq(flags.first),
                operand_last.eq(flags.last),
            ]
        with m.Elif(use):
            m.d.sync += operand_valid.eq(0)

        turned = None
        if self.config.full_vector_unit:
            m.submodules.byte_rotator = rotator = ByteRotator(channels)
            amount = Signal.like(rotator.i_amount)
            m.d.comb += [rotator.i_word.eq(operand), rotator.i_amount.eq(amount)]
            with m.If(move):
                m.d.sync += amount.eq(Mux(flags.first & ~command.rotate_a, 0, command.rotation))
            turned = rotator.o_word
        return _Operand(operand, operand_valid, operand_first, operand_last), turned

    def _combine(
        self, m: Module, command: data.View, kinds: _Kinds, operand: _Operand, turned: Value | None, use: Signal
    ) -> tuple[list[Signal], list[Signal]]:
        """The words of a window into one: sums so far, and with the operand.

        ADD keeps its first word in the lower byte and its second one above it.
        """
        channels = self.config.l2_word
        totals, combined = (
            [Signal(signed(SUM_BITS), name=f"{name}_{i}", reset_less=name == "total") for i in range(channels)]
            for name in ("total", "combined")
        )
        for channel, (total, result) in enumerate(zip(totals, combined, strict=True)):
            value = operand.word.word_select(channel, 8).as_signed()
            lower = total[:8].as_signed()
            if turned is not None:
                # The greatest rotation is that of the last channel.
                mine = operand.first | (channel >= command.rotation if channel < channels - 1 else 1)
                moved = turned.word_select(channel, 8).as_signed()
                with m.If(kinds.merge):
                    m.d.comb += result.eq(Mux(mine, moved, lower))
            with (m.Elif if turned is not None else m.If)(operand.first):
                m.d.comb += result.eq(value)
            with m.Elif(kinds.maximum):
                m.d.comb += result.eq(Mux(value > lower, value, lower))
            with m.Elif(kinds.pair):
                m.d.comb += result.eq(Cat(lower, value))
            with m.Else():
                m.d.comb += result.eq(total + value)
            with m.If(use):
                m.d.sync += total.eq(result)
        return totals, combined

    def _scale(
        self, m: Module, platform: object, lane: int, factor: Value, command: data.View, kinds: _Kinds, enable: Signal
    ) -> Value:
        """The scaler of a lane, behind the product of its two bytes where the unit has all functions."""
        if kinds.multiply is not None:
            product = OperandProduct(SUM_BITS)
            m.submodules[f"operand_product_{lane}"] = shared(product, platform)
            m.d.comb += [
                product.i_enable.eq(enable),
                product.i_factor.eq(factor),
                product.i_multiply.eq(kinds.multiply),
            ]
            factor = product.o_factor
        scaler = Scaler(SUM_BITS, self.config.scaler_register)
        m.submodules[f"scaler_{lane}"] = shared(scaler, platform)
        m.d.comb += [
            scaler.i_enable.eq(enable),
            scaler.i_x0.eq(Mux(kinds.add, command.multiplier_a, factor.as_signed())),
            scaler.i_y0.eq(Mux(kinds.add, factor[:8].as_signed(), command.multiplier_a[:16])),
            scaler.i_x1.eq(Mux(kinds.add, command.multiplier_b, factor.as_signed())),
            scaler.i_y1.eq(Mux(kinds.add, factor[8:16].as_signed(), command.multiplier_a[16:].as_signed())),
            scaler.i_halves.eq(~kinds.add),
            scaler.i_shift.eq(command.shift),
            scaler.i_low.eq(command.low),
            scaler.i_high.eq(command.high),
        ]
        return scaler.o_result
