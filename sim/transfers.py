"""All transfers of one layer on the accelerator core, what must come back, and the comparison of the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.control.command import command_layout
from hw.layout import LayerTile, Schedule, layer_tiles, mask_unrank
from sw.format import CompressedLayer, layer_streams
from sw.format.packing import pack_fields, rank_masks
from sw.format.streams import StreamLayout
from sw.golden import PsumOverflowError, check_psum_width, layer_sums, output_size, requantise
from sw.program import bits_of, digit_range
from sw.schedule import LayerRun, advance, check_schedule, tile_activations, tile_psums
from sw.schedule.choice import layer_run, raw_passes, runs_raw

__all__ = ["LayerOutputs", "LayerProgram", "ProgramError", "Score", "layer_program", "score"]


class ProgramError(ValueError):
    """A layer that an instance cannot run. The message names the layer, what is wrong and what is allowed."""


@dataclass(frozen=True)
class LayerProgram:
    """One layer as transfers."""

    layer: CompressedLayer
    #: Payloads of the input streams, in order, but for ``i_psum``: those are the design's own outputs.
    streams: dict[str, list[int]]
    #: The layer tiles; each gives ``positions * A`` vectors.
    tiles: list[LayerTile]
    #: int32 ``[vectors, L]``: every vector of partial sums, absent output channels included.
    expected: NDArray[np.int32]
    #: int32 ``[K, E, F]``: the layer's sums, or None if partial sums may overflow ``psum_width``; ``expected`` wraps
    #: then.
    sums: NDArray[np.int32] | None
    #: int8 ``[K, E, F]``, or None where there are no sums or the layer has no requantisation.
    requantised: NDArray[np.int8] | None
    #: E and F: rows and columns of the output.
    output: tuple[int, int]
    #: What the cycles depend on.
    run: LayerRun
    #: Multiply-accumulates of the layer, those with pruned weights included.
    operations: int

    @property
    def vectors(self) -> list[int]:
        """Vectors that each layer tile gives."""
        return [self.run.positions * tile.A for tile in self.tiles]


def _check(config: AcceleratorConfig, layer: CompressedLayer) -> None:
    features = config.features
    where = f"layer {layer.name!r} on {config.variant}"
    if runs_raw(config, layer):
        weights = layer.integer_weights()
        low, high = digit_range(config)
        if weights.min() < low or weights.max() > high:
            wrong = int(weights.min()) if weights.min() < low else int(weights.max())
            # The core has no place for digits: the compiler makes them, and the psum buffer shifts.
            raise ProgramError(f"{where}: raw weights must be in {low}..{high}, not {wrong}")
        return
    assert layer.codebook is not None
    if (needed := bits_of(layer.codebook)) > config.weight_bits:
        raise ProgramError(f"{where}: codewords must have at most {config.weight_bits} bits, not {needed}")
    method = {(False, False): "vq", (True, False): "mvq", (False, True): "ssvq", (True, True): "msvq"}[
        features.mask, features.sign
    ]
    if layer.method != method:
        raise ProgramError(f"{where}: method must be {method} or int8, not {layer.method}")
    wanted = {"d": config.d, "n": config.N, "m": config.M}
    for name, value in wanted.items():
        if (name == "d" or features.mask) and getattr(layer, name) != value:
            raise ProgramError(f"{where}: {name} must be {value}, not {getattr(layer, name)}")
    if layer.k > config.k or (layer.k - 1).bit_length() != config.index_bits:
        raise ProgramError(f"{where}: k must be in {(1 << (config.index_bits - 1)) + 1}..{config.k}, not {layer.k}")


def _filled_up(layer: CompressedLayer, L: int, raw: bool) -> CompressedLayer:
    """The layer with output channels up to a multiple of L, as fields of zeros in its streams decode."""
    K, *rest = layer.shape
    absent = -K % L
    shared: dict[str, Any] = {"name": layer.name, "kind": layer.kind, "shape": (K + absent, *rest)}
    shared |= {field: getattr(layer, field) for field in ("stride", "padding", "dilation", "groups")}
    if raw or layer.weights is not None:
        weights = np.concatenate([layer.integer_weights(), np.zeros((absent, *rest), np.int8)])
        return CompressedLayer(method="int8", scale=np.ones(1, np.float32), weights=weights, **shared)
    NG = absent * int(np.prod(rest)) // layer.d
    assert layer.assignments is not None
    parts: dict[str, Any] = {"assignments": np.concatenate([layer.assignments, np.zeros(NG, np.int32)])}
    if layer.masks is not None:
        mask = mask_unrank(0, layer.n, layer.m) * (layer.d // layer.m)
        parts["masks"] = np.concatenate([layer.masks, np.tile(np.array(mask), (NG, 1))])
    if layer.signs is not None:
        parts["signs"] = np.concatenate([layer.signs, np.zeros((NG, layer.Q), np.bool_)])
    same = {field: getattr(layer, field) for field in ("method", "scale", "d", "k", "n", "m", "codebook")}
    return CompressedLayer(**shared, **same, **parts)


def _raw(config: AcceleratorConfig, layer: CompressedLayer) -> CompressedLayer:
    """A layer's weights as an instance takes raw ones, in fields of ``weight_bits``."""
    shared = {field: getattr(layer, field) for field in ("name", "kind", "shape", "groups")}
    weights, scale = layer.integer_weights(), np.ones(1, np.float32)
    return CompressedLayer(method="int8", weights=weights, scale=scale, weight_bits=config.weight_bits, **shared)


def _words(data: bytes, bits: int, width: int) -> list[int]:
    """The words that hold the first ``bits`` bits."""
    size = width // 8
    return [int.from_bytes(data[i * size : (i + 1) * size], "little") for i in range(-(-bits // width))]


def _sparse_rows(
    config: AcceleratorConfig, layer: CompressedLayer, schedule: Schedule, passes: int
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Raw rows of a sparse tile: weights ``[rows, L/M, N]`` and ranks of the masks ``[rows, L/M]``."""
    H, L, N, M = config.H, config.L, config.N, config.M
    K, C, R, S = layer.shape
    weights = np.zeros((-(-K // L) * L, -(-C // H) * H, R, S), np.int8)
    weights[:K, :C] = layer.integer_weights()
    found, places = [], []
    for tile in layer_tiles(layer.shape, schedule):
        block = weights[tile.k0 :, tile.c0 :, tile.r0 :, tile.s0 :][: tile.A * L, : tile.B * H, : tile.Dr, : tile.Ds]
        # Kernel columns, kernel rows, row groups, column groups, rows; and the N:M groups of each row.
        axes = (6, 5, 3, 0, 4, 1, 2)
        groups = block.reshape(tile.A, L // M, M, tile.B, H, tile.Dr, tile.Ds).transpose(axes)
        if passes == 1:
            # What is not zero, and of the rest the first.
            kept = np.sort(np.argsort(groups == 0, axis=-1, kind="stable")[..., :N], axis=-1)
            values = np.take_along_axis(groups, kept, axis=-1)
            exists = np.arange(tile.B)[:, None] * H + np.arange(H) < (tile.B - 1) * H + tile.rows
            exists = np.broadcast_to(exists[:, None], values.shape[:5])
            found.append(values[exists])
            places.append(kept[exists])
            continue
        first = np.minimum(np.arange(passes) * N, M - N)
        kept = first[:, None] + np.arange(N)
        given = kept < np.arange(passes)[:, None] * N
        values = np.where(given, 0, groups[..., kept]).transpose(0, 1, 2, 6, 3, 4, 5, 7)
        found.append(values.reshape(-1, L // M, N))
        places.append(np.broadcast_to(kept[:, None, None, None], values.shape).reshape(-1, L // M, N))
    positions = np.concatenate(places)
    masks = np.zeros((*positions.shape[:2], M), np.bool_)
    np.put_along_axis(masks, positions, True, axis=-1)
    return np.concatenate(found), rank_masks(masks, N)


def _weight_streams(
    config: AcceleratorConfig, layer: CompressedLayer, schedule: Schedule, raw: bool, passes: int
) -> dict[str, list[int]]:
    """Words of the weight channels: codebook and assignments, or raw weights; masks; signs."""

    def words(data: bytes, bits: int) -> list[int]:
        return _words(data, bits, config.word_width)

    if raw and config.features.sparse:
        weights, ranks = _sparse_rows(config, layer, schedule, passes)
        bits = config.weight_bits
        fields = weights.reshape(-1).view(np.uint8) & np.uint8((1 << bits) - 1)
        streams = {"i_weight": words(pack_fields(fields, bits), bits * weights.size)}
        if config.mask_bits:
            streams["i_mask"] = words(pack_fields(ranks, config.mask_bits), ranks.size * config.mask_bits)
        return streams
    if raw:
        layer = _raw(config, layer)
    layout = StreamLayout.of(layer, schedule)
    count = layout.row_writes * (schedule.L // layout.block)
    packed = layer_streams(layer, schedule)
    streams = {f"i_{name}": words(data, count * layout.bits[name]) for name, data in packed.items()}
    if not raw:
        assert layer.codebook is not None
        bits = config.element_bits
        elements = layer.codebook.view(np.uint8) & np.uint8((1 << bits) - 1)
        codebook = words(pack_fields(elements, bits), layer.codebook.size * bits)
        streams["i_weight"] = codebook + streams.pop("i_index")
    return streams


def layer_program(
    config: AcceleratorConfig, layer: CompressedLayer, activations: NDArray[np.int8], schedule: Schedule
) -> LayerProgram:
    """Everything that a layer puts into the core, and everything that must come out.

    Parameters
    ----------
    config
        The instance.
    layer
        A layer of the variant's method, or ``int8`` as raw weights; ``ws`` and ``ews`` take any as raw weights.
    activations
        int8 ``[C, rows, columns]``, or ``[C]`` for a linear layer.
    schedule
        One that the instance can run.

    Raises
    ------
    ProgramError
        The layer's method, codebook or mask does not fit the instance, or its output is too large.
    sw.schedule.ScheduleError, sw.golden.GoldenError, sw.format.StreamError
        The schedule or the activations do not fit.
    """
    _check(config, layer)
    raw, passes = runs_raw(config, layer), raw_passes(config, layer)
    check_schedule(config, schedule, passes)
    if activations.ndim == 1:
        activations = activations[:, None, None]
    E, F = output_size(layer, *activations.shape[1:])
    limit = (1 << config.loop_bits) - 1
    if max(E, F) > limit:
        raise ProgramError(f"layer {layer.name!r}: output must be at most {limit} x {limit}, not {E} x {F}")

    streams = _weight_streams(config, layer, schedule, raw, passes)
    tiles = list(layer_tiles(layer.shape, schedule))
    positions_of = {name: field.offset for name, field in command_layout(config)}
    streams["i_command"], streams["i_activation"] = [], []
    for number, tile in enumerate(tiles):
        command = {
            "start": int(number == 0),
            "A": tile.A,
            "B": tile.B * passes,
            "D": tile.D,
            "rows": tile.rows if passes == 1 else config.H,
            "width": F,
            "height": E,
            "advance": advance(layer, tile) * passes,
            "accumulate": int(not tile.first),
        }
        if config.features.codebook:
            command |= {"codewords": layer.k if number == 0 and not raw else 0, "raw": int(raw)}
        streams["i_command"].append(sum(value << positions_of[name] for name, value in command.items()))
        vectors = np.repeat(tile_activations(layer, tile, activations, schedule), passes, axis=0)
        streams["i_activation"] += [int.from_bytes(vector.tobytes(), "little") for vector in vectors]

    psums = tile_psums(_filled_up(layer, config.L, raw), activations, schedule, config.psum_width)
    expected = np.concatenate([result.accumulated for result in psums]).astype(np.int32)
    try:
        check_psum_width(layer, config.psum_width)
        sums = layer_sums(layer, activations)
    except PsumOverflowError:
        sums = None
    return LayerProgram(
        layer=layer,
        streams=streams,
        tiles=tiles,
        expected=expected,
        sums=sums,
        requantised=requantise(sums, layer.requantisation) if sums is not None and layer.requantisation else None,
        output=(E, F),
        run=layer_run(config, layer, schedule, *activations.shape[1:]),
        operations=int(np.prod(layer.shape)) * E * F,
    )


def _lanes(config: AcceleratorConfig, payloads: Sequence[int]) -> NDArray[np.int32]:
    """Payloads of ``o_psum`` as int32 ``[vectors, L]``."""
    width, L = config.psum_width, config.L
    size = -(-width * L // 8)
    lanes = np.empty((len(payloads), L), np.int32)
    value = 1 << np.arange(width, dtype=np.int64)
    value[-1] = -value[-1]
    for start in range(0, len(payloads), 1024):
        packed = b"".join(payload.to_bytes(size, "little") for payload in payloads[start : start + 1024])
        octets = np.frombuffer(packed, np.uint8).reshape(-1, size)
        bits = np.unpackbits(octets, axis=1, count=width * L, bitorder="little")
        lanes[start : start + 1024] = bits.reshape(-1, L, width) @ value
    return lanes


class LayerOutputs:
    """Sorts what comes out of ``o_psum`` while layers run back to back.

    Attributes
    ----------
    vectors
        Payloads of each layer so far.
    left
        Vectors that the current layer tile still owes.
    """

    def __init__(self, programs: Sequence[LayerProgram]) -> None:
        self.vectors: list[list[int]] = [[] for _ in programs]
        self._tiles = [
            (number, not tile.last, count)
            for number, program in enumerate(programs)
            for tile, count in zip(program.tiles, program.vectors, strict=True)
        ][::-1]
        self._layer, self._fed_back, self.left = self._tiles.pop()
        self.layers_done = 0

    def take(self, vector: int) -> bool:
        """Store the next vector. True if it is a partial sum that the next layer tile gets back by ``i_psum``."""
        self.vectors[self._layer].append(vector)
        fed_back = self._fed_back
        self.left -= 1
        if not self.left:
            finished = self._layer
            if self._tiles:
                self._layer, self._fed_back, self.left = self._tiles.pop()
            if not self.left or self._layer != finished:
                self.layers_done += 1
        return fed_back

    @property
    def done(self) -> bool:
        """All layers are complete."""
        return self.layers_done == len(self.vectors)


@dataclass(frozen=True)
class Score:
    """The comparison of one layer."""

    #: Sums of the layer that were compared, K * E * F: what the last layer tiles gave. Where partial sums can overflow,
    #: they are compared as they wrap, else with :func:`sw.golden.layer_sums` too.
    sums: int
    #: Partial sums that were compared, of all layer tiles, all lanes.
    psums: int
    #: How many of all compared values differ.
    mismatches: int
    #: The first difference, or an empty text.
    message: str


def score(config: AcceleratorConfig, program: LayerProgram, payloads: Sequence[int]) -> Score:
    """Compare all vectors that a layer gave with the golden model: tile by tile, as sums, and requantised.

    Parameters
    ----------
    payloads
        What came out of ``o_psum`` for this layer, in order; all of it.
    """
    expected = program.expected
    assert len(payloads) == len(expected), "a scoreboard sees complete layers"
    lanes = _lanes(config, payloads)
    wrong = lanes != expected
    mismatches, message = int(wrong.sum()), ""
    if mismatches:
        vector, lane = np.argwhere(wrong)[0]
        number = int(np.searchsorted(np.cumsum(program.vectors), vector, side="right"))
        message = (
            f"layer {program.layer.name!r}: {mismatches} of {wrong.size} partial sums differ; first in layer tile "
            f"{number}, vector {vector}, lane {lane}: {lanes[vector, lane]}, not {expected[vector, lane]}"
        )
    K, (E, F) = program.layer.shape[0], program.output
    if program.sums is not None:
        sums = np.zeros((-(-K // config.L) * config.L, E * F), np.int32)
        start = 0
        for tile, count in zip(program.tiles, program.vectors, strict=True):
            if tile.last:
                sums[tile.k0 : tile.k0 + tile.A * config.L] = lanes[start : start + count].reshape(E * F, -1).T
            start += count
        found: NDArray[Any] = sums[:K].reshape(program.sums.shape)
        pairs: list[tuple[NDArray[Any], NDArray[Any], str]] = [(found, program.sums, "sums")]
        if program.requantised is not None:
            assert program.layer.requantisation is not None
            pairs.append((requantise(found, program.layer.requantisation), program.requantised, "requantised sums"))
        for got, want, what in pairs:
            differing = int((got != want).sum())
            mismatches += differing
            if differing and not message:
                message = f"layer {program.layer.name!r}: {differing} of {want.size} {what} differ"
    return Score(K * E * F, expected.size, mismatches, message)
