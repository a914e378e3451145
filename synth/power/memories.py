"""Energy of the static memories, which are macros: a model by capacity, and the paper's costs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hw.config import AcceleratorConfig
from synth.papers import values

__all__ = ["PAPER_COSTS", "MemoryEnergy", "access_energy", "memory_energy"]

#: Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9: fJ of a byte of a 64-bit access at 45 nm and
#: 0.9 V, by capacity in bytes (10, 20 and 100 pJ an access).
_BY_CAPACITY = {8 << 10: 1250.0, 32 << 10: 2500.0, 1 << 20: 12500.0}
_VOLTAGE = 0.9

#: MVQ table 8: energy of an access in multiply-accumulates. Here: of a byte.
PAPER_COSTS: Mapping[str, float] = {name: float(values("table 8")[name]) for name in ("L2", "L1")}


def access_energy(capacity: int, voltage: float) -> float:
    """fJ of reading or writing a byte of a memory of so many bytes: on the line through the source's points on double
    logarithmic axes, beyond them too, and times the square of the voltage."""
    sizes, costs = np.log(list(_BY_CAPACITY)), np.log(list(_BY_CAPACITY.values()))
    wanted = np.log(capacity)
    place = int(np.clip(np.searchsorted(sizes, wanted) - 1, 0, len(sizes) - 2))
    slope = (costs[place + 1] - costs[place]) / (sizes[place + 1] - sizes[place])
    return float(np.exp(costs[place] + slope * (wanted - sizes[place])) * (voltage / _VOLTAGE) ** 2)


@dataclass(frozen=True)
class MemoryEnergy:
    """For a network, bytes that go in and out of L2 and L1, and bytes of weights that come from DRAM."""

    bytes: Mapping[str, int]
    #: fJ by the macro model of each of them but the weights.
    parts: Mapping[str, float]
    #: fJ of what goes in and out of L2 and L1, by the macro model and by the paper's costs.
    model: float
    paper: float
    #: fJ by the paper's costs if weights were written to L2 and read from there, as on the paper's machine.
    staged: float


def memory_energy(
    config: AcceleratorConfig, counts: Mapping[str, int], voltage: float, mac: float, weights: int = 0
) -> MemoryEnergy:
    """Energy of all accesses of a network.

    Here weights go from the bus to the weight loader. On the paper's machine they lie in L2 first: assignments and
    masks are stored there, and the path from there to the weight loader is the bound of its roofline. Its energies are
    without main memory, so that a byte of weights costs a write of L2 and a read.

    Parameters
    ----------
    counts
        Sums of its counters (:data:`hw.control.counters.COUNTERS`).
    voltage
        V of the supply.
    mac
        fJ of a multiply-accumulate, the unit of the paper's costs.
    weights
        Bytes that come from DRAM to the weight loader.
    """
    ifmap, psum = config.H, config.psum_bytes
    moved = {
        "L2": (counts["l2_reads"] + counts["l2_writes"]) * config.l2_word,
        "L1 ifmap": (counts["l1_reads"] + counts["l1_writes"]) * ifmap,
        "L1 psum": (counts["psum_reads"] + counts["psum_writes"]) * psum,
    }
    capacity = {"L2": config.l2_bytes, "L1 ifmap": config.l1_ifmap_bytes, "L1 psum": config.l1_psum_bytes}
    parts = {name: count * access_energy(capacity[name], voltage) for name, count in moved.items()}
    paper = sum(count * PAPER_COSTS[name[:2]] * mac for name, count in moved.items())
    staged = paper + 2 * weights * PAPER_COSTS["L2"] * mac
    return MemoryEnergy({**moved, "weights": weights}, parts, sum(parts.values()), paper, staged)
