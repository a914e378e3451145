"""The performance counters: 32 bit, zero at the start of a program, wrapping. Plain Python."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COUNTERS", "COUNTER_BITS"]

#: Bits of a counter.
COUNTER_BITS = 32

#: Name and meaning, in the order of the registers and of the 64 bytes that RECORD writes (little-endian).
COUNTERS: Mapping[str, str] = {
    "cycles": "clock cycles since the start",
    "operations": "array operations issued",
    "wait_weights": "cycles in which the array has nothing to run because weights are not there",
    "wait_activations": "cycles in which the array waits for an activation vector",
    "wait_psums": "cycles in which the array waits because the PRF is full",
    "row_writes": "array rows of weights written to the WRF",
    "dram_reads": "words read from DRAM",
    "dram_writes": "words written to DRAM",
    "l2_reads": "words read from L2",
    "l2_writes": "words written to L2",
    "l1_reads": "activation vectors read from L1",
    "l1_writes": "activation vectors written to L1",
    "psum_reads": "vectors of partial sums read from L1",
    "psum_writes": "vectors of partial sums written to L1",
    "vector_cycles": "cycles in which the vector unit is busy",
    "descriptors": "descriptors given out",
}
