"""The accelerator core: everything between the data-access controllers (MVQ section 5.1)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.array.tile import Tile
from hw.config import AcceleratorConfig
from hw.control.command import command_layout
from hw.control.loop_controller import LoopController
from hw.control.weight_loader import WeightLoader
from hw.emission import shared
from hw.memory.register_file import RegisterFile

__all__ = ["EVENTS_LAYOUT", "AcceleratorCore"]

#: Events of a cycle. An operation is issued, or the array waits: for weights if no command runs but one is here, for an
#: activation, or for an entry of the PRF. At most one of these four. And one row of the WRF is written.
EVENTS_LAYOUT = data.StructLayout(
    {"issue": 1, "wait_weights": 1, "wait_activations": 1, "wait_psums": 1, "row_write": 1}
)


class AcceleratorCore(wiring.Component):
    """Weight loader, L/d tiles of H x d, ARF, PRF and loop controller of one instance.

    Runs layer tiles: each command takes its weights from the packed streams, its activations from ``i_activation``,
    and sends one vector of L partial sums for each output position and each s < A. All streams may pause at any time.

    Members
    -------
    i_command
        :func:`hw.control.command.command_layout`, one a layer tile.
    i_weight
        Words of ``word_width`` bits: first the codewords that the command asks for, element 0 in the lowest bits, then
        assignments or raw weights. Codebook, assignments and raw weights begin with a new word each.
    i_mask, i_sign
        Packed words, ``word_width`` bits, as the variant has them. A layer starts with a new word. Order:
        :func:`hw.layout.row_subvectors`.
    i_activation
        H x int8: one activation vector of H input channels; zero where a channel does not exist.
    i_psum
        L x ``psum_width``: partial sums of earlier tiles, for commands with ``accumulate``.
    o_psum
        L x ``psum_width``, in the order position, s.
    o_idle
        Nothing is running or waiting to leave; commands and weights may still be on their way in.
    o_events
        :data:`EVENTS_LAYOUT`: what happened in the cycle before, for performance counters.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        psums = data.ArrayLayout(signed(config.psum_width), config.L)
        members = {
            "i_command": In(stream.Signature(command_layout(config))),
            **{f"i_{name}": In(stream.Signature(config.word_width)) for name in config.channels},
            "i_activation": In(stream.Signature(data.ArrayLayout(signed(8), config.H))),
            "i_psum": In(stream.Signature(psums)),
            "o_psum": Out(stream.Signature(psums)),
            "o_idle": Out(1),
            "o_events": Out(EVENTS_LAYOUT),
        }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self.config

        m.submodules.weight_loader = loader = WeightLoader(config)
        m.submodules.control = control = LoopController(config)
        wiring.connect(m, wiring.flipped(self.i_command), loader.i_command)
        wiring.connect(m, loader.o_command, control.i_command)
        for name in config.channels:
            wiring.connect(m, wiring.flipped(getattr(self, f"i_{name}")), getattr(loader, f"i_{name}"))
        m.d.comb += loader.i_release.eq(control.o_release)

        m.submodules.arf = arf = RegisterFile(config.arf_depth, 8 * config.H)
        activations = Signal(8 * config.H, reset_less=True)
        m.d.comb += [
            control.i_activation_valid.eq(self.i_activation.valid),
            self.i_activation.ready.eq(control.o_activation_ready),
            arf.i_write.eq(self.i_activation.valid & control.o_activation_ready),
            arf.i_write_address.eq(control.o_arf_write_address),
            arf.i_write_data.eq(self.i_activation.payload.as_value()),
            arf.i_address_0.eq(control.o_arf_address),
        ]
        if config.clock_gating:
            # Bit n: an operation was issued n cycles ago.
            issued = Signal(config.latency - 1)
            before = Signal(config.latency - 2)
            m.d.sync += before.eq(issued)
            m.d.comb += issued.eq(Cat(control.o_issue, before))
            with m.If(control.o_issue):
                m.d.sync += activations.eq(arf.o_data_0)
        else:
            m.d.sync += activations.eq(arf.o_data_0)

        # WRF entries of the operations issued in this cycle and in the ones before.
        entries = [control.o_wrf_address]
        mrf_read = config.product_latency - int(config.mrf_register) if config.position_bits else 0
        for stage in range(max(mrf_read, int(config.zero_gating))):
            delayed = Signal.like(control.o_wrf_address, name=f"entry_{stage}", reset_less=True)
            m.d.sync += delayed.eq(entries[-1])
            entries.append(delayed)

        psums = []
        for t in range(config.tiles):
            tile = Tile(config)
            m.submodules[f"tile_{t}"] = shared(tile, platform)
            m.d.comb += [
                tile.i_write.eq(loader.o_write),
                tile.i_write_address.eq(loader.o_write_address),
                tile.i_write_weights.eq(loader.o_write_weights.word_select(t, config.weight_bits * config.multipliers)),
                # With zero gating the weights are looked at beside the registered activations.
                tile.i_address.eq(entries[int(config.zero_gating)]),
                tile.i_activations.eq(activations),
                tile.i_accumulate.eq(control.o_accumulate),
                tile.i_slot.eq(control.o_slot),
                tile.i_drain_slot.eq(control.o_drain_slot),
            ]
            if config.position_bits:
                positions = loader.o_write_positions.word_select(t, config.mrf_width)
                m.d.comb += [
                    tile.i_write_positions.eq(positions),
                    tile.i_mrf_address.eq(entries[mrf_read]),
                ]
            if config.psum_register:
                m.d.comb += [
                    tile.i_next_first.eq(control.o_next_first),
                    tile.i_next_slot.eq(control.o_next_slot),
                    tile.i_forward.eq(control.o_forward),
                ]
            else:
                m.d.comb += tile.i_first.eq(control.o_first)
            if config.clock_gating:
                m.d.comb += tile.i_issued.eq(issued)
            psums.append(tile.o_psums)

        own, adds = Cat(psums), control.o_drain_accumulate
        if config.psum_register:
            self._drain(m, control, own)
        else:
            for lane in range(config.L):
                earlier = Mux(adds, self.i_psum.payload[lane], 0)
                total = own.word_select(lane, config.psum_width) + earlier
                m.d.comb += self.o_psum.payload[lane].eq(total)
            m.d.comb += [
                self.o_psum.valid.eq(control.o_drain_valid & (~adds | self.i_psum.valid)),
                self.i_psum.ready.eq(control.o_drain_valid & adds & self.o_psum.ready),
                control.i_drain.eq(self.o_psum.valid & self.o_psum.ready),
                self.o_idle.eq(control.o_idle),
            ]
        m.d.sync += [
            self.o_events.issue.eq(control.o_issue),
            self.o_events.wait_weights.eq(~control.o_running & (loader.o_busy | self.i_command.valid)),
            self.o_events.wait_activations.eq(control.o_wait_activations),
            self.o_events.wait_psums.eq(control.o_wait_psums),
            self.o_events.row_write.eq(loader.o_write.any()),
        ]
        return m

    def _drain(self, m: Module, control: LoopController, own: Value) -> None:
        """A finished sum waits in a register, beside the earlier one, and not in the PRF for the one who takes it."""
        width = self.config.psum_width
        held, held_earlier = Signal.like(own, reset_less=True), Signal.like(own, reset_less=True)
        held_valid, room, drain = Signal(), Signal(), Signal()
        adds = control.o_drain_accumulate
        m.d.comb += [
            room.eq(~held_valid | self.o_psum.ready),
            drain.eq(control.o_drain_valid & room & (~adds | self.i_psum.valid)),
            self.o_psum.valid.eq(held_valid),
            self.i_psum.ready.eq(control.o_drain_valid & room & adds),
            control.i_drain.eq(drain),
            self.o_idle.eq(control.o_idle & ~held_valid),
        ]
        with m.If(room):
            m.d.sync += held_valid.eq(drain)
        with m.If(drain):
            m.d.sync += [held.eq(own), held_earlier.eq(Mux(adds, self.i_psum.payload.as_value(), 0))]
        for lane in range(self.config.L):
            total = held.word_select(lane, width) + held_earlier.word_select(lane, width)
            m.d.comb += self.o_psum.payload[lane].eq(total)
