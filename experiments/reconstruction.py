"""Compress a network layer by layer, each on what the compressed ones before it give (:func:`reconstruct`)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sw.compress.kmeans import member_counts
from sw.compress.methods import LayerSource, Recipe, compress_layer, misfit
from sw.compress.network import module_sources
from sw.compress.quantiser import quantise_codebook
from sw.format.layer import CompressedLayer

__all__ = [
    "columns",
    "levelled",
    "nearest",
    "norms_of",
    "quantised",
    "reconstruct",
    "regularised",
    "subvectors",
    "weighted_kmeans",
]

_BATCH = 20
# Rows and columns of a map that sums are taken over, at the most, or nearly.
_PLACES = 14
# Share of the mean of a Hessian's diagonal that is added to it.
_DAMPING = 0.02


def _batches(values: Tensor) -> Iterator[Tensor]:
    return iter(values.split(_BATCH))


def _thinned(values: Tensor) -> Tensor:
    """Of large maps, some of the places: neighbours say nearly the same, and sums over all cost more than the layer."""
    step = max(1, values.shape[2] // _PLACES)
    return values[:, :, ::step, ::step]


def columns(layer: nn.Module, values: Tensor) -> Tensor:
    """What a layer multiplies its weights with, ``[samples, C * R * S]``."""
    if isinstance(layer, nn.Linear):
        return values.flatten(0, -2)
    assert isinstance(layer, nn.Conv2d)
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1):
        return _thinned(values).permute(0, 2, 3, 1).flatten(0, 2)
    unfolded = functional.unfold(values, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)


def weighted_kmeans(
    values: Tensor, weights: Tensor, k: int, generator: torch.Generator, iterations: int = 15
) -> Tensor:
    """Codewords ``[k, d]`` of subvectors ``[N, d]`` whose elements have weights of their own."""
    chosen = torch.multinomial((weights * values**2).sum(1).clamp_min(1e-30), k, generator=generator)
    codebook = values[chosen].clone()
    for _ in range(iterations):
        found = nearest(values, weights, codebook)
        sums = torch.zeros_like(codebook).index_add_(0, found, weights * values)
        mass = torch.zeros_like(codebook).index_add_(0, found, weights)
        codebook = torch.where(mass > 0, sums / mass.clamp_min(1e-30), codebook)
    return codebook


def nearest(values: Tensor, weights: Tensor, codebook: Tensor) -> Tensor:
    """The codeword with the smallest weighted squared distance to each subvector."""
    parts = []
    for v, w in zip(values.split(1 << 16), weights.split(1 << 16), strict=True):
        parts.append((w @ (codebook**2).T - 2 * (w * v) @ codebook.T).argmin(1))
    return torch.cat(parts)


def _assign(
    weight: Tensor, hessian: Tensor, gains: Tensor, codebook: Tensor, signed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Assignments, and signs, of a weight ``[K, n]``, input by input; the rest makes up for each one's error.

    Returns
    -------
    tuple
        int64 ``[K / d, n]``, bool ``[K, n]``: negative, and the values that they were found for, ``[K, n]``.
    """
    K, n = weight.shape
    d = codebook.shape[1]
    order = hessian.diagonal().argsort(descending=True)
    inverse = torch.linalg.inv(hessian[order][:, order].double())
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    left = weight[:, order].clone()
    assignments = torch.empty(K // d, n, dtype=torch.long, device=weight.device)
    negative = torch.empty(K, n, dtype=torch.bool, device=weight.device)
    met = torch.empty_like(left)
    blocks = gains.reshape(-1, d)
    size = 64
    for first in range(0, n, size):
        last = min(first + size, n)
        errors = torch.empty(K, last - first, device=weight.device)
        for column in range(first, last):
            values = left[:, column]
            bits = values.signbit() if signed else torch.zeros_like(values, dtype=torch.bool)
            found = nearest((values.abs() if signed else values).reshape(-1, d), blocks, codebook)
            decoded = torch.where(bits, -1.0, 1.0) * codebook[found].flatten()
            assignments[:, column], negative[:, column], met[:, column] = found, bits, values
            error = (values - decoded) / upper[column, column]
            left[:, column + 1 : last] -= error[:, None] * upper[None, column, column + 1 : last]
            errors[:, column - first] = error
        left[:, last:] -= errors @ upper[first:last, last:]
    back = order.argsort()
    return assignments[:, back], negative[:, back], met[:, back]


def grouped(values: Tensor, d: int) -> Tensor:
    """``[K, n]`` to subvectors along the output channels, ``[K * n / d, d]``."""
    K, n = values.shape
    return values.reshape(K // d, d, n).permute(0, 2, 1).reshape(-1, d)


def subvectors(weight: Tensor, hessian: Tensor, gains: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """What a recipe clusters of a weight ``[K, n]``, and the weights of its elements, both ``[K * n / d, d]``."""
    values = weight.abs() if recipe.signed else weight
    return grouped(values, recipe.d), grouped(gains[:, None] * hessian.diagonal()[None], recipe.d)


def regularised(hessian: Tensor, samples: int) -> Tensor:
    """The mean of ``x x^T`` over samples, ``[n, n]``, from their sum; and more on its diagonal, the fewer they are.

    What few samples say of two inputs together is mostly chance. The diagonal is added, not mixed in: a weight that is
    solved for with this matrix is the smaller for it, never the larger.
    """
    n = len(hessian)
    hessian = hessian / samples
    hessian = hessian + torch.diag(hessian.diagonal()) * (n / samples)
    return hessian + _DAMPING * hessian.diagonal().mean() * torch.eye(n, device=hessian.device)


def levelled(weight: Tensor, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """A weight ``[K, n]`` with rows of equal energy, if a batch norm can take their factors, and gains ``[K]``.

    Gains are what a squared error of each output counts.
    """
    gains = torch.ones(len(weight), device=weight.device)
    if norm is None:
        return weight, gains
    size = weight.square().mean(1).sqrt().clamp_min(1e-12)
    gains = (norm.weight * size).square() / (norm.running_var + norm.eps)  # type: ignore[operator]
    return weight / size[:, None], (gains / gains.mean().clamp_min(1e-30)).clamp_min(1e-4)


def quantised(
    source: LayerSource, recipe: Recipe, weight: Tensor, hessian: Tensor, gains: Tensor, generator: torch.Generator
) -> tuple[CompressedLayer, Tensor]:
    """A layer in the form of a recipe, for a weight ``[K, C * R * S]``, and the values its codes were found for."""
    d, signed = recipe.d, recipe.signed
    device = weight.device
    values, weights = subvectors(weight, hessian, gains, recipe)
    codebook = weighted_kmeans(values, weights, recipe.k, generator)
    for _ in range(2):
        assignments, negative, _ = _assign(weight, hessian, gains, codebook, signed)
        # The codebook of these assignments that has the smallest error of the outputs.
        codebook = _fitted_codebook(codebook, assignments, negative, weight, hessian, gains, signed)
    stored = assignments.flatten().to(torch.int32).cpu().numpy()
    counts = member_counts(None, stored, recipe.k, d)
    integers, scale = quantise_codebook(codebook.cpu().numpy(), counts, magnitudes=signed)
    exact = torch.from_numpy(integers.astype(np.float32) * scale).to(device)
    assignments, negative, met = _assign(weight, hessian, gains, exact, signed)
    layer = CompressedLayer(
        **source.geometry,
        method=recipe.method,
        d=d,
        k=recipe.k,
        n=d,
        m=d,
        scale=scale,
        codebook=integers,
        assignments=assignments.flatten().to(torch.int32).cpu().numpy(),
        signs=grouped(negative, d).cpu().numpy() if signed else None,
    )
    return layer, met


def _fitted_codebook(
    codebook: Tensor,
    assignments: Tensor,
    negative: Tensor,
    weight: Tensor,
    hessian: Tensor,
    gains: Tensor,
    signed: bool,
    steps: int = 30,
) -> Tensor:
    """Codewords that have the smallest error of the outputs, by conjugate gradients on the normal equations."""
    d = codebook.shape[1]
    signs = torch.where(negative, -1.0, 1.0) if signed else torch.ones_like(weight)

    def decoded(words: Tensor) -> Tensor:
        return words[assignments].permute(0, 2, 1).reshape(weight.shape) * signs

    def gathered(values: Tensor) -> Tensor:
        grouped = (values * signs).reshape(-1, d, weight.shape[1]).permute(0, 2, 1).reshape(-1, d)
        return torch.zeros_like(codebook).index_add_(0, assignments.flatten(), grouped)

    def product(words: Tensor) -> Tensor:
        return gathered(gains[:, None] * (decoded(words) @ hessian))

    found = codebook.clone()
    rest = gathered(gains[:, None] * ((weight - decoded(found)) @ hessian))
    direction, energy = rest.clone(), float((rest**2).sum())
    for _ in range(steps):
        image = product(direction)
        bend = float((direction * image).sum())
        if bend <= 0 or energy <= 0:
            break
        step = energy / bend
        found += step * direction
        rest -= step * image
        new = float((rest**2).sum())
        direction = rest + new / energy * direction
        energy = new
    return found.clamp_min(0) if signed else found


@torch.no_grad()
def reconstruct(
    model: nn.Module,
    images: Tensor,
    recipes: Mapping[str, Recipe],
    *,
    device: str = "cpu",
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[list[CompressedLayer], dict[str, Tensor]]:
    """Compress a network layer by layer, each on what the compressed ones before it give.

    Batch norms are refitted, in place; weights in ``model`` become the decoded ones.

    Parameters
    ----------
    model
        In evaluation mode; torch.fx can trace it, and its layers are modules of torch's own kinds.
    images
        Normalised.
    recipes
        Of methods ``vq`` and ``ssvq``, by the layers' names; others stay at 8 bit, as do those that theirs do not fit.
    device, seed
        Where, and of the k-means.
    report
        Told a line about each layer.

    Returns
    -------
    tuple
        The layers, in the network's order; and, by the names of those with a codebook, the floating-point weight that
        its codes were found for, ``[K, C, R, S]``: the original's, but for what made up for others' errors.
    """
    generator = torch.Generator(device).manual_seed(seed)
    original = fx.symbolic_trace(copy.deepcopy(model).to(device))
    graph = fx.symbolic_trace(model.to(device))
    sources = {source.name: source for source in module_sources(model)}
    layers: dict[str, CompressedLayer] = {}
    latents: dict[str, Tensor] = {}
    values: dict[str, list[tuple[Tensor, Tensor]]] = {}
    modules, originals = dict(graph.named_modules()), dict(original.named_modules())
    nodes = list(graph.graph.nodes)
    last = {source: node for node in nodes for source in node.all_input_nodes}
    for node in nodes:
        if node.op == "placeholder":
            values[node.name] = [(part.to(device),) * 2 for part in _batches(images)]
            continue
        if node.op == "output":
            break
        target = str(node.target)
        if node.op == "call_module" and target in sources:
            inputs = values[node.all_input_nodes[0].name]
            layers[target], latent = _layer(
                modules[target],
                originals[target],
                sources[target],
                recipes.get(target, Recipe("int8")),
                inputs,
                _norm(node, modules),
                generator,
            )
            if latent is not None:
                latents[target] = latent.reshape(sources[target].shape)
            report(f"{target} {layers[target].method}")
        own = [
            tuple(_run(part, node, values, number, side) for side, part in enumerate((original, graph)))
            for number in range(len(next(iter(values.values()))))
        ]
        if isinstance(modules.get(target), nn.BatchNorm2d):
            _refit(modules[target], [(after[0], values[node.args[0].name][i][1]) for i, after in enumerate(own)])
            own = [(after, modules[target](values[node.args[0].name][i][1])) for i, (after, _) in enumerate(own)]
        values[node.name] = own  # type: ignore[assignment]
        for source in node.all_input_nodes:
            if last[source] is node:
                del values[source.name]
    return [layers[name] for name in sources], latents


def _run(graph: fx.GraphModule, node: fx.Node, values: dict[str, Any], number: int, side: int) -> Any:
    """The result of a node for one batch, of the original or the compressed network."""
    args, kwargs = (fx.node.map_arg(part, lambda n: values[n.name][number][side]) for part in (node.args, node.kwargs))
    if node.op == "call_module":
        result = graph.get_submodule(str(node.target))(*args, **kwargs)
    elif node.op == "call_function":
        result = node.target(*args, **kwargs)  # type: ignore[operator]
    else:
        result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return result


def norms_of(graph: fx.GraphModule) -> dict[str, nn.BatchNorm2d | None]:
    """The batch norm right behind each module, by the module's name."""
    modules = dict(graph.named_modules())
    return {str(node.target): _norm(node, modules) for node in graph.graph.nodes if node.op == "call_module"}


def _norm(node: fx.Node, modules: dict[str, nn.Module]) -> nn.BatchNorm2d | None:
    users = [modules.get(str(user.target)) for user in node.users if user.op == "call_module"]
    found = users[0] if len(node.users) == 1 and users else None
    return found if isinstance(found, nn.BatchNorm2d) else None


def _layer(
    module: nn.Module,
    original: nn.Module,
    source: LayerSource,
    recipe: Recipe,
    inputs: Sequence[tuple[Tensor, Tensor]],
    norm: nn.BatchNorm2d | None,
    generator: torch.Generator,
) -> tuple[CompressedLayer, Tensor | None]:
    assert isinstance(module, nn.Conv2d | nn.Linear)
    if recipe.method == "int8" or source.groups > 1 or misfit(source, recipe) is not None:
        return compress_layer(source, Recipe("int8")), None
    weight = original.weight.detach().flatten(1).float()  # type: ignore[union-attr,operator]
    n = weight.shape[1]
    hessian = torch.zeros(n, n, device=weight.device)
    moved, samples = torch.zeros_like(hessian), 0
    for wanted, given in inputs:
        before, now = columns(module, wanted), columns(module, given)
        hessian += now.T @ now
        moved += (before - now).T @ now
        samples += len(now)
    hessian = regularised(hessian, samples)
    # What the inputs lack already, the weights give back: the weight whose outputs are nearest to the original's.
    weight = weight + torch.linalg.solve(hessian, (moved / samples).T @ weight.T).T
    # The batch norm can take any factor of a channel: rows of equal energy have the smallest error.
    weight, gains = levelled(weight, norm)
    layer, latent = quantised(source, recipe, weight, hessian, gains, generator)
    decoded = torch.from_numpy(layer.float_weights().astype(np.float32)).to(weight.device)
    module.weight.data.copy_(decoded.reshape(module.weight.shape))
    if norm is None and module.bias is not None:
        # Without a batch norm, the bias takes the mean error.
        with torch.no_grad():
            error = torch.stack([(original(wanted) - module(given)).flatten(0, -2).mean(0) for wanted, given in inputs])
        module.bias.data += error.mean(0)
    return layer, latent


def _refit(norm: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """A batch norm whose results are nearest to the wanted ones: a factor and an offset for each channel."""
    assert isinstance(norm, nn.BatchNorm2d)
    sums = torch.zeros(5, norm.num_features, dtype=torch.float64, device=norm.weight.device)
    for wanted, given in pairs:
        t, u = (_thinned(part).transpose(0, 1).flatten(1) for part in (wanted, given))
        sums += torch.stack([torch.full_like(u[:, 0], u.shape[1]), u.sum(1), t.sum(1), (u * u).sum(1), (u * t).sum(1)])
    count, u, t, uu, ut = sums
    mean, wanted_mean = u / count, t / count
    variance = (uu / count - mean**2).clamp_min(1e-12)
    slope = (ut / count - mean * wanted_mean) / variance
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.data.copy_(slope * (variance + norm.eps).sqrt())
    norm.bias.data.copy_(wanted_mean)
