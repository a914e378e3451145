"""From weight tensors to compressed layers: VQ, MVQ, SSVQ, MSVQ, and uniform integers where none of them fits.

One core serves the four: group, prune if the method has masks, take magnitudes if it splits signs, cluster, quantise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.compress.grouping import group, ungroup
from sw.compress.kmeans import EMPTY_POLICIES, INITS, KMeansResult, kmeans_layers
from sw.compress.narrow import integer_codebook
from sw.compress.pruning import check_nm, nm_mask
from sw.compress.quantiser import quantise_channels
from sw.compress.ratio import StorageBits, storage_bits
from sw.format.layer import CODEWORD_BITS, METHODS, SIGN_SPLIT, CompressedLayer, geometry_fault

__all__ = [
    "MASKED",
    "NO_LAYER",
    "RECIPE_METHODS",
    "SCOPES",
    "SIGN_SPLIT",
    "CompressError",
    "LayerSource",
    "Recipe",
    "check_keep",
    "compress_layer",
    "compress_layers",
    "kept_recipe",
    "kept_weights",
    "misfit",
    "named",
    "recipe_bits",
    "recipe_for",
    "some_of",
]

#: Methods of a recipe. Beside those of a stored layer: ``pqf`` and ``dkm``, whose layers are stored as ``vq``, and
#: ``lsq2`` to ``lsq4``, stored as ``int8`` of 2 to 4 bits. What they add is in :mod:`sw.compress.training`: reordered
#: channels, assignments learned by attention, learned step sizes. Without training, ``dkm`` is ``vq``.
RECIPE_METHODS = (*METHODS, "pqf", "dkm", "lsq2", "lsq3", "lsq4")

#: Which layers share a codebook (MVQ section 4.1). ``layerwise``: none; ``crosslayer``: all of one recipe.
SCOPES = ("layerwise", "crosslayer")

#: Methods with an N:M mask.
MASKED = ("mvq", "msvq")

# What torch.compile puts into the names of the modules that it wraps.
_COMPILED = re.compile(r"(?:^|(?<=\.))_orig_mod\.|\._orig_mod$")


#: What is said of a network without layers.
NO_LAYER = "the network must have at least one convolution or linear layer, not 0"


class CompressError(ValueError):
    """A recipe or a weight tensor that cannot be used. The message names the field, its value and what is allowed."""


@dataclass(frozen=True)
class Recipe:
    """How layers are compressed.

    Parameters
    ----------
    method
        One of :data:`RECIPE_METHODS`; ``int8`` keeps all layers at 8 bit.
    k, d
        Codewords, 1..65536, and codeword length, 1..256.
    n, m
        N of every M weights are kept; m divides d. Masked methods prune with it. For the others it only says on which
        weights the error of the kept weights is measured, so that methods can be compared; 0, 0 for none.
    iterations, seed, init, empty
        As in :func:`sw.compress.kmeans.kmeans`.
    scope
        One of :data:`SCOPES`; for ``pqf`` and ``dkm`` ``layerwise`` only.
    codeword_bits
        Bits of a weight that a codeword stands for, 2..8, its sign counted in: a method that splits signs has
        magnitudes of one bit less. 8 for methods without codewords.
    uniform_bits
        Bits of a weight of a layer that gets no codewords, because its method is ``int8`` or it does not fit, 5..8: 7
        are -63..63, which an array of 4-bit weights takes in two digits, where 8 bits take three
        (:mod:`sw.program.digits`).

    Raises
    ------
    CompressError
        A field has a wrong type or is out of range. A bad N:M raises its subclass of ValueError
        (:func:`sw.compress.pruning.check_nm`).
    """

    method: str = "mvq"
    k: int = 512
    d: int = 16
    n: int = 4
    m: int = 16
    iterations: int = 20
    seed: int = 0
    init: str = "k-means++"
    empty: str = "farthest"
    scope: str = "layerwise"
    codeword_bits: int = 8
    uniform_bits: int = 8

    def __post_init__(self) -> None:
        choices = (("method", RECIPE_METHODS), ("init", INITS), ("empty", EMPTY_POLICIES), ("scope", SCOPES))
        for field, allowed in choices:
            value = getattr(self, field)
            if not isinstance(value, str) or value not in allowed:
                raise CompressError(f"{field} must be one of {', '.join(allowed)}, not {value!r}")
        ranges = (("k", 1, 65536), ("d", 1, 256), ("n", 0, 256), ("m", 0, 256), ("codeword_bits", *CODEWORD_BITS))
        others = (("uniform_bits", 5, 8), ("iterations", 0, 10**6), ("seed", 0, 2**63 - 1))
        for field, low, high in (*ranges, *others):
            value = getattr(self, field)
            if type(value) is not int or not low <= value <= high:
                raise CompressError(f"{field} must be an integer in {low}..{high}, not {value!r}")
        if self.codeword_bits != 8 and self.stored == "int8":
            raise CompressError(
                f"codeword_bits must be 8 for method {self.method}, which has no codewords, not {self.codeword_bits}"
            )
        if self.scope == "crosslayer" and self.method in ("pqf", "dkm"):
            raise CompressError(f"scope must be layerwise for method {self.method}, not {self.scope!r}")
        if self.masked:
            check_nm(self.n, self.m, self.d)
        elif (self.n, self.m) != (0, 0):
            check_nm(self.n, self.m, self.m)

    @property
    def stored(self) -> str:
        """The method of the layers, one of :data:`sw.format.layer.METHODS`."""
        if self.method in METHODS:
            return self.method
        return "int8" if self.method.startswith("lsq") else "vq"

    @property
    def weight_bits(self) -> int:
        """Bits of a weight that has no codeword: 2 to 4 for ``lsq2`` to ``lsq4``, otherwise :attr:`uniform_bits`."""
        return int(self.method[3:]) if self.method.startswith("lsq") else self.uniform_bits

    @property
    def masked(self) -> bool:
        """The method prunes."""
        return self.method in MASKED

    @property
    def signed(self) -> bool:
        """The method splits signs."""
        return self.method in SIGN_SPLIT


@dataclass(frozen=True)
class LayerSource:
    """The weights of one layer of a network, before compression.

    Parameters
    ----------
    name, kind, stride, padding, dilation, groups
        As in :class:`sw.format.layer.CompressedLayer`.
    weight
        float32 ``[K, C, R, S]``, finite; R = S = 1 for ``linear``.
    one_axis
        Whether the network's weight is ``[K, C, S]``, of a convolution of one axis; R = 1 then.
    key
        Of the weight in the network's state dict, ``name.weight`` if empty; None of one that is computed, and so is in
        none.
    owner
        The name of the first layer that has the same weight parameter, whose recipe counts; empty if it is this one.

    Raises
    ------
    CompressError
        The weight is not a float32 array of four axes, is empty, NaN or infinite; or another field is out of range, by
        the rules of :class:`sw.format.layer.CompressedLayer`.
    """

    name: str
    kind: str
    weight: NDArray[np.float32]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    one_axis: bool = False
    key: str | None = ""
    owner: str = ""

    def __post_init__(self) -> None:
        weight = self.weight
        if not isinstance(weight, np.ndarray) or weight.dtype != np.float32:
            found = type(weight).__name__
            if isinstance(weight, np.ndarray):
                found = weight.dtype.name
                if not weight.dtype.isnative:
                    found += f" in foreign byte order ({weight.dtype.str})"
            raise CompressError(f"layer {self.name!r}: weight must be a float32 array, not {found}")
        if weight.ndim != 4 or not weight.size:
            raise CompressError(f"layer {self.name!r}: weight must be [K, C, R, S], not {list(weight.shape)}")
        if not np.isfinite(weight).all():
            raise CompressError(f"layer {self.name!r}: weight must be finite, not NaN or infinite")
        fault = geometry_fault(self.name, self.kind, self.shape, self.stride, self.padding, self.dilation, self.groups)
        if fault:
            raise CompressError(f"layer {self.name!r}: {fault}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``[K, C, R, S]``."""
        K, C, R, S = self.weight.shape
        return K, C, R, S

    @property
    def geometry(self) -> dict[str, Any]:
        """What a compressed layer has of it beside its weights: fields of :class:`sw.format.layer.CompressedLayer`."""
        names = ("name", "kind", "shape", "stride", "padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}


def misfit(source: LayerSource, recipe: Recipe) -> str | None:
    """Why a recipe cannot compress a layer, so that it is kept without codewords; None if it can.

    In this order: ``depthwise``: one input channel a group, so that the weights of a subvector share no activation;
    ``channels``: d does not divide the output channels of a group, so that a subvector would cross groups;
    ``subvectors``: fewer than k; ``size``: indices, masks, signs and codebook together take as many bits as without
    codewords, or more.
    The last two do not count a codebook that layers share.
    """
    if recipe.stored == "int8":
        return None
    K, C, R, S = source.shape
    if source.groups > 1 and C == 1:
        return "depthwise"
    if K // source.groups % recipe.d:
        return f"channels: {K // source.groups} is not a multiple of d = {recipe.d}"
    NG = K * C * R * S // recipe.d
    shared = recipe.scope == "crosslayer"
    if recipe.k > NG and not shared:
        return f"subvectors: {NG} are fewer than k = {recipe.k}"
    bits = recipe_bits(K * C * R * S, recipe)
    if shared:
        bits = replace(bits, codebook=0)
    if bits.per_weight >= recipe.uniform_bits:
        return f"size: {bits.per_weight:.2f} bits a weight {'without' if shared else 'with'} the codebook"
    return None


def kept_recipe(recipe: Recipe) -> Recipe:
    """The recipe of layers that are kept without codewords beside others that have this one."""
    return Recipe("int8", uniform_bits=recipe.uniform_bits)


def recipe_bits(weights: int, recipe: Recipe, *, masked: bool | None = None) -> StorageBits:
    """Bits of a layer of so many weights by a recipe with codewords (:func:`sw.compress.ratio.storage_bits`).

    ``masked``: whether masks are stored, where that is not for the method to say.
    """
    return storage_bits(
        weights,
        d=recipe.d,
        k=recipe.k,
        n=recipe.n,
        m=recipe.m,
        masked=recipe.masked if masked is None else masked,
        signed=recipe.signed,
        codeword_bits=recipe.codeword_bits,
    )


def kept_weights(weight: NDArray[np.float32], n: int, m: int) -> NDArray[np.bool_] | None:
    """Mask of the weights that N:M pruning keeps, bool ``[K, C, R, S]``; None if m does not divide K or is 0.

    The same for every codeword length, because d is a multiple of m.
    """
    K, C, R, S = weight.shape
    if m == 0 or K % m:
        return None
    return ungroup(nm_mask(group(weight, m), n, m), (K, C, R, S))


def recipe_for(name: str, rules: Sequence[tuple[str, Recipe]]) -> Recipe:
    """The recipe of the first rule whose shell pattern matches the layer's name; 8 bit if none does."""
    for pattern, recipe in rules:
        if named(name, pattern):
            return recipe
    return Recipe("int8")


def some_of(names: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def named(name: str, pattern: str) -> bool:
    """Whether a shell pattern matches a layer's name, with or without what ``torch.compile`` put into it."""
    return fnmatchcase(name, pattern) or fnmatchcase(_COMPILED.sub("", name), pattern)


def check_keep(keep: Sequence[str], sources: Sequence[LayerSource]) -> None:
    """Refuse a shell pattern that matches no layer's name, such as one that is misspelt.

    Raises
    ------
    CompressError
        It names the pattern, and the layers; or there is none.
    """
    names = [source.name for source in sources]
    for pattern in keep:
        if not any(named(name, pattern) for name in names):
            if not names:
                raise CompressError(NO_LAYER)
            raise CompressError(f"keep must match a layer, not {pattern!r}; layers are {', '.join(names)[:200]}")


def check_rules(
    rules: Sequence[tuple[str, Recipe]],
    sources: Sequence[LayerSource],
    modules: Iterable[str] = (),
    *,
    calls: bool = False,
) -> None:
    """Refuse a rule for no layer, such as a misspelt one: what it was meant for would stay at 8 bit without a word.

    Parameters
    ----------
    rules
        As for :func:`recipe_for`.
    sources
        The network's layers.
    modules
        Names that may become layers, too (:func:`sw.compress.network.layer_names`).
    calls
        Any of them may be called again, which only a graph of the network tells: the second call of a layer ``c`` is a
        layer ``c_call2`` of its own, the third ``c_call2_2``.

    Raises
    ------
    CompressError
        It names the pattern, and the layers; or there is none.
    """
    names = [source.name for source in sources]
    known = [*names, *modules]
    plain = [_COMPILED.sub("", name) for name in known]
    again = [name + call for name in plain for call in ("_call2", "_call2_2")] if calls else []
    for pattern, _ in rules:
        # Of the fourth call on they differ by a number.
        third = re.sub(r"_call2_\d+$", "_call2_2", pattern)
        if not any(named(name, pattern) for name in known) and not any(named(name, third) for name in again):
            if not known:
                # The network is at fault: the rule may be one of those that a command makes.
                raise CompressError(NO_LAYER)
            listed = ", ".join(names)[:200] or "none that are modules"
            raise CompressError(f"rule {pattern!r} must match a layer; layers are {listed}")


def compress_layer(source: LayerSource, recipe: Recipe, *, threads: int | None = None) -> CompressedLayer:
    """Compress one layer: :func:`compress_layers` of it alone."""
    return compress_layers([source], [recipe], threads=threads)[0]


def compress_layers(
    sources: Sequence[LayerSource],
    recipes: Sequence[Recipe],
    *,
    threads: int | None = None,
    device: str = "cpu",
    done: Callable[[], None] | None = None,
) -> list[CompressedLayer]:
    """Compress layers, each by its recipe. The same sources and recipes give the same bytes on any number of threads.

    Layers whose clustering has the same settings are clustered in one call (:func:`sw.compress.kmeans.kmeans_layers`):
    the same bytes as one by one. A source that is there several times, with recipes that differ in ``codeword_bits``
    alone, is clustered once. Those of one crosslayer recipe are clustered as one, each divided by the root mean
    square of its kept weights first: without that, layers of small weights would get few codewords. Their codebook has
    one scale, times that of each layer.

    A layer that its recipe cannot compress comes back as method ``int8``, one scale a channel; :func:`misfit` says why.

    Parameters
    ----------
    sources, recipes
        What to compress, and how.
    threads, device
        As in :func:`sw.compress.kmeans.kmeans_layers`.
    done
        Called once for each layer that is done, from any thread.

    Raises
    ------
    CompressError
        The layers of a crosslayer recipe have fewer subvectors together than it has codewords.
    """
    done = done or (lambda: None)
    layers: dict[int, CompressedLayer] = {}
    batches: dict[Recipe, list[int]] = {}
    pools: dict[Recipe, list[int]] = {}
    for i, (source, recipe) in enumerate(zip(sources, recipes, strict=True)):
        if recipe.stored == "int8" or misfit(source, recipe) is not None:
            bits = recipe.weight_bits
            weights, scale = quantise_channels(source.weight, bits)
            layers[i] = _layer(source, method="int8", weights=weights, scale=scale, weight_bits=bits)
            done()
        elif recipe.scope == "crosslayer":
            pools.setdefault(replace(recipe, uniform_bits=8), []).append(i)
        else:
            # What the method and N:M do is done before the clustering, what codeword_bits does after it: recipes that
            # differ in these may share the call.
            batches.setdefault(replace(_wide(recipe), method="vq", d=1, n=0, m=0), []).append(i)
    for numbers in batches.values():
        # Recipes that differ in codeword_bits alone have one clustering of a source.
        keys = {i: (id(sources[i]), _wide(recipes[i])) for i in numbers}
        parts = {key: _Subvectors.of(sources[i], recipes[i]) for i, key in keys.items()}
        results = kmeans_layers(
            [part.values for part in parts.values()],
            masks=[part.masks for part in parts.values()],
            **_settings(recipes[numbers[0]]),
            threads=threads,
            device=device,
            # Narrow codewords are fitted to the values afterwards; 8 bits need masks and signs alone.
            overwrite=all(recipes[i].codeword_bits == 8 for i in numbers),
            done=done,
        )
        found = dict(zip(parts, results, strict=True))
        for i, key in keys.items():
            part, recipe = parts[key], recipes[i]
            layers[i] = part.layer(sources[i], recipe, *_integers(part.values, part.masks, found[key], recipe, threads))
        for _ in range(len(keys) - len(parts)):
            done()
    clustered: dict[Any, KMeansResult] = {}
    for number, (recipe, numbers) in enumerate(pools.items()):
        name = f"crosslayer-{number}"
        layers |= _crosslayer(name, recipe, {i: sources[i] for i in numbers}, threads, device, clustered)
        for _ in numbers:
            done()
    return [layers[i] for i in range(len(sources))]


def _wide(recipe: Recipe) -> Recipe:
    """The recipe with 8 bits: what its clustering depends on."""
    return replace(recipe, codeword_bits=8, uniform_bits=8)


def _integers(
    values: NDArray[np.float32],
    masks: NDArray[np.bool_] | None,
    found: KMeansResult,
    recipe: Recipe,
    threads: int | None,
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]:
    """Codebook, scale and assignments of a clustering by a recipe."""
    return integer_codebook(
        values,
        masks,
        found,
        magnitudes=recipe.signed,
        codeword_bits=recipe.codeword_bits,
        iterations=recipe.iterations,
        empty=recipe.empty,
        threads=threads,
    )


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in ("k", "iterations", "seed", "init", "empty")}


@dataclass(frozen=True, eq=False)
class _Subvectors:
    """What is clustered of a layer."""

    values: NDArray[np.float32]
    masks: NDArray[np.bool_] | None
    signs: NDArray[np.bool_] | None

    @classmethod
    def of(cls, source: LayerSource, recipe: Recipe) -> _Subvectors:
        values = group(source.weight, recipe.d)
        # For some shapes, such as one input, this is the source's own memory: what follows works in place.
        if np.may_share_memory(values, source.weight):
            values = values.copy()
        masks = nm_mask(values, recipe.n, recipe.m) if recipe.masked else None
        if not recipe.signed:
            return cls(values, masks, None)
        signs = np.signbit(values)
        if masks is not None:
            signs = signs[masks].reshape(len(masks), -1)
        return cls(np.abs(values, out=values), masks, signs)

    def layer(
        self,
        source: LayerSource,
        recipe: Recipe,
        codebook: NDArray[np.int8],
        scale: NDArray[np.float32],
        assignments: NDArray[np.int32],
        codebook_name: str | None = None,
    ) -> CompressedLayer:
        """The layer that decodes to these subvectors as nearly as the codebook can."""
        n, m = (recipe.n, recipe.m) if recipe.masked else (recipe.d, recipe.d)
        return _layer(
            source,
            method=recipe.stored,
            d=recipe.d,
            k=recipe.k,
            n=n,
            m=m,
            scale=scale,
            codebook=codebook,
            assignments=assignments,
            masks=self.masks,
            signs=self.signs,
            codebook_name=codebook_name,
            codeword_bits=recipe.codeword_bits,
        )


def _crosslayer(
    name: str,
    recipe: Recipe,
    sources: dict[int, LayerSource],
    threads: int | None,
    device: str,
    clustered: dict[Any, KMeansResult],
) -> dict[int, CompressedLayer]:
    """The layers of one codebook (MVQ section 4.1). ``clustered`` takes up the clustering, and gives it if it is there.

    It is by sources and recipe, but for ``codeword_bits``.
    """
    parts = {i: _Subvectors.of(source, recipe) for i, source in sources.items()}
    factors = {i: _root_mean_square(part) for i, part in parts.items()}
    values = np.concatenate([part.values / factors[i] for i, part in parts.items()])
    if recipe.k > len(values):
        raise CompressError(f"k must be at most the {len(values)} subvectors of its layers together, not {recipe.k}")
    kept = [part.masks for part in parts.values() if part.masks is not None]
    masks = np.concatenate(kept) if kept else None
    key = _wide(recipe), *map(id, sources.values())
    if key not in clustered:
        (clustered[key],) = kmeans_layers([values], masks=[masks], **_settings(recipe), threads=threads, device=device)
    found = clustered[key]
    codebook, scale, assignments = _integers(values, masks, found, recipe, threads)
    layers, first = {}, 0
    for i, part in parts.items():
        last = first + len(part.values)
        # A product of two small scales must not vanish.
        own = np.maximum(scale * factors[i], np.finfo(np.float32).tiny)
        layers[i] = part.layer(sources[i], recipe, codebook, own, assignments[first:last].copy(), name)
        first = last
    return layers


def _root_mean_square(part: _Subvectors) -> np.float32:
    """The scale of the kept weights; not below the smallest normal float32, so that zeros decode to next to nothing."""
    kept = (part.values if part.masks is None else part.values[part.masks]).astype(np.float64)
    return np.float32(max(np.sqrt((kept**2).mean()), np.finfo(np.float32).tiny))


def _layer(source: LayerSource, **fields: Any) -> CompressedLayer:
    """The compressed layer with these fields and the geometry of its source."""
    return CompressedLayer(**source.geometry, **fields)
