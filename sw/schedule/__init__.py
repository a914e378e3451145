"""How a layer is cut into tiles: what each of them reads and makes, how long they take, and which cut is best."""

from sw.schedule.choice import ScheduleError, activation_fetches, check_schedule, choose_schedule, psum_accesses
from sw.schedule.cycles import LayerRun, TileTiming, issue_slots, sequence_cycles, tile_timings
from sw.schedule.tiles import TilePsums, advance, run_schedule, tile_activations, tile_psums

__all__ = [
    "LayerRun",
    "ScheduleError",
    "TilePsums",
    "TileTiming",
    "activation_fetches",
    "advance",
    "check_schedule",
    "choose_schedule",
    "issue_slots",
    "psum_accesses",
    "run_schedule",
    "sequence_cycles",
    "tile_activations",
    "tile_psums",
    "tile_timings",
]
