"""What becomes of a network's layers and operations, and all that is refused: told in seconds, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from sw.compress.frontend import FrontEndError, Refusal, unwrapped
from sw.compress.frontend.inputs import Given, first_samples, no_images
from sw.compress.methods import NO_LAYER, CompressError, LayerSource, Recipe, misfit, recipe_for
from sw.compress.network import copy_network, module_sources
from sw.compress.training.modules import fold_parametrisations
from sw.compress.training.operations import KINDS, place, roles_of
from sw.compress.training.prepare import IntegerForm, integer_form, prepare, to_integers

__all__ = ["Checked", "check_integer_form", "check_network_form"]

#: Forms of a network's file.
FORMS = ("program", "steps", "layers")


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
        The network has no layer, a rule is for none, or a layer's weight cannot be compressed.
    """
    model = unwrapped(model)
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


def check_integer_form(model: nn.Module, rules: Sequence[tuple[str, Recipe]], images: Given) -> IntegerForm:
    """Refuse a network that will have no integer form, before any work.

    Arguments as :func:`sw.compress.training.prepare.integer_form`, which gives what is returned.

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
    return form


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
