from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sw.compress import kmeans_kernels
from sw.compress.kmeans import kmeans, objective
from sw.compress.kmeans_kernels import Compiled, Numpy, kernels
from sw.compress.pruning import nm_mask

compiled = kmeans_kernels._compiled()
needs_compiler = pytest.mark.skipif(compiled is None, reason="no C++ compiler")
BOTH = [pytest.param(compiled, marks=needs_compiler, id="compiled"), pytest.param(Numpy(), id="numpy")]


def problem(NG: int, d: int, k: int, masked: bool) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((NG, d)).astype(np.float32)
    masks = rng.random((NG, d)) < 0.4 if masked else None
    w = w if masks is None else np.where(masks, w, np.float32(0))
    return w, masks, rng.standard_normal((k, d)).astype(np.float32)


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("NG", "d", "k"), [(1, 1, 1), (63, 3, 5), (64, 8, 4), (200, 16, 33), (1000, 5, 2), (70, 256, 9)]
)
def test_nearest_and_errors(implementation: Any, masked: bool, NG: int, d: int, k: int) -> None:
    w, masks, codebook = problem(NG, d, k, masked)
    found = np.full(NG, -1, dtype=np.int32)
    factor = implementation.factor(codebook, masked)
    assert implementation.nearest(w, masks, factor, codebook, found, False) == NG
    kept = np.ones_like(w) if masks is None else masks
    distances = ((w[:, None].astype(np.float64) - codebook[None] * kept[:, None]) ** 2).sum(axis=2)
    errors = implementation.errors(w, masks, codebook, found)
    np.testing.assert_allclose(errors, distances[np.arange(NG), found], rtol=1e-12)
    np.testing.assert_allclose(errors, distances.min(axis=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize("masked", [True, False])
def test_refining_changes_only_what_becomes_better(implementation: Any, masked: bool) -> None:
    w, masks, codebook = problem(500, 8, 30, masked)
    codebook[7] = codebook[3]  # as near as 3, and no better
    old = np.random.default_rng(1).integers(30, size=500).astype(np.int32)
    factor = implementation.factor(codebook, masked)
    new = np.zeros_like(old)
    implementation.nearest(w, masks, factor, codebook, new, False)
    assert 7 not in new
    old[:40] = np.where(new[:40] == 3, 7, new[:40])
    found = old.copy()
    changes = implementation.nearest(w, masks, factor, codebook, found, True)
    smaller = implementation.errors(w, masks, codebook, new) < implementation.errors(w, masks, codebook, old)
    assert not smaller[:40].any()
    np.testing.assert_array_equal(found, np.where(smaller, new, old))
    assert changes == np.count_nonzero(smaller) > 300
    assert implementation.nearest(w, masks, factor, codebook, found, True) == 0


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize("masked", [True, False])
def test_sums(implementation: Any, masked: bool) -> None:
    w, masks, _ = problem(500, 7, 6, masked)
    assignments = np.random.default_rng(1).integers(5, size=500).astype(np.int32)
    totals, counts, sizes = implementation.sums(w, masks, assignments, 6)
    for i in range(6):
        members = assignments == i
        np.testing.assert_allclose(totals[i], w[members].sum(axis=0, dtype=np.float64), rtol=1e-12, atol=1e-12)
        assert (
            counts[i].tolist() == (np.full(7, members.sum()) if masks is None else masks[members].sum(axis=0)).tolist()
        )
        assert sizes[i] == members.sum()


@needs_compiler
def test_both_add_in_the_same_order() -> None:
    w, masks, _ = problem(5000, 8, 6, True)
    assignments = np.random.default_rng(1).integers(6, size=5000).astype(np.int32)
    assert compiled is not None
    for ours, theirs in zip(
        compiled.sums(w, masks, assignments, 6), Numpy().sums(w, masks, assignments, 6), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize("masked", [True, False])
def test_closer(implementation: Any, masked: bool) -> None:
    w, masks, codebook = problem(300, 8, 2, masked)
    closest = np.full(300, np.inf, dtype=np.float32)
    expected = np.full(300, np.inf)
    for codeword in codebook:
        total = implementation.closer(w, masks, codeword, closest)
        difference = w - (codeword if masks is None else codeword * masks)
        expected = np.minimum(expected, (difference**2).sum(axis=1))
        np.testing.assert_allclose(closest, expected, rtol=1e-5)
        assert total == pytest.approx(expected.sum(), rel=1e-5)


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize("masked", [True, False])
def test_k_means_plus_plus(implementation: Any, masked: bool) -> None:
    w, masks, fills = problem(300, 8, 12, masked)
    draws = np.random.default_rng(1).random(12)
    found = implementation.plus_plus(w, masks, 7, fills, draws)
    closest, chosen = np.full(300, np.inf), 7
    for i, draw in enumerate(draws):
        codeword = w[chosen] if masks is None else np.where(masks[chosen], w[chosen], fills[i])
        np.testing.assert_array_equal(found[i], codeword)
        closest = np.minimum(closest, ((w - (codeword if masks is None else codeword * masks)) ** 2.0).sum(axis=1))
        chosen = int((np.cumsum(closest) < draw * closest.sum()).sum())


@pytest.mark.parametrize("masked", [True, False])
def test_k_means_plus_plus_by_chunks_is_the_same(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    w, masks, _ = problem(900, 8, 1, masked)
    # Most codewords come from the last chunk, which has four subvectors.
    w[-4:] *= np.array([[-400], [-20], [20], [400]], np.float32)
    whole = kmeans(w, 20, masks=masks, iterations=0)
    monkeypatch.setattr("sw.compress.kmeans._CHUNK_ROWS", 128)
    parts = [kmeans(w, 20, masks=masks, iterations=0, threads=threads) for threads in (1, 3)]
    for found in parts:
        np.testing.assert_array_equal(found.codebook, whole.codebook)
    far = np.abs(whole.codebook).max(axis=1) > 2 * np.abs(w[:-4]).max()
    assert far.sum() >= 2


@needs_compiler
def test_numpy_clusters_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    masks = nm_mask(data, 4, 16)
    assert isinstance(kernels(16), Compiled)
    ours = kmeans(data, 40, masks=masks, iterations=5)
    monkeypatch.setenv("MSVQ_KERNELS", "numpy")
    assert isinstance(kernels(16), Numpy)
    theirs = [kmeans(data, 40, masks=masks, iterations=5, threads=threads) for threads in (1, 3)]
    assert theirs[0].objective == pytest.approx(ours.objective, rel=1e-3)
    np.testing.assert_array_equal(theirs[0].codebook, theirs[1].codebook)
    np.testing.assert_array_equal(theirs[0].assignments, theirs[1].assignments)


def test_longer_codewords_go_to_numpy() -> None:
    data = np.random.default_rng(0).standard_normal((50, 257)).astype(np.float32)
    assert isinstance(kernels(257), Numpy)
    found = kmeans(data, 3)
    assert found.objective == pytest.approx(objective(data, None, found.codebook, found.assignments))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An empty cache, and a process that has not looked for a compiler yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    kmeans_kernels._compiled.cache_clear()
    yield tmp_path
    kmeans_kernels._compiled.cache_clear()


@needs_compiler
def test_compiles_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(kernels(8), Compiled)
    written = {path: path.stat().st_mtime_ns for path in (fresh / "cache" / "msvq").iterdir()}
    assert sorted(path.suffix for path in written) == [".sha256", ".so"]
    kmeans_kernels._compiled.cache_clear()
    assert isinstance(kernels(8), Compiled)
    assert {path: path.stat().st_mtime_ns for path in (fresh / "cache" / "msvq").iterdir()} == written


@needs_compiler
@pytest.mark.parametrize("suffix", [".so", ".sha256"])
@pytest.mark.parametrize("share", [None, 0, 0.5])
def test_builds_a_damaged_library_again(
    fresh: Path, suffix: str, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Built quickly, as nothing is computed.
    monkeypatch.setattr(kmeans_kernels, "FLAGS", ("-std=gnu++17", "-O0", "-shared", "-fPIC"))
    folder = fresh / "cache" / "msvq"
    assert isinstance(kernels(8), Compiled)
    (damaged,) = folder.glob(f"*{suffix}")
    whole = damaged.read_bytes()
    # Not in place: this process has the library mapped.
    damaged.unlink()
    if share is not None:
        damaged.write_bytes(whole[: int(share * len(whole))])
    kmeans_kernels._compiled.cache_clear()
    assert isinstance(kernels(8), Compiled)
    (library,) = folder.glob("*.so")
    (digest,) = folder.glob("*.sha256")
    assert digest.read_text() == hashlib.sha256(library.read_bytes()).hexdigest()


def test_without_a_compiler_numpy_does_it(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    assert isinstance(kernels(8), Numpy)


@needs_compiler
def test_a_compiler_that_fails_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fresh / "broken.cpp"
    source.write_text("#error no")
    monkeypatch.setattr(kmeans_kernels, "SOURCE", source)
    with pytest.warns(UserWarning, match=r"clustering runs on numpy, slower: .* did not build it"):
        assert isinstance(kernels(8), Numpy)
    assert not list((fresh / "cache" / "msvq").iterdir())
