"""Layers on the accelerator core in Amaranth's own simulator: slow, but there is nothing to build."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Mapping, Sequence

from amaranth.hdl import Value

from hw.config import AcceleratorConfig
from hw.core import EVENTS_LAYOUT, AcceleratorCore
from sim.simulation import Simulation, Together
from sim.transfers import LayerOutputs, LayerProgram

__all__ = ["run_programs"]

PATIENCE = 2000


# Neighbours among the tests share instances; more than a few would take memory.
@functools.lru_cache(maxsize=6)
def _simulation(config: AcceleratorConfig) -> Simulation:
    """The core of an instance."""
    return Simulation(AcceleratorCore(config))


def run_programs(
    config: AcceleratorConfig,
    programs: Sequence[LayerProgram],
    pauses: Mapping[str, float] | None = None,
    seed: int = 0,
    events: Counter[str] | None = None,
) -> tuple[list[list[int]], list[int]]:
    """Run layers back to back.

    Parameters
    ----------
    pauses, seed
        As in :class:`sim.cosim.Session`.
    events
        Counts the cycles with each event of ``o_events``, if given.

    Returns
    -------
    tuple
        The payloads of ``o_psum`` of each layer, and each layer's cycles, counted as by
        :func:`sw.schedule.sequence_cycles`.

    Raises
    ------
    AssertionError
        Nothing moved for 2000 cycles, transfers were left over, or ``o_idle`` is wrong.
    """
    simulation = _simulation(config)
    core = simulation.component
    densities = dict(pauses or {})
    draw = random.Random(seed).random
    outputs = LayerOutputs(programs)
    ends: list[int] = []
    names = ["i_command", "i_activation", "i_psum", *(f"i_{name}" for name in config.channels)]
    queues = {name: [x for program in programs for x in program.streams.get(name, ())][::-1] for name in names}

    def willing(name: str) -> bool:
        density = densities.get(name, 1)
        return density == 1 or draw() < density

    async def bench(ctx):
        offered = dict.fromkeys(names, False)
        sink, together = core.o_psum, Together()
        cycle = since = 0
        while not outputs.done:
            for name, queue in queues.items():
                if not offered[name] and queue and willing(name):
                    port = getattr(core, name)
                    together.set(Value.cast(port.payload), queue.pop())
                    together.set(port.valid, 1)
                    offered[name] = True
            together.drive(ctx)
            assert not (ctx.get(sink.valid) and ctx.get(core.o_idle)), "idle, and a sum is on offer"
            ready = willing("o_psum")
            ctx.set(sink.ready, ready)
            taken = [name for name in names if offered[name] and ctx.get(getattr(core, name).ready)]
            if ready and ctx.get(sink.valid):
                vector = ctx.get(Value.cast(sink.payload))
                if outputs.take(vector):
                    queues["i_psum"].insert(0, vector)
                if outputs.layers_done > len(ends):
                    ends.append(cycle)
                since = 0
            since += 1
            assert since < PATIENCE, f"nothing came out for {PATIENCE} cycles; {outputs.layers_done} layers are done"
            await ctx.tick()
            if events is not None:
                events.update(name for name, _ in EVENTS_LAYOUT if ctx.get(core.o_events[name]))
            for name in taken:
                offered[name] = False
                together.set(getattr(core, name).valid, 0)
            cycle += 1
        together.drive(ctx)
        left = {name: len(queue) + offered[name] for name, queue in queues.items() if queue or offered[name]}
        assert not left, f"transfers were never taken: {left}"
        assert ctx.get(core.o_idle), "not idle, and all sums have left"

    try:
        simulation.run(bench)
    except BaseException:
        # What was waited for then would wake the next run.
        _simulation.cache_clear()
        raise
    return outputs.vectors, [end - start for start, end in zip([-1, *ends[:-1]], ends, strict=True)]
