"""N:M magnitude pruning along the output channels (MVQ section 4.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["PruningError", "check_nm", "nm_mask", "parse_nm"]


# Weights that are sorted at a time.
_CHUNK = 1 << 20


class PruningError(ValueError):
    """An N:M pattern that cannot be applied. The message names the value and the allowed range."""


def check_nm(n: int, m: int, d: int) -> None:
    """Check that ``n`` of every ``m`` weights can be kept in subvectors of ``d``.

    Raises
    ------
    PruningError
        m does not divide d, or n is not in 1..m.
    """
    if m < 1 or d % m:
        raise PruningError(f"m must be at least 1 and divide d = {d}, not {m}")
    if not 1 <= n <= m:
        raise PruningError(f"n must be in 1..m = 1..{m}, not {n}")


def parse_nm(text: str) -> tuple[int, int]:
    """N and M of the option ``--nm``, such as ``4:16``.

    Raises
    ------
    PruningError
        The text is something else.
    """
    n, colon, m = text.partition(":")
    if not (colon and n.isascii() and n.isdigit() and m.isascii() and m.isdigit()):
        raise PruningError(f"--nm must be N:M, such as 4:16, not {text!r}")
    return int(n), int(m)


def nm_mask(subvectors: NDArray[np.floating], n: int, m: int) -> NDArray[np.bool_]:
    """Mask that keeps the n largest magnitudes of every m consecutive weights of a subvector.

    Of equal magnitudes the one at the lowest position wins.

    Parameters
    ----------
    subvectors
        ``[NG, d]``, finite.
    n, m
        Kept weights, of how many; m divides d and 1 <= n <= m.

    Returns
    -------
    ndarray
        bool ``[NG, d]``, True where a weight is kept.

    Raises
    ------
    PruningError
        The pattern does not fit d, the array has not two axes, or a weight is NaN or infinite.
    """
    if subvectors.ndim != 2:
        raise PruningError(f"subvectors must have shape [NG, d], not {list(subvectors.shape)}")
    check_nm(n, m, subvectors.shape[1])
    mask = np.zeros(subvectors.shape, dtype=np.bool_)
    # Sorting makes 16 bytes a weight: a part at a time, so that they do not add up.
    rows = max(1, _CHUNK // max(1, subvectors.shape[1]))
    for first in range(0, len(subvectors), rows):
        part = subvectors[first : first + rows]
        if not np.isfinite(part).all():
            raise PruningError("subvectors must be finite, not NaN or infinite")
        magnitudes = np.abs(part).reshape(-1, m)
        largest = np.argsort(-magnitudes, axis=1, kind="stable")[:, :n]
        np.put_along_axis(mask[first : first + rows].reshape(-1, m), largest, True, axis=1)
    return mask
