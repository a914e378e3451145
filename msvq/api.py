"""The functions of :mod:`msvq`. Each is a few lines: what does the work has a module of its own, named there."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig, ConfigError, preset
from msvq.surroundings import undisturbed
from sw.compress.methods import Recipe
from sw.compress.training.settings import Freezing, TrainConfig
from sw.format.weights import CONV1D, DERIVED, FACTORS, KEYS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hw.generate import Generated
    from sw.compress.network import LayerReport
    from sw.compress.training.batches import Loss, Metric
    from sw.compress.training.data import ImageData
    from sw.compress.training.finetune import Finetuned
    from sw.format import Container
    from sw.format.layer import CompressedLayer
    from sw.network import Network
    from sw.program import Program
    from sw.program.steps import SteppedProgram

#: How layers are compressed: one recipe for all but the first and the last, which stay at 8 bit, or a rule for each.
Rules = Recipe | Sequence[tuple[str, Recipe]]

_DEFAULT = Recipe("msvq", k=32, d=16, n=4, m=16)


@dataclass(frozen=True)
class Compressed:
    """The layers of a network, compressed.

    Attributes
    ----------
    layers
        As a container stores them, with their integers and scales.
    report
        Of each layer: error, bits a weight, and why it stays at 8 bit if it does.
    about
        For the file's metadata: which convolutions have one axis, which weights another key in the network's state dict
        than ``NAME.weight`` or none, if there are.
    """

    layers: list[CompressedLayer]
    report: list[LayerReport]
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a container of layers alone: :func:`sw.format.write_container`, which raises."""
        from sw.format import write_container

        write_container(path, self.layers, metadata=self.about)

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """The decoded weights by their keys in the network's state dict: see :func:`decompress`, which raises."""
        return decompress(self)


@undisturbed
def compress(
    network: nn.Module | Mapping[str, Any],
    recipe: Rules = _DEFAULT,
    *,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Compressed:
    """Compress the weights of a network, without images and without training.

    Parameters
    ----------
    network
        A module, which is not changed, or its state dict. Layers of a module have the names of the network itself,
        without what ``torch.compile`` or ``DataParallel`` put around it; those of a state dict are as its keys say. A
        state dict does not tell embeddings from linear layers: what is called an embedding is named in a warning.
        So are matrices of weights that are no ``Conv2d``, ``Conv1d`` or ``Linear``, which stay as they are.
    recipe
        For all layers, or a rule for each (:func:`sw.compress.methods.recipe_for`).
    threads, device, progress
        As in :func:`sw.compress.network.compress_network`.

    Raises
    ------
    CompressError
        A weight or a recipe cannot be used; or a state dict has what a weight is computed from in its place.
    """
    from sw.compress.methods import check_rules
    from sw.compress.network import (
        about_sources,
        compress_network,
        module_sources,
        state_dict_sources,
        warn_of_others,
    )

    if not isinstance(network, Mapping):
        _check_module(network)
    sources = state_dict_sources(network) if isinstance(network, Mapping) else module_sources(network)
    if not isinstance(recipe, Recipe):
        recipe = _pairs(recipe)
        check_rules(recipe, sources)
    if sources:
        warn_of_others(network, sources)
    layers, report = compress_network(sources, recipe, threads=threads, device=device, progress=progress)
    return Compressed(layers, report, about_sources(sources))


def _copied(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode, without what ``torch.compile`` or ``DataParallel`` put around the network.

    Weights that torch computes anew before every call, as of ``torch.nn.utils.weight_norm`` and ``prune``, lie beside
    the parameters and belong to a graph of gradients, which torch does not copy: their values are.
    """
    from sw.compress.frontend import unwrapped
    from sw.compress.frontend.capture import check_hooks
    from sw.compress.network import copy_network

    _check_module(network)
    check_hooks(network)
    # What comes out has the names of the network itself, so rules must be made of those.
    copied = copy_network(unwrapped(network))
    copied.eval()  # which gives nothing where a network has a train() of its own without return
    return copied


def _check_module(network: object) -> None:
    from torch import nn

    from sw.compress.methods import CompressError

    if not isinstance(network, nn.Module):
        raise CompressError(f"network must be a torch.nn.Module, not {type(network).__name__}")


def _pairs(recipe: Sequence[tuple[str, Recipe]]) -> list[tuple[str, Recipe]]:
    """Rules, if they have the form of rules."""
    from sw.compress.methods import CompressError

    pairs = list(recipe) if isinstance(recipe, Collection) else [recipe]
    kinds = (str, Recipe)
    if not all(
        isinstance(pair, tuple | list) and len(pair) == 2 and all(map(isinstance, pair, kinds)) for pair in pairs
    ):
        raise CompressError(f"recipe must be a Recipe, or pairs of a pattern and a Recipe, not {recipe!r}")
    return pairs


def _rules(network: nn.Module, recipe: Rules) -> Sequence[tuple[str, Recipe]]:
    from sw.compress.network import module_sources
    from sw.compress.training.default_rules import method_rules

    if not isinstance(recipe, Recipe):
        return _pairs(recipe)
    return method_rules(module_sources(network, geometry=False), recipe)


@undisturbed
def calibrate(
    network: nn.Module,
    images: Tensor | ImageData | Iterable[Any],
    recipe: Rules = _DEFAULT,
    *,
    inputs: Callable[[Any], Any] | None = None,
    values: bool = False,
    device: str = "cpu",
    layers_alone: bool = False,
    progress: bool = True,
) -> Finetuned:
    """A batch of images to a whole network in integers, without labels and without training.

    Parameters
    ----------
    network
        A trained module. It is not changed.
    images
        Normalised floats ``[n, C, rows, columns]``, what :func:`load_data` gives, or a loader of batches.
    recipe
        For all layers but the first and a small last one, which stay at 8 bit; or a rule for each layer.
    inputs, values, device, layers_alone, progress
        As in :func:`sw.compress.training.calibration.calibrate_network`.

    Returns
    -------
    Finetuned
        ``write(path)`` writes the container; ``report`` says how near the integers are; ``network`` are the integers.

    Raises
    ------
    CompressError
        The images do not fit the network, or it has no integer form; before anything is clustered.
    """
    from sw.compress.training.calibration import calibrate_network

    # Reading a weight changes some networks in training mode: spectral norm's vectors.
    copied = _copied(network)
    rules = _rules(copied, recipe)
    return calibrate_network(
        copied,
        images,
        rules,
        inputs=inputs,
        values=values,
        device=device,
        layers_alone=layers_alone,
        progress=progress,
    )


@undisturbed
def finetune(
    network: nn.Module,
    train: ImageData | Iterable[Any],
    test: ImageData | Iterable[Any],
    recipe: Rules = _DEFAULT,
    config: TrainConfig | None = None,
    *,
    loss: Loss | None = None,
    inputs: Callable[[Any], Any] | None = None,
    metric: Metric | None = None,
    freezing: Freezing | None = None,
    device: str = "cpu",
    work: str | os.PathLike[str] | None = None,
    layers_alone: bool = False,
    progress: bool = True,
) -> Finetuned:
    """Compress a network, train it in that form, and turn it into integers.

    Parameters
    ----------
    network, recipe
        As in :func:`calibrate`. The network is not changed.
    train, test
        To train on, and to measure: images (:func:`load_data`), or loaders of batches such as a ``DataLoader``.
    config
        Of the training; by default 10 epochs and batches of at most 128, or the loader's.
    loss, inputs, metric
        Your own: ``loss(output, target)``, ``inputs(batch)``, ``metric(output, target)``; see the how-to page "A loss
        of your own" and :func:`sw.compress.training.finetune.finetune`.
    freezing
        Of signs that oscillate; by default as SSVQ has it.
    device, work, layers_alone, progress
        As in :func:`sw.compress.training.finetune.finetune`, which has sparse training, too.

    Raises
    ------
    CompressError
        As there.
    """
    from sw.compress.methods import CompressError
    from sw.compress.training.data import ImageData
    from sw.compress.training.finetune import Finetuning
    from sw.compress.training.finetune import finetune as train_network

    copied = _copied(network)
    rules = _rules(copied, recipe)
    if config is not None and not isinstance(config, TrainConfig):
        raise CompressError(f"config must be a TrainConfig, not {config!r}")
    if freezing is not None and not isinstance(freezing, Freezing):
        raise CompressError(f"freezing must be a Freezing, not {freezing!r}")
    if config is None:
        config = TrainConfig(10, batch=min(128, len(train))) if isinstance(train, ImageData) else TrainConfig(10)
    job = Finetuning(rules, config, freezing=Freezing() if freezing is None else freezing)
    return train_network(
        copied,
        train,
        test,
        job,
        loss=loss,
        inputs=inputs,
        metric=metric,
        device=device,
        work=work,
        layers_alone=layers_alone,
        progress=progress,
    )


def load_data(path: str | os.PathLike[str], split: str, **options: Any) -> ImageData:
    """Images of CIFAR-10's archive, an ``.npz`` or a directory: :func:`sw.compress.training.data.load_data`."""
    from sw.compress.training.data import load_data as read_data

    return read_data(path, split, **options)


@undisturbed
def evaluate(
    network: str | os.PathLike[str] | Network, data: ImageData | Iterable[Any], **options: Any
) -> dict[str, Any]:
    """Top-1 and top-5 of a file's integers, mean IoU of maps, or your own metric.

    :func:`sw.compress.training.evaluation.evaluate`, which has the options.
    """
    from sw.compress.training.evaluation import evaluate as measure

    return measure(network, data, **options)


def load(path: str | os.PathLike[str]) -> Network | Container | Program | SteppedProgram:
    """Whatever is in a file of this project, checked to the last byte.

    Returns
    -------
    Network, Container, Program or SteppedProgram
        Of a container with operations the network in integers; of one of layers alone the container; of a file of the
        compiler the program.

    Raises
    ------
    sw.format.ContainerError, sw.program.ProgramError
        The file is damaged.
    OSError
        It cannot be read.
    """
    from sw.format import read_container
    from sw.format.container import file_path
    from sw.network import NetworkError, read_network
    from sw.program import MAGIC, read_program
    from sw.program.steps import is_stepped_program, read_stepped_program

    path = file_path(path)
    if is_stepped_program(path):
        return read_stepped_program(path)
    with open(path, "rb") as file:
        program = file.read(len(MAGIC)) == MAGIC
    if program:
        return read_program(path)
    try:
        return read_network(path)
    except NetworkError:
        return read_container(path)


def decompress(
    source: str | os.PathLike[str] | Compressed | Finetuned | Network | Sequence[CompressedLayer],
    *,
    derived: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """The decoded weights of a container, float32, by their keys in a state dict, to load back into a network.

    Only weights that were compressed are in it: ``model.load_state_dict(..., strict=False)`` leaves the rest. Factors
    of channels that stand alone, of a batch norm or a PReLU, are none. Layers alone, and files from before they said
    which convolutions have one axis (``Conv1d``), give the weights of these as ``[K, C, 1, S]``.

    Parameters
    ----------
    source
        A container's path, what :func:`compress`, :func:`calibrate`, :func:`finetune` or :func:`load` give, or layers.
    derived
        Give layers, too, whose weights are others than the float network's of that name, or which it computes and does
        not keep, as the file computes with them: of a transposed convolution, say, of a parametrisation, or in the
        order of channels of ``pqf``.

    Raises
    ------
    CompressError
        The file says that it has such layers, and they are not asked for; or the source is something else.
    """
    from sw.compress.methods import CompressError
    from sw.format import read_container
    from sw.format.layer import CompressedLayer
    from sw.network import Network

    given, metadata = f"a {type(source).__name__}", getattr(source, "about", getattr(source, "metadata", {}))
    if isinstance(source, str | os.PathLike):
        found = read_container(source)
        given, metadata, layers = repr(str(source)), found.metadata, found.layers
    elif isinstance(source, Network):
        layers = list(source.layers.values())
    else:
        own: Any = getattr(source, "layers", source)
        layers = list(own) if isinstance(own, Iterable) else [own]
        if not all(isinstance(layer, CompressedLayer) for layer in layers):
            raise CompressError(
                "source must be a container's path, what compress, calibrate, finetune or load give, or layers, not"
                f" {type(source).__name__}"
            )
    others = metadata.get(DERIVED, [])
    if others and not derived:
        names = ", ".join(map(str, others)) if isinstance(others, list) else others
        raise CompressError(
            f"{given} has other weights than the float network keeps under these names: {names}; load the file itself"
            " (msvq.load), or give derived=True for the weights as they are in it"
        )
    left = metadata.get(FACTORS, [])
    return _decoded([layer for layer in layers if not isinstance(left, list) or layer.name not in left], metadata)


def _decoded(layers: Sequence[CompressedLayer], metadata: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    found = {}
    rows, keys = metadata.get(CONV1D, []), metadata.get(KEYS, {})
    for layer in layers:
        weight = layer.float_weights()
        if layer.kind == "linear":
            weight = weight[:, :, 0, 0]
        elif isinstance(rows, list) and layer.name in rows and weight.shape[2] == 1:
            weight = weight[:, :, 0]
        key = keys.get(layer.name) if isinstance(keys, dict) else None
        found[key if isinstance(key, str) else f"{layer.name}.weight"] = weight
    return found


def compile(
    network: str | os.PathLike[str] | Network,
    config: AcceleratorConfig | str = "ews-cms-16",
    image: tuple[int, int, int] | None = None,
) -> Program | SteppedProgram:
    """A network in integers as a program of an instance.

    Parameters
    ----------
    network
        A container's path, or what :func:`load` gives of it.
    config
        The instance, or the name of a preset.
    image
        ``[C, rows, columns]``, where the network does not say it.

    Raises
    ------
    sw.network.NetworkError, sw.compiler.graph.CompileError
        The network cannot run on the instance; the message names the operation.
    """
    from sw.compiler.compile import compile_network
    from sw.compiler.steps import compile_steps
    from sw.network import Network, NetworkError, read_network

    if not isinstance(network, str | os.PathLike | Network):
        advice = "write it (its write(path)), and give the path"
        raise NetworkError(f"network must be a container's path or a Network, not {type(network).__name__}: {advice}")
    given = network if isinstance(network, Network) else read_network(network)
    instance = _instance(config)
    if given.in_steps:
        return compile_steps(given, instance)
    shape = given.image_shape if image is None else _image_shape(image)
    if shape is None:
        raise NetworkError("image must be given: the network does not say its size")
    return compile_network(given, shape, instance)


def _instance(config: AcceleratorConfig | str) -> AcceleratorConfig:
    """An instance, or that of a preset's name."""
    instance = preset(config) if isinstance(config, str) else config
    if not isinstance(instance, AcceleratorConfig):
        raise ConfigError(f"config must be an AcceleratorConfig or a preset's name, not {config!r}")
    return instance


def _image_shape(image: object) -> tuple[int, int, int]:
    from sw.network import NetworkError

    try:
        channels, rows, columns = map(operator.index, cast("Iterable[SupportsIndex]", image))
    except (TypeError, ValueError):
        raise NetworkError(f"image must be three integers [C, rows, columns], not {image!r}") from None
    return channels, rows, columns


def run(
    program: str | os.PathLike[str] | Program | SteppedProgram, images: Tensor | NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """The outputs of a program for images, by name, each ``[n, ...]``: the golden executor, bit for bit the Verilog.

    Parameters
    ----------
    program
        Of :func:`compile`, or the path of its file. Of one input.
    images
        int8 ``[n, C, rows, columns]``, or normalised floats, which are quantised by the input's scale.

    Raises
    ------
    sw.program.ProgramError, sw.run.RunError
        The images do not fit the program.
    """
    from sw.executor import execute, run_program
    from sw.program.steps import SteppedProgram
    from sw.run import RunError, quantise_input

    loaded = load(program) if isinstance(program, str | os.PathLike) else program
    if hasattr(images, "detach"):
        tensor = cast("Tensor", images)
        from sw.compress.checkpoints import must_be_dense

        if (wrong := must_be_dense(tensor)) is not None:
            raise RunError(wrong)
        given = tensor.detach().cpu()
        # NumPy has no bfloat16.
        images = given.float() if given.is_floating_point() else given
    values = np.asarray(images)
    if isinstance(loaded, SteppedProgram):
        integers = quantise_input(loaded.input, values)
        found = loaded.results(
            integers, lambda _, jobs: [execute(bound, memory, progress=False).memory for bound, memory in jobs]
        )
        return {output.name: result for output, result in zip(loaded.outputs, found, strict=True)}
    from sw.program import Program

    if not isinstance(loaded, Program):
        raise RunError("a program is needed, as msvq.compile makes it of a network")
    if len(loaded.inputs) != 1:
        raise RunError(f"the program must have one input for this, not {len(loaded.inputs)}: sw.executor.run_program")
    shape = loaded.inputs[0].shape
    if values.ndim != 4 or values.shape[1:] != tuple(shape) or not len(values):
        raise RunError(f"images must be [n, {', '.join(map(str, shape))}], not {list(values.shape)}")
    integers = quantise_input(loaded.inputs[0], values)
    results = [run_program(loaded, [image]) for image in integers]
    return {tensor.name: np.stack([result[tensor.name] for result in results]) for tensor in loaded.outputs}


def generate(
    config: AcceleratorConfig | str,
    folder: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    unit: str = "core",
    period: float = 2.0,
) -> Generated:
    """Verilog and manifest of an instance, and of an accelerator its C driver and what a design around it needs.

    Parameters
    ----------
    config
        The instance, or the name of a preset.
    folder
        Where to write the files; None only gives their texts.
    name
        Of the top module and the files, and the beginning of all modules' names. Without it the module is called after
        the unit, and so are the files where ``config`` is no preset's name, after which they are called otherwise:
        instances in one folder need names.
    unit
        ``core``, or ``accelerator`` with AXI ports.
    period
        Of the clock in nanoseconds, for the constraints.

    Raises
    ------
    hw.config.ConfigError
        A name, the period, or the width of the bus cannot be, or the folder has files of another unit by that name.
    OSError
        The folder cannot be made or written.
    """
    from hw.generate import generate as make
    from hw.generate import generate_into, instance_name

    if folder is not None and (not isinstance(folder, str | os.PathLike) or not os.fspath(folder)):
        raise ConfigError(f"folder must be a path, not {folder!r}")
    instance = _instance(config)
    label = name or (instance_name(config, instance) if isinstance(config, str) else unit)
    if folder is None:
        return make(instance, label, unit, name, period)
    return generate_into(Path(folder), instance, label, unit, name, period)[0]
