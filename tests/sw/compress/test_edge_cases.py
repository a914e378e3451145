"""Weights at the edge of what the methods can do, all the way to the file and through a step of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sw.compress.methods import RECIPE_METHODS, CompressError, Recipe, compress_layer, compress_layers
from sw.compress.network import compress_network, module_sources
from sw.compress.training.modules import compressed_layers, convert
from sw.format.container import read_container, write_container
from sw.format.layer import CompressedLayer

CODED = ("vq", "mvq", "ssvq", "msvq", "dkm", "pqf")
CASES = [
    *((method, "layerwise") for method in RECIPE_METHODS),
    *((method, "crosslayer") for method in ("vq", "mvq", "ssvq", "msvq")),
]


def recipe(method: str, scope: str = "layerwise", **fields: Any) -> Recipe:
    return Recipe(**({"method": method, "k": 8, "d": 8, "n": 2, "m": 4, "scope": scope} | fields))


def network(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any] | None = None) -> nn.Sequential:
    """Two convolutions with these weights, ``[K, 64, 1, 1]`` and ``[16, K, 1, 1]``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, len(first), 1), nn.ReLU(), nn.Conv2d(len(first), 16, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(first))
        if second is not None:
            model[2].weight.copy_(torch.from_numpy(second))
    return model


def through_all(model: nn.Sequential, given: Recipe, path: Path) -> list[CompressedLayer]:
    """Converted, trained by one step, written and read."""
    before = convert(model, [("*", given)], progress=False)
    for layer in before:
        assert np.isfinite(layer.float_weights()).all()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
    model(torch.randn(4, 64, 3, 3)).square().mean().backward()
    optimiser.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    trained = compressed_layers(model.eval())
    write_container(path, trained)
    for layer, other in zip(trained, read_container(path).layers, strict=True):
        np.testing.assert_array_equal(layer.integer_weights(), other.integer_weights())
    return before


@pytest.mark.parametrize("value", [0.0, -0.5, 1e-30])
@pytest.mark.parametrize(("method", "scope"), CASES)
def test_constant_weights(method: str, scope: str, value: float, tmp_path: Path) -> None:
    """Exact but for the integers' rounding, where the method keeps all weights; pruned weights are 0."""
    weight = np.full((16, 64, 1, 1), value, np.float32)
    layers = through_all(network(weight), recipe(method, scope), tmp_path / "network")
    decoded = layers[0].float_weights()
    kept = np.ones(decoded.shape, bool) if layers[0].masks is None else decoded != 0
    if scope == "layerwise":
        # LSQ's first step follows from the mean magnitude, whatever the integers.
        tolerance = 1.0 if method.startswith("lsq") else 0.02
        np.testing.assert_allclose(decoded[kept], weight[kept], rtol=tolerance, atol=1e-37)
    if layers[0].masks is not None and value:
        assert kept.mean() == 0.5


@pytest.mark.parametrize("bits", [2, 4, 7])
@pytest.mark.parametrize(("method", "scope"), [case for case in CASES if case[0] in CODED])
def test_narrow_codewords(method: str, scope: str, bits: int, tmp_path: Path) -> None:
    """Of all methods, from the weights through training to the file: no integer leaves the range."""
    rng = np.random.default_rng(bits)
    model = network(*(rng.standard_normal(shape).astype(np.float32) for shape in ((16, 64, 1, 1), (16, 16, 1, 1))))
    before = through_all(model, recipe(method, scope, codeword_bits=bits), tmp_path / "network")
    high = (1 << (bits - 1)) - 1
    for layer in (*before, *read_container(tmp_path / "network").layers):
        assert layer.codeword_bits == bits
        assert layer.codebook is not None
        assert layer.codebook.min() >= (-high - 1 if layer.signs is None else 0)
        assert layer.codebook.max() <= high
        assert np.abs(layer.codebook.astype(int)).max() > high / 2


@pytest.mark.parametrize("value", [0.0, -0.5, 1e-30, 1e30])
@pytest.mark.parametrize("bits", [2, 5])
@pytest.mark.parametrize(("method", "scope"), [case for case in CASES if case[0] in CODED])
def test_narrow_codewords_of_constant_weights(method: str, scope: str, bits: int, value: float) -> None:
    sources = module_sources(network(np.full((16, 64, 1, 1), value, np.float32)))
    for layer in compress_layers(sources[:1], [recipe(method, scope, n=4, codeword_bits=bits)]):
        np.testing.assert_allclose(layer.float_weights(), value, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize(("method", "scope"), [case for case in CASES if case[0] in CODED])
def test_more_codewords_than_distinct_subvectors(method: str, scope: str, tmp_path: Path) -> None:
    """Some codewords have no members: they stay in the file, get no gradient, and harm nothing."""
    distinct = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    first = distinct[np.arange(128) % 3].reshape(2, 64, 8).transpose(0, 2, 1).reshape(16, 64, 1, 1)
    second = distinct[np.arange(32) % 3].reshape(2, 16, 8).transpose(0, 2, 1).reshape(16, 16, 1, 1)
    layers = through_all(network(first, second), recipe(method, scope, n=4), tmp_path / "network")
    for layer, weight in zip(layers, (first, second), strict=True):
        assert layer.k == 8
        assert len(np.unique(layer.assignments)) <= 3
        error = ((layer.float_weights() - weight) ** 2).sum() / (weight**2).sum()
        assert error < (0.01 if scope == "layerwise" else 0.05)


@pytest.mark.parametrize(("method", "scope"), [case for case in CASES if case[0] in CODED])
def test_channels_that_d_does_not_divide_stay_at_8_bit(method: str, scope: str, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((12, 64, 1, 1)).astype(np.float32)
    model = network(weight)
    layers = through_all(model, recipe(method, scope), tmp_path / "network")
    assert [(layer.method, layer.weight_bits) for layer in layers] == [
        ("int8", 8),
        (recipe(method).stored, 8),
    ]


@pytest.mark.parametrize(("masked", "plain"), [("mvq", "vq"), ("msvq", "ssvq")])
def test_n_equal_to_m_is_the_method_without_masks(masked: str, plain: str, tmp_path: Path) -> None:
    sources = module_sources(network(np.random.default_rng(0).standard_normal((16, 64, 1, 1)).astype(np.float32)))
    ours, theirs = (compress_layers(sources, [recipe(method, n=4, m=4)] * 2) for method in (masked, plain))
    for layer, other in zip(ours, theirs, strict=True):
        assert layer.method == masked
        np.testing.assert_array_equal(layer.integer_weights(), other.integer_weights())
    sizes = []
    for name, layers in ((masked, ours), (plain, theirs)):
        write_container(tmp_path / name, layers)
        sizes.append((tmp_path / name).stat().st_size - len(name))
    # Masks of one pattern take no bits.
    assert abs(sizes[0] - sizes[1]) < 4
    read = read_container(tmp_path / masked).layers[0]
    assert read.masks is not None
    assert read.masks.all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(value: float) -> None:
    weight = np.ones((16, 64, 1, 1), np.float32)
    weight[3, 1] = value
    with pytest.raises(CompressError, match="layer '0': weight must be finite, not NaN or infinite"):
        convert(network(weight), [("*", Recipe("vq", 4, 8, 0, 0))], progress=False)
    with pytest.raises(CompressError, match="layer '0': weight must be finite, not NaN or infinite"):
        compress_network(module_sources(network(weight)), Recipe("vq", 4, 8, 0, 0), progress=False)


def test_one_codeword() -> None:
    """k = 1: no index is stored, and the codeword is the mean."""
    weight = np.random.default_rng(0).standard_normal((16, 64, 1, 1)).astype(np.float32)
    (source,) = module_sources(nn.Sequential(nn.Conv2d(64, 16, 1)))
    layer = compress_layer(type(source)("x", "conv", weight), recipe("vq", k=1))
    mean = weight.reshape(2, 8, 64).mean((0, 2))
    np.testing.assert_allclose(layer.codebook[0] * layer.scale[0], mean, atol=float(layer.scale[0]))
