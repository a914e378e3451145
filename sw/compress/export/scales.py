"""Real factors as the integers of a requantisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sw.compress.methods import CompressError
from sw.format.layer import CompressedLayer, Requantisation

__all__ = ["MAX_BIAS", "bias_advice", "fixed_point", "requantisation", "unit_of_zeros", "zero_scales"]

#: Half of int32's range is left to the sums.
MAX_BIAS = 1 << 29

# The largest bias in the unit of sums that are 0: the others are rounded to that share of it.
_BIAS_OF_ZEROS = 1 << 20


def bias_advice(bias: NDArray[np.float64]) -> str:
    """What is wrong with biases of the unit of a layer's sums, and the way out."""
    worst = float(np.abs(bias).max())
    advice = "weights so small beside it have no effect, set them to 0"
    return f"bias must be within {MAX_BIAS}, not {worst:.6g}, in the unit of the layer's sums: {advice}"


def zero_scales(layer: CompressedLayer) -> NDArray[np.bool_]:
    """Whether all weights that have it are 0, for each scale of a layer, which says nothing then."""
    used = layer.integer_weights().reshape(layer.shape[0], -1).any(1)
    return np.logical_not(used if len(layer.scale) > 1 else used.any(keepdims=True))


def unit_of_zeros(bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """A unit of sums that are all 0 in which a bias, or the largest of several, is no small number; 1 for 0."""
    magnitude = np.abs(bias)
    return np.where(magnitude > 0, magnitude / _BIAS_OF_ZEROS, 1.0)


def fixed_point(factors: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Multipliers and right shifts whose quotients are nearest to these factors: 31 bits, fewer below 2**-32.

    Parameters
    ----------
    factors
        Finite, of magnitude below 2**30.

    Returns
    -------
    tuple
        int32 multipliers and uint8 shifts of 0..62: ``factor ~ multiplier / 2**shift``.

    Raises
    ------
    CompressError
        A factor is out of range, NaN or infinite.
    """
    factors = np.asarray(factors, np.float64)
    if not (np.abs(factors) < 2.0**30).all():
        raise CompressError(f"requantisation factors must be below 2**30, not {np.abs(factors).max()}")
    exponents = np.frexp(factors)[1]
    shifts = np.clip(31 - exponents, 0, 62)
    multipliers = np.rint(np.ldexp(factors, shifts))
    # A mantissa that rounds up to 1.
    over = np.abs(multipliers) > 2**31 - 1
    shifts = np.where(over, shifts - 1, shifts)
    multipliers = np.rint(np.ldexp(factors, shifts))
    return multipliers.astype(np.int32), shifts.astype(np.uint8)


def requantisation(gain: ArrayLike, offset: ArrayLike, scale: float, K: int) -> Requantisation:
    """``gain * integer + offset`` of K channels as int8 of that scale.

    A channel whose factor is so small that its bias would leave int32 (batch norm weights of 0) gets the least factor
    for which the bias stays within 2**29: too small for the sums to matter.
    """
    factor = np.broadcast_to(np.asarray(gain) / scale, K).astype(np.float64)
    offset = np.broadcast_to(np.asarray(offset) / scale, K)
    least = np.abs(offset) / MAX_BIAS
    factor = np.where(np.abs(factor) < least, np.copysign(least, factor), factor)
    multiplier, shift = fixed_point(factor)
    # Where the shift ends, factors below 2**-62 vanish.
    effective = np.ldexp(multiplier.astype(np.float64), -shift.astype(np.int64))
    bias = np.divide(offset, effective, out=np.zeros(K), where=effective != 0)
    return Requantisation(np.rint(bias).clip(-MAX_BIAS, MAX_BIAS).astype(np.int32), multiplier, shift)
