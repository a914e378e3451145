"""The simulation's 64 runs: layer tiles of real layers, as the instance's own program has them, in golden's sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.control.command import command_layout
from hw.layout import LayerTile, Schedule, layer_tiles
from sim.transfers import layer_program
from sw.format import CompressedLayer
from sw.golden import layer_sums, output_size
from sw.schedule import choose_schedule
from sw.schedule.choice import raw_passes, runs_raw
from synth.power.simulator import LANES, Transfers
from synth.power.sources import RealLayer

__all__ = ["Lane", "lanes", "transfers"]


@dataclass(frozen=True)
class Lane:
    """One run: a layer tile on some of its output positions."""

    #: Name of the layer.
    layer: str
    #: The tile in the layer.
    tile: LayerTile
    #: Payloads of the input streams, ``i_psum`` among them: the sums of the tiles before.
    streams: dict[str, list[int]]
    #: Payloads of ``o_psum``.
    expected: list[int]
    #: Array operations.
    operations: int
    #: Words of ``i_weight`` that hold the codebook.
    codewords: int
    #: Multiply-accumulates of an operation, of the H * L that it could have.
    share: float


def _part(layer: CompressedLayer, k: slice, c: slice, r: slice, s: slice) -> CompressedLayer:
    """Some output and input channels, kernel rows and columns of a layer, without padding."""
    K, C, R, S = layer.shape
    fields: dict[str, Any] = {"padding": (0, 0), "requantisation": None, "codebook_name": None}
    fields["shape"] = tuple(
        len(range(*part.indices(size))) for part, size in zip((k, c, r, s), layer.shape, strict=True)
    )
    if layer.weights is not None:
        weights = np.ascontiguousarray(layer.weights[k, c, r, s])
        scale = layer.scale if len(layer.scale) == 1 else layer.scale[k]
        return replace(layer, kind="conv", weights=weights, scale=scale, **fields)
    d = layer.d
    groups = slice(k.start // d, k.stop // d)

    def cut(array: NDArray | None) -> NDArray | None:
        if array is None:
            return None
        parts = array.reshape(K // d, C, R, S, *array.shape[1:])[groups, c, r, s]
        return np.ascontiguousarray(parts.reshape(-1, *array.shape[1:]))

    fields |= {name: cut(getattr(layer, name)) for name in ("assignments", "masks", "signs")}
    return replace(layer, kind="conv", **fields)


def _payloads(values: NDArray[np.int64], bits: int) -> list[int]:
    """Vectors ``[n, L]`` as integers, element 0 in the lowest bits."""
    mask = (1 << bits) - 1
    return [sum((int(x) & mask) << (bits * i) for i, x in enumerate(row)) for row in values]


def _lane(
    config: AcceleratorConfig, real: RealLayer, schedule: Schedule, tile: LayerTile, corner: float, operations: int
) -> Lane:
    layer = real.layer
    K, C, _, _ = layer.shape
    activations = real.activations if real.activations.ndim == 3 else real.activations[:, None, None]
    E, F = output_size(layer, *activations.shape[1:])
    passes = raw_passes(config, layer) if runs_raw(config, layer) else 1
    positions = -(-operations // (tile.A * tile.B * tile.D * passes))
    columns = min(F, max(4, int(np.sqrt(positions))))
    rows = min(E, -(-positions // columns))
    columns = min(F, -(-positions // rows))
    top, left = round((E - rows) * corner), round((F - columns) * corner)
    padded = np.pad(activations, ((0, 0), *((pad, pad) for pad in layer.padding)))
    k = slice(tile.k0, min(K, tile.k0 + tile.A * config.L))

    def window(part: LayerTile) -> tuple[CompressedLayer, NDArray[np.int8]]:
        c = slice(part.c0, min(C, part.c0 + part.B * config.H))
        r, s = slice(part.r0, part.r0 + part.Dr), slice(part.s0, part.s0 + part.Ds)
        first = (
            top * layer.stride[0] + part.r0 * layer.dilation[0],
            left * layer.stride[1] + part.s0 * layer.dilation[1],
        )
        last = [
            begin + (count - 1) * stride + (size - 1) * dilation + 1
            for begin, count, stride, size, dilation in zip(
                first, (rows, columns), layer.stride, (part.Dr, part.Ds), layer.dilation, strict=True
            )
        ]
        crop = padded[c, first[0] : last[0], first[1] : last[1]]
        return _part(layer, k, c, r, s), np.ascontiguousarray(crop)

    part, crop = window(tile)
    program = layer_program(config, part, crop, replace(schedule, A=tile.A, B=tile.B))
    earlier = np.zeros((part.shape[0], rows * columns), np.int64)
    for other in layer_tiles(layer.shape, schedule):
        if other.k0 == tile.k0:
            if other == tile:
                break
            earlier += layer_sums(*window(other)).reshape(part.shape[0], -1)
    # Vectors in the order position, s < A.
    before = np.zeros((tile.A * config.L, rows * columns), np.int64)
    before[: part.shape[0]] = earlier
    before = before.T.reshape(-1, config.L)
    streams = dict(program.streams)
    if not tile.first:
        offset = {name: field.offset for name, field in command_layout(config)}["accumulate"]
        streams["i_command"] = [command | 1 << offset for command in streams["i_command"]]
        streams["i_psum"] = _payloads(before, config.psum_width)
    codebook = None if program.run.raw else part.codebook
    codewords = 0 if codebook is None else -(-codebook.size * config.element_bits // config.word_width)
    passes = program.run.passes
    present = part.shape[0] * part.shape[1] / (tile.A * config.L * tile.B * config.H * passes)
    return Lane(
        layer.name,
        tile,
        streams,
        _payloads(program.expected.astype(np.int64) + before, config.psum_width),
        program.run.positions * tile.A * tile.B * tile.D * passes,
        codewords,
        present,
    )


def lanes(config: AcceleratorConfig, layers: Sequence[RealLayer], operations: int, count: int = LANES) -> list[Lane]:
    """Runs for one instance: the layers in turn, of each tiles and places of the image that lie apart.

    Parameters
    ----------
    operations
        Least array operations of a run, where the layer has so many positions.
    """
    found = []
    schedules = [choose_schedule(config, real.layer, *(real.activations.shape[1:] or (1, 1))) for real in layers]
    tiles = []
    for real, schedule in zip(layers, schedules, strict=True):
        every = list(layer_tiles(real.layer.shape, schedule))
        # The weights of a tile at a layer's edge leave rows or columns of the array unused.
        full = [
            tile
            for tile in every
            if tile.k0 + tile.A * config.L <= real.layer.shape[0] and tile.rows == config.H and tile.A == schedule.A
        ]
        tiles.append(full or every)
    for number in range(count):
        which, turn = number % len(layers), number // len(layers)
        turns = max(1, -(-count // len(layers)))
        choice = tiles[which]
        tile = choice[turn * len(choice) // turns]
        corner = (turn * 7 % turns) / max(1, turns - 1)
        found.append(_lane(config, layers[which], schedules[which], tile, min(1.0, corner), operations))
    return found


def transfers(config: AcceleratorConfig, runs: Sequence[Lane]) -> dict[str, Transfers]:
    """The streams of the core."""
    names = {
        "i_command": command_layout(config).size,
        **{f"i_{name}": config.word_width for name in config.channels},
        "i_activation": 8 * config.H,
        "i_psum": config.psum_width * config.L,
    }
    streams = {name: Transfers([run.streams.get(name, []) for run in runs], width) for name, width in names.items()}
    streams["o_psum"] = Transfers([run.expected for run in runs], config.psum_width * config.L, output=True)
    return streams
