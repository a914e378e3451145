"""A tile of H x d: rows of multipliers, an adder tree a lane, and the lanes' partial sums (MVQ table 2)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.array.adder_tree import AdderTree
from hw.array.tile_row import TileRow, optional_members
from hw.config import AcceleratorConfig
from hw.emission import shared
from hw.memory.register_file import RegisterFile

__all__ = ["Tile"]


class Tile(wiring.Component):
    """One operation a cycle: read a WRF entry of all H rows, multiply, add over the rows, accumulate into a PRF entry.

    Members
    -------
    i_write
        H bits: the rows to write.
    i_write_address, i_write_weights, i_write_positions
        As for :class:`hw.array.tile_row.TileRow`.
    i_address, i_mrf_address
        WRF entry of the operation issued in this cycle, or in the one before with zero gating; MRF entry of the one
        issued ``product_latency`` cycles before, one less with an MRF register.
    i_activations
        H x 8 bits for the operation issued one cycle before.
    i_accumulate, i_first, i_slot
        For the operation issued ``latency - 1`` cycles before: write the PRF, start from zero, the PRF entry.
    i_next_first, i_next_slot, i_forward
        With a psum register, in place of ``i_first``: the latter two of the operation issued one cycle after that one,
        and whether it accumulates to the sum that is being written.
    i_drain_slot, o_psums
        A read port of the PRF: ``d`` x ``psum_width`` bits.
    i_issued
        With clock gating: bit n is high if an operation was issued n cycles before, n < ``latency - 1``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        address, slot = (config.wrf_depth - 1).bit_length(), (config.prf_depth - 1).bit_length()
        members = {
            "i_write": In(config.H),
            "i_write_address": In(address),
            "i_write_weights": In(config.weight_bits * config.multipliers),
            "i_address": In(address),
            "i_activations": In(8 * config.H),
            "i_accumulate": In(1),
            **({"i_next_first": In(1)} if config.psum_register else {"i_first": In(1)}),
            "i_slot": In(slot),
            **({"i_next_slot": In(slot), "i_forward": In(1)} if config.psum_register else {}),
            "i_drain_slot": In(slot),
            "o_psums": Out(config.d * config.psum_width),
        }
        super().__init__(members | optional_members(config))

    def elaborate(self, platform):
        m = Module()
        config = self.config
        width = config.product_width

        rows = []
        for h in range(config.H):
            row = TileRow(config)
            m.submodules[f"row_{h}"] = shared(row, platform)
            m.d.comb += [
                row.i_write.eq(self.i_write[h]),
                row.i_write_address.eq(self.i_write_address),
                row.i_write_weights.eq(self.i_write_weights),
                row.i_address.eq(self.i_address),
                row.i_activation.eq(self.i_activations.word_select(h, 8)),
            ]
            if config.position_bits:
                m.d.comb += [
                    row.i_write_positions.eq(self.i_write_positions),
                    row.i_mrf_address.eq(self.i_mrf_address),
                ]
            if config.clock_gating:
                m.d.comb += row.i_issued.eq(self.i_issued)
            rows.append(row)

        m.submodules.prf = prf = RegisterFile(config.prf_depth, config.d * config.psum_width, ports=2)
        m.d.comb += [
            prf.i_write.eq(self.i_accumulate),
            prf.i_write_address.eq(self.i_slot),
            prf.i_address_0.eq(self.i_next_slot if config.psum_register else self.i_slot),
            prf.i_address_1.eq(self.i_drain_slot),
            self.o_psums.eq(prf.o_data_1),
        ]
        sums = []
        for lane in range(config.d):
            tree = AdderTree(config.H, width, config.tree_register_levels, config.clock_gating)
            m.submodules[f"tree_{lane}"] = shared(tree, platform)
            if tree.enabled:
                m.d.comb += tree.i_enable.eq(self.i_issued[config.product_latency :])
            psum = Signal(config.psum_width, name=f"psum_{lane}")
            held = prf.o_data_0.word_select(lane, config.psum_width)
            if config.psum_register:
                before = Signal(config.psum_width, name=f"before_{lane}", reset_less=True)
                with m.If(self.i_issued[config.latency - 2] if config.clock_gating else 1):
                    m.d.sync += before.eq(Mux(self.i_next_first, 0, Mux(self.i_forward, psum, held)))
            else:
                before = Mux(self.i_first, 0, held)
            m.d.comb += [
                tree.i_products.eq(Cat(row.o_products.word_select(lane, width) for row in rows)),
                psum.eq(before + tree.o_sum),
            ]
            sums.append(psum)
        m.d.comb += prf.i_write_data.eq(Cat(sums))
        return m
