"""N:M sparse training before clustering: SR-STE and ASP (MVQ section 4.1).

Both prune along the output channels, as :func:`sw.compress.pruning.nm_mask` does, so the masks that clustering derives
from the trained weights are the ones that were trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sw.compress.methods import CompressError, named
from sw.compress.network import own_class
from sw.compress.pruning import check_nm
from sw.compress.training.settings import SCHEMES

__all__ = ["DECAY", "SCHEMES", "NMSparse", "finish_sparse", "nm_keep", "start_sparse"]

#: Weight of SR-STE's regulariser, as DominoSearch sets it, whose settings MVQ uses.
DECAY = 5e-4


def nm_keep(weight: Tensor, n: int, m: int) -> Tensor:
    """Mask that keeps the n largest magnitudes of every m consecutive output channels.

    The tensor form of :func:`sw.compress.pruning.nm_mask`: of equal magnitudes the lowest channel wins.

    Parameters
    ----------
    weight
        ``[K, C, R, S]``, ``[K, C, S]`` or ``[K, C]``; m divides K.
    n, m
        Kept weights, of how many.

    Returns
    -------
    Tensor
        bool, of the shape of ``weight``.
    """
    check_nm(n, m, weight.shape[0])
    magnitudes = weight.detach().abs().reshape(weight.shape[0] // m, m, -1)
    order = magnitudes.argsort(dim=1, descending=True, stable=True)
    keep = torch.zeros_like(magnitudes, dtype=torch.bool).scatter_(1, order[:, :n], True)
    return keep.reshape(weight.shape)


class _SparseSTE(torch.autograd.Function):
    """Forward ``w o mask``; backward the straight-through gradient plus ``decay * (1 - mask) o w`` (SR-STE)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        weight, mask = ctx.saved_tensors
        return gradients[0] + ctx.decay * weight * ~mask, None, None


class NMSparse(nn.Module):
    """Parametrisation of a layer's weight that prunes it N:M in every forward pass.

    Parameters
    ----------
    weight
        The weight that training starts from.
    n, m
        Kept weights, of how many output channels.
    scheme
        One of :data:`SCHEMES`.
    decay
        Weight of SR-STE's regulariser.
    """

    mask: Tensor

    def __init__(self, weight: Tensor, n: int, m: int, scheme: str = "sr-ste", decay: float = DECAY) -> None:
        super().__init__()
        if scheme not in SCHEMES:
            raise CompressError(f"scheme must be one of {', '.join(SCHEMES)}, not {scheme!r}")
        self.n, self.m, self.decay, self.follow = n, m, decay, scheme == "sr-ste"
        mask = nm_keep(weight, n, m)
        # SR-STE's mask follows from the weight; ASP's is state.
        self.register_buffer("mask", mask, persistent=not self.follow)

    def forward(self, weight: Tensor) -> Tensor:
        """The pruned weight."""
        if not self.follow:
            return weight * self.mask
        keep = nm_keep(weight, self.n, self.m)
        pruned: Tensor = _SparseSTE.apply(weight, keep, self.decay)  # type: ignore[no-untyped-call]
        return pruned


def start_sparse(
    model: nn.Module, patterns: Sequence[str], n: int, m: int, scheme: str = "sr-ste", decay: float = DECAY
) -> list[str]:
    """Train the matching convolutions and linear layers N:M sparse from here on, in place.

    Parameters
    ----------
    model
        Its convolutions and linear layers (:func:`sw.compress.network.module_sources`) are considered.
    patterns
        Shell patterns of layer names; a layer that none matches stays dense.
    n, m, scheme, decay
        As in :class:`NMSparse`.

    Returns
    -------
    list
        Names of the sparse layers. A matching layer whose channels m does not divide, or that is depthwise, stays
        dense: nothing compresses it either (:func:`sw.compress.methods.misfit`).

    Raises
    ------
    CompressError
        No layer is sparse, or a pattern matches none.
    """
    check_nm(n, m, m)
    found = dict(model.named_modules())
    layers = {name: each for name, each in found.items() if isinstance(each, nn.Conv1d | nn.Conv2d | nn.Linear)}
    for pattern in patterns:
        if not any(named(name, pattern) for name in layers):
            raise CompressError(f"patterns must match a layer, not {pattern!r}; layers are {', '.join(layers)[:200]}")
    names = []
    for name, layer in layers.items():
        if not any(named(name, pattern) for pattern in patterns):
            continue
        groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        if layer.weight.shape[0] // groups % m or (groups > 1 and layer.weight.shape[1] == 1):
            continue
        parametrize.register_parametrization(layer, "weight", NMSparse(layer.weight, n, m, scheme, decay))
        names.append(name)
    if not names:
        raise CompressError(f"patterns must match a layer that {n}:{m} fits, not {list(patterns)}")
    return names


def finish_sparse(model: nn.Module) -> list[str]:
    """End sparse training in place: the layers' weights are plain parameters again, 0 where pruned. Their names."""
    names = []
    for name, layer in model.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            own_class(layer)
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            names.append(name)
    return names
