"""Activation reader: the activation vectors of a layer tile, from L1 to the core."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.bodies import READ_FIELDS, body_layout
from hw.control.descriptor import Opcode
from hw.memory.ports import ReadPort
from hw.memory.read_queue import ReadQueue

__all__ = ["ActivationReader"]


class ActivationReader(wiring.Component):
    """Runs the reading part of TILE: one vector a cycle, and one tile behind the other without a gap.

    The order is that of the core's ``i_activation``: for every output row and position the kernel columns, rows inside,
    the row groups inside those, each vector ``passes`` times. At the first position of a row all kernel columns are
    sent, at the others the last ``advance_columns``. The address is ``l1_base`` plus each counter times its pitch.

    Members
    -------
    i_command
        TILE.
    o_l1
        Source.
    o_activation
        To the core.
    o_done
        The last vector of a tile has been read.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_command": In(stream.Signature(body_layout(Opcode.TILE, config, READ_FIELDS))),
                "o_l1": Out(ReadPort(config.l1_ifmap_depth, 8 * config.H)),
                "o_activation": Out(stream.Signature(data.ArrayLayout(signed(8), config.H))),
                "o_done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config

        m.submodules.queue = queue = ReadQueue(config.l1_ifmap_depth, 8 * config.H)
        wiring.connect(m, queue.o_port, wiring.flipped(self.o_l1))
        m.d.comb += [
            self.o_activation.payload.as_value().eq(queue.o_word.payload),
            self.o_activation.valid.eq(queue.o_word.valid),
            queue.o_word.ready.eq(self.o_activation.ready),
        ]

        running = Signal()
        offered = self.i_command.payload
        command = Signal(body_layout(Opcode.TILE, config, READ_FIELDS), reset_less=True)
        step = Signal()
        m.d.comb += [
            queue.i_address.valid.eq(running),
            step.eq(running & queue.i_address.ready),
        ]

        # Kernel positions: D fits the register files, and so does everything that counts them.
        positions = range(min(config.wrf_depth, config.arf_depth) + 1)
        D, Dr = Signal(positions), Signal(positions)
        q = Signal(positions)  # kernel positions before the present kernel column
        q_first = Signal(positions)  # those that positions other than a row's first leave out
        B, b = Signal(positions), Signal(positions)
        dr = Signal(positions)
        passed = Signal(positions)  # times that the vector has been sent
        # One ahead, an end is compared alone, and not added to before.
        ahead = int(config.transfer_register)
        position, line = Signal(config.loop_bits), Signal(config.loop_bits)

        def last_of(count: Signal, bound: Value) -> Value:
            return (count if ahead else count + 1) == bound

        loops = ("pass", "b", "dr", "ds", "position", "line")
        last_pass, last_b, last_dr, last_ds, last_position, last_line = (Signal(name=f"last_{name}") for name in loops)
        m.d.comb += [
            last_pass.eq(last_of(passed, command.passes)),
            last_b.eq(last_of(b, B)),
            last_dr.eq(last_of(dr, Dr)),
            last_ds.eq(q + Dr >= D),
            last_position.eq(last_of(position, command.width)),
            last_line.eq(last_of(line, command.height)),
        ]

        # Each loop keeps the address at which its present turn began; a turn's end sets those of all loops inside.
        address = queue.i_address.payload
        at_b, at_dr, at_ds, at_position, at_line = (Signal.like(address, name=f"at_{name}") for name in loops[1:])
        skipped = Signal.like(address)  # from a position's address to that of its first kernel column that is sent
        first = Signal()  # in the tile's first position, which learns ``skipped``
        m.d.comb += address.eq(at_b)

        ends = Signal()
        base, pitch, following = (Signal.like(address, name=name) for name in ("base", "pitch", "following"))
        with m.If(~last_b):
            m.d.comb += [base.eq(at_b), pitch.eq(Mux(last_pass, command.b_pitch, 0))]
        with m.Elif(~last_dr):
            m.d.comb += [base.eq(at_dr), pitch.eq(command.dr_pitch)]
        with m.Elif(~last_ds):
            m.d.comb += [base.eq(at_ds), pitch.eq(command.ds_pitch)]
        with m.Elif(~last_position):
            # The address of a row's first position has nothing left out.
            m.d.comb += [
                base.eq(Mux(position == ahead, at_position + skipped, at_position)),
                pitch.eq(command.position_pitch),
            ]
        with m.Else():
            m.d.comb += [base.eq(at_line), pitch.eq(command.line_pitch), ends.eq(step & last_line)]
        m.d.comb += following.eq(base + pitch)
        with m.If(step):
            m.d.sync += [at_b.eq(following), b.eq(b + 1), passed.eq(Mux(last_pass, ahead, passed + 1))]
            with m.If(last_b):
                m.d.sync += [at_dr.eq(following), b.eq(ahead), dr.eq(dr + 1)]
                with m.If(last_dr):
                    m.d.sync += [at_ds.eq(following), dr.eq(ahead), q.eq(q + Dr)]
                    with m.If(first & (q < q_first)):
                        m.d.sync += skipped.eq(skipped + command.ds_pitch)
                    with m.If(last_ds):
                        m.d.sync += [at_position.eq(following), q.eq(q_first), first.eq(0), position.eq(position + 1)]
                        with m.If(last_position):
                            m.d.sync += [at_line.eq(following), q.eq(0), position.eq(ahead), line.eq(line + 1)]

        m.d.sync += self.o_done.eq(ends)
        m.d.comb += self.i_command.ready.eq(~running | ends)
        with m.If(self.i_command.ready):
            m.d.sync += [
                running.eq(self.i_command.valid),
                command.eq(offered),
                *(base.eq(offered.l1_base) for base in (at_line, at_position, at_ds, at_dr, at_b)),
                *(count.eq(ahead) for count in (passed, b, dr)),
                q.eq(0),
                *(count.eq(ahead) for count in (position, line)),
                skipped.eq(0),
                first.eq(1),
                D.eq(offered.D),
                Dr.eq(offered.Dr),
                B.eq(offered.B),
                # Kernel columns that stay, each of Dr positions
                q_first.eq(offered.D - offered.advance_columns[: len(D)] * offered.Dr[: len(D)]),
            ]
        return m
