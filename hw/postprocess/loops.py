"""Nested counters."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Module, Signal, Value

__all__ = ["count"]


def count(m: Module, step: Value, bounds: Mapping[str, Value | int]) -> dict[str, Value]:
    """Counters that walk a loop nest and are at zero again after it.

    Parameters
    ----------
    m
        Where they are added.
    step
        Go to the next iteration.
    bounds
        Of each loop, the innermost first, at least 1; they hold while the nest runs.

    Returns
    -------
    dict
        For each loop: this iteration is the last of it and of all loops inside it.
    """
    ends: dict[str, Value] = {}
    inner: Value | int = 1
    for name, bound in bounds.items():
        counter = Signal(len(Value.cast(bound)), name=f"{name}_count")
        last = Signal(name=f"{name}_end")
        m.d.comb += last.eq(inner & (counter + 1 == bound))
        with m.If(step & inner):
            m.d.sync += counter.eq(counter + 1)
            with m.If(last):
                m.d.sync += counter.eq(0)
        inner = ends[name] = last
    return ends
