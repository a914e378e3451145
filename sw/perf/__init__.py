"""Cycles of the accelerator, and the schedule of a layer."""

from sw.perf.cycles import LayerRun, TileTiming, issue_slots, sequence_cycles, tile_timings
from sw.perf.schedule import ScheduleError, activation_fetches, check_schedule, choose_schedule, psum_accesses

__all__ = [
    "LayerRun",
    "ScheduleError",
    "TileTiming",
    "activation_fetches",
    "check_schedule",
    "choose_schedule",
    "issue_slots",
    "psum_accesses",
    "sequence_cycles",
    "tile_timings",
]
