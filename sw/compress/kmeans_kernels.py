"""The inner loops of the k-means in C++, compiled at the first use, and the same in numpy for where they cannot be.

A fused loop compares a distance when it is computed, so no matrix of distances reaches memory. It takes a C++ compiler
(``$CXX``, or ``c++``, ``g++`` or ``clang++`` on the path); the library is kept in ``$XDG_CACHE_HOME/msvq``
(``~/.cache/msvq`` by default) for this source, compiler and processor. Without a compiler, or with
``MSVQ_KERNELS=numpy`` in the environment, numpy does the work, at a third of the speed or less. The two round
differently, so their results may differ in the last digits.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Compiled", "Kernels", "Numpy", "kernels"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Masks = NDArray[np.bool_]
Assignments = NDArray[np.int32]
Counts = NDArray[np.int64]

SOURCE = Path(__file__).with_name("kmeans_kernels.cpp")
FLAGS = ("-std=gnu++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")

# Scores of a chunk of numpy's stay inside a core's second-level cache: 2**18 float32 are 1 MiB.
_SCORES = 1 << 18

# Up to this many codewords, numpy's argmin over one row of scores costs more than its elements.
_SHORT = 32


class Kernels(Protocol):
    """What both implementations do. Arrays are contiguous, ``w`` float32 ``[rows, d]``, ``masks`` bool or None."""

    def factor(self, codebook: Floats, masked: bool) -> Floats:
        """The codebook as :meth:`nearest` wants it."""

    def nearest(
        self, w: Floats, masks: Masks | None, factor: Floats, codebook: Floats, assignments: Assignments, refine: bool
    ) -> int:
        """MVQ equation 2 in float32 (:func:`sw.compress.kmeans.assign`), into ``assignments``; how many were written.

        With ``refine``, only where the new codeword's error, in float64, is smaller than that of the old one.
        """

    def sums(
        self, w: Floats, masks: Masks | None, assignments: Assignments, k: int
    ) -> tuple[Doubles, Counts, NDArray[np.int64]]:
        """Sums of members ``[k, d]``, members that keep each element ``[k, d]`` and members ``[k]``."""

    def errors(self, w: Floats, masks: Masks | None, codebook: Floats, assignments: Assignments) -> Doubles:
        """Squared error of every subvector, float64 ``[rows]``: the terms of MVQ equation 1."""

    def closer(self, w: Floats, masks: Masks | None, codeword: Floats, closest: Floats) -> float:
        """Lower ``closest`` to the errors with this codeword where they are smaller; its sum."""

    def plus_plus(self, w: Floats, masks: Masks | None, chosen: int, fills: Floats, draws: Doubles) -> Floats:
        """k-means++ on one thread: the codebook ``[k, d]``.

        It starts with the chosen subvector; ``fills``, ``[k, d]``, take the place of pruned elements; ``draws`` in 0..1
        choose the next subvector after each codeword.
        """


def _aligned(rows: int, columns: int) -> Floats:
    """An array whose first element is at a multiple of 64 bytes."""
    memory = np.empty(rows * columns + 16, dtype=np.float32)
    first = -memory.ctypes.data % 64 // 4
    return memory[first : first + rows * columns].reshape(rows, columns)


def _address(array: NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data


class Compiled:
    """The kernels of ``kmeans_kernels.cpp``."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        data = [pointer, pointer, number, number]
        for name, result, arguments in (
            ("group_size", number, [ctypes.c_int32]),
            ("most_elements", number, []),
            ("nearest", number, [*data, pointer, pointer, number, pointer, ctypes.c_int32]),
            ("sums", None, [*data, pointer, pointer, pointer, pointer]),
            ("errors", None, [*data, pointer, pointer, pointer]),
            ("closer", ctypes.c_double, [*data, pointer, pointer]),
            ("plus_plus", None, [*data, number, number, pointer, pointer, pointer, pointer]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self.library = library
        self.group, self.masked_group = (int(library.group_size(masked)) for masked in (False, True))
        #: Longest codeword, in weights.
        self.most_elements: int = library.most_elements()

    def factor(self, codebook: Floats, masked: bool) -> Floats:
        """Groups of codewords, element by element: ``|c|^2, -2 c``; with masks elements by codewords, ``[d, k]``.

        A codeword that only fills the last group is never nearest.
        """
        k, d = codebook.shape
        if masked:
            columns = _aligned(d, -(-k // self.masked_group) * self.masked_group)
            columns[:, k:] = np.inf
            columns[:, :k] = codebook.T
            return columns
        rows = np.zeros((-(-k // self.group) * self.group, 1 + d), dtype=np.float32)
        rows[k:, 0] = np.inf
        np.multiply(codebook, -2, out=rows[:k, 1:])
        rows[:k, 0] = (codebook * codebook).sum(axis=1)
        return np.ascontiguousarray(rows.reshape(-1, self.group, 1 + d).transpose(0, 2, 1))

    def nearest(
        self, w: Floats, masks: Masks | None, factor: Floats, codebook: Floats, assignments: Assignments, refine: bool
    ) -> int:
        """See :class:`Kernels`."""
        arrays = _address(factor), _address(codebook), len(codebook), _address(assignments)
        return int(self.library.nearest(_address(w), _address(masks), *w.shape, *arrays, refine))

    def sums(
        self, w: Floats, masks: Masks | None, assignments: Assignments, k: int
    ) -> tuple[Doubles, Counts, NDArray[np.int64]]:
        """See :class:`Kernels`."""
        d = w.shape[1]
        totals, sizes = np.zeros((k, d)), np.zeros(k, dtype=np.int64)
        counts = np.zeros((k, d) if masks is not None else (0, d), dtype=np.int64)
        arrays = _address(assignments), _address(totals), _address(counts), _address(sizes)
        self.library.sums(_address(w), _address(masks), *w.shape, *arrays)
        return totals, counts if masks is not None else np.broadcast_to(sizes[:, None], (k, d)), sizes

    def errors(self, w: Floats, masks: Masks | None, codebook: Floats, assignments: Assignments) -> Doubles:
        """See :class:`Kernels`."""
        found = np.empty(len(w))
        arrays = _address(codebook), _address(assignments), _address(found)
        self.library.errors(_address(w), _address(masks), *w.shape, *arrays)
        return found

    def closer(self, w: Floats, masks: Masks | None, codeword: Floats, closest: Floats) -> float:
        """See :class:`Kernels`."""
        return float(self.library.closer(_address(w), _address(masks), *w.shape, _address(codeword), _address(closest)))

    def plus_plus(self, w: Floats, masks: Masks | None, chosen: int, fills: Floats, draws: Doubles) -> Floats:
        """See :class:`Kernels`."""
        closest, codebook = np.full(len(w), np.inf, dtype=np.float32), np.empty_like(fills)
        arrays = _address(fills), _address(draws), _address(closest), _address(codebook)
        self.library.plus_plus(_address(w), _address(masks), *w.shape, len(fills), chosen, *arrays)
        return codebook


class Numpy:
    """The same through numpy: two matrix products and a search for the minimum."""

    def factor(self, codebook: Floats, masked: bool) -> Floats:
        """``[-2 c, c^2]``, or ``[-2 c, |c|^2]`` without masks, one codeword a row."""
        squares = codebook * codebook
        return np.concatenate([-2 * codebook, squares if masked else squares.sum(axis=1, keepdims=True)], axis=1)

    def nearest(
        self, w: Floats, masks: Masks | None, factor: Floats, codebook: Floats, assignments: Assignments, refine: bool
    ) -> int:
        """See :class:`Kernels`."""
        rows, changes = max(_SCORES // len(factor), 64), 0
        for first in range(0, len(w), rows):
            chunk = slice(first, first + rows)
            subvectors, kept = w[chunk], None if masks is None else masks[chunk]
            right = np.ones((len(subvectors), 1), dtype=np.float32) if kept is None else kept.astype(np.float32)
            operand = np.concatenate([subvectors, right], axis=1)
            if len(factor) > _SHORT:
                new = (operand @ factor.T).argmin(axis=1).astype(np.int32)
            else:
                new = _argmin_short(factor @ operand.T).astype(np.int32)
            old = assignments[chunk]
            if refine:
                changed = np.flatnonzero(new != old)
                members, member_masks = subvectors[changed], None if kept is None else kept[changed]
                better = self.errors(members, member_masks, codebook, new[changed]) < self.errors(
                    members, member_masks, codebook, old[changed]
                )
                changed = changed[better]
                old[changed] = new[changed]
                changes += len(changed)
            else:
                old[:] = new
                changes += len(new)
        return changes

    def sums(
        self, w: Floats, masks: Masks | None, assignments: Assignments, k: int
    ) -> tuple[Doubles, Counts, NDArray[np.int64]]:
        """See :class:`Kernels`."""

        def by_codeword(columns: NDArray[np.generic]) -> Doubles:
            return np.stack([np.bincount(numbers, weights=column, minlength=k) for column in columns], axis=1)

        numbers = assignments.astype(np.intp)  # once, not in every bincount
        sizes = np.bincount(numbers, minlength=k)
        counts = np.broadcast_to(sizes[:, None], (k, w.shape[1]))
        return by_codeword(w.T), counts if masks is None else by_codeword(masks.T).astype(np.int64), sizes

    def errors(self, w: Floats, masks: Masks | None, codebook: Floats, assignments: Assignments) -> Doubles:
        """See :class:`Kernels`."""
        found, rows = np.empty(len(w)), max(_SCORES // w.shape[1], 1)
        for first in range(0, len(w), rows):
            chunk = slice(first, first + rows)
            difference = w[chunk].astype(np.float64)
            codewords = codebook.take(assignments[chunk], axis=0)
            difference -= codewords if masks is None else codewords * masks[chunk]
            np.einsum("ij,ij->i", difference, difference, out=found[chunk])
        return found

    def closer(self, w: Floats, masks: Masks | None, codeword: Floats, closest: Floats) -> float:
        """See :class:`Kernels`."""
        difference = w - (codeword if masks is None else codeword * masks)
        np.minimum(closest, np.einsum("ij,ij->i", difference, difference), out=closest)
        return float(closest.sum(dtype=np.float64))

    def plus_plus(self, w: Floats, masks: Masks | None, chosen: int, fills: Floats, draws: Doubles) -> Floats:
        """See :class:`Kernels`."""
        closest, codebook = np.full(len(w), np.inf, dtype=np.float32), np.empty_like(fills)
        for i, draw in enumerate(draws):
            codebook[i] = w[chosen] if masks is None else np.where(masks[chosen], w[chosen], fills[i])
            self.closer(w, masks, codebook[i], closest)
            cumulative = np.cumsum(closest, dtype=np.float64)
            # The last one is left out of the search: rounding cannot lead past it.
            chosen = int(np.searchsorted(cumulative[:-1], draw * cumulative[-1], side="right"))
        return codebook


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


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def _whole(library: Path) -> bool:
    """Whether the library is there as it was built: a truncated one would kill the process that loads it."""
    try:
        return _digest_file(library).read_bytes() == _digest(library).encode()
    except FileNotFoundError:
        return False


@functools.cache
def _compiled() -> Compiled | None:
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        return None
    try:
        # The compiler's own macros name its version and what this processor can do.
        macros = subprocess.run(
            [compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull], check=True, capture_output=True
        ).stdout
        key = hashlib.sha256(b"\0".join((SOURCE.read_bytes(), " ".join(FLAGS).encode(), macros))).hexdigest()[:32]
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "msvq"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"kernels-{key}.so"
        if not _whole(path):
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                built = Path(scratch) / path.name
                subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(built)], check=True, capture_output=True)
                digest = _digest_file(built)
                digest.write_text(_digest(built))
                # The digest first: a library without its own is built again. Each at once, whatever others do.
                digest.replace(_digest_file(path))
                built.replace(path)
        return Compiled(path)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else error
        warnings.warn(f"clustering runs on numpy, slower: {compiler} did not build it: {reason}", stacklevel=3)
        return None


def kernels(d: int) -> Kernels:
    """The fastest implementation there is for subvectors of d weights."""
    compiled = None if os.environ.get("MSVQ_KERNELS") == "numpy" else _compiled()
    return compiled if compiled is not None and d <= compiled.most_elements else Numpy()
