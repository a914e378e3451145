"""From a weight tensor to a compressed layer: VQ, MVQ, SSVQ, MSVQ, and 8-bit weights where none of them fits.

One core serves the four: group, prune if the method has masks, take magnitudes if it splits signs, cluster, quantise.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.compress.grouping import group, ungroup
from sw.compress.kmeans import EMPTY_POLICIES, INITS, kmeans, member_counts
from sw.compress.pruning import check_nm, nm_mask
from sw.compress.quantiser import quantise_channels, quantise_codebook
from sw.compress.ratio import storage_bits
from sw.format.layer import METHODS, CompressedLayer, geometry_fault

__all__ = ["MASKED", "SIGN_SPLIT", "CompressError", "LayerSource", "Recipe", "compress_layer", "kept_weights", "misfit"]

#: Methods with an N:M mask.
MASKED = ("mvq", "msvq")

#: Methods with one sign bit for each kept weight and magnitudes as codewords.
SIGN_SPLIT = ("ssvq", "msvq")


class CompressError(ValueError):
    """A recipe or a weight tensor that cannot be used. The message names the field, its value and what is allowed."""


@dataclass(frozen=True)
class Recipe:
    """How layers are compressed.

    Parameters
    ----------
    method
        One of :data:`sw.format.layer.METHODS`; ``int8`` keeps all layers at 8 bit.
    k, d
        Codewords, 1..65536, and codeword length, 1..256.
    n, m
        N of every M weights are kept; m divides d. Masked methods prune with it. For the others it only says on which
        weights the error of the kept weights is measured, so that methods can be compared; 0, 0 for none.
    iterations, seed, init, empty
        As in :func:`sw.compress.kmeans.kmeans`.

    Raises
    ------
    CompressError
        A field has a wrong type or is out of range. A bad N:M raises its subclass of ValueError
        (:func:`sw.compress.pruning.check_nm`).
    """

    method: str = "mvq"
    k: int = 512
    d: int = 16
    n: int = 4
    m: int = 16
    iterations: int = 20
    seed: int = 0
    init: str = "k-means++"
    empty: str = "farthest"

    def __post_init__(self) -> None:
        for field, allowed in (("method", METHODS), ("init", INITS), ("empty", EMPTY_POLICIES)):
            value = getattr(self, field)
            if value not in allowed:
                raise CompressError(f"{field} must be one of {', '.join(allowed)}, not {value!r}")
        ranges = (("k", 1, 65536), ("d", 1, 256), ("n", 0, 256), ("m", 0, 256))
        for field, low, high in (*ranges, ("iterations", 0, 10**6), ("seed", 0, 2**63 - 1)):
            value = getattr(self, field)
            if type(value) is not int or not low <= value <= high:
                raise CompressError(f"{field} must be an integer in {low}..{high}, not {value!r}")
        if self.masked:
            check_nm(self.n, self.m, self.d)
        elif (self.n, self.m) != (0, 0):
            check_nm(self.n, self.m, self.m)

    @property
    def masked(self) -> bool:
        """The method prunes."""
        return self.method in MASKED

    @property
    def signed(self) -> bool:
        """The method splits signs."""
        return self.method in SIGN_SPLIT


@dataclass(frozen=True)
class LayerSource:
    """The weights of one layer of a network, before compression.

    Parameters
    ----------
    name
        The module's name in the network.
    kind
        ``conv`` or ``linear``.
    weight
        float32 ``[K, C, R, S]``, finite; R = S = 1 for ``linear``.
    stride, padding, dilation
        (rows, columns).
    groups
        Convolution groups.

    Raises
    ------
    CompressError
        The weight is not a float32 array of four axes, is empty, NaN or infinite; or another field is out of range, by
        the rules of :class:`sw.format.layer.CompressedLayer`.
    """

    name: str
    kind: str
    weight: NDArray[np.float32]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        weight = self.weight
        if not isinstance(weight, np.ndarray) or weight.dtype != np.float32:
            found = type(weight).__name__
            if isinstance(weight, np.ndarray):
                found = weight.dtype.name
                if not weight.dtype.isnative:
                    found += f" in foreign byte order ({weight.dtype.str})"
            raise CompressError(f"layer {self.name!r}: weight must be a float32 array, not {found}")
        if weight.ndim != 4 or not weight.size:
            raise CompressError(f"layer {self.name!r}: weight must be [K, C, R, S], not {list(weight.shape)}")
        if not np.isfinite(weight).all():
            raise CompressError(f"layer {self.name!r}: weight must be finite, not NaN or infinite")
        fault = geometry_fault(self.name, self.kind, self.shape, self.stride, self.padding, self.dilation, self.groups)
        if fault:
            raise CompressError(f"layer {self.name!r}: {fault}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``[K, C, R, S]``."""
        K, C, R, S = self.weight.shape
        return K, C, R, S


def misfit(source: LayerSource, recipe: Recipe) -> str | None:
    """Why a recipe cannot compress a layer, so that it is kept at 8 bit; None if it can.

    In this order: ``depthwise``: one input channel a group, so that the weights of a subvector share no activation;
    ``channels``: d does not divide the output channels of a group, so that a subvector would cross groups;
    ``subvectors``: fewer than k; ``size``: indices, masks, signs and codebook together take 8 bits a weight or more.
    """
    if recipe.method == "int8":
        return None
    K, C, R, S = source.shape
    if source.groups > 1 and C == 1:
        return "depthwise"
    if K // source.groups % recipe.d:
        return f"channels: {K // source.groups} is not a multiple of d = {recipe.d}"
    NG = K * C * R * S // recipe.d
    if recipe.k > NG:
        return f"subvectors: {NG} are fewer than k = {recipe.k}"
    bits = storage_bits(
        K * C * R * S, d=recipe.d, k=recipe.k, n=recipe.n, m=recipe.m, masked=recipe.masked, signed=recipe.signed
    )
    if bits.per_weight >= 8:
        return f"size: {bits.per_weight:.2f} bits a weight with the codebook"
    return None


def kept_weights(weight: NDArray[np.float32], n: int, m: int) -> NDArray[np.bool_] | None:
    """Mask of the weights that N:M pruning keeps, bool ``[K, C, R, S]``; None if m does not divide K or is 0.

    The same for every codeword length, because d is a multiple of m.
    """
    K, C, R, S = weight.shape
    if m == 0 or K % m:
        return None
    return ungroup(nm_mask(group(weight, m), n, m), (K, C, R, S))


def compress_layer(source: LayerSource, recipe: Recipe, *, threads: int | None = None) -> CompressedLayer:
    """Compress one layer. The same source and recipe give the same bytes on any number of threads.

    A layer that the recipe cannot compress comes back as method ``int8``, one scale a channel; :func:`misfit` says why.

    Parameters
    ----------
    source, recipe
        What to compress, and how.
    threads
        As in :func:`sw.compress.kmeans.kmeans`.
    """
    if recipe.method == "int8" or misfit(source, recipe) is not None:
        weights, scale = quantise_channels(source.weight)
        return _layer(source, method="int8", weights=weights, scale=scale)

    subvectors = group(source.weight, recipe.d)
    masks = nm_mask(subvectors, recipe.n, recipe.m) if recipe.masked else None
    signs = None
    if recipe.signed:
        signs = np.signbit(subvectors)
        subvectors = np.abs(subvectors)
        if masks is not None:
            signs = signs[masks].reshape(len(masks), -1)
    found = kmeans(
        subvectors,
        recipe.k,
        masks=masks,
        iterations=recipe.iterations,
        seed=recipe.seed,
        init=recipe.init,
        empty=recipe.empty,
        threads=threads,
    )
    counts = member_counts(masks, found.assignments, recipe.k, recipe.d)
    codebook, scale = quantise_codebook(found.codebook, counts, magnitudes=recipe.signed)
    return _layer(
        source,
        method=recipe.method,
        d=recipe.d,
        k=recipe.k,
        n=recipe.n if recipe.masked else recipe.d,
        m=recipe.m if recipe.masked else recipe.d,
        scale=scale,
        codebook=codebook,
        assignments=found.assignments,
        masks=masks,
        signs=signs,
    )


def _layer(source: LayerSource, **fields: Any) -> CompressedLayer:
    """The compressed layer with these fields and the geometry of its source."""
    geometry = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    del geometry["weight"]
    return CompressedLayer(shape=source.shape, **geometry, **fields)
