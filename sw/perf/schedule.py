"""The schedule of a layer: which A, B and D are best (MVQ section 5.1: chosen layer by layer)."""

from __future__ import annotations

from collections.abc import Iterator

from hw.config import AcceleratorConfig
from hw.layout import Schedule, layer_tiles
from sw.format.layer import CompressedLayer
from sw.golden.layer import output_size
from sw.golden.schedule import advance
from sw.perf.cycles import LayerRun, sequence_cycles

__all__ = [
    "ScheduleError",
    "activation_fetches",
    "candidate_schedules",
    "check_schedule",
    "choose_schedule",
    "layer_run",
    "psum_accesses",
]

#: Cycles that a schedule may take beyond the fewest, as a part of them, if it saves accesses.
TOLERANCE = 0.01


class ScheduleError(ValueError):
    """A schedule that an instance cannot run. The message names the extension and its limit."""


def check_schedule(config: AcceleratorConfig, schedule: Schedule) -> None:
    """Check that the register files of an instance hold what a schedule needs.

    Raises
    ------
    ScheduleError
        H or L differ from the array's, or ``A*B*D``, ``B*D`` or ``A`` exceed a register file.
    """
    if (schedule.H, schedule.L) != (config.H, config.L):
        raise ScheduleError(f"H x L must be {config.H} x {config.L}, not {schedule.H} x {schedule.L}")
    A, B, D = schedule.A, schedule.B, schedule.D
    for name, value, limit in (
        ("A*B*D", A * B * D, config.wrf_depth),
        ("B*D", B * D, config.arf_depth),
        ("A", A, config.prf_depth),
    ):
        if value > limit:
            raise ScheduleError(f"{name} must be in 1..{limit}, not {value}")


def candidate_schedules(config: AcceleratorConfig, shape: tuple[int, int, int, int]) -> Iterator[Schedule]:
    """All schedules of a layer that the register files hold and whose extensions do not exceed the layer."""
    K, C, R, S = shape
    groups_k, groups_c = -(-K // config.L), -(-C // config.H)
    for Dr in (x for x in range(1, R + 1) if R % x == 0):
        for Ds in (x for x in range(1, S + 1) if S % x == 0):
            room = min(config.wrf_depth, config.arf_depth) // (Dr * Ds)
            for B in range(1, min(room, groups_c) + 1):
                for A in range(1, min(config.wrf_depth // (B * Dr * Ds), config.prf_depth, groups_k) + 1):
                    yield Schedule(config.H, config.L, A, B, Dr, Ds)


def psum_accesses(run: LayerRun) -> int:
    """Vectors of L partial sums that leave the array or come back: 1/(B*D) of the operations (MVQ section 5.1)."""
    tiles = layer_tiles(run.shape, run.schedule)
    return sum(run.positions * tile.A * (1 if tile.first else 2) for tile in tiles)


def activation_fetches(layer: CompressedLayer, schedule: Schedule, lines: int, columns: int) -> int:
    """Vectors of H activations that a layer takes, for ``lines`` x ``columns`` output positions.

    1/(A*Ds) of the operations at stride 1: kernel columns are reused along an output row (MVQ section 5.1), kernel rows
    are fetched again.
    """
    tiles = layer_tiles(layer.shape, schedule)
    return sum(lines * (tile.B * tile.D + (columns - 1) * advance(layer, tile)) for tile in tiles)


def layer_run(
    config: AcceleratorConfig, layer: CompressedLayer, schedule: Schedule, rows: int, columns: int
) -> LayerRun:
    """The layer as :func:`sw.perf.sequence_cycles` takes it, for an input of ``rows`` x ``columns``."""
    E, F = output_size(layer, rows, columns)
    return LayerRun(layer.shape, E * F, schedule, layer.k if config.features.codebook else 0)


def choose_schedule(config: AcceleratorConfig, layer: CompressedLayer, rows: int, columns: int) -> Schedule:
    """The schedule with the fewest psum accesses of those that take the fewest cycles, or up to 1 % more.

    Psum and activation accesses are what the extensions save (MVQ section 5.1), and as loading runs beside computing,
    many schedules take nearly the same number of cycles. Among equals fewer activation fetches win, then fewer cycles.

    Parameters
    ----------
    config
        The instance.
    layer
        The layer, to be run on its own. Its weights do not matter.
    rows, columns
        Size of the input, without padding.

    Raises
    ------
    sw.golden.GoldenError
        The kernel is larger than the padded input.
    """
    runs = [layer_run(config, layer, schedule, rows, columns) for schedule in candidate_schedules(config, layer.shape)]
    cycles = [sequence_cycles(config, [run])[0] for run in runs]
    limit = min(cycles) * (1 + TOLERANCE)
    near = [(run, needed) for run, needed in zip(runs, cycles, strict=True) if needed <= limit]
    lines, width = output_size(layer, rows, columns)

    def cost(candidate: tuple[LayerRun, int]) -> tuple[int, int, int]:
        run, needed = candidate
        return psum_accesses(run), activation_fetches(layer, run.schedule, lines, width), needed

    return min(near, key=cost)[0].schedule
