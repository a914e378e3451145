"""A cocotb testbench for any design with streams, inside the wrapper of :mod:`sim.wrapper`.

Python runs only at falling edges that follow a transfer, or at all of them while a stream pauses. Payloads are
integers.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import cocotb
from cocotb.clock import Clock
from cocotb.simtime import get_sim_time
from cocotb.triggers import FallingEdge, Timer

__all__ = ["Pauses", "Sink", "Source", "StreamError", "Testbench"]

PERIOD = 2  # simulator steps; rising edges are at even times
WATCH_CYCLES = 4096


class StreamError(AssertionError):
    """An output stream broke the protocol, or nothing moved for too long."""


class Pauses:
    """When a stream is willing: in each cycle with probability ``density``."""

    def __init__(self, density: float, seed: int | str) -> None:
        if not 0 < density <= 1:
            raise ValueError(f"density must be above 0 and at most 1, not {density}")
        self.density = density
        self.random = random.Random(seed).random

    def willing(self) -> bool:
        return self.density == 1 or self.random() < self.density


class Source:
    """Feeds an input stream from a queue. A transfer that is offered stays until it is taken."""

    def __init__(self, dut, name: str) -> None:
        self.name = name
        self._valid, self._payload = getattr(dut, f"{name}_valid"), getattr(dut, f"{name}_payload")
        self.queue: deque[int] = deque()
        self.offered = False
        self.count = 0
        self.pauses = Pauses(1, 0)
        self._valid.value = 0

    def offer(self) -> None:
        """Offer the next transfer, if there is one and none is offered yet."""
        if not self.offered and self.queue and self.pauses.willing():
            self._payload.value = self.queue.popleft()
            self._valid.value = 1
            self.offered = True

    def transferred(self) -> None:
        """The offered transfer has been taken."""
        self.count += 1
        if self.queue and self.pauses.willing():
            self._payload.value = self.queue.popleft()
        else:
            self.offered = False
            self._valid.value = 0


class Sink:
    """Takes the transfers of an output stream, and hands each to ``received``."""

    def __init__(self, dut, name: str) -> None:
        self.name = name
        self._ready, self._payload = getattr(dut, f"{name}_ready"), getattr(dut, f"{name}_payload")
        self.received: Callable[[int], None] = lambda value: None
        self.ready = False
        self.count = 0
        self.pauses = Pauses(1, 0)
        self._ready.value = 0

    def offer(self) -> None:
        """Be ready in the next cycle, or not."""
        ready = self.pauses.willing()
        if ready != self.ready:
            self.ready = ready
            self._ready.value = int(ready)

    def transferred(self) -> None:
        """Collect the payload of the last transfer."""
        self.count += 1
        self.received(int(str(self._payload.value), 2))


class Testbench:
    """Clock, reset, a source for each input stream and a sink for each output stream.

    Parameters
    ----------
    dut
        The wrapper.
    streams
        ``streams`` of the design's manifest.
    patience
        Cycles without any transfer after which the watchdog ends the test.

    Attributes
    ----------
    sources, sinks
        By name of the stream.
    watched
        Called every few thousand cycles.
    """

    __test__ = False  # pytest takes it for a test by its name

    def __init__(self, dut, streams: Mapping[str, Mapping], patience: int = 3 * WATCH_CYCLES) -> None:
        self.dut = dut
        self.patience = patience
        self.watched: Callable[[], None] = lambda: None
        self.sources: dict[str, Source] = {}
        self.sinks: dict[str, Sink] = {}
        self._streams: list[Source | Sink] = []
        for name, stream in streams.items():
            if stream["direction"] == "in":
                self.sources[name] = Source(dut, name)
                self._streams.append(self.sources[name])
            else:
                self.sinks[name] = Sink(dut, name)
                self._streams.append(self.sinks[name])
        self._by_bit = {1 << number: stream for number, stream in enumerate(self._streams)}
        dut.poll.value = 0
        Clock(dut.clk, PERIOD, "step", impl="gpi").start()
        cocotb.start_soon(self._watch())

    @property
    def cycle(self) -> int:
        """Number of the last rising edge."""
        return int(get_sim_time("step")) // PERIOD

    def send(self, name: str, payloads: Iterable[int]) -> None:
        """Queue transfers for an input stream."""
        source = self.sources[name]
        source.queue.extend(payloads)
        source.offer()

    def pause(self, densities: Mapping[str, float], seed: int = 0) -> None:
        """Let streams pause at random; a stream that is not named never does."""
        for stream in self._streams:
            stream.pauses = Pauses(densities.get(stream.name, 1), f"{seed} {stream.name}")
        self.dut.poll.value = int(any(density < 1 for density in densities.values()))

    async def reset(self) -> None:
        """Two cycles of reset. Anything on its way is lost, and nothing may be queued yet."""
        self.dut.rst.value = 1
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def run(self, done: Callable[[], bool]) -> None:
        """Run until ``done``, which is asked after every event.

        Raises
        ------
        StreamError
            An output stream broke the protocol.
        """
        for stream in self._streams:
            stream.offer()
        event, fired = self.dut.wake.value_change, self.dut.fired
        polled = [stream for stream in self._streams if stream.pauses.density < 1]
        transfers, broken = self._by_bit, 1 << len(self._streams)
        while not done():
            await event
            bits = int(fired.value)
            if bits >= broken:
                raise StreamError(f"cycle {self.cycle}: an output stream changed before it was taken")
            while bits:
                lowest = bits & -bits
                transfers[lowest].transferred()
                bits ^= lowest
            for stream in polled:
                stream.offer()

    async def _watch(self) -> None:
        before, since = -1, 0
        while True:
            await Timer(WATCH_CYCLES * PERIOD, "step")
            now = sum(stream.count for stream in self._streams)
            since = 0 if now != before else since + WATCH_CYCLES
            before = now
            self.watched()
            if since >= self.patience:
                state = ", ".join(
                    f"{stream.name}: {stream.count} done"
                    + (f", {len(stream.queue) + stream.offered} left" if isinstance(stream, Source) else "")
                    for stream in self._streams
                )
                raise StreamError(f"nothing moved for {since} cycles: {state}")
