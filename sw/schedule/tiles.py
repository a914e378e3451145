"""The golden model cut into layer tiles: what each pass of the array reads and produces (MVQ figure 7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw.layout import LayerTile, Schedule, layer_tiles
from sw.format.layer import CompressedLayer
from sw.golden.layer import GoldenError, check_images, output_size, pad_images

__all__ = ["TilePsums", "advance", "run_schedule", "tile_activations", "tile_psums"]


@dataclass(frozen=True)
class TilePsums:
    """What one layer tile adds, and the partial sums after it.

    Both arrays are int64 ``[E*F*A, L]`` in output order: positions p row by row, then s < A; absent output channels are
    0. ``own`` holds the sums of this tile's products alone; ``accumulated`` those of all tiles of the same output
    channels so far.
    """

    tile: LayerTile
    own: NDArray[np.int64]
    accumulated: NDArray[np.int64]


def _one_image(layer: CompressedLayer, activations: NDArray[np.int8]) -> NDArray[np.int8]:
    images = check_images(layer, activations)
    if layer.groups != 1:
        raise GoldenError(f"layer {layer.name!r}: groups must be 1, not {layer.groups}: the array runs each by itself")
    if len(images) != 1:
        raise GoldenError(f"layer {layer.name!r}: activations must be one image, not {len(images)}")
    image: NDArray[np.int8] = images[0]
    return image


def _wrap(values: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Two's complement of ``bits`` bits."""
    half = 1 << (bits - 1)
    return (values + half) % (1 << bits) - half


def _row_groups(padded: NDArray[np.int8], tile: LayerTile, H: int) -> NDArray[np.int8]:
    """The tile's input channels as ``[B, H, rows, columns]``, zero where there is no channel."""
    channels = padded[tile.c0 : tile.c0 + tile.B * H]
    groups = np.zeros((tile.B * H, *padded.shape[1:]), np.int8)
    groups[: len(channels)] = channels
    return groups.reshape(tile.B, H, *padded.shape[1:])


def _rows(layer: CompressedLayer, tile: LayerTile, E: int) -> NDArray[np.intp]:
    """Padded input rows under the tile's kernel rows, ``[E, Dr]``."""
    kernel = (tile.r0 + np.arange(tile.Dr)) * layer.dilation[0]
    return np.arange(E)[:, None] * layer.stride[0] + kernel


def _columns(layer: CompressedLayer, tile: LayerTile, F: int) -> NDArray[np.intp]:
    """Padded input columns under the tile's kernel columns, ``[F, Ds]``."""
    kernel = (tile.s0 + np.arange(tile.Ds)) * layer.dilation[1]
    return np.arange(F)[:, None] * layer.stride[1] + kernel


def advance(layer: CompressedLayer, tile: LayerTile) -> int:
    """Activation vectors that the ARF frees, and takes anew, from one output position of a row to the next.

    With a column stride t below Ds the window slides: t kernel columns of Dr*B vectors. With a larger stride, or with a
    column dilation, which leaves gaps that slide past each other, the whole window of D*B.
    """
    t = layer.stride[1] if layer.dilation[1] == 1 else tile.Ds
    return min(t, tile.Ds) * tile.Dr * tile.B


def tile_activations(
    layer: CompressedLayer, tile: LayerTile, activations: NDArray[np.int8], schedule: Schedule
) -> NDArray[np.int8]:
    """The activation vectors that the array's ARF consumes during a layer tile.

    The window of an output position is D*B vectors in the order q (kernel columns outside, kernel rows inside), then r
    < B. At the first position of an output row all of them are sent, at the others the last :func:`advance`.

    Parameters
    ----------
    layer
        With one convolution group.
    tile
        One of ``layer_tiles(layer.shape, schedule)``.
    activations
        One image, as :func:`sw.golden.layer_sums` takes it.
    schedule
        The schedule that the tile is of.

    Returns
    -------
    int8 ``[n, H]``
        Absent input channels and the padding are 0.

    Raises
    ------
    GoldenError
        Activations of a wrong dtype or shape, or a grouped convolution.
    """
    image = _one_image(layer, activations)
    E, F = output_size(layer, *image.shape[1:])
    groups = _row_groups(pad_images(layer, image), tile, schedule.H)
    rows, columns = _rows(layer, tile, E), _columns(layer, tile, F)
    new = advance(layer, tile) // (tile.Dr * tile.B)
    sent = np.concatenate([columns[0], columns[1:, tile.Ds - new :].reshape(-1)])
    # [B, H, E, Dr, sent columns] to output row, column, kernel row, row group, channel
    vectors = groups[:, :, rows[:, :, None], sent].transpose(2, 4, 3, 0, 1)
    return np.ascontiguousarray(vectors).reshape(-1, schedule.H)


def tile_psums(
    layer: CompressedLayer, activations: NDArray[np.int8], schedule: Schedule, psum_width: int = 32
) -> Iterator[TilePsums]:
    """Run a layer tile by tile as the array does, with partial sums that wrap at ``psum_width`` bits.

    Parameters
    ----------
    layer
        With one convolution group.
    activations
        One image, as :func:`sw.golden.layer_sums` takes it.
    schedule
        How the layer is cut.
    psum_width
        Bits of a partial sum in two's complement, 2..32.

    Yields
    ------
    TilePsums
        In the order of :func:`hw.layout.layer_tiles`.

    Raises
    ------
    GoldenError
        Activations of a wrong dtype or shape, a grouped convolution, or a width out of range.
    ValueError
        The schedule does not fit the kernel.
    """
    if type(psum_width) is not int or not 2 <= psum_width <= 32:
        raise GoldenError(f"psum_width must be in 2..32, not {psum_width!r}")
    image = _one_image(layer, activations)
    E, F = output_size(layer, *image.shape[1:])
    padded = pad_images(layer, image)
    K, C, R, S = layer.shape
    H, L = schedule.H, schedule.L
    # Absent channels have zero weights.
    weights = np.zeros((-(-K // L) * L, -(-C // H) * H, R, S))
    weights[:K, :C] = layer.integer_weights()

    accumulated = np.zeros((0, 0, L), np.int64)
    for tile in layer_tiles(layer.shape, schedule):
        groups = _row_groups(padded, tile, H)
        rows, columns = _rows(layer, tile, E), _columns(layer, tile, F)
        own = np.zeros((E * F, tile.A, L), np.int64)
        for q in range(tile.D):
            ds, dr = divmod(q, tile.Dr)
            window = groups[:, :, rows[:, dr, None], columns[:, ds]].reshape(tile.B, H, E * F).astype(np.float64)
            for r in range(tile.B):
                for s in range(tile.A):
                    k, c = tile.k0 + s * L, tile.c0 + r * H
                    pe = weights[k : k + L, c : c + H, tile.r0 + dr, tile.s0 + ds]
                    # H products of at most 2**14 stay far below 2**53, so the matrix product is exact.
                    products = (pe @ window[r]).T.astype(np.int64)
                    own[:, s] = _wrap(own[:, s] + products, psum_width)
        accumulated = own if tile.first else _wrap(accumulated + own, psum_width)
        yield TilePsums(tile, own.reshape(-1, L), accumulated.reshape(-1, L))


def run_schedule(
    layer: CompressedLayer, activations: NDArray[np.int8], schedule: Schedule, psum_width: int = 32
) -> NDArray[np.int32]:
    """The sums of a layer, accumulated over the layer tiles of a schedule: :func:`tile_psums` put together.

    Equal to :func:`sw.golden.layer_sums` for a layer that :func:`sw.golden.check_psum_width` passes for ``psum_width``.

    Returns
    -------
    int32 ``[K, E, F]``, or ``[K]`` for the activations ``[C]`` of a linear layer
    """
    image = _one_image(layer, activations)
    E, F = output_size(layer, *image.shape[1:])
    K, L = layer.shape[0], schedule.L
    sums = np.zeros((-(-K // L) * L, E * F), np.int32)
    for result in tile_psums(layer, activations, schedule, psum_width):
        tile = result.tile
        if tile.last:
            psums = result.accumulated.reshape(E * F, tile.A * L)
            sums[tile.k0 : tile.k0 + tile.A * L] = psums.T
    return sums[:K].reshape((K,) if activations.ndim == 1 else (K, E, F))
