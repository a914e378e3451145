"""Order of the row writes of a layer tile, and which columns of a sparse row each pass of raw weights gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tile", "arrange", "flatten", "pass_columns"]


@dataclass(frozen=True)
class Tile:
    """A layer tile: what one TILE computes for one strip of output positions.

    ``i`` is the first group of L output channels, ``g`` the first row group of H input channels, and the tile covers
    ``A`` and ``B`` of them; kernel rows ``r0 .. r0+Dr-1`` and columns ``s0 .. s0+Ds-1``; passes ``p0 .. p0+passes-1``.
    ``rows`` are the array rows of the last row group that get weights. ``first`` and ``last`` are those of the tiles
    that add to the same sums. ``chunk`` numbers the COPY that brings its activations. Of raw weights it has ``digit``,
    0 the highest (:mod:`sw.program.digits`); ``shift``: the sums before are those of the digits above.
    """

    i: int
    A: int
    g: int
    B: int
    r0: int
    s0: int
    Dr: int
    Ds: int
    p0: int
    passes: int
    rows: int
    first: bool
    last: bool
    chunk: int
    digit: int = 0
    shift: bool = False

    @property
    def D(self) -> int:
        """Kernel positions."""
        return self.Dr * self.Ds


def arrange(values: NDArray[Any], tile: Tile, H: int) -> NDArray[Any]:
    """Fields in the order of row writes.

    Parameters
    ----------
    values
        ``[A*x, B*H, R, S, y]``: of each input channel and kernel position x*y fields for every group of outputs.
    tile
        The tile.
    H
        Rows of the array.

    Returns
    -------
    ``[Ds, Dr, B, A, H, x*y]``
    """
    A, B = tile.A, tile.B
    cut = values[:, :, tile.r0 : tile.r0 + tile.Dr, tile.s0 : tile.s0 + tile.Ds]
    cut = cut.reshape(A, -1, B, H, tile.Dr, tile.Ds, values.shape[-1]).transpose(5, 4, 2, 0, 3, 1, 6)
    return cut.reshape(tile.Ds, tile.Dr, B, A, H, -1)


def flatten(values: NDArray[Any], tile: Tile, H: int) -> NDArray[Any]:
    """``[Ds, Dr, B, passes, A, H, fields]`` without the absent rows of the last row group, flat."""
    if tile.rows == H:
        return values.reshape(-1)
    present = np.ones(values.shape[2:6], np.bool_)
    present[-1, ..., tile.rows :] = False
    return values[:, :, present].reshape(-1)


def pass_columns(number: int, N: int, M: int) -> tuple[int, int]:
    """Columns that a pass gives of every M: the first of N in a row, and how many of them an earlier pass has given."""
    start = min(number * N, M - N)
    return start, number * N - start
