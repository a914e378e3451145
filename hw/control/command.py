"""The command that starts one layer tile, and the loop nest that both the loader and the controller walk."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig

__all__ = ["LoopNest", "command_layout"]


def command_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Fields of a command: one layer tile (:class:`hw.layout.LayerTile`).

    ``codewords``
        Codewords to take from ``i_weight`` into the CRF before the rows, 0..k; 0 keeps the CRF. Not in ``ws``, ``ews``.
    ``start``
        The tile is the first of a layer: bits left over in the packed weight streams are padding and are dropped.
    ``A``, ``B``, ``D``
        Extensions of the loop nest (MVQ figure 7), each at least 1; ``A*B*D <= wrf_depth``, ``B*D <= arf_depth``,
        ``A <= prf_depth``.
    ``raw``
        The rows come as raw weights by ``i_weight``, not as assignments. Not in ``ws``, ``ews``: there they always do.
    ``rows``
        Array rows that have an input channel in the last of the B row groups, 1..H.
    ``width``, ``height``
        Output positions in a row, and output rows, each at least 1.
    ``advance``
        Activation vectors of the window of B*D that the next position of the row no longer needs, 1..B*D. At the end
        of a row none is kept.
    ``accumulate``
        Add a vector of ``i_psum`` to each vector that leaves by ``o_psum``.
    """
    wrf, arf = config.wrf_depth, config.arf_depth
    codebook = config.features.codebook
    return data.StructLayout(
        {
            **({"codewords": range(config.k + 1)} if codebook else {}),
            "start": 1,
            "A": range(min(wrf, config.prf_depth) + 1),
            "B": range(min(wrf, arf) + 1),
            "D": range(min(wrf, arf) + 1),
            **({"raw": 1} if codebook else {}),
            "rows": range(config.H + 1),
            "width": config.loop_bits,
            "height": config.loop_bits,
            "advance": range(min(wrf, arf) + 1),
            "accumulate": 1,
        }
    )


class LoopNest(wiring.Component):
    """Nested counters ``q < D: r < B: s < A``, the inner loops of MVQ figure 7; wraps to zero after the last step.

    Members
    -------
    i_A, i_B, i_D
        The bounds, constant while the nest runs.
    i_step
        Go to the next iteration.
    o_first
        The iteration is the first for its s: q = r = 0.
    o_last_s, o_last_r, o_last_q
        The counter is at its last value.
    o_last
        All three are: the iteration is the last.
    o_s
        The innermost counter.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.layout = layout = command_layout(config)
        super().__init__(
            {
                **{f"i_{name}": In(layout[name].shape) for name in "ABD"},
                "i_step": In(1),
                "o_first": Out(1),
                "o_last_s": Out(1),
                "o_last_r": Out(1),
                "o_last_q": Out(1),
                "o_last": Out(1),
                "o_s": Out(layout["A"].shape),
            }
        )

    def elaborate(self, platform):
        m = Module()
        s, r, q = (
            Signal.like(getattr(self, f"i_{bound}"), name=name) for name, bound in zip("srq", "ABD", strict=True)
        )
        m.d.comb += [
            self.o_first.eq((q == 0) & (r == 0)),
            self.o_last_s.eq(s + 1 == self.i_A),
            self.o_last_r.eq(r + 1 == self.i_B),
            self.o_last_q.eq(q + 1 == self.i_D),
            self.o_last.eq(self.o_last_s & self.o_last_r & self.o_last_q),
            self.o_s.eq(s),
        ]
        with m.If(self.i_step):
            m.d.sync += s.eq(s + 1)
            with m.If(self.o_last_s):
                m.d.sync += [s.eq(0), r.eq(r + 1)]
                with m.If(self.o_last_r):
                    m.d.sync += [r.eq(0), q.eq(q + 1)]
                    with m.If(self.o_last_q):
                        m.d.sync += q.eq(0)
        return m
