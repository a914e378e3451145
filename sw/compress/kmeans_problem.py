"""What a k-means is given and gives, on whatever device it runs, and the checks of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EMPTY_POLICIES",
    "INITS",
    "KMeansError",
    "KMeansResult",
    "Layer",
    "Settings",
    "check_problem",
    "checked_layers",
]

#: How the first codewords are chosen. ``k-means++`` takes one subvector after the other, each with a probability
#: proportional to its error so far; ``random`` takes k different subvectors. In both, a pruned element starts at the
#: value of that element in a random subvector that keeps it. ``paper`` is ``random`` with pruned elements at 0, MVQ
#: section 3 read to the letter. With 4:16 and d = 16 its error is larger from k = 256 on (1.6 times at k = 512 on the
#: larger convolutions of EfficientNet-Lite0); up to k = 128 it is within some per cent, above or below. Without masks
#: ``paper`` and ``random`` are the same.
INITS = ("k-means++", "random", "paper")

#: What happens to a codeword without members. ``farthest``: the codewords without members, in ascending order, move to
#: the subvectors with the largest errors, in descending order (ties: the lowest number). ``keep``: they stay.
EMPTY_POLICIES = ("farthest", "keep")

Floats = NDArray[np.float32]
Masks = NDArray[np.bool_]
Assignments = NDArray[np.int32]


class KMeansError(ValueError):
    """An input that cannot be clustered. The message names the argument, its value and the allowed range."""


@dataclass(frozen=True)
class KMeansResult:
    """What :func:`sw.compress.kmeans.kmeans` found."""

    #: float32 ``[k, d]``. An element that no member keeps has the value it started with.
    codebook: Floats
    #: int32 ``[NG]``: the nearest codeword of every subvector, for this codebook.
    assignments: Assignments
    #: Equation 1 for them.
    objective: float
    #: Updates of the codebook.
    iterations: int
    #: Fewer assignments changed in the last iteration than the tolerance allows.
    converged: bool


@dataclass(frozen=True, eq=False)
class Settings:
    """The arguments of :func:`sw.compress.kmeans.kmeans` of these names."""

    k: int
    iterations: int
    seed: int
    init: str
    empty: str
    tolerance: float
    start: Floats | None = None


Layer = tuple[Floats, Masks | None, Settings]


def checked_layers(
    subvectors: Sequence[Floats],
    masks: Sequence[Masks | None] | None,
    start: Sequence[Floats | None] | None,
    settings: Settings,
) -> list[Layer]:
    """One checked problem for each layer, from the arguments of :func:`sw.compress.kmeans.kmeans_layers`."""
    for name, entries in (("masks", masks), ("start", start)):
        if entries is not None and len(entries) != len(subvectors):
            raise KMeansError(
                f"{name} must have one entry for each of the {len(subvectors)} layers, not {len(entries)}"
            )
    layers: list[Layer] = []
    for i, w in enumerate(subvectors):
        first = None if start is None else start[i]
        layer = w, None if masks is None else masks[i], dataclasses.replace(settings, start=first)
        try:
            check_problem(*layer)
        except KMeansError as error:
            raise KMeansError(f"layer {i}: {error}") from None
        layers.append(layer)
    return layers


def check_problem(subvectors: Floats, masks: Masks | None, settings: Settings) -> None:
    """Refuse a problem that cannot be clustered: :class:`KMeansError`."""
    _check_floats("subvectors", subvectors, None)
    if masks is not None and (
        not isinstance(masks, np.ndarray) or masks.dtype != np.bool_ or masks.shape != subvectors.shape
    ):
        found = f"{masks.dtype.name} {list(masks.shape)}" if isinstance(masks, np.ndarray) else type(masks).__name__
        raise KMeansError(f"masks must be bool {list(subvectors.shape)}, not {found}")
    NG, d = subvectors.shape
    k = settings.k
    if type(k) is not int or not 1 <= k <= NG:
        raise KMeansError(f"k must be an integer in 1..NG = 1..{NG}, not {k!r}")
    for name in ("iterations", "seed"):
        value = getattr(settings, name)
        if type(value) is not int or value < 0:
            raise KMeansError(f"{name} must be an integer of at least 0, not {value!r}")
    if settings.init not in INITS:
        raise KMeansError(f"init must be one of {', '.join(INITS)}, not {settings.init!r}")
    if settings.empty not in EMPTY_POLICIES:
        raise KMeansError(f"empty must be one of {', '.join(EMPTY_POLICIES)}, not {settings.empty!r}")
    if not isinstance(settings.tolerance, Real) or not 0 <= settings.tolerance <= 1:
        raise KMeansError(f"tolerance must be a number in 0..1, not {settings.tolerance!r}")
    if settings.start is not None:
        _check_floats("start", settings.start, (k, d))


def _check_floats(name: str, array: Floats, shape: tuple[int, int] | None) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        found = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
        raise KMeansError(f"{name} must be a float32 array, not {found}")
    if shape is None and (array.ndim != 2 or 0 in array.shape):
        raise KMeansError(f"{name} must have shape [NG, d] with NG and d of at least 1, not {list(array.shape)}")
    if shape is not None and array.shape != shape:
        raise KMeansError(f"{name} must have shape {list(shape)}, not {list(array.shape)}")
    if not np.isfinite(array.max()) or not np.isfinite(array.min()):
        raise KMeansError(f"{name} must be finite, not NaN or infinite")
