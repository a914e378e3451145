"""What becomes of a network's layers and operations, and all that is refused: told in seconds, before any work."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from sw.compress.frontend import FrontEndError, Refusal, observe, same, unwrapped
from sw.compress.frontend.inputs import Given, first_samples, mapped, no_images
from sw.compress.methods import NO_LAYER, CompressError, LayerSource, Recipe, misfit, recipe_for, some_of
from sw.compress.network import copy_network, module_sources
from sw.compress.training.batches import tensors_of
from sw.compress.training.draws import seeded
from sw.compress.training.modules import fold_parametrisations
from sw.compress.training.operations import KINDS, place, roles_of
from sw.compress.training.prepare import IntegerForm, integer_form, prepare, to_integers

__all__ = ["Checked", "check_integer_form", "check_network_form"]

#: Forms of a network's file.
FORMS = ("program", "steps", "layers")

# Images that are computed in training mode, those that each module is called again with, and the share of the largest
# result by which float sums may be apart.
_SAMPLE, _FEW, _TOLERANCE = 16, 4, 1e-2

_DROPOUT = (
    *(torch.dropout, torch.dropout_, torch.feature_dropout, torch.feature_dropout_),
    *(functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d),
)


@dataclass(frozen=True)
class Checked:
    """What :func:`check_network_form` found."""

    #: One of :data:`FORMS`: ``program`` of integers, network in ``steps`` (a vision transformer), or ``layers`` alone.
    form: str
    #: Of each layer its name, kind and shape, the method that it gets, and why it has no codewords, if it has none.
    layers: list[dict[str, Any]]
    #: Of each operation where it is in the network and what becomes of it; empty where the network has no graph.
    operations: list[dict[str, str]]
    #: All reasons why the network's file can be no more than its layers; empty otherwise.
    refusals: list[Refusal]

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values, for JSON."""
        refusals = [{"where": each.where, "why": each.why, "advice": each.advice} for each in self.refusals]
        return {"form": self.form, "layers": self.layers, "operations": self.operations, "refusals": refusals}


def check_network_form(model: nn.Module, rules: Sequence[tuple[str, Recipe]], images: Tensor) -> Checked:
    """Say what would become of a network, without clustering or training.

    Parameters
    ----------
    model
        In floats. Its parametrised weights become plain ones; nothing else is changed.
    rules
        As for :func:`sw.compress.training.prepare.prepare`.
    images
        Some normalised floats ``[batch, C, rows, columns]`` that it takes.

    Raises
    ------
    CompressError
        The network does not take the images, it has no layer, a rule is for none, or a layer's weight cannot be
        compressed.
    """
    model = unwrapped(model)
    observe(model, images[:2])
    fold_parametrisations(model)
    form = integer_form(model, rules, images)
    graph, refusals = form.graph, form.refusals
    sources = module_sources(model if graph is None else graph)
    if not sources and refusals:
        raise FrontEndError(refusals)
    if not sources:
        raise CompressError(NO_LAYER)
    kind = "program" if not refusals else "steps" if _has_steps(model, form, images) else "layers"
    operations = [] if graph is None else _operation_rows(graph)
    layers = [_layer_row(sources, i, recipe_for(source.name, rules)) for i, source in enumerate(sources)]
    return Checked(kind, layers, operations, refusals if kind == "layers" else [])


def _operation_rows(graph: fx.GraphModule) -> list[dict[str, str]]:
    rows = []
    roles = roles_of(graph)
    for node in graph.graph.nodes:
        kind = "function" if node in roles.regions else roles.kinds[node]
        if kind != "output":
            where = place(node) if kind != "input" else ""
            rows.append({"operation": kind, "where": where, "becomes": KINDS.get(kind, kind)})
    return rows


def _layer_row(sources: Sequence[LayerSource], number: int, recipe: Recipe) -> dict[str, Any]:
    source = sources[number]
    unfit = reason = misfit(source, recipe)
    if unfit is None and recipe.stored == "int8":
        which = {0: ", the first layer's,", len(sources) - 1: ", the last layer's,"}.get(number, "")
        reason = f"its rule{which} keeps weights of {recipe.weight_bits} bits"
    return {
        "layer": source.name,
        "kind": source.kind,
        "shape": list(source.shape),
        "method": "int8" if unfit else recipe.method,
        "reason": reason,
    }


def check_integer_form(
    model: nn.Module, rules: Sequence[tuple[str, Recipe]], images: Given, *, trained: bool = False
) -> IntegerForm:
    """Refuse a network that will have no integer form, before any work.

    Arguments as :func:`sw.compress.training.prepare.integer_form`, which gives what is returned.

    Where it is to be ``trained``, a warning names what it does in training mode and its graph does not.

    Raises
    ------
    FrontEndError
        All that is refused.
    CompressError
        A rule is for no layer of the network's graph.
    """
    form = integer_form(model, rules, images)
    if form.refusals and not _has_steps(model, form, images):
        raise FrontEndError(form.refusals)
    if trained and form.graph is not None and not form.refusals:
        assert isinstance(images, Tensor)
        _warn_of_training(model, form.graph, images[:_SAMPLE])
    return form


class _WithoutDropout(TorchFunctionMode):
    """Dropout, which graphs keep, does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUT:
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)


@torch.no_grad()
def _computed(model: nn.Module, images: Tensor) -> Any:
    with seeded([0]), _WithoutDropout():
        return model(images.clone())


def _warn_of_training(model: nn.Module, graph: fx.GraphModule, images: Tensor) -> None:
    """Say what a network does in training mode beside dropout and batch norm, which its graph has not."""
    model = copy_network(model)
    fold_parametrisations(model)
    try:
        # A network that fails in training mode, as batch norm of one value does, is told by whoever tries a batch.
        model.train()
        if same(_computed(copy.deepcopy(graph).train(), images), _computed(model, images), _TOLERANCE):
            return
    except Exception:  # networks raise errors of every kind
        return
    kinds = dict(model.named_modules())
    found = [name for name, each in kinds.items() if isinstance(each, _BatchNorm) and not each.training]
    # The rest of the message says what is known without: a network may not stand its modules' being called again.
    with contextlib.suppress(Exception):
        model.eval()
        found = [*_other_in_training(model, images[:_FEW]), *found]
    names = [f"{name!r} ({type(kinds[name]).__name__})" if name else "the network itself" for name in found]
    where = f": look at {some_of(names)}" if names else ""
    warnings.warn(
        "in training mode the network computes something else than what is trained, its evaluation mode with dropout"
        f" and batch norm{where}",
        stacklevel=2,
    )


def _other_in_training(model: nn.Module, images: Tensor) -> list[str]:
    """The names of the innermost modules that give something else in training mode, for what they are given here.

    Each is called once more for each module that it is in, not the whole network for each module.
    """
    names, found, given = {module: name for name, module in model.named_modules()}, list[str](), dict[nn.Module, Any]()
    again = False

    def before(module: nn.Module, *arguments: Any) -> None:
        if not again:
            # What comes next may change them in place.
            given[module] = mapped(Tensor.clone, arguments)

    def after(module: nn.Module, arguments: Any, named: Any, result: Any) -> None:
        nonlocal again
        inside = f"{names[module]}." if names[module] else ""
        if again or names[module] in found or any(name.startswith(inside) for name in found):
            return
        again = True
        for each in module.modules():
            each.training = not isinstance(each, _BatchNorm)
        arguments, named = given.pop(module)
        # Some modules give None or a size beside their tensors.
        if not same(tensors_of(module(*arguments, **named)), tensors_of(result), _TOLERANCE):
            found.append(names[module])
        module.eval()
        again = False

    for module in names:
        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after, with_kwargs=True)
    _computed(model, images)
    return found


def _has_steps(model: nn.Module, form: IntegerForm, images: Given) -> bool:
    """Whether a network that is refused as one program is a vision transformer that can be written in steps."""
    if no_images(images) is not None or not any(isinstance(module, nn.LayerNorm) for module in model.modules()):
        return False
    try:
        sample = first_samples(images, 4)
        trial, reason = prepare(copy_network(model), [], sample, progress=False, form=form)
        return to_integers(trial, reason, sample).in_steps
    except Exception:  # copies and parts raise errors of every kind
        return False
