"""The k-means of :mod:`sw.compress.kmeans` on a GPU: all layers of a network in one launch a step.

Two backends do the same. ``triton`` (:mod:`sw.compress.kmeans_triton`) fuses the distance, the search for the minimum,
the exact comparison and the sums of the members, so no matrix of distances reaches memory. ``torch`` is plain PyTorch,
the reference; it runs on a CPU as well.

Results do not depend on the order in which a GPU works. Sums of members are integers, multiples of 2^-p of the largest
power of two that no weight of the layer reaches, with p = 61 - log2 NG (at most 52): 40 bits after the point for a
million subvectors. So only the subvectors that changed have to be moved from one sum to another, without drift.
Against the other backend or the CPU, whose distances are rounded otherwise, a near tie may fall differently: the total
error of one assignment is the smallest there is to 1e-9 of it, and after many iterations objectives differ by some 1e-4
of theirs, either way. The tests allow 1e-3.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sw.compress.kmeans_group import Group
from sw.compress.kmeans_problem import KMeansError, KMeansResult, Layer, Settings

__all__ = ["BACKENDS", "cluster_layers", "device_kind"]

BACKENDS = ("triton", "torch")

# Subvectors of one program of a kernel; layers start a new one.
TILE = 64

# Scores that the reference computes at once.
_SCORES = 1 << 25


class Steps(Protocol):
    """What a backend does with a group; :class:`Reference` says it."""

    def __init__(self, group: Group) -> None: ...
    def begin(self) -> None: ...
    def update(self, going: Tensor) -> None: ...
    def moved(self) -> None: ...
    def step(self, layers: Sequence[int], tiles: Tensor, first: bool) -> None: ...
    def plus_plus(self, chosen: Tensor, fills: Tensor | None, draws: Tensor) -> None: ...


class Reference:
    """The backend ``torch``."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def begin(self) -> None:
        """The codebook to start from is set."""

    def update(self, going: Tensor) -> None:
        """MVQ equations 3 and 4 for these layers; an element that no member keeps stays."""
        group = self.group
        means = group.totals / (group.counts * group.points[:, None, None])
        group.codebook = torch.where((group.counts > 0) & going[:, None, None], means.float(), group.codebook)

    def moved(self) -> None:
        """Codewords without members have moved."""

    def step(self, layers: Sequence[int], tiles: Tensor, first: bool) -> None:
        """Assign these layers' subvectors (MVQ equation 2), and bring sums and counts up to date.

        ``first``: they have no assignments yet. Else one changes only if that makes its error in float64 smaller.
        """
        group = self.group
        k = group.codebook.shape[1]
        for layer in layers:
            codebook, changes = group.codebook[layer], 0
            for chunk in group.chunks(layer, max(_SCORES // k, 1)):
                w, masks = group.w[chunk], None if group.masks is None else group.masks[chunk]
                squares = codebook.square()
                scores = w @ (-2 * codebook).T
                scores += squares.sum(dim=1) if masks is None else masks.float() @ squares.T
                new, old = scores.argmin(dim=1).int(), group.assignments[chunk]
                if first:
                    changed = torch.arange(len(w), device=w.device)
                else:
                    better = group.errors(chunk, codebook, new) < group.errors(chunk, codebook, old)
                    changed = (better & (new != old)).nonzero().squeeze(1)
                    self._move(layer, w, masks, changed, old, -1)
                self._move(layer, w, masks, changed, new, 1)
                old[changed] = new[changed]
                changes += len(changed)
            group.changes[layer] = changes

    def _move(self, layer: int, w: Tensor, masks: Tensor | None, rows: Tensor, to: Tensor, sign: int) -> None:
        group = self.group
        numbers = to[rows].long()
        fixed = (w[rows].double() * group.points[layer]).long()
        kept = torch.ones_like(fixed, dtype=torch.int32) if masks is None else masks[rows].int()
        group.totals[layer].index_add_(0, numbers, fixed, alpha=sign)
        group.counts[layer].index_add_(0, numbers, kept, alpha=sign)
        group.sizes[layer].index_add_(0, numbers, torch.ones_like(numbers, dtype=torch.int32), alpha=sign)

    def plus_plus(self, chosen: Tensor, fills: Tensor | None, draws: Tensor) -> None:
        """k-means++: the first chosen subvector of every layer, what fills pruned elements, one draw a codeword."""
        group = self.group
        for layer in range(len(group.codebook)):
            rows = group.rows(layer)
            w = group.w[rows]
            closest = torch.full((len(w),), torch.inf, device=w.device)
            j = chosen[layer]
            for i in range(group.codebook.shape[1]):
                codeword = w[j]
                if group.masks is not None and fills is not None:
                    codeword = torch.where(group.masks[rows][j], codeword, fills[layer, i])
                group.codebook[layer, i] = codeword
                covered = codeword if group.masks is None else codeword * group.masks[rows]
                closest = torch.minimum(closest, (w - covered).square_().sum(dim=1))
                cumulative = closest.double().cumsum(dim=0)
                j = torch.searchsorted(cumulative[:-1], draws[layer, i] * cumulative[-1], right=True)


def cluster_layers(layers: Sequence[Layer], device: str, backend: str | None = None) -> list[KMeansResult]:
    """:func:`sw.compress.kmeans.kmeans_layers` of checked layers on a device.

    Parameters
    ----------
    layers
        From :func:`sw.compress.kmeans_problem.checked_layers`.
    device
        A PyTorch device.
    backend
        One of :data:`BACKENDS`; by default ``triton`` where it is installed and the device is a CUDA device.

    Raises
    ------
    KMeansError
        The backend or the device is unknown or cannot be used.
    """
    kind = device_kind(device)
    installed = importlib.util.find_spec("triton") is not None
    if backend is None:
        backend = "triton" if installed and kind == "cuda" else "torch"
    if backend not in BACKENDS:
        raise KMeansError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    if backend == "triton" and not installed:
        raise KMeansError("backend 'triton' needs the package triton, which is not installed")
    steps: type[Steps] = Reference
    if backend == "triton":
        from sw.compress import kmeans_triton

        steps = kmeans_triton.Steps

    same: dict[tuple[int, bool], list[int]] = {}
    masks = [None if masks is None or masks.all() else masks for _, masks, _ in layers]
    for i, (subvectors, _, _) in enumerate(layers):
        same.setdefault((subvectors.shape[1], masks[i] is not None), []).append(i)
    results: dict[int, KMeansResult] = {}
    for numbers in same.values():
        members = [(layers[i][0], masks[i], layers[i][2]) for i in numbers]
        group, exponents = load(members, device)
        # Triton launches on the current device.
        with torch.cuda.device_of(group.w):  # type: ignore[no-untyped-call]
            found = cluster_group(group, [settings for _, _, settings in members], exponents, steps)
        results.update(zip(numbers, found, strict=True))
    return [results[i] for i in range(len(layers))]


def device_kind(device: str) -> str:
    """``cpu`` or ``cuda``, of a device that is there.

    Raises
    ------
    KMeansError
        It is of another kind, or PyTorch does not see it.
    """
    try:
        found = torch.device(device)
    except (TypeError, RuntimeError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise KMeansError(f"device must be cpu, cuda or cuda:N, not {device!r}")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        sees = f"{count} CUDA devices" if count else "no CUDA device"
        raise KMeansError(f"device {device!r} is not there: PyTorch sees {sees}")
    return found.type


def load(layers: Sequence[Layer], device: str) -> tuple[Group, list[int]]:
    """A group of layers on the device, scaled, pruned weights set to 0; and the exponents of their scales."""
    sizes = [len(subvectors) for subvectors, _, _ in layers]
    offsets = [0, *np.cumsum(sizes).tolist()]
    d, k = layers[0][0].shape[1], layers[0][2].k
    NG, count = offsets[-1], len(layers)
    w = torch.empty((NG, d), device=device)
    masks = None if layers[0][1] is None else torch.empty((NG, d), dtype=torch.bool, device=device)
    exponents = []
    for i, (subvectors, kept, _) in enumerate(layers):
        rows = slice(offsets[i], offsets[i + 1])
        w[rows] = torch.from_numpy(np.ascontiguousarray(subvectors))
        if masks is not None:
            masks[rows] = torch.from_numpy(np.ascontiguousarray(kept))
            w[rows].masked_fill_(~masks[rows], 0)
        low, high = torch.aminmax(w[rows])
        exponents.append(int(np.frexp(np.float32(max(-low.item(), high.item())))[1]))
        half = -exponents[-1] // 2  # the power itself may not be a float32
        w[rows] *= 2.0**half
        w[rows] *= 2.0 ** (-exponents[-1] - half)
    tiles = [
        (first, offsets[i + 1], i) for i in range(count) for first in range(offsets[i], offsets[i + 1], TILE)
    ]  # fmt: skip
    points = [2.0 ** min(61 - (size - 1).bit_length(), 52) for size in sizes]
    zeros: dict[str, Any] = {"dtype": torch.int32, "device": device}
    group = Group(
        w=w,
        masks=masks,
        offsets=offsets,
        tile=TILE,
        tiles=torch.tensor(tiles, dtype=torch.int32).to(device),
        points=torch.tensor(points, dtype=torch.float64).to(device),
        codebook=torch.zeros((count, k, d), device=device),
        assignments=torch.zeros(NG, **zeros),
        totals=torch.zeros((count, k, d), dtype=torch.int64, device=device),
        counts=torch.zeros((count, k, d), **zeros),
        sizes=torch.zeros((count, k), **zeros),
        changes=torch.zeros(count, **zeros),
    )
    return group, exponents


def start(group: Group, settings: Sequence[Settings], exponents: Sequence[int], steps: Steps) -> None:
    """The codebooks to start from (:data:`sw.compress.kmeans_problem.INITS`), drawn as on the CPU."""
    count, k, d = group.codebook.shape
    given = [s.start for s in settings]
    if settings[0].init == "k-means++" and all(codebook is None for codebook in given):
        chosen, draws = np.empty((count, 1), dtype=np.int64), np.empty((count, k))
        fills = None if group.masks is None else torch.empty_like(group.codebook)
        for i, s in enumerate(settings):
            rng = np.random.default_rng(s.seed)
            chosen[i] = rng.integers(group.offsets[i + 1] - group.offsets[i], size=1)
            drawn = rng.random((k, 1 if fills is None else d + 1))
            draws[i] = drawn[:, -1]
            if fills is not None:
                fills[i] = _fill(group, i, drawn[:, :-1])
        device = group.w.device
        steps.plus_plus(torch.from_numpy(chosen)[:, 0].to(device), fills, torch.from_numpy(draws).to(device))
        return
    for i, s in enumerate(settings):
        if s.start is not None:
            group.codebook[i] = torch.from_numpy(np.ldexp(s.start, -exponents[i]))
            continue
        rows, rng = group.rows(i), np.random.default_rng(s.seed)
        numbers = torch.from_numpy(rng.choice(rows.stop - rows.start, size=k, replace=False)).to(group.w.device)
        group.codebook[i] = group.w[rows][numbers]
        if s.init != "paper" and group.masks is not None:
            filled = _fill(group, i, rng.random((k, d)))
            group.codebook[i] = torch.where(group.masks[rows][numbers], group.codebook[i], filled)


def _fill(group: Group, layer: int, draws: Any) -> Tensor:
    """For every codeword and element, the value of a subvector that keeps the element: draws in 0..1, ``[k, d]``."""
    assert group.masks is not None
    w, masks = group.w[group.rows(layer)], group.masks[group.rows(layer)]
    found = torch.zeros(draws.shape, device=w.device)
    chances = torch.from_numpy(np.ascontiguousarray(draws.T)).to(w.device)
    for e, chance in enumerate(chances):
        keeping = masks[:, e].nonzero().squeeze(1)
        if len(keeping):
            found[:, e] = w[keeping[(chance * len(keeping)).long()], e]
    return found


def cluster_group(
    group: Group, settings: Sequence[Settings], exponents: Sequence[int], backend: type[Steps]
) -> list[KMeansResult]:
    """Cluster the layers of a group, each until it has converged."""
    steps = backend(group)
    start(group, settings, exponents, steps)
    steps.begin()
    count = len(settings)
    active, tiles = list(range(count)), group.tiles
    done, converged = [0] * count, [False] * count
    going = torch.ones(count, dtype=torch.bool, device=group.w.device)
    steps.step(active, tiles, True)
    for iteration in range(settings[0].iterations + 1):
        # One wait for the device an iteration.
        changes, lonely = torch.stack([group.changes, (group.sizes == 0).sum(dim=1).int()]).tolist()
        if iteration:
            for i in active:
                done[i] = iteration
                NG = group.offsets[i + 1] - group.offsets[i]
                converged[i] = changes[i] == 0 or changes[i] < settings[i].tolerance * NG
            if any(converged[i] for i in active):
                active = [i for i in active if not converged[i]]
                going = torch.tensor([not c for c in converged]).to(group.w.device)
                tiles = group.tiles[going[group.tiles[:, 2].long()]]
        if iteration == settings[0].iterations or not active:
            break
        steps.update(going)
        if settings[0].empty == "farthest" and any(lonely[i] for i in active):
            for i in active:
                if lonely[i]:
                    move_empty(group, i)
            steps.moved()
        steps.step(active, tiles, False)
    return [_result(group, i, exponents[i], done[i], converged[i]) for i in range(count)]


def move_empty(group: Group, layer: int) -> None:
    """Policy ``farthest`` of :data:`sw.compress.kmeans_problem.EMPTY_POLICIES`."""
    lonely = (group.sizes[layer] == 0).nonzero().squeeze(1)
    errors, order = torch.sort(group.layer_errors(layer), descending=True, stable=True)
    farthest = order[: len(lonely)][errors[: len(lonely)] > 0]
    lonely = lonely[: len(farthest)]
    moved = group.w[group.rows(layer)][farthest]
    if group.masks is not None:
        kept = group.masks[group.rows(layer)][farthest]
        moved = torch.where(kept, moved, group.codebook[layer, lonely])
    group.codebook[layer, lonely] = moved


def _result(group: Group, layer: int, exponent: int, done: int, converged: bool) -> KMeansResult:
    error = float(group.layer_errors(layer).sum())
    return KMeansResult(
        codebook=np.ldexp(group.codebook[layer].cpu().numpy(), exponent),
        assignments=group.assignments[group.rows(layer)].cpu().numpy(),
        objective=float(np.ldexp(error, 2 * exponent)),
        iterations=done,
        converged=converged,
    )
