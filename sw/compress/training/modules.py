"""Networks whose layers decode their weight in every forward pass, and can be trained in that form.

A network goes from ``Conv2d`` and ``Linear`` to :class:`DecodedConv2d` and :class:`DecodedLinear` in place, from layers
that compute something else to :class:`DecodedModule` (:func:`convert`, :func:`load_layers`), and from all of them to
:class:`~sw.format.layer.CompressedLayer` integers (:func:`compressed_layers`). What the forward pass computes with is
exactly the integers times their scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from sw.compress.frontend import unwrapped
from sw.compress.methods import (
    NO_LAYER,
    CompressError,
    LayerSource,
    Recipe,
    check_rules,
    compress_layers,
    kept_recipe,
    misfit,
    recipe_for,
)
from sw.compress.network import module_sources, own_class, progress_bar
from sw.compress.training.decoders import (
    CodebookDecoder,
    SignBits,
    UniformDecoder,
    WeightDecoder,
    masked_lookup,
    share_codebook,
    share_codebooks,
)
from sw.compress.training.dkm import DkmDecoder
from sw.compress.training.layers import (
    Decoded,
    DecodedConv2d,
    DecodedLinear,
    DecodedModule,
    compressed_layers,
    decoded_layers,
    replace_layer,
)
from sw.compress.training.moving import MovingDecoder
from sw.compress.training.permutation import permute_network
from sw.format.layer import CompressedLayer

__all__ = [
    "CodebookDecoder",
    "Decoded",
    "DecodedConv2d",
    "DecodedLinear",
    "DecodedModule",
    "MovingDecoder",
    "SignBits",
    "UniformDecoder",
    "WeightDecoder",
    "compressed_layers",
    "convert",
    "decoded_layers",
    "float_weights",
    "fold_parametrisations",
    "load_layers",
    "masked_lookup",
    "recipe_for",
    "replace_layer",
    "share_codebook",
]


def fold_parametrisations(model: nn.Module) -> None:
    """Give layers whose weight is computed from other parameters (weight norm, pruning, any other) its value.

    In place; the network computes the same in evaluation mode. The weight is trained as it is from then on.
    """
    for module in list(model.modules()):
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            continue
        training = module.training
        module.eval()
        learns = _learns(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
                # Torch looks for its hook, which is wrapped, in vain: no checkpoint could be loaded.
                for key, wrapped in list(module._load_state_dict_pre_hooks.items()):
                    if isinstance(getattr(wrapped, "hook", wrapped), SpectralNormLoadStateDictPreHook):
                        del module._load_state_dict_pre_hooks[key]
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
        if parametrize.is_parametrized(module):
            own_class(module)
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        module.train(training)
        if not isinstance(module.weight, nn.Parameter):
            # What comes from parameters that are not trained is left as a plain attribute.
            value = module.weight
            del module.weight
            module.weight = nn.Parameter(value)
        module.weight.requires_grad_(learns)


def _learns(layer: nn.Module) -> bool:
    """Whether the weight of a layer, or what it is computed from, is to be trained."""
    return any(value.requires_grad for name, value in layer.named_parameters() if name != "bias")


def convert(
    model: nn.Module,
    rules: Sequence[tuple[str, Recipe]],
    *,
    alpha: float = 1.0,
    learn_signs: bool = True,
    moving: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = True,
    images: Tensor | None = None,
    order: Sequence[str] = (),
    one_scale: Collection[str] = (),
) -> list[CompressedLayer]:
    """Compress all convolutions and linear layers of a network, in place, for training in that form.

    Layers of one crosslayer recipe train one codebook (:func:`share_codebook`), those of ``dkm`` weights and attention
    (:class:`sw.compress.training.dkm.DkmDecoder`), and for ``pqf`` channels are reordered first
    (:func:`sw.compress.training.permutation.permute_network`). Layers that share one weight share what becomes of it:
    the recipe of the first of them, one codebook, one set of assignments. A layer whose weight is computed from other
    parameters gets its value (:func:`fold_parametrisations`); one with hooks or a forward of its own keeps them
    (:class:`DecodedModule`). What stands for a weight without ``requires_grad`` is not trained, either.

    Parameters
    ----------
    model
        Changed in place: the layers become decoded ones.
    rules
        Pairs of a shell pattern and a recipe; the first that matches a layer's name holds. A layer that none matches,
        or that its recipe cannot compress (:func:`sw.compress.methods.misfit`), stays at 8 bit: one scale an output
        channel for convolutions, one for all of a linear layer, so that the sums of a classifier can be compared. A
        pattern must match a layer of the network, or of ``order``.
    alpha, learn_signs
        As in :class:`CodebookDecoder`.
    moving
        Train the weights, and have assignments, signs and masks follow from them (:class:`MovingDecoder`).
    threads, device
        Of the clustering, as in :func:`sw.compress.kmeans.kmeans_layers`.
    progress
        Show a bar on standard error.
    images
        Normalised floats that the network takes, for ``pqf``, which must know the layers that follow each other.
        Without, as in :func:`sw.compress.training.graph.trace`.
    order
        Names of layers in the order in which they are compressed; the others come behind, names of no layer are
        left out. It decides where a codebook of several layers starts from. By default the network's.
    one_scale
        Names of convolutions that have one scale if they stay at 8 bit: of those whose sums are compared.

    Returns
    -------
    list
        The compressed layers before fine-tuning.

    Raises
    ------
    CompressError
        The model has no layer, a rule is for none, a weight is NaN or infinite or an embedding's, too, or layers share
        codewords of which some are trained and some are not.
    """
    model = unwrapped(model)
    fold_parametrisations(model)
    sources = _sources(model, order)
    check_rules(rules, sources, order)
    _check_embeddings(model, [source.name for source in sources])
    recipes = _recipes(model, sources, rules)
    permuted: dict[tuple[int, int], list[str]] = {}
    for source, recipe in zip(sources, recipes, strict=True):
        if recipe.method == "pqf" and misfit(source, recipe) is None:
            permuted.setdefault((recipe.d, recipe.seed), []).append(source.name)
    for (d, seed), names in permuted.items():
        permute_network(model, d, images=images, seed=seed, layers=names, progress=progress)
        sources = _sources(model, order)
    learning = [_learns(model.get_submodule(source.name)) for source in sources]
    _check_shared(sources, recipes, learning)
    # Layers of one weight are compressed once.
    owners = _owners(model, sources)
    chosen = [i for i, owner in enumerate(owners) if owner == i]
    with progress_bar(progress) as bar:
        task = bar.add_task("clustering", total=len(chosen))
        layers = compress_layers(
            [sources[i] for i in chosen],
            [recipes[i] for i in chosen],
            threads=threads,
            device=device,
            done=lambda: bar.advance(task),
        )
    decoders: dict[int, WeightDecoder] = {}
    for i, layer in zip(chosen, layers, strict=True):
        source, weight = sources[i], torch.from_numpy(sources[i].weight)
        if layer.method == "int8":
            shared = {other.name for other, owner in zip(sources, owners, strict=True) if owner == i}
            per_channel = source.kind == "conv" and shared.isdisjoint(one_scale)
            decoders[i] = UniformDecoder(weight, layer.weight_bits, per_channel=per_channel)
            continue
        if owners.count(i) > 1 and layer.codebook_name is None:
            layer = dataclasses.replace(layer, codebook_name=f"tied-{source.name}")
        if recipes[i].method == "dkm":
            decoders[i] = DkmDecoder(layer, weight)
        elif moving:
            decoders[i] = MovingDecoder(layer, weight)
        else:
            decoders[i] = CodebookDecoder(layer, weight, alpha=alpha, learn_signs=learn_signs)
    share_codebooks(list(decoders.values()))
    for i, decoder in decoders.items():
        if not learning[i]:
            decoder.requires_grad_(False)
    for source, owner in zip(sources, owners, strict=True):
        replace_layer(model, source, decoders[owner])
    return compressed_layers(model)


def _check_embeddings(model: nn.Module, names: Sequence[str]) -> None:
    """Refuse a layer whose weight is an embedding's, too, as the heads of language models are: that would stay."""
    embeddings = {
        id(module.weight): name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    for name in names:
        other = embeddings.get(id(model.get_submodule(name).weight))
        if other is not None:
            raise CompressError(
                f"layer {name!r} shares its weight with the embedding {other!r}, which stays in floating point: give it"
                f" one of its own before, {name}.weight = nn.Parameter({name}.weight.detach().clone())"
            )


def _check_shared(sources: Sequence[LayerSource], recipes: Sequence[Recipe], learning: Sequence[bool]) -> None:
    """Refuse a codebook of several layers of which some are trained and some are not."""
    first: dict[Recipe, tuple[str, bool]] = {}
    for source, recipe, learns in zip(sources, recipes, learning, strict=True):
        if recipe.scope != "crosslayer" or misfit(source, recipe) is not None:
            continue
        # As codebooks are shared: whatever bits layers of no codewords have.
        name, other = first.setdefault(dataclasses.replace(recipe, uniform_bits=8), (source.name, learns))
        if learns != other:
            still, trained = (name, source.name) if learns else (source.name, name)
            raise CompressError(
                f"layer {still!r} has requires_grad=False, and shares a codebook with {trained!r}, which is trained:"
                " take scope layerwise, or train both"
            )


def _sources(model: nn.Module, order: Sequence[str]) -> list[LayerSource]:
    found = {source.name: source for source in module_sources(model)}
    if not found:
        raise CompressError(NO_LAYER)
    return [found[name] for name in dict.fromkeys([*(name for name in order if name in found), *found])]


def _owners(model: nn.Module, sources: Sequence[LayerSource]) -> list[int]:
    """For each layer the number of the first with the same weight parameter."""
    first: dict[int, int] = {}
    weights = [model.get_submodule(source.name).weight for source in sources]
    return [first.setdefault(id(weight), i) for i, weight in enumerate(weights)]


def _recipes(model: nn.Module, sources: Sequence[LayerSource], rules: Sequence[tuple[str, Recipe]]) -> list[Recipe]:
    """The recipe of each layer; of those that share a weight that of the first, if it fits them all."""
    owners = _owners(model, sources)
    recipes = [recipe_for(source.name, rules) for source in sources]
    for i, owner in enumerate(owners):
        recipes[i] = recipes[owner]
    unfit = {owner for i, owner in enumerate(owners) if owners.count(owner) > 1 and misfit(sources[i], recipes[i])}
    return [kept_recipe(recipe) if owner in unfit else recipe for owner, recipe in zip(owners, recipes, strict=True)]


def load_layers(model: nn.Module, layers: Sequence[CompressedLayer]) -> None:
    """Put compressed layers in the place of the layers of these names: the reverse of :func:`compressed_layers`.

    The model computes from the layers' integers from then on, and can be trained further; assignments stay. A
    ``state_dict`` of the model that they came from can then be loaded, but for one whose assignments moved, which fits
    a model of the same :func:`convert`. Layers that share one weight in the model share it still.

    Raises
    ------
    CompressError
        The model has no layer of that name, one of another shape, or one whose weight is an embedding's, too.
    """
    model = unwrapped(model)
    fold_parametrisations(model)
    found = module_sources(model)
    _check_embeddings(model, [source.name for source in found if source.name in {layer.name for layer in layers}])
    owners = dict(zip([source.name for source in found], _owners(model, found), strict=True))
    sources = {source.name: source for source in found}
    replaced: list[tuple[LayerSource, WeightDecoder]] = []
    decoders: dict[int, WeightDecoder] = {}
    for layer in layers:
        source = sources.get(layer.name)
        if source is None or source.shape != layer.shape:
            shape = "none" if source is None else str(list(source.shape))
            raise CompressError(f"layer {layer.name!r} must have shape {list(layer.shape)} in the model, not {shape}")
        decoder = decoders.get(owners[layer.name])
        if decoder is None:
            decoder = decoders[owners[layer.name]] = _decoder(layer)
        replaced.append((source, decoder))
    share_codebooks([decoder for _, decoder in replaced])
    for source, decoder in replaced:
        replace_layer(model, source, decoder)


def _decoder(layer: CompressedLayer) -> WeightDecoder:
    """What decodes the integers of a layer."""
    if layer.method != "int8":
        return CodebookDecoder(layer)
    weight = torch.from_numpy(layer.float_weights())
    decoder = UniformDecoder(weight, layer.weight_bits, per_channel=len(layer.scale) > 1)
    decoder.step.restart(torch.from_numpy(layer.scale).reshape(-1, 1, 1, 1))
    # Integers of others may be below what this project's have.
    assert layer.weights is not None
    decoder.low = min(decoder.low, int(layer.weights.min()))
    return decoder


@contextmanager
def float_weights(model: nn.Module, weights: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Have the decoded layers of a network give weights as they were before compression, float ``[K, C, R, S]``.

    Raises
    ------
    CompressError
        The network has written into them.
    """
    decoders = {layer.decoder: layer.name for _, layer in decoded_layers(model)}
    given = []
    try:
        for decoder, name in decoders.items():
            weight = torch.from_numpy(weights[name].copy()).to(next(decoder.parameters()).device)
            given.append((name, weight, weight.clone()))
            decoder.forward = lambda weight=weight: weight  # type: ignore[method-assign, misc]
        yield
        for name, weight, copy in given:
            if not torch.equal(weight, copy):
                raise CompressError(f"layer {name!r} must not have a hook that writes into its weight")
    finally:
        for decoder in decoders:
            del decoder.forward
