"""Cycles of a sequence of layers on the accelerator core, exact for streams that never pause.

The closed form of the loop nest (MVQ figure 7): a layer tile issues one array operation a cycle, ``positions * A*B*D``
of them, and its weights take one cycle a row write, or as many as the words of a row's packed fields need. Loading runs
beside the array as far as the ring of WRF entries allows.

What follows from the RTL, cycle by cycle:

- a command is taken one cycle after the one before it has gone on to the loop controller;
- the codewords follow from the next cycle on, one a cycle or as their words come, then the rows; the first row of a
  WRF entry waits until the entry ``wrf_depth`` before it has been read for the last time;
- the command goes on :func:`loader_latency` cycles after the last row, but not before the cycle in which the running
  tile issues its last operation; the first operation of the tile is issued in the next cycle;
- the first operation for a PRF entry waits until the entry ``prf_depth`` before it has left. A sum can leave
  ``config.latency`` cycles after its last operation, and with a register behind the PRF goes on a cycle later. With
  ``prf_depth > config.latency`` that never waits, and a tile is issued in exactly ``positions * A*B*D`` cycles; else
  the waiting is followed position by position;
- activations never wait: one can arrive every cycle, and the ARF holds the window of the next position.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.layout import LayerTile, Schedule, layer_tiles

__all__ = ["LayerRun", "TileTiming", "issue_slots", "loader_latency", "sequence_cycles", "tile_timings"]

_LONG_AGO = -(1 << 60)


@dataclass(frozen=True)
class LayerRun:
    """What the cycles of one layer depend on."""

    #: ``[K, C, R, S]``.
    shape: tuple[int, int, int, int]
    #: Output positions, E * F.
    positions: int
    #: How the layer is cut into layer tiles.
    schedule: Schedule
    #: Codewords that its first command loads, 0 for raw weights.
    codewords: int = 0
    #: The rows are raw weights. In variants without a codebook they always are.
    raw: bool = False
    #: Times that each activation vector is sent (:func:`sw.schedule.choice.raw_passes`); row groups are whole then.
    passes: int = 1


@dataclass(frozen=True)
class TileTiming:
    """When a layer tile does what, in cycles; the first command of the sequence is taken in cycle 0."""

    tile: LayerTile
    #: The command is taken.
    accepted: int
    #: The last row write enters the weight decoder.
    loaded: int
    #: The first and the last array operation are issued.
    started: int
    issued: int
    #: The last vector of partial sums leaves.
    finished: int


def loader_latency(config: AcceleratorConfig) -> int:
    """Cycles from the last row that enters the weight decoder to the earliest hand-over of the command.

    The decoder's pipeline, and the state that waits for it to drain.
    """
    return config.decoder_stages + 1


def _tiles(run: LayerRun) -> Iterator[LayerTile]:
    """The layer tiles as the array sees them: B counts row groups times passes."""
    for tile in layer_tiles(run.shape, run.schedule):
        yield tile if run.passes == 1 else replace(tile, B=tile.B * run.passes, rows=run.schedule.H)


def issue_slots(run: LayerRun) -> int:
    """Array operations of a layer: ``positions * A*B*D`` summed over its layer tiles (MVQ figure 7)."""
    return sum(run.positions * tile.A * tile.B * tile.D for tile in _tiles(run))


def _rows(config: AcceleratorConfig, tile: LayerTile) -> int:
    """Row writes of a layer tile."""
    return tile.A * tile.D * ((tile.B - 1) * config.H + tile.rows)


def _field_ends(config: AcceleratorConfig, count: int, widths: Iterable[int]) -> NDArray[np.int64]:
    """Cycles that the first i fields of several streams take, int64 ``[count + 1]``.

    A field that ends in the i-th word of its stream waits for that word; every stream gives a word a cycle.
    """
    number = np.arange(count + 1, dtype=np.int64)
    cycles = np.ones(count, np.int64)
    for bits in widths:
        words = -(-number * bits // config.word_width)
        cycles = np.maximum(cycles, np.diff(words))
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(cycles)])


def _row_ends(config: AcceleratorConfig, run: LayerRun) -> NDArray[np.int64]:
    """Cycles that the first i row writes of a layer take, int64 ``[rows + 1]``."""
    K, C, R, S = run.shape
    if run.passes > 1:
        C = -(-C // config.H) * config.H * run.passes
    streams = config.raw_streams if run.raw else config.streams
    return _field_ends(config, -(-K // config.L) * C * R * S, streams.values())


def _codebook_cycles(config: AcceleratorConfig, codewords: int) -> int:
    """Cycles that a codebook takes, bound by its words where a codeword is longer than one."""
    return int(_field_ends(config, codewords, [config.d * config.element_bits])[-1])


class _Array:
    """The register rings of the core and the cycles at which their entries come free."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.accept = 0
        self.issued = _LONG_AGO
        self.released = deque([_LONG_AGO] * config.wrf_depth, config.wrf_depth)
        self.left = deque([_LONG_AGO] * config.prf_depth, config.prf_depth)

    @property
    def finished(self) -> int:
        """When the last vector of partial sums leaves the core."""
        return self.left[-1] + self.config.drain_latency - self.config.latency

    def state(self) -> tuple[int, ...]:
        """All that the next tile depends on, in cycles from the last operation."""
        return tuple(cycle - self.issued for cycle in (self.accept, *self.released, *self.left))

    def skip(self, cycles: int) -> None:
        """Let time pass."""
        self.accept += cycles
        self.issued += cycles
        self.released = deque((cycle + cycles for cycle in self.released), self.released.maxlen)
        self.left = deque((cycle + cycles for cycle in self.left), self.left.maxlen)

    def run(self, tile: LayerTile, positions: int, codebook: int, row_ends: NDArray[np.int64], row: int) -> TileTiming:
        """Advance by one layer tile, whose first row write is number ``row`` of its layer.

        Its codebook takes ``codebook`` cycles.
        """
        accepted = self.accept
        cycle = accepted + 1 + codebook
        ends = row_ends[row:]
        entry_rows = [self.config.H] * (tile.A * (tile.B - 1)) + [tile.rows] * tile.A
        written = 0
        freed = list(self.released)
        for entry, rows in enumerate(entry_rows * tile.D):
            # The WRF's last wrf_depth entries are in freed, this tile's own need not be: A*B*D <= wrf_depth.
            cycle = max(cycle, freed[entry] + 1) + int(ends[written + rows] - ends[written])
            written += rows
        loaded = cycle - 1
        handed_over = max(loaded + loader_latency(self.config), self.issued)
        self.accept = handed_over + 1
        self._issue(tile, positions, handed_over)
        return TileTiming(tile, accepted, loaded, handed_over + 1, self.issued, self.finished)

    def _issue(self, tile: LayerTile, positions: int, cycle: int) -> None:
        A, rest = tile.A, tile.A * (tile.B * tile.D - 1)
        waits: list[int] = []
        while positions:
            before = cycle
            oldest = list(self.left)[:A]
            issues = []
            for left in oldest:
                cycle = max(cycle, left) + 1
                issues.append(cycle)
            issues += range(cycle + 1, cycle + rest + 1)
            cycle += rest
            for last in issues[-A:]:
                self.left.append(max(self.left[-1] + 1, last + self.config.latency))
            positions -= 1
            # Once a position leaves the PRF as it found it, all further ones take as many cycles.
            waited, waits = waits, [left - cycle for left in self.left]
            if positions and waits == waited:
                skipped = positions * (cycle - before)
                cycle += skipped
                issues = [issue + skipped for issue in issues]
                self.left = deque((left + skipped for left in self.left), self.left.maxlen)
                positions = 0
        self.issued = cycle
        self.released.extend(issues)


def tile_timings(config: AcceleratorConfig, runs: Iterable[LayerRun]) -> Iterator[tuple[int, TileTiming]]:
    """Timing of every layer tile of layers that run back to back, with the number of its layer.

    Exact when every source offers its next transfer at once, and the sink takes everything.
    """
    array = _Array(config)
    for number, run in enumerate(runs):
        row_ends = _row_ends(config, run)
        row, codebook = 0, _codebook_cycles(config, run.codewords)
        for tile in _tiles(run):
            yield number, array.run(tile, run.positions, codebook, row_ends, row)
            row += _rows(config, tile)
            codebook = 0


def sequence_cycles(config: AcceleratorConfig, runs: Iterable[LayerRun]) -> list[int]:
    """Cycles of each of several layers that run back to back.

    The first layer's count from the cycle in which its first command is taken, the others' from the last vector of the
    layer before; all end with the cycle in which the layer's last vector of partial sums leaves. The same as
    :func:`tile_timings` gives, without following every layer tile.
    """
    array = _Array(config)
    finished = [-1]
    for run in runs:
        row_ends = _row_ends(config, run)
        even = int(row_ends[-1]) == int(row_ends[1]) * (len(row_ends) - 1)
        row, codebook = 0, _codebook_cycles(config, run.codewords)
        for _, alike in groupby(_tiles(run), lambda x: (x.A, x.B, x.D, x.rows)):
            tiles = list(alike)
            state: tuple[int, ...] = ()
            for number, tile in enumerate(tiles, 1):
                issued = array.issued
                array.run(tile, run.positions, codebook, row_ends, row)
                row += _rows(config, tile)
                codebook = 0
                # Once a tile leaves the rings as it found them, all that are like it take as many cycles.
                found, state = state, array.state()
                if even and state == found:
                    array.skip((len(tiles) - number) * (array.issued - issued))
                    row += (len(tiles) - number) * _rows(config, tile)
                    break
        finished.append(array.finished)
    return [end - start for start, end in pairwise(finished)]
