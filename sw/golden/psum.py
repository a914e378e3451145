"""Proof that a layer's partial sums fit a given width."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sw.format.layer import CompressedLayer
from sw.golden.layer import GoldenError

__all__ = ["PsumOverflowError", "check_psum_width", "psum_bounds"]


class PsumOverflowError(ValueError):
    """A layer whose partial sums can overflow. The message names the layer, the channel, the bound and the width."""


def psum_bounds(
    layer: CompressedLayer, activations: tuple[int, int] = (-128, 127)
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and the greatest partial sum of each output channel, int64 ``[K]`` each, over all activations.

    A product w*x with x in a..b, a <= 0 <= b, lies between ``min(a*w, b*w)`` and ``max(a*w, b*w)``, an interval that
    holds 0. So the sum of any subset of the products, whatever the order of accumulation or the shape of an adder tree,
    lies between the sum of all minima and the sum of all maxima; and both are reached.

    Parameters
    ----------
    layer
        The layer.
    activations
        Least and greatest activation: those behind a ReLU are not negative. Padding is 0, so 0 is always among them.

    Raises
    ------
    GoldenError
        The activations are not two integers that ascend in -128..127.
    """
    if not all(type(end) is int and -128 <= end <= 127 for end in activations) or activations[0] > activations[1]:
        raise GoldenError(f"activations must be two integers that ascend in -128..127, not {activations!r}")
    least, greatest = min(activations[0], 0), max(activations[1], 0)
    weights = layer.integer_weights().reshape(layer.shape[0], -1).astype(np.int16)
    low = np.minimum(least * weights, greatest * weights).sum(axis=1, dtype=np.int64)
    high = np.maximum(least * weights, greatest * weights).sum(axis=1, dtype=np.int64)
    return low, high


def check_psum_width(layer: CompressedLayer, bits: int, activations: tuple[int, int] = (-128, 127)) -> None:
    """Prove that no partial sum of the layer, in any order, overflows ``bits`` bits in two's complement.

    Parameters
    ----------
    layer, activations
        As for :func:`psum_bounds`.
    bits
        Width of a partial sum.

    Raises
    ------
    PsumOverflowError
        Some activations overflow: :func:`psum_bounds` is exact.
    GoldenError
        ``bits`` is not in 2..32, or :func:`psum_bounds` refuses.
    """
    if type(bits) is not int or not 2 <= bits <= 32:
        raise GoldenError(f"bits must be in 2..32, not {bits!r}")
    low, high = psum_bounds(layer, activations)
    limit = 1 << (bits - 1)
    # How far each channel is beyond the range -limit..limit - 1.
    excess = np.maximum(-low - limit, high - (limit - 1))
    channel = int(excess.argmax())
    if excess[channel] > 0:
        reached = int(low[channel]) if -low[channel] > high[channel] else int(high[channel])
        needed = max(int(-low.min() - 1).bit_length(), int(high.max()).bit_length()) + 1
        remedy = f"psum_width must be at least {needed}" if needed <= 32 else "no psum_width holds them"
        raise PsumOverflowError(
            f"layer {layer.name!r}: output channel {channel} reaches partial sums of {reached}, "
            f"beyond {-limit}..{limit - 1} of {bits} bits; {remedy}"
        )
