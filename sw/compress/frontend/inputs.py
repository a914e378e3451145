"""What a network is called with: one tensor, or several arguments by place and by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sw.compress.frontend.places import Refusal

__all__ = ["Given", "Inputs", "called", "described", "first_samples", "joined", "mapped", "no_images"]


@dataclass(frozen=True)
class Inputs:
    """Arguments of a network that takes something else than one tensor."""

    #: By place: tensors, whose first axis is the batch, and anything else.
    arguments: tuple[Any, ...] = ()
    #: By name.
    named: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Samples: those of the first tensor with an axis."""
        return next((len(tensor) for tensor in _tensors([self.arguments, self.named]) if tensor.ndim), 1)


#: What a network is called with: a tensor for one argument alone.
Given = Tensor | Inputs


def called(network: Callable[..., Any], given: Given) -> Any:
    """What a network makes of its input."""
    return network(*given.arguments, **given.named) if isinstance(given, Inputs) else network(given)


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A value with all its tensors changed, in tuples, lists, mappings and :class:`Inputs`; anything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Inputs):
        return Inputs(mapped(change, value.arguments), mapped(change, value.named))
    if isinstance(value, dict):
        # What libraries of models return is a dictionary with attributes.
        new = copy.copy(value)
        for key, part in value.items():
            new[key] = mapped(change, part)
        return new
    if isinstance(value, Mapping):
        return {key: mapped(change, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [mapped(change, part) for part in value]
        named = isinstance(value, tuple) and hasattr(value, "_fields")
        return type(value)(*parts) if named else type(value)(parts)
    return value


def first_samples(given: Given, count: int) -> Given:
    """The first samples of a batch alone; all of a batch of several arguments.

    These belong together in ways that nobody says: a mask or a graph's adjacency has no batch's axis, and may have as
    many rows as there are samples.
    """
    return given[:count] if isinstance(given, Tensor) and given.ndim else given


def joined(batches: Sequence[Given], limit: int) -> Given:
    """At most ``limit`` samples of batches as one; those of another shape than the first batch are left out.

    Of several arguments, those of the first batch (:func:`first_samples`).
    """
    first = batches[0]
    if isinstance(first, Tensor):
        alike = [part for part in batches if isinstance(part, Tensor) and part.shape[1:] == first.shape[1:]]
        return torch.cat(alike)[:limit]
    return first_samples(first, limit)


def no_images(given: Given) -> Refusal | None:
    """Why a network of such inputs has no integer form; None if they are images."""
    if isinstance(given, Tensor) and given.ndim == 4 and given.is_floating_point():
        return None
    return Refusal(
        "",
        f"an integer form has one input, images [n, C, rows, columns] in floats, not {described(given)}",
        "--layers-alone (layers_alone=True) compresses and trains the layers",
    )


def described(value: Any) -> str:
    """A value in a few words: kinds and shapes."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Inputs):
        parts = [described(part) for part in value.arguments]
        return ", ".join([*parts, *(f"{name}={described(part)}" for name, part in value.named.items())])
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {described(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple | list):
        some = [described(part) for part in value[:4]] + ["..."] * (len(value) > 4)
        return f"({', '.join(some)})" if isinstance(value, tuple) else f"[{', '.join(some)}]"
    return "None" if value is None else type(value).__name__


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
