"""AXI for Amaranth's simulator: a memory behind an AXI4 manager, and a host in front of an AXI4-Lite subordinate."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amaranth.sim import SimulatorContext

from hw.bus.axi import BORDER, Response

__all__ = ["AxiMemory", "LiteHost", "ProtocolError"]


class ProtocolError(AssertionError):
    """The manager under test broke a rule of AXI."""


@dataclass
class _Burst:
    id: int
    address: int
    words: int
    #: Cycle from which the answer may begin.
    due: int
    done: int = 0


@dataclass
class AxiMemory:
    """A memory that answers an AXI4 manager, and checks that it keeps to the rules of AXI.

    To be run beside a test: ``simulator.add_testbench(memory.run, background=True)``, or ``simulate(top, bench,
    memory.run)``. Bursts of one ID are answered in order.
    """

    #: The manager's interface: an object whose attributes are the signals of :class:`hw.bus.axi.Axi4Signature`, both
    #: sides or one.
    axi: object
    #: What the memory holds, from address 0 on; written in place.
    data: bytearray
    #: Least and greatest number of cycles from a request to its first answer.
    latency: tuple[int, int] = (1, 1)
    #: Probability for each channel to pause in a cycle.
    stall: float = 0.0
    #: Words of bursts with different IDs come in any order, mixed.
    reorder: bool = False
    #: ``fault(write, address)`` is called for each word read and each burst written; what it returns, unless it is
    #: ``None``, is answered in place of OKAY. Outside ``data`` the answer is DECERR.
    fault: Callable[[bool, int], Response | None] = lambda write, address: None
    #: Of everything random.
    seed: int = 0
    #: ``(id, address, words)`` of all bursts so far.
    reads: list[tuple[int, int, int]] = field(default_factory=list)
    writes: list[tuple[int, int, int]] = field(default_factory=list)
    #: Transfers so far.
    read_words: int = 0
    written_words: int = 0
    #: Number of strobed bytes so far.
    written: int = 0
    #: Cycles so far.
    cycle: int = 0

    @property
    def outstanding(self) -> int:
        """Bursts that are not yet answered in full."""
        return len(self._reads) + len(self._writes) + len(self._answers)

    async def run(self, ctx: SimulatorContext) -> None:
        """The test bench process: runs for as long as the simulation does."""
        axi = self.axi
        self._random = random.Random(self.seed)
        self._reads: list[_Burst] = []
        self._writes: list[_Burst] = []
        self._answers: list[tuple[int, int, Response]] = []
        self._faulty: dict[int, Response] = {}
        self._words: list[tuple[int, int, bool]] = []
        self._held: dict[str, tuple[int, ...]] = {}
        sides = [side for side in ("aw", "ar") if hasattr(axi, f"{side}valid")]
        watched: dict[str, tuple[str, ...]] = {side: ("id", "addr", "len", "size", "burst") for side in sides}
        answers = [answer for side, answer in (("aw", "b"), ("ar", "r")) if side in sides]
        if "aw" in sides:
            watched["w"] = ("data", "strb", "last")
        offered = {channel: 0 for channel in watched} | dict.fromkeys(answers, 0)
        names = [f"{channel}{name}" for channel, members in watched.items() for name in ("valid", *members)]
        names += [f"{answer}ready" for answer in answers]
        async for _, reset, *values in ctx.tick().sample(*(getattr(axi, name) for name in names)):
            self.cycle += 1
            now = dict(zip(names, values, strict=True))
            if reset:
                continue
            for channel, members in watched.items():
                self._check_hold(channel, now, members, bool(offered[channel]))
                if now[f"{channel}valid"] and offered[channel]:
                    self._take(channel, [now[f"{channel}{name}"] for name in members])
            self._finish_writes()
            for channel in watched:
                offered[channel] = self._willing()
                ctx.set(getattr(axi, f"{channel}ready"), offered[channel])
            for answer in answers:
                if not offered[answer] or now[f"{answer}ready"]:
                    payload = self._willing() and (self._next_word() if answer == "r" else self._next_response())
                    offered[answer] = int(bool(payload))
                    ctx.set(getattr(axi, f"{answer}valid"), offered[answer])
                    for name, value in (payload or {}).items():
                        ctx.set(getattr(axi, f"{answer}{name}"), value)

    def _willing(self) -> bool:
        return self.stall == 0 or self._random.random() >= self.stall

    def _check_hold(self, channel: str, now: dict[str, int], members: tuple[str, ...], ready: bool) -> None:
        payload = tuple(now[f"{channel}{name}"] for name in members)
        held = self._held.pop(channel, None)
        if held is not None and (not now[f"{channel}valid"] or payload != held):
            raise ProtocolError(f"{channel}: an offer changed before it was taken")
        if now[f"{channel}valid"] and not ready:
            self._held[channel] = payload

    def _take(self, channel: str, values: list[int]) -> None:
        if channel == "w":
            word, strobe, last = values
            self._words.append((word, strobe, bool(last)))
            self.written_words += 1
            return
        identifier, address, length, size, burst = values
        width = self._bytes()
        words = length + 1
        if burst != 1 or 1 << size != width or address % width:
            raise ProtocolError(f"{channel}: not INCR, not whole words or not aligned: {values}")
        if address // BORDER != (address + words * width - 1) // BORDER:
            raise ProtocolError(f"{channel}: {words} words from {address:#x} cross a border of {BORDER} bytes")
        entry = _Burst(identifier, address, words, self.cycle + self._random.randint(*self.latency))
        (self._reads if channel == "ar" else self._writes).append(entry)
        (self.reads if channel == "ar" else self.writes).append((identifier, address, words))

    def _bytes(self) -> int:
        signal: Any = self.axi.rdata if hasattr(self.axi, "rdata") else self.axi.wdata  # type: ignore[attr-defined]
        return len(signal) // 8

    def _answer_to(self, write: bool, address: int, size: int) -> Response:
        fault = self.fault(write, address)
        if fault is not None:
            return fault
        return Response.OKAY if address + size <= len(self.data) else Response.DECERR

    def _finish_writes(self) -> None:
        width = self._bytes()
        while self._writes and self._words:
            burst = self._writes[0]
            word, strobe, last = self._words.pop(0)
            address = burst.address + burst.done * width
            for byte in range(width):
                if strobe >> byte & 1:
                    self.written += 1
                    if address + byte < len(self.data):
                        self.data[address + byte] = word >> 8 * byte & 0xFF
            burst.done += 1
            if last != (burst.done == burst.words):
                raise ProtocolError(f"w: last is {last} at word {burst.done} of {burst.words}")
            if last:
                self._writes.pop(0)
                answer = self._answer_to(True, burst.address, burst.words * width)
                self._answers.append((self.cycle + self._random.randint(*self.latency), burst.id, answer))

    def _next_word(self) -> dict[str, int] | None:
        if self.reorder:
            first = {burst.id: burst for burst in reversed(self._reads)}
            ready = [burst for burst in first.values() if burst.due <= self.cycle]
        else:
            ready = [burst for burst in self._reads[:1] if burst.due <= self.cycle]
        if not ready:
            return None
        burst = self._random.choice(ready)
        width = self._bytes()
        address = burst.address + burst.done * width
        burst.done += 1
        last = burst.done == burst.words
        if last:
            self._reads.remove(burst)
        self.read_words += 1
        word = int.from_bytes(self.data[address : address + width], "little")
        answer = self._answer_to(False, address, width)
        return {"id": burst.id, "data": word, "resp": int(answer), "last": int(last)}

    def _next_response(self) -> dict[str, int] | None:
        if not self._answers or self._answers[0][0] > self.cycle:
            return None
        _, identifier, answer = self._answers.pop(0)
        return {"id": identifier, "resp": int(answer)}


class LiteHost:
    """A host that reads and writes 32-bit registers over AXI4-Lite, one access after the other.

    Parameters
    ----------
    axi
        An object whose attributes are the signals of :class:`hw.bus.axi.Axi4LiteSignature`.
    stall
        Probability for each channel to pause in a cycle.
    seed
        Of the pauses.
    limit
        Cycles after which an access counts as hung.
    """

    def __init__(self, axi: object, stall: float = 0.0, seed: int = 0, limit: int = 1000) -> None:
        self.axi, self.stall, self.limit = axi, stall, limit
        self._random = random.Random(seed)

    async def write(self, ctx: SimulatorContext, address: int, value: int, strobe: int = 0xF) -> Response:
        """Write a register; address and data leave in any order."""
        await_answer = {"aw": {"addr": address}, "w": {"data": value, "strb": strobe}}
        answer = await self._access(ctx, await_answer, "b", ("resp",))
        return Response(answer[0])

    async def read(self, ctx: SimulatorContext, address: int) -> tuple[int, Response]:
        """Read a register: its value and the response."""
        value, answer = await self._access(ctx, {"ar": {"addr": address}}, "r", ("data", "resp"))
        return value, Response(answer)

    async def _access(
        self, ctx: SimulatorContext, requests: dict[str, dict[str, int]], answer: str, members: tuple[str, ...]
    ) -> list[int]:
        axi = self.axi

        def signal(channel: str, name: str):
            return getattr(axi, f"{channel}{name}")

        names = [*requests, answer]
        sampled = [signal(c, "ready") for c in requests] + [signal(answer, "valid")]
        sampled += [signal(answer, name) for name in members]
        waiting = set(requests)
        offered: set[str] = set()
        ready = False
        for _ in range(self.limit):
            for channel in names:
                if self._random.random() < self.stall:
                    continue
                if channel == answer:
                    ready = True
                elif channel in waiting and channel not in offered:
                    offered.add(channel)
                    for name, value in requests[channel].items():
                        ctx.set(signal(channel, name), value)
            for channel in requests:
                ctx.set(signal(channel, "valid"), channel in offered)
            ctx.set(signal(answer, "ready"), ready)
            _, _, *values = await ctx.tick().sample(*sampled)
            for channel, taken in zip(requests, values, strict=False):
                if channel in offered and taken:
                    offered.discard(channel)
                    waiting.discard(channel)
                    ctx.set(signal(channel, "valid"), 0)
            if ready and values[len(requests)]:
                if waiting:
                    raise ProtocolError(f"{answer}: an answer before the request was complete")
                ctx.set(signal(answer, "ready"), 0)
                return [int(value) for value in values[len(requests) + 1 :]]
            if ready:
                ready = self.stall == 0 or self._random.random() >= self.stall
        raise ProtocolError(f"no answer on {answer} in {self.limit} cycles")
