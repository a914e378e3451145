"""Bit layouts of the container, the golden model and the hardware: mask ranks, position codes, loader order.

Plain Python. Everything here is part of the file format and of the hardware's contract; changing it changes both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb

__all__ = [
    "LayerTile",
    "Schedule",
    "is_pair_coded",
    "layer_tiles",
    "mask_rank",
    "mask_unrank",
    "position_code",
    "position_code_bits",
    "row_subvectors",
]


def _check_nm(n: int, m: int, low: int) -> None:
    if type(m) is not int or m < 1:
        raise ValueError(f"m must be an integer of at least 1, not {m!r}")
    if type(n) is not int or not low <= n <= m:
        raise ValueError(f"n must be an integer in {low}..{m}, not {n!r}")


def mask_rank(mask: Sequence[int | bool], n: int) -> int:
    """Rank of an N:M mask in colexicographic order.

    With the kept positions ``p_0 < p_1 < ... < p_{n-1}`` the rank is ``sum_i C(p_i, i + 1)``, in 0..C(M, N) - 1: rank 0
    keeps the first n positions, the last rank keeps the last n. MVQ section 5.2 stores masks as codes of
    ceil(log2 C(M, N)) bits without stating the order; this is ours.

    Raises
    ------
    ValueError
        The mask does not keep exactly ``n`` positions.
    """
    kept = [position for position, bit in enumerate(mask) if bit]
    if len(kept) != n:
        raise ValueError(f"mask must keep {n} of {len(mask)} positions, not {len(kept)}")
    return sum(comb(position, i + 1) for i, position in enumerate(kept))


def mask_unrank(rank: int, n: int, m: int) -> list[bool]:
    """The mask of ``m`` positions, ``n`` kept, with that rank: the reverse of :func:`mask_rank`.

    Raises
    ------
    ValueError
        ``m`` is not at least 1, ``n`` is not in 0..m, or ``rank`` is not in 0..C(m, n) - 1.
    """
    _check_nm(n, m, 0)
    if type(rank) is not int or not 0 <= rank < comb(m, n):
        raise ValueError(f"mask rank must be in 0..{comb(m, n) - 1} for {n}:{m}, not {rank!r}")
    mask = [False] * m
    for position in reversed(range(m)):
        below = comb(position, n)
        if n and rank >= below:
            mask[position] = True
            rank -= below
            n -= 1
    return mask


def position_code_bits(n: int, m: int) -> int:
    """Bits of a position code (:func:`position_code`) of N of M positions; 0 where there is one position only.

    Raises
    ------
    ValueError
        ``m`` is not at least 1, or ``n`` is not in 1..m.
    """
    _check_nm(n, m, 1)
    if is_pair_coded(n, m):
        return 2 * (m - 1).bit_length() - 1
    return n * ((m - 1).bit_length() - 1) + n.bit_length() if m > 1 else 0


def is_pair_coded(n: int, m: int) -> bool:
    """Whether position codes of N:M are those of pairs: 2 of a power of two, from 8 on.

    Of 2:4, the bit that it saves is worth no more than what it takes to decode the pair.
    """
    return n == 2 and m >= 8 and m & (m - 1) == 0


def position_code(positions: Sequence[int], m: int) -> int:
    """How the mask register file holds the ascending positions 0..M-1 of the kept weights of one N:M group.

    Since they ascend, their highest bits are a row of zeros and then a row of ones. The code has the other bits of each
    position, the first position lowest, and above them the number of ones: 15 bits instead of 16 for 4:16, 28 instead
    of 32 for 8:16.

    A pair p < q of a power of two of positions (:func:`is_pair_coded`) takes one bit less, 5 for 2:8. Lowest is
    p's distance from the nearer end, min(p, m - 1 - p), without the highest bit, which is 0. Above it is q - p where p
    is in the lower half, else q. No two pairs have both in common: added, they are below m in the first case alone.

    Raises
    ------
    ValueError
        ``m`` is not at least 1, or the positions are not in 0..m - 1 or do not ascend.
    """
    _check_nm(1, m, 1)
    for before, p in zip((-1, *positions), positions, strict=False):
        if not isinstance(p, int) or not before < p < m:
            raise ValueError(f"positions must be integers that ascend in 0..{m - 1}, not {list(positions)}")
    low = max((m - 1).bit_length() - 1, 0)
    if is_pair_coded(len(positions), m):
        p, q = positions
        return (q - p << low) + p if 2 * p < m else (q << low) + m - 1 - p
    ones = sum(1 for position in positions if m > 1 and position >> low)
    return ones << low * len(positions) | sum((p & (1 << low) - 1) << low * i for i, p in enumerate(positions))


@dataclass(frozen=True)
class Schedule:
    """How one layer is cut into layer tiles: MVQ figure 7.

    Parameters
    ----------
    H, L
        Rows and columns of the array, in input and output channels.
    A, B
        Extension along output and input channels: a layer tile covers A*L output and B*H input channels.
    Dr, Ds
        Kernel rows and columns in a layer tile; the paper's D is Dr*Ds. ``Dr`` divides the kernel's rows and ``Ds``
        its columns.
    """

    H: int
    L: int
    A: int = 1
    B: int = 1
    Dr: int = 1
    Ds: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")

    @property
    def D(self) -> int:
        """Kernel positions in a layer tile."""
        return self.Dr * self.Ds


@dataclass(frozen=True)
class LayerTile:
    """One pass of the array: the weights that stay in the WRF while all output positions go by.

    ``A``, ``B``, ``Dr`` and ``Ds`` are this tile's own extensions: at a layer's edge ``A`` and ``B`` can be smaller
    than the schedule's. ``k0`` and ``c0`` are the first output and input channel, ``r0`` and ``s0`` the first kernel
    row and column.
    ``rows`` is the number of array rows with an input channel in the last of the B row groups, 1..H. ``first`` and
    ``last`` say whether it is the first or the last tile that adds to its output channels.
    """

    k0: int
    c0: int
    r0: int
    s0: int
    A: int
    B: int
    Dr: int
    Ds: int
    rows: int
    first: bool
    last: bool

    @property
    def D(self) -> int:
        """Kernel positions in this tile."""
        return self.Dr * self.Ds


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def layer_tiles(shape: Sequence[int], schedule: Schedule) -> Iterator[LayerTile]:
    """The layer tiles of a weight tensor ``shape = [K, C, R, S]``, in the order in which the array runs them.

    The loops are the outer three of MVQ figure 7: ``i < K/L/A``, ``j < C/H/B``, ``k < R*S/D``.

    Raises
    ------
    ValueError
        The shape is not four integers of at least 1, ``Dr`` does not divide R, or ``Ds`` does not divide S.
    """
    if len(shape) != 4 or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(f"shape must be four integers of at least 1 [K, C, R, S], not {list(shape)}")
    K, C, R, S = shape
    if R % schedule.Dr or S % schedule.Ds:
        raise ValueError(f"Dr x Ds must divide the kernel {R} x {S}, not {schedule.Dr} x {schedule.Ds}")
    groups_k, groups_c = _ceil_div(K, schedule.L), _ceil_div(C, schedule.H)
    for i in range(0, groups_k, schedule.A):
        for j in range(0, groups_c, schedule.B):
            B = min(schedule.B, groups_c - j)
            for r0 in range(0, R, schedule.Dr):
                for s0 in range(0, S, schedule.Ds):
                    yield LayerTile(
                        k0=i * schedule.L,
                        c0=j * schedule.H,
                        r0=r0,
                        s0=s0,
                        A=min(schedule.A, groups_k - i),
                        B=B,
                        Dr=schedule.Dr,
                        Ds=schedule.Ds,
                        rows=min(schedule.H, C - (j + B - 1) * schedule.H),
                        first=j == 0 and r0 == 0 and s0 == 0,
                        last=j + B == groups_c and r0 + schedule.Dr == R and s0 + schedule.Ds == S,
                    )


def row_subvectors(shape: Sequence[int], d: int, schedule: Schedule) -> Iterator[list[int]]:
    """The subvectors that each row write of the weight loader takes, in its order.

    Yields, for every row write, L/d canonical subvector numbers, or -1 where the output channel does not exist (the
    stream holds zeros there). The canonical number of the subvector of output channels ``kb*d .. kb*d+d-1`` at
    ``(c, r, s)`` is ``((kb*C + c)*R + r)*S + s``. Inside a layer tile the order is ``q < D`` (kernel columns outside,
    rows inside), ``r < B``, ``s < A``, then the rows that have an input channel: row groups are not padded.

    Raises
    ------
    ValueError
        ``d`` is not at least 1 or does not divide K or L, or :func:`layer_tiles` refuses.
    """
    if type(d) is not int or d < 1:
        raise ValueError(f"d must be an integer of at least 1, not {d!r}")
    K, C, R, S = shape
    if K % d:
        raise ValueError(f"output channels must be a multiple of d = {d}, not {K}")
    if schedule.L % d:
        raise ValueError(f"L must be a multiple of d = {d}, not {schedule.L}")
    blocks, tiles = K // d, schedule.L // d
    for tile in layer_tiles(shape, schedule):
        for column in range(tile.s0, tile.s0 + tile.Ds):
            for row in range(tile.r0, tile.r0 + tile.Dr):
                for b in range(tile.B):
                    rows = tile.rows if b == tile.B - 1 else schedule.H
                    for a in range(tile.A):
                        kb = tile.k0 // d + a * tiles
                        for h in range(rows):
                            c = tile.c0 + b * schedule.H + h
                            yield [
                                ((kb + t) * C + c) * R * S + row * S + column if kb + t < blocks else -1
                                for t in range(tiles)
                            ]
