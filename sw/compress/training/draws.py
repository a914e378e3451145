"""Random numbers of a loader: they follow from a seed, and those of the user go on as if nothing had been drawn."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

__all__ = ["Draws", "fresh", "seeded"]


@contextmanager
def seeded(numbers: Sequence[int]) -> Iterator[None]:
    """Random numbers of torch on the CPU, Python and numpy follow from the seed; afterwards they are as before."""
    seed = _number(numbers)
    state, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what transforms of images draw from
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(legacy)  # noqa: NPY002


class Draws:
    """The generators that a loader and its samplers have of their own, in one pass over it.

    Between its batches they are the user's: a pass that is never ended, as one that Ctrl-C stops in a notebook, which
    keeps the traceback and all that lives in it, leaves nothing behind.

    Parameters
    ----------
    parts
        The loader and its samplers, or None.
    seed
        Numbers: of the configuration and the epoch. A generator's own seed counts, too.
    """

    def __init__(self, parts: Sequence[Any], seed: Sequence[int]) -> None:
        found = {id(each): each for each in (getattr(part, "generator", None) for part in parts)}
        self._generators = [each for each in found.values() if isinstance(each, torch.Generator)]
        self._states = []
        for each in self._generators:
            before = each.get_state()
            # The user's seed counts, and every epoch has an order of its own.
            each.manual_seed(_number([*seed, each.initial_seed()]))
            self._states.append(each.get_state())
            each.set_state(before)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """The generators go on from where the pass left them; afterwards they are as before."""
        before = [each.get_state() for each in self._generators]
        for each, state in zip(self._generators, self._states, strict=True):
            each.set_state(state)
        try:
            yield
        finally:
            self._states = [each.get_state() for each in self._generators]
            for each, state in zip(self._generators, before, strict=True):
                each.set_state(state)


def fresh(loader: Any) -> Any:
    """A loader whose workers start anew, and whose batches come in their order: those that stay draw on from where the
    last epoch ended, whatever the seed.
    """
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        return loader
    # The user's own keeps its workers, and what they drew.
    own = copy.copy(loader)
    vars(own).update(persistent_workers=False, in_order=True, _iterator=None)
    return own


def _number(numbers: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0]) >> 1
