"""Channels in an order that clusters better: the permutation search of PQF (Martinez et al., CVPR 2021), a baseline.

Which output channels share a subvector is free where the next layer's inputs can be put in the same order. PQF looks
for the order whose subvectors have the covariance with the smallest determinant, a bound on the error of clustering.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.grouping import GroupingError
from sw.compress.network import progress_bar
from sw.compress.training.graph import trace

__all__ = ["channel_order", "log_determinant", "permute_network"]


def _moments(weight: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Products of every two output channels, and their means, over the C*R*S weights of each."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    return rows @ rows.T / rows.shape[1], rows.mean(axis=1)


def _objective(gram: NDArray[np.float64], mean: NDArray[np.float64], order: NDArray[np.int64], d: int) -> float:
    groups = order.reshape(-1, d)
    products = gram[groups[:, :, None], groups[:, None, :]].mean(axis=0)
    average = mean[groups].mean(axis=0)
    covariance = products - np.outer(average, average)
    # Constant channels have no variance; a share of the mean variance keeps the logarithm finite.
    ridge = 1e-9 * max(float(np.trace(covariance)) / d, np.finfo(np.float64).tiny)
    return float(np.linalg.slogdet(covariance + ridge * np.eye(d))[1])


def log_determinant(weight: NDArray[np.float32], order: NDArray[np.int64], d: int) -> float:
    """Logarithm of the determinant of the subvectors' covariance with the output channels in that order.

    Parameters
    ----------
    weight
        ``[K, C, R, S]``.
    order
        A permutation of 0..K-1.
    d
        Codeword length; divides K.
    """
    return _objective(*_moments(weight), order, d)


def channel_order(weight: NDArray[np.float32], d: int, *, swaps: int = 5000, seed: int = 0) -> NDArray[np.int64]:
    """An order of the output channels with a small :func:`log_determinant`: never above that of the order as it is.

    It starts from the channels as they are, or sorted by energy so that those of like energy share a position, if that
    is better; then random pairs are swapped where that helps.

    Parameters
    ----------
    weight
        ``[K, C, R, S]``, finite.
    d
        Codeword length; divides K.
    swaps
        Pairs to try.
    seed
        Of the pairs.

    Raises
    ------
    GroupingError
        d does not divide K.
    """
    K = len(weight)
    if d < 1 or K % d:
        raise GroupingError(f"d must be at least 1 and divide the {K} output channels, not {d}")
    gram, mean = _moments(weight)
    by_energy = np.argsort(np.diag(gram), kind="stable").reshape(d, K // d).T.reshape(-1)
    starts = [np.arange(K), by_energy]
    values = [_objective(gram, mean, order, d) for order in starts]
    best = int(np.argmin(values))
    order, value = starts[best], values[best]
    pairs = np.random.default_rng(seed).integers(0, K, (swaps, 2))
    for i, j in pairs[pairs[:, 0] % d != pairs[:, 1] % d]:
        trial = order.copy()
        trial[[i, j]] = trial[[j, i]]
        changed = _objective(gram, mean, trial, d)
        if changed < value:
            order, value = trial, changed
    return order


def permute_network(
    model: nn.Module,
    d: int,
    *,
    images: Tensor | None = None,
    swaps: int = 5000,
    seed: int = 0,
    layers: Collection[str] | None = None,
    progress: bool = False,
) -> list[str]:
    """Reorder the channels between two convolutions, in place; the network computes the same.

    Only channels that go from one convolution to one other, through batch norm and activations alone: those of a
    residual stream are tied to every block that adds to it, and stay.

    Parameters
    ----------
    model
        With ``Conv2d`` layers; a graph (:func:`sw.compress.training.graph.trace`) or what it can be made of.
    images
        As for :func:`sw.compress.training.graph.trace`.
    d, swaps, seed
        As in :func:`channel_order`. Convolutions whose channels d does not divide are left alone.
    layers
        Names of the convolutions whose output channels may be reordered; all by default.
    progress
        Show a bar on standard error.

    Returns
    -------
    list
        Names of the convolutions whose output channels were reordered.

    Raises
    ------
    CompressError
        The network cannot be traced.
    """
    graph = trace(model, images)
    modules = dict(graph.named_modules())
    # Channels that other layers see, too, through one weight or norm, stay.
    called = [modules[str(node.target)] for node in graph.graph.nodes if node.op == "call_module"]
    shared = Counter(tensor for module in called for tensor in (module, *module.parameters()))
    own = set(model.parameters())

    def alone(module: nn.Module) -> bool:
        # What the graph computed from other parameters is no parameter of the network.
        return all(shared[tensor] == 1 for tensor in (module, *module.parameters())) and own.issuperset(
            module.parameters()
        )

    found: list[tuple[str, nn.Conv2d, list[nn.BatchNorm2d], nn.Conv2d]] = []
    for node in graph.graph.nodes:
        name = str(node.target)
        conv = modules.get(name) if node.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or conv.groups != 1 or conv.out_channels % d or not alone(conv):
            continue
        if layers is not None and name not in layers:
            continue
        norms: list[nn.BatchNorm2d] = []
        last, after = node, None
        while len(last.users) == 1:
            last = next(iter(last.users))
            after = modules.get(str(last.target)) if last.op == "call_module" else None
            if isinstance(after, nn.BatchNorm2d) and alone(after):
                norms.append(after)
            elif last.target not in (functional.relu, functional.relu6):
                break
        if isinstance(after, nn.Conv2d) and after.groups == 1 and alone(after):
            found.append((name, conv, norms, after))
    with progress_bar(progress) as bar, torch.no_grad():
        for _, conv, norms, after in bar.track(found, description="permutation"):
            order = torch.from_numpy(channel_order(conv.weight.cpu().numpy(), d, swaps=swaps, seed=seed))
            order = order.to(conv.weight.device)
            conv.weight.copy_(conv.weight[order])
            if conv.bias is not None:
                conv.bias.copy_(conv.bias[order])
            for norm in norms:
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    if tensor is not None:
                        tensor.copy_(tensor[order])
            after.weight.copy_(after.weight[:, order])
    return [name for name, *_ in found]
