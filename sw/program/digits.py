"""Raw weights as digits: what an array of narrow weights takes, one digit after the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig

__all__ = ["INT8", "bits_of", "digit_advice", "digit_count", "digit_range", "split_digits"]

#: Least and greatest weight of which nothing is known.
INT8 = (-128, 127)


def bits_of(values: NDArray[np.int8]) -> int:
    """Bits in two's complement that hold all of these integers."""
    return 1 + int(np.maximum(values, ~values).max()).bit_length()


def digit_range(config: AcceleratorConfig) -> tuple[int, int]:
    """Least and greatest digit, which are the least and greatest weight that the array multiplies by."""
    half = 1 << (config.weight_bits - 1)
    return -half + config.features.sign, half - 1


def digit_count(config: AcceleratorConfig, low: int, high: int) -> int:
    """Fewest digits that raw weights in ``low..high`` take: :attr:`hw.config.AcceleratorConfig.digit_bits`.

    Weights of 8 bits take one, whatever they are; of -128, which arrays of magnitudes and signs do not multiply by, the
    compiler says so.
    """
    if config.weight_bits == 8:
        return 1
    least, greatest = digit_range(config)
    count, unit, lower, upper = 1, 1, least, greatest
    while low < lower or high > upper:
        count, unit = count + 1, unit << config.digit_bits
        lower, upper = lower + unit * least, upper + unit * greatest
    return count


def digit_advice(config: AcceleratorConfig, layers: Mapping[str, tuple[int, int]]) -> str:
    """One line about int8 layers of three digits or more that would take fewer with fewer bits; empty without such.

    Parameters
    ----------
    config
        The instance, or one of the same variant and ``weight_bits``.
    layers
        By name, least and greatest weight of the layers without codewords.
    """
    counts = {name: digit_count(config, *ends) for name, ends in layers.items()}
    most = max(counts.values(), default=1)
    # Weights of 5 to 8 bits are symmetric (sw.compress.quantiser.uniform_range).
    halves = {bits: (1 << (bits - 1)) - 1 for bits in (7, 6, 5)}
    fewer = {bits: count for bits, half in halves.items() if (count := digit_count(config, -half, half)) < most}
    if most < 3 or not fewer:
        return ""
    bits, count = next(iter(fewer.items()))
    names = [name for name in counts if counts[name] > count]
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"{listed}: weights without codewords take {most} digits on {config.weight_bits}-bit arrays, each as long as "
        f"the layer; compressed with --uniform-bits {bits} they take {count}"
    )


def split_digits(config: AcceleratorConfig, weights: NDArray[np.int8], count: int) -> NDArray[np.int8]:
    """The digits of raw weights.

    Parameters
    ----------
    config
        The instance.
    weights
        int8, of any shape.
    count
        As many digits as they take, or more (:func:`digit_count`).

    Returns
    -------
    int8 ``[count, *weights.shape]``
        The highest first: the sum of ``digit * 2**(digit_bits * (count - 1 - i))`` is the weight. All are in
        :func:`digit_range`.
    """
    if count == 1:
        return weights[None]
    base = 1 << config.digit_bits
    least, _ = digit_range(config)
    rest = weights.astype(np.int16)
    digits = np.empty((count, *weights.shape), np.int8)
    for i in reversed(range(count)):
        if not i:
            digit = rest
        elif config.features.sign:
            digit = np.fmod(rest, base)  # of the weight's sign
        else:
            digit = (rest - least) % base + least
        digits[i] = digit
        rest = (rest - digit) // base
    return digits
