from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from sw.compress.kmeans import kmeans, kmeans_layers
from sw.compress.kmeans_gpu import cluster_layers
from sw.compress.kmeans_problem import INITS, KMeansError, KMeansResult, Layer, Settings, checked_layers
from sw.compress.pruning import nm_mask

TRITON = pytest.param(
    "cuda",
    "triton",
    marks=pytest.mark.skipif(
        not torch.cuda.is_available() or importlib.util.find_spec("triton") is None, reason="needs CUDA and triton"
    ),
    id="triton",
)
BOTH = [pytest.param("cpu", "torch", id="torch"), TRITON]

SIZES = ((900, 1.0), (130, 1e-3), (64, 30.0))


def layers(d: int, n: int, m: int, k: int, sizes: Any = SIZES, start: bool = False, **settings: Any) -> list[Layer]:
    rng = np.random.default_rng(0)
    weights = [(rng.standard_normal((NG, d)) * scale).astype(np.float32) for NG, scale in sizes]
    masks = [nm_mask(w, n, m) for w in weights]
    given: dict[str, Any] = {"iterations": 6, "seed": 3, "init": "random", "empty": "farthest", "tolerance": 0.0}
    return checked_layers(weights, masks, [w[:k] for w in weights] if start else None, Settings(k, **given | settings))


def on_cpu(problem: list[Layer]) -> list[KMeansResult]:
    return [kmeans(w, masks=masks, **vars(settings)) for w, masks, settings in problem]


@pytest.mark.parametrize(("device", "backend"), BOTH)
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("empty", ["farthest", "keep"])
@pytest.mark.parametrize(
    ("d", "n", "m", "k"), [(16, 4, 16, 64), (8, 2, 8, 20), (5, 1, 1, 16), (24, 1, 2, 33), (2, 1, 2, 1)]
)
def test_agrees_with_the_cpu(device: str, backend: str, init: str, empty: str, d: int, n: int, m: int, k: int) -> None:
    problem = layers(d, n, m, k, init=init, empty=empty)
    for ours, theirs in zip(cluster_layers(problem, device, backend), on_cpu(problem), strict=True):
        # Sums are rounded otherwise, so a near tie may fall otherwise; here few do.
        assert ours.objective == pytest.approx(theirs.objective, rel=1e-3)
        assert (ours.assignments == theirs.assignments).mean() > 0.97
        assert ours.codebook.dtype == np.float32
        assert ours.assignments.dtype == np.int32


@pytest.mark.parametrize(("device", "backend"), BOTH)
def test_layers_do_not_touch_each_other(device: str, backend: str) -> None:
    problem = layers(8, 2, 4, 20, tolerance=0.05, iterations=50)
    together = cluster_layers(problem, device, backend)
    for layer, ours in zip(problem, together, strict=True):
        (alone,) = cluster_layers([layer], device, backend)
        np.testing.assert_array_equal(ours.codebook, alone.codebook)
        np.testing.assert_array_equal(ours.assignments, alone.assignments)
        assert (ours.iterations, ours.converged, ours.objective) == (alone.iterations, True, alone.objective)
    assert len({found.iterations for found in together}) > 1


@pytest.mark.parametrize(("device", "backend"), BOTH)
def test_lengths_and_masks_mix(device: str, backend: str) -> None:
    problem = [*layers(8, 2, 4, 10), *layers(4, 1, 1, 10), *layers(8, 1, 1, 10)]
    for ours, theirs in zip(cluster_layers(problem, device, backend), on_cpu(problem), strict=True):
        assert ours.objective == pytest.approx(theirs.objective, rel=1e-3)


@pytest.mark.parametrize(("device", "backend"), BOTH)
@pytest.mark.parametrize("empty", ["farthest", "keep"])
@pytest.mark.parametrize(("n", "m", "d", "k"), [(4, 16, 16, 64), (1, 1, 8, 100)])
def test_objective_never_rises(device: str, backend: str, empty: str, n: int, m: int, d: int, k: int) -> None:
    sizes = ((600, 1.0), (200, 1.0))
    found = [
        [
            layer.objective
            for layer in cluster_layers(layers(d, n, m, k, sizes, empty=empty, iterations=i), device, backend)
        ]
        for i in (0, 1, 2, 3, 5, 9, 30)
    ]
    objectives = np.array(found)
    assert (objectives[1:] <= objectives[:-1] * (1 + 1e-12)).all()
    assert (objectives[-1] < objectives[0]).all()


@pytest.mark.parametrize(("device", "backend"), BOTH)
def test_empty_codewords_and_equal_subvectors(device: str, backend: str) -> None:
    data = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]], dtype=np.float32)
    first = np.array([[0.1], [-100.0], [-200.0]], dtype=np.float32)
    settings = Settings(3, 1, 0, "random", "farthest", 0.0)
    (moved,) = cluster_layers(checked_layers([data], None, [first], settings), device, backend)
    np.testing.assert_allclose(moved.codebook[:, 0], [2.08, 5.1, 5.0], rtol=1e-6)
    assert moved.assignments.tolist() == [0, 0, 0, 2, 1]
    for value in (0.0, 3.0):
        equal = np.full((20, 4), value, dtype=np.float32)
        (found,) = cluster_layers(checked_layers([equal], None, None, settings), device, backend)
        assert found.objective == 0


@pytest.mark.parametrize(("device", "backend"), BOTH)
@pytest.mark.parametrize("exponent", [-100, 60])
def test_tiny_and_huge_weights(device: str, backend: str, exponent: int) -> None:
    problem = layers(8, 2, 4, 10)
    scaled = [(np.ldexp(w, exponent), masks, settings) for w, masks, settings in problem]
    for plain, found in zip(*(cluster_layers(p, device, backend) for p in (problem, scaled)), strict=True):
        np.testing.assert_array_equal(np.ldexp(plain.codebook, exponent), found.codebook)


@pytest.mark.parametrize(("device", "backend"), [TRITON])
def test_triton_agrees_with_the_reference_and_with_itself(device: str, backend: str) -> None:
    problem = layers(16, 4, 16, 512, ((20000, 1.0), (5000, 0.1)), iterations=10)
    first, second = (cluster_layers(problem, device, backend) for _ in range(2))
    reference = cluster_layers(problem, device, "torch")
    for ours, again, plain in zip(first, second, reference, strict=True):
        np.testing.assert_array_equal(ours.codebook, again.codebook)
        np.testing.assert_array_equal(ours.assignments, again.assignments)
        assert ours.objective == pytest.approx(plain.objective, rel=1e-4)


def test_refuses() -> None:
    problem = layers(4, 1, 2, 3)
    with pytest.raises(KMeansError, match="backend must be one of triton, torch, not 'numpy'"):
        cluster_layers(problem, "cpu", "numpy")
    if importlib.util.find_spec("triton") is None:
        with pytest.raises(KMeansError, match="backend 'triton' needs the package triton, which is not installed"):
            cluster_layers(problem, "cpu", "triton")
    if not torch.cuda.is_available():
        with pytest.raises(KMeansError, match="device 'cuda' is not there: PyTorch sees no CUDA device"):
            kmeans_layers([problem[0][0]], 3, device="cuda")
