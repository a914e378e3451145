"""The schedule of a layer: which A, B and D are best (MVQ section 5.1: chosen layer by layer)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.layout import Schedule, layer_tiles
from sw.format.layer import CompressedLayer
from sw.golden.layer import output_size
from sw.schedule.cycles import LayerRun, sequence_cycles
from sw.schedule.tiles import advance

__all__ = [
    "ScheduleError",
    "activation_fetches",
    "candidate_schedules",
    "check_schedule",
    "choose_schedule",
    "lane_groups",
    "layer_run",
    "psum_accesses",
    "raw_passes",
    "runs_raw",
]

#: Cycles that a schedule may take beyond the fewest, as a part of them, if it saves accesses.
TOLERANCE = 0.01


class ScheduleError(ValueError):
    """A schedule that an instance cannot run. The message names the extension and its limit."""


def runs_raw(config: AcceleratorConfig, layer: CompressedLayer) -> bool:
    """Whether an instance takes the layer's weights as int8: it has no codebook, or the layer has none."""
    return not config.features.codebook or layer.method == "int8"


def raw_passes(config: AcceleratorConfig, layer: CompressedLayer) -> int:
    """Times that each activation vector is sent for a layer of raw weights.

    1 in dense tiles, and in sparse ones if no more than N of every M weights of the layer are not zero; else M/N: pass
    p brings the weights at positions p*N and up of every M.
    """
    if not (config.features.sparse and runs_raw(config, layer)):
        return 1
    groups = lane_groups(config, layer.integer_weights())
    return 1 if np.count_nonzero(groups, axis=1).max() <= config.N else -(-config.M // config.N)


def lane_groups(config: AcceleratorConfig, weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weights ``[K, C, R, S]`` by N:M groups, ``[K', M, C, R, S]``, with zeros behind the last output channel."""
    absent = -len(weights) % config.M
    filled = np.concatenate([weights, np.zeros((absent, *weights.shape[1:]), np.int8)])
    return filled.reshape(-1, config.M, *weights.shape[1:])


def check_schedule(config: AcceleratorConfig, schedule: Schedule, passes: int = 1) -> None:
    """Check that the register files of an instance hold what a schedule needs.

    Parameters
    ----------
    passes
        Of :func:`raw_passes`: each row group takes as many entries as there are passes.

    Raises
    ------
    ScheduleError
        H or L differ from the array's, or ``A*B*D``, ``B*D`` or ``A`` exceed a register file.
    """
    if (schedule.H, schedule.L) != (config.H, config.L):
        raise ScheduleError(f"H x L must be {config.H} x {config.L}, not {schedule.H} x {schedule.L}")
    A, B, D = schedule.A, schedule.B * passes, schedule.D
    times = " times passes" if passes > 1 else ""
    for name, value, limit in (
        (f"A*B*D{times}", A * B * D, config.tile_weights),
        (f"B*D{times}", B * D, config.arf_depth),
        ("A", A, config.prf_depth),
    ):
        if value > limit:
            raise ScheduleError(f"{name} must be in 1..{limit}, not {value}")


def candidate_schedules(
    config: AcceleratorConfig, shape: tuple[int, int, int, int], passes: int = 1
) -> Iterator[Schedule]:
    """All schedules of a layer that the register files hold and whose extensions do not exceed the layer."""
    K, C, R, S = shape
    groups_k, groups_c = -(-K // config.L), -(-C // config.H)
    for Dr in (x for x in range(1, R + 1) if R % x == 0):
        for Ds in (x for x in range(1, S + 1) if S % x == 0):
            depth = Dr * Ds * passes
            room = min(config.tile_weights, config.arf_depth) // depth
            for B in range(1, min(room, groups_c) + 1):
                for A in range(1, min(config.tile_weights // (B * depth), config.prf_depth, groups_k) + 1):
                    yield Schedule(config.H, config.L, A, B, Dr, Ds)


def psum_accesses(run: LayerRun) -> int:
    """Vectors of L partial sums that leave the array or come back: 1/(B*D) of the operations (MVQ section 5.1)."""
    tiles = layer_tiles(run.shape, run.schedule)
    return sum(run.positions * tile.A * (1 if tile.first else 2) for tile in tiles)


def activation_fetches(layer: CompressedLayer, schedule: Schedule, lines: int, columns: int) -> int:
    """Vectors of H activations that a layer takes, for ``lines`` x ``columns`` output positions.

    1/(A*Ds) of the operations at stride 1: kernel columns are reused along an output row (MVQ section 5.1), kernel rows
    are fetched again. Passes are not counted.
    """
    tiles = layer_tiles(layer.shape, schedule)
    return sum(lines * (tile.B * tile.D + (columns - 1) * advance(layer, tile)) for tile in tiles)


def layer_run(
    config: AcceleratorConfig, layer: CompressedLayer, schedule: Schedule, rows: int, columns: int
) -> LayerRun:
    """The layer as :func:`sw.schedule.sequence_cycles` takes it, for an input of ``rows`` x ``columns``."""
    E, F = output_size(layer, rows, columns)
    raw = runs_raw(config, layer)
    return LayerRun(layer.shape, E * F, schedule, 0 if raw else layer.k, raw, raw_passes(config, layer))


def choose_schedule(config: AcceleratorConfig, layer: CompressedLayer, rows: int, columns: int) -> Schedule:
    """The schedule with the fewest psum accesses of those that take the fewest cycles, or up to 1 % more.

    Psum and activation accesses are what the extensions save (MVQ section 5.1), and as loading runs beside computing,
    many schedules take nearly the same number of cycles. Among equals fewer activation fetches win, then fewer cycles.

    Parameters
    ----------
    config
        The instance.
    layer
        The layer, to be run on its own. Its weights do not matter, but for :func:`raw_passes`.
    rows, columns
        Size of the input, without padding.

    Raises
    ------
    sw.golden.GoldenError
        The kernel is larger than the padded input.
    ScheduleError
        The register files do not hold the passes of one row group.
    """
    passes = raw_passes(config, layer)
    check_schedule(config, Schedule(config.H, config.L), passes)
    candidates = list(candidate_schedules(config, layer.shape, passes))
    first = layer_run(config, layer, candidates[0], rows, columns)
    runs = [replace(first, schedule=schedule) for schedule in candidates]
    cycles = [sequence_cycles(config, [run])[0] for run in runs]
    limit = min(cycles) * (1 + TOLERANCE)
    near = [(run, needed) for run, needed in zip(runs, cycles, strict=True) if needed <= limit]
    lines, width = output_size(layer, rows, columns)

    def cost(candidate: tuple[LayerRun, int]) -> tuple[int, int, int]:
        run, needed = candidate
        return psum_accesses(run), activation_fetches(layer, run.schedule, lines, width), needed

    return min(near, key=cost)[0].schedule
