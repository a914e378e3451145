"""One fine-tuning: compress a network by one case, train it in that form, measure it from the container's integers."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.models import build
from sw.compress.methods import MASKED, SIGN_SPLIT, LayerSource, Recipe, compress_layer, kept_weights
from sw.compress.network import module_sources
from sw.compress.ratio import ideal_ratio, layer_bits, storage_bits, sum_bits
from sw.compress.training.data import ImageData
from sw.compress.training.freezing import Freezing, SignFreezer
from sw.compress.training.graph import calibrate, quantise_activations, quantise_inputs, recalibrate_batch_norm
from sw.compress.training.integer import export_integers, read_network, write_network
from sw.compress.training.loop import TrainConfig, accuracy, fit, images_of
from sw.compress.training.modules import (
    CodebookDecoder,
    UniformDecoder,
    compressed_layers,
    load_layers,
    replace_layer,
)
from sw.compress.training.permutation import permute_network
from sw.format.container import read_container, write_container
from sw.format.layer import CompressedLayer

#: Images that set the scales of activations, and those that recalibrate batch norm.
CALIBRATION, RECALIBRATION = 500, 5000

#: Test images whose logits sw.golden computes too, to be compared with the faster integers.
GOLDEN = 8


@dataclass(frozen=True)
class Case:
    """What is done to a network's layers before fine-tuning.

    Parameters
    ----------
    name
        In the tables.
    recipe
        Method, k, d, N:M; ``k = 0``: for each layer the most codewords that ``bits`` allows.
    sparse
        Start from the network that was trained N:M sparse.
    masks
        ``vq`` with the masks of the weights: common k-means, sparse reconstruction (MVQ table 3, case C).
    permute
        Reorder channels before clustering (PQF).
    bits
        Bits a weight with codebook, of each layer, for ``k = 0``.
    uniform
        Instead of a recipe: uniform weights of that many bits (LSQ).
    learn_signs, freezing
        Of sign-split methods.
    training
        Fields of the :class:`~sw.compress.training.loop.TrainConfig` that differ from the study's.
    """

    name: str
    recipe: Recipe = dataclasses.field(default_factory=lambda: Recipe("int8"))
    sparse: bool = False
    masks: bool = False
    permute: bool = False
    bits: float | None = None
    uniform: int = 0
    learn_signs: bool = True
    freezing: Freezing | None = None
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def most_codewords(source: LayerSource, recipe: Recipe, bits: float, masked: bool) -> int:
    """The largest k, a power of 2 or 1.5 times one, with which a layer takes at most ``bits`` a weight; 0 for none."""
    weights = source.weight.size
    signed = recipe.method in SIGN_SPLIT
    candidates = sorted({2**i for i in range(1, 14)} | {3 * 2**i for i in range(1, 13)})
    fitting = [
        k
        for k in candidates
        if k <= weights // recipe.d
        and storage_bits(weights, d=recipe.d, k=k, n=recipe.n, m=recipe.m, masked=masked, signed=signed).per_weight
        <= bits
    ]
    return max(fitting, default=0)


def compress(source: LayerSource, case: Case, seed: int) -> CompressedLayer:
    """One layer by a case; at 8 bit where the case does not fit."""
    masked = case.masks or case.recipe.method in MASKED
    recipe = dataclasses.replace(case.recipe, seed=seed)
    if case.bits is not None:
        k = most_codewords(source, recipe, case.bits, masked)
        recipe = dataclasses.replace(recipe, k=k) if k else Recipe("int8")
    layer = compress_layer(source, recipe, threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    if case.masks and layer.method == "vq":
        kept = kept_weights(source.weight, recipe.n, recipe.m)
        assert kept is not None
        K, C, R, S = source.shape
        masks = kept.reshape(K // layer.d, layer.d, C, R, S).transpose(0, 2, 3, 4, 1).reshape(-1, layer.d)
        layer = dataclasses.replace(layer, method="mvq", n=recipe.n, m=recipe.m, masks=np.ascontiguousarray(masks))
    return layer


def run(
    network: str,
    weights: Path,
    case: Case,
    config: TrainConfig,
    data: tuple[ImageData, ImageData],
    *,
    device: str,
    capture: bool = True,
    keep_8bit: tuple[str, ...] = ("conv1", "patches", "features.0", "linear"),
    container: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Compress, fine-tune and measure. The seed of ``config`` is the clustering's too.

    ``container``: keep the network's file there.

    Returns
    -------
    dict
        Accuracies in per cent, ratios, and squared errors of the clustering, for JSON.
    """
    times = {"start": time.perf_counter()}
    torch.set_num_threads(config.threads)
    train, test = data
    model = build(network, weights)
    unquantised = accuracy(model.to(device), test, device=device)
    model.cpu()
    if case.permute:
        permute_network(model, case.recipe.d, seed=config.seed)
    integer = network != "vit"
    errors = np.zeros(2)
    for source in module_sources(model):
        stays = source.name in keep_8bit
        weight = torch.from_numpy(source.weight)
        if case.uniform and not stays:
            replace_layer(model, source, UniformDecoder(weight, case.uniform))
            continue
        layer = compress(source, Case("int8") if stays else case, config.seed)
        if layer.method == "int8":
            replace_layer(model, source, UniformDecoder(weight, per_channel=source.kind == "conv"))
            continue
        squares = (layer.float_weights() - source.weight.astype(np.float64)) ** 2
        kept = kept_weights(source.weight, 4, 16)
        errors += squares.sum(), 0.0 if kept is None else squares[kept].sum()
        replace_layer(model, source, CodebookDecoder(layer, weight, learn_signs=case.learn_signs))
    times["clustering"] = time.perf_counter()
    graph: nn.Module = quantise_activations(model) if integer else quantise_inputs(model)
    graph.to(device)
    if device.startswith("cuda"):
        graph.to(memory_format=torch.channels_last)
    calibrate(graph, next(images_of(train, device, batch=CALIBRATION))[0])

    def recalibrate() -> None:
        recalibrate_batch_norm(graph, (images for images, _ in images_of(train, device, limit=RECALIBRATION)))

    recalibrate()
    before = accuracy(graph, test, device=device)
    times["calibration"] = time.perf_counter()
    freezer = SignFreezer(graph, case.freezing, config.steps(len(train))) if case.freezing else None
    losses = fit(
        graph,
        train,
        config,
        device=device,
        after_step=[freezer.step] if freezer else [],
        capture=capture,
        progress=progress,
    )
    times["training"] = time.perf_counter()
    recalibrate()
    layers = compressed_layers(graph)
    coded = [layer for layer in layers if layer.method != "int8"]
    if case.uniform:
        ratios: dict[str, float] = {"ratio_ideal": 32 / case.uniform}
    else:
        bits = sum_bits(layer_bits(layer) for layer in coded or layers)
        ratios = {"ratio_ideal": ideal_ratio(bits), "bits_per_weight": bits.per_weight}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network")
        if coded:
            write_container(path, coded)
            ratios["ratio_file"] = 4 * sum_bits(map(layer_bits, coded)).weight_count / path.stat().st_size
        result: dict[str, Any] = {"accuracy_training_form": accuracy(graph, test, device=device)}
        if integer:
            write_network(path, export_integers(graph, (3, test.size, test.size)))
            exported = read_network(path)
            result["accuracy"] = accuracy(
                lambda images: exported.run(exported.quantise(images), golden=False), test, device=device
            )
            images = exported.quantise(next(images_of(test, device, batch=GOLDEN))[0])
            same = torch.equal(exported.run(images).cpu(), exported.run(images, golden=False).cpu())
            result["golden_logits_equal"] = same
        else:
            write_container(path, layers)
            again = quantise_inputs(_from_container(network, weights, read_container(path).layers))
            again.load_state_dict({k: v for k, v in graph.state_dict().items() if ".decoder." not in k}, strict=False)
            result["accuracy"] = accuracy(again.to(device), test, device=device)
        result["file_bytes"] = path.stat().st_size
        if container is not None:
            container.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, container)
    times["measuring"] = time.perf_counter()
    stages = {name: end - begin for (_, begin), (name, end) in itertools.pairwise(times.items())}
    weights_all = sum(int(np.prod(layer.shape)) for layer in layers)
    return {
        "case": case.name,
        "network": network,
        "seed": config.seed,
        **result,
        "accuracy_float": unquantised,
        "accuracy_before": before,
        **ratios,
        "ratio_whole_file": 4 * weights_all / result["file_bytes"],
        "sse": float(errors[0]),
        "kept_sse": float(errors[1]),
        "coded_layers": len(coded),
        "int8_layers": len(layers) - len(coded),
        "frozen_signs": freezer.frozen_share() if freezer else None,
        "losses": losses,
        "seconds": sum(stages.values()),
        "stages": stages,
    }


def _from_container(network: str, weights: Path, layers: list[CompressedLayer]) -> nn.Module:
    model = build(network, weights)
    load_layers(model, layers)
    return model


__all__ = ["Case", "compress", "most_codewords", "run"]
