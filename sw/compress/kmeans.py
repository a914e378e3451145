"""Masked k-means: MVQ section 4.2, equations 1 to 4.

With ``masks=None`` every weight counts, and this is the common (Lloyd's) k-means of plain vector quantisation.

The result depends on the inputs and the seed alone. Work is cut into chunks whose size does not depend on the number of
threads, each chunk is computed by one thread, and sums over members are taken in order of subvector number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

__all__ = [
    "EMPTY_POLICIES",
    "INITS",
    "TOLERANCE",
    "KMeansError",
    "KMeansResult",
    "assign",
    "kmeans",
    "objective",
    "update",
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

#: Share of the assignments that may still change when the clustering stops (MVQ section 3).
TOLERANCE = 1e-3

# Scores of one chunk stay inside a core's second-level cache: 2**18 float32 are 1 MiB.
_CHUNK_SCORES = 1 << 18

# Up to this many codewords, numpy's argmin over one row of scores costs more than its elements.
_SHORT = 32

_BLAS = ThreadpoolController()

Floats = NDArray[np.float32]
Masks = NDArray[np.bool_]
Assignments = NDArray[np.int32]


class KMeansError(ValueError):
    """An input that cannot be clustered. The message names the argument, its value and the allowed range."""


@dataclass(frozen=True)
class KMeansResult:
    """What :func:`kmeans` found.

    Attributes
    ----------
    codebook
        float32 ``[k, d]``. An element that no member keeps has the value it started with.
    assignments
        int32 ``[NG]``: the nearest codeword of every subvector, for this codebook.
    objective
        Equation 1 for them.
    iterations
        Updates of the codebook.
    converged
        Fewer assignments changed in the last iteration than the tolerance allows.
    """

    codebook: Floats
    assignments: Assignments
    objective: float
    iterations: int
    converged: bool


def assign(subvectors: Floats, masks: Masks | None, codebook: Floats, *, threads: int | None = None) -> Assignments:
    """Nearest codeword of every subvector: MVQ equation 2, ``argmin_c |w_j - c o bm_j|^2``.

    Expanded, the distance is ``|w_j|^2 - 2 w_j . c + bm_j . c^2``: the first term does not depend on c, and the other
    two are matrix products. Distances are float32; of equal ones the lowest codeword wins.

    Parameters
    ----------
    subvectors
        float32 ``[NG, d]``, 0 where a weight is pruned.
    masks
        bool ``[NG, d]``, True where a weight is kept, or None.
    codebook
        float32 ``[k, d]``.
    threads
        Threads to use; one for each available processor by default. The result does not depend on it.

    Returns
    -------
    ndarray
        int32 ``[NG]``, 0..k-1.
    """
    with _workers(threads) as run:
        return _nearest(_operand(subvectors, masks), masks is not None, codebook, run)


def update(subvectors: Floats, masks: Masks | None, assignments: Assignments, codebook: Floats) -> Floats:
    """Best codebook for these assignments: MVQ equations 3 and 4, ``c_i = sum_p v_p / sum_p n_p``, element by element.

    Sums are float64. An element that no member keeps (0/0 in equation 4) does not matter to the objective and stays.

    Parameters
    ----------
    subvectors, masks
        As in :func:`assign`.
    assignments
        int32 ``[NG]``.
    codebook
        float32 ``[k, d]``, the present codebook.

    Returns
    -------
    ndarray
        float32 ``[k, d]``.
    """
    k, d = codebook.shape
    numbers = assignments.astype(np.intp)  # once, not in every bincount
    members = member_counts(masks, numbers, k, d)
    sums = np.stack([np.bincount(numbers, weights=column, minlength=k) for column in subvectors.T], axis=1)
    return np.divide(sums, members, out=codebook.astype(np.float64), where=members > 0).astype(np.float32)


def objective(subvectors: Floats, masks: Masks | None, codebook: Floats, assignments: Assignments) -> float:
    """Clustering error: MVQ equation 1, ``sum_j |w_j - q(w_j) o bm_j|^2``, in float64. Arguments: :func:`update`."""
    return float(_errors(subvectors, masks, codebook, assignments).sum())


def member_counts(masks: Masks | None, assignments: NDArray[np.integer], k: int, d: int) -> NDArray[np.float64]:
    """Members that keep each element of each codeword: ``sum_p n_p`` of equation 4, float64 ``[k, d]``."""
    if masks is None:
        return np.repeat(np.bincount(assignments, minlength=k).astype(np.float64)[:, None], d, axis=1)
    return np.stack([np.bincount(assignments, weights=column, minlength=k) for column in masks.T], axis=1)


def kmeans(
    subvectors: Floats,
    k: int,
    *,
    masks: Masks | None = None,
    iterations: int = 20,
    seed: int = 0,
    init: str = "k-means++",
    empty: str = "farthest",
    tolerance: float = TOLERANCE,
    start: Floats | None = None,
    threads: int | None = None,
) -> KMeansResult:
    """Cluster subvectors into k codewords: masked k-means (MVQ section 4.2), or common k-means without masks.

    Every iteration updates the codebook (equations 3 and 4) and assigns anew (equation 2). A subvector changes its
    codeword only if that makes its error smaller in float64, so the objective (equation 1) never rises.

    Parameters
    ----------
    subvectors
        float32 ``[NG, d]``, finite.
    k
        Codewords, 1..NG.
    masks
        bool ``[NG, d]``, True where a weight is kept; None for all. Weights that are not kept are taken as 0.
    iterations
        Most updates of the codebook, at least 0.
    seed
        Seed of the initial codebook, at least 0.
    init
        One of :data:`INITS`.
    empty
        One of :data:`EMPTY_POLICIES`.
    tolerance
        Stop when fewer than this share of the assignments changed, or none.
    start
        float32 ``[k, d]``: start from this codebook instead of ``init``.
    threads
        Threads to use; one for each available processor by default. The result does not depend on it.

    Raises
    ------
    KMeansError
        An argument has a wrong shape or dtype, is NaN or infinite, or is out of range.
    """
    subvectors, masks = _checked(subvectors, masks)
    NG, d = subvectors.shape
    if type(k) is not int or not 1 <= k <= NG:
        raise KMeansError(f"k must be an integer in 1..NG = 1..{NG}, not {k!r}")
    for name, value in (("iterations", iterations), ("seed", seed)):
        if type(value) is not int or value < 0:
            raise KMeansError(f"{name} must be an integer of at least 0, not {value!r}")
    if init not in INITS:
        raise KMeansError(f"init must be one of {', '.join(INITS)}, not {init!r}")
    if empty not in EMPTY_POLICIES:
        raise KMeansError(f"empty must be one of {', '.join(EMPTY_POLICIES)}, not {empty!r}")
    if not 0 <= tolerance <= 1:
        raise KMeansError(f"tolerance must be in 0..1, not {tolerance!r}")
    if start is not None:
        _check_floats("start", start, (k, d))

    # Squares of float32 overflow above 1e19 and vanish below 1e-19; a power of two changes no digit.
    exponent = int(np.frexp(np.abs(subvectors).max(initial=0))[1])
    subvectors = np.ldexp(subvectors, -exponent)
    masked = masks is not None
    operand = _operand(subvectors, masks)
    # Sums run down the columns.
    columns, mask_columns = np.asfortranarray(subvectors), None if masks is None else np.asfortranarray(masks)
    with _workers(threads) as run:
        if start is not None:
            codebook = np.ldexp(start, -exponent)
        else:
            codebook = _initial(init, subvectors, masks, operand, k, np.random.default_rng(seed))
        assignments = _nearest(operand, masked, codebook, run)
        done, converged = 0, False
        while done < iterations and not converged:
            codebook = update(columns, mask_columns, assignments, codebook)
            if empty == "farthest":
                _move_empty(codebook, subvectors, masks, assignments)
            nearest = _nearest(operand, masked, codebook, run)
            changed = np.flatnonzero(nearest != assignments)
            members = subvectors.take(changed, axis=0)
            member_masks = None if masks is None else masks.take(changed, axis=0)
            new, old = nearest.take(changed), assignments.take(changed)
            better = _errors(members, member_masks, codebook, new) < _errors(members, member_masks, codebook, old)
            assignments[changed[better]] = new[better]
            changes = np.count_nonzero(better)
            converged = changes == 0 or changes < tolerance * NG
            done += 1
    return KMeansResult(
        codebook=np.ldexp(codebook, exponent),
        assignments=assignments,
        objective=float(np.ldexp(objective(subvectors, masks, codebook, assignments), 2 * exponent)),
        iterations=done,
        converged=converged,
    )


def _checked(subvectors: Floats, masks: Masks | None) -> tuple[Floats, Masks | None]:
    """The checked inputs: pruned weights set to 0, and no masks if they keep everything."""
    _check_floats("subvectors", subvectors, None)
    if masks is None:
        return np.ascontiguousarray(subvectors), None
    if not isinstance(masks, np.ndarray) or masks.dtype != np.bool_ or masks.shape != subvectors.shape:
        found = f"{masks.dtype.name} {list(masks.shape)}" if isinstance(masks, np.ndarray) else type(masks).__name__
        raise KMeansError(f"masks must be bool {list(subvectors.shape)}, not {found}")
    if masks.all():
        return np.ascontiguousarray(subvectors), None
    return np.where(masks, subvectors, np.float32(0)), np.ascontiguousarray(masks)


def _check_floats(name: str, array: Floats, shape: tuple[int, int] | None) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        found = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
        raise KMeansError(f"{name} must be a float32 array, not {found}")
    if shape is None and (array.ndim != 2 or 0 in array.shape):
        raise KMeansError(f"{name} must have shape [NG, d] with NG and d of at least 1, not {list(array.shape)}")
    if shape is not None and array.shape != shape:
        raise KMeansError(f"{name} must have shape {list(shape)}, not {list(array.shape)}")
    if not np.isfinite(array).all():
        raise KMeansError(f"{name} must be finite, not NaN or infinite")


def _operand(subvectors: Floats, masks: Masks | None) -> Floats:
    """The left factor of both products of :func:`assign` at once: ``[w, bm]``, or ``[w, 1]`` without masks."""
    right = np.ones((len(subvectors), 1), dtype=np.float32) if masks is None else masks.astype(np.float32)
    return np.concatenate([subvectors, right], axis=1)


def _factor(codebook: Floats, masked: bool) -> Floats:
    """The right factor: ``[-2 c, c^2]``, or ``[-2 c, |c|^2]`` without masks, one codeword a row."""
    squares = codebook * codebook
    return np.concatenate([-2 * codebook, squares if masked else squares.sum(axis=1, keepdims=True)], axis=1)


def _chunks(rows: int, k: int) -> Iterator[slice]:
    size = min(max(_CHUNK_SCORES // k, 64), 8192)
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


Work = Callable[[slice], None]
Run = Callable[[Work, Iterator[slice]], None]


@contextmanager
def _workers(threads: int | None) -> Iterator[Run]:
    """A function that calls a function for each chunk, on this many threads, each with a single-threaded BLAS."""
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise KMeansError(f"threads must be at least 1, not {threads}")
    with _BLAS.limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:

        def run(work: Work, chunks: Iterator[slice]) -> None:
            for _ in pool.map(work, chunks) if threads > 1 else map(work, chunks):
                pass

        yield run


def _nearest(operand: Floats, masked: bool, codebook: Floats, run: Run) -> Assignments:
    factor = _factor(codebook, masked)
    assignments = np.empty(len(operand), dtype=np.int32)

    def work(chunk: slice) -> None:
        if len(factor) > _SHORT:
            assignments[chunk] = (operand[chunk] @ factor.T).argmin(axis=1)
        else:
            assignments[chunk] = _argmin_short(factor @ operand[chunk].T)

    run(work, _chunks(len(operand), len(codebook)))
    return assignments


def _argmin_short(scores: Floats) -> NDArray[np.uint8]:
    """``scores.argmin(axis=0)`` for a few long rows, about twice as fast: all elements of a row at once."""
    smallest = scores[0].copy()
    found = np.zeros(len(smallest), dtype=np.uint8)
    less = np.empty(len(smallest), dtype=np.bool_)
    for i, row in enumerate(scores[1:], start=1):
        np.less(row, smallest, out=less)
        np.minimum(row, smallest, out=smallest)
        # i is larger than every number found before.
        np.maximum(found, less.view(np.uint8) * np.uint8(i), out=found)
    return found


def _errors(subvectors: Floats, masks: Masks | None, codebook: Floats, assignments: Assignments) -> NDArray[np.float64]:
    """Squared error of every subvector, float64 ``[NG]``: the terms of equation 1."""
    errors = np.empty(len(subvectors))
    for chunk in _chunks(len(subvectors), subvectors.shape[1]):
        difference = subvectors[chunk].astype(np.float64)
        codewords = codebook.take(assignments[chunk], axis=0)
        difference -= codewords if masks is None else codewords * masks[chunk]
        np.einsum("ij,ij->i", difference, difference, out=errors[chunk])
    return errors


def _move_empty(codebook: Floats, subvectors: Floats, masks: Masks | None, assignments: Assignments) -> None:
    """Policy ``farthest`` of :data:`EMPTY_POLICIES`, in place. Subvectors without error attract nothing."""
    lonely = np.flatnonzero(np.bincount(assignments, minlength=len(codebook)) == 0)
    if not lonely.size:
        return
    errors = _errors(subvectors, masks, codebook, assignments)
    farthest = np.argsort(-errors, kind="stable")[: lonely.size]
    farthest = farthest[errors[farthest] > 0]
    lonely = lonely[: farthest.size]
    kept = True if masks is None else masks[farthest]
    codebook[lonely] = np.where(kept, subvectors[farthest], codebook[lonely])


class _Filler:
    """Codewords from subvectors: a pruned element takes the value of that element in a random subvector that keeps it.

    Left at 0 it makes the codeword a bad match for every other mask; of many such codewords, many starve.
    """

    def __init__(self, subvectors: Floats, masks: Masks | None, rng: np.random.Generator) -> None:
        self.subvectors, self.masks, self.rng = subvectors, masks, rng
        if masks is not None:
            self.counts = masks.sum(axis=0)
            self.first = np.cumsum(self.counts) - self.counts
            # The kept values, element by element, and a 0 for elements at the end that no subvector keeps.
            self.kept = np.append(subvectors.T[masks.T], np.float32(0))

    def __call__(self, chosen: NDArray[np.int64]) -> Floats:
        codewords = self.subvectors[chosen]
        if self.masks is None:
            return codewords
        draw = (self.rng.random(codewords.shape) * self.counts).astype(np.int64)
        filling = np.where(self.counts > 0, self.kept[self.first + draw], np.float32(0))
        return np.where(self.masks[chosen], codewords, filling)


def _initial(
    init: str, subvectors: Floats, masks: Masks | None, operand: Floats, k: int, rng: np.random.Generator
) -> Floats:
    """The codebook to start from, as :data:`INITS` describes it."""
    NG, d = subvectors.shape
    fill = _Filler(subvectors, masks, rng)
    if init != "k-means++":
        chosen = rng.choice(NG, size=k, replace=False)
        return subvectors[chosen] if init == "paper" else fill(chosen)
    norms = np.einsum("ij,ij->i", subvectors, subvectors)
    closest = np.full(NG, np.inf, dtype=np.float32)
    codebook = np.empty((k, d), dtype=np.float32)
    chosen = rng.integers(NG, size=1)
    for i in range(k):
        codebook[i] = fill(chosen)[0]
        errors = operand @ _factor(codebook[i : i + 1], masks is not None)[0]
        errors += norms
        np.clip(errors, 0, closest, out=closest)
        # The last entry is left out of the search: rounding cannot lead past the last subvector.
        cumulative = np.cumsum(closest, dtype=np.float64)
        chosen = np.searchsorted(cumulative[:-1], rng.random(1) * cumulative[-1], side="right")
    return codebook
