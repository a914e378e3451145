"""Masked k-means here against the ways there were: ``python benchmarks/kmeans_speed.py [--threads T] [--keep]``.

Against the broadcast way that MVQ describes: a masked copy of the codebook for each subvector, ``[NG, k, d]``, and
``torch.cdist``, in batches that fit memory. One assignment of the same subvectors to the same codebook, timed.

Against faiss, whose k-means has no masks: the same unmasked data, start and number of iterations, timed as a whole;
then ours with masks, also by faiss's time. Ours assigns once more than faiss, to the last codebook.

Against layer by layer: the convolutions of ResNet-20 in one call.

The ways are interleaved in one process; ratios are medians over the rounds. The result, with versions and seed, goes to
``build/benchmarks/kmeans_speed_<T>.json``, and with ``--keep`` to ``docs/results`` too.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import parser_of, processor, write_report  # noqa: E402
from sw.compress.kmeans import assign, kmeans, kmeans_layers, objective  # noqa: E402
from sw.compress.kmeans_kernels import kernels  # noqa: E402
from sw.compress.pruning import nm_mask  # noqa: E402

#: NG, d, k, N, M: the largest convolutions of EfficientNet-Lite0 and of ResNet-18, plain VQ, and MSVQ's codebooks.
SHAPES = ((25600, 16, 512, 4, 16), (147456, 16, 512, 4, 16), (51200, 8, 1024, 2, 8), (51200, 16, 32, 4, 16))
#: NG of the convolutions of ResNet-20 with d = 8 that have at least k = 128 subvectors, 2:4.
LAYERS = (*[288] * 6, 576, *[1152] * 5, 2304, *[4608] * 5)
SEED = 0
BATCH_BYTES = 1 << 27


def broadcast_assign(subvectors: NDArray[np.float32], masks: NDArray[np.bool_], codebook: NDArray[np.float32]) -> Any:
    """Assign as MVQ section 4.2 describes it: distances to a masked copy of the codebook for each subvector."""
    w, bm, c = torch.from_numpy(subvectors), torch.from_numpy(masks), torch.from_numpy(codebook)
    rows = max(BATCH_BYTES // (4 * codebook.size), 1)
    found = [
        torch.cdist(w[first : first + rows, None], c[None] * bm[first : first + rows, None])[:, 0].argmin(dim=1)
        for first in range(0, len(w), rows)
    ]
    return torch.cat(found).numpy()


def seconds(ways: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Times of each way, by round, after one that is not counted; and each way's last result."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for number in range(-1, rounds):
        for name in list(ways) if number % 2 else reversed(ways):
            begin = time.perf_counter()
            results[name] = ways[name]()
            if number >= 0:
                times[name].append(time.perf_counter() - begin)
    return {name: np.array(values) for name, values in times.items()}, results


def compare(NG: int, d: int, k: int, n: int, m: int, *, iterations: int, rounds: int, threads: int) -> dict[str, Any]:
    """Time the ways on one shape."""
    rng = np.random.default_rng(SEED)
    data = rng.standard_normal((NG, d)).astype(np.float32)
    masks = nm_mask(data, n, m)
    pruned = np.where(masks, data, np.float32(0))
    start = data[rng.choice(NG, size=k, replace=False)]
    settings: dict[str, Any] = {"start": start, "iterations": iterations, "tolerance": 0, "threads": threads}

    def by_faiss() -> Any:
        # Its own limit on the points of a codeword would take a sample.
        clustering = faiss.Kmeans(d, k, niter=iterations, max_points_per_centroid=NG, min_points_per_centroid=1)
        clustering.train(data, init_centroids=start)
        return clustering.centroids

    times, results = seconds(
        {
            "faiss": by_faiss,
            "ours": lambda: kmeans(data, k, **settings),
            "ours, masked": lambda: kmeans(pruned, k, masks=masks, **settings),
        },
        rounds,
    )
    # Its way is slow: a part of the subvectors, and fewer rounds.
    part = slice(0, min(NG, 25600))
    once, found = seconds(
        {
            "broadcast": lambda: broadcast_assign(pruned[part], masks[part], start),
            "ours": lambda: assign(pruned[part], masks[part], start, threads=threads),
        },
        3,
    )
    return {
        "NG": NG,
        "d": d,
        "k": k,
        "N:M": f"{n}:{m}",
        "seconds": {name: float(np.median(values)) for name, values in times.items()},
        "faiss_by_ours": float(np.median(times["faiss"] / times["ours"])),
        "masked_by_faiss": float(np.median(times["ours, masked"] / times["faiss"])),
        "masked_by_unmasked": float(np.median(times["ours, masked"] / times["ours"])),
        "objective_by_faiss": results["ours"].objective
        / objective(data, None, results["faiss"], assign(data, None, results["faiss"])),
        "assign_seconds": {name: float(np.median(values)) for name, values in once.items()},
        "broadcast_by_ours": float(np.median(once["broadcast"] / once["ours"])),
        "equal_assignments": float((found["broadcast"] == found["ours"]).mean()),
    }


def compare_layers(*, iterations: int, rounds: int, threads: int) -> dict[str, Any]:
    """Time a network's layers in one call and one after the other."""
    rng = np.random.default_rng(SEED)
    weights = [rng.standard_normal((NG, 8)).astype(np.float32) for NG in LAYERS]
    masks = [nm_mask(w, 2, 4) for w in weights]
    settings: dict[str, Any] = {"iterations": iterations, "tolerance": 0, "threads": threads}
    times, results = seconds(
        {
            "one by one": lambda: [kmeans(w, 128, masks=bm, **settings) for w, bm in zip(weights, masks, strict=True)],
            "together": lambda: kmeans_layers(weights, 128, masks=masks, **settings),
        },
        rounds,
    )
    together, alone = results["together"], results["one by one"]
    return {
        "NG": LAYERS,
        "seconds": {name: float(np.median(values)) for name, values in times.items()},
        "one_by_one_by_together": float(np.median(times["one by one"] / times["together"])),
        "same_bytes": all(
            a.codebook.tobytes() == b.codebook.tobytes() and a.assignments.tobytes() == b.assignments.tobytes()
            for a, b in zip(together, alone, strict=True)
        ),
    }


def main() -> None:
    """Run the benchmark, print a line for each shape, write the JSON."""
    options = parser_of(__doc__, "rounds", 5).parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    rows = []
    for shape in track(SHAPES, "k-means", console=Console(stderr=True)):
        row = compare(*shape, iterations=options.iterations, rounds=options.rounds, threads=options.threads)
        rows.append(row)
        print(
            f"NG={row['NG']} d={row['d']} k={row['k']}: {row['faiss_by_ours']:.2f} times as fast as faiss; masked "
            f"{row['masked_by_faiss']:.2f} of faiss's time; {row['broadcast_by_ours']:.0f} times as fast as broadcast"
        )
    layers = compare_layers(iterations=options.iterations, rounds=options.rounds, threads=options.threads)
    print(f"{len(LAYERS)} layers together: {layers['one_by_one_by_together']:.2f} times as fast as one by one")
    report = {
        "seed": SEED,
        "rounds": options.rounds,
        "iterations": options.iterations,
        "threads": options.threads,
        "kernels": type(kernels(16)).__name__,
        "processor": processor(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "faiss": faiss.__version__,
        },
        "shapes": rows,
        "layers": layers,
    }
    write_report(f"kmeans_speed_{options.threads}", report, options.keep)


if __name__ == "__main__":
    main()
