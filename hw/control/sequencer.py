"""Sequencer: runs a program, a list of descriptors in DRAM, without a host."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hw.bus.reader import request_layout
from hw.config import AcceleratorConfig
from hw.control.bodies import body_layout
from hw.control.command import command_layout
from hw.control.descriptor import BYTES, EVENTS, Channel, Opcode, VectorOp, body_offsets, head_offsets
from hw.control.errors import Cause

__all__ = ["QUEUE_DEPTH", "CommandQueue", "Sequencer", "store_layout"]

#: Commands that wait for each unit.
QUEUE_DEPTH = 4

_EVENT_BITS = 16


def store_layout() -> data.StructLayout:
    """Command of the store unit: STORE, or RECORD where ``record`` is set."""
    return data.StructLayout({"record": 1, "address": 64, "l2_base": 32, "words": 32})


def _waits_layout() -> data.StructLayout:
    return data.StructLayout({event: _EVENT_BITS for event in EVENTS})


class CommandQueue(wiring.Component):
    """The commands of one unit, each held back until the events that it waits for have happened.

    Parameters
    ----------
    payload
        Layout of a command.
    gated
        The unit's commands wait for events.

    Members
    -------
    i_command
        Commands in program order.
    i_waits
        Beside each command: for every event, the count that it waits for.
    i_events
        What has happened so far.
    o_command
        Commands that may begin.
    o_empty
        No command waits here.
    """

    def __init__(self, payload: data.StructLayout, gated: bool = True) -> None:
        self.payload, self.gated = payload, gated
        super().__init__(
            {
                "i_command": In(stream.Signature(payload)),
                "i_waits": In(_waits_layout()),
                "i_events": In(_waits_layout()),
                "o_command": Out(stream.Signature(payload)),
                "o_empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        waits = _waits_layout().size if self.gated else 0
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=self.payload.size + waits, depth=QUEUE_DEPTH)
        m.d.comb += [
            fifo.w_data.eq(Cat(self.i_command.payload.as_value(), self.i_waits.as_value()[:waits])),
            fifo.w_en.eq(self.i_command.valid),
            self.i_command.ready.eq(fifo.w_rdy),
            self.o_empty.eq(fifo.level == 0),
        ]
        head = fifo.r_data[: self.payload.size]
        if not self.gated:
            m.d.comb += [
                self.o_command.payload.eq(head),
                self.o_command.valid.eq(fifo.r_rdy),
                fifo.r_en.eq(self.o_command.ready),
            ]
            return m

        # A count that has been reached stays reached, so one cycle for the comparison costs nothing but that cycle.
        wanted = data.View(_waits_layout(), fifo.r_data[self.payload.size :])
        full, met = Signal(), Signal()
        command = Signal(self.payload, reset_less=True)
        counts = Signal(_waits_layout(), reset_less=True)
        take = Signal()
        m.d.comb += [
            met.eq(Cat(~(self.i_events[event] - counts[event])[_EVENT_BITS - 1] for event in EVENTS).all()),
            self.o_command.payload.eq(command),
            self.o_command.valid.eq(full & met),
            take.eq(~full | (met & self.o_command.ready)),
            fifo.r_en.eq(take),
            self.o_empty.eq((fifo.level == 0) & ~full),
        ]
        with m.If(take):
            m.d.sync += [full.eq(fifo.r_rdy), command.eq(head), counts.eq(wanted.as_value())]
        return m


class Sequencer(wiring.Component):
    """Fetches descriptors, checks them, and hands them to the units; ends the program and reports what went wrong.

    A program ends well with END, once every unit has done all its commands. It fails with the first error of the bus,
    of a checksum or of a descriptor, or when it is aborted: then the bus masters finish what they have begun and are
    still, and everything behind them is reset. After either end the accelerator is as it was after a reset.

    Parameters
    ----------
    config
        The instance.

    Members
    -------
    i_start, i_address, i_descriptors
        Begin the program of that many descriptors at that byte address; ignored while ``o_busy``.
    i_abort
        End the running program.
    o_busy, o_done, o_failed, o_cause, o_descriptor
        State; pulses at the end; the cause and the number of the last descriptor given out.
    o_count
        Descriptors given out.
    o_descriptor_request, i_words
        The DMA reader's channel of descriptors.
    o_request_weight, o_request_mask, o_request_sign, o_request_parameter
        FETCHes, to the reader's channels that the instance has.
    o_load, o_copy, o_tile, o_read, o_psum, o_output, o_vector, o_store
        Commands of the units: the core, the activation reader and the psum buffer share TILE.
    i_loaded, i_copied, i_fed, i_stored, i_vectored, i_written
        A unit has completed a command.
    i_quiet
        No bus transfer is under way.
    i_error, i_error_cause
        A bus master met an error.
    o_stop, o_reset
        Begin no more bus transfers; reset everything but the sequencer and the registers.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.channels = ["weight", *(name for name in ("mask", "sign") if name in config.streams), "parameter"]
        request = request_layout(config)
        tile = body_layout(Opcode.TILE)
        super().__init__(
            {
                "i_start": In(1),
                "i_address": In(config.address_bits),
                "i_descriptors": In(32),
                "i_abort": In(1),
                "o_busy": Out(1),
                "o_done": Out(1),
                "o_failed": Out(1),
                "o_cause": Out(Cause),
                "o_descriptor": Out(32),
                "o_count": Out(32),
                "o_descriptor_request": Out(stream.Signature(request)),
                "i_words": In(stream.Signature(config.word_width)),
                **{f"o_request_{name}": Out(stream.Signature(request)) for name in self.channels},
                "o_load": Out(stream.Signature(body_layout(Opcode.LOAD))),
                "o_copy": Out(stream.Signature(body_layout(Opcode.COPY))),
                "o_tile": Out(stream.Signature(command_layout(config))),
                "o_read": Out(stream.Signature(tile)),
                "o_psum": Out(stream.Signature(tile)),
                "o_output": Out(stream.Signature(body_layout(Opcode.OUTPUT))),
                "o_vector": Out(stream.Signature(body_layout(Opcode.VECTOR))),
                "o_store": Out(stream.Signature(store_layout())),
                **{f"i_{event}": In(1) for event in EVENTS},
                "i_quiet": In(1),
                "i_error": In(1),
                "i_error_cause": In(Cause),
                "o_stop": Out(1),
                "o_reset": Out(1),
            }
        )

    def _limits(self) -> dict[Opcode, list[tuple[str, int, int]]]:
        """Fields and the range that the units can take; what is not here has the field's own range."""
        config = self.config
        loop = (1 << config.loop_bits) - 1
        l2, ifmap, psum = config.l2_depth - 1, config.l1_ifmap_depth - 1, config.l1_psum_depth - 1
        whole = (1 << 32) - 1
        k = config.k if config.features.codebook else 0
        return {
            Opcode.FETCH: [("words", 1, whole), ("channel", 0, len(Channel) - 1)],
            Opcode.LOAD: [("words", 1, config.l2_depth), ("l2_base", 0, l2)],
            Opcode.STORE: [("words", 1, config.l2_depth), ("l2_base", 0, l2)],
            Opcode.COPY: [
                ("height", 1, 65535),
                ("width", 1, 65535),
                ("groups", 1, 65535),
                ("l2_base", 0, l2),
                ("l1_base", 0, ifmap),
            ],
            Opcode.TILE: [
                ("A", 1, min(config.prf_depth, config.wrf_depth)),
                ("B", 1, min(config.arf_depth, config.wrf_depth)),
                ("D", 1, min(config.arf_depth, config.wrf_depth)),
                ("Dr", 1, min(config.arf_depth, config.wrf_depth)),
                ("rows", 1, config.H),
                ("width", 1, loop),
                ("height", 1, loop),
                ("codewords", 0, k),
                ("advance_columns", 1, config.arf_depth),
                ("passes", 1, 255),
                ("psum_base", 0, psum),
                ("l1_base", 0, ifmap),
            ],
            Opcode.OUTPUT: [
                ("A", 1, min(config.prf_depth, config.wrf_depth)),
                ("width", 1, 65535),
                ("height", 1, 65535),
                ("channels", 1, 65535),
                ("l2_base", 0, l2),
            ],
            Opcode.VECTOR: [
                ("operation", 0, len(VectorOp) - 1),
                ("kernel_rows", 1, 255),
                ("kernel_columns", 1, 255),
                ("height", 1, 65535),
                ("width", 1, 65535),
                ("pixel_words", 1, 65535),
                ("shift", 0, 62),
                ("a_base", 0, l2),
                ("b_base", 0, l2),
                ("l2_base", 0, l2),
            ],
            Opcode.RECORD: [],
            Opcode.END: [],
        }

    def elaborate(self, platform):
        m = Module()
        config = self.config
        per_descriptor = max(1, 8 * BYTES // config.word_width)

        # Assembly: the words of a descriptor, the first one lowest.
        bits = Signal(8 * BYTES, reset_less=True)
        word = Signal(range(per_descriptor + 1))
        total, begun = Signal(32), Signal(32)
        opcode = Signal(8)

        def head(name):
            offset, entry = head_offsets()[name]
            return bits[offset : offset + entry.bits]

        def field(of, name):
            offset, entry = body_offsets(of)[name]
            value = bits[offset : offset + entry.bits]
            return value.as_signed() if entry.signed else value

        # Checks take a few cycles of their own, so that no comparison is in the way of anything.
        m.d.comb += opcode.eq(head("opcode"))
        legal = Signal()
        verdicts = Signal(len(Opcode))
        window, entries, advanced = Signal(16), Signal(24), Signal(16)
        m.d.sync += [
            advanced.eq(field(Opcode.TILE, "advance_columns") * field(Opcode.TILE, "Dr")),
            window.eq(field(Opcode.TILE, "B") * field(Opcode.TILE, "D")),
            entries.eq(window[:9] * field(Opcode.TILE, "A")),
        ]
        for number, of in enumerate(Opcode):
            parts = [opcode == of]
            for name, low, high in self._limits()[of]:
                value = field(of, name)
                entry = body_offsets(of)[name][1]
                if low > entry.range[0]:
                    parts.append(value >= low)
                if high < entry.range[1]:
                    parts.append(value <= high)
            if of in (Opcode.LOAD, Opcode.STORE):
                unit = max(config.l2_word, config.word_width // 8)
                parts.append(field(of, "address")[: unit.bit_length() - 1] == 0)
            if of is Opcode.FETCH:
                parts.append(field(of, "address")[: (config.word_width // 8).bit_length() - 1] == 0)
                present = [channel for channel in Channel if channel.name.lower() in self.channels]
                parts.append(Cat(field(of, "channel") == channel for channel in present).any())
            if of is Opcode.RECORD:
                parts.append(field(of, "address")[:6] == 0)
            if of is Opcode.TILE:
                parts += [window <= config.arf_depth, entries <= config.wrf_depth]
                # With Dr >= 1 this is Dr <= D too.
                parts += [advanced <= field(of, "D"), field(of, "passes") <= field(of, "B")]
                if not config.features.codebook:
                    parts.append(field(of, "raw"))
            if of in (Opcode.FETCH, Opcode.LOAD, Opcode.STORE, Opcode.RECORD) and config.address_bits < 64:
                parts.append(field(of, "address")[config.address_bits :] == 0)
            m.d.sync += verdicts[number].eq(Cat(parts).all())
        m.d.sync += legal.eq(verdicts.any())

        # Queues
        waits = Signal(_waits_layout())
        events = Signal(_waits_layout())
        for event in EVENTS:
            m.d.comb += waits[event].eq(head(f"wait_{event}"))
            m.d.sync += events[event].eq(events[event] + getattr(self, f"i_{event}"))

        dispatch = Signal()
        empties, readies = [], {of: [] for of in Opcode}

        def queue(name, of, payload, values, output, gated=True):
            unit = CommandQueue(payload, gated)
            m.submodules[f"queue_{name}"] = ResetInserter(self.o_reset)(unit)
            others = readies[of]
            others.append(unit.i_command.ready)
            m.d.comb += [
                *(unit.i_command.payload[key].eq(value) for key, value in values.items()),
                unit.i_waits.eq(waits),
                unit.i_events.eq(events),
            ]
            wiring.connect(m, unit.o_command, wiring.flipped(output))
            empties.append(unit.o_empty)
            return unit

        def body(of):
            return {name: field(of, name) for name in body_offsets(of)}

        queues = [
            (Opcode.LOAD, queue("load", Opcode.LOAD, body_layout(Opcode.LOAD), body(Opcode.LOAD), self.o_load)),
            (Opcode.COPY, queue("copy", Opcode.COPY, body_layout(Opcode.COPY), body(Opcode.COPY), self.o_copy)),
        ]
        tile = body(Opcode.TILE)
        command = command_layout(config)
        values = {name: tile[name] for name in command.members if name in tile}
        # The window slides by whole kernel columns of Dr * B vectors, however often each vector is sent.
        advance = Signal(command["advance"].shape)
        m.d.sync += advance.eq(advanced[:8] * tile["B"])
        values["advance"] = advance
        queues += [
            (Opcode.TILE, queue("tile", Opcode.TILE, command, values, self.o_tile, gated=False)),
            (Opcode.TILE, queue("read", Opcode.TILE, body_layout(Opcode.TILE), tile, self.o_read)),
            (Opcode.TILE, queue("psum", Opcode.TILE, body_layout(Opcode.TILE), tile, self.o_psum, gated=False)),
        ]
        for name, of, output in (("output", Opcode.OUTPUT, self.o_output), ("vector", Opcode.VECTOR, self.o_vector)):
            queues.append((of, queue(name, of, body_layout(of), body(of), output)))
        store = CommandQueue(store_layout())
        m.submodules.queue_store = ResetInserter(self.o_reset)(store)
        record = opcode == Opcode.RECORD
        m.d.comb += [
            store.i_command.payload.record.eq(record),
            # The address is the first field of both.
            store.i_command.payload.address.eq(field(Opcode.STORE, "address")),
            store.i_command.payload.l2_base.eq(field(Opcode.STORE, "l2_base")),
            store.i_command.payload.words.eq(field(Opcode.STORE, "words")),
            store.i_waits.eq(waits),
            store.i_events.eq(events),
        ]
        wiring.connect(m, store.o_command, wiring.flipped(self.o_store))
        empties.append(store.o_empty)
        readies[Opcode.STORE].append(store.i_command.ready)
        readies[Opcode.RECORD].append(store.i_command.ready)

        accepted = Signal()
        with m.Switch(opcode):
            for of in Opcode:
                with m.Case(of):
                    if of is Opcode.FETCH:
                        with m.Switch(field(of, "channel")):
                            for name in self.channels:
                                with m.Case(Channel[name.upper()]):
                                    m.d.comb += accepted.eq(getattr(self, f"o_request_{name}").ready)
                    else:
                        m.d.comb += accepted.eq(Cat(readies[of]).all() if readies[of] else Const(1))
        for of, unit in queues:
            m.d.comb += unit.i_command.valid.eq(dispatch & (opcode == of) & accepted)
        m.d.comb += store.i_command.valid.eq(
            dispatch & ((opcode == Opcode.STORE) | (opcode == Opcode.RECORD)) & accepted
        )
        for name in self.channels:
            request = getattr(self, f"o_request_{name}")
            chosen = (opcode == Opcode.FETCH) & (field(Opcode.FETCH, "channel") == Channel[name.upper()])
            m.d.comb += [
                request.valid.eq(dispatch & chosen),
                request.payload.address.eq(field(Opcode.FETCH, "address")),
                request.payload.words.eq(field(Opcode.FETCH, "words")),
                request.payload.checksum.eq(field(Opcode.FETCH, "checksum")),
                request.payload.check.eq(1),
            ]

        # Commands that were given out and are not done yet
        outstanding = []
        for taken, event in (
            (self.o_load, "loaded"),
            (self.o_copy, "copied"),
            (self.o_read, "fed"),
            (self.o_output, "stored"),
            (self.o_vector, "vectored"),
            (self.o_store, "written"),
        ):
            count = Signal(range(QUEUE_DEPTH + 4), name=f"outstanding_{event}")
            m.d.sync += count.eq(count + (taken.valid & taken.ready) - getattr(self, f"i_{event}"))
            outstanding.append(count)
        at_rest = Signal()
        m.d.sync += at_rest.eq(Cat(empties).all() & Cat(count == 0 for count in outstanding).all())

        failing = Signal()
        cause = Signal(Cause)
        settle = Signal(3)
        m.d.comb += [
            self.o_descriptor_request.payload.address.eq(self.i_address),
            self.o_descriptor_request.payload.words.eq(self.i_descriptors * per_descriptor),
            self.o_descriptor.eq(Mux(begun == 0, 0, begun - 1)),
            self.o_count.eq(begun),
            self.o_cause.eq(cause),
        ]
        # The first error counts, wherever the program is.
        fault, fault_cause = Signal(), Signal(Cause)
        m.d.comb += [
            fault.eq(self.i_error | self.i_abort),
            fault_cause.eq(Mux(self.i_error, self.i_error_cause, Cause.ABORTED)),
        ]

        def fail(with_cause):
            m.d.sync += [failing.eq(1), cause.eq(with_cause), settle.eq(0)]
            m.next = "STOP"

        with m.FSM() as fsm:
            with m.State("IDLE"), m.If(self.i_start):
                m.d.sync += [total.eq(self.i_descriptors), begun.eq(0), word.eq(0), failing.eq(0), settle.eq(0)]
                m.d.sync += [events.eq(0), *(count.eq(0) for count in outstanding)]
                m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.o_descriptor_request.valid.eq(total != 0)
                with m.If(fault):
                    fail(fault_cause)
                with m.Elif(total == 0):
                    fail(Cause.ILLEGAL_DESCRIPTOR)
                with m.Elif(self.o_descriptor_request.ready):
                    m.next = "ASSEMBLE"
            with m.State("ASSEMBLE"):
                m.d.comb += self.i_words.ready.eq(1)
                with m.If(self.i_words.valid):
                    m.d.sync += word.eq(word + 1)
                    if per_descriptor > 1:
                        m.d.sync += bits.eq(Cat(bits[config.word_width :], self.i_words.payload))
                    else:
                        m.d.sync += bits.eq(self.i_words.payload)
                    with m.If(word == per_descriptor - 1):
                        m.d.sync += [word.eq(0), begun.eq(begun + 1), settle.eq(0)]
                        m.next = "CHECK"
                with m.If(fault):
                    fail(fault_cause)
            with m.State("CHECK"):
                m.d.sync += settle.eq(settle + 1)
                with m.If(fault):
                    fail(fault_cause)
                with m.Elif(settle == 4):
                    with m.If(~legal | ((opcode != Opcode.END) & (begun == total))):
                        fail(Cause.ILLEGAL_DESCRIPTOR)
                    with m.Elif(opcode == Opcode.END):
                        m.d.sync += settle.eq(0)
                        m.next = "DRAIN"
                    with m.Else():
                        m.next = "DISPATCH"
            with m.State("DISPATCH"):
                m.d.comb += dispatch.eq(1)
                with m.If(fault):
                    fail(fault_cause)
                with m.Elif(accepted):
                    m.next = "ASSEMBLE"
            with m.State("DRAIN"):
                # A unit's last pulse and the flag that follows it are a few cycles apart.
                m.d.sync += settle.eq(Mux(at_rest & self.i_quiet, settle + 1, 0))
                with m.If(fault):
                    fail(fault_cause)
                with m.Elif(settle == 7):
                    m.d.sync += settle.eq(0)
                    m.next = "STOP"
            with m.State("STOP"):
                m.d.comb += self.o_stop.eq(1)
                m.d.sync += settle.eq(Mux(self.i_quiet, settle + 1, 0))
                with m.If(settle == 7):
                    m.d.sync += settle.eq(0)
                    m.next = "RESET"
            # All that a program may have left behind goes: words of streams, codewords, half a command.
            with m.State("RESET"):
                m.d.comb += [self.o_stop.eq(1), self.o_reset.eq(1)]
                m.d.sync += settle.eq(settle + 1)
                with m.If(settle == 7):
                    m.d.comb += [self.o_done.eq(~failing), self.o_failed.eq(failing)]
                    m.next = "IDLE"
        m.d.comb += self.o_busy.eq(~fsm.ongoing("IDLE"))
        return m
