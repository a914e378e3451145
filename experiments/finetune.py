"""One fine-tuning: compress a network by one case, train it in that form, measure it from the container's integers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.case import Case
from experiments.models import VisionTransformer, build
from sw.compress.grouping import group
from sw.compress.methods import LayerSource, Recipe, compress_layers, kept_weights, misfit, recipe_bits
from sw.compress.network import module_sources
from sw.compress.pruning import nm_mask
from sw.compress.ratio import ideal_ratio, layer_bits, sum_bits
from sw.compress.search import REFERENCE, SLACK, loss_sensitivity, search
from sw.compress.training.comparison import compare_file
from sw.compress.training.data import ImageData
from sw.compress.training.finetune import GOLDEN, about, file_metadata, measure_integers, to_integers
from sw.compress.training.freezing import SignFreezer
from sw.compress.training.graph import calibrate, quantise_activations, quantise_inputs, recalibrate_batch_norm
from sw.compress.training.integer import read_network, write_network
from sw.compress.training.loop import TrainConfig, accuracy, check_network, fit, images_of, training_images
from sw.compress.training.modules import (
    CodebookDecoder,
    SignBits,
    compressed_layers,
    convert,
    replace_layer,
)
from sw.compress.training.permutation import permute_network
from sw.format.container import write_container
from sw.format.layer import CompressedLayer

#: Images that set the scales of activations, and those that recalibrate batch norm.
CALIBRATION, RECALIBRATION = 500, 5000


#: Layers that stay at 8 bit: the first and the last.
KEPT_8BIT = ("conv1", "patches", "features.0", "linear")


def most_codewords(weights: int, recipe: Recipe, bits: float, masked: bool) -> int:
    """The largest k, a power of 2 or 1.5 times one, with which so many weights take at most ``bits`` each; 0: none."""
    candidates = sorted({2**i for i in range(1, 14)} | {3 * 2**i for i in range(1, 13)})
    fitting = [
        k
        for k in candidates
        if k <= weights // recipe.d
        and recipe_bits(weights, dataclasses.replace(recipe, k=k), masked=masked).per_weight <= bits
    ]
    return max(fitting, default=0)


@functools.lru_cache(maxsize=256)
def _fixed_and_word(weights: int, recipe: Recipe, masked: bool) -> tuple[int, int]:
    """Bits of a layer with one codeword, and of one more without its indices: asked for again for each room tried."""
    one, two = (recipe_bits(weights, dataclasses.replace(recipe, k=k), masked=masked).total for k in (1, 2))
    return one, two - one - weights // recipe.d


def _fit(weights: int, recipe: Recipe, room: float, masked: bool) -> tuple[int, int]:
    """The most codewords, any number, with which a layer takes at most ``room`` bits; and what it takes."""
    subvectors = weights // recipe.d
    one, word = _fixed_and_word(weights, recipe, masked)
    for width in range(min(16, subvectors.bit_length() - 1), -1, -1):
        fixed = one - word + width * subvectors
        k = min(2**width, int((room - fixed) // word))
        if k > 2 ** (width - 1) or (k >= 1 and width == 0):
            return k, recipe_bits(weights, dataclasses.replace(recipe, k=k), masked=masked).total
    return 0, 0


def filling_codewords(weights: Sequence[int], recipe: Recipe, bits: float, masked: bool) -> list[int]:
    """Codewords of layers of so many weights that together take at most ``bits`` a weight, and nearly those.

    All layers get the same bits a weight at first, as many as go; what is left, the largest ones. Any number is tried,
    also such as 1,152: its index takes a bit more than that of 1,024, its codebook one eighth more.

    Parameters
    ----------
    weights
        Of each layer.
    recipe
        Its method, d and N:M.
    bits
        Bits a weight, codebooks included.
    masked
        There are masks.

    Returns
    -------
    list
        Of each layer; 0: it cannot take part.
    """
    total = bits * sum(weights)
    low, high = 0.0, 2 * bits
    for _ in range(40):
        middle = (low + high) / 2
        taken = sum(_fit(count, recipe, middle * count, masked)[1] for count in weights)
        low, high = (middle, high) if taken <= total else (low, middle)
    found = [_fit(count, recipe, low * count, masked) for count in weights]
    left = total - sum(taken for _, taken in found)
    for number in sorted(range(len(weights)), key=lambda i: -weights[i]):
        k, taken = _fit(weights[number], recipe, found[number][1] + left, masked)
        left -= taken - found[number][1]
        found[number] = k, taken
    return [k for k, _ in found]


def rules_for(sources: Sequence[LayerSource], case: Case, seed: int) -> list[tuple[str, Recipe]]:
    """A recipe for each layer by a case, but for ``file_bytes``; none for layers that stay at 8 bit."""
    masked = case.masks or case.recipe.masked
    recipe = dataclasses.replace(case.recipe, seed=seed)
    coded = [source for source in sources if source.name not in KEPT_8BIT]
    if case.mean_bits is not None:
        why = [misfit(source, dataclasses.replace(recipe, k=1)) for source in coded]
        # Depthwise layers are nobody's; what d does not divide takes 8 bit out of the same sum.
        total = case.mean_bits * sum(s.weight.size for s, fault in zip(coded, why, strict=True) if fault != "depthwise")
        total -= 8 * sum(s.weight.size for s, fault in zip(coded, why, strict=True) if fault not in (None, "depthwise"))
        coded = [source for source, fault in zip(coded, why, strict=True) if fault is None]
        sizes = [source.weight.size for source in coded]
        if recipe.scope == "crosslayer":
            sizes = [sum(sizes)]
        filled = filling_codewords(sizes, recipe, total / sum(sizes), masked) * (len(coded) // len(sizes))
        return [(source.name, dataclasses.replace(recipe, k=k)) for source, k in zip(coded, filled, strict=True) if k]
    if case.bits is None:
        return [(source.name, recipe) for source in coded]
    shared = 0
    if recipe.scope == "crosslayer":
        # With one codeword, what a layer cannot take at all does not fit.
        coded = [source for source in coded if misfit(source, dataclasses.replace(recipe, k=1)) is None]
        shared = sum(source.weight.size for source in coded)
    found = [(source.name, most_codewords(shared or source.weight.size, recipe, case.bits, masked)) for source in coded]
    return [(name, dataclasses.replace(recipe, k=k)) for name, k in found if k]


def _mask(model: nn.Module, sources: Sequence[LayerSource], layers: Sequence[CompressedLayer], recipe: Recipe) -> None:
    """Give layers of method ``vq`` the masks of the weights that N:M pruning keeps."""
    for source, layer in zip(sources, layers, strict=True):
        if layer.method == "vq":
            masks = nm_mask(group(source.weight, recipe.m), recipe.n, recipe.m)
            layer = dataclasses.replace(layer, method="mvq", n=recipe.n, m=recipe.m, masks=masks)
            replace_layer(model, source, CodebookDecoder(layer))


def compress(
    model: nn.Module,
    case: Case,
    seed: int,
    images: torch.Tensor,
    device: str,
    progress: bool = True,
    recipes: Mapping[str, Recipe] | None = None,
) -> list[CompressedLayer]:
    """Convert a network by a case, in place.

    ``images`` tell the search what each layer matters; ``recipes`` are those of the layers of a case that is measured.
    """
    if case.permute:
        permute_network(model, case.recipe.d, images=images.cpu(), seed=seed)
    sources = module_sources(model)
    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    if case.file_bytes:
        middle = [Recipe("int8") if source.name in KEPT_8BIT else REFERENCE for source in sources]
        model.to(device)
        sensitivity = loss_sensitivity(model, compress_layers(sources, middle), images, progress=progress)
        model.cpu()
        rules = search(
            sources,
            case.file_bytes - SLACK,
            candidates=[dataclasses.replace(recipe, seed=seed) for recipe in case.candidates],
            sensitivity=sensitivity,
            keep=KEPT_8BIT,
            requantised=True,
            metadata=file_metadata(model, images.cpu())[0],
            threads=threads,
            device=device,
            progress=progress,
        ).rules
    elif recipes is not None:
        rules = [(name, dataclasses.replace(recipe, seed=seed)) for name, recipe in recipes.items()]
    else:
        rules = rules_for(sources, case, seed)
    layers = convert(
        model,
        rules,
        alpha=case.alpha,
        learn_signs=case.learn_signs,
        moving=case.moving,
        threads=threads,
        device=device,
        progress=progress,
    )
    if case.masks:
        _mask(model, sources, layers, case.recipe)
        layers = compressed_layers(model)
    return layers


def _squared_errors(model: nn.Module, layers: list[CompressedLayer]) -> NDArray[np.float64]:
    """Of the layers that are not kept at 8 bits: of all their weights, and of those that a mask of 4:16 keeps."""
    errors = np.zeros(2)
    for source, layer in zip(module_sources(model), layers, strict=True):
        if source.name in KEPT_8BIT:
            continue
        squares = (layer.float_weights() - source.weight.astype(np.float64)) ** 2
        kept = kept_weights(source.weight, 4, 16)
        errors += squares.sum(), 0.0 if kept is None else squares[kept].sum()
    return errors


def _file(
    path: Path,
    graph: nn.Module,
    integer: bool,
    sample: Tensor,
    metadata: dict[str, Any],
    test: ImageData | None,
    device: str,
    golden: int,
) -> dict[str, Any]:
    """Write the network, refuse a file that is not it, and measure its integers where there are test images."""
    write_network(path, to_integers(graph, None if integer else "", sample), metadata=metadata)
    compare_file(path, graph, sample, program=False)
    result: dict[str, Any] = {"file_bytes": path.stat().st_size}
    if test is not None:
        measured = measure_integers(read_network(path), test, device, golden=golden)
        result["accuracy"] = measured["accuracy_integers"]
        result["golden_logits_equal"] = measured["golden_logits_equal"]
    return result


def _quantised(model: nn.Module, integer: bool, sample: torch.Tensor, device: str) -> nn.Module:
    """With quantised activations, or inputs of layers, on the device, with ranges of the sample."""
    graph: nn.Module = quantise_activations(model, sample.cpu()) if integer else quantise_inputs(model)
    graph.to(device)
    if device.startswith("cuda"):
        graph.to(memory_format=torch.channels_last)
    calibrate(graph, sample)
    return graph


def _freezer(graph: nn.Module, case: Case, steps: int) -> SignFreezer | None:
    """What freezes signs by a case, if there are any to freeze."""
    signed = any(isinstance(module, SignBits) for module in graph.modules())
    return SignFreezer(graph, case.freezing, steps) if case.freezing and signed else None


def run(
    network: str,
    weights: Path,
    case: Case,
    config: TrainConfig,
    data: tuple[ImageData, ImageData],
    *,
    device: str,
    teacher: Path | None = None,
    recipes: Mapping[str, Recipe] | None = None,
    capture: bool = True,
    container: Path | None = None,
    golden: int = GOLDEN,
    integers: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Compress, fine-tune and measure. The seed of ``config`` is the clustering's too.

    Parameters
    ----------
    network, weights
        Of :data:`experiments.models.MODELS`, and the floats that it starts from.
    case, config
        What is done to it.
    data
        Images that it is trained with, and those that it is scored on.
    device, capture
        As in :func:`sw.compress.training.loop.fit`.
    teacher
        The floats of the dense network, for cases that learn from it.
    recipes
        Of the layers of a case that is measured.
    container
        Keep the network's file there.
    golden
        Images whose logits :mod:`sw.golden` computes too; 0 for none.
    integers
        Measure the container's integers. Otherwise the network as it was trained, which is much faster: for runs that
        try settings.
    progress
        Show bars on standard error.

    Returns
    -------
    dict
        Accuracies in per cent, ratios, and squared errors of the clustering, for JSON.
    """
    times = {"start": time.perf_counter()}
    torch.set_num_threads(config.threads)
    train, test = data
    model = build(network, weights)
    check_network(model.to(device), data, device)
    unquantised = accuracy(model, test, device=device)
    sample = next(images_of(train, device, batch=CALIBRATION))[0]
    layers = compress(model.cpu(), case, config.seed, sample, device, progress, recipes)
    original = build(network, weights)
    if case.permute:
        permute_network(original, case.recipe.d, images=sample.cpu(), seed=config.seed)
    errors = _squared_errors(original, layers)
    times["clustering"] = time.perf_counter()
    integer = not isinstance(model, VisionTransformer)
    graph = _quantised(model, integer, sample, device)

    def recalibrate() -> None:
        recalibrate_batch_norm(graph, training_images(train, config, device, limit=RECALIBRATION))

    recalibrate()
    before = accuracy(graph, test, device=device)
    times["calibration"] = time.perf_counter()
    freezer = _freezer(graph, case, config.steps(len(train)))
    losses = fit(
        graph,
        train,
        config,
        device=device,
        teacher=build(network, teacher).to(device).eval() if case.distil else None,
        after_step=[freezer.step] if freezer else [],
        capture=capture,
        progress=progress,
    )
    times["training"] = time.perf_counter()
    recalibrate()
    layers = compressed_layers(graph)
    depthwise = {layer.name for layer in layers if layer.groups > 1 and layer.shape[1] == 1}
    coded = [layer for layer in layers if layer.name not in {*KEPT_8BIT, *depthwise}]
    bits = sum_bits(map(layer_bits, coded))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network")
        write_container(path, coded)
        ratio_file = 4 * bits.weight_count / path.stat().st_size
        trained = accuracy(graph, test, device=device)
        result: dict[str, Any] = {"accuracy": trained, "accuracy_training_form": trained, "integers": integers}
        result |= _file(path, graph, integer, sample, about(train), test if integers else None, device, golden)
        if container is not None:
            container.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, container)
    times["measuring"] = time.perf_counter()
    stages = {name: end - begin for (_, begin), (name, end) in itertools.pairwise(times.items())}
    return {
        "case": case.name,
        "network": network,
        "seed": config.seed,
        "mean_bits": case.mean_bits,
        **result,
        "accuracy_float": unquantised,
        "accuracy_before": before,
        "ratio_ideal": ideal_ratio(bits),
        "bits_per_weight": bits.per_weight,
        "ratio_file": ratio_file,
        "ratio_whole_file": 4 * sum(int(np.prod(layer.shape)) for layer in layers) / result["file_bytes"],
        "sse": float(errors[0]),
        "kept_sse": float(errors[1]),
        "layers": dict(Counter(f"{layer.method} {layer.n}:{layer.m} k={layer.k} d={layer.d}" for layer in coded)),
        "coded_layers": len(coded),
        "int8_layers": len(layers) - len(coded),
        "frozen_signs": freezer.frozen_share() if freezer else None,
        "losses": losses,
        "seconds": sum(stages.values()),
        "stages": stages,
    }


__all__ = ["Case", "compress", "filling_codewords", "most_codewords", "rules_for", "run"]
