"""The figures of both models of time for small networks are those that were committed.

Tolerances beside the RTL and between the models let small mistakes through. A change of the models that is meant writes
the figures anew: ``python -m tests.sw.perf.test_figures``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hw.config import VARIANTS, preset
from sw.perf.timing import LayerTiming
from tests.sw.networks import every_operation
from tests.sw.perf.models import SLOW, Both, both, of_seed

FIGURES = Path(__file__).with_name("figures.json")
#: What the models say of time.
TIMES = ("cycles", "wait_weights", "wait_activations", "wait_psums", "vector_cycles")
SEEDS = range(24)


def cases(full: bool) -> Iterator[tuple[str, Both | None]]:
    """Every operation on each variant, and random networks on instances as odd as they can be."""
    for variant in VARIANTS:
        config = preset(f"{variant}-tiny")
        network = every_operation(np.random.default_rng(0), config)
        yield f"every operation, {variant}", both(network, (3, 9, 8), config)
    for seed in SEEDS:
        if seed == SLOW and not full:
            continue
        yield f"seed {seed}", of_seed(seed)


def figures(full: bool) -> dict[str, dict[str, list[list[int]]]]:
    """For each network the times of each layer, by the fast model and by that of the program."""

    def rows(timings: list[LayerTiming]) -> list[list[int]]:
        return [[x.counters[name] for name in TIMES] for x in timings]

    return {
        name: {"estimate": rows(timed[0]), "prediction": rows(timed[1])}
        for name, timed in cases(full)
        if timed is not None
    }


def test_figures_are_the_committed_ones(full: bool) -> None:
    committed, found = json.loads(FIGURES.read_text()), figures(full)
    if not full:
        del committed[f"seed {SLOW}"]
    assert len(found) > 20
    assert list(found) == list(committed)
    for name, models in found.items():
        for model, rows in models.items():
            assert rows == committed[name][model], f"{name}, {model}: if that is meant, {__doc__.split('anew: ')[1]}"


if __name__ == "__main__":
    lines = (
        f" {json.dumps(name)}: {json.dumps(models, separators=(',', ':'))}"
        for name, models in figures(full=True).items()
    )
    FIGURES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
