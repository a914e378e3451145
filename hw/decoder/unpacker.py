"""From a packed bit stream to fields."""

from __future__ import annotations

from math import gcd

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Unpacker"]


class Unpacker(wiring.Component):
    """Cuts a stream of words into fields, least significant bit first, with no gaps between fields.

    A word is taken only when the field asked for needs it, so that after the last field of a layer only padding of
    less than one word is left here, which ``i_flush`` drops. A field whose last bits are in the word at the input
    leaves in the same cycle: one field a cycle as long as words arrive, if a field is no longer than a word.

    Parameters
    ----------
    word_width, field_width
        Bits of a word and of a field.

    Members
    -------
    i_word, o_field
        The streams.
    i_request
        The consumer waits for a field: words that do not complete one may be taken. ``o_field`` is valid only while
        it is high.
    i_flush
        Drops the bits that are left over. Not together with ``i_request``.
    """

    def __init__(self, word_width: int, field_width: int) -> None:
        self.word_width, self.field_width = word_width, field_width
        super().__init__(
            {
                "i_word": In(stream.Signature(word_width)),
                "o_field": Out(stream.Signature(field_width)),
                "i_request": In(1),
                "i_flush": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        word, field = self.word_width, self.field_width
        # Fill levels are multiples of the greatest common divisor, so the shifter needs only those positions.
        unit = gcd(word, field)
        levels = max(word, field) // unit
        left = Signal(max(word, field) - unit) if levels > 1 else None
        level = Signal(range(levels))

        joined = Signal(word + field)
        needs_word = Signal()
        completes = Signal()
        m.d.comb += [
            needs_word.eq(level * unit < field),
            completes.eq(level * unit + word >= field),
        ]
        if left is None:
            m.d.comb += joined.eq(self.i_word.payload)
        else:
            with m.Switch(level):
                for position in range(levels):
                    with m.Case(position):
                        below = left[: position * unit]
                        if position * unit < field:
                            m.d.comb += joined.eq(below | (self.i_word.payload << position * unit))
                        else:
                            m.d.comb += joined.eq(below)
        m.d.comb += [
            self.o_field.payload.eq(joined[:field]),
            self.o_field.valid.eq(self.i_request & (~needs_word | (completes & self.i_word.valid))),
            self.i_word.ready.eq(self.i_request & needs_word & (~completes | self.o_field.ready)),
        ]
        if left is not None:
            take_word = self.i_word.valid & self.i_word.ready
            take_field = self.o_field.valid & self.o_field.ready
            with m.If(take_field):
                m.d.sync += [
                    left.eq(joined[field:]),
                    level.eq(level + needs_word * (word // unit) - field // unit),
                ]
            with m.Elif(take_word):
                m.d.sync += [left.eq(joined), level.eq(level + word // unit)]
            with m.If(self.i_flush):
                m.d.sync += level.eq(0)
        return m
