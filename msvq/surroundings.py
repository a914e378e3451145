"""What a function of the library leaves as it was in the user's process, and what of it must not count in its result.

Torch keeps much for a whole process, or for a thread: whether gradients are followed, autocast, the type of new floats,
how many threads there are, random numbers. A user's program has set them for its own work, and goes on after ours.
"""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import numpy as np

__all__ = ["undisturbed"]

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

#: torch.export, random numbers and the number of threads are the whole process's: of two calls at once, one would
#: change them for the other. A call within a call, as of a user's metric, goes on.
_ALONE = threading.RLock()


def undisturbed(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """A function that computes the same whatever the process is set to, and changes none of that.

    One thread at a time is in any of them.
    """

    @functools.wraps(function)
    def called(*arguments: _Given.args, **options: _Given.kwargs) -> _Result:
        with _ALONE, _surroundings(str(options.get("device", "cpu"))):
            return function(*arguments, **options)

    return called


@contextmanager
def _surroundings(device: str) -> Iterator[None]:
    """As in a new process, for the thread; afterwards as before."""
    # An import of ours may draw from Python's random numbers, as rich's does.
    state, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - those that the user's code draws from
    import torch

    numbers, dtype, threads = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled, tuned = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark  # type: ignore[attr-defined]
    default = torch.get_default_device().type
    with ExitStack() as stack:
        # Leaving inference mode comes first: within it no gradient can be followed.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if default not in ("cpu", device.partition(":")[0]):
            stack.enter_context(torch.device("cpu"))
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
            torch.backends.cudnn.benchmark = tuned
            torch.set_rng_state(numbers)
            random.setstate(state)
            np.random.set_state(legacy)  # noqa: NPY002
