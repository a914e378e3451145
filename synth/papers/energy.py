"""Energy of whole networks from what ``make power`` measured of an array and what the cycle model counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hw.config import AcceleratorConfig
from hw.control.descriptor import BYTES
from synth.power.memories import memory_energy

__all__ = ["Energy", "access_cost", "mac_energy", "network_energy"]

#: V, where a report of energies does not say it.
_VOLTAGE = 1.1


@dataclass(frozen=True)
class Energy:
    """fJ of a network on an instance: array and decoder while they compute, load rows of weights and wait; memories by
    the macro model, by MVQ's table 8, and by that with weights that pass through L2
    (:class:`synth.power.memories.MemoryEnergy`)."""

    macs: int
    operations: float
    rows: float
    waiting: float
    memories: float
    memories_paper: float
    memories_staged: float

    def tops_per_watt(self, staged: bool = False) -> float:
        """10**12 operations a joule, two a multiply-accumulate, skipped ones included; DRAM is not in it.

        Parameters
        ----------
        staged
            Memories as the paper counts them, by its table 8 and with weights that pass through L2.
        """
        total = self.operations + self.rows + self.waiting + (self.memories_staged if staged else self.memories)
        return 2000 * self.macs / total


def mac_energy(entry: Mapping[str, Any]) -> float:
    """fJ of multipliers and adder trees a multiply-accumulate, the unit of table 8: of an ``ews`` array."""
    parts = [entry["blocks"].get(name, {}) for name in ("multipliers", "adder trees")]
    return float(sum(part.get("data", 0.0) + part.get("clock", 0.0) for part in parts))


def network_energy(
    entry: Mapping[str, Any], mac: float, scope: Mapping[str, Any], changes: Mapping[str, Any]
) -> Energy:
    """A network's energy.

    Parameters
    ----------
    entry
        Of the instance, in a report of ``python -m synth.power``.
    mac
        fJ of a multiply-accumulate (:func:`mac_energy`) on the array of 8-bit weights of the same size.
    scope
        ``macs`` and ``counters``, of ``python -m synth.papers``, of a scope that has not the network's input.
    changes
        Fields of the instance that ran the network where they differ from the entry's, such as ``l2_bytes``.
    """
    config = AcceleratorConfig.from_dict({**entry["configuration"], **changes})
    counts, places = scope["counters"], config.H * config.L
    word = config.word_width // 8
    # What is read from DRAM and is no descriptor are weights, codebooks and parameters.
    weights = (counts["dram_reads"] - counts["descriptors"] * max(1, BYTES // word)) * word
    memories = memory_energy(config, counts, entry["network"].get("voltage", _VOLTAGE), mac, weights)
    return Energy(
        macs=scope["macs"],
        operations=counts["operations"] * entry["per_mac"] * places,
        rows=counts["row_writes"] * entry["row_write"],
        waiting=max(0, counts["cycles"] - counts["operations"]) * entry["stall"] * places,
        memories=memories.model,
        memories_paper=memories.paper,
        memories_staged=memories.staged,
    )


def access_cost(config: AcceleratorConfig, counts: Mapping[str, int], costs: Mapping[str, float], dram: bool) -> float:
    """Cost of all accesses to memories, in multiply-accumulates: that of table 8 for each byte."""
    moved = {
        "L2": (counts["l2_reads"] + counts["l2_writes"]) * config.l2_word,
        "L1": (counts["l1_reads"] + counts["l1_writes"]) * config.H
        + (counts["psum_reads"] + counts["psum_writes"]) * config.psum_bytes,
    }
    if dram:
        moved["DRAM"] = (counts["dram_reads"] + counts["dram_writes"]) * config.word_width // 8
    return sum(count * costs[name] for name, count in moved.items())
