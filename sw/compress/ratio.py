"""Bits of a compressed layer and the ideal compression ratio (MVQ equation 7)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from math import comb

from sw.format.layer import CompressedLayer, element_bits

__all__ = ["StorageBits", "ideal_ratio", "layer_bits", "storage_bits", "sum_bits"]


@dataclass(frozen=True)
class StorageBits:
    """Bits of one layer by part."""

    #: Weights of the layer, kept and pruned: NG*d of equation 7.
    weight_count: int
    #: b_a: ceil(log2 k) a subvector.
    assignments: int = 0
    #: b_m: ceil(log2 C(M, N)) for every M weights.
    masks: int = 0
    #: One for each kept weight of a sign-split method.
    signs: int = 0
    #: b_c: k*d*q_c, with q_c = ``codeword_bits``, or one less for magnitudes.
    codebook: int = 0
    #: Of a layer of uniform integers: 8 a weight, or fewer.
    raw: int = 0
    #: Of a codebook that layers share: :func:`sum_bits` counts it once.
    codebook_name: str | None = None

    @property
    def total(self) -> int:
        """All parts together."""
        return self.assignments + self.masks + self.signs + self.codebook + self.raw

    @property
    def per_weight(self) -> float:
        """Bits per weight, the codebook included."""
        return self.total / self.weight_count


def storage_bits(
    weight_count: int,
    *,
    d: int,
    k: int,
    n: int = 1,
    m: int = 1,
    masked: bool = False,
    signed: bool = False,
    codeword_bits: int = 8,
) -> StorageBits:
    """Bits of a layer of that many weights: the terms of MVQ equation 7, and the signs of a sign-split method.

    Parameters
    ----------
    weight_count
        A multiple of d.
    d, k
        Codeword length and codewords.
    n, m
        N:M, used with masks.
    masked
        There are masks (``mvq``, ``msvq``).
    signed
        Signs are split off (``ssvq``, ``msvq``).
    codeword_bits
        Bits of a weight that a codeword stands for, its sign counted in.
    """
    kept = weight_count * n // m if masked else weight_count
    return StorageBits(
        weight_count=weight_count,
        assignments=(k - 1).bit_length() * (weight_count // d),
        masks=(comb(m, n) - 1).bit_length() * (weight_count // m) if masked else 0,
        signs=kept if signed else 0,
        codebook=k * d * element_bits(codeword_bits, signed),
    )


def layer_bits(layer: CompressedLayer) -> StorageBits:
    """:func:`storage_bits` of a compressed layer, with the whole of a codebook that it shares with others."""
    K, C, R, S = layer.shape
    if layer.method == "int8":
        return StorageBits(weight_count=K * C * R * S, raw=layer.weight_bits * K * C * R * S)
    bits = storage_bits(
        K * C * R * S,
        d=layer.d,
        k=layer.k,
        n=layer.n,
        m=layer.m,
        masked=layer.masks is not None,
        signed=layer.signs is not None,
        codeword_bits=layer.codeword_bits,
    )
    return replace(bits, codebook_name=layer.codebook_name)


def sum_bits(layers: Iterable[StorageBits]) -> StorageBits:
    """Bits of many layers together; of those that share a codebook, it counts once (MVQ section 4.1, crosslayer)."""
    rows, names = [], set()
    for row in layers:
        rows.append(replace(row, codebook=0) if row.codebook_name in names else row)
        names |= {row.codebook_name} - {None}
    counts = [field.name for field in fields(StorageBits) if field.name != "codebook_name"]
    return StorageBits(**{name: sum(getattr(row, name) for row in rows) for name in counts})


def ideal_ratio(bits: StorageBits) -> float:
    """Compression ratio against float32: MVQ equation 7, ``NG*d*32 / (b_a + b_m + b_c)``."""
    return 32 * bits.weight_count / bits.total
