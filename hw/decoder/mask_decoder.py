"""From the rank of a mask to the mask (MVQ section 5.2)."""

from __future__ import annotations

from collections import Counter
from math import comb

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.layout import mask_unrank

__all__ = ["MaskDecoder"]


class MaskDecoder(wiring.Component):
    """Decodes the colexicographic rank of an N:M mask (:func:`hw.layout.mask_rank`).

    Parameters
    ----------
    n, m
        N kept of every M.
    style
        ``arithmetic``: from the last position to the first, one compare-and-subtract with a binomial coefficient each.
        ``table``: the paper's look-up table, all C(M, N) masks. ``python -m synth.choices`` measures both.
    registers
        Pipeline registers: between the positions, evenly, or behind the table. Combinational without.

    Members
    -------
    i_rank
        ceil(log2 C(M, N)) bits. A rank of C(M, N) or more gives an undefined mask.
    o_mask
        M bits, bit p high where position p is kept; ``registers`` cycles after the rank.
    """

    def __init__(self, n: int, m: int, style: str = "arithmetic", registers: int = 0) -> None:
        self.n, self.m, self.style, self.registers = n, m, style, registers
        super().__init__({"i_rank": In((comb(m, n) - 1).bit_length()), "o_mask": Out(m)})

    def elaborate(self, platform):
        m = Module()

        def register(value: Value, name: str) -> Signal:
            held = Signal(len(value), name=name, reset_less=True)
            m.d.sync += held.eq(value)
            return held

        if self.style == "table":
            found = Signal(self.m)
            with m.Switch(self.i_rank):
                for rank in range(comb(self.m, self.n)):
                    mask = mask_unrank(rank, self.n, self.m)
                    with m.Case(rank):
                        m.d.comb += found.eq(sum(bit << position for position, bit in enumerate(mask)))
            for stage in range(self.registers):
                found = register(found, f"found_{stage}")
            m.d.comb += self.o_mask.eq(found)
            return m

        rank = self.i_rank
        mask: list[Value] = []  # from the last position on
        cuts = Counter(-(-(stage + 1) * self.m // (self.registers + 1)) for stage in range(self.registers))
        # One-hot count of the positions still to place: left[i] high when i are left. Only counts that can occur at a
        # position are kept.
        left = {self.n: 1}
        for position in reversed(range(self.m)):
            # With i left the position is taken when rank >= C(position, i); at position < i that is always so.
            # rank < C(position + 1, i) holds here, so the difference is below C(position, i - 1).
            width = max(comb(position + 1, i) - 1 for i in left).bit_length()
            threshold = Signal(range(max(comb(position, i) for i in left) + 1), name=f"threshold_{position}")
            value = 0
            for i, present in left.items():
                if i:
                    value = value | Mux(present, comb(position, i), 0)
            m.d.comb += threshold.eq(value)
            some_left = 1
            if 0 in left:
                some_left = ~left[0]
            difference = Signal(range(-(1 << max(width, 1)), 1 << max(width, 1)), name=f"difference_{position}")
            taken = Signal(name=f"taken_{position}")
            m.d.comb += [
                difference.eq(rank[:width] - threshold if width else -threshold),
                taken.eq(~difference[-1] & some_left),
            ]
            mask.append(taken)
            following: dict[int, Signal] = {}
            for i in range(self.n + 1):
                if i > position:
                    continue
                # i left after this position: i left and not taken, or i + 1 left and taken. A count that does not fit
                # into the positions below must have been lowered by taking this one.
                terms = []
                if i in left:
                    terms.append(left[i] & ~taken if not isinstance(left[i], int) else ~taken)
                if i + 1 in left:
                    terms.append(left[i + 1] & taken if not isinstance(left[i + 1], int) else taken)
                if terms:
                    signal = Signal(name=f"left_{position}_{i}")
                    m.d.comb += signal.eq(terms[0] if len(terms) == 1 else terms[0] | terms[1])
                    following[i] = signal
            left = following
            if position:
                next_width = max((comb(position, i) - 1).bit_length() for i in left)
                next_rank = Signal(next_width, name=f"rank_{position}")
                m.d.comb += next_rank.eq(Mux(taken, difference, rank))
                rank = next_rank
            for stage in range(cuts[self.m - position]):
                name = f"{position}_{stage}"
                rank = register(rank, f"rank_register_{name}")
                left = {
                    i: x if isinstance(x, int) else register(x, f"left_register_{name}_{i}") for i, x in left.items()
                }
                mask = [register(bit, f"mask_register_{name}_{i}") for i, bit in enumerate(mask)]
        m.d.comb += self.o_mask.eq(Cat(reversed(mask)))
        return m
