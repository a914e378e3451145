"""Several clients of one memory: right data, and turns for all of them."""

from __future__ import annotations

import pytest

from hw.config import AcceleratorConfig, ConfigError, preset
from hw.memory.l2 import IfmapMemory, L2Memory
from hw.memory.ports import WritePort


class Client:
    """Asks for random reads, or writes, at random times; keeps to the rules of the ports."""

    def __init__(self, traffic, port, willing: float) -> None:
        self.traffic, self.port, self.willing = traffic, port, willing
        self.asks: tuple[int, int] | None = None
        self.taken: list[tuple[int, int, int]] = []
        self.waits = self.longest = 0

    def drive(self, ctx) -> None:
        rng, port = self.traffic.rng, self.port
        if self.asks is None and rng.random() < self.willing:
            # Few addresses, so that clients meet
            self.asks = (rng.randrange(min(8, port.signature.depth)), rng.getrandbits(port.signature.width))
        ctx.set(port.valid, self.asks is not None)
        address, word = self.asks or (0, 0)
        ctx.set(port.address, address)
        if isinstance(port.signature, WritePort):
            ctx.set(port.data, word)

    def sample(self, ctx) -> None:
        self.waits = self.waits + 1 if self.asks is not None else 0
        self.longest = max(self.longest, self.waits)
        if self.asks is not None and ctx.get(self.port.ready):
            self.taken.append((self.traffic.cycle, *self.asks))
            self.asks, self.waits = None, 0


@pytest.mark.parametrize(("readers", "writers"), [(1, 1), (3, 3), (1, 4), (16, 2)])
@pytest.mark.parametrize("willing", [1, 0.3])
@pytest.mark.parametrize("density", [1], indirect=True)
def test_clients(simulate, traffic, readers: int, writers: int, willing: float) -> None:
    config = preset("ews-cms-tiny")
    memory = L2Memory(config, readers, writers)
    assert (memory.depth, memory.width) == (config.l2_depth, 8 * config.l2_word)
    reads = [Client(traffic, getattr(memory, f"i_read_{i}"), willing) for i in range(readers)]
    writes = [Client(traffic, getattr(memory, f"i_write_{i}"), willing) for i in range(writers)]
    traffic.agents += [*reads, *writes]
    read, write = traffic.pulses(memory.o_read), traffic.pulses(memory.o_write)
    returned: list[dict[int, int]] = [{} for _ in reads]

    async def bench(ctx) -> None:
        for _ in range(200):
            await traffic.step(ctx)
            for client, words in zip(reads, returned, strict=True):
                if ctx.get(client.port.data_valid):
                    words[traffic.cycle - 1] = ctx.get(client.port.data)

    simulate(memory, bench)
    stored: dict[int, list[tuple[int, int]]] = {}
    for client in writes:
        for cycle, address, word in client.taken:
            stored.setdefault(address, []).append((cycle, word))
    compared = 0
    for client, words in zip(reads, returned, strict=True):
        assert sorted(words) == [cycle for cycle, *_ in client.taken]
        for cycle, address, _ in client.taken:
            history = sorted(stored.get(address, []))
            # A single client has no register on its way into the memory.
            lag = 2 if writers > 1 else 1
            if not any(cycle - lag < at <= cycle for at, _ in history):
                assert words[cycle] == max((x for x in history if x[0] <= cycle - lag), default=(0, 0))[1]
                compared += words[cycle] != 0
    assert compared > 30 / readers
    for clients, pulses in ((reads, read), (writes, write)):
        cycles = sorted(cycle for client in clients for cycle, *_ in client.taken)
        assert pulses.cycles == cycles
        assert len(set(cycles)) == len(cycles), "two were taken in one cycle"
        assert max(client.longest for client in clients) <= len(clients)
        if willing == 1:
            assert cycles == list(range(200))


def test_ifmap_memory_is_always_ready(simulate) -> None:
    memory = IfmapMemory(AcceleratorConfig(H=16, L=16, l1_ifmap_bytes=1000))
    assert (memory.depth, memory.width) == (62, 128)

    async def bench(ctx) -> None:
        for valid in (0, 1):
            ctx.set(memory.i_read_0.valid, valid)
            ctx.set(memory.i_write_0.valid, valid)
            assert ctx.get(memory.i_read_0.ready)
            assert ctx.get(memory.i_write_0.ready)

    simulate(memory, bench)


@pytest.mark.usefixtures("unelaborated")
@pytest.mark.parametrize("value", [0, 17, 1.0])
@pytest.mark.parametrize("name", ["readers", "writers"])
def test_numbers_of_clients(name: str, value) -> None:
    with pytest.raises(ConfigError, match=rf"{name} must be in 1\.\.16, not {value}"):
        L2Memory(AcceleratorConfig(), **{"readers": 1, "writers": 1, name: value})
