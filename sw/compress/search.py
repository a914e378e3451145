"""Mixed compression: which method, N:M, k and d each layer gets, so that a network fits into a number of bytes.

Every layer is compressed by every candidate. Among all choices whose file keeps within the budget, the one with the
least sum of ``sensitivity * squared error`` over the layers is the solution of a multiple-choice knapsack, which
:func:`scipy.optimize.milp` solves exactly. ``python -m sw.compress search``
(:mod:`sw.compress.commands.search`) is the command line.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.candidates import BITS, CANDIDATES, METHOD_CANDIDATES, with_codeword_bits
from sw.compress.methods import NO_LAYER, CompressError, LayerSource, Recipe, compress_layers, misfit, named
from sw.compress.network import progress_bar, tied_layers
from sw.format.container import container_size, layer_fields, section_bytes
from sw.format.layer import CompressedLayer

__all__ = [
    "BITS",
    "CANDIDATES",
    "METHOD_CANDIDATES",
    "REFERENCE",
    "SLACK",
    "Plan",
    "choose",
    "loss_sensitivity",
    "plan_json",
    "recalibrated",
    "search",
    "with_codeword_bits",
]


#: With which layers are compressed one by one to measure their sensitivity: an error of medium size, in any layer.
REFERENCE = Recipe("lsq3")


#: Bytes of a budget that are left free where the file is to have operations: after training, the numbers in those may
#: have more digits.
SLACK = 128


@dataclass(frozen=True)
class Plan:
    """What :func:`search` found."""

    #: By name of the layer; the method is ``int8`` where it stays at 8 bit.
    recipes: dict[str, Recipe]
    #: Of the file, to the byte.
    bytes: int
    #: Sum of ``sensitivity * squared error``, for a crosslayer codebook that is clustered with all layers it fits.
    error: float

    @property
    def rules(self) -> list[tuple[str, Recipe]]:
        """For :func:`sw.compress.training.modules.convert` and :func:`sw.compress.network.compress_network`."""
        return [(glob.escape(name), recipe) for name, recipe in self.recipes.items()]


@torch.no_grad()
def loss_sensitivity(
    model: nn.Module, layers: Sequence[CompressedLayer], images: Tensor, *, batch: int = 250, progress: bool = True
) -> dict[str, float]:
    """How much a squared error of 1 in each layer changes what the network says.

    For each layer, the mean divergence ``KL(p, q)`` of the network's softmax p from q, that of the network with this
    one layer compressed, divided by the layer's squared error. It needs no labels, and is never negative. Batch norms
    take their statistics from the images, with and without the error: recalibration
    (:func:`sw.compress.training.graph.recalibrate_batch_norm`) mends what an error does to those.

    Parameters
    ----------
    model
        Its layers have the names of ``layers``. Its weights are changed and put back.
    layers
        Compressed by one medium recipe, so that errors have a likely size.
    images
        Normalised floats, on the model's device.
    batch
        Images at a time, at the most.
    progress
        Show a bar on standard error.

    Raises
    ------
    CompressError
        A divergence is NaN or infinite.
    """
    # Parts of one size, or the statistics of the last would be of a few images.
    parts = images.chunk(-(-len(images) // batch))

    def outputs() -> Tensor:
        return torch.cat([model(part).float().log_softmax(-1) for part in parts])

    tied = tied_layers(model)
    owners = [tied.get(layer.name, layer.name) for layer in layers]
    shares = {layer.name: owners.count(owner) for layer, owner in zip(layers, owners, strict=True)}
    found = {}
    with recalibrated(model), progress_bar(progress) as bar:
        expected = outputs()
        for layer in bar.track(layers, description="sensitivity"):
            weight = model.get_parameter(f"{layer.name}.weight")
            original = weight.detach().clone()
            decoded = torch.from_numpy(layer.float_weights()).to(weight).reshape(weight.shape)
            error = float((decoded.double() - original.double()).square().sum())
            weight.copy_(decoded)
            try:
                divergence = functional.kl_div(outputs(), expected, reduction="batchmean", log_target=True)
            finally:
                weight.copy_(original)
            # Layers that share a weight were all changed: each has its part of the divergence.
            found[layer.name] = max(float(divergence), 0.0) / error / shares[layer.name] if error else 0.0
            if not math.isfinite(found[layer.name]):
                raise CompressError(f"layer {layer.name!r}: divergence must be finite, not {float(divergence)}")
    return found


@contextmanager
def recalibrated(model: nn.Module) -> Iterator[None]:
    """A network in evaluation mode, but for batch norms: those take each batch's own statistics, and keep none."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    training, tracking = model.training, [norm.track_running_stats for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, tracked in zip(norms, tracking, strict=True):
            norm.track_running_stats = tracked
        model.train(training)


def choose(
    sizes: Sequence[Sequence[int]],
    errors: Sequence[Sequence[float]],
    budget: int,
    shared: Sequence[Sequence[int | None]] | None = None,
    charges: Sequence[int] = (),
    charge_errors: Sequence[float] | None = None,
) -> list[int]:
    """One entry of each row, with the least sum of errors, whose sizes sum to at most the budget: exact.

    Parameters
    ----------
    sizes
        At least 0, a row a layer.
    errors
        At least 0, finite, in rows of the same lengths.
    budget
        In the unit of the sizes.
    shared
        For each entry the number of a charge, or None.
    charges
        Sizes that count once if any chosen entry has that number: codebooks that layers share.
    charge_errors
        What each charge adds to the sum of errors; nothing by default.

    Returns
    -------
    list
        The number of the chosen entry of each row. Of entries with equal size and error the first.

    Raises
    ------
    CompressError
        The least sizes sum to more than the budget.
    """
    least = sum(min(row) for row in sizes)
    if least > budget:
        raise CompressError(f"the budget must be at least {least}, the sum of the least sizes, not {budget}")
    if shared is None:
        shared = [[None] * len(row) for row in sizes]
    useful = [_undominated(*row) for row in zip(sizes, errors, shared, strict=True)]
    uses = [shared[i][j] for i, row in enumerate(useful) for j in row]
    size = np.array([sizes[i][j] for i, row in enumerate(useful) for j in row], np.float64)
    error = np.array([errors[i][j] for i, row in enumerate(useful) for j in row], np.float64)
    pools = np.eye(len(charges))
    # An entry can be chosen only where its charge is paid.
    paid = np.array([[*row, *-pools[use]] for row, use in zip(np.eye(len(size)), uses, strict=True) if use is not None])
    belongs: NDArray[np.float64] = np.zeros((len(useful), len(size) + len(charges)))
    ends = np.cumsum([len(row) for row in useful])
    for i, (end, row) in enumerate(zip(ends, useful, strict=True)):
        belongs[i, end - len(row) : end] = 1
    added = np.zeros(len(charges)) if charge_errors is None else np.array(charge_errors, np.float64)
    costs = np.concatenate([error, added]) / (error.max() or 1.0)
    weight = np.concatenate([size, np.array(charges, np.float64)])[None]
    allowed = budget
    while True:
        # The solver allows for an error of 1e-6 in each constraint: ask again for less where it made use of that.
        limits = [LinearConstraint(belongs, 1, 1), LinearConstraint(weight / budget, 0, allowed / budget)]
        if len(paid):
            limits.append(LinearConstraint(paid, -1, 0))
        found = milp(
            costs, integrality=np.ones(len(costs)), bounds=Bounds(0, 1), constraints=limits, options={"mip_rel_gap": 0}
        )
        if found.x is None:
            raise CompressError(f"the budget must be larger: no choice fits into {budget} bytes")
        picked = [int(np.argmax(found.x[end - len(row) : end])) for end, row in zip(ends, useful, strict=True)]
        chosen = [row[j] for row, j in zip(useful, picked, strict=True)]
        total = _total(sizes, shared, charges, chosen)
        if total <= budget:
            return chosen
        allowed -= total - budget


def _total(
    sizes: Sequence[Sequence[int]],
    shared: Sequence[Sequence[int | None]],
    charges: Sequence[int],
    chosen: Sequence[int],
) -> int:
    paid = {row[j] for row, j in zip(shared, chosen, strict=True)} - {None}
    return sum(row[j] for row, j in zip(sizes, chosen, strict=True)) + sum(charges[x] for x in paid if x is not None)


def _undominated(sizes: Sequence[int], errors: Sequence[float], shared: Sequence[int | None]) -> list[int]:
    """Entries that no other one without a charge, or with the same, beats or equals in both."""
    kept: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (sizes[i], errors[i], i)):
        if not any(errors[j] <= errors[i] and shared[j] in (None, shared[i]) for j in kept):
            kept.append(i)
    return kept


def _error_weights(
    sources: Sequence[LayerSource],
    budget: int,
    candidates: Sequence[Recipe],
    sensitivity: Mapping[str, float] | None,
) -> list[float]:
    """Weight of each layer's squared error; a CompressError for arguments of :func:`search` that are out of range."""
    if type(budget) is not int or budget < 1:
        raise CompressError(f"budget must be an integer of at least 1, not {budget!r}")
    for recipe in candidates:
        if recipe.method == "pqf":
            raise CompressError("candidates must not be of method pqf, which reorders channels of the whole network")
    if not sources:
        raise CompressError(NO_LAYER)
    weights = [1.0 if sensitivity is None else sensitivity.get(source.name, math.nan) for source in sources]
    for source, weight in zip(sources, weights, strict=True):
        if not (math.isfinite(weight) and weight >= 0):
            raise CompressError(f"sensitivity of layer {source.name!r} must be finite and at least 0, not {weight!r}")
    return weights


def search(
    sources: Sequence[LayerSource],
    budget: int,
    *,
    candidates: Sequence[Recipe] = CANDIDATES,
    sensitivity: Mapping[str, float] | None = None,
    keep: Sequence[str] = (),
    tied: Mapping[str, str] | None = None,
    uniform_bits: int | None = None,
    requantised: bool = False,
    metadata: Mapping[str, Any] | None = None,
    spare: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Plan:
    """A recipe for each layer, so that the network's file has at most ``budget`` bytes and the least error.

    The same arguments give the same plan on any number of threads.

    Parameters
    ----------
    sources
        Of the whole network.
    budget
        Bytes of the container, with everything in it.
    candidates
        A layer is not tried with those that do not fit it (:func:`sw.compress.methods.misfit`); 8 bit is always tried.
        For a crosslayer recipe, all layers that it fits are clustered together; the bytes of its codebook count once,
        if a layer takes it. Not ``pqf``.
    sensitivity
        Weight of each layer's squared error, by name (:func:`loss_sensitivity`); 1 for all by default.
    keep
        Shell patterns of layers that stay at 8 bit.
    tied
        Of layers that share one weight, each but the first to the first
        (:func:`sw.compress.network.tied_layers`). They are one in the plan: one recipe, one codebook, as training has
        them.
    uniform_bits
        Bits of a weight of layers without codewords, 5..8, in place of the candidates' own: 7 where the file is for an
        array of 4-bit weights (:class:`sw.compress.methods.Recipe`).
    requantised, metadata
        Whether the file is to have each layer's requantisation, and the writer's own data in it: they take bytes, too.
    spare
        Bytes of the budget that are left free.
    threads, device
        As in :func:`sw.compress.methods.compress_layers`.
    progress
        Show a bar on standard error.

    Raises
    ------
    CompressError
        An argument is out of range, or the budget is too small for the smallest candidates.
    """
    weights = _error_weights(sources, budget, candidates, sensitivity)
    tried = list(dict.fromkeys([Recipe("int8"), *candidates]))
    if uniform_bits is not None:
        tried = list(dict.fromkeys(dataclasses.replace(recipe, uniform_bits=uniform_bits) for recipe in tried))
    # Layers that share a weight are one: its first stands for them.
    groups = _groups(sources, tied or {})
    kept = [any(named(sources[i].name, pattern) for pattern in keep for i in members) for members in groups]
    options: list[list[Recipe]] = [[] for _ in groups]
    fields: list[list[list[dict[str, Any]]]] = [[] for _ in groups]
    errors: list[list[float]] = [[] for _ in groups]
    firsts = [sources[members[0]] for members in groups]
    names: dict[Recipe, int] = {}
    with progress_bar(progress) as bar:
        task = bar.add_task("candidates", total=len(tried) * len(groups))
        # What differs in codeword_bits alone is clustered once.
        for _, same in itertools.groupby(tried, lambda recipe: dataclasses.replace(recipe, codeword_bits=8)):
            pairs: list[tuple[int, Recipe]] = []
            for recipe in same:
                fitting = [
                    i
                    for i, members in enumerate(groups)
                    if recipe.method == "int8" or not (kept[i] or any(misfit(sources[j], recipe) for j in members))
                ]
                if recipe.scope == "crosslayer" and recipe.k > sum(firsts[i].weight.size for i in fitting) // recipe.d:
                    fitting = []
                bar.advance(task, len(groups) - len(fitting))
                pairs += [(i, recipe) for i in fitting]
            layers = compress_layers(
                [firsts[i] for i, _ in pairs],
                [recipe for _, recipe in pairs],
                threads=threads,
                device=device,
                done=lambda: bar.advance(task),
            )
            for (i, recipe), layer in zip(pairs, layers, strict=True):
                # As `convert` stores it: a linear layer of integers has one scale, so that logits can be compared.
                scales = recipe.stored == "int8" and layer.kind == "conv" and len(layer.scale) > 1
                described = layer_fields(layer) | {"requantised": requantised, "channel_scales": scales}
                if layer.codebook_name is not None:
                    described["codebook"] = f"crosslayer-{names.setdefault(recipe, len(names))}"
                elif len(groups[i]) > 1 and recipe.stored != "int8":
                    described["codebook"] = f"tied-{layer.name}"
                options[i].append(recipe)
                fields[i].append([described | _own_fields(sources[j]) for j in groups[i]])
                difference = layer.float_weights() - firsts[i].weight.astype(np.float64)
                errors[i].append(sum(weights[j] for j in groups[i]) * float((difference**2).sum()))
    chosen = _within(fields, errors, budget, metadata, spare)
    while short := _short(firsts, options, chosen):
        # A codebook needs as many subvectors as codewords of the layers that took it.
        for i, row in enumerate(options):
            left = [j for j, recipe in enumerate(row) if recipe not in short]
            options[i], fields[i] = [row[j] for j in left], [fields[i][j] for j in left]
            errors[i] = [errors[i][j] for j in left]
        chosen = _within(fields, errors, budget, metadata, spare)
    recipes = {
        sources[i].name: row[j] for members, row, j in zip(groups, options, chosen, strict=True) for i in members
    }
    return Plan(
        {source.name: recipes[source.name] for source in sources},
        _size(fields, chosen, metadata),
        math.fsum(row[j] for row, j in zip(errors, chosen, strict=True)),
    )


def _groups(sources: Sequence[LayerSource], tied: Mapping[str, str]) -> list[list[int]]:
    """Numbers of the layers that share a weight, in the order of their first."""
    found: dict[str, list[int]] = {}
    for i, source in enumerate(sources):
        found.setdefault(tied.get(source.name, source.name), []).append(i)
    for members in found.values():
        first = sources[members[0]]
        for i in members[1:]:
            if not np.array_equal(first.weight, sources[i].weight):
                raise CompressError(f"layers {first.name!r} and {sources[i].name!r} are tied and must have one weight")
    return list(found.values())


def _own_fields(source: LayerSource) -> dict[str, Any]:
    """What layers of one weight may differ in, as the header has it."""
    geometry = {name: list(getattr(source, name)) for name in ("stride", "padding", "dilation")}
    return {"name": source.name, **geometry, "groups": source.groups}


def _short(sources: Sequence[LayerSource], options: Sequence[Sequence[Recipe]], chosen: Sequence[int]) -> set[Recipe]:
    """Crosslayer recipes whose layers have fewer subvectors together than codewords."""
    subvectors: Counter[Recipe] = Counter()
    for source, row, j in zip(sources, options, chosen, strict=True):
        if row[j].scope == "crosslayer":
            subvectors[row[j]] += source.weight.size // row[j].d
    return {recipe for recipe, count in subvectors.items() if count < recipe.k}


def _size(fields: list[list[list[dict[str, Any]]]], chosen: Sequence[int], metadata: Mapping[str, Any] | None) -> int:
    return container_size([each for row, j in zip(fields, chosen, strict=True) for each in row[j]], metadata)


def _within(
    fields: list[list[list[dict[str, Any]]]],
    errors: list[list[float]],
    budget: int,
    metadata: Mapping[str, Any] | None,
    spare: int,
) -> list[int]:
    """:func:`choose` for a budget of the whole file.

    What a layer takes in the header depends on the other layers' fields, of which the header states the most frequent
    ones once. So the choice starts from sections alone, and the header's bytes are taken off the budget until they fit.
    """
    charges: dict[str, int] = {}
    sizes: list[list[int]] = []
    for row in fields:
        sizes.append([])
        for members in row:
            # The second of two layers does not store a codebook that they share.
            each = members[0]
            first, second = section_bytes([each, each | {"name": each["name"] + "'"}])
            sizes[-1].append(second * len(members))
            if each["codebook"] is None:
                continue
            if each["codebook"].startswith("tied-"):
                sizes[-1][-1] += first - second
            else:
                charges[each["codebook"]] = first - second
    numbers = {name: i for i, name in enumerate(charges)}
    shared = [[numbers.get(members[0]["codebook"]) for members in row] for row in fields]
    prices = list(charges.values())
    everything = sum(map(max, sizes)) + sum(prices)
    smallest = choose(sizes, sizes, everything, shared, prices, prices)
    if (least := _size(fields, smallest, metadata) + spare) > budget:
        raise CompressError(
            f"the budget must be at least {least} bytes, which the smallest candidates take, not {budget}"
        )
    budget -= spare
    for_sections, best, best_error = budget, None, math.inf
    fewest = _total(sizes, shared, prices, smallest)
    seen = set()
    while for_sections not in seen and for_sections >= fewest:
        seen.add(for_sections)
        chosen = choose(sizes, errors, for_sections, shared, prices)
        over = _size(fields, chosen, metadata) - _total(sizes, shared, prices, chosen)
        error = math.fsum(row[j] for row, j in zip(errors, chosen, strict=True))
        if _size(fields, chosen, metadata) <= budget and error < best_error:
            best, best_error = chosen, error
        for_sections = budget - over
    while best is None:
        # The header grows and shrinks with the choice: give way by some bytes.
        for_sections -= 16
        chosen = choose(sizes, errors, for_sections, shared, prices) if for_sections >= fewest else smallest
        if _size(fields, chosen, metadata) <= budget:
            best = chosen
    return best


def plan_json(plan: Plan, **more: Any) -> dict[str, Any]:
    """A plan as plain Python values for JSON, and what else is to be said of it."""
    rules = [{"layer": name, "recipe": dataclasses.asdict(recipe)} for name, recipe in plan.recipes.items()]
    return {**more, "bytes": plan.bytes, "error": plan.error, "rules": rules}
