from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sw.compress.kmeans import INITS, KMeansError, assign, kmeans, kmeans_layers, member_counts, objective, update
from sw.compress.pruning import nm_mask

ROOT = Path(__file__).parents[3]


def random_problem(NG: int, d: int, n: int, m: int, seed: int = 0) -> tuple[Any, Any]:
    subvectors = np.random.default_rng(seed).standard_normal((NG, d)).astype(np.float32)
    masks = nm_mask(subvectors, n, m)
    return np.where(masks, subvectors, np.float32(0)), masks


@pytest.mark.parametrize("k", [1, 7, 32, 33, 100])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_assign_is_equation_2(k: int, masked: bool, threads: int) -> None:
    subvectors, masks = random_problem(500, 8, 2, 4)
    codebook = np.random.default_rng(1).standard_normal((k, 8)).astype(np.float32)
    kept = masks if masked else np.ones_like(masks)
    distances = ((subvectors[:, None, :] - codebook[None] * kept[:, None, :]).astype(np.float64) ** 2).sum(axis=2)
    found = assign(subvectors, masks if masked else None, codebook, threads=threads)
    assert found.dtype == np.int32
    chosen = distances[np.arange(500), found]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-4, atol=1e-5)
    assert (found == distances.argmin(axis=1)).mean() > 0.99


@pytest.mark.parametrize("k", [4, 40])
def test_of_equal_codewords_the_lowest_wins(k: int) -> None:
    codebook = np.ones((k, 4), dtype=np.float32)
    codebook[0] = 9
    assert (assign(np.ones((10, 4), dtype=np.float32), None, codebook) == 1).all()


def test_update_is_equations_3_and_4() -> None:
    subvectors, masks = random_problem(300, 8, 2, 4)
    assignments = np.random.default_rng(1).integers(5, size=300).astype(np.int32)
    present = np.full((6, 8), 7, dtype=np.float32)
    masks[assignments == 2, 3] = False
    found = update(subvectors, masks, assignments, present)
    for i in range(6):
        for j in range(8):
            members = subvectors[(assignments == i) & masks[:, j], j].astype(np.float64)
            expected = members.mean() if members.size else 7
            assert found[i, j] == pytest.approx(expected, rel=1e-6)


def test_update_minimises_the_objective() -> None:
    subvectors, masks = random_problem(200, 4, 2, 4)
    assignments = np.random.default_rng(1).integers(3, size=200).astype(np.int32)
    best = update(subvectors, masks, assignments, np.zeros((3, 4), dtype=np.float32))
    least = objective(subvectors, masks, best, assignments)
    for i in range(3):
        for j in range(4):
            for step in (-1e-2, 1e-2):
                moved = best.copy()
                moved[i, j] += step
                assert objective(subvectors, masks, moved, assignments) > least


def test_objective_is_equation_1() -> None:
    subvectors, masks = random_problem(100, 4, 1, 2)
    codebook = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    assignments = assign(subvectors, masks, codebook)
    expected = sum(
        float(((w.astype(np.float64) - codebook[a] * m) ** 2).sum())
        for w, m, a in zip(subvectors, masks, assignments, strict=True)
    )
    assert objective(subvectors, masks, codebook, assignments) == pytest.approx(expected, rel=1e-12)


def test_member_counts() -> None:
    masks = np.array([[1, 0], [1, 1], [0, 1]], dtype=np.bool_)
    assignments = np.array([1, 1, 0], dtype=np.int32)
    assert member_counts(masks, assignments, 3, 2).tolist() == [[0, 1], [2, 1], [0, 0]]
    assert member_counts(None, assignments, 3, 2).tolist() == [[1, 1], [2, 2], [0, 0]]


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("empty", ["farthest", "keep"])
@pytest.mark.parametrize(("n", "m", "d", "k"), [(4, 16, 16, 64), (1, 2, 8, 16), (1, 1, 8, 100), (1, 4, 4, 300)])
@pytest.mark.parametrize("seed", [0, 1])
def test_objective_never_rises(init: str, empty: str, n: int, m: int, d: int, k: int, seed: int) -> None:
    subvectors, masks = random_problem(600, d, n, m, seed)
    results = [
        kmeans(subvectors, k, masks=masks, init=init, empty=empty, seed=seed, iterations=iterations, tolerance=0)
        for iterations in (0, 1, 2, 3, 4, 6, 9, 30)
    ]
    objectives = np.array([found.objective for found in results])
    assert (objectives[1:] <= objectives[:-1] * (1 + 1e-12)).all()
    # With k-means++, 1200 elements of codewords may meet all 600 weights at once.
    exact = (m, k, init) == (4, 300, "k-means++") and not objectives.any()
    assert objectives[-1] < objectives[0] or exact
    found = results[-1]
    assert found.objective == pytest.approx(objective(subvectors, masks, found.codebook, found.assignments), rel=1e-6)
    assert found.codebook.shape == (k, d)
    assert found.assignments.shape == (600,)


@pytest.mark.parametrize(("NG", "d", "k"), [(6000, 16, 128), (6000, 8, 16), (3000, 4, 200)])
def test_all_ones_masks_give_the_objective_of_scikit_learn(NG: int, d: int, k: int) -> None:
    # Seconds to load, which nobody else need wait for.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rng = np.random.default_rng(0)
    data = rng.standard_normal((NG, d)).astype(np.float32)
    start = data[rng.choice(NG, size=k, replace=False)]
    ours = kmeans(data, k, masks=np.ones(data.shape, dtype=np.bool_), start=start, iterations=8, tolerance=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = KMeans(k, init=start, n_init=1, max_iter=8, tol=0, algorithm="lloyd").fit(data)
    assert ours.iterations == theirs.n_iter_ == 8
    assert ours.objective == pytest.approx(theirs.inertia_, rel=1e-5)


def test_masked_clustering_beats_common_clustering_of_the_same_weights() -> None:
    subvectors, masks = random_problem(3000, 16, 4, 16)
    common = kmeans(subvectors, 64)
    masked = kmeans(subvectors, 64, masks=masks)
    assert masked.objective < 0.5 * objective(subvectors, masks, common.codebook, common.assignments)


def test_with_many_codewords_filled_initial_codewords_beat_the_paper_s() -> None:
    subvectors, masks = random_problem(3000, 16, 4, 16)
    results = {init: kmeans(subvectors, 256, masks=masks, init=init).objective for init in INITS}
    assert results["random"] < results["paper"]
    assert results["k-means++"] < results["paper"]


FINGERPRINT = """
import hashlib, sys
import numpy as np
from sw.compress.kmeans import kmeans
from sw.compress.pruning import nm_mask
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for NG, d, k, n, m in ((9001, 16, 128, 4, 16), (20011, 8, 16, 1, 1), (5003, 8, 500, 1, 1), (3001, 16, 32, 1, 2)):
    data = rng.standard_normal((NG, d)).astype(np.float32)
    found = kmeans(data, k, masks=nm_mask(data, n, m), iterations=5, threads=int(sys.argv[1]) or None)
    digest.update(found.codebook.tobytes() + found.assignments.tobytes())
print(digest.hexdigest())
"""


def test_bytes_do_not_depend_on_threads() -> None:
    def fingerprint(threads: int, blas_threads: int) -> str:
        variables = {
            "OMP_NUM_THREADS": str(blas_threads),
            "OPENBLAS_NUM_THREADS": str(blas_threads),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", FINGERPRINT, str(threads)]
        return subprocess.run(command, env=os.environ | variables, check=True, capture_output=True, text=True).stdout

    assert len({fingerprint(1, 1), fingerprint(2, 2), fingerprint(5, 2), fingerprint(0, 3)}) == 1


def test_seed_decides() -> None:
    subvectors, masks = random_problem(500, 8, 2, 4)
    digests = [
        hashlib.sha256(kmeans(subvectors, 20, masks=masks, seed=seed).codebook.tobytes()).hexdigest()
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_stops_when_fewer_than_the_tolerance_change() -> None:
    subvectors, masks = random_problem(2000, 8, 2, 4)
    loose = kmeans(subvectors, 20, masks=masks, iterations=500, tolerance=0.05)
    default = kmeans(subvectors, 20, masks=masks, iterations=500)
    strict = kmeans(subvectors, 20, masks=masks, iterations=500, tolerance=0)
    assert loose.converged
    assert default.converged
    assert strict.converged
    assert loose.iterations < default.iterations <= strict.iterations < 500
    again = kmeans(subvectors, 20, start=strict.codebook, masks=masks, iterations=500, tolerance=0)
    assert again.iterations == 1
    np.testing.assert_array_equal(again.assignments, strict.assignments)
    assert not kmeans(subvectors, 20, masks=masks, iterations=1).converged


def test_the_tolerance_is_more_than_what_changes() -> None:
    subvectors, masks = random_problem(2048, 8, 2, 4)
    before, after = (
        kmeans(subvectors, 20, masks=masks, iterations=iterations, tolerance=0).assignments for iterations in (0, 1)
    )
    changes = int((before != after).sum())
    assert 0 < changes < 2048
    at, above = (
        kmeans(subvectors, 20, masks=masks, iterations=1, tolerance=count / 2048) for count in (changes, changes + 1)
    )
    assert (at.converged, above.converged) == (False, True)


def test_no_iterations_assign_to_the_start() -> None:
    subvectors, masks = random_problem(50, 4, 1, 2)
    start = subvectors[:5] + np.float32(1)
    found = kmeans(subvectors, 5, masks=masks, start=start, iterations=0)
    np.testing.assert_array_equal(found.codebook, start)
    np.testing.assert_array_equal(found.assignments, assign(subvectors, masks, start))
    assert found.iterations == 0


def test_empty_codeword_moves_to_the_farthest_subvector_or_stays() -> None:
    data = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]], dtype=np.float32)
    start = np.array([[0.1], [-100.0], [-200.0]], dtype=np.float32)
    kept = kmeans(data, 3, start=start, empty="keep", iterations=1, tolerance=0)
    np.testing.assert_allclose(kept.codebook[1:], start[1:])
    assert kept.objective == pytest.approx(float(((data - data.mean()) ** 2).sum()), rel=1e-6)
    moved = kmeans(data, 3, start=start, empty="farthest", iterations=1, tolerance=0)
    # The mean is 2.08: 5.1 is farthest, then 5.0.
    np.testing.assert_allclose(moved.codebook[:, 0], [2.08, 5.1, 5.0], rtol=1e-6)
    assert moved.assignments.tolist() == [0, 0, 0, 2, 1]


def test_empty_codeword_keeps_its_elements_where_the_farthest_subvector_is_pruned() -> None:
    data = np.array([[1, 0], [1, 0], [0, 9]], dtype=np.float32)
    masks = data != 0
    start = np.array([[1, 1], [50, 60]], dtype=np.float32)
    # All three sit in codeword 0 at [1, 9] without error: nothing attracts codeword 1.
    found = kmeans(data, 2, masks=masks, start=start, iterations=3)
    np.testing.assert_allclose(found.codebook, [[1, 9], [50, 60]])
    data[1, 0] = 2
    found = kmeans(data, 2, masks=masks, start=start, iterations=1)
    np.testing.assert_allclose(found.codebook, [[1.5, 9], [1, 60]])


@pytest.mark.parametrize("init", INITS)
def test_as_many_codewords_as_subvectors_leave_no_error(init: str) -> None:
    subvectors, _ = random_problem(40, 4, 1, 1)
    assert kmeans(subvectors, 40, init=init).objective == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_subvectors(init: str, value: float) -> None:
    found = kmeans(np.full((20, 4), value, dtype=np.float32), 3, init=init)
    assert found.objective == 0
    assert np.isfinite(found.codebook).all()


def test_element_that_no_subvector_keeps_stays_finite() -> None:
    subvectors, masks = random_problem(100, 4, 2, 4)
    masks[:, 3] = False
    found = kmeans(subvectors, 5, masks=masks)
    assert (found.codebook[:, 3] == 0).all()


@pytest.mark.parametrize("exponent", [-120, -60, 60, 120])
def test_tiny_and_huge_weights_cluster_like_others(exponent: int) -> None:
    subvectors, masks = random_problem(300, 8, 2, 4)
    plain = kmeans(subvectors, 10, masks=masks)
    scaled = kmeans(np.ldexp(subvectors, exponent), 10, masks=masks)
    np.testing.assert_array_equal(plain.assignments, scaled.assignments)
    np.testing.assert_array_equal(np.ldexp(plain.codebook, exponent), scaled.codebook)


def test_weights_that_are_not_kept_do_not_matter() -> None:
    subvectors, masks = random_problem(200, 8, 2, 4)
    noisy = np.where(masks, subvectors, np.float32(100))
    first, second = (kmeans(data, 10, masks=masks) for data in (subvectors, noisy))
    np.testing.assert_array_equal(first.codebook, second.codebook)
    assert first.objective == second.objective


GOOD = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, r"k must be an integer in 1..NG = 1..20, not 0"),
        ({"k": 21}, r"k must be an integer in 1..NG = 1..20, not 21"),
        ({"k": 2.0}, r"k must be an integer in 1..NG = 1..20, not 2.0"),
        ({"subvectors": GOOD.astype(np.float64)}, "subvectors must be a float32 array, not float64"),
        ({"subvectors": GOOD.tolist()}, "subvectors must be a float32 array, not list"),
        ({"subvectors": GOOD[0]}, r"subvectors must have shape \[NG, d\] .* not \[4\]"),
        ({"subvectors": GOOD[:0]}, r"subvectors must have shape \[NG, d\] .* not \[0, 4\]"),
        ({"subvectors": np.where(GOOD > 2, np.float32(np.nan), GOOD)}, "subvectors must be finite"),
        ({"subvectors": GOOD * np.float32(np.inf)}, "subvectors must be finite"),
        ({"masks": np.ones((20, 4), dtype=np.int8)}, r"masks must be bool \[20, 4\], not int8 \[20, 4\]"),
        ({"masks": np.ones((20, 3), dtype=np.bool_)}, r"masks must be bool \[20, 4\], not bool \[20, 3\]"),
        ({"masks": [[True]]}, r"masks must be bool \[20, 4\], not list"),
        ({"iterations": -1}, "iterations must be an integer of at least 0, not -1"),
        ({"seed": -3}, "seed must be an integer of at least 0, not -3"),
        ({"seed": None}, "seed must be an integer of at least 0, not None"),
        ({"init": "best"}, r"init must be one of k-means\+\+, random, paper, not 'best'"),
        ({"empty": "drop"}, "empty must be one of farthest, keep, not 'drop'"),
        ({"tolerance": 1.5}, r"tolerance must be a number in 0..1, not 1.5"),
        ({"tolerance": float("nan")}, r"tolerance must be a number in 0..1, not nan"),
        ({"tolerance": "x"}, r"tolerance must be a number in 0..1, not 'x'"),
        ({"tolerance": None}, r"tolerance must be a number in 0..1, not None"),
        ({"start": GOOD[:4]}, r"start must have shape \[3, 4\], not \[4, 4\]"),
        ({"start": GOOD[:3] * np.float32(np.nan)}, "start must be finite"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
        ({"threads": "2"}, "threads must be at least 1, not '2'"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"subvectors": GOOD, "k": 3} | arguments
    with pytest.raises(KMeansError, match=message):
        kmeans(given.pop("subvectors"), given.pop("k"), **given)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_layers_together_give_the_bytes_of_layer_by_layer(threads: int) -> None:
    sizes = ((300, 8), (20000, 8), (40, 4), (5000, 16))
    weights, masks = zip(*(random_problem(NG, d, 2, 4, seed=NG) for NG, d in sizes), strict=True)
    together = kmeans_layers(weights, 30, masks=[*masks[:3], None], iterations=4, threads=threads)
    for w, kept, found in zip(weights, [*masks[:3], None], together, strict=True):
        alone = kmeans(w, 30, masks=kept, iterations=4, threads=1)
        np.testing.assert_array_equal(found.codebook, alone.codebook)
        np.testing.assert_array_equal(found.assignments, alone.assignments)
        assert (found.objective, found.iterations, found.converged) == (
            alone.objective,
            alone.iterations,
            alone.converged,
        )


def test_layers_start_from_what_is_given() -> None:
    weights = [random_problem(50, 4, 1, 1, seed)[0] for seed in (0, 1)]
    found = kmeans_layers(weights, 5, start=[weights[0][:5], None], iterations=0)
    np.testing.assert_array_equal(found[0].codebook, weights[0][:5])
    np.testing.assert_array_equal(found[1].codebook, kmeans(weights[1], 5, iterations=0).codebook)
    assert kmeans_layers([], 5) == []


def test_layers_refuse() -> None:
    weights = [random_problem(NG, 4, 1, 1)[0] for NG in (50, 3)]
    with pytest.raises(KMeansError, match=r"layer 1: k must be an integer in 1..NG = 1..3, not 5"):
        kmeans_layers(weights, 5)
    with pytest.raises(KMeansError, match="masks must have one entry for each of the 2 layers, not 1"):
        kmeans_layers(weights, 2, masks=[None])
    with pytest.raises(KMeansError, match="start must have one entry for each of the 2 layers, not 3"):
        kmeans_layers(weights, 2, start=[None] * 3)
    with pytest.raises(KMeansError, match="threads must be at least 1, not 0"):
        kmeans_layers(weights, 2, threads=0)
    for device in ("tpu", "meta", "", 1.5):
        with pytest.raises(KMeansError, match=f"device must be cpu, cuda or cuda:N, not {device!r}"):
            kmeans_layers(weights, 2, device=device)  # type: ignore[arg-type]
    with pytest.raises(KMeansError, match=r"device 'cuda:99' is not there: PyTorch sees (no|\d+) CUDA device"):
        kmeans_layers(weights, 2, device="cuda:99")


@pytest.mark.parametrize("masked", [True, False])
def test_memory_stays_under_twice_the_weights(masked: bool) -> None:
    subvectors, masks = random_problem(100_000, 16, 4, 16)
    kmeans(subvectors[:100], 8)  # what the first call loads stays
    tracemalloc.start()
    kmeans(subvectors, 8, masks=masks if masked else None, iterations=2, init="random", threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * subvectors.nbytes


@pytest.mark.parametrize(
    ("masks", "assignments", "codebook", "message"),
    [
        (GOOD[:5] > 0, np.zeros(20), GOOD[:3], r"masks must have shape \[20, 4\], not \[5, 4\]"),
        (None, np.zeros(20), GOOD[:3, :2], r"codebook must have shape \[k, 4\] with k of at least 1, not \[3, 2\]"),
        (None, np.zeros(19), GOOD[:3], r"assignments must have shape \[20\], not \[19\]"),
        (None, np.full(20, 3), GOOD[:3], r"assignments must be in 0..k-1 = 0..2, not 3..3"),
        (None, np.full(20, -1), GOOD[:3], r"assignments must be in 0..k-1 = 0..2, not -1..-1"),
    ],
)
def test_steps_refuse(masks: Any, assignments: Any, codebook: Any, message: str) -> None:
    numbers = assignments.astype(np.int64)
    with pytest.raises(KMeansError, match=message):
        update(GOOD, masks, numbers, codebook)
    with pytest.raises(KMeansError, match=message):
        objective(GOOD, masks, codebook, numbers)
    if not message.startswith("assignments"):
        with pytest.raises(KMeansError, match=message):
            assign(GOOD, masks, codebook)
