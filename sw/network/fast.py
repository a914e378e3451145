"""The integers of :meth:`sw.network.Network.results`, several times faster: the interpreter's second backend.

Sums of products are matrix products in float32 or float64 whose partial sums are integers that the type holds, in any
order; requantisation is int64 without a sum that can overflow; pooling goes through a window tap by tap. Where a bound
does not hold, or an operation has no form here, its reference computes it. So both backends are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.format.layer import CompressedLayer, Requantisation
from sw.golden import output_size
from sw.network.network import Network, check_images, interpret, single
from sw.network.operation import Array, Operation
from sw.network.spatial import Add, Layer, Logits, Maximum, pooled_size

__all__ = ["FastNetwork"]

# Integers of this magnitude are exact in float32 and in float64.
_FLOAT32, _FLOAT64 = 1 << 24, 1 << 53
# Values of an operation for all images that go through the network together.
_TOGETHER = 1 << 23
# Values that a pass takes at a time, so that they stay in a cache.
_BLOCK = 1 << 16


class FastNetwork:
    """A network whose weights are ready for matrix products.

    Parameters
    ----------
    network
        The network; it is not changed. What is prepared takes four or eight bytes for each weight.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._layers: dict[str, _Layer] = {}

    def results(self, images: NDArray[np.int8]) -> tuple[Array, ...]:
        """:meth:`sw.network.Network.results`, bit for bit.

        Raises
        ------
        sw.network.NetworkError, sw.golden.GoldenError
            As there.
        """
        network = self.network
        check_images(network.values[0], images)
        if not len(images):
            return network.results(images)
        step = self._together(images.shape[1:])
        parts = [self._part(images[start : start + step]) for start in range(0, len(images), step)]
        return tuple(np.concatenate(found) for found in zip(*parts, strict=True))

    def _together(self, shape: Sequence[int]) -> int:
        """Images that go through the network together, so that no value of theirs takes much memory."""
        values = self.network.with_image((shape[0], shape[1], shape[2])).values
        return max(1, _TOGETHER // max(prod(value.known) for value in values))

    def _part(self, images: NDArray[np.int8]) -> tuple[Array, ...]:
        network = self.network

        def compute(_: int, op: Operation, values: Sequence[Array]) -> Array:
            run = _RUN.get(type(op))
            found = None if run is None else run(self, op, *values)
            return op.compute(network, *values) if found is None else found

        return interpret(network.operations, network.outputs, images, compute)

    def run(self, images: NDArray[np.int8]) -> Array:
        """:meth:`sw.network.Network.run`, bit for bit.

        Raises
        ------
        sw.network.NetworkError, sw.golden.GoldenError
            As there.
        """
        return single(self.network.outputs, self.results(images))

    def layer(self, name: str) -> _Layer:
        """A layer, prepared when it is met first."""
        if name not in self._layers:
            self._layers[name] = _Layer(self.network.layers[name])
        return self._layers[name]


class _Layer:
    """A layer's weights as floats, and the bounds of its sums."""

    def __init__(self, layer: CompressedLayer) -> None:
        assert layer.requantisation is not None
        self.layer, self.given = layer, layer.requantisation
        K, C, R, S = layer.shape
        weights = layer.integer_weights()
        #: No partial sum is larger, in any order.
        self.bound = 128 * int(np.abs(weights.astype(np.int16)).sum(axis=(1, 2, 3), dtype=np.int64).max())
        self.exact = self.bound < min(_FLOAT64, 1 << 31)
        self.dtype: Any = np.float32 if self.bound <= _FLOAT32 else np.float64
        self.weights = weights.reshape(layer.groups, K // layer.groups, C * R * S).astype(self.dtype)
        self._prepare(self.given)

    def _prepare(self, given: Requantisation) -> None:
        """``(sum + bias) * multiplier`` and half of the divisor on top, as ``sum * multiplier + constant``."""
        bias, self.multiplier, self.shift = (
            part.astype(np.int64)[:, None] for part in (given.bias, given.multiplier, given.shift)
        )
        self.half = np.int64(1) << self.shift >> 1
        channels = [
            (self.bound + abs(int(b)), abs(int(m)), int(s))
            for b, m, s in zip(*map(np.ravel, (bias, self.multiplier, self.shift)), strict=True)
        ]
        #: int64 holds all that comes in between.
        self.fits = all(most * m + (1 << s >> 1) < 1 << 62 for most, m, s in channels)
        #: A quotient can be half an integer: with m = odd * 2**t, where a sum is an odd multiple of 2**(shift - 1 - t).
        self.ties = any(m and (left := s - (m & -m).bit_length()) >= 0 and most >> left for most, m, s in channels)
        self.constant = bias * self.multiplier + self.half if self.fits else bias

    def sums(self, values: Array) -> Array:
        """Sums of a batch of maps, ``[batch, K, E, F]``, as floats."""
        layer, (batch, channels, *sides) = self.layer, values.shape
        (_, C, R, S), G = layer.shape, layer.groups
        E, F = output_size(layer, *sides)
        sums = np.empty((batch, layer.shape[0], E, F), self.dtype)
        plain = (R, S) == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0)
        (top, left), (down, across), (dr, ds) = layer.padding, layer.stride, layer.dilation
        padded = np.zeros((channels, sides[0] + 2 * top, sides[1] + 2 * left), self.dtype)
        inside = padded[:, top : top + sides[0], left : left + sides[1]]

        def tap(r: int, s: int) -> Array:
            return padded[
                :, r * dr : r * dr + (E - 1) * down + 1 : down, s * ds : s * ds + (F - 1) * across + 1 : across
            ]

        depthwise = C == 1 and layer.shape[0] == G
        columns = None if plain or depthwise else np.empty((channels, R, S, E, F), self.dtype)
        product = np.empty((channels, E, F), self.dtype) if depthwise else None
        taps = [(r, s) for r in range(R) for s in range(S)]
        for image, out in zip(values, sums, strict=True):
            inside[...] = image
            if product is not None:
                for number, (r, s) in enumerate(taps):
                    np.multiply(tap(r, s), self.weights[:, 0, number, None, None], out=product if number else out)
                    if number:
                        out += product
                continue
            if columns is not None:
                for r, s in taps:
                    columns[:, r, s] = tap(r, s)
            given = (padded if columns is None else columns).reshape(G, C * R * S, E * F)
            np.matmul(self.weights, given, out=out.reshape(G, -1, E * F))
        return sums

    def requantised(self, sums: Array, limits: tuple[int, int]) -> Array | None:
        """Sums as int8; None if int64 may not hold what comes in between."""
        if not self.fits:
            return None
        found = np.empty(sums.shape, np.int8)
        flat = (*sums.shape[:2], -1)
        for one, out in zip(sums.reshape(flat), found.reshape(flat), strict=True):
            step = max(1, _BLOCK // one.shape[1])
            for start in range(0, len(one), step):
                part = slice(start, start + step)
                scaled = one[part].astype(np.int64)
                scaled *= self.multiplier[part]
                scaled += self.constant[part]
                if self.ties:
                    # Halves away from zero: the shift rounds down, if there is one.
                    scaled -= (scaled < self.half[part]) & (self.shift[part] > 0)
                scaled >>= self.shift[part]
                out[part] = np.clip(scaled, *limits, out=scaled)
        return found


def _maps(values: Array) -> Array:
    """Features or tokens as maps."""
    return {2: values[..., None, None], 3: values[:, :, None], 4: values}[values.ndim]


def _layer(fast: FastNetwork, op: Layer, values: Array) -> Array | None:
    layer = fast.layer(op.layer)
    if not layer.exact:
        return None
    found = layer.requantised(layer.sums(_maps(values)), op.range)
    return None if found is None else found.reshape(len(found), found.shape[1], *_sides(found, values))


def _sides(found: Array, values: Array) -> tuple[int, ...]:
    return found.shape[2:] if values.ndim == 4 else values.shape[2:]


def _logits(fast: FastNetwork, op: Logits, values: Array) -> Array | None:
    layer = fast.layer(op.layer)
    if not layer.exact:
        return None
    sums = layer.sums(_maps(values)).astype(np.int32)
    sums += layer.given.bias[:, None, None]
    return sums.reshape(len(sums), sums.shape[1], *_sides(sums, values))


def _add(fast: FastNetwork, op: Add, first: Array, second: Array) -> Array | None:
    # The sum is at most 2**30, and so is half of the divisor.
    if op.shift > 30:
        return None
    total = first.astype(np.int32)
    total *= np.int32(op.multipliers[0])
    other = second.astype(np.int32)
    other *= np.int32(op.multipliers[1])
    total += other
    if op.shift:
        # Halves away from zero: the shift rounds down.
        total += total >> 31
    total += np.int32(1 << op.shift >> 1)
    total >>= op.shift
    return np.clip(total, *op.range, out=total).astype(np.int8)


def _maximum(fast: FastNetwork, op: Maximum, values: Array) -> Array:
    window = list(zip(values.shape[2:], op.kernel, op.stride, op.padding, strict=True))
    sizes = [pooled_size(*side, ceil=op.ceil) for side in window]
    ends = [max(0, (n - 1) * s + k - p - x) for n, (x, k, s, p) in zip(sizes, window, strict=True)]
    widths = [(0, 0), (0, 0), *((p, end) for (_, _, _, p), end in zip(window, ends, strict=True))]
    padded = np.pad(values, widths, constant_values=-128)
    (E, F), (down, across) = sizes, op.stride
    found: Array | None = None
    for r in range(op.kernel[0]):
        for s in range(op.kernel[1]):
            tap = padded[:, :, r : r + (E - 1) * down + 1 : down, s : s + (F - 1) * across + 1 : across]
            found = tap.copy() if found is None else np.maximum(found, tap, out=found)
    assert found is not None
    return found


_RUN: dict[type[Operation], Callable[..., Array | None]] = {
    Layer: _layer,
    Logits: _logits,
    Add: _add,
    Maximum: _maximum,
}
