"""From a mask to the positions of its kept weights: cascaded leading-zero counters (MVQ section 5.3)."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.layout import is_pair_coded

__all__ = ["LeadingZeroCounter", "PositionEncoder", "decode_positions", "encode_positions"]


def encode_positions(positions: Sequence[Value], m: int) -> Value:
    """The position code (:func:`hw.layout.position_code`) of ascending positions 0..m - 1 of one width."""
    if is_pair_coded(len(positions), m):
        p, q = positions
        upper = p[-1]
        return Cat(p[:-1] ^ upper.replicate(len(p) - 1), Mux(upper, q, q - p)[: len(q)])
    ones = sum(position[-1] for position in positions)
    return Cat(*(position[:-1] for position in positions), Value.cast(ones)[: len(positions).bit_length()])


def decode_positions(code: Value, n: int, m: int) -> list[Value]:
    """The N positions of a position code."""
    if m == 1:
        return [Const(0, 1)]
    low = (m - 1).bit_length() - 1
    if is_pair_coded(n, m):
        near, above = code[:low], code[low:]
        total = near + above
        upper = total[low + 1]
        return [Cat(near ^ upper.replicate(low), upper), Mux(upper, above, total[: low + 1])]
    ones = code[n * low :]
    return [Cat(code[i * low : (i + 1) * low], ones > n - 1 - i) for i in range(n)]


class LeadingZeroCounter(wiring.Component):
    """The number of zeros before the first one, counted from bit 0, and that one alone. Combinational.

    Members
    -------
    i_bits
        ``width`` bits.
    o_count
        Zeros below the lowest one; 0 when there is none.
    o_one_hot
        ``i_bits`` with every one but the lowest cleared.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__({"i_bits": In(width), "o_count": Out(range(width)), "o_one_hot": Out(width)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o_one_hot.eq(self.i_bits & (~self.i_bits + 1))
        for bit in range(len(self.o_count)):
            ones = sum(1 << position for position in range(self.width) if position >> bit & 1)
            m.d.comb += self.o_count[bit].eq((self.o_one_hot & ones).any())
        return m


class PositionEncoder(wiring.Component):
    """Positions of the N kept weights of a mask, in ascending order. Combinational.

    Each counter's one-hot output is removed from the mask before the next counter sees it.

    Parameters
    ----------
    n, m
        N kept of every M.

    Members
    -------
    i_mask
        M bits, exactly N high.
    o_position_I
        Position of kept weight I, I..M-N+I.
    """

    def __init__(self, n: int, m: int) -> None:
        self.n, self.m = n, m
        super().__init__({"i_mask": In(m), **{f"o_position_{i}": Out(range(m)) for i in range(n)}})

    def elaborate(self, platform):
        m = Module()
        rest = self.i_mask
        for i in range(self.n):
            m.submodules[f"lzc_{i}"] = lzc = LeadingZeroCounter(self.m)
            m.d.comb += [lzc.i_bits.eq(rest), getattr(self, f"o_position_{i}").eq(lzc.o_count)]
            following = Signal(self.m, name=f"rest_{i}")
            m.d.comb += following.eq(rest ^ lzc.o_one_hot)
            rest = following
        return m
