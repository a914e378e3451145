"""Common k-means here against scikit-learn's: ``python benchmarks/kmeans_vs_sklearn.py [--threads T] [--keep]``.

Both start from the same codewords, run the same number of iterations of Lloyd's algorithm on the same threads, and get
masks of ones (here) or none (there). Pairs are interleaved in one process, the order within a pair alternates; the
ratio is the median over pairs of scikit-learn's time by ours: above 1, ours is faster. Objectives are compared in
float64; scikit-learn's own ``inertia_`` is summed in float32. The result, with versions and seed, goes to
``build/benchmarks/kmeans_vs_sklearn_<T>.json``, and with ``--keep`` to ``docs/results`` too.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import parser_of, processor, write_report  # noqa: E402
from sw.compress.kmeans import KMeansResult, kmeans, objective  # noqa: E402
from sw.compress.kmeans_kernels import kernels  # noqa: E402

#: NG, d, k: MVQ and plain VQ on the largest and on small convolutions of EfficientNet-Lite0, and SSVQ.
SHAPES = ((25600, 16, 512), (51200, 8, 1024), (2400, 16, 512), (51200, 8, 16), (4800, 8, 16))
SEED = 0


def compare(NG: int, d: int, k: int, *, iterations: int, pairs: int, threads: int) -> dict[str, Any]:
    """Time both on one shape: medians in seconds, the ratio's median and range, and the objectives."""
    rng = np.random.default_rng(SEED)
    data = rng.standard_normal((NG, d)).astype(np.float32)
    masks = np.ones(data.shape, dtype=np.bool_)
    start = data[rng.choice(NG, size=k, replace=False)]

    def ours() -> KMeansResult:
        return kmeans(data, k, masks=masks, start=start, iterations=iterations, tolerance=0, threads=threads)

    def theirs() -> KMeans:
        return KMeans(k, init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(data)

    times: NDArray[np.float64] = np.empty((pairs, 2))
    results: list[Any] = [None, None]
    with threadpool_limits(threads):
        for pair in range(-1, pairs):  # the first pair warms up
            for which in (0, 1) if pair % 2 else (1, 0):
                begin = time.perf_counter()
                results[which] = (ours, theirs)[which]()
                times[pair, which] = time.perf_counter() - begin
    ratios = times[:, 1] / times[:, 0]
    us, them = results
    exact = objective(data, None, them.cluster_centers_.astype(np.float32), them.labels_)
    return {
        "NG": NG,
        "d": d,
        "k": k,
        "iterations": [us.iterations, int(them.n_iter_)],
        "seconds": np.median(times, axis=0).tolist(),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios.min(), ratios.max()],
        "objective_difference": abs(us.objective - exact) / exact,
        "inertia_rounding": abs(float(them.inertia_) - exact) / exact,
    }


def main() -> None:
    """Run the benchmark, print a line for each shape, write the JSON."""
    options = parser_of(__doc__, "pairs", 7).parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    for NG, d, k in track(SHAPES, "k-means", console=Console(stderr=True)):
        row = compare(NG, d, k, iterations=options.iterations, pairs=options.pairs, threads=options.threads)
        rows.append(row)
        low, high = row["ratio_range"]
        print(
            f"NG={NG} d={d} k={k}: {row['ratio']:.2f} times as fast as scikit-learn ({low:.2f} to {high:.2f}), "
            f"iterations {row['iterations']}, objectives differ by {row['objective_difference']:.1e}"
        )
    report = {
        "seed": SEED,
        "pairs": options.pairs,
        "threads": options.threads,
        "processor": processor(),
        "kernels": type(kernels(16)).__name__,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scikit-learn": sklearn.__version__},
        "shapes": rows,
    }
    write_report(f"kmeans_vs_sklearn_{options.threads}", report, options.keep)


if __name__ == "__main__":
    main()
