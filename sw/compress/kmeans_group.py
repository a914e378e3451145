"""Layers that a GPU clusters together, and the state of their clustering."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Group"]


@dataclass(eq=False)
class Group:
    """Layers with the same d, one after the other, on one device, and the state of their clustering."""

    #: float32 ``[NG, d]``: all subvectors, each layer scaled so that its largest magnitude is in 0.5..1.
    w: Tensor
    #: bool ``[NG, d]`` or None.
    masks: Tensor | None
    #: First subvector of every layer, and their number.
    offsets: list[int]
    #: Subvectors of a tile; int32 ``[tiles, 3]``: first subvector, end of the layer and number of the layer.
    tile: int
    tiles: Tensor
    #: float64 ``[layers]``: 2^p.
    points: Tensor
    #: float32 ``[layers, k, d]``.
    codebook: Tensor
    #: int32 ``[NG]``, of the layer's k.
    assignments: Tensor
    #: int64 ``[layers, k, d]``: sums of the members by 2^p; int32: members that keep each element; int32 ``[layers,
    #: k]``: members.
    totals: Tensor
    counts: Tensor
    sizes: Tensor
    #: int32 ``[layers]``: assignments that the last step changed.
    changes: Tensor

    def rows(self, layer: int) -> slice:
        """The subvectors of a layer."""
        return slice(self.offsets[layer], self.offsets[layer + 1])

    def chunks(self, layer: int, rows: int) -> list[slice]:
        """The subvectors of a layer, at most this many at once."""
        first, end = self.offsets[layer], self.offsets[layer + 1]
        return [slice(i, min(i + rows, end)) for i in range(first, end, rows)]

    def errors(self, chunk: slice, codebook: Tensor, assignments: Tensor) -> Tensor:
        """Squared errors, float64, of the subvectors of a chunk of one layer: the terms of MVQ equation 1."""
        codewords = codebook[assignments.long()]
        if self.masks is not None:
            codewords *= self.masks[chunk]
        return (self.w[chunk].double() - codewords).square_().sum(dim=1)

    def layer_errors(self, layer: int) -> Tensor:
        """Squared errors of a layer's subvectors, float64, in chunks so that no float64 copy of the weights is made."""
        return torch.cat(
            [self.errors(chunk, self.codebook[layer], self.assignments[chunk]) for chunk in self.chunks(layer, 1 << 16)]
        )
