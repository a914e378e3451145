"""Masked k-means: MVQ section 4.2, equations 1 to 4.

With ``masks=None`` every weight counts, and this is the common (Lloyd's) k-means of plain vector quantisation.

The result depends on the inputs and the seed alone. Work is cut into chunks whose size does not depend on the number of
threads, each chunk is computed by one thread (:mod:`sw.compress.kmeans_kernels`), and the sums of chunks are added in
their order. Besides the inputs, memory holds one copy of the weights and, for each subvector, its assignment
and its error.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from sw.compress.kmeans_kernels import kernels
from sw.compress.kmeans_problem import (
    EMPTY_POLICIES,
    INITS,
    Assignments,
    Floats,
    KMeansError,
    KMeansResult,
    Masks,
    Settings,
    check_problem,
    checked_layers,
)

__all__ = [
    "EMPTY_POLICIES",
    "INITS",
    "TOLERANCE",
    "KMeansError",
    "KMeansResult",
    "assign",
    "kmeans",
    "kmeans_layers",
    "member_counts",
    "move_empty",
    "objective",
    "update",
]

#: Share of the assignments that may still change when the clustering stops (MVQ section 3).
TOLERANCE = 1e-3

# Scores and subvectors of one chunk: enough that handing it to a thread costs little.
_CHUNK_SCORES, _CHUNK_ROWS = 1 << 21, 1 << 14

# Subvectors that the kernels take at a time, at the most.
_BLOCK_ROWS = 64

# Subvectors of one chunk of an update, and for each codeword: a chunk's sums should cost little next to it.
_SUM_ROWS, _SUM_ROWS_A_CODEWORD = 1 << 15, 4

_BLAS = ThreadpoolController()

T = TypeVar("T")


class Run(Protocol):
    """Calls a function for each chunk; its results, in order."""

    def __call__(self, work: Callable[[slice], T], chunks: list[slice]) -> list[T]: ...


def assign(subvectors: Floats, masks: Masks | None, codebook: Floats, *, threads: int | None = None) -> Assignments:
    """Nearest codeword of every subvector: MVQ equation 2, ``argmin_c |w_j - c o bm_j|^2``.

    With masks, the squares of the kept elements alone are summed. Without, the distance is expanded,
    ``|w_j|^2 - 2 w_j . c + |c|^2``: the first term does not depend on c, and the second is a matrix product. Distances
    are float32; of equal ones the lowest codeword wins.

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

    Raises
    ------
    KMeansError
        A shape does not fit the others.
    """
    with _workers(threads) as run:
        data = _Clustering(subvectors, masks, run)
        return data.assign(data.codebook(codebook))


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

    Raises
    ------
    KMeansError
        A shape does not fit the others, or an assignment is not in 0..k-1.
    """
    data = _Clustering(subvectors, masks, _in_turn)
    return data.update(data.numbers(assignments, len(codebook)), data.codebook(codebook))[0]


def objective(subvectors: Floats, masks: Masks | None, codebook: Floats, assignments: Assignments) -> float:
    """Clustering error: MVQ equation 1, ``sum_j |w_j - q(w_j) o bm_j|^2``, in float64. Arguments: :func:`update`."""
    data = _Clustering(subvectors, masks, _in_turn)
    return float(data.errors(data.codebook(codebook), data.numbers(assignments, len(codebook))).sum())


def move_empty(subvectors: Floats, masks: Masks | None, assignments: Assignments, codebook: Floats) -> Floats:
    """The codebook after policy ``farthest`` of :data:`EMPTY_POLICIES`. Arguments: :func:`update`."""
    data = _Clustering(subvectors, masks, _in_turn)
    moved, numbers = data.codebook(codebook).copy(), data.numbers(assignments, len(codebook))
    sizes = np.bincount(numbers, minlength=len(codebook))
    if not sizes.all():
        data.move_empty(moved, numbers, sizes)
    return moved


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
    settings = Settings(k, iterations, seed, init, empty, tolerance, start)
    check_problem(subvectors, masks, settings)
    with _workers(threads) as run:
        return _cluster(subvectors, masks, settings, run)


def kmeans_layers(
    subvectors: Sequence[Floats],
    k: int,
    *,
    masks: Sequence[Masks | None] | None = None,
    iterations: int = 20,
    seed: int = 0,
    init: str = "k-means++",
    empty: str = "farthest",
    tolerance: float = TOLERANCE,
    start: Sequence[Floats | None] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    done: Callable[[], None] | None = None,
) -> list[KMeansResult]:
    """Cluster every layer of a network on its own: the same bytes as :func:`kmeans` layer by layer, in less time.

    Each thread takes a layer at a time, the largest first; a layer larger than a thread's share of the network is cut
    into chunks for all threads.

    On a CUDA device all layers take each step in one launch (:mod:`sw.compress.kmeans_gpu`). Its results do not depend
    on the order of its work, but where two codewords are almost equally near they may differ from the CPU's.

    Parameters
    ----------
    subvectors, masks, start
        One entry for each layer, as in :func:`kmeans`.
    k, iterations, seed, init, empty, tolerance, threads
        As in :func:`kmeans`, the same for every layer.
    device
        A PyTorch device: ``cpu`` or a CUDA device.
    overwrite
        On the CPU, work in the subvectors' own memory, which holds something else afterwards, in place of a copy.
    done
        Called once for each layer that is done, from any thread.

    Raises
    ------
    KMeansError
        As :func:`kmeans`, with the layer's place in the list; or lists of different lengths, or there is no such
        device.
    """
    layers = checked_layers(subvectors, masks, start, Settings(k, iterations, seed, init, empty, tolerance))
    if device != "cpu":
        from sw.compress.kmeans_gpu import cluster_layers  # it needs PyTorch

        results = cluster_layers(layers, device)
        for _ in results:
            if done:
                done()
        return results
    work = [w.size * settings.k for w, _, settings in layers]
    with _workers(threads) as run, ThreadPoolExecutor(_count(threads)) as drivers:

        def cluster(i: int) -> KMeansResult:
            # Only a layer that would keep one thread busy after the others are done is worth sharing out.
            result = _cluster(*layers[i], run if work[i] * _count(threads) > sum(work) else _in_turn, overwrite)
            if done:
                done()
            return result

        order = sorted(range(len(layers)), key=lambda i: -work[i])
        found = {i: drivers.submit(cluster, i) for i in order}
        return [found[i].result() for i in range(len(layers))]


def scaled(subvectors: Floats, masks: Masks | None, overwrite: bool = False) -> tuple[Floats, Masks | None, int]:
    """A copy with pruned weights at 0 and the largest magnitude in 0.5..1, masks (None if all ones), the exponent.

    With ``overwrite`` no copy, but the subvectors themselves.

    Squares of float32 overflow above 1e19 and vanish below 1e-19; a power of two changes no digit.
    """
    if masks is not None and masks.all():
        masks = None
    if masks is None:
        largest = max(subvectors.max(), -subvectors.min())
        exponent = int(np.frexp(largest)[1])
        return np.ldexp(subvectors, -exponent, out=subvectors if overwrite else None, order="C"), None, exponent
    if overwrite:
        w = subvectors
        np.copyto(w, 0, where=~masks)
    else:
        w = np.zeros(subvectors.shape, dtype=np.float32)
        np.copyto(w, subvectors, where=masks)
    exponent = int(np.frexp(max(w.max(), -w.min()))[1])
    return np.ldexp(w, -exponent, out=w), np.ascontiguousarray(masks), exponent


def _cluster(
    subvectors: Floats, masks: Masks | None, settings: Settings, run: Run, overwrite: bool = False
) -> KMeansResult:
    """:func:`kmeans` of checked arguments."""
    subvectors, masks, exponent = scaled(subvectors, masks, overwrite)
    NG = len(subvectors)
    data = _Clustering(subvectors, masks, run)
    if settings.start is not None:
        codebook = np.ldexp(settings.start, -exponent, order="C")
    else:
        codebook = _initial(settings, data)
    assignments = data.assign(codebook)
    done, converged = 0, False
    while done < settings.iterations and not converged:
        codebook, sizes = data.update(assignments, codebook)
        if settings.empty == "farthest" and not sizes.all():
            data.move_empty(codebook, assignments, sizes)
        changes = data.reassign(assignments, codebook)
        converged = changes == 0 or changes < settings.tolerance * NG
        done += 1
    return KMeansResult(
        codebook=np.ldexp(codebook, exponent),
        assignments=assignments,
        objective=float(np.ldexp(data.errors(codebook, assignments).sum(), 2 * exponent)),
        iterations=done,
        converged=converged,
    )


class _Clustering:
    """The steps of the k-means on one set of subvectors, cut into chunks that ``run`` computes."""

    def __init__(self, subvectors: Floats, masks: Masks | None, run: Run) -> None:
        self.subvectors = np.ascontiguousarray(subvectors, dtype=np.float32)
        self.masks = None if masks is None else np.ascontiguousarray(masks, dtype=np.bool_)
        if self.masks is not None and self.masks.shape != self.subvectors.shape:
            raise KMeansError(f"masks must have shape {list(self.subvectors.shape)}, not {list(self.masks.shape)}")
        self.run = run
        self.kernels = kernels(subvectors.shape[1])

    def codebook(self, codebook: Floats) -> Floats:
        """A codebook from outside, as the kernels want it."""
        if codebook.ndim != 2 or not len(codebook) or codebook.shape[1] != self.subvectors.shape[1]:
            wanted = f"[k, {self.subvectors.shape[1]}] with k of at least 1"
            raise KMeansError(f"codebook must have shape {wanted}, not {list(codebook.shape)}")
        return np.ascontiguousarray(codebook, dtype=np.float32)

    def numbers(self, assignments: NDArray[np.integer], k: int) -> Assignments:
        """Assignments from outside, as the kernels want them."""
        NG = len(self.subvectors)
        if assignments.shape != (NG,):
            raise KMeansError(f"assignments must have shape [{NG}], not {list(assignments.shape)}")
        if NG and not 0 <= assignments.min() <= assignments.max() < k:
            found = f"{assignments.min()}..{assignments.max()}"
            raise KMeansError(f"assignments must be in 0..k-1 = 0..{k - 1}, not {found}")
        return np.ascontiguousarray(assignments, dtype=np.int32)

    def _each(self, rows: int, work: Callable[[slice, Floats, Masks | None], T]) -> list[T]:
        """The results of a function of a chunk and its subvectors and masks, in order."""

        def of_chunk(chunk: slice) -> T:
            return work(chunk, self.subvectors[chunk], None if self.masks is None else self.masks[chunk])

        NG = len(self.subvectors)
        return self.run(of_chunk, [slice(first, min(first + rows, NG)) for first in range(0, NG, rows)])

    def _assign(self, codebook: Floats, assignments: Assignments, refine: bool) -> int:
        factor = self.kernels.factor(codebook, self.masks is not None)
        NG, most = len(self.subvectors), min(max(_CHUNK_SCORES // len(codebook), _BLOCK_ROWS), _CHUNK_ROWS)
        chunks = -(-NG // most)
        # Parts have one size, and come in fours, so that threads end together; whole blocks of the kernel.
        rows = -(-NG // (chunks if chunks == 1 else chunks + -chunks % 4))
        rows += -rows % _BLOCK_ROWS
        return sum(
            self._each(
                rows, lambda chunk, w, bm: self.kernels.nearest(w, bm, factor, codebook, assignments[chunk], refine)
            )
        )

    def assign(self, codebook: Floats) -> Assignments:
        """See :func:`assign`."""
        assignments = np.zeros(len(self.subvectors), dtype=np.int32)
        self._assign(codebook, assignments, refine=False)
        return assignments

    def reassign(self, assignments: Assignments, codebook: Floats) -> int:
        """Assign anew, in place, where that makes the error in float64 smaller; how many changed."""
        return self._assign(codebook, assignments, refine=True)

    def update(self, assignments: Assignments, codebook: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """See :func:`update`. Also the members of each codeword."""
        k = len(codebook)
        first, *others = self._each(
            max(_SUM_ROWS, _SUM_ROWS_A_CODEWORD * k),
            lambda chunk, w, bm: self.kernels.sums(w, bm, assignments[chunk], k),
        )
        totals, counts, sizes = first
        for more in others:
            totals, counts, sizes = totals + more[0], counts + more[1], sizes + more[2]
        means = np.divide(totals, counts, out=codebook.astype(np.float64), where=counts > 0)
        return means.astype(np.float32), sizes

    def errors(self, codebook: Floats, assignments: Assignments) -> NDArray[np.float64]:
        """Squared error of every subvector, float64 ``[NG]``: the terms of equation 1."""
        errors = np.empty(len(self.subvectors))

        def work(chunk: slice, w: Floats, bm: Masks | None) -> None:
            errors[chunk] = self.kernels.errors(w, bm, codebook, assignments[chunk])

        self._each(_CHUNK_ROWS, work)
        return errors

    def move_empty(self, codebook: Floats, assignments: Assignments, sizes: NDArray[np.int64]) -> None:
        """Policy ``farthest`` of :data:`EMPTY_POLICIES`, in place. Subvectors without error attract nothing."""
        lonely = np.flatnonzero(sizes == 0)
        errors = self.errors(codebook, assignments)
        farthest = np.argsort(-errors, kind="stable")[: lonely.size]
        farthest = farthest[errors[farthest] > 0]
        lonely = lonely[: farthest.size]
        kept = True if self.masks is None else self.masks[farthest]
        codebook[lonely] = np.where(kept, self.subvectors[farthest], codebook[lonely])

    def plus_plus(self, chosen: int, fills: Floats, draws: NDArray[np.float64]) -> Floats:
        """k-means++; for the arguments see :meth:`sw.compress.kmeans_kernels.Kernels.plus_plus`."""
        NG = len(self.subvectors)
        if NG <= _CHUNK_ROWS:
            return self.kernels.plus_plus(self.subvectors, self.masks, chosen, fills, draws)
        closest, codebook = np.full(NG, np.inf, dtype=np.float32), np.empty_like(fills)
        for i, draw in enumerate(draws):
            codeword = self.subvectors[chosen]
            codebook[i] = codeword if self.masks is None else np.where(self.masks[chosen], codeword, fills[i])
            sums = np.cumsum(self._closer(codebook[i], closest))
            # A chunk, then a subvector of it. The last ones are left out of the searches: rounding cannot lead past
            # them.
            point = draw * sums[-1]
            chunk = int(np.searchsorted(sums[:-1], point, side="right"))
            first = chunk * _CHUNK_ROWS
            cumulative = np.cumsum(closest[first : first + _CHUNK_ROWS], dtype=np.float64)
            point -= sums[chunk - 1] if chunk else 0
            chosen = first + int(np.searchsorted(cumulative[:-1], point, side="right"))
        return codebook

    def _closer(self, codeword: Floats, closest: Floats) -> list[float]:
        return self._each(_CHUNK_ROWS, lambda chunk, w, bm: self.kernels.closer(w, bm, codeword, closest[chunk]))


def _in_turn(work: Callable[[slice], T], chunks: list[slice]) -> list[T]:
    return [work(chunk) for chunk in chunks]


def _count(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if type(threads) is not int or threads < 1:
        raise KMeansError(f"threads must be at least 1, not {threads!r}")
    return threads


@contextmanager
def _workers(threads: int | None) -> Iterator[Run]:
    """Something that runs chunks on this many threads, each with a single-threaded BLAS."""
    count = _count(threads)
    with _BLAS.limit(limits=1, user_api="blas"), ThreadPoolExecutor(count) as pool:

        def run(work: Callable[[slice], T], chunks: list[slice]) -> list[T]:
            left, results = deque(enumerate(chunks)), {}

            def take_chunks() -> None:
                while True:
                    try:
                        i, chunk = left.popleft()
                    except IndexError:
                        return
                    results[i] = work(chunk)

            # A task for each chunk would cost a tenth of it.
            others = [pool.submit(take_chunks) for _ in range(min(count, len(chunks)) - 1)]
            take_chunks()
            for other in others:
                if not other.cancel():
                    other.result()
            return [results[i] for i in range(len(chunks))]

        yield run


def _fills(subvectors: Floats, masks: Masks, draws: NDArray[np.float64]) -> Floats:
    """For every codeword and element, the value of a subvector that keeps the element: draws in 0..1, ``[k, d]``.

    Left at 0 a pruned element makes the codeword a bad match for every other mask; of many such codewords, many starve.
    """
    counts = masks.sum(axis=0)
    first = np.cumsum(counts) - counts
    # The kept values, element by element, and a 0 for elements at the end that no subvector keeps.
    kept = np.append(subvectors.T[masks.T], np.float32(0))
    return np.where(counts > 0, kept[first + (draws * counts).astype(np.int64)], np.float32(0))


def _initial(settings: Settings, data: _Clustering) -> Floats:
    """The codebook to start from, as :data:`INITS` describes it."""
    w, masks = data.subvectors, data.masks
    NG, d = w.shape
    k, rng = settings.k, np.random.default_rng(settings.seed)
    if settings.init != "k-means++":
        chosen = rng.choice(NG, size=k, replace=False)
        if settings.init == "paper" or masks is None:
            return w[chosen]
        return np.where(masks[chosen], w[chosen], _fills(w, masks, rng.random((k, d))))
    first = int(rng.integers(NG))
    drawn = rng.random((k, 1 if masks is None else d + 1))
    fills = np.empty((k, d), dtype=np.float32) if masks is None else _fills(w, masks, drawn[:, :-1])
    return data.plus_plus(first, fills, np.ascontiguousarray(drawn[:, -1]))
