"""Real layers for the simulation: trained weights, compressed as an instance decodes them, and real activations."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Resampling

from hw.config import AcceleratorConfig
from sim.networks.activations import layer_inputs, load_photograph, quantise_activations
from sw.compiler.compile import fold_inputs
from sw.compiler.graph import Convolution
from sw.compress.methods import Recipe, compress_layers
from sw.compress.network import module_sources
from sw.compress.sources import load_model
from sw.compress.training.integer import IntegerNetwork, read_network
from sw.compress.training.loop import normalise
from sw.format import CompressedLayer
from sw.format.picture import middle_square, read_picture
from sw.network.spatial import Layer, Logits
from sw.perf.shapes import Shapes
from sw.schedule.choice import raw_passes

__all__ = ["NETWORKS", "SHAPES", "RealLayer", "SourceError", "check_network", "first_layer", "real_layers"]

#: The network whose energy is put together, by shapes.
SHAPES = Path(__file__).parents[2] / "sim" / "networks" / "shapes" / "resnet18.json"

#: Standard deviation of the seeded weights of :func:`first_layer`, and their seed.
_DEVIATION, _SEED = 32.0, 0

#: Where trained containers are.
CONTAINERS = Path(__file__).parents[2] / "experiments" / "containers"

#: Layers of EfficientNet-Lite0: expansions, whose inputs have signs, projections behind a ReLU6, and the last one.
LAYERS = ("_blocks.8._expand_conv", "_blocks.11._project_conv", "_blocks.14._expand_conv", "_conv_head")


class SourceError(ValueError):
    """A network that has no layer for an instance. The message says which."""


@dataclass(frozen=True)
class RealLayer:
    """A layer and its input, int8 ``[C, rows, columns]``."""

    layer: CompressedLayer
    activations: NDArray[np.int8]


def _method(config: AcceleratorConfig) -> str:
    features = config.features
    if not features.codebook:
        return "int8"
    return {(False, False): "vq", (True, False): "mvq", (False, True): "ssvq", (True, True): "msvq"}[
        features.mask, features.sign
    ]


def _narrow(layer: CompressedLayer, bits: int) -> CompressedLayer:
    """Raw weights of so many bits: rounded on a coarser scale. Codewords are as wide as their recipe says."""
    if layer.weights is None or bits == 8:
        return layer
    most = (1 << (bits - 1)) - 1
    rounded = np.rint(layer.weights.astype(np.float64) * most / 127)
    weights = np.clip(rounded, -most, most).astype(np.int8)
    return replace(layer, scale=layer.scale * np.float32(127 / most), weights=weights, weight_bits=bits)


def _efficientnet(config: AcceleratorConfig, photograph: Path) -> tuple[list[RealLayer], str]:
    network = load_model("efficientnet-lite0")
    inputs, _ = layer_inputs(network, load_photograph(photograph), LAYERS)
    sources = {source.name: source for source in module_sources(network)}
    method = _method(config)
    if method == "int8":
        recipe = Recipe("int8")
    else:
        n, m = (config.N, config.M) if config.features.mask else (0, 0)
        recipe = Recipe(method, config.k, config.d, n, m, iterations=10, codeword_bits=config.weight_bits)
    layers = compress_layers([sources[name] for name in LAYERS], [recipe] * len(LAYERS))
    found = [
        RealLayer(_narrow(layer, config.weight_bits), quantise_activations(inputs[layer.name])[0]) for layer in layers
    ]
    return found, f"efficientnet-lite0, weights of its package, {method}"


def _input_of(network: IntegerNetwork, name: str, images: torch.Tensor) -> NDArray[np.int8]:
    (source,) = next(x.inputs for x in network.operations if isinstance(x, Layer | Logits) and x.layer == name)
    before = IntegerNetwork(network.layers, network.operations[: source + 1], network.input_scale)
    return before.run(images, golden=False)[0].numpy()


def _fits(config: AcceleratorConfig, layer: CompressedLayer, method: str) -> bool:
    masks = not config.features.mask or (layer.n, layer.m) == (config.N, config.M)
    narrow = layer.codeword_bits <= config.weight_bits
    return (
        layer.method == method
        and layer.d == config.d
        and masks
        and narrow
        and (layer.k - 1).bit_length() == config.index_bits
    )


@functools.cache
def _read(path: Path) -> IntegerNetwork:
    """A container, which several instances take layers of: decoding and checking it takes longer than choosing them."""
    return read_network(path)


def _trained(prefix: str, config: AcceleratorConfig) -> tuple[Path, IntegerNetwork, list[str]]:
    """The container of a network for an instance, and which of its layers the instance decodes."""
    method = _method(config)
    paths = {path.name.split("-")[1]: path for path in sorted(CONTAINERS.glob(f"{prefix}-*.msvq"))}
    # Dense weights where there are any: an array of raw weights need not have zeros.
    wanted = [method] if method != "int8" else ["vq", "ssvq", "mvq", "msvq"]
    path = next((paths[each] for each in wanted if each in paths), None)
    if path is None:
        raise SourceError(f"{prefix} has no container of method {method}; there are {', '.join(paths) or 'none'}")
    network = _read(path)
    names = [name for name in _TRAINED[prefix] if method == "int8" or _fits(config, network.layers[name], method)]
    if not names:
        masks = f" and masks of {config.N}:{config.M}" if config.features.mask else ""
        raise SourceError(f"{path.name} has no layer with a codebook of {config.k} x {config.d}{masks}")
    return path, network, names


def _container(prefix: str) -> Callable[[AcceleratorConfig, Path], tuple[list[RealLayer], str]]:
    def make(config: AcceleratorConfig, photograph: Path) -> tuple[list[RealLayer], str]:
        path, network, names = _trained(prefix, config)
        square = middle_square(read_picture(photograph, "RGB"))
        pixels = np.asarray(square.resize((32, 32), Resampling.BICUBIC))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        images = network.quantise(normalise(image))
        found = [
            RealLayer(_narrow(network.layers[name], config.weight_bits), _input_of(network, name, images))
            for name in names
        ]
        return found, f"{path.name}, trained on CIFAR-10"

    return make


#: Layers of the networks of which there are trained containers.
_TRAINED = {
    "resnet18": ("layer1.1.conv1", "layer2.1.conv1", "layer3.1.conv1", "layer4.1.conv1"),
    "resnet20": ("layer1.1.conv1", "layer2.1.conv1", "layer3.1.conv1", "layer3.2.conv2"),
}

#: Networks by name.
NETWORKS: Mapping[str, Callable[[AcceleratorConfig, Path], tuple[list[RealLayer], str]]] = {
    "efficientnet-lite0": _efficientnet,
    **{name: _container(name) for name in _TRAINED},
}


def check_network(network: str, config: AcceleratorConfig) -> None:
    """Check that a network of which there are trained containers has a layer for an instance, in little time.

    Raises
    ------
    SourceError
        It has none (:func:`real_layers`).
    """
    if network in _TRAINED:
        _trained(network, config)


def first_layer(config: AcceleratorConfig, photograph: Path) -> RealLayer:
    """The first layer of ResNet-18 as an instance runs it: 8-bit weights without a codebook, and the image folded.

    It uses a part of the array's rows, and on sparse tiles takes M/N passes. There are no trained weights of it here:
    they are drawn from a normal distribution. An array of narrower weights gets them rounded to its own, as wide as a
    digit; one whose registers do not hold all passes gets the first pass alone, the others being like it.

    Parameters
    ----------
    photograph
        The image: its middle square, 224 x 224.

    Raises
    ------
    sw.compiler.graph.CompileError
        The layer does not fit the instance.
    OSError
        The photograph cannot be read.
    """
    plain = Shapes(json.loads(SHAPES.read_text())).network(config).graph
    graph = replace(plain, values=list(plain.values), operations=list(plain.operations))
    folds = fold_inputs(config, graph)
    before, operation = plain.operations[0], graph.operations[0]
    assert isinstance(before, Convolution)
    assert isinstance(operation, Convolution)
    assert before.layer is not None
    drawn = np.random.default_rng(_SEED).normal(0, _DEVIATION, before.layer.shape)
    weights = np.clip(np.rint(drawn), -127, 127).astype(np.int8)
    image = quantise_activations(load_photograph(photograph)[0].numpy())[0]
    fold = folds.get(operation.source)
    if fold is not None:
        weights, image = fold.weights(weights), fold.image(image)
    layer = CompressedLayer(
        name=before.name,
        kind="conv",
        method="int8",
        shape=weights.shape,
        scale=np.ones(1, np.float32),
        weights=weights,
        stride=operation.stride,
        padding=operation.padding,
        dilation=operation.dilation,
    )
    layer = _narrow(layer, config.weight_bits)
    if raw_passes(config, layer) > min(config.tile_weights, config.arf_depth):
        of_first_pass = np.arange(len(weights)) % config.M < config.N
        assert layer.weights is not None
        layer = replace(layer, weights=layer.weights * of_first_pass[:, None, None, None].astype(np.int8))
    return RealLayer(layer, image)


def real_layers(network: str, config: AcceleratorConfig, photograph: Path) -> tuple[list[RealLayer], str]:
    """Layers of a network for an instance, and where they come from, for reports.

    Parameters
    ----------
    network
        One of :data:`NETWORKS`.
    photograph
        What the network sees.

    Raises
    ------
    SourceError
        The network has no layer that the instance decodes.
    sw.compress.methods.CompressError
        A layer does not fit the recipe of the instance.
    OSError
        The photograph cannot be read.
    """
    # More threads add up in another order, and a rounding may become another int8.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return NETWORKS[network](config, photograph)
    finally:
        torch.set_num_threads(threads)
