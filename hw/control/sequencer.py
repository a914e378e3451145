"""Sequencer: runs a program, a list of descriptors in DRAM, without a host."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.reader import request_layout
from hw.config import AcceleratorConfig
from hw.control.bodies import READ_FIELDS, SUM_FIELDS, body_layout, field_ranges, store_layout
from hw.control.command import command_layout
from hw.control.descriptor import (
    BYTES,
    EVENTS,
    QUEUE_DEPTHS,
    TABLE_BYTES,
    Channel,
    Opcode,
    VectorOp,
    body_offsets,
    head_offsets,
)
from hw.control.errors import Cause

__all__ = ["CommandQueue", "EventCounter", "Sequencer"]

_EVENT_BITS = 16

#: From the last word of a descriptor to its verdict: two for products, one for each check, one for all of them, and the
#: one in which the word is written.
CHECK_CYCLES = 4
#: For which all must be still before a program ends, and for which a reset lasts: a unit's last pulse and the flag that
#: follows it are a few cycles apart.
SETTLE_CYCLES = 7

# Beside its queue a unit holds at most two commands that are not complete.
_PENDING_BITS = (max(QUEUE_DEPTHS.values()) + 2).bit_length()


def _waits_layout() -> data.StructLayout:
    return data.StructLayout({event: _PENDING_BITS for event in EVENTS})


class EventCounter(wiring.Component):
    """What is known about one kind of event, and what a wait for it still waits for.

    Members
    -------
    i_clear
        A program begins.
    i_given
        A command that ends with the event was given out.
    i_done
        The event has happened.
    i_wait
        Count that a descriptor waits for, modulo 2**16.
    o_legal
        That many commands were given out, two cycles after ``i_wait`` came.
    o_left
        Events that must still happen after this cycle.
    o_rest
        All commands that were given out are complete.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "i_clear": In(1),
                "i_given": In(1),
                "i_done": In(1),
                "i_wait": In(_EVENT_BITS),
                "o_legal": Out(1),
                "o_left": Out(_PENDING_BITS),
                "o_rest": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        given, behind = Signal(_EVENT_BITS), Signal(_EVENT_BITS)
        pending = Signal(_PENDING_BITS)
        # The command that is ``behind`` the last one ends as the commands after it are pending.
        left = Signal(_PENDING_BITS)
        m.d.comb += [
            left.eq(Mux(behind < pending, pending - behind[:_PENDING_BITS], 0)),
            self.o_left.eq(left - (self.i_done & (left != 0))),
            self.o_rest.eq(pending == 0),
        ]
        m.d.sync += [
            behind.eq(given - self.i_wait),
            self.o_legal.eq(~behind[-1]),
            pending.eq(pending + self.i_given - self.i_done),
            given.eq(given + self.i_given),
        ]
        with m.If(self.i_clear):
            m.d.sync += [given.eq(0), pending.eq(0)]
        return m


class CommandQueue(wiring.Component):
    """The commands of one unit, each held back until the events that it waits for have happened.

    A command moves on to the next free place each cycle, which takes a multiplexer a bit and nothing else.

    Parameters
    ----------
    payload
        Layout of a command.
    depth
        Places.
    gated
        The unit's commands wait for events.

    Members
    -------
    i_command
        Commands in program order.
    i_left
        Beside each command: how often each event must still happen.
    i_events
        The events of this cycle, in the order of :data:`hw.control.descriptor.EVENTS`.
    o_command
        Commands that may begin.
    o_empty
        No command waits here.
    """

    def __init__(self, payload: data.StructLayout, depth: int, gated: bool = True) -> None:
        self.payload, self.depth, self.gated = payload, depth, gated
        super().__init__(
            {
                "i_command": In(stream.Signature(payload)),
                "i_left": In(_waits_layout()),
                "i_events": In(len(EVENTS)),
                "o_command": Out(stream.Signature(payload)),
                "o_empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        full = Signal(self.depth)
        places = [Signal(self.payload, name=f"place_{i}", reset_less=True) for i in range(self.depth)]
        waits = [Signal(_waits_layout(), name=f"left_{i}", reset_less=True) for i in range(self.depth)]
        m.d.comb += [
            self.i_command.ready.eq(~full.all()),
            self.o_command.payload.eq(places[0]),
            self.o_command.valid.eq(full[0] & (waits[0].as_value() == 0 if self.gated else 1)),
            self.o_empty.eq(~full.any()),
        ]

        free = self.o_command.valid & self.o_command.ready
        for i in range(self.depth):
            move = Signal(name=f"move_{i}")  # this place takes what comes from behind
            m.d.comb += move.eq(free | ~full[i])
            last = i == self.depth - 1
            following = self.i_command.payload if last else places[i + 1]
            with m.If(move):
                m.d.sync += [
                    full[i].eq(self.i_command.valid & self.i_command.ready if last else full[i + 1]),
                    places[i].eq(following),
                ]
            if self.gated:
                # What comes in counts the events of this cycle already.
                here = Mux(
                    move, Const(0, waits[i].shape().size) if last else waits[i + 1].as_value(), waits[i].as_value()
                )
                left = data.View(_waits_layout(), here)
                for event, happens in zip(EVENTS, self.i_events, strict=True):
                    m.d.sync += waits[i][event].eq(left[event] - (happens & (left[event] != 0)))
                if last:
                    with m.If(move):
                        m.d.sync += waits[i].eq(self.i_left)
            free = move
        return m


@dataclass(frozen=True)
class _Descriptor:
    """The descriptor that is assembled in ``bits``, by the names of its fields; ``opcode`` is the first of them."""

    bits: Signal
    opcode: Signal

    def head(self, name: str) -> Value:
        offset, entry = head_offsets()[name]
        return self.bits[offset : offset + entry.bits]

    def field(self, of: Opcode, name: str) -> Value:
        """A field of the body, where the descriptor is one of that opcode."""
        offset, entry = body_offsets(of)[name]
        value = self.bits[offset : offset + entry.bits]
        return value.as_signed() if entry.signed else value


@dataclass(frozen=True)
class _TileSizes:
    """Fields of a TILE, as wide as legal values are, and products of them from registers."""

    B: Value
    D: Value
    advanced: Signal
    window: Signal
    entries: Signal


class Sequencer(wiring.Component):
    """Fetches descriptors, checks them, and hands them to the units; ends the program and reports what went wrong.

    A program ends well with END, once every unit has done all its commands. It fails with the first error of the bus,
    of a checksum or of a descriptor, or when it is aborted: then the bus masters finish what they have begun and are
    still, and everything behind them is reset. After either end the accelerator is as it was after a reset.

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
        layouts = {
            "load": body_layout(Opcode.LOAD, config),
            "copy": body_layout(Opcode.COPY, config),
            "tile": command_layout(config),
            "read": body_layout(Opcode.TILE, config, READ_FIELDS),
            "psum": body_layout(Opcode.TILE, config, SUM_FIELDS),
            "output": body_layout(Opcode.OUTPUT, config),
            "vector": body_layout(Opcode.VECTOR, config),
            "store": store_layout(config),
        }
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
                **{f"o_{name}": Out(stream.Signature(layout)) for name, layout in layouts.items()},
                **{f"i_{event}": In(1) for event in EVENTS},
                "i_quiet": In(1),
                "i_error": In(1),
                "i_error_cause": In(Cause),
                "o_stop": Out(1),
                "o_reset": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # The words of a descriptor, the first one lowest.
        bits = Signal(8 * BYTES, reset_less=True)
        opcode = Signal(8)
        descriptor = _Descriptor(bits, opcode)
        m.d.comb += opcode.eq(descriptor.head("opcode"))

        legal = Signal()
        known = Signal()  # what the descriptor waits for was given out before it
        advance = self._checker(m, descriptor, known, legal)

        clear = Signal()
        counters = {}
        for event in EVENTS:
            m.submodules[event] = counters[event] = EventCounter()
            m.d.comb += [
                counters[event].i_clear.eq(clear),
                counters[event].i_done.eq(getattr(self, f"i_{event}")),
                counters[event].i_wait.eq(descriptor.head(f"wait_{event}")),
            ]
        m.d.comb += known.eq(Cat(counter.o_legal for counter in counters.values()).all())

        dispatch = Signal()
        accepted = Signal()
        computed = {"advance": advance, "record": opcode == Opcode.RECORD}
        queues = self._queues(m, descriptor, computed, counters)
        self._dispatch(m, descriptor, queues, dispatch, accepted)

        at_rest = Signal()
        empties = [unit.o_empty for unit, _ in queues.values()]
        m.d.sync += at_rest.eq(Cat(*empties, *(counter.o_rest for counter in counters.values())).all())
        self._state_machine(m, descriptor, legal, accepted, at_rest, clear, dispatch)
        return m

    def _checker(self, m: Module, descriptor: _Descriptor, known: Signal, legal: Signal) -> Signal:
        """Drives ``legal``, :data:`CHECK_CYCLES` after the descriptor; returns vectors by which a TILE's window slides.

        The checks take cycles of their own, so that no comparison is in the way of anything.
        """
        config = self.config
        verdicts = Signal(len(Opcode))
        # Products of legal values; others are refused by their own ranges.
        A, B, D, Dr, columns = (
            descriptor.field(Opcode.TILE, name)[: field_ranges(Opcode.TILE, config)[name][1].bit_length()]
            for name in ("A", "B", "D", "Dr", "advance_columns")
        )
        advanced, window = Signal.like(columns * Dr), Signal.like(B * D)
        entries, advance = Signal.like(window * A), Signal.like(advanced * B)
        m.d.sync += [
            advanced.eq(columns * Dr),
            window.eq(B * D),
            entries.eq(window * A),
            # The window slides by whole kernel columns of Dr * B vectors, however often each vector is sent.
            advance.eq(advanced * B),
        ]
        sizes = _TileSizes(B, D, advanced, window, entries)
        for number, of in enumerate(Opcode):
            m.d.sync += verdicts[number].eq(Cat(self._limits(of, descriptor, sizes, known)).all())
        m.d.sync += legal.eq(verdicts.any())
        return advance

    def _limits(self, of: Opcode, descriptor: _Descriptor, sizes: _TileSizes, known: Signal) -> list[Value]:
        """What must hold for the descriptor to be a legal one of that opcode."""
        config = self.config
        parts = [descriptor.opcode == of]
        for name, (low, high) in field_ranges(of, config).items():
            value = descriptor.field(of, name)
            entry = body_offsets(of)[name][1]
            if low > entry.range[0]:
                parts.append(value >= low)
            if high < entry.range[1]:
                # The range of addresses is a power of two: no comparison.
                parts.append(value <= high if high & (high + 1) else value[high.bit_length() :] == 0)
        if of in (Opcode.LOAD, Opcode.STORE):
            unit = max(config.l2_word, config.word_width // 8)
            parts.append(descriptor.field(of, "address")[: unit.bit_length() - 1] == 0)
        if of is Opcode.FETCH:
            parts.append(descriptor.field(of, "address")[: (config.word_width // 8).bit_length() - 1] == 0)
            present = [channel for channel in Channel if channel.name.lower() in self.channels]
            parts.append(Cat(descriptor.field(of, "channel") == channel for channel in present).any())
        if of is Opcode.RECORD:
            parts.append(descriptor.field(of, "address")[:6] == 0)
        if of is Opcode.TILE:
            parts += [sizes.window <= config.arf_depth, sizes.entries <= config.tile_weights]
            # With Dr >= 1 this is Dr <= D too.
            parts += [sizes.advanced <= sizes.D, descriptor.field(of, "passes") <= sizes.B]
            if not config.features.codebook:
                parts.append(descriptor.field(of, "raw"))
        if of is Opcode.VECTOR and config.full_vector_unit:
            # A table is taken as a whole, or the unit would wait for the rest of it.
            table = dict.fromkeys(("kernel_rows", "kernel_columns", "height", "width"), 1)
            table["pixel_words"] = TABLE_BYTES // config.l2_word
            whole = Cat(descriptor.field(of, name) == size for name, size in table.items()).all()
            parts.append((descriptor.field(of, "operation") != VectorOp.TABLE) | whole)
        if of not in (Opcode.FETCH, Opcode.END):
            parts.append(known)
        return parts

    def _queues(
        self, m: Module, descriptor: _Descriptor, computed: dict[str, Value], counters: dict[str, EventCounter]
    ) -> dict[str, tuple[CommandQueue, list[Opcode]]]:
        """The queues before the units, with the opcodes that each takes; ``computed`` are fields that are not sent."""
        queues = {}
        for name, opcodes, event in (
            ("load", [Opcode.LOAD], "loaded"),
            ("copy", [Opcode.COPY], "copied"),
            ("tile", [Opcode.TILE], None),
            ("read", [Opcode.TILE], "fed"),
            ("psum", [Opcode.TILE], None),
            ("output", [Opcode.OUTPUT], "stored"),
            ("vector", [Opcode.VECTOR], "vectored"),
            # The address is the first field of both.
            ("store", [Opcode.STORE, Opcode.RECORD], "written"),
        ):
            of, output = opcodes[0], getattr(self, f"o_{name}")
            unit = CommandQueue(output.payload.shape(), QUEUE_DEPTHS[of], gated=event is not None)
            m.submodules[f"queue_{name}"] = ResetInserter(self.o_reset)(unit)
            command = unit.i_command
            m.d.comb += [
                *(
                    command.payload[key].eq(computed[key] if key in computed else descriptor.field(of, key))
                    for key in unit.payload.members
                ),
                *(unit.i_left[key].eq(counter.o_left) for key, counter in counters.items()),
                unit.i_events.eq(Cat(getattr(self, f"i_{key}") for key in EVENTS)),
            ]
            wiring.connect(m, unit.o_command, wiring.flipped(output))
            queues[name] = unit, opcodes
            if event:
                m.d.comb += counters[event].i_given.eq(command.valid)
        return queues

    def _dispatch(
        self,
        m: Module,
        descriptor: _Descriptor,
        queues: dict[str, tuple[CommandQueue, list[Opcode]]],
        dispatch: Signal,
        accepted: Signal,
    ) -> None:
        """Gives the descriptor out while ``dispatch``, once all that take it are ready, which is ``accepted``."""
        with m.Switch(descriptor.opcode):
            for of in Opcode:
                with m.Case(of):
                    if of is Opcode.FETCH:
                        with m.Switch(descriptor.field(of, "channel")):
                            for name in self.channels:
                                with m.Case(Channel[name.upper()]):
                                    m.d.comb += accepted.eq(getattr(self, f"o_request_{name}").ready)
                    else:
                        takers = [unit for unit, opcodes in queues.values() if of in opcodes]
                        m.d.comb += accepted.eq(Cat(unit.i_command.ready for unit in takers).all())
                        m.d.comb += [unit.i_command.valid.eq(dispatch & accepted) for unit in takers]
        for name in self.channels:
            request = getattr(self, f"o_request_{name}")
            chosen = (descriptor.opcode == Opcode.FETCH) & (
                descriptor.field(Opcode.FETCH, "channel") == Channel[name.upper()]
            )
            m.d.comb += [
                request.valid.eq(dispatch & chosen),
                request.payload.address.eq(descriptor.field(Opcode.FETCH, "address")),
                request.payload.words.eq(descriptor.field(Opcode.FETCH, "words")),
                request.payload.checksum.eq(descriptor.field(Opcode.FETCH, "checksum")),
                request.payload.check.eq(1),
            ]

    def _state_machine(
        self,
        m: Module,
        descriptor: _Descriptor,
        legal: Signal,
        accepted: Signal,
        at_rest: Signal,
        clear: Signal,
        dispatch: Signal,
    ) -> None:
        """Assembles a descriptor after the other, has it checked and given out, and ends the program.

        It drives ``clear`` where a program begins, and ``dispatch``.
        """
        per_descriptor = max(1, 8 * BYTES // self.config.word_width)
        bits = descriptor.bits
        word = Signal(range(per_descriptor + 1))
        total, begun = Signal(32), Signal(32)
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
                m.d.comb += clear.eq(1)
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
                        m.d.sync += bits.eq(Cat(bits[self.config.word_width :], self.i_words.payload))
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
                with m.Elif(settle == CHECK_CYCLES):
                    with m.If(~legal | ((descriptor.opcode != Opcode.END) & (begun == total))):
                        fail(Cause.ILLEGAL_DESCRIPTOR)
                    with m.Elif(descriptor.opcode == Opcode.END):
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
                with m.Elif(settle == SETTLE_CYCLES):
                    m.d.sync += settle.eq(0)
                    m.next = "STOP"
            with m.State("STOP"):
                m.d.comb += self.o_stop.eq(1)
                m.d.sync += settle.eq(Mux(self.i_quiet, settle + 1, 0))
                with m.If(settle == SETTLE_CYCLES):
                    m.d.sync += settle.eq(0)
                    m.next = "RESET"
            # All that a program may have left behind goes: words of streams, codewords, half a command.
            with m.State("RESET"):
                m.d.comb += [self.o_stop.eq(1), self.o_reset.eq(1)]
                m.d.sync += settle.eq(settle + 1)
                with m.If(settle == SETTLE_CYCLES):
                    m.d.comb += [self.o_done.eq(~failing), self.o_failed.eq(failing)]
                    m.next = "IDLE"
        m.d.comb += self.o_busy.eq(~fsm.ongoing("IDLE"))
