"""Amaranth's simulator as a fixture, and Python models of what stands around a unit, which may pause at any cycle."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator

import pytest
from amaranth.hdl import Elaboratable, Value

from sim.simulation import Simulation, Together
from tests.hw.simulation import SHARED


@pytest.fixture
def simulate():
    """Runs an asynchronous function of the simulation's context on a component; ``clocked`` ones get a clock.

    The functions ``beside`` it run for as long as it does, and before it after each edge. Of a component of
    :func:`tests.hw.simulation.shared` the simulator is kept.
    """

    def run(component, bench, clocked: bool = True, beside=()) -> None:
        if beside or not clocked or not SHARED.run(component, bench):
            Simulation(component, clocked, beside).run(bench)

    return run


@pytest.fixture
def unelaborated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For components that are refused, or whose ports alone are looked at: Amaranth warns of those never elaborated."""
    monkeypatch.setattr(Elaboratable, "_MustUse__silence", True)
    # Those in cycles of references, as an exception has them, would warn in a later test. All that is made meanwhile
    # stays in the youngest generation, so that nothing else is gone through to find them.
    gc.disable()
    yield
    gc.collect(0)
    gc.enable()


class Traffic:
    """Agents that drive a component's ports in lockstep.

    Parameters
    ----------
    seed
        Of all that is random.
    density
        Chance that an agent is willing in a cycle.
    """

    def __init__(self, seed: object, density: float) -> None:
        self.rng = random.Random(str(seed))
        self.density = density
        self.agents: list[_Agent] = []
        self.together = Together()
        self.cycle = 0

    def willing(self) -> bool:
        return self.density == 1 or self.rng.random() < self.density

    def _add(self, agent):
        self.agents.append(agent)
        return agent

    def source(self, stream, items=()) -> Source:
        return self._add(Source(self, stream, items))

    def sink(self, stream) -> Sink:
        return self._add(Sink(self, stream))

    def readable(self, port, content) -> Readable:
        return self._add(Readable(self, port, content))

    def writable(self, port, content, always: bool = False) -> Writable:
        return self._add(Writable(self, port, content, always))

    def pulses(self, signal) -> Pulses:
        return self._add(Pulses(self, signal))

    async def step(self, ctx) -> None:
        for agent in self.agents:
            agent.drive(self.together)
        self.together.drive(ctx)
        for agent in self.agents:
            agent.sample(ctx)
        await ctx.tick()
        self.cycle += 1

    async def until(self, ctx, done, patience: int = 3000) -> None:
        """Steps until ``done()``; fails after as many cycles."""
        for _ in range(patience):
            if done():
                return
            await self.step(ctx)
        raise AssertionError(f"not done after {patience} cycles")


class _Agent:
    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic

    def drive(self, ctx) -> None:
        pass

    def sample(self, ctx) -> None:
        pass


class Source(_Agent):
    """Offers the items, in order; integers, or dictionaries for structures. ``cycles`` are those of the transfers."""

    def __init__(self, traffic, stream, items) -> None:
        super().__init__(traffic)
        self.stream, self.items = stream, list(items)
        self.offered = False
        self.cycles: list[int] = []

    def drive(self, ctx) -> None:
        payload = Value.cast(self.stream.payload)
        if not self.offered and self.items and self.traffic.willing():
            self.offered = True
            item = self.items.pop(0)
            ctx.set(self.stream.payload if isinstance(item, dict) else payload, item)
            ctx.set(self.stream.valid, 1)
        elif not self.offered:
            ctx.set(self.stream.valid, 0)
            ctx.set(payload, self.traffic.rng.getrandbits(len(payload)))

    def sample(self, ctx) -> None:
        if self.offered and ctx.get(self.stream.ready):
            self.offered = False
            self.cycles.append(self.traffic.cycle)

    @property
    def idle(self) -> bool:
        return not self.items and not self.offered


class Sink(_Agent):
    """Takes what comes, as integers, and checks that an offer stays until it is taken."""

    def __init__(self, traffic, stream) -> None:
        super().__init__(traffic)
        self.stream = stream
        self.items: list[int] = []
        self.cycles: list[int] = []
        self.held: int | None = None

    def drive(self, ctx) -> None:
        self.ready = self.traffic.willing()
        ctx.set(self.stream.ready, self.ready)

    def sample(self, ctx) -> None:
        value = ctx.get(Value.cast(self.stream.payload)) if ctx.get(self.stream.valid) else None
        assert self.held is None or value == self.held, "an offer changed before it was taken"
        self.held = None if self.ready else value
        if self.ready and value is not None:
            self.items.append(value)
            self.cycles.append(self.traffic.cycle)


class Readable(_Agent):
    """A memory behind a ReadPort."""

    def __init__(self, traffic, port, content) -> None:
        super().__init__(traffic)
        self.port, self.content = port, content
        self.pending: int | None = None
        self.cycles: list[int] = []

    def drive(self, ctx) -> None:
        ctx.set(self.port.data_valid, self.pending is not None)
        width = len(self.port.data)
        ctx.set(self.port.data, self.traffic.rng.getrandbits(width) if self.pending is None else self.pending)
        self.ready = self.traffic.willing()
        ctx.set(self.port.ready, self.ready)

    def sample(self, ctx) -> None:
        self.pending = None
        if self.ready and ctx.get(self.port.valid):
            self.pending = self.content[ctx.get(self.port.address)]
            self.cycles.append(self.traffic.cycle)


class Writable(_Agent):
    """A memory behind a WritePort; ``always`` ready where the unit may rely on it."""

    def __init__(self, traffic, port, content, always) -> None:
        super().__init__(traffic)
        self.port, self.content, self.always = port, content, always
        self.cycles: list[int] = []
        self.held: tuple[int, int] | None = None

    def drive(self, ctx) -> None:
        self.ready = self.always or self.traffic.willing()
        ctx.set(self.port.ready, self.ready)

    def sample(self, ctx) -> None:
        word = (ctx.get(self.port.address), ctx.get(self.port.data)) if ctx.get(self.port.valid) else None
        assert self.held is None or word == self.held, "a write changed before it was taken"
        self.held = None if self.ready else word
        if self.ready and word is not None:
            self.content[word[0]] = word[1]
            self.cycles.append(self.traffic.cycle)


class Pulses(_Agent):
    """The cycles in which a signal is high."""

    def __init__(self, traffic, signal) -> None:
        super().__init__(traffic)
        self.signal = signal
        self.cycles: list[int] = []

    def sample(self, ctx) -> None:
        if ctx.get(self.signal):
            self.cycles.append(self.traffic.cycle)


@pytest.fixture(params=[1, 0.6], ids=["steady", "pauses"])
def density(request) -> float:
    return request.param


@pytest.fixture
def traffic(request, density: float) -> Traffic:
    """Seeded by the name of the test."""
    return Traffic(request.node.name, density)
