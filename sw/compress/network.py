"""Compress a whole network: its layers, and one report row for each."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from sw.compress.checkpoints import must_be_floats, plain_floats
from sw.compress.methods import (
    NO_LAYER,
    CompressError,
    LayerSource,
    Recipe,
    check_rules,
    compress_layers,
    kept_weights,
    misfit,
    recipe_for,
    some_of,
)
from sw.compress.ratio import StorageBits, ideal_ratio, layer_bits, sum_bits
from sw.format.layer import CompressedLayer
from sw.format.weights import CONV1D, DERIVED, FACTORS, KEYS

__all__ = [
    "STATE",
    "LayerReport",
    "about_sources",
    "check_network_rules",
    "compress_network",
    "copy_network",
    "keys_of_layers",
    "layer_names",
    "module_sources",
    "own_class",
    "own_tensors",
    "progress_bar",
    "state_dict_sources",
    "total_row",
    "warn_of_others",
]


#: Where a graph that was made of a ``.pt2`` file keeps the key of each of its tensors in the network that was exported;
#: empty of what that computes.
STATE = "state"

# Weights whose errors are computed at a time.
_PART = 1 << 22

# How the dtypes of quantised weights begin.
_QUANTISED = ("int8", "uint8", "qint", "quint")

# Of the last part of a module's name.
_EMBEDDINGS = frozenset({"wte", "wpe", "emb", "embed", "embeds", "embedding", "embeddings"})


@dataclass(frozen=True)
class LayerReport:
    """What compression did to one layer, or to all layers together."""

    #: Of the layer.
    layer: str
    kind: str
    shape: tuple[int, ...]
    #: The method that was used: ``int8`` for a layer kept at 8 bit.
    method: str
    #: Why the layer was kept at 8 bit (:func:`sw.compress.methods.misfit`), or None.
    reason: str | None
    #: Sum of the squared weights, before compression.
    energy: float
    #: Sum of squared errors over all weights, against the weights before compression; pruned weights count in full.
    sse: float
    #: The same over the weights that the recipe's N:M keeps, whether the method prunes or not. None without an N:M, or
    #: where M does not divide the output channels.
    kept_sse: float | None
    #: Bits by part. Each layer's row has the whole of a codebook that layers share; the total has it once.
    bits: StorageBits

    @property
    def relative_error(self) -> float:
        """``sse / energy``; 0 for a layer of zeros."""
        return self.sse / self.energy if self.energy else 0.0

    @property
    def ideal_ratio(self) -> float:
        """Compression ratio against float32 by MVQ equation 7."""
        return ideal_ratio(self.bits)

    def to_dict(self) -> dict[str, Any]:
        """The row as plain Python values, for JSON."""
        return {
            "layer": self.layer,
            "kind": self.kind,
            "shape": list(self.shape),
            "method": self.method,
            "reason": self.reason,
            "weights": self.bits.weight_count,
            "sse": self.sse,
            "kept_sse": self.kept_sse,
            "relative_error": self.relative_error,
            "ideal_ratio": self.ideal_ratio,
            "bits_per_weight": self.bits.per_weight,
        }


def report(source: LayerSource, layer: CompressedLayer, recipe: Recipe) -> LayerReport:
    """The report row of a layer that was compressed by this recipe."""
    energy, sse, kept_sse = _errors(source.weight, layer, recipe)
    return LayerReport(
        layer=source.name,
        kind=source.kind,
        shape=source.shape,
        method=layer.method,
        reason=misfit(source, recipe),
        energy=energy,
        sse=sse,
        kept_sse=kept_sse,
        bits=layer_bits(layer),
    )


def _errors(weight: NDArray[np.float32], layer: CompressedLayer, recipe: Recipe) -> tuple[float, float, float | None]:
    """Energy, squared error, and that of the kept weights: a part of the channels of a large layer at a time."""
    decoded, scale = layer.integer_weights(), layer.scale.reshape(-1, 1, 1, 1)
    step = max(1, _PART * len(weight) // weight.size)
    if recipe.m:
        step += -step % recipe.m
    energies, errors, of_kept = [], [], []
    for first in range(0, len(weight), step):
        own = slice(first, first + step)
        floats = decoded[own].astype(np.float32) * (scale if len(scale) == 1 else scale[own])
        exact = weight[own].astype(np.float64)
        squares = (floats - exact) ** 2
        energies.append(float((exact**2).sum()))
        errors.append(float(squares.sum()))
        # M divides a part's channels where it divides all of them.
        kept = kept_weights(weight[own], recipe.n, recipe.m) if recipe.m and len(weight) % recipe.m == 0 else None
        if kept is not None:
            of_kept.append(float(squares[kept].sum()))
    return math.fsum(energies), math.fsum(errors), math.fsum(of_kept) if of_kept else None


def total_row(rows: Sequence[LayerReport], *, compressed_only: bool = False) -> LayerReport:
    """All rows as one, or those of layers that were not kept at 8 bit. ``kept_sse`` covers the rows that have one.

    Raises
    ------
    CompressError
        There is no such row.
    """
    rows = [row for row in rows if row.reason is None] if compressed_only else list(rows)
    if not rows:
        raise CompressError("no layer to total: every layer was kept at 8 bit, or there is none")
    kept = [row.kept_sse for row in rows if row.kept_sse is not None]
    return LayerReport(
        layer="compressed layers" if compressed_only else "all layers",
        kind="",
        shape=(),
        method="+".join(sorted({row.method for row in rows})),
        reason=None,
        energy=math.fsum(row.energy for row in rows),
        sse=math.fsum(row.sse for row in rows),
        kept_sse=math.fsum(kept) if kept else None,
        bits=sum_bits(row.bits for row in rows),
    )


def compress_network(
    sources: Sequence[LayerSource],
    recipe: Recipe | Sequence[tuple[str, Recipe]],
    *,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[list[CompressedLayer], list[LayerReport]]:
    """Compress all layers, with a progress bar on standard error. Clustering is batched across layers.

    Parameters
    ----------
    sources
        :func:`module_sources` or :func:`state_dict_sources`.
    recipe
        How: one for all layers, or rules (:func:`sw.compress.methods.recipe_for`). Of layers that share one weight that
        of the first.
    threads, device
        As in :func:`sw.compress.kmeans.kmeans_layers`.
    progress
        Show the bar.

    Raises
    ------
    CompressError
        There is no layer, two have one name, or a recipe is of method ``pqf``, which reorders channels and so needs the
        network.
    """
    names = [source.name for source in sources]
    if not names:
        raise CompressError(NO_LAYER)
    if len(set(names)) < len(names):
        raise CompressError(f"layer names must differ, not {max(names, key=names.count)!r} twice")
    owners = [source.owner or source.name for source in sources]
    recipes = [recipe if isinstance(recipe, Recipe) else recipe_for(name, recipe) for name in owners]
    if any(each.method == "pqf" for each in recipes):
        raise CompressError("method pqf reorders the channels between layers: it needs a network, not weights alone")
    with progress_bar(progress) as bar:
        task = bar.add_task("clustering", total=len(sources))
        layers = compress_layers(sources, recipes, threads=threads, device=device, done=lambda: bar.advance(task))
    return layers, [report(*row) for row in zip(sources, layers, recipes, strict=True)]


def progress_bar(shown: bool = True) -> Progress:
    """The progress bar of everything here that takes long, on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )


def module_sources(module: torch.nn.Module, *, geometry: bool = True) -> list[LayerSource]:
    """The ``Conv2d``, ``Conv1d`` and ``Linear`` layers of a module, in its order.

    A ``Conv1d`` is a convolution of one row. Padding is the layer's own: a separate padding module in front is not part
    of it. That of another mode than zeros has no integer form, but the weight has
    (:class:`sw.compress.training.modules.DecodedModule`).

    Parameters
    ----------
    module
        With these layers. What ``torch.compile`` or ``DataParallel`` put around it is in no name.
    geometry
        Refuse a layer whose padding a source cannot say. Without, it is given as 0: for names and weights alone.

    Raises
    ------
    CompressError
        The module is itself such a layer, a weight is NaN, infinite or a tensor that is not dense, or padding ``same``
        differs between two sides.
    """
    sources = []
    network = _unwrapped(module)
    keys, owners = own_tensors(network), tied_layers(network)
    if isinstance(network, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Linear):
        # It has no name in itself, and nothing in which another could take its place.
        alone = f"a {type(network).__name__} alone: put it into torch.nn.Sequential"
        raise CompressError(f"network must be a module with layers in it, not {alone}")
    for name, layer in network.named_modules():
        key = "" if f"{name}.weight" in keys else None
        if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d):
            weight = _array(name, _weight(layer))
            sources.append(
                LayerSource(
                    name=name,
                    kind="conv",
                    weight=weight if weight.ndim == 4 else weight[:, :, None],
                    stride=_pair(layer.stride, 1),
                    padding=_padding(name, layer, geometry),
                    dilation=_pair(layer.dilation, 1),
                    groups=layer.groups,
                    one_axis=weight.ndim == 3,
                    key=key,
                    owner=owners.get(name, ""),
                )
            )
        elif isinstance(layer, torch.nn.Linear):
            array = _array(name, _weight(layer))[:, :, None, None]
            sources.append(LayerSource(name, "linear", array, key=key, owner=owners.get(name, "")))
    return sources


@torch.no_grad()
def _weight(layer: torch.nn.Module) -> torch.Tensor:
    """The weight that a layer computes with in evaluation mode. Nothing of it is changed.

    Hooks of ``torch.nn.utils`` compute one before each call: what lies there is that of the last call, before another
    checkpoint was loaded, say. Spectral norm as a parametrisation goes on in training mode with each look at it.
    """
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            return cast("torch.Tensor", hook.compute_weight(layer))
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            return hook.compute_weight(layer, do_power_iteration=False)
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == "weight":
            return cast("torch.Tensor", hook.apply_mask(layer))  # type: ignore[no-untyped-call]
    parts = list(layer.parametrizations.modules()) if is_parametrized(layer, "weight") else []  # type: ignore[union-attr]
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        return cast("torch.Tensor", layer.weight)
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def _unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    # The front end takes long to import, and is not needed for a state dict.
    from sw.compress.frontend.capture import unwrapped

    return unwrapped(module)


def about_sources(sources: Iterable[LayerSource]) -> dict[str, Any]:
    """What a file's metadata say of layers whose weight :func:`msvq.decompress` would give otherwise; nothing of none.

    ``conv1d``: convolutions of one axis. ``keys``: the weight's key of layers where it is not ``NAME.weight``.
    ``derived``: layers whose weight is in no state dict; ``factors``: of these, those that have an earlier one's.
    """
    sources = list(sources)
    found = {
        CONV1D: [source.name for source in sources if source.one_axis],
        KEYS: {source.name: source.key for source in sources if source.key},
        DERIVED: [source.name for source in sources if source.key is None and not source.owner],
        FACTORS: [source.name for source in sources if source.key is None and source.owner],
    }
    return {field: value for field, value in found.items() if value}


def own_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a network by the keys that its ``load_state_dict`` takes, whatever hooks make of its state.

    Of a ``.pt2`` file's network (:func:`sw.compress.frontend.raise_program`), that of which it was exported.
    """
    known = module.meta.get(STATE) if isinstance(module, torch.fx.GraphModule) else None
    found = {}
    for path, part in module.named_modules(remove_duplicate=False):
        buffers = {name: each for name, each in part._buffers.items() if name not in part._non_persistent_buffers_set}
        for name, tensor in (*part._parameters.items(), *buffers.items()):
            key = f"{path}.{name}" if path else name
            key = key if known is None else known.get(key, "")
            if tensor is not None and key:
                found[key] = tensor
    return found


def keys_of_layers(keys: Iterable[str]) -> dict[str, str]:
    """For each key of a state dict the layer whose weight it would be, and the key: ``.weight`` comes first."""
    keys = list(keys)
    return {_layer_of(key): key for key in keys} | {_layer_of(key): key for key in keys if key.endswith(".weight")}


def layer_names(module: torch.nn.Module) -> list[str]:
    """Names that a layer of a network may get: its modules', and those of tensors that a function multiplies by.

    One of neither is called ``layer``. Which of them are layers, its graph tells.
    """
    network = _unwrapped(module)
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    return [*dict(network.named_modules()), *(re.sub(r"[._]?weight$", "", name) for name in tensors), "layer"]


def check_network_rules(
    module: torch.nn.Module, rules: Sequence[tuple[str, Recipe]], others: Iterable[str] = ()
) -> None:
    """Refuse a rule for no layer of a network, as far as its modules tell: :func:`sw.compress.methods.check_rules`.

    Whether a layer is called again, only the network's graph does: :func:`sw.compress.training.modules.convert` of it
    refuses the rest.

    Parameters
    ----------
    module
        With layers, or with what may become one (:func:`layer_names`).
    rules
        As for :func:`sw.compress.methods.recipe_for`.
    others
        More names that a rule may have, such as of layers that a graph of the network leaves out.

    Raises
    ------
    CompressError
        It names the pattern, and the layers.
    """
    check_rules(rules, module_sources(module, geometry=False), [*layer_names(module), *others], calls=True)


def copy_network(network: torch.nn.Module) -> torch.nn.Module:
    """A copy with tensors of its own, of computed ones, too, such as those of ``torch.nn.utils.weight_norm``.

    Functions that were set on a module, such as another ``forward``, and hooks call the copy's modules in it.

    Raises
    ------
    CompressError
        A module keeps what cannot be copied, such as a lock or an open file.
    """
    kept = tree_leaves([list(vars(module).values()) for module in network.modules()])
    computed = {id(each): each.detach().clone() for each in kept if torch.is_tensor(each) and not each.is_leaf}
    # From here on the memo: of what is copied, by its id, the copy.
    values: dict[int, Any] = dict(computed)
    try:
        copied: torch.nn.Module = copy.deepcopy(network, values)
    except Exception as error:  # objects raise errors of every kind where they cannot be copied
        raise CompressError(_not_copied(network, computed, error)) from error
    for module in copied.modules():
        places: tuple[dict[Any, Any], ...] = (vars(module), module._forward_hooks, module._forward_pre_hooks)
        for place in places:
            functions = {name: each for name, each in place.items() if isinstance(each, FunctionType)}
            place.update({name: _of_copy(each, values) for name, each in functions.items()})
    return copied


def _not_copied(network: torch.nn.Module, values: Mapping[int, Any], error: Exception) -> str:
    """Why a network cannot be copied: what of it."""
    place = "the network"
    for name, module in network.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in ("_modules", "_parameters", "_buffers")}
        for key, value in own.items():
            try:
                copy.deepcopy(value, dict(values))
            except Exception:
                place = f"{key!r} of module {name!r}" if name else f"{key!r} of the network"
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return (
        f"the network cannot be copied, which leaves it as it is: {place} ({reason}): keep that elsewhere, or give its"
        " class a __deepcopy__"
    )


def _of_copy(value: Any, copies: dict[int, Any]) -> Any:
    """A function that has the copies of modules, their methods and tensors in the place of what it encloses or names.

    Python copies functions as they are: they would compute with the network itself, and change its statistics. What
    reaches nothing of the network, and what is no function, is returned itself.
    """
    if isinstance(value, torch.nn.Module | torch.Tensor):
        return copies.get(id(value), value)
    if isinstance(value, MethodType) and id(value.__self__) in copies:
        return MethodType(value.__func__, copies[id(value.__self__)])
    if not isinstance(value, FunctionType):
        return value
    if id(value) in copies:
        return copies[id(value)]
    # It may enclose itself.
    copies[id(value)] = value
    enclosed = {i: cell for i, cell in enumerate(value.__closure__ or ()) if cell != CellType()}
    named = {name: value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__}
    parts: list[dict[Any, Any]] = [
        {i: cell.cell_contents for i, cell in enclosed.items()},
        {name: each for name, each in named.items() if not isinstance(each, FunctionType)},
        dict(enumerate(value.__defaults__ or ())),
        value.__kwdefaults__ or {},
        vars(value),
    ]
    found = [{key: _of_copy(each, copies) for key, each in part.items()} for part in parts]
    if all(ours[key] is each for ours, part in zip(found, parts, strict=True) for key, each in part.items()):
        return value
    inside, space, defaults, named_defaults, attributes = found
    cells = tuple(CellType(inside[i]) if i in inside else CellType() for i in range(len(value.__closure__ or ())))
    names = value.__globals__ | space
    made = FunctionType(value.__code__, names, value.__name__, tuple(defaults.values()) or None, cells)
    made.__kwdefaults__ = named_defaults or None
    made.__dict__.update(attributes)
    for i, each in inside.items():
        if each is value:
            cells[i].cell_contents = made
    copies[id(value)] = made
    return made


def own_class(module: torch.nn.Module) -> None:
    """Give a module with parametrisations a class of its own, in place.

    It computes the weight, and copies of a module share it: taken off one of them, it would be gone from all.
    """
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))


def tied_layers(module: torch.nn.Module) -> dict[str, str]:
    """From each layer that shares the weight parameter of an earlier one to the first with it, by name."""
    first: dict[int, str] = {}
    found = {}
    for name, layer in _unwrapped(module).named_modules():
        # One that is computed (parametrised) is another tensor each time.
        weight = layer._parameters.get("weight")
        if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Linear) and weight is not None:
            owner = first.setdefault(id(weight), name)
            if owner != name:
                found[name] = owner
    return found


def state_dict_sources(tensors: Mapping[str, Any]) -> list[LayerSource]:
    """The layers of a state dict: float tensors named ``*weight``; two axes are a linear layer, more a convolution.

    Their names go without ``.weight`` or, as an attention's ``in_proj_weight``, ``_weight``. Three axes are a
    convolution of one row, as in :func:`module_sources`.

    A state dict has no geometry: stride and dilation are taken as 1, padding as 0. A convolution with one input channel
    and a kernel of more than one weight is taken as depthwise, but for the first convolution of a network that reads
    grey images: one where none reads three channels. Nor does it say what is an embedding, which is taken for a linear
    layer; one that is called so is named in a warning.

    Raises
    ------
    CompressError
        A weight is NaN or infinite, quantised or complex, a tensor that is not dense, or computed from others, as of
        weight norm.
    """
    sources = []
    shapes = [tuple(tensor.shape) for tensor in tensors.values() if isinstance(tensor, torch.Tensor | np.ndarray)]
    grey, first = not any(len(shape) == 4 and shape[1] == 3 for shape in shapes), True
    _check_computed(tensors)
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not key.endswith("weight"):
            continue
        if not isinstance(tensor, torch.Tensor | np.ndarray) or tensor.ndim not in (2, 3, 4):
            continue
        name = _layer_of(key)
        if not plain_floats(tensor):
            kind = tensor.dtype.name if isinstance(tensor, np.ndarray) else str(tensor.dtype).removeprefix("torch.")
            # "void" is what numpy reads bfloat16 of an archive as.
            if kind.startswith((*_QUANTISED, "float", "complex", "void")) or key.endswith("qweight"):
                # Left out, a quantised layer would be missing in the container without a word.
                raise CompressError(must_be_floats(f"layer {name.removesuffix('.q')!r}: weight", kind))
            continue
        array = _array(name, tensor)
        key = "" if key == f"{name}.weight" else key
        if array.ndim == 2:
            sources.append(LayerSource(name=name, kind="linear", weight=array[:, :, None, None], key=key))
        else:
            one_axis = array.ndim == 3
            array = array[:, :, None] if one_axis else array
            depthwise = array.shape[1] == 1 and math.prod(array.shape[2:]) > 1 and not (grey and first)
            first = False
            groups = array.shape[0] if depthwise else 1
            sources.append(LayerSource(name, "conv", array, groups=groups, one_axis=one_axis, key=key))
    _warn_of_embeddings(tensors, sources)
    return sources


def _check_computed(tensors: Mapping[str, Any]) -> None:
    """Refuse weights that the network computes from other tensors: left out, they would be missing without a word."""
    # As the last parts of keys: what PyTorch's weight norm, spectral norm and pruning keep.
    for kept, beside in (("v", "g"), ("orig", "u"), ("orig", "mask")):
        for key in tensors:
            name = key.removesuffix(f"weight_{kept}") if isinstance(key, str) else key
            if name != key and f"{name}weight_{beside}" in tensors and f"{name}weight" not in tensors:
                raise _computed(f"{name}weight", f"weight_{kept} and weight_{beside}")
    for key in tensors:
        found = re.fullmatch(r"(.*?)parametrizations\.(\w*weight)\.original\d*", key) if isinstance(key, str) else None
        if found is not None:
            raise _computed(found[1] + found[2], key.removeprefix(found[1]))


def _computed(key: str, given: str) -> CompressError:
    advice = "give the network itself, not its state dict"
    return CompressError(f"layer {_layer_of(key)!r}: weight must be there, not be computed from {given}: {advice}")


def _warn_of_embeddings(tensors: Mapping[str, Any], sources: Sequence[LayerSource]) -> None:
    """Name the layers that are called as embeddings are. These have no bias."""
    found = []
    for source in sources:
        words = source.name.rpartition(".")[2].lower().split("_")
        if source.kind == "linear" and f"{source.name}.bias" not in tensors and not _EMBEDDINGS.isdisjoint(words):
            found.append(repr(source.name))
    if found:
        warnings.warn(
            f"{', '.join(found)[:200]} {'is' if len(found) == 1 else 'are'} taken for linear layers: a state dict does"
            " not say what is an embedding; give the network itself, and embeddings are left as they are",
            stacklevel=3,
        )


def warn_of_others(given: torch.nn.Module | Mapping[Any, Any], sources: Sequence[LayerSource]) -> None:
    """Say which matrices of weights are of no layer, so that they are in no file and in no ratio; nothing of none.

    Parameters
    ----------
    given
        A network, or its state dict.
    sources
        Its layers.
    """
    tensors: dict[Any, torch.Tensor | NDArray[Any]]
    if isinstance(given, torch.nn.Module):
        network, names = _unwrapped(given), {source.name for source in sources}
        layers = [layer for name, layer in network.named_modules() if name in names]
        own = {id(parameter) for layer in layers for parameter in layer.parameters()}
        parameters = network.named_parameters()
        tensors = {
            key: each for key, each in parameters if id(each) not in own and not torch.nn.parameter.is_lazy(each)
        }
    else:
        keys = {source.key or f"{source.name}.weight" for source in sources} | {source.key for source in sources}
        kinds = torch.Tensor | np.ndarray
        tensors = {key: each for key, each in given.items() if key not in keys and isinstance(each, kinds)}
    others = {
        str(key): math.prod(tensor.shape)
        for key, tensor in tensors.items()
        if sum(extent > 1 for extent in tensor.shape) > 1 and plain_floats(tensor)
    }
    if others:
        largest = sorted(others, key=lambda key: -others[key])
        count, whole = sum(others.values()), sum(source.weight.size for source in sources)
        warnings.warn(
            f"{count:,} of {count + whole:,} weights are of no Conv2d, Conv1d or Linear: {some_of(largest)}"
            " stay as they are, and are not in the file",
            stacklevel=4,
        )


def _layer_of(key: str) -> str:
    """The name of the layer to which a weight of this key belongs."""
    return re.sub("[._]?weight$", "", key) or key


def _array(name: str, tensor: torch.Tensor | NDArray[Any]) -> NDArray[np.float32]:
    if isinstance(tensor, np.ndarray):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which LayerSource names
            return np.ascontiguousarray(tensor, dtype=np.float32)
    if torch.nn.parameter.is_lazy(tensor):
        raise CompressError(f"layer {name!r}: weight must be initialised: have the network compute one image first")
    if tensor.is_meta or tensor.layout != torch.strided:
        found = "a meta tensor, which has no values" if tensor.is_meta else tensor.layout
        raise CompressError(f"layer {name!r}: weight must be a dense tensor (torch.strided), not {found}")
    if not plain_floats(tensor):
        raise CompressError(must_be_floats(f"layer {name!r}: weight", str(tensor.dtype).removeprefix("torch.")))
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())


def _pair(value: Sequence[int], row: int) -> tuple[int, int]:
    """A value for rows and for columns; ``row`` where only columns are given."""
    rows, columns = (row, *value)[-2:]
    return int(rows), int(columns)


def _padding(name: str, layer: torch.nn.Conv1d | torch.nn.Conv2d, strict: bool) -> tuple[int, int]:
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        spans = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(span % 2 for span in spans):
            if not strict:
                return 0, 0
            raise CompressError(f"layer {name!r}: padding 'same' must be the same on both sides, so the kernel odd")
        return _pair([span // 2 for span in spans], 0)
    assert not isinstance(layer.padding, str)
    return _pair(layer.padding, 0)
