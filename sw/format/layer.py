"""One compressed layer in memory: what the compressors make, the container stores and the golden model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CODEWORD_BITS",
    "METHODS",
    "SIGN_SPLIT",
    "CompressedLayer",
    "LayerError",
    "Requantisation",
    "codeword_range",
    "element_bits",
]

#: How a layer's weights are stored. ``int8`` is one integer a weight; ``vq`` is plain vector quantisation.
METHODS = ("int8", "vq", "mvq", "ssvq", "msvq")

#: Methods with one sign bit for each kept weight and magnitudes as codewords.
SIGN_SPLIT = ("ssvq", "msvq")

#: Least and greatest number of bits that a weight of a codeword may have, its sign counted in.
CODEWORD_BITS = (2, 8)


class LayerError(ValueError):
    """A compressed layer whose parts contradict each other. The message names the layer, the field, what is allowed."""


def _are_integers(value: object, count: int, low: int) -> bool:
    """Whether ``value`` is a tuple of ``count`` integers of at least ``low``."""
    return isinstance(value, tuple) and len(value) == count and all(type(x) is int and x >= low for x in value)


def geometry_fault(
    name: object,
    kind: object,
    shape: tuple[int, int, int, int],
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
) -> str | None:
    """What is wrong with a layer of this shape, ``[K, C, R, S]``, apart from its weights; None if nothing."""
    if type(name) is not str or not name:
        return "name must be text, and not empty"
    if kind not in ("conv", "linear"):
        return f"kind must be conv or linear, not {kind!r}"
    for field, value, low in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if not _are_integers(value, 2, low):
            return f"{field} must be two integers of at least {low}, not {value!r}"
    if kind == "linear" and shape[2:] != (1, 1):
        return f"shape must end in R = S = 1 for a linear layer, not {shape!r}"
    if type(groups) is not int or groups < 1 or shape[0] % groups:
        return f"groups must be at least 1 and divide K = {shape[0]}, not {groups!r}"
    return None


def element_bits(codeword_bits: int, signed: bool) -> int:
    """Bits that a codebook stores for one element of a codeword.

    Parameters
    ----------
    codeword_bits
        Bits of a weight, its sign counted in.
    signed
        The method splits signs: the codebook holds magnitudes, and the sign's bit is stored elsewhere.
    """
    return codeword_bits - signed


def codeword_range(codeword_bits: int, signed: bool) -> tuple[int, int]:
    """Least and greatest integer of a codeword's elements: ``-128, 127`` for 8 bits, magnitudes ``0, 127``.

    Parameters: :func:`element_bits`.
    """
    half = 1 << (codeword_bits - 1)
    return (0 if signed else -half), half - 1


@dataclass(frozen=True)
class Requantisation:
    """From int32 sums to int8, for each output channel (DESIGN: per-channel bias, multiplier, right shift).

    ``clamp(round_half_away_from_zero((sum + bias) * multiplier / 2**shift), -128, 127)``.

    Parameters
    ----------
    bias, multiplier
        int32 ``[K]``.
    shift
        uint8 ``[K]``, 0..62.
    """

    bias: NDArray[np.int32]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.uint8]


@dataclass(frozen=True)
class CompressedLayer:
    """The integers of one layer, and the scales that give them a meaning.

    Parameters
    ----------
    name
        The module's name in the network.
    kind
        ``conv`` or ``linear``; a linear layer has R = S = 1.
    shape
        ``[K, C, R, S]``: output channels, input channels (of one group), kernel rows, kernel columns.
    stride, padding, dilation
        (rows, columns).
    groups
        Convolution groups; C input channels belong to each.
    method
        One of :data:`METHODS`.
    d, k, n, m
        Codeword length, codewords, N and M of the mask (n = m without masks). All 0 for ``int8``.
    scale
        float32 ``[1]``, or ``[K]`` for ``int8``: weight = scale * integer.
    codebook
        int8 ``[k, d]``, in the range of ``codeword_bits`` (:func:`codeword_range`): magnitudes for ``ssvq`` and
        ``msvq``. None for ``int8``.
    assignments
        int32 ``[NG]``, 0..k-1, subvectors in canonical order (:func:`hw.layout.row_subvectors`). None for ``int8``.
    masks
        bool ``[NG, d]``, True where a weight is kept; ``mvq`` and ``msvq`` only.
    signs
        bool, True where a weight is negative; ``[NG, d]`` for ``ssvq``; ``[NG, Q]`` for ``msvq``, Q = d*n/m, the kept
        weights of a subvector in ascending order of position.
    weights
        int8 ``[K, C, R, S]``; ``int8`` only.
    requantisation
        How sums become int8 activations, or None.
    weight_bits
        Bits that a weight of ``int8`` takes in a file, 2..8: its integers are in ``-2**(b-1)..2**(b-1)-1``. 8 for the
        other methods.
    codeword_bits
        Bits of a weight that a codeword stands for, 2..8, its sign counted in: codewords are in
        ``-2**(b-1)..2**(b-1)-1``, or magnitudes in ``0..2**(b-1)-1``. 8 for ``int8``.
    codebook_name
        Layers of one name share one codebook (MVQ section 4.1, crosslayer), which a file stores once; the scale is each
        layer's own. None: a codebook of this layer alone.

    Raises
    ------
    LayerError
        A part is missing, superfluous, of a wrong shape or dtype, or out of range.
    """

    name: str
    kind: str
    shape: tuple[int, int, int, int]
    method: str
    scale: NDArray[np.float32]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    d: int = 0
    k: int = 0
    n: int = 0
    m: int = 0
    codebook: NDArray[np.int8] | None = None
    assignments: NDArray[np.int32] | None = None
    masks: NDArray[np.bool_] | None = None
    signs: NDArray[np.bool_] | None = None
    weights: NDArray[np.int8] | None = None
    requantisation: Requantisation | None = None
    weight_bits: int = 8
    codebook_name: str | None = None
    codeword_bits: int = 8

    @property
    def subvector_count(self) -> int:
        """NG: subvectors in the layer, 0 for ``int8``."""
        return int(np.prod(self.shape)) // self.d if self.d else 0

    @property
    def Q(self) -> int:
        """Weights kept of a subvector."""
        return self.d * self.n // self.m if self.m else self.d

    def _fail(self, text: str) -> NoReturn:
        raise LayerError(f"layer {self.name!r}: {text}")

    def _check_array(self, field: str, wanted: bool, shape: tuple[int, ...], dtype: type) -> None:
        array = getattr(self, field)
        if not wanted:
            if array is not None:
                self._fail(f"{field} must be None for method {self.method}")
            return
        if not isinstance(array, np.ndarray):
            self._fail(f"{field} must be an array for method {self.method}, not {type(array).__name__}")
        if array.dtype != dtype:
            self._fail(f"{field} must be {np.dtype(dtype).name}, not {array.dtype.name}")
        if array.shape != shape:
            self._fail(f"{field} must have shape {list(shape)}, not {list(array.shape)}")

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            self._fail(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if not _are_integers(self.shape, 4, 1):
            self._fail(f"shape must be four positive integers [K, C, R, S], not {self.shape!r}")
        fault = geometry_fault(self.name, self.kind, self.shape, self.stride, self.padding, self.dilation, self.groups)
        if fault:
            self._fail(fault)
        for field in ("d", "k", "n", "m"):
            if type(getattr(self, field)) is not int:
                self._fail(f"{field} must be an integer, not {getattr(self, field)!r}")
        K = self.shape[0]
        raw, masked, sign_split = (
            self.method == "int8",
            self.method in ("mvq", "msvq"),
            self.method in SIGN_SPLIT,
        )
        if raw:
            if (self.d, self.k, self.n, self.m) != (0, 0, 0, 0):
                self._fail(f"d, k, n, m must be 0 for method int8, not {self.d}, {self.k}, {self.n}, {self.m}")
        else:
            if self.d < 1 or K % self.d:
                self._fail(f"d must be at least 1 and divide K = {K}, not {self.d}")
            if not 1 <= self.k <= 65536:
                self._fail(f"k must be in 1..65536, not {self.k}")
            if self.m < 1 or self.d % self.m:
                self._fail(f"m must be at least 1 and divide d = {self.d}, not {self.m}")
            if not 1 <= self.n <= self.m or (not masked and self.n != self.m):
                self._fail(f"n must be in 1..{self.m}{'' if masked else f' and equal to m = {self.m}'}, not {self.n}")
        if type(self.weight_bits) is not int or not 2 <= self.weight_bits <= 8:
            self._fail(f"weight_bits must be an integer in 2..8, not {self.weight_bits!r}")
        if self.weight_bits != 8 and not raw:
            self._fail(f"weight_bits must be 8 for method {self.method}, not {self.weight_bits}")
        least, most = CODEWORD_BITS
        if type(self.codeword_bits) is not int or not least <= self.codeword_bits <= most:
            self._fail(f"codeword_bits must be an integer in {least}..{most}, not {self.codeword_bits!r}")
        if self.codeword_bits != 8 and raw:
            self._fail(f"codeword_bits must be 8 for method int8, not {self.codeword_bits}")
        if self.codebook_name is not None and (type(self.codebook_name) is not str or not self.codebook_name or raw):
            wanted = "None for method int8" if raw else "text and not empty, or None"
            self._fail(f"codebook_name must be {wanted}, not {self.codebook_name!r}")
        NG = self.subvector_count
        scales = (K,) if raw and np.shape(self.scale) == (K,) else (1,)
        self._check_array("scale", True, scales, np.float32)
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            self._fail("scale must be finite and positive")
        self._check_array("weights", raw, self.shape, np.int8)
        if self.weights is not None and self.weight_bits < 8:
            half = 1 << (self.weight_bits - 1)
            least, greatest = int(self.weights.min()), int(self.weights.max())
            if least < -half or greatest >= half:
                wrong = least if least < -half else greatest
                self._fail(f"weights of {self.weight_bits} bits must be in {-half}..{half - 1}, not {wrong}")
        self._check_array("codebook", not raw, (self.k, self.d), np.int8)
        self._check_array("assignments", not raw, (NG,), np.int32)
        self._check_array("masks", masked, (NG, self.d), np.bool_)
        self._check_array("signs", sign_split, (NG, self.Q), np.bool_)
        if self.codebook is not None:
            low, high = codeword_range(self.codeword_bits, sign_split)
            least, greatest = int(self.codebook.min()), int(self.codebook.max())
            if least < low or greatest > high:
                wrong = least if least < low else greatest
                wanted = f"magnitudes {low}..{high}" if sign_split else f"integers {low}..{high}"
                self._fail(f"codebook must hold {wanted}, not {wrong}")
        if self.assignments is not None and NG:
            low, high = int(self.assignments.min()), int(self.assignments.max())
            if low < 0 or high >= self.k:
                self._fail(f"assignments must be in 0..{self.k - 1}, not {low if low < 0 else high}")
        if self.masks is not None:
            kept = self.masks.reshape(-1, self.m).sum(axis=1)
            if (kept != self.n).any():
                self._fail(f"masks must keep {self.n} of every {self.m}, not {int(kept[kept != self.n][0])}")
        if self.requantisation is not None:
            for field, dtype in (("bias", np.int32), ("multiplier", np.int32), ("shift", np.uint8)):
                array = getattr(self.requantisation, field)
                if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (K,):
                    self._fail(f"requantisation.{field} must be {np.dtype(dtype).name} [{K}]")
            if (self.requantisation.shift > 62).any():
                self._fail(f"requantisation.shift must be in 0..62, not {int(self.requantisation.shift.max())}")

    def subvectors(self) -> NDArray[np.int8]:
        """The decoded weights as subvectors, int8 ``[NG, d]``: codeword, AND mask, with sign (MVQ section 5.2)."""
        if self.codebook is None or self.assignments is None:
            raise LayerError(f"layer {self.name!r}: method int8 has no subvectors")
        decoded = self.codebook[self.assignments]
        if self.masks is not None:
            decoded = decoded * self.masks
        if self.signs is not None:
            negative = self.signs
            if self.masks is not None:
                negative = np.zeros_like(self.masks)
                negative[self.masks] = self.signs.reshape(-1)
            decoded = np.where(negative, -decoded, decoded)
        return decoded.astype(np.int8)

    def integer_weights(self) -> NDArray[np.int8]:
        """The decoded weight tensor, int8 ``[K, C, R, S]``."""
        if self.weights is not None:
            return self.weights
        K, C, R, S = self.shape
        grouped = self.subvectors().reshape(K // self.d, C, R, S, self.d)
        return np.ascontiguousarray(grouped.transpose(0, 4, 1, 2, 3)).reshape(K, C, R, S)

    def float_weights(self) -> NDArray[np.float32]:
        """The decoded weight tensor times its scale, float32 ``[K, C, R, S]``."""
        return self.integer_weights().astype(np.float32) * self.scale.reshape(-1, 1, 1, 1)
