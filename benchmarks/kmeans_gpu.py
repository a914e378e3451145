"""Masked k-means on a GPU: ``python benchmarks/kmeans_gpu.py [--rounds R]``.

The convolutions of ResNet-50, random weights: 1.47 million subvectors of 16, masks 4:16, k = 512, 25 iterations, once
with one codebook for all layers and once with one for each layer that has at least k subvectors. Timed are the
iterations on weights that are on the device, the same with k-means++ before them, and the whole call from host memory
to host memory.

One assignment, with the exact comparison and the sums of the members, is timed against a plain matrix product of the
same operand sizes, ``[NG, 2d] x [2d, k]``, whose result goes to memory: float32, tf32 and float16.

The objective is compared with the plain PyTorch reference's from the same start, bytes with those of a second run. The
result goes to ``docs/results/kmeans_gpu.json``.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import write_report  # noqa: E402
from sw.compress import kmeans_gpu, kmeans_triton  # noqa: E402
from sw.compress.kmeans_problem import Settings, checked_layers  # noqa: E402
from sw.compress.pruning import nm_mask  # noqa: E402
from sw.format.strict_json import json_text  # noqa: E402

D, K, N, M, ITERATIONS, SEED = 16, 512, 4, 16, 25, 0
DEVICE = "cuda"


def resnet50() -> list[int]:
    """Weights of the convolutions of ResNet-50, from its architecture (He et al. 2016, table 1)."""
    found, channels = [3 * 64 * 7 * 7], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            found += [channels * width, width * width * 9, width * 4 * width]
            if block == 0:
                found.append(channels * 4 * width)
            channels = 4 * width
    return found


def milliseconds(work: Callable[[], Any], rounds: int, before: Callable[[], Any] = lambda: None) -> list[float]:
    """Time on the device, each round after ``before``, which is not timed."""
    times = []
    for number in range(-2, rounds):
        before()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if number >= 0:
            times.append(begin.elapsed_time(end))
    return times


def cluster(layers: list[Any], rounds: int) -> dict[str, Any]:
    """Times, peak memory and objective of one clustering problem."""
    weights = sum(w.nbytes for w, _, _ in layers)
    settings = [s for _, _, s in layers]
    plain = [Settings(**{**vars(s), "start": None}) for s in settings]
    state: dict[str, Any] = {}

    def load() -> None:
        state.clear()
        state["group"], state["exponents"] = kmeans_gpu.load(layers, DEVICE)

    def run(given: list[Settings], steps: Any = kmeans_triton.Steps) -> Any:
        state["found"] = kmeans_gpu.cluster_group(state["group"], given, state["exponents"], steps)
        return state["found"]

    iterating = milliseconds(lambda: run(settings), rounds, load)
    objective = sum(found.objective for found in state["found"])
    contents = [(found.codebook.tobytes(), found.assignments.tobytes()) for found in state["found"]]
    starting = milliseconds(lambda: run(plain), rounds, load)
    started = sum(found.objective for found in state["found"])
    load()
    again = run(settings)
    same = contents == [(found.codebook.tobytes(), found.assignments.tobytes()) for found in again]
    load()
    reference = sum(found.objective for found in run(settings, kmeans_gpu.Reference))
    state.clear()
    # What the reference's matrix products keep for themselves is not ours.
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    whole = []
    for _ in range(3):
        begin = time.perf_counter()
        found = kmeans_gpu.cluster_layers([(w, m, p) for (w, m, _), p in zip(layers, plain, strict=True)], DEVICE)
        whole.append(time.perf_counter() - begin)
    return {
        "layers": len(layers),
        "NG": sum(len(w) for w, _, _ in layers),
        "iterations": sorted({result.iterations for result in found}),
        "seconds_iterations": statistics.median(iterating) / 1e3,
        "seconds_iterations_range": [min(iterating) / 1e3, max(iterating) / 1e3],
        "seconds_with_k_means_plus_plus": statistics.median(starting) / 1e3,
        "seconds_whole_call": statistics.median(whole),
        "peak_memory_by_weights": (torch.cuda.max_memory_allocated() - before) / weights,
        "objective": objective,
        "objective_from_k_means_plus_plus": started,
        "objective_by_reference": objective / reference,
        "same_bytes_again": same,
    }


def excess(group: Any, assignments: Any) -> float:
    """Error of one layer's assignments by that of the nearest codewords, both in float64, less 1."""
    found, least = 0.0, 0.0
    for chunk in group.chunks(0, 1 << 16):
        w, masks, codebook = group.w[chunk].double(), group.masks[chunk].double(), group.codebook[0].double()
        errors = (masks @ codebook.square().T).sub_(2 * (w @ codebook.T)).add_(w.square().sum(dim=1, keepdim=True))
        found += float(errors.gather(1, assignments[chunk][:, None]).sum())
        least += float(errors.amin(dim=1).sum())
    return found / least - 1


def assign(layer: Any, rounds: int) -> dict[str, Any]:
    """One step of the clustering by a plain product."""
    group, exponents = kmeans_gpu.load([layer], DEVICE)
    steps = kmeans_triton.Steps(group)
    kmeans_gpu.start(group, [layer[2]], exponents, steps)
    steps.begin()
    going = torch.ones(1, dtype=torch.bool, device=DEVICE)

    def step() -> None:
        steps.step([0], group.tiles, False)

    def iterate() -> None:
        steps.update(going)
        step()

    steps.step([0], group.tiles, True)
    first = group.assignments.long()
    quality = {"triton": excess(group, first)}
    scores = group.w @ (-2 * group.codebook[0]).T
    scores += group.masks.float() @ group.codebook[0].square().T
    quality["float32"] = excess(group, scores.argmin(dim=1))
    del scores
    iterate()
    times = {"step": milliseconds(step, rounds), "update_and_step": milliseconds(iterate, rounds)}
    NG = len(group.w)
    left, right = torch.randn(NG, 2 * D, device=DEVICE), torch.randn(2 * D, K, device=DEVICE)
    for name, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("float16", torch.float16)):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = left.to(dtype), right.to(dtype)
        out = torch.empty(NG, K, dtype=dtype, device=DEVICE)
        times[f"product_{name}"] = milliseconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), rounds)
        del out
    torch.backends.cuda.matmul.allow_tf32 = False
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "NG": NG,
        "excess_of_the_smallest_error": quality,
        "milliseconds": medians,
        "rate_by_product": {
            name.partition("_")[2]: medians[name] / medians["step"] for name in medians if name.startswith("product")
        },
        "update_and_step_rate_by_product": {
            name.partition("_")[2]: medians[name] / medians["update_and_step"]
            for name in medians
            if name.startswith("product")
        },
        "step_tflops_counted_as_product": 2 * NG * 2 * D * K / medians["step"] / 1e9,
    }


def main() -> None:
    """Run the benchmark and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    weights = [rng.standard_normal((count // D, D), dtype=np.float32) for count in resnet50()]
    common = Settings(K, ITERATIONS, SEED, "k-means++", "farthest", 0.0)

    def problem(subvectors: list[Any]) -> list[Any]:
        masks = [nm_mask(w, N, M) for w in subvectors]
        starts = [w[rng.choice(len(w), size=K, replace=False)] for w in subvectors]
        return checked_layers(subvectors, masks, starts, common)

    problems = {
        "crosslayer": problem([np.concatenate(weights)]),
        "layerwise": problem([w for w in weights if len(w) >= K]),
    }
    rows: dict[str, Any] = {}
    for name in track(problems, "k-means", console=Console(stderr=True)):
        rows[name] = cluster(problems[name], options.rounds)
    rows["assign"] = assign(problems["crosslayer"][0], options.rounds)
    report = {
        "seed": SEED,
        "d": D,
        "k": K,
        "N:M": f"{N}:{M}",
        "rounds": options.rounds,
        "device": torch.cuda.get_device_name(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "triton": triton.__version__,
        },
        **rows,
    }
    print(json_text(report))
    write_report("kmeans_gpu", report, keep=True)


if __name__ == "__main__":
    main()
