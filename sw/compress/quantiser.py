"""Symmetric quantisation of codebooks and of weights without a codeword, to 8 bits or fewer (MVQ section 4.3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sw.format.layer import codeword_range

__all__ = ["QuantiserError", "quantise", "quantise_channels", "quantise_codebook", "uniform_range"]

# Shares of the largest magnitude that the range may cover. 1 is among them: never worse than max-abs.
_CLIPPING = np.linspace(0.5, 1.0, 51)
# The same of fewer bits than 8: of 2, the best scale may map max-abs to far beyond the range.
_NARROW_CLIPPING = np.linspace(0.1, 1.0, 51)


class QuantiserError(ValueError):
    """Values that have no scale. The message names the argument."""


def quantise(
    values: NDArray[np.floating], scale: NDArray[np.float32], low: int = -128, high: int = 127
) -> NDArray[np.int8]:
    """Integers of these values: MVQ equation 5, ``clamp(round(v / s), low, high)``.

    Halves are rounded to even.

    Parameters
    ----------
    values
        Any shape, finite.
    scale
        float32, positive; broadcasts against ``values``.
    low, high
        Least and greatest integer. ``low`` is 0 for magnitudes.
    """
    integers: NDArray[np.int8] = np.clip(np.rint(values / scale), low, high).astype(np.int8)
    return integers


def quantise_codebook(
    codebook: NDArray[np.float32],
    counts: NDArray[np.float64],
    *,
    magnitudes: bool = False,
    codeword_bits: int = 8,
    also: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A codebook as integers with one scale.

    Of 51 scales, from max-abs/254 to max-abs/127 for 8 bits, the one with the smallest squared error over the weights
    that the codebook stands for. Elements that stand for no weight count neither for the error nor for max-abs.

    Parameters
    ----------
    codebook
        float32 ``[k, d]``, finite; not negative for magnitudes.
    counts
        Weights that each element stands for, ``[k, d]`` (:func:`sw.compress.kmeans.member_counts`).
    magnitudes
        Integers in 0..127 in place of -128..127.
    codeword_bits
        Fewer bits: 2..8, the sign counted in (:func:`sw.format.layer.codeword_range`).
    also
        A scale to try before the others, float32 ``[1]``.

    Returns
    -------
    tuple
        int8 ``[k, d]`` and float32 ``[1]``. The scale is 1 if all that counts is 0.

    Raises
    ------
    QuantiserError
        The codebook or a count is NaN or infinite, or ``codeword_bits`` is out of range.
    """
    _check_finite("codebook", codebook)
    _check_finite("counts", counts)
    _check_bits("codeword_bits", codeword_bits)
    low, high = codeword_range(codeword_bits, magnitudes)
    used = counts > 0
    values, weights = codebook[used].astype(np.float64), counts[used]
    largest = np.abs(values).max(initial=0)
    scales = _scale(largest * _CLIPPING) if codeword_bits == 8 else _scale(largest * (127 / high) * _NARROW_CLIPPING)
    if also is not None and largest:
        scales = np.concatenate([also, scales])
    errors = [float(weights @ (quantise(values, scale, low, high) * float(scale) - values) ** 2) for scale in scales]
    # The largest scale of equal errors is taken: no clipping without a gain.
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    scale = scales[best : best + 1]
    return quantise(codebook, scale, low, high), scale


def uniform_range(bits: int) -> tuple[int, int]:
    """Least and greatest integer of a weight without a codeword: ``-127, 127`` for 8 bits, ``-2, 1`` for 2.

    5 to 8 bits leave the least integer of two's complement out, as sign-split arrays do, so that such weights take no
    more digits than they must (:mod:`sw.program.digits`). Fewer bits need it: they have it as LSQ does.

    Raises
    ------
    QuantiserError
        ``bits`` is not in 2..8.
    """
    _check_bits("bits", bits)
    half = 1 << (bits - 1)
    return -half + (bits > 4), half - 1


def quantise_channels(weight: NDArray[np.float32], bits: int = 8) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight tensor ``[K, C, R, S]`` as uniform integers and a scale a channel, float32 ``[K]``.

    Integers in :func:`uniform_range`. The scale of 8 bits is max-abs/127; of fewer, of 51 scales the one with the
    smallest squared error over the channel.

    Raises
    ------
    QuantiserError
        A weight is NaN or infinite, or ``bits`` is not in 2..8.
    """
    _check_finite("weight", weight)
    low, high = uniform_range(bits)
    largest = np.abs(weight).max(axis=(1, 2, 3))
    if bits == 8:
        scales = _scale(largest)
        return quantise(weight, scales.reshape(-1, 1, 1, 1)), scales
    tried = [_scale(largest * (127 * share / high)) for share in _NARROW_CLIPPING]
    errors = []
    for scales in tried:
        wide = scales.reshape(-1, 1, 1, 1)
        errors.append(((quantise(weight, wide, low, high) * wide - weight).astype(np.float64) ** 2).sum((1, 2, 3)))
    best = np.argmin(errors, axis=0)
    scales = np.stack(tried)[best, np.arange(len(weight))]
    return quantise(weight, scales.reshape(-1, 1, 1, 1), low, high), scales


def _check_finite(name: str, values: NDArray[np.floating]) -> None:
    if not np.isfinite(values).all():
        raise QuantiserError(f"{name} must be finite, not NaN or infinite")


def _check_bits(name: str, bits: int) -> None:
    if type(bits) is not int or not 2 <= bits <= 8:
        raise QuantiserError(f"{name} must be an integer in 2..8, not {bits!r}")


def _scale(largest: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale that maps these magnitudes to 127; 1 for 0. Never below the smallest normal float32."""
    scale = np.maximum(largest / 127, np.finfo(np.float32).tiny)
    return np.where(largest > 0, scale, 1).astype(np.float32)
