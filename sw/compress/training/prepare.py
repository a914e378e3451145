"""From a float network to the form that is trained, and from that to integers. What has no such form is told before."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from sw.compress.frontend import FrontEndError, Refusal, observe, same, unwrapped
from sw.compress.frontend.capture import Captured, capture, check_hooks
from sw.compress.frontend.inputs import Given, first_samples, mapped, no_images
from sw.compress.methods import CompressError, Recipe, check_rules, recipe_for
from sw.compress.network import copy_network, keys_of_layers, module_sources, own_tensors
from sw.compress.training.decoders import UniformDecoder, WeightDecoder
from sw.compress.training.graph import calibrate, integer_graph, quantise_activations, quantise_inputs
from sw.compress.training.integer import IntegerNetwork, export_integers, export_steps, network_metadata
from sw.compress.training.layers import DecodedModule, decoded_layers, replace_layer
from sw.compress.training.modules import convert, float_weights, fold_parametrisations
from sw.compress.training.operations import compared_layers
from sw.format.weights import CONV1D, DERIVED, FACTORS, KEYS

__all__ = ["IntegerForm", "about_weights", "file_metadata", "integer_form", "prepare", "to_integers"]

# Where a network that :func:`prepare` made keeps what its file is to say of weights.
_TOLD = "weights_of_file"

# Share of the largest output by which a network of layers alone may differ from the float network, both in float32.
_TOLERANCE = 1e-3
# Images that the float network, its graph, and its layers alone are compared on, and that calibrate a trial.
_SAMPLE = 16


@dataclass(frozen=True)
class IntegerForm:
    """A float network as :func:`integer_form` found it, until one of its tensors is another.

    :func:`prepare` makes its network of the graph, and so uses it up.
    """

    #: As torch.export sees it; None of one that cannot be captured, or takes no images.
    captured: Captured | None
    #: Of operations that all have an integer form; None where one has none.
    graph: fx.GraphModule | None
    #: Why it will have no form as one program of integers; empty if it will.
    refusals: list[Refusal]


def integer_form(model: nn.Module, rules: Sequence[tuple[str, Recipe]], images: Given) -> IntegerForm:
    """Capture a float network, and find out whether it will have a form as one program of integers.

    On a copy of its graph whose weights are of 8 bit, so that nothing is clustered.

    Parameters
    ----------
    model
        In float32. Not changed.
    rules
        As for :func:`prepare`.
    images
        Inputs that it takes. Some set the scales of the copy.

    Raises
    ------
    CompressError
        A rule is for no layer of the graph.
    """
    if (other := no_images(images)) is not None:
        return IntegerForm(None, None, [other])
    assert isinstance(images, Tensor)
    model, captured, graph = unwrapped(model), None, None
    try:
        captured = capture(model, images)
        graph = integer_graph(model, images, captured)
        # As :func:`sw.compress.training.modules.convert` of this graph, which comes behind work.
        check_rules(rules, module_sources(graph), [source.name for source in module_sources(model, geometry=False)])
        _try_integers(graph, rules, images)
    except FrontEndError as error:
        return IntegerForm(captured, graph, error.refusals)
    return IntegerForm(captured, graph, [])


def prepare(
    model: nn.Module,
    rules: Sequence[tuple[str, Recipe]],
    images: Given,
    *,
    alpha: float = 1.0,
    learn_signs: bool = True,
    threads: int | None = None,
    progress: bool = True,
    form: IntegerForm | None = None,
) -> tuple[nn.Module, str | None]:
    """Compress a network and quantise its activations: the form that :func:`sw.compress.training.loop.fit` trains.

    The network is captured as it is, before anything is changed (:mod:`sw.compress.frontend`), and what comes out is
    compared with it.

    Parameters
    ----------
    model
        On the device of ``images``. Its layers are changed, and it computes in float32 from then on.
    rules, alpha, learn_signs, threads, progress
        As in :func:`sw.compress.training.modules.convert`.
    images
        Normalised floats ``[batch, C, rows, columns]`` that set the scales of the activations; or other inputs, such as
        tokens, of a network that has no integer form.
    form
        What :func:`integer_form` gave of them, if that has been asked before and the network is the same since then.

    Returns
    -------
    tuple
        The network in evaluation mode; and why it has no form as one program of integers, or None if it has. Without
        one, the inputs of its layers are quantised, and the rest is float: a vision transformer can still become a
        network in steps (:func:`sw.compress.export.transformer.export_transformer`).

    Raises
    ------
    CompressError
        A layer's weight cannot be compressed, or the network with its layers replaced would compute something else.
    """
    check_hooks(model)
    model = unwrapped(model)
    precision = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)
    model.eval()
    expected = observe(model, _floats(first_samples(images, _SAMPLE), precision))
    images = _floats(images, torch.float32)
    before = own_tensors(model.float())
    keys = before.keys()
    fold_parametrisations(model)
    if form is None or _identities(before) != _identities(own_tensors(model)):
        form = integer_form(model, rules, images)
    graph, reason = form.graph, "; ".join(map(str, form.refusals)) or None
    options: dict[str, Any] = {"alpha": alpha, "learn_signs": learn_signs, "threads": threads, "progress": progress}
    if graph is not None:
        # In float32 to the order of sums; of another precision no more can be asked than that has.
        close = _TOLERANCE if precision == torch.float32 else 16 * torch.finfo(precision).eps
        if not _agree(graph(first_samples(images, _SAMPLE)), expected, max(close, _TOLERANCE)):
            reason = (
                f"the network computes something else in float32, its weights computed once, than it did in {precision}"
            )
    if reason is None:
        assert graph is not None
        assert isinstance(images, Tensor)
        names = [source.name for source in module_sources(model, geometry=False)]
        told = _of_graph(model, graph, keys, rules)
        convert(graph, rules, images=images, order=names, one_scale=compared_layers(graph), **options)
        graph = quantise_activations(graph, images).eval()
        graph.meta[_TOLD] = told
        calibrate(graph.to(images.device), images)
        try:
            export_integers(graph, (images.shape[1], images.shape[2], images.shape[3]))
            return graph, None
        except CompressError as error:
            reason = str(error)
    return _layers_alone(model, rules, images, keys, options), reason


def _identities(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: id(tensor) for name, tensor in tensors.items()}


def _of_graph(
    model: nn.Module, graph: fx.GraphModule, keys: Collection[str], rules: Sequence[tuple[str, Recipe]]
) -> dict[str, Any]:
    """Layers of the graph whose weight is not under these keys of the network, and those of another key than usual.

    The former are of a transposed convolution, or computed. Those of ``pqf`` have other orders of channels, and so have
    the layers around them.
    """
    sources, own, named = module_sources(graph), own_tensors(model), keys_of_layers(keys)
    if any(recipe_for(source.name, rules).method == "pqf" for source in sources):
        return {DERIVED: [source.name for source in sources], KEYS: {}}
    derived, renamed = [], {}
    for source in sources:
        key = named.get(source.name, "")
        weight = own.get(key)
        if weight is None or not (
            weight.numel() == source.weight.size
            and weight.shape[:2] == source.weight.shape[:2]
            and np.array_equal(weight.detach().cpu().numpy().ravel(), source.weight.ravel())
        ):
            derived.append(source.name)
        elif key != f"{source.name}.weight":
            renamed[source.name] = key
    return {DERIVED: derived, KEYS: renamed}


def about_weights(model: nn.Module, network: IntegerNetwork | None) -> dict[str, Any]:
    """What the file's metadata of a network that :func:`prepare` made says of weights, as :func:`msvq.decompress` must
    know.

    ``derived``: layers whose weights are not what the float network has under their names. ``factors``: what is no
    weight of the network: factors of channels that stand alone, of a batch norm or a PReLU, which become layers in the
    end, and later calls of a layer. ``keys`` and ``conv1d``: as :func:`sw.compress.network.about_sources` has them.
    None is there if it has none.
    """
    told = _kept(model).get(_TOLD, {})
    layers = [layer for _, layer in decoded_layers(model)]
    own, derived = {layer.name for layer in layers}, told.get(DERIVED, [])
    first: dict[WeightDecoder, str] = {}
    for layer in layers:
        if layer.name not in derived:
            first.setdefault(layer.decoder, layer.name)
    again = [layer.name for layer in layers if layer.name in derived and layer.decoder in first]
    alone = network.layers if network is not None and not network.in_steps else ()
    found = {
        DERIVED: [name for name in derived if name not in again],
        FACTORS: [*again, *(name for name in alone if name not in own)],
        KEYS: told.get(KEYS),
        CONV1D: [each.name for each in layers if isinstance(each, DecodedModule) and len(each.shape) == 3],
    }
    return {field: value for field, value in found.items() if value}


def _kept(model: nn.Module) -> dict[str, Any]:
    """Where what is said of a network stays with copies of it."""
    return model.meta if isinstance(model, fx.GraphModule) else vars(model)


def _try_integers(graph: fx.GraphModule, rules: Sequence[tuple[str, Recipe]], images: Tensor) -> None:
    """A FrontEndError where a graph of the float network will have no form as one program of integers."""
    trial = copy.deepcopy(graph)
    try:
        compared = compared_layers(trial)
        for source in module_sources(trial):
            coded = recipe_for(source.name, rules).stored != "int8"
            weight = torch.from_numpy(source.weight)
            per_channel = source.kind == "conv" and not coded and source.name not in compared
            replace_layer(trial, source, UniformDecoder(weight, per_channel=per_channel))
        trial = quantise_activations(trial, images).eval()
        calibrate(trial.to(images.device), images[:_SAMPLE])
        export_integers(trial, (images.shape[1], images.shape[2], images.shape[3]))
    except FrontEndError:
        raise
    except CompressError as error:
        raise FrontEndError([Refusal("", str(error))]) from error


def _layers_alone(
    model: nn.Module,
    rules: Sequence[tuple[str, Recipe]],
    images: Given,
    keys: Collection[str],
    options: dict[str, Any],
) -> nn.Module:
    """The network with decoded layers that have quantised inputs, all else as it is."""
    sample = first_samples(images, _SAMPLE)
    expected = observe(model, sample)
    weights = {source.name: source.weight for source in module_sources(model)}
    _kept(model)[_TOLD] = {DERIVED: [name for name in weights if f"{name}.weight" not in keys]}
    reordered = any(recipe.method == "pqf" for _, recipe in rules)
    device = next(model.parameters()).device
    convert(model, rules, images=images if isinstance(images, Tensor) else None, **options)
    model.to(device).eval()
    if not reordered:
        with float_weights(model, weights):
            found = observe(model, sample)
        # A hook that writes the weights of before would not be seen with those.
        with float_weights(model, {name: weight / 2 for name, weight in weights.items()}):
            observe(model, sample)
        if not _agree(found, expected, _TOLERANCE):
            raise CompressError(
                "the network computes something else once its layers are replaced, even with the same weights: leave"
                " out hooks and code that look at the layers themselves"
            )
    quantise_inputs(model)
    calibrate(model, images)
    return model


def _floats(given: Given, dtype: torch.dtype) -> Any:
    """Inputs with their floats in one precision; integers, such as tokens, and masks stay."""
    return mapped(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, given)


def _agree(found: object, expected: object, tolerance: float) -> bool:
    """Whether two results of any structure have the same tensors but for rounding."""
    ours, theirs = tree_leaves(found), tree_leaves(expected)
    return len(ours) == len(theirs) and all(
        same(a, b, tolerance) if isinstance(a, Tensor) and isinstance(b, Tensor) else type(a) is type(b)
        for a, b in zip(ours, theirs, strict=True)
    )


def file_metadata(
    model: nn.Module, images: Tensor, form: IntegerForm | None = None
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """What :func:`sw.compress.training.finetune.finetune`'s file of a network will hold beside the module's layers.

    As far as is known before: after training it may have up to :data:`sw.compress.search.SLACK` bytes more.

    Parameters
    ----------
    model
        In floats. Not changed.
    images, form
        As in :func:`prepare`.

    Returns
    -------
    tuple
        The metadata; None of a network without integer form, whose file has layers alone. And from the name of each
        layer that the file has for another call of a module to that of the first call: ``tied`` of
        :func:`sw.compress.search.search`.
    """
    graph, reason = prepare(copy_network(model), [], images, progress=False, form=form)
    try:
        network = to_integers(graph, reason, images)
    except CompressError:
        return None, {}
    first: dict[WeightDecoder, str] = {}
    names = {layer.name: first.setdefault(layer.decoder, layer.name) for _, layer in decoded_layers(graph)}
    own = {source.name for source in module_sources(model, geometry=False)}
    return network_metadata(network) | about_weights(graph, network), {
        name: owner for name, owner in names.items() if name not in own
    }


def to_integers(model: nn.Module, reason: str | None, images: Given, *, values: bool = False) -> IntegerNetwork:
    """A network that :func:`prepare` gave, trained, as integers.

    Parameters
    ----------
    model, reason
        As :func:`prepare` gave them.
    images
        As for :func:`prepare`: in a network in steps, scales that training does not learn are set by them.
    values
        The result of a network with one counts as it is, not by which class is the largest: the file says its scale.

    Raises
    ------
    CompressError
        It has no integer form.
    """
    other = no_images(images)
    if other is not None or not isinstance(images, Tensor):
        raise CompressError(str(other))
    if reason is None:
        assert isinstance(model, fx.GraphModule)
        return export_integers(model, (images.shape[1], images.shape[2], images.shape[3]), values=values)
    try:
        return export_steps(model, images)
    except Exception as error:  # the parts of a network that only looks like one raise errors of every kind
        text = " ".join(str(error).split())[:200]
        raise CompressError(f"{reason}; nor is it such a vision transformer: {text}") from None
