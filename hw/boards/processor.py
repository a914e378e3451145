"""A small processor that runs the self-test and serves the UART: one accumulator, a ROM of instructions.

It does one thing at a time and takes two cycles or more for each, which is much faster than a UART.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi import Axi4LiteSignature
from hw.bus.register_map import ADDRESS_BITS

__all__ = ["REGISTERS", "Instruction", "Operation", "Processor"]

#: Registers beside the accumulator.
REGISTERS = 8


class Operation(IntEnum):
    """What an instruction does. ``a`` is the accumulator, ``n`` the argument; words have 32 bits."""

    #: a = n
    SET = 0
    #: a = register n
    TAKE = 1
    #: register n = a
    KEEP = 2
    #: a = a + register n
    ADD = 3
    #: a = a - register n
    SUBTRACT = 4
    #: a, turned left by 8 bits
    LEFT = 5
    #: a, turned right by 8 bits
    RIGHT = 6
    #: Send the byte n.
    PUT = 7
    #: Send the lowest byte of a.
    SEND = 8
    #: Send the highest four bits of a as a hexadecimal digit, and turn a left by 4.
    DIGIT = 9
    #: Wait for a byte: a = a >> 8, and the byte at the top. After a time without one, go to n unless that is 0.
    GET = 10
    #: a = the accelerator's register at n
    LOAD = 11
    #: The accelerator's register at n = a
    STORE = 12
    #: The pointer into the memory = a
    POINT = 13
    #: a = the pointer
    WHERE = 14
    #: a = the byte of the memory at the pointer, which goes on by one
    READ = 15
    #: The byte of the memory at the pointer = the lowest byte of a; the pointer goes on by one.
    WRITE = 16
    #: a = of the expected bytes, the one whose number is in register 7
    EXPECTED = 17
    #: Wait for the interrupt, at most n * 256 cycles: a = 1 if it came, else 0.
    WAIT = 18
    #: Go to n.
    JUMP = 19
    #: Go to n if a is 0.
    IF_ZERO = 20
    #: Go to n if a is not 0.
    IF_NOT = 21
    #: Go to n if a is negative as a signed number.
    IF_NEGATIVE = 22
    #: The LEDs = n
    LIGHT = 23


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Raises
    ------
    ValueError
        The argument has more than 32 bits.
    """

    operation: Operation
    argument: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.argument < 1 << 32:
            raise ValueError(f"argument of {self.operation.name} must be in 0..{(1 << 32) - 1}, not {self.argument}")


_WORD = data.StructLayout({"argument": 32, "operation": 5})


class Processor(wiring.Component):
    """Runs a program from address 0 on after reset.

    Parameters
    ----------
    program
        Instructions, at least 2.
    expected
        The bytes that EXPECTED gives.
    size
        Bytes of the memory.
    patience
        Cycles that GET waits for a byte before it goes elsewhere.
    leds
        Number of LEDs.

    Members
    -------
    axil
        The accelerator's registers.
    i_interrupt
        The accelerator's interrupt.
    i_byte, o_byte
        From and to the UART.
    o_address, o_read, o_write, o_data, i_data
        The memory's byte port (:class:`hw.boards.memory.BoardMemory`).
    o_leds
        As LIGHT has set them.
    """

    def __init__(
        self, program: Sequence[Instruction], expected: bytes, size: int, patience: int, leds: int = 4
    ) -> None:
        self.program, self.expected, self.size = tuple(program), bytes(expected) or b"\0", size
        self.patience, self.leds = patience, leds
        super().__init__(
            {
                "axil": Out(Axi4LiteSignature(ADDRESS_BITS)),
                "i_interrupt": In(1),
                "i_byte": In(stream.Signature(8)),
                "o_byte": Out(stream.Signature(8)),
                "o_address": Out(range(size)),
                "o_read": Out(1),
                "o_write": Out(1),
                "o_data": Out(8),
                "i_data": In(8),
                "o_leds": Out(leds),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axil = self.axil
        words = [x.operation << 32 | x.argument for x in self.program]
        m.submodules.rom = rom = memory.Memory(shape=37, depth=max(2, len(words)), init=words)
        fetch = rom.read_port()
        m.submodules.golden = golden = memory.Memory(
            shape=8, depth=max(2, len(self.expected)), init=list(self.expected)
        )
        known = golden.read_port()
        m.submodules.file = file = memory.Memory(shape=32, depth=REGISTERS, init=[])
        keep, take = file.write_port(), file.read_port(domain="comb")

        pc = Signal(range(max(2, len(words))))
        instruction = data.View(_WORD, fetch.data)
        n = instruction.argument
        a = Signal(32)
        pointer = Signal(32)
        index = Signal(32)  # register 7, for EXPECTED
        timer = Signal(40)
        leds = Signal(self.leds)
        m.d.comb += [
            fetch.addr.eq(pc),
            fetch.en.eq(1),
            take.addr.eq(n[:3]),
            keep.addr.eq(n[:3]),
            keep.data.eq(a),
            known.addr.eq(index),
            known.en.eq(1),
            self.o_address.eq(pointer),
            self.o_data.eq(a),
            self.o_leds.eq(leds),
            axil.awaddr.eq(n),
            axil.araddr.eq(n),
            axil.wdata.eq(a),
            axil.wstrb.eq(0b1111),
        ]

        def next_instruction(at=None):
            m.d.sync += [pc.eq(pc + 1 if at is None else at), timer.eq(0)]
            m.next = "FETCH"

        with m.FSM():
            with m.State("FETCH"):
                m.next = "EXECUTE"
            with m.State("EXECUTE"), m.Switch(instruction.operation):
                with m.Case(Operation.SET.value):
                    m.d.sync += a.eq(n)
                    next_instruction()
                with m.Case(Operation.TAKE.value):
                    m.d.sync += a.eq(take.data)
                    next_instruction()
                with m.Case(Operation.KEEP.value):
                    m.d.comb += keep.en.eq(1)
                    with m.If(n[:3] == 7):
                        m.d.sync += index.eq(a)
                    next_instruction()
                with m.Case(Operation.ADD.value):
                    m.d.sync += a.eq(a + take.data)
                    next_instruction()
                with m.Case(Operation.SUBTRACT.value):
                    m.d.sync += a.eq(a - take.data)
                    next_instruction()
                with m.Case(Operation.LEFT.value):
                    m.d.sync += a.eq(a.rotate_left(8))
                    next_instruction()
                with m.Case(Operation.RIGHT.value):
                    m.d.sync += a.eq(a.rotate_right(8))
                    next_instruction()
                self._byte_cases(m, a, n, timer, next_instruction)
                self._bus_cases(m, a, next_instruction)
                with m.Case(Operation.POINT.value):
                    m.d.sync += pointer.eq(a)
                    next_instruction()
                with m.Case(Operation.WHERE.value):
                    m.d.sync += a.eq(pointer)
                    next_instruction()
                with m.Case(Operation.READ.value):
                    m.d.comb += self.o_read.eq(1)
                    m.next = "READ"
                with m.Case(Operation.WRITE.value):
                    m.d.comb += self.o_write.eq(1)
                    m.d.sync += pointer.eq(pointer + 1)
                    next_instruction()
                with m.Case(Operation.EXPECTED.value):
                    m.d.sync += a.eq(known.data)
                    next_instruction()
                with m.Case(Operation.WAIT.value):
                    m.d.sync += timer.eq(timer + 1)
                    with m.If(self.i_interrupt):
                        m.d.sync += a.eq(1)
                        next_instruction()
                    with m.Elif(timer == Cat(Const(0, 8), n)):
                        m.d.sync += a.eq(0)
                        next_instruction()
                with m.Case(Operation.JUMP.value):
                    next_instruction(n)
                for operation, condition in (
                    (Operation.IF_ZERO, a == 0),
                    (Operation.IF_NOT, a != 0),
                    (Operation.IF_NEGATIVE, a[31]),
                ):
                    with m.Case(operation.value):
                        next_instruction(Mux(condition, n, pc + 1))
                with m.Case(Operation.LIGHT.value):
                    m.d.sync += leds.eq(n)
                    next_instruction()
            with m.State("READ"):
                m.d.sync += [a.eq(self.i_data), pointer.eq(pointer + 1)]
                next_instruction()
        return m

    def _byte_cases(self, m: Module, a: Signal, n: Value, timer: Signal, next_instruction: Callable[..., None]) -> None:
        """Instructions that send and receive."""
        digit = a[28:]
        with m.Case(Operation.PUT.value):
            m.d.comb += [self.o_byte.payload.eq(n), self.o_byte.valid.eq(1)]
            with m.If(self.o_byte.ready):
                next_instruction()
        with m.Case(Operation.SEND.value):
            m.d.comb += [self.o_byte.payload.eq(a), self.o_byte.valid.eq(1)]
            with m.If(self.o_byte.ready):
                next_instruction()
        with m.Case(Operation.DIGIT.value):
            m.d.comb += [
                self.o_byte.payload.eq(Mux(digit < 10, digit + ord("0"), digit + (ord("A") - 10))),
                self.o_byte.valid.eq(1),
            ]
            with m.If(self.o_byte.ready):
                m.d.sync += a.eq(a.rotate_left(4))
                next_instruction()
        with m.Case(Operation.GET.value):
            m.d.comb += self.i_byte.ready.eq(1)
            m.d.sync += timer.eq(timer + 1)
            with m.If(self.i_byte.valid):
                m.d.sync += a.eq(Cat(a[8:], self.i_byte.payload))
                next_instruction()
            with m.Elif((n != 0) & (timer == self.patience)):
                next_instruction(n)

    def _bus_cases(self, m: Module, a: Signal, next_instruction: Callable[..., None]) -> None:
        """Instructions that read and write the accelerator's registers."""
        axil = self.axil
        asked, given = Signal(), Signal()
        with m.Case(Operation.LOAD.value):
            m.d.comb += [axil.arvalid.eq(~asked), axil.rready.eq(1)]
            with m.If(axil.arvalid & axil.arready):
                m.d.sync += asked.eq(1)
            with m.If(axil.rvalid):
                m.d.sync += [a.eq(axil.rdata), asked.eq(0)]
                next_instruction()
        with m.Case(Operation.STORE.value):
            m.d.comb += [axil.awvalid.eq(~asked), axil.wvalid.eq(~given), axil.bready.eq(1)]
            with m.If(axil.awvalid & axil.awready):
                m.d.sync += asked.eq(1)
            with m.If(axil.wvalid & axil.wready):
                m.d.sync += given.eq(1)
            with m.If(axil.bvalid):
                m.d.sync += [asked.eq(0), given.eq(0)]
                next_instruction()
