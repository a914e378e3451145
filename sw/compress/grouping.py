"""Weight tensors as subvectors of d consecutive output channels, and back (MVQ section 4.1)."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["GroupingError", "group", "ungroup"]

Element = TypeVar("Element", bound=np.generic)


class GroupingError(ValueError):
    """A weight tensor that cannot be cut into subvectors. The message names the value and what is allowed."""


def group(weight: NDArray[Element], d: int) -> NDArray[Element]:
    """Cut a weight tensor into its subvectors.

    Parameters
    ----------
    weight
        ``[K, C, R, S]``, any dtype.
    d
        Codeword length; divides K.

    Returns
    -------
    ndarray
        ``[NG, d]``, contiguous, NG = K*C*R*S/d, in canonical order: the subvector of output channels
        ``kb*d .. kb*d+d-1`` at ``(c, r, s)`` is number ``((kb*C + c)*R + r)*S + s`` (:func:`hw.layout.row_subvectors`).

    Raises
    ------
    GroupingError
        The tensor has not four axes, or d does not divide K.
    """
    if weight.ndim != 4:
        raise GroupingError(f"weight must have four axes [K, C, R, S], not shape {list(weight.shape)}")
    K, C, R, S = weight.shape
    _check_d(d, K)
    return np.ascontiguousarray(weight.reshape(K // d, d, C, R, S).transpose(0, 2, 3, 4, 1)).reshape(-1, d)


def ungroup(subvectors: NDArray[Element], shape: tuple[int, int, int, int]) -> NDArray[Element]:
    """The weight tensor of these subvectors: the reverse of :func:`group`.

    Parameters
    ----------
    subvectors
        ``[NG, d]`` in canonical order.
    shape
        ``[K, C, R, S]`` of the result.

    Raises
    ------
    GroupingError
        The subvectors do not fill the shape, or d does not divide K.
    """
    if len(shape) != 4:
        raise GroupingError(f"shape must be [K, C, R, S], not {list(shape)}")
    K, C, R, S = shape
    if subvectors.ndim != 2:
        raise GroupingError(f"subvectors must have shape [NG, d], not {list(subvectors.shape)}")
    d = subvectors.shape[1]
    _check_d(d, K)
    if subvectors.size != K * C * R * S:
        raise GroupingError(f"shape {list(shape)} takes {K * C * R * S // d} subvectors, not {subvectors.shape[0]}")
    grouped = subvectors.reshape(K // d, C, R, S, d).transpose(0, 4, 1, 2, 3)
    return np.ascontiguousarray(grouped).reshape(K, C, R, S)


def _check_d(d: int, K: int) -> None:
    if type(d) is not int or d < 1 or K % d:
        raise GroupingError(f"d must be an integer of at least 1 and divide the {K} output channels, not {d!r}")
