"""Integer reference of one layer: int8 activations to int32 sums, and int32 sums to int8 activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sw.format.layer import CompressedLayer, Requantisation

__all__ = ["GoldenError", "check_images", "layer_sums", "output_size", "pad_images", "requantise"]

# Products of two int8 are at most 2**14, and every integer of magnitude up to 2**24 (2**53) is a float32 (float64).
_FLOAT32_EXACT = 1 << 24
_FLOAT64_EXACT = 1 << 53


class GoldenError(ValueError):
    """Input that the golden model refuses. The message names the value and what is allowed."""


def output_size(layer: CompressedLayer, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns (E, F) of a layer's output for an input of that size.

    Raises
    ------
    GoldenError
        The kernel is larger than the padded input.
    """
    sizes = []
    for axis, (extent, kernel) in enumerate(zip((rows, columns), layer.shape[2:], strict=True)):
        padded = extent + 2 * layer.padding[axis]
        span = layer.dilation[axis] * (kernel - 1) + 1
        if padded < span:
            name = ("rows", "columns")[axis]
            raise GoldenError(f"layer {layer.name!r}: padded input must have at least {span} {name}, not {padded}")
        sizes.append((padded - span) // layer.stride[axis] + 1)
    return sizes[0], sizes[1]


def check_images(layer: CompressedLayer, activations: NDArray[np.int8]) -> NDArray[np.int8]:
    """The activations as images int8 ``[batch, C_in, rows, columns]``, checked.

    Raises
    ------
    GoldenError
        A wrong dtype, number of axes or of channels.
    """
    where = f"layer {layer.name!r}"
    if not isinstance(activations, np.ndarray) or activations.dtype != np.int8:
        given = getattr(activations, "dtype", type(activations).__name__)
        raise GoldenError(f"{where}: activations must be int8, not {given}")
    channels = layer.shape[1] * layer.groups
    axes = {1: "[C]", 2: "[batch, C]"} if layer.kind == "linear" else {}
    axes |= {3: "[C, rows, columns]", 4: "[batch, C, rows, columns]"}
    if activations.ndim not in axes:
        raise GoldenError(f"{where}: activations must be {' or '.join(axes.values())}, not {activations.ndim} axes")
    images: NDArray[np.int8] = activations[None] if activations.ndim % 2 else activations
    if images.ndim == 2:
        images = images[:, :, None, None]
    if images.shape[1] != channels:
        raise GoldenError(f"{where}: activations must have {channels} channels, not {images.shape[1]}")
    return images


def pad_images(layer: CompressedLayer, images: NDArray[np.int8]) -> NDArray[np.int8]:
    """Images with the layer's zero padding around the last two axes."""
    (rows, columns) = layer.padding
    widths = [(0, 0)] * (images.ndim - 2) + [(rows, rows), (columns, columns)]
    padded: NDArray[np.int8] = np.pad(images, widths) if rows or columns else images
    return padded


def layer_sums(layer: CompressedLayer, activations: NDArray[np.int8]) -> NDArray[np.int32]:
    """The sums of products of a convolution (any kernel, stride, padding, dilation, groups) or a linear layer.

    The sums are computed as floating-point matrix products that are exact: a partial sum of output channel o, in any
    order of summation, is an integer of magnitude at most ``128 * sum |w_o|``; where that is at most 2**24 all of them
    are float32 values, where it is at most 2**53 float64 values, so no operation rounds.

    Parameters
    ----------
    layer
        Any method; the weights are its :meth:`~sw.format.layer.CompressedLayer.integer_weights`.
    activations
        int8 ``[C_in, rows, columns]`` or ``[batch, C_in, rows, columns]``; for a linear layer also ``[C_in]`` or
        ``[batch, C_in]``. Outside the image they are 0, the zero point.

    Returns
    -------
    int32 ``[K, E, F]``, ``[batch, K, E, F]``, ``[K]`` or ``[batch, K]``, as the activations were given

    Raises
    ------
    GoldenError
        Activations of a wrong dtype or shape, or a sum that does not fit int32.
    """
    images = check_images(layer, activations)
    E, F = output_size(layer, *images.shape[2:])
    K, C, R, S = layer.shape
    G = layer.groups
    weights = layer.integer_weights()
    bound = 128 * int(np.abs(weights.astype(np.int16)).sum(axis=(1, 2, 3), dtype=np.int64).max())
    if bound > _FLOAT64_EXACT:
        raise GoldenError(f"layer {layer.name!r}: sums of magnitude up to {bound} are beyond 2**53")
    dtype: type = np.float32 if bound <= _FLOAT32_EXACT else np.float64
    matrix: NDArray[Any] = weights.reshape(G, K // G, C * R * S).astype(dtype)

    span = [d * (kernel - 1) + 1 for d, kernel in zip(layer.dilation, (R, S), strict=True)]
    sums: NDArray[np.int32] = np.empty((len(images), K, E, F), np.int32)
    limit = np.iinfo(np.int32)
    for image, out in zip(images, sums, strict=True):
        windows = sliding_window_view(pad_images(layer, image), (span[0], span[1]), axis=(1, 2))
        windows = windows[:, :: layer.stride[0], :: layer.stride[1], :: layer.dilation[0], :: layer.dilation[1]]
        columns: NDArray[Any] = windows.transpose(0, 3, 4, 1, 2).astype(dtype).reshape(G, C * R * S, E * F)
        exact = np.matmul(matrix, columns).reshape(K, E, F)
        if bound > limit.max and not (exact.min() >= limit.min and exact.max() <= limit.max):
            wrong = int(exact.min()) if exact.min() < limit.min else int(exact.max())
            raise GoldenError(f"layer {layer.name!r}: sums must fit int32, not {wrong}")
        out[...] = exact
    if activations.ndim in (1, 2):
        sums = sums.reshape(-1, K)
    return sums[0] if activations.ndim % 2 else sums


def requantise(sums: NDArray[np.int32], requantisation: Requantisation) -> NDArray[np.int8]:
    """``clamp(round((sum + bias) * multiplier / 2**shift), -128, 127)``, halves away from zero, exact for every input.

    Parameters
    ----------
    sums
        int32 in a shape that :func:`layer_sums` returns: channels are axis 0 of one or three, axis 1 of two or four.
    requantisation
        Bias, multiplier and shift of each output channel.

    Returns
    -------
    int8, of the shape of ``sums``

    Raises
    ------
    GoldenError
        A wrong dtype, number of axes or of channels, or no requantisation.
    """
    if not isinstance(sums, np.ndarray) or sums.dtype != np.int32:
        raise GoldenError(f"sums must be int32, not {getattr(sums, 'dtype', type(sums).__name__)}")
    if not isinstance(requantisation, Requantisation):
        raise GoldenError(f"requantisation must be a Requantisation, not {requantisation!r}")
    if not 1 <= sums.ndim <= 4:
        raise GoldenError(f"sums must have 1 to 4 axes, not {sums.ndim}")
    axis = 1 - sums.ndim % 2
    K = len(requantisation.bias)
    if sums.shape[axis] != K:
        raise GoldenError(f"sums must have {K} channels, not {sums.shape[axis]}")
    along = [1] * sums.ndim
    along[axis] = K
    bias, multiplier, shift = (
        part.astype(np.int64).reshape(along)
        for part in (requantisation.bias, requantisation.multiplier, requantisation.shift)
    )
    biased = sums + bias
    # |biased| <= 2**32 and |multiplier| <= 2**31: their product can be 2**63, one more than int64 holds, so sign and
    # magnitude are kept apart. Half of 2**62 on top still fits uint64, and rounding the magnitude is rounding away from
    # zero.
    magnitude = np.abs(biased).astype(np.uint64) * np.abs(multiplier).astype(np.uint64)
    right = shift.astype(np.uint64)
    one = np.uint64(1)
    rounded = np.minimum((magnitude + ((one << right) >> one)) >> right, np.uint64(128)).astype(np.int64)
    signed = np.where((biased < 0) != (multiplier < 0), -rounded, rounded)
    result: NDArray[np.int8] = np.clip(signed, -128, 127).astype(np.int8)
    return result
