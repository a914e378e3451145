from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sw.compress.grouping import group, ungroup
from sw.compress.kmeans import KMeansError, kmeans, kmeans_layers, member_counts, objective
from sw.compress.methods import (
    CompressError,
    LayerSource,
    Recipe,
    check_rules,
    compress_layer,
    compress_layers,
    kept_recipe,
    kept_weights,
    misfit,
    recipe_for,
)
from sw.compress.pruning import PruningError, nm_mask
from sw.compress.quantiser import quantise_codebook
from sw.compress.ratio import layer_bits, sum_bits
from sw.format.layer import CompressedLayer, LayerError


def source(K: int = 32, C: int = 16, R: int = 3, S: int = 3, **fields: Any) -> LayerSource:
    weight = np.random.default_rng(0).standard_normal((K, C, R, S)).astype(np.float32)
    return LayerSource("layer", "conv", weight, **fields)


@pytest.mark.parametrize("method", ["vq", "mvq", "ssvq", "msvq"])
def test_layer_holds_what_the_method_says(method: str) -> None:
    given = source(stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    recipe = Recipe(method, k=32, d=8, n=2, m=4)
    layer = compress_layer(given, recipe)
    assert layer.method == method
    assert (layer.shape, layer.stride, layer.padding, layer.dilation) == ((32, 16, 3, 3), (2, 1), (1, 0), (1, 2))
    assert (layer.k, layer.d) == (32, 8)
    masked, signed = method in ("mvq", "msvq"), method in ("ssvq", "msvq")
    assert (layer.n, layer.m) == ((2, 4) if masked else (8, 8))
    subvectors = group(given.weight, 8)
    decoded = group(layer.integer_weights(), 8)
    expected = nm_mask(subvectors, 2, 4)
    if masked:
        np.testing.assert_array_equal(layer.masks, expected)
        assert (decoded[~expected] == 0).all()
    else:
        assert layer.masks is None
    if signed:
        used = expected if masked else np.ones_like(expected)
        assert (decoded[used] * subvectors[used] >= 0).all()
        assert layer.signs is not None
    else:
        assert layer.signs is None


def test_masked_methods_beat_common_clustering_of_pruned_weights() -> None:
    given = source(64, 64, 3, 3)
    kept = kept_weights(given.weight, 4, 16)
    assert kept is not None
    pruned = np.where(kept, given.weight, 0)

    def error(method: str, k: int, d: int) -> float:
        layer = compress_layer(given, Recipe(method, k=k, d=d, n=4, m=16))
        return float(((layer.float_weights() - given.weight)[kept] ** 2).sum())

    common = compress_layer(LayerSource("layer", "conv", pruned), Recipe("vq", k=128, d=16, n=0, m=0))
    common_error = float(((common.float_weights() - pruned)[kept] ** 2).sum())
    assert error("mvq", 128, 16) < 0.5 * common_error
    # Equal bits: 4 signs and 3 bits of index.
    assert error("msvq", 8, 16) < 0.5 * common_error


def test_quantised_codebook_adds_little_error() -> None:
    from sw.compress.kmeans import kmeans

    given = source()
    recipe = Recipe("mvq", k=32, d=8, n=2, m=4)
    subvectors = group(given.weight, 8)
    masks = nm_mask(subvectors, 2, 4)
    clustered = kmeans(subvectors, 32, masks=masks).objective
    layer = compress_layer(given, recipe)
    quantised = float(((group(layer.float_weights(), 8) - subvectors)[masks] ** 2).sum())
    assert clustered < quantised < 1.01 * clustered


@pytest.mark.parametrize("method", ["int8", "vq", "mvq", "ssvq", "msvq"])
def test_same_seed_same_layer_on_any_threads(method: str) -> None:
    layers = [compress_layer(source(), Recipe(method, k=32, d=8, n=2, m=4), threads=threads) for threads in (1, 2, 5)]
    for layer in layers[1:]:
        for field in ("codebook", "assignments", "masks", "signs", "weights", "scale"):
            np.testing.assert_array_equal(getattr(layer, field), getattr(layers[0], field))


@pytest.mark.parametrize(
    ("given", "recipe", "reason"),
    [
        (source(32, 1, groups=32), Recipe(), "depthwise"),
        (source(24), Recipe(), "channels: 24 is not a multiple of d = 16"),
        (source(32, 16, groups=4), Recipe(), "channels: 8 is not a multiple of d = 16"),
        (source(32, 4, 1, 1), Recipe(), "subvectors: 8 are fewer than k = 512"),
        (source(32, 1), Recipe(k=19), "subvectors: 18 are fewer than k = 19"),
        (source(32, 32, 3, 3), Recipe(k=512), r"size: 8.36 bits a weight with the codebook"),
        (source(128, 64, 3, 3), Recipe(), None),
        (source(64, 16, groups=4), Recipe(k=16), None),
        (source(32, 1, groups=32), Recipe("int8"), None),
    ],
)
def test_layers_that_do_not_fit_are_kept_at_8_bit(given: LayerSource, recipe: Recipe, reason: str | None) -> None:
    assert misfit(given, recipe) == reason
    layer = compress_layer(given, recipe)
    assert layer.method == ("int8" if reason or recipe.method == "int8" else "mvq")
    assert layer.groups == given.groups
    if layer.method == "int8":
        largest = np.abs(given.weight).max(axis=(1, 2, 3), keepdims=True)
        assert (np.abs(layer.float_weights() - given.weight) <= 0.5001 * largest / 127).all()


@pytest.mark.parametrize("bits", [5, 7, 8])
@pytest.mark.parametrize("recipe", [Recipe("int8"), Recipe("msvq"), Recipe("dkm", k=19)])
def test_layers_without_codewords_have_uniform_bits(recipe: Recipe, bits: int) -> None:
    layer = compress_layer(source(32, 1), replace(recipe, uniform_bits=bits))
    assert (layer.method, layer.weight_bits) == ("int8", bits)
    assert layer.weights is not None
    assert np.abs(layer.weights).max() == (1 << (bits - 1)) - 1
    assert kept_recipe(replace(recipe, uniform_bits=bits)) == Recipe("int8", uniform_bits=bits)


def test_uniform_bits_change_no_codewords() -> None:
    """Nor do they cut a crosslayer codebook in two. What costs more than without codewords is kept."""
    recipe = Recipe("msvq", k=32, scope="crosslayer")
    sources = [source(64, 8), source()]
    alike = compress_layers(sources, [recipe] * 2)
    mixed = compress_layers(sources, [recipe, replace(recipe, uniform_bits=7)])
    for one, other in zip(alike, mixed, strict=True):
        assert one.codebook_name == other.codebook_name
        np.testing.assert_array_equal(one.codebook, other.codebook)
    layerwise = Recipe("vq", k=2048, d=2, n=0, m=0)
    wide = source(128, 96, 3, 3)
    assert misfit(wide, layerwise) is None
    assert misfit(wide, replace(layerwise, uniform_bits=5)) == "size: 5.80 bits a weight with the codebook"


@pytest.mark.parametrize("method", ["vq", "mvq", "ssvq", "msvq", "int8"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1e-44])
def test_constant_weights(method: str, value: float) -> None:
    given = LayerSource("layer", "linear", np.full((32, 64, 1, 1), value, dtype=np.float32))
    layer = compress_layer(given, Recipe(method, k=4, d=8, n=4, m=4))
    np.testing.assert_allclose(layer.float_weights(), given.weight, rtol=1e-6, atol=1e-38)


def test_kept_weights_do_not_depend_on_d() -> None:
    weight = source().weight
    kept = kept_weights(weight, 2, 4)
    assert kept is not None
    for d in (4, 8, 32):
        np.testing.assert_array_equal(group(kept, d), nm_mask(group(weight, d), 2, 4))
    assert kept_weights(weight, 0, 0) is None
    assert kept_weights(weight, 1, 5) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "pq"}, "method must be one of int8, vq, mvq, ssvq, msvq, pqf, dkm, lsq2, lsq3, lsq4, not 'pq'"),
        ({"scope": "network"}, "scope must be one of layerwise, crosslayer, not 'network'"),
        ({"method": "dkm", "scope": "crosslayer"}, "scope must be layerwise for method dkm, not 'crosslayer'"),
        ({"method": "pqf", "scope": "crosslayer"}, "scope must be layerwise for method pqf, not 'crosslayer'"),
        ({"init": "best"}, r"init must be one of k-means\+\+, random, paper, not 'best'"),
        ({"empty": "drop"}, "empty must be one of farthest, keep, not 'drop'"),
        ({"k": 0}, r"k must be an integer in 1..65536, not 0"),
        ({"k": 65537}, r"k must be an integer in 1..65536, not 65537"),
        ({"k": 5.0}, r"k must be an integer in 1..65536, not 5.0"),
        ({"d": 0}, r"d must be an integer in 1..256, not 0"),
        ({"d": 512}, r"d must be an integer in 1..256, not 512"),
        ({"iterations": -1}, r"iterations must be an integer in 0..1000000, not -1"),
        ({"seed": -1}, r"seed must be an integer in 0..\d+, not -1"),
        ({"seed": True}, r"seed must be an integer in 0..\d+, not True"),
        ({"n": -4}, r"n must be an integer in 0..256, not -4"),
        ({"codeword_bits": 1}, r"codeword_bits must be an integer in 2..8, not 1"),
        ({"codeword_bits": 9}, r"codeword_bits must be an integer in 2..8, not 9"),
        ({"codeword_bits": 4.0}, r"codeword_bits must be an integer in 2..8, not 4.0"),
        ({"codeword_bits": True}, r"codeword_bits must be an integer in 2..8, not True"),
        ({"uniform_bits": 4}, r"uniform_bits must be an integer in 5..8, not 4"),
        ({"uniform_bits": 9}, r"uniform_bits must be an integer in 5..8, not 9"),
        ({"uniform_bits": 7.0}, r"uniform_bits must be an integer in 5..8, not 7.0"),
        (
            {"method": "lsq4", "codeword_bits": 4},
            "codeword_bits must be 8 for method lsq4, which has no codewords, not 4",
        ),
        (
            {"method": "int8", "codeword_bits": 4},
            "codeword_bits must be 8 for method int8, which has no codewords, not 4",
        ),
    ],
)
def test_recipe_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        Recipe(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 17}, r"n must be in 1..m = 1..16, not 17"),
        ({"n": 0, "m": 0}, "m must be at least 1 and divide d = 16, not 0"),
        ({"m": 5}, "m must be at least 1 and divide d = 16, not 5"),
        ({"d": 8}, "m must be at least 1 and divide d = 8, not 16"),
        ({"method": "vq", "n": 5, "m": 4}, r"n must be in 1..m = 1..4, not 5"),
    ],
)
def test_recipe_refuses_the_pattern(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        Recipe(**fields)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros((4, 4)), "layer 'x': weight must be a float32 array, not float64"),
        ([[1.0]], "layer 'x': weight must be a float32 array, not list"),
        (np.zeros((4, 4), dtype=np.float32), r"layer 'x': weight must be \[K, C, R, S\], not \[4, 4\]"),
        (np.zeros((4, 0, 1, 1), dtype=np.float32), r"layer 'x': weight must be \[K, C, R, S\], not \[4, 0, 1, 1\]"),
        (np.full((4, 4, 1, 1), np.nan, dtype=np.float32), "layer 'x': weight must be finite, not NaN or infinite"),
        (np.full((4, 4, 1, 1), -np.inf, dtype=np.float32), "layer 'x': weight must be finite, not NaN or infinite"),
    ],
)
def test_source_refuses(weight: Any, message: str) -> None:
    with pytest.raises(CompressError, match=message):
        LayerSource("x", "conv", weight)


def test_source_names_a_foreign_byte_order() -> None:
    foreign = np.dtype(np.float32).newbyteorder()
    with pytest.raises(CompressError, match=rf"a float32 array, not float32 in foreign byte order \({foreign.str}\)"):
        LayerSource("x", "conv", np.ones((4, 4, 1, 1), foreign))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "layer '': name must be text, and not empty"),
        ({"name": 3}, "layer 3: name must be text"),
        ({"kind": "table"}, "kind must be conv or linear, not 'table'"),
        ({"kind": "linear"}, r"shape must end in R = S = 1 for a linear layer, not \(4, 4, 3, 3\)"),
        ({"stride": (0, 1)}, r"stride must be two integers of at least 1, not \(0, 1\)"),
        ({"stride": 1}, "stride must be two integers of at least 1, not 1"),
        ({"padding": (-1, 0)}, r"padding must be two integers of at least 0, not \(-1, 0\)"),
        ({"padding": "same"}, "padding must be two integers of at least 0, not 'same'"),
        ({"dilation": (1, 1.5)}, r"dilation must be two integers of at least 1, not \(1, 1.5\)"),
        ({"groups": 0}, "groups must be at least 1 and divide K = 4, not 0"),
        ({"groups": 3}, "groups must be at least 1 and divide K = 4, not 3"),
    ],
)
def test_source_refuses_what_a_layer_refuses(fields: dict[str, Any], message: str) -> None:
    weight = np.ones((4, 4, 3, 3), np.float32)
    with pytest.raises(CompressError, match=message):
        LayerSource(**({"name": "x", "kind": "conv", "weight": weight} | fields))
    with pytest.raises(LayerError, match=message):
        CompressedLayer(
            **({"name": "x", "kind": "conv"} | fields),
            shape=(4, 4, 3, 3),
            method="int8",
            scale=np.ones(1, np.float32),
            weights=np.ones((4, 4, 3, 3), np.int8),
        )


FIELDS = ("codebook", "assignments", "masks", "signs", "weights", "scale")


def several() -> list[LayerSource]:
    """Layers of different sizes and magnitudes."""
    rng = np.random.default_rng(0)
    shapes = {"a": (32, 16, 3, 3), "b": (64, 32, 1, 1), "c": (16, 8, 3, 3), "d": (10, 16, 1, 1)}
    factors = dict(zip(shapes, (1, 0.05, 3, 1), strict=True))
    return [
        LayerSource(name, "conv", (factors[name] * rng.standard_normal(shape)).astype(np.float32))
        for name, shape in shapes.items()
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_batched_layers_are_those_compressed_one_by_one(threads: int) -> None:
    recipes = [Recipe(method, 16, 8, 2, 4) for method in ("mvq", "msvq", "vq", "ssvq")]
    recipes[2] = dataclasses.replace(recipes[2], k=12)
    done: list[None] = []
    layers = compress_layers(several(), recipes, threads=threads, done=lambda: done.append(None))
    assert len(done) == 4
    for source, recipe, layer in zip(several(), recipes, layers, strict=True):
        alone = compress_layer(source, recipe)
        assert (layer.name, layer.method) == (source.name, alone.method)
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(layer, field), getattr(alone, field))


@pytest.mark.parametrize("method", ["vq", "mvq", "ssvq", "msvq"])
def test_crosslayer_codebook(method: str) -> None:
    recipe = Recipe(method, 64, 8, 2, 4, scope="crosslayer")
    layers = compress_layers(several(), [recipe] * 4, threads=1)
    assert [layer.method for layer in layers] == [method] * 3 + ["int8"]
    assert len({layer.codebook_name for layer in layers[:3]}) == 1
    assert layers[3].codebook_name is None
    for layer in layers[1:3]:
        np.testing.assert_array_equal(layer.codebook, layers[0].codebook)
    again = compress_layers(several(), [recipe] * 4, threads=2)
    for layer, other in zip(layers, again, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(layer, field), getattr(other, field))
    # Weights 60 times smaller are not worse off, since each layer has a scale of its own.
    errors = [
        ((layer.float_weights() - source.weight) ** 2).sum() / (source.weight**2).sum()
        for layer, source in zip(layers[:3], several(), strict=False)
    ]
    assert max(errors) < 1.4 * min(errors)
    assert sum_bits(map(layer_bits, layers)).codebook == 64 * 8 * (7 if recipe.signed else 8)


def test_crosslayer_codebooks_of_two_recipes_are_two() -> None:
    recipes = [Recipe("vq", k, 8, 0, 0, scope="crosslayer") for k in (32, 32, 16, 16)]
    layers = compress_layers(several(), recipes)
    assert layers[0].codebook_name == layers[1].codebook_name != layers[2].codebook_name
    assert sum_bits(map(layer_bits, layers)).codebook == (32 + 16) * 8 * 8


def test_crosslayer_needs_as_many_subvectors_as_codewords() -> None:
    recipe = Recipe("vq", 1000, 8, 0, 0, scope="crosslayer")
    with pytest.raises(CompressError, match="k must be at most the 976 subvectors of its layers together, not 1000"):
        compress_layers(several(), [recipe] * 4)


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e30])
def test_crosslayer_of_extreme_weights(value: float) -> None:
    """A layer of zeros, of the smallest and of large numbers beside a usual one."""
    extreme = LayerSource("x", "conv", np.full((8, 256, 1, 1), value, np.float32))
    layers = compress_layers([extreme, several()[0]], [Recipe("vq", 8, 8, 0, 0, scope="crosslayer")] * 2)
    np.testing.assert_allclose(layers[0].float_weights(), extreme.weight, rtol=0.1, atol=1e-37)


@pytest.mark.parametrize(("method", "bits"), [("lsq2", 2), ("lsq3", 3), ("lsq4", 4), ("int8", 8)])
def test_uniform_recipes(method: str, bits: int) -> None:
    recipe = Recipe(method)
    assert (recipe.stored, recipe.weight_bits) == ("int8", bits)
    layer = compress_layer(source(), recipe)
    assert layer.weight_bits == bits
    assert layer_bits(layer).per_weight == bits
    error = ((layer.float_weights() - source().weight) ** 2).mean()
    # Lloyd-Max of a normal distribution: 0.117, 0.037, 0.0115; uniform and without the positive end, more.
    assert error < {2: 0.2, 3: 0.06, 4: 0.02, 8: 1e-4}[bits]


@pytest.mark.parametrize("method", ["pqf", "dkm"])
def test_methods_stored_as_vq(method: str) -> None:
    layer = compress_layer(source(), Recipe(method, 16, 8, 0, 0))
    assert layer.method == "vq"
    np.testing.assert_array_equal(layer.assignments, compress_layer(source(), Recipe("vq", 16, 8, 0, 0)).assignments)


def test_recipes_by_name() -> None:
    rules = [("stem", Recipe("int8")), ("*.conv?", Recipe("msvq"))]
    assert recipe_for("stem", rules).method == "int8"
    assert recipe_for("layer1.0.conv1", rules).method == "msvq"
    assert recipe_for("layer1.0.linear", rules).method == "int8"
    # As torch.compile names what it wraps: the network, a part, or a layer.
    for name in ("_orig_mod.layer1.0.conv1", "layer1._orig_mod.0.conv1", "layer1.0.conv1._orig_mod"):
        assert recipe_for(name, rules).method == "msvq"
        assert recipe_for(name, [(name, Recipe("lsq4"))]).method == "lsq4"
    assert recipe_for("layer1_orig_mod.0.conv1", [("layer1.0.conv1", Recipe("lsq4"))]).method == "int8"


def test_a_clustering_error_of_a_batch_is_raised() -> None:
    with pytest.raises(KMeansError, match="cuda:99"):
        compress_layers(several(), [Recipe("vq", 8, 8, 0, 0)] * 4, device="cuda:99")


@pytest.mark.parametrize("scope", ["layerwise", "crosslayer"])
@pytest.mark.parametrize("method", ["vq", "mvq", "ssvq", "msvq"])
def test_narrow_codewords_cost_less_error_than_rounding_once(method: str, scope: str) -> None:
    """The same clustering, whose codebook is rounded when it is done: never better, and worse at 3 bits."""
    given = source(64, 32, 3, 3)
    subvectors = group(given.weight, 8)
    masks = nm_mask(subvectors, 2, 4) if method in ("mvq", "msvq") else np.ones(subvectors.shape, bool)
    subvectors = subvectors if method in ("vq", "mvq") else np.abs(subvectors)
    errors = {}
    for bits in range(2, 9):
        recipe = Recipe(method, k=32, d=8, n=2, m=4, scope=scope, codeword_bits=bits)
        layer = compress_layer(given, recipe)
        assert layer.codeword_bits == bits
        errors[bits] = float(((layer.float_weights() - given.weight)[kept(layer)] ** 2).sum())
        if scope == "layerwise":
            plain = None if recipe.method in ("vq", "ssvq") else masks
            found = kmeans(subvectors, 32, masks=plain)
            counts = member_counts(plain, found.assignments, 32, 8)
            codebook, scale = quantise_codebook(found.codebook, counts, magnitudes=recipe.signed, codeword_bits=bits)
            once = objective(subvectors, plain, codebook * scale, found.assignments)
            # Rounding to float32 apart.
            assert errors[bits] <= once * (1 + 1e-6)
            assert bits > 3 or errors[bits] < 0.99 * once
    assert errors[8] < errors[4] < errors[3] < errors[2]
    assert errors[5] < 1.05 * errors[8]


def kept(layer: CompressedLayer) -> Any:
    """Where a layer keeps its weights."""
    if layer.masks is None:
        return slice(None)
    return ungroup(layer.masks, layer.shape)


@pytest.mark.parametrize("scope", ["layerwise", "crosslayer"])
def test_narrow_layers_share_a_clustering_with_wide_ones(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And come out as those that are compressed alone."""
    calls: list[int] = []

    def counted(subvectors: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(len(subvectors))
        return kmeans_layers(subvectors, *arguments, **options)

    sources = [source(), source(64, 8)]
    recipes = [Recipe("mvq", k=32, d=8, n=2, m=4, scope=scope, codeword_bits=bits) for bits in (8, 4, 3)]
    alone = [layer for recipe in recipes for layer in compress_layers(sources, [recipe] * 2)]
    monkeypatch.setattr("sw.compress.methods.kmeans_layers", counted)
    done: list[None] = []
    given = [recipe for recipe in recipes for _ in sources]
    together = compress_layers(sources * 3, given, done=lambda: done.append(None))
    assert calls == ([2] if scope == "layerwise" else [1])
    assert len(done) == 6
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.codeword_bits == theirs.codeword_bits
        for field in ("codebook", "assignments", "masks", "scale"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def test_a_rule_for_no_layer_of_functions_alone() -> None:
    rules = [("head", Recipe("int8"))]
    with pytest.raises(CompressError, match="rule 'head' must match a layer; layers are none that are modules"):
        check_rules(rules, [], ["stem", "layer"])
    check_rules(rules, [], ["head"])


@pytest.mark.parametrize("method", ["mvq", "ssvq"])
def test_narrow_codewords_are_the_same_on_any_threads(method: str) -> None:
    recipe = Recipe(method, k=32, d=8, n=2, m=4, codeword_bits=3)
    layers = [compress_layer(source(), recipe, threads=threads) for threads in (1, 2, 5)]
    for layer in layers[1:]:
        for field in ("codebook", "assignments", "scale"):
            np.testing.assert_array_equal(getattr(layer, field), getattr(layers[0], field))


@pytest.mark.parametrize("shape", [(64, 1, 1, 1), (64, 8, 1, 1), (64, 1, 3, 3)])
@pytest.mark.parametrize("method", ["vq", "ssvq", "mvq", "msvq"])
def test_the_source_is_not_written_to(method: str, shape: tuple[int, ...]) -> None:
    """The clustering works in its input's memory, which is the source's own where grouping moves nothing."""
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before = weight.copy()
    recipe = Recipe(method, 2, 16, *((4, 16) if method in ("mvq", "msvq") else (0, 0)))
    layer = compress_layer(LayerSource("layer", "conv", weight), recipe)
    assert layer.method == method
    np.testing.assert_array_equal(weight, before)
    large = np.concatenate([weight, weight])
    again = compress_layer(LayerSource("layer", "conv", large[: len(weight)]), recipe)
    np.testing.assert_array_equal(again.integer_weights(), layer.integer_weights())
