"""Cycles and accesses of a VECTOR command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hw.config import AcceleratorConfig
from hw.control.descriptor import TABLE_BYTES, VectorOp

__all__ = ["VectorCost", "vector_cost", "vector_latency"]

# Stages by which the pipeline of a vector unit with all functions is longer: products, and the table.
_FULL_STAGES = 2
# From the last word of a table to its last entry's write.
_TABLE_END = 2

_FACTORS = ("columns", "stride_rows", "stride_columns", "padding_rows", "padding_columns")


@dataclass(frozen=True)
class VectorCost:
    """A command takes ``setup`` and then ``cycles``, in which it reads and writes so many words of L2."""

    setup: int
    cycles: int
    reads: int
    writes: int


def vector_cost(config: AcceleratorConfig, fields: Mapping[str, int]) -> VectorCost:
    """What a command takes, from the fields of its descriptor; those that are absent are 0."""
    scaling = config.l2_word // config.vector_unit_lanes
    outputs = fields["height"] * fields["width"] * fields["pixel_words"]
    upsample = fields.get("upsample", 0)
    given = {name: fields.get(name, 0) for name in _FACTORS}
    if upsample:
        given |= {"padding_rows": 0, "padding_columns": 0}
    setup = 2 + sum(1 + max(1, factor.bit_length()) for factor in given.values())
    if fields["operation"] == VectorOp.TABLE:
        return VectorCost(setup, TABLE_BYTES, fields["pixel_words"], 0)
    taps = _taps(fields)
    if fields["operation"] in (VectorOp.ADD, VectorOp.MULTIPLY, VectorOp.MERGE):
        reads = taps * outputs
    elif upsample:
        # Nothing is read for zeros between rows and columns.
        reads = outputs if upsample == 1 else -(-fields["height"] // 2) * -(-fields["width"] // 2)
        reads *= fields["pixel_words"] if upsample == 2 else 1
    else:
        reads = fields["pixel_words"]
        for axis, extent in (("rows", fields["height"]), ("columns", fields["width"])):
            start = np.arange(extent) * fields[f"stride_{axis}"] - given[f"padding_{axis}"]
            stop = np.minimum(start + fields[f"kernel_{axis}"], fields[axis])
            reads *= int(np.maximum(stop - np.maximum(start, 0), 0).sum())
    return VectorCost(setup, outputs * (scaling if taps == 1 else taps + max(scaling - 2, 0)), reads, outputs)


def vector_latency(config: AcceleratorConfig, fields: Mapping[str, int], basic: int) -> int:
    """Cycles from the last of :func:`vector_cost`'s to a command's last word in L2, or in the table.

    Parameters
    ----------
    config, fields
        As for :func:`vector_cost`; without fields, for a window of several words.
    basic
        Of an instance with the basic functions, and a window of several words.
    """
    if fields.get("operation") == VectorOp.TABLE:
        return _TABLE_END
    if _taps(fields) == 1 or config.l2_word == config.vector_unit_lanes:
        # The last word is scaled in the cycles that are counted; else its last group comes a cycle behind them.
        basic -= 1
    return basic + (_FULL_STAGES if config.full_vector_unit else 0)


def _taps(fields: Mapping[str, int]) -> int:
    """Words of L2 that make a word of the result; 0 without fields."""
    if fields.get("operation") in (VectorOp.ADD, VectorOp.MULTIPLY):
        return 2
    columns = fields.get("kernel_columns", 0)
    if fields.get("operation") == VectorOp.MERGE:
        return columns
    return 1 if fields.get("upsample", 0) else fields.get("kernel_rows", 0) * columns
