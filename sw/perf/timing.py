"""What a layer takes on the accelerator: cycles, lost cycles, traffic and utilisation, measured or from a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.control.counters import COUNTERS
from hw.control.descriptor import BYTES
from sw.program import Program

__all__ = [
    "CAUSES",
    "PARAMETER_BITS",
    "Latencies",
    "LayerTiming",
    "measured",
    "total",
    "traffic_bytes",
    "utilisation",
]

#: What the array's cycles are lost to, and the counter of each.
CAUSES = {"weights": "wait_weights", "activations": "wait_activations", "sums": "wait_psums"}

_CYCLES = list(COUNTERS).index("cycles")

#: Bits of a channel's requantisation parameters.
PARAMETER_BITS = 96


@dataclass(frozen=True)
class Latencies:
    """Cycles of the hand-overs between units: the RTL's, but for ``read`` and ``write``, which are the system's."""

    #: From the address of a burst on the bus to its first word.
    read: int = 32
    #: From the address of a burst to its response.
    write: int = 32
    #: From a request of a channel of the DMA reader to the turn of its first burst.
    begin: int = 3
    #: From the command of a transfer to the address on the bus, and from the bus back to the consumer.
    request: int = 6
    #: From a word that leaves a full FIFO to the request of a burst in its place.
    space: int = 1
    #: Of a descriptor beside its words: checks and hand-over.
    decode: int = 6
    #: From the sequencer to the unit.
    queue: int = 3
    #: From the last word of a command to the units that wait for it.
    event: int = 1
    #: From the last word read to the last vector written.
    copy: int = 2
    #: From the first vector's address to its operation.
    feed: int = 4
    #: From a vector of sums to its words in L2, and how much of that is for multiplying, shifting and rounding.
    storer: int = 10
    rounding: int = 5
    #: From a tap to its word in L2.
    vector: int = 10

    def on(self, config: AcceleratorConfig) -> Latencies:
        """These, with the pipeline registers that an instance has besides."""
        more = config.scaler_latency
        return replace(self, storer=self.storer + more, rounding=self.rounding + more, vector=self.vector + more)


@dataclass(frozen=True)
class LayerTiming:
    """A layer's share of a run."""

    #: As in the layer table.
    name: str
    operation: str
    macs: int
    #: Names of :data:`hw.control.counters.COUNTERS`: what the layer adds to each.
    counters: dict[str, int]


def utilisation(config: AcceleratorConfig, macs: int, cycles: int) -> float:
    """Useful multiply-accumulates of those that the array could do in these cycles (H * L a cycle)."""
    return macs / (config.H * config.L * cycles) if cycles else 0.0


def traffic_bytes(config: AcceleratorConfig, counters: Mapping[str, int]) -> dict[str, int]:
    """Bytes read and written at each memory: DRAM, L2, and L1's activations and partial sums."""
    sizes = {"dram": config.word_width // 8, "l2": config.l2_word, "l1": config.H, "psum": config.psum_bytes}
    return {
        f"{memory}_{way}": counters[f"{memory}_{way}"] * size
        for memory, size in sizes.items()
        for way in ("reads", "writes")
    }


def measured(program: Program, memory: NDArray[np.uint8]) -> list[LayerTiming]:
    """What the RECORDs of a run say: the counters of each layer that has one, without those before it.

    A layer that ends before the one in front of it adds nothing, as in :func:`sw.perf.prediction.predict`.

    Parameters
    ----------
    program
        What has run.
    memory
        DRAM from the program's base on, after the run.
    """
    timings: list[LayerTiming] = []
    before = np.zeros(len(COUNTERS), np.uint32)
    for layer in program.layers:
        if layer.record is None:
            continue
        start = layer.record - program.base
        counts = np.frombuffer(memory[start : start + BYTES].tobytes(), "<u4").astype(np.uint32)
        own = counts - before  # modulo 2**32, as the counters
        if timings and own[_CYCLES] >> 31:
            # It has ended before the layer in front of it: all that it adds is counted there.
            own[:] = 0
        else:
            before = counts
        counters = dict(zip(COUNTERS, own.tolist(), strict=True))
        timings.append(LayerTiming(layer.name, layer.operation, layer.macs, counters))
    return timings


def total(timings: Sequence[LayerTiming]) -> dict[str, int]:
    """The counters of all layers together."""
    return {name: sum(timing.counters[name] for timing in timings) for name in COUNTERS}
