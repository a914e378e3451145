"""The board's processor against an interpreter of its instructions, and the times that it waits."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from hw.boards.processor import REGISTERS, Instruction, Operation, Processor

WORD = (1 << 32) - 1
SIZE, PATIENCE = 64, 20
EXPECTED = bytes(range(100, 140))


@dataclass
class Interpreter:
    """What a program does, from the meaning of its instructions alone."""

    given: list[int]
    a: int = 0
    pointer: int = 0
    leds: int = 0
    registers: list[int] = field(default_factory=lambda: [0] * REGISTERS)
    memory: list[int] = field(default_factory=lambda: [0] * SIZE)
    sent: list[int] = field(default_factory=list)
    stored: dict[int, int] = field(default_factory=dict)

    def run(self, program: list[Instruction]) -> None:
        at = 0
        while at < len(program):
            at = self.step(program[at], at)

    def step(self, x: Instruction, at: int) -> int:
        n, a, name = x.argument, self.a, x.operation.name
        if name == "SET":
            self.a = n
        elif name == "TAKE":
            self.a = self.registers[n]
        elif name == "KEEP":
            self.registers[n] = a
        elif name in ("ADD", "SUBTRACT"):
            self.a = (a + (1 if name == "ADD" else -1) * self.registers[n]) & WORD
        elif name == "LEFT":
            self.a = (a << 8 | a >> 24) & WORD
        elif name == "RIGHT":
            self.a = (a >> 8 | a << 24) & WORD
        elif name in ("PUT", "SEND"):
            self.sent.append((n if name == "PUT" else a) & 255)
        elif name == "DIGIT":
            self.sent.append(ord(f"{a >> 28:X}"))
            self.a = (a << 4 | a >> 28) & WORD
        elif name == "GET":
            self.a = a >> 8 | self.given.pop(0) << 24
        elif name == "LOAD":
            self.a = self.stored.get(n, n + 0x1000)
        elif name == "STORE":
            self.stored[n] = a
        elif name == "POINT":
            self.pointer = a
        elif name == "WHERE":
            self.a = self.pointer
        elif name in ("READ", "WRITE"):
            if name == "READ":
                self.a = self.memory[self.pointer % SIZE]
            else:
                self.memory[self.pointer % SIZE] = a & 255
            self.pointer = self.pointer + 1 & WORD
        elif name == "EXPECTED":
            self.a = EXPECTED[self.registers[7] % 32]
        elif name == "LIGHT":
            self.leds = n & 15
        elif name == "JUMP" or {"IF_ZERO": a == 0, "IF_NOT": a != 0, "IF_NEGATIVE": a >> 31 == 1}[name]:
            return n
        return at + 1


def _program(rng: random.Random, length: int = 250) -> list[Instruction]:
    """Jumps go forwards; sums and digits are met again and again, so that what is wrong shows."""
    found: list[Instruction] = []
    straight = [x for x in Operation if x not in (Operation.WAIT, Operation.POINT, Operation.EXPECTED)]
    # All that EXPECTED and READ may meet is known.
    for value in range(REGISTERS):
        found += [Instruction(Operation.SET, rng.getrandbits(32)), Instruction(Operation.KEEP, value)]
    while len(found) < length:
        operation = rng.choice(straight)
        argument = rng.getrandbits(32)
        if operation.name in ("TAKE", "KEEP", "ADD", "SUBTRACT"):
            argument = rng.randrange(REGISTERS)
        elif operation.name in ("LOAD", "STORE"):
            argument = 4 * rng.randrange(32)
        elif operation.name in ("JUMP", "IF_ZERO", "IF_NOT", "IF_NEGATIVE"):
            argument = len(found) + rng.choice([1, 2, 3])
        elif operation.name == "GET":
            argument = 0
        elif operation.name == "READ":
            found += [Instruction(Operation.SET, rng.randrange(SIZE)), Instruction(Operation.POINT)]
        elif operation.name == "SET":
            argument = rng.choice([0, argument])
        elif operation.name == "KEEP":
            argument %= 7
        found.append(Instruction(operation, argument))
        if rng.random() < 0.05:
            number = Instruction(Operation.SET, rng.randrange(32))
            found += [number, Instruction(Operation.KEEP, 7), Instruction(Operation.EXPECTED)]
        if rng.random() < 0.3:
            found += [Instruction(rng.choice([Operation.DIGIT, Operation.SEND]))]
    return [*found, *[Instruction(Operation.DIGIT)] * 8, Instruction(Operation.LIGHT, 9)]


class Board:
    """What is around the processor, each with pauses; what it has seen."""

    def __init__(self, dut: Processor, given: list[int], seed: int) -> None:
        self.dut, self.given, self.random = dut, list(given), random.Random(seed)
        self.memory, self.sent, self.stored = [0] * SIZE, [], {}
        self.address = self.data = self.answer = self.loaded = None

    async def cycle(self, ctx) -> None:
        dut, axil, rng = self.dut, self.dut.axil, self.random
        willing = {name: rng.random() < 0.6 for name in ("o", "i", "ar", "aw", "w")}
        ctx.set(dut.o_byte.ready, willing["o"])
        ctx.set(dut.i_byte.valid, bool(self.given) and willing["i"])
        ctx.set(dut.i_byte.payload, self.given[0] if self.given else 0)
        for name in ("ar", "aw", "w"):
            ctx.set(getattr(axil, f"{name}ready"), willing[name])
        if willing["o"] and ctx.get(dut.o_byte.valid):
            self.sent.append(ctx.get(dut.o_byte.payload))
        if self.given and willing["i"] and ctx.get(dut.i_byte.ready):
            self.given.pop(0)
        reading = ctx.get(dut.o_read)
        address = ctx.get(dut.o_address)
        if ctx.get(dut.o_write):
            self.memory[address] = ctx.get(dut.o_data)
        taken = {name: willing[name] and ctx.get(getattr(axil, f"{name}valid")) for name in ("ar", "aw", "w")}
        answered = ctx.get(axil.bvalid), ctx.get(axil.rvalid)
        if taken["ar"]:
            assert self.loaded is None
            self.loaded = ctx.get(axil.araddr)
        if taken["aw"]:
            assert self.address is None
            self.address = ctx.get(axil.awaddr)
        if taken["w"]:
            assert self.data is None
            assert ctx.get(axil.wstrb) == 15
            self.data = ctx.get(axil.wdata)
        await ctx.tick()
        ctx.set(dut.i_data, self.memory[address] if reading else 0xEE)
        ctx.set(axil.bvalid, 0)
        ctx.set(axil.rvalid, 0)
        assert not (answered[0] and not ctx.get(axil.bready) and self.address is not None)
        if self.address is not None and self.data is not None:
            self.stored[self.address] = self.data
            self.address = self.data = None
            ctx.set(axil.bvalid, 1)
        if self.loaded is not None:
            ctx.set(axil.rdata, self.stored.get(self.loaded, self.loaded + 0x1000))
            self.loaded = None
            ctx.set(axil.rvalid, 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_programs_do_what_their_instructions_mean(seed: int, simulate) -> None:
    program, given = _program(random.Random(seed)), [random.Random(seed).randrange(256) for _ in range(100)]
    wanted = Interpreter(list(given))
    wanted.run(program)
    end = [Instruction(Operation.JUMP, len(program))]
    dut = Processor([*program, *end], EXPECTED, SIZE, PATIENCE)
    board = Board(dut, given, seed)

    async def bench(ctx) -> None:
        for _ in range(4000):
            if ctx.get(dut.o_leds) == 9 and wanted.leds == 9 and len(board.sent) == len(wanted.sent):
                break
            await board.cycle(ctx)
        assert bytes(board.sent) == bytes(wanted.sent)
        assert ctx.get(dut.o_leds) == 9

    simulate(dut, bench)
    assert board.given == wanted.given
    assert board.stored == wanted.stored
    assert board.memory == wanted.memory


def test_waits_end(simulate) -> None:
    """GET goes elsewhere after its patience, WAIT after 256 times its argument or at the interrupt; each anew."""
    i, o = Instruction, Operation
    program = [
        *(i(o.GET, 2), i(o.PUT, 0), i(o.GET, 4), i(o.PUT, 0), i(o.PUT, ord("a"))),
        *(i(o.SET, 7 << 28), i(o.WAIT, 1), i(o.DIGIT), i(o.WAIT, 1), i(o.SEND)),
        *(i(o.SET, 0), i(o.GET, 0), i(o.DIGIT), i(o.JUMP, 13)),
    ]
    dut = Processor(program, b"", SIZE, PATIENCE)

    async def bench(ctx) -> None:
        ctx.set(dut.o_byte.ready, 1)
        got = []

        async def byte(limit: int = 700) -> int:
            for cycle in range(limit):
                valid, payload = ctx.get(dut.o_byte.valid), ctx.get(dut.o_byte.payload)
                await ctx.tick()
                if valid:
                    got.append(chr(payload))
                    return cycle
            raise AssertionError(f"nothing after {got}")

        # Two waits of PATIENCE + 1 cycles, and two cycles of each instruction.
        assert await byte() == 2 * (PATIENCE + 1 + 1) + 1
        assert 256 < await byte() < 270
        for _ in range(100):
            await ctx.tick()
        ctx.set(dut.i_interrupt, 1)
        assert await byte() < 10
        for _ in range(2 * PATIENCE):
            assert not ctx.get(dut.o_byte.valid)
            await ctx.tick()
        ctx.set(dut.i_byte.payload, 0xC3)
        ctx.set(dut.i_byte.valid, 1)
        await byte(10)
        assert got == ["a", "0", "\1", "C"]

    simulate(dut, bench)


def test_arguments_of_instructions_have_32_bits() -> None:
    assert Instruction(Operation.SET, WORD).argument == WORD
    for argument in (-1, WORD + 1):
        with pytest.raises(ValueError, match=rf"argument of SET must be in 0..4294967295, not {argument}"):
            Instruction(Operation.SET, argument)


def test_operations_have_numbers_of_their_own() -> None:
    assert list(Operation) == list(range(24))
    assert len(Operation.__members__) == 24
