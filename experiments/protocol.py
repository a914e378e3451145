"""How settings are chosen, and figures made: the protocol of every study.

Settings, such as each case's learning rate, are chosen on a part of the training images that no final run trains with
or is scored on. All runs train with the other part, and the test images are seen once, by final runs. Every case gets
the same number of tries, with a seed of its own; final runs have :data:`SEEDS`. Cases that are compared take equal
bytes, to :data:`TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sw.compress.methods import CompressError
from sw.compress.training.data import ImageData

__all__ = ["HELD_OUT", "SEEDS", "TOLERANCE", "TRY_SEEDS", "apart_note", "bytes_apart", "held_out", "part_of"]

#: Share of each class's training images that settings are chosen on.
HELD_OUT = 0.1

#: Of final runs, and of runs that try settings.
SEEDS, TRY_SEEDS = (0, 1, 2), (100,)

#: How far files of one size may be apart, as a share of the smallest.
TOLERANCE = 0.01


def part_of(data: ImageData, numbers: NDArray[np.int64]) -> ImageData:
    """The images of these numbers, in their order."""
    images = data.images[numbers] if isinstance(data.images, np.ndarray) else [data.images[i] for i in numbers.tolist()]
    return ImageData(images, data.labels[numbers], data.size)


def held_out(train: ImageData, share: float = HELD_OUT) -> tuple[ImageData, ImageData]:
    """Training images in two: those that runs train with, and those that settings are chosen on.

    Which ones does not depend on a run's seed. Both come in random order: scales and batch norms are calibrated with
    the first images, and data sets may be sorted by class.

    Parameters
    ----------
    train
        All training images.
    share
        Of each class that is held out, rounded; at least one image of a class that has two or more.

    Raises
    ------
    CompressError
        No class has two images.
    """
    rng = np.random.default_rng(0)
    kept, held = [], []
    for label in range(train.classes):
        numbers = rng.permutation(np.flatnonzero(train.labels == label))
        count = max(round(share * len(numbers)), 1) if len(numbers) > 1 else 0
        held.append(numbers[:count])
        kept.append(numbers[count:])
    if not sum(map(len, held)):
        raise CompressError(f"data must have a class of two images or more to hold some out, not {len(train)} classes")
    return part_of(train, rng.permutation(np.concatenate(kept))), part_of(train, rng.permutation(np.concatenate(held)))


def bytes_apart(sizes: Sequence[int]) -> float:
    """How far files are apart: the largest is by this share larger than the smallest."""
    return max(sizes) / min(sizes) - 1


def apart_note(sizes: Iterable[tuple[float, int]]) -> str:
    """Sentences for a note: how far files of equal bits a weight are apart, from each one's bits and bytes."""
    files: dict[float, list[int]] = {}
    for bits, size in sizes:
        files.setdefault(bits, []).append(size)
    return "".join(
        f" Files of {bits:.4g} bits a weight are within {100 * bytes_apart(own):.2f} % of each other."
        for bits, own in files.items()
    )
