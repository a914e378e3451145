"""UART, memory and processor of a board; and all of it with the accelerator runs a layer, in Amaranth's simulator."""

from __future__ import annotations

import pytest
from amaranth.hdl import Signal

from hw.boards.firmware import SelfTest, configuration_number
from hw.boards.memory import BoardMemory
from hw.boards.processor import Instruction, Operation
from hw.boards.protocol import check_word
from hw.boards.uart import UartReceiver, UartTransmitter
from hw.config import ConfigError, preset


def line_of(byte: int, divisor: int) -> list[int]:
    """The levels of a frame, independent of the hardware: start, eight bits from the lowest on, stop."""
    return [level for level in (0, *(byte >> bit & 1 for bit in range(8)), 1) for _ in range(divisor)]


@pytest.mark.parametrize("divisor", [8, 11])
def test_transmitter_sends_frames(divisor: int, simulate) -> None:
    unit = UartTransmitter(divisor)
    sent = [0x00, 0xFF, 0xA5, 0x01, 0x80]

    async def bench(ctx) -> None:
        waiting, levels = sent[:], []
        for _ in range(60 * divisor):
            if waiting:
                ctx.set(unit.i_byte.payload, waiting[0])
            ctx.set(unit.i_byte.valid, bool(waiting))
            if waiting and ctx.get(unit.i_byte.ready):
                waiting.pop(0)
            levels.append(ctx.get(unit.o_tx))
            await ctx.tick()
        found = []
        while 0 in levels:
            levels = levels[levels.index(0) :]
            frame, levels = levels[: 10 * divisor], levels[10 * divisor :]
            byte = sum(frame[(bit + 1) * divisor + divisor // 2] << bit for bit in range(8))
            assert frame == line_of(byte, divisor)
            found.append(byte)
        assert found == sent

    simulate(unit, bench)


@pytest.mark.parametrize(("divisor", "sender"), [(8, 8), (16, 16), (50, 48), (50, 52)])
def test_receiver_takes_frames_of_nearly_its_speed(divisor: int, sender: int, simulate) -> None:
    unit = UartReceiver(divisor)
    sent = [0x5A, 0x00, 0xFF, 0x96]

    async def bench(ctx) -> None:
        ctx.set(unit.o_byte.ready, 1)
        # A spike, a frame without a stop bit, and what follows it.
        levels = [1] * 20 + [0] * 2 + [1] * 2 * sender + [0] * 12 * sender + [1] * 2 * sender
        for byte in sent:
            levels += line_of(byte, sender)
        found = []
        for level in [*levels, *[1] * 3 * sender]:
            ctx.set(unit.i_rx, level)
            if ctx.get(unit.o_byte.valid):
                found.append(ctx.get(unit.o_byte.payload))
            await ctx.tick()
        assert found == sent

    simulate(unit, bench)


@pytest.mark.usefixtures("unelaborated")
@pytest.mark.parametrize("divisor", [7, 1 << 24, "9"])
def test_divisor_is_checked(divisor: object) -> None:
    for unit in (UartTransmitter, UartReceiver):
        with pytest.raises(ValueError, match=r"divisor must be in 8..16777215, not"):
            unit(divisor)


@pytest.mark.usefixtures("unelaborated")
@pytest.mark.parametrize(
    ("size", "init", "wait_states", "message"),
    [
        (5000, b"", 3, r"memory must be a multiple of 4096 bytes in 4096..16777216, not 5000"),
        (0, b"", 3, "memory must be a multiple of 4096 bytes"),
        (4096, bytes(4097), 3, "contents must be at most the memory's 4096 bytes, not 4097"),
        (4096, b"", 256, r"wait_states must be in 0..255, not 256"),
    ],
)
def test_memory_is_checked(size: int, init: bytes, wait_states: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BoardMemory(preset("ews-tiny"), size, init, wait_states)


@pytest.mark.usefixtures("unelaborated")
def test_memory_may_be_as_large_as_the_addresses() -> None:
    config = preset("ews-tiny").override(["address_bits=16"])
    assert BoardMemory(config, 1 << 16, b"").size == 1 << 16
    with pytest.raises(ConfigError, match=r"multiple of 4096 bytes in 4096..65536, not 69632"):
        BoardMemory(config, (1 << 16) + 4096, b"")


def test_receiver_looks_at_the_middle_of_every_bit(simulate) -> None:
    """The byte comes in the middle of the stop bit, two cycles later by the synchroniser and one by the register."""

    async def bench(ctx) -> None:
        for cycle in range(12 * unit.divisor):
            line = line_of(0x5A, unit.divisor)
            ctx.set(unit.i_rx, line[cycle] if cycle < len(line) else 1)
            if ctx.get(unit.o_byte.valid):
                came.append(cycle - (19 * unit.divisor) // 2)
                return
            await ctx.tick()

    came: list[int] = []
    for divisor in (8, 16, 50):
        unit = UartReceiver(divisor)
        simulate(unit, bench)
    assert came == [4, 4, 4]


async def handed_over(ctx, valid: Signal, ready: Signal) -> None:
    """Offer an address until it is taken."""
    ctx.set(valid, 1)
    while not ctx.get(ready):
        await ctx.tick()
    await ctx.tick()
    ctx.set(valid, 0)


@pytest.mark.parametrize("wait_states", [0, 5])
def test_memory_answers_bursts(wait_states: int, simulate) -> None:
    config = preset("ews-tiny")  # words of 2 bytes
    init = bytes(range(1, 200))
    unit = BoardMemory(config, 4096, init, wait_states)
    axi = unit.axi
    waited = 0

    async def read(ctx, address: int, words: int, name: int) -> tuple[list[int], list[int], int]:
        ctx.set(axi.araddr, address)
        ctx.set(axi.arlen, words - 1)
        ctx.set(axi.arid, name)
        await handed_over(ctx, axi.arvalid, axi.arready)
        ctx.set(axi.rready, 1)
        data, answers, cycles = [], [], 0
        while len(data) < words:
            cycles += 1
            if ctx.get(axi.rvalid):
                assert ctx.get(axi.rid) == name
                assert ctx.get(axi.rlast) == (len(data) == words - 1)
                data.append(ctx.get(axi.rdata))
                answers.append(ctx.get(axi.rresp))
            await ctx.tick()
        return data, answers, cycles

    async def write(ctx, address: int, words: list[tuple[int, int]]) -> int:
        nonlocal waited
        ctx.set(axi.awaddr, address)
        ctx.set(axi.awlen, len(words) - 1)
        ctx.set(axi.awid, 1)
        await handed_over(ctx, axi.awvalid, axi.awready)
        waited = 0
        while not ctx.get(axi.wready):
            waited += 1
            await ctx.tick()
        for number, (word, strobe) in enumerate(words):
            ctx.set(axi.wdata, word)
            ctx.set(axi.wstrb, strobe)
            ctx.set(axi.wlast, number == len(words) - 1)
            ctx.set(axi.wvalid, 1)
            while not ctx.get(axi.wready):
                await ctx.tick()
            await ctx.tick()
        ctx.set(axi.wvalid, 0)
        ctx.set(axi.bready, 1)
        while not ctx.get(axi.bvalid):
            await ctx.tick()
        assert ctx.get(axi.bid) == 1
        answer = ctx.get(axi.bresp)
        await ctx.tick()
        ctx.set(axi.bready, 0)
        return answer

    async def bench(ctx) -> None:
        data, answers, cycles = await read(ctx, 10, 5, 2)
        assert data == [int.from_bytes(init[at : at + 2], "little") for at in range(10, 20, 2)]
        assert answers == [0] * 5
        assert cycles > 5 + wait_states
        # Without a request there is no answer.
        ctx.set(axi.rready, 1)
        for _ in range(20 + wait_states):
            assert not ctx.get(axi.rvalid)
            assert ctx.get(axi.arready)
            await ctx.tick()
        # A word takes two cycles, and one in four pauses for as long as its dice say.
        cycles = [(await read(ctx, 0, 100, 1))[2] - wait_states for _ in range(4)]
        assert all(220 <= found <= 285 for found in cycles)
        assert len(set(cycles)) > 1
        assert await write(ctx, 12, [(0xAAAA, 0b11), (0xBBBB, 0b10)]) == 0
        assert wait_states + 1 <= waited <= wait_states + 6
        assert (await read(ctx, 10, 4, 0))[0] == [0x0C0B, 0xAAAA, 0xBB0F, 0x1211]
        # Across the end: what is beyond answers DECERR and changes nothing.
        assert (await read(ctx, 4094, 2, 0))[1] == [0, 3]
        assert await write(ctx, 4094, [(0x1234, 3), (0x5678, 3)]) == 3
        assert (await read(ctx, 4094, 1, 0))[0] == [0x1234]
        assert await write(ctx, 4094, [(0x1234, 3)]) == 0
        assert (await read(ctx, 0, 1, 0))[0] == [0x0201]
        # The byte port
        ctx.set(unit.i_address, 13)
        ctx.set(unit.i_data, 0x77)
        ctx.set(unit.i_write, 1)
        await ctx.tick()
        ctx.set(unit.i_write, 0)
        ctx.set(unit.i_read, 1)
        await ctx.tick()
        ctx.set(unit.i_read, 0)
        assert ctx.get(unit.o_data) == 0x77
        assert (await read(ctx, 12, 1, 0))[0] == [0x77AA]

    simulate(unit, bench)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": "größer"}, "title must be printable ASCII"),
        ({"program": -64}, r"program must be in 0..\d+, not -64"),
        ({"descriptors": 0}, r"descriptors must be in 1..\d+, not 0"),
        ({"result": 1 << 31}, r"result must be in 0..\d+, not 2147483648"),
        ({"limit": 255}, r"limit must be in 256..\d+, not 255"),
        ({"expected": b""}, "expected must have at least one byte"),
    ],
)
def test_self_test_is_checked(changes: dict[str, object], message: str) -> None:
    fields = {"title": "test", "program": 0, "descriptors": 1, "result": 0, "expected": b"x"}
    with pytest.raises(ValueError, match=message):
        SelfTest(**(fields | changes))


def test_arguments_of_instructions_are_words() -> None:
    with pytest.raises(ValueError, match=r"argument of SET must be in 0..4294967295, not 4294967296"):
        Instruction(Operation.SET, 1 << 32)


def test_check_word_sees_what_changed_places() -> None:
    assert check_word([1, 2], b"ab") != check_word([2, 1], b"ab")
    assert check_word([1, 2], b"ab") != check_word([1, 2], b"ba")
    assert check_word([]) == 0
    assert check_word([(1 << 32) - 1, 2]) == 0
    assert configuration_number(preset("ews-tiny")) != configuration_number(preset("ews-tiny").override(["k=3"]))
