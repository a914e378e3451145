"""Codebooks of few bits: quantised while subvectors are clustered, not once after.

With 8 bits, rounding a codebook after the clustering costs next to nothing, and MVQ does no more (section 4.3). With
fewer, a subvector's nearest codeword is often another one after rounding, and the best integers of a codeword depend
on who its members are then.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sw.compress.kmeans import KMeansResult, assign, member_counts, move_empty, objective, scaled, update
from sw.compress.quantiser import quantise_codebook

__all__ = ["integer_codebook"]


def integer_codebook(
    subvectors: NDArray[np.float32],
    masks: NDArray[np.bool_] | None,
    found: KMeansResult,
    *,
    magnitudes: bool,
    codeword_bits: int,
    iterations: int,
    empty: str = "farthest",
    threads: int | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]:
    """The integers of a clustering.

    8 bits: those of the codebook that was found (:func:`sw.compress.quantiser.quantise_codebook`). Fewer: from there
    on, assignments (MVQ equation 2) to the codebook of integers and its best integers and scale for them (equations 3
    to 5) take turns until the error no longer falls. So it is never larger than that of quantising once.

    Parameters
    ----------
    subvectors, masks
        As they were clustered (:func:`sw.compress.kmeans.kmeans`).
    found
        What that found.
    magnitudes, codeword_bits
        As in :func:`sw.compress.quantiser.quantise_codebook`.
    iterations
        Most turns.
    empty
        As in :func:`sw.compress.kmeans.kmeans`.
    threads
        As in :func:`sw.compress.kmeans.assign`; the result does not depend on it.

    Returns
    -------
    tuple
        Codebook int8 ``[k, d]``, scale float32 ``[1]`` and assignments int32 ``[NG]``.
    """
    k, d = found.codebook.shape
    counts = member_counts(masks, found.assignments, k, d)
    codebook, scale = quantise_codebook(found.codebook, counts, magnitudes=magnitudes, codeword_bits=codeword_bits)
    if codeword_bits == 8:
        return codebook, scale, found.assignments
    # The squares of very large or small weights have no float32. A power of two changes no digit.
    values, kept, exponent = scaled(subvectors, masks)
    step = np.ldexp(scale, -exponent)
    best = codebook, step, found.assignments
    error = objective(values, kept, _decoded(codebook, step), found.assignments)
    for _ in range(iterations):
        codebook, step, assignments = best
        decoded = _decoded(codebook, step)
        assignments = assign(values, kept, decoded, threads=threads)
        means = update(values, kept, assignments, decoded)
        if empty == "farthest":
            means = move_empty(values, kept, assignments, means)
        counts = member_counts(kept, assignments, k, d)
        codebook, step = quantise_codebook(means, counts, magnitudes=magnitudes, codeword_bits=codeword_bits, also=step)
        now = objective(values, kept, _decoded(codebook, step), assignments)
        if not now < error:
            break
        error, best = now, (codebook, step, assignments)
    codebook, step, assignments = best
    # Weights that are all next to 0 are treated as in `quantise_codebook`.
    return codebook, np.maximum(np.ldexp(step, exponent), np.finfo(np.float32).tiny), assignments


def _decoded(codebook: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return codebook.astype(np.float32) * scale
