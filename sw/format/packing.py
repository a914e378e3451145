"""Fields of 1 to 32 bits packed back to back, and the vectorised mask code of :mod:`hw.layout`."""

from __future__ import annotations

from functools import cache
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MAX_BITS", "PackingError", "mask_code_bits", "pack_fields", "rank_masks", "unpack_fields", "unrank_masks"]

#: The widest field.
MAX_BITS = 32


class PackingError(ValueError):
    """A value, width or length that the packed form does not allow."""


def _check_bits(bits: int) -> None:
    if type(bits) is not int or not 1 <= bits <= MAX_BITS:
        raise PackingError(f"bits must be in 1..{MAX_BITS}, not {bits!r}")


def pack_fields(values: ArrayLike, bits: int) -> bytes:
    """Pack unsigned integers, least significant bit first, into little-endian bytes.

    Field i takes bits ``i*bits .. i*bits + bits - 1`` of the stream; stream bit b is bit ``b % 8`` of byte ``b // 8``.

    Parameters
    ----------
    values
        Integers (or booleans) in 0..2**bits - 1, of any shape, packed in C order.
    bits
        Width of a field, 1..32.

    Returns
    -------
    bytes
        ceil(count*bits/8) bytes; the unused bits of the last one are zero.

    Raises
    ------
    PackingError
        The width or a value is out of range, or the values are not integers.
    """
    _check_bits(bits)
    flat: NDArray[Any] = np.ravel(np.asarray(values))
    if flat.size == 0:
        return b""
    if flat.dtype.kind not in "iub":
        raise PackingError(f"values must be integers, not {flat.dtype}")
    low, high = int(flat.min()), int(flat.max())
    if low < 0 or high >= 1 << bits:
        raise PackingError(f"values must be in 0..{(1 << bits) - 1} for {bits} bits, not {low if low < 0 else high}")
    if bits == 8:
        return flat.astype(np.uint8).tobytes()
    if bits == 1:
        return np.packbits(flat.astype(np.uint8), bitorder="little").tobytes()
    octets = flat.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : -(-bits // 8)]
    return np.packbits(np.unpackbits(octets, axis=1, count=bits, bitorder="little"), bitorder="little").tobytes()


def unpack_fields(data: bytes, bits: int, count: int) -> NDArray[np.uint32]:
    """The first ``count`` fields of a packed stream: the reverse of :func:`pack_fields`.

    ``data`` may be longer than the fields, as padded streams are, but the bits behind the last field must be zero.

    Returns
    -------
    uint32 ``[count]``

    Raises
    ------
    PackingError
        The width or the count is out of range, the data are too short, or a padding bit is set.
    """
    _check_bits(bits)
    if count < 0:
        raise PackingError(f"count must be at least 0, not {count}")
    if len(data) * 8 < count * bits:
        raise PackingError(f"{count} fields of {bits} bits need {-(-count * bits // 8)} bytes, not {len(data)}")
    octets = np.frombuffer(data, np.uint8)
    used, rest = divmod(count * bits, 8)
    if (rest and int(octets[used]) >> rest) or octets[used + (rest > 0) :].any():
        raise PackingError(f"padding behind {count} fields of {bits} bits must be zero")
    if bits == 8:
        return octets[:count].astype(np.uint32)
    stream = np.unpackbits(octets, count=count * bits, bitorder="little")
    if bits == 1:
        return stream.astype(np.uint32)
    fields = np.zeros((count, 4), np.uint8)
    packed = np.packbits(stream.reshape(count, bits), axis=1, bitorder="little")
    fields[:, : packed.shape[1]] = packed
    return fields.view("<u4").reshape(count).astype(np.uint32)


def mask_code_bits(n: int, m: int) -> int:
    """Bits of the rank of an N:M mask: ceil(log2 C(M, N)), 0 where there is one mask only.

    Raises
    ------
    PackingError
        N:M is not a mask, or its rank does not fit a field.
    """
    if not 1 <= n <= m:
        raise PackingError(f"n must be in 1..m = 1..{m}, not {n}")
    bits = (comb(m, n) - 1).bit_length()
    if bits > MAX_BITS:
        raise PackingError(f"the rank of a {n}:{m} mask must fit {MAX_BITS} bits, not {bits}")
    return bits


@cache
def _binomials(n: int, m: int) -> NDArray[np.int64]:
    # C(p, i) for p < m, i <= n. No rank reaches 2**32, so larger entries (which no mask adds up) only have to stay
    # larger.
    return np.array([[min(comb(p, i), 1 << MAX_BITS) for i in range(n + 1)] for p in range(m)], np.int64)


def rank_masks(masks: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
    """Ranks of N:M masks, as :func:`hw.layout.mask_rank` defines them.

    Parameters
    ----------
    masks
        bool ``[..., M]``, each with ``n`` positions kept.

    Returns
    -------
    int64 ``[...]``, 0..C(M, N) - 1

    Raises
    ------
    PackingError
        A mask does not keep exactly ``n`` positions, or ranks of this N:M do not fit a field.
    """
    m = masks.shape[-1]
    mask_code_bits(n, m)
    order = np.cumsum(masks, axis=-1, dtype=np.int64)
    wrong = order[..., -1] != n
    if wrong.any():
        raise PackingError(f"masks must keep {n} of every {m} positions, not {int(order[..., -1][wrong][0])}")
    ranks: NDArray[np.int64] = np.where(masks, _binomials(n, m)[np.arange(m), order], 0).sum(axis=-1)
    return ranks


def unrank_masks(ranks: ArrayLike, n: int, m: int) -> NDArray[np.bool_]:
    """Masks of the given ranks, bool ``[..., m]``: the reverse of :func:`rank_masks`.

    Raises
    ------
    PackingError
        A rank is not in 0..C(m, n) - 1, or ranks of this N:M do not fit a field.
    """
    mask_code_bits(n, m)
    rest: NDArray[np.int64] = np.array(ranks, np.int64)
    if rest.size and not (rest.min() >= 0 and rest.max() < comb(m, n)):
        wrong = int(rest.min()) if rest.min() < 0 else int(rest.max())
        raise PackingError(f"mask rank must be in 0..{comb(m, n) - 1} for {n}:{m}, not {wrong}")
    binomials = _binomials(n, m)
    left = np.full(rest.shape, n)
    masks = np.zeros((*rest.shape, m), np.bool_)
    for position in reversed(range(m)):
        below = binomials[position][left]
        keep = (left > 0) & (rest >= below)
        masks[..., position] = keep
        rest -= np.where(keep, below, 0)
        left -= keep
    return masks
