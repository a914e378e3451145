"""A vector unit beside its L2, in which every command finds what those before it have left."""

from __future__ import annotations

import numpy as np

from hw.config import AcceleratorConfig
from hw.postprocess.vector_unit import VectorUnit
from tests.hw.simulation import shared


def integers(words: np.ndarray) -> list[int]:
    """Words of L2 as a memory of the simulation has them."""
    return [int.from_bytes(word.tobytes(), "little") for word in words]


class VectorBench:
    """The unit with its traffic; ``l2`` is what the model expects in ``memory``, random at the beginning.

    Parameters
    ----------
    traffic, config
        Of the simulation, and of the instance.
    begin
        Words that L2 begins with.
    """

    def __init__(self, traffic, config: AcceleratorConfig, begin: np.ndarray | None = None) -> None:
        self.traffic, self.config = traffic, config
        self.unit = shared(VectorUnit, config)
        rng = np.random.default_rng(config.L)
        self.l2 = rng.integers(-128, 128, (config.l2_depth, config.l2_word)).astype(np.int8)
        self.l2[::5] = -128
        if begin is not None:
            self.l2[: len(begin)] = begin
        self.memory = integers(self.l2)
        self.given = traffic.source(self.unit.i_command)
        self.reads = traffic.readable(self.unit.o_l2_read, self.memory)
        self.writes = traffic.writable(self.unit.o_l2_write, self.memory)
        self.done = traffic.pulses(self.unit.o_done)
        self.busy = traffic.pulses(self.unit.o_busy)

    async def finish(self, ctx, command: dict) -> None:
        """Give a command, and wait until it is done."""
        before = len(self.done.cycles)
        self.given.items.append(command)
        await self.traffic.until(ctx, lambda: len(self.done.cycles) > before, patience=20000)
