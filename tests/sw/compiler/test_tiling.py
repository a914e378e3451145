"""What the choice of a plan weighs."""

from __future__ import annotations

import numpy as np
import pytest

from hw.config import preset
from sw.compiler import tiling
from sw.compiler.graph import Convolution
from sw.compiler.lowering import lower
from sw.compiler.tiling import Geometry, Work
from sw.compiler.weights import Weights
from tests.sw.networks import Builder


@pytest.mark.parametrize("size", [1, 3])
def test_copying_ahead_hides_the_shorter_of_copy_and_computation(size: int) -> None:
    config = preset("ews-tiny")
    builder = Builder(np.random.default_rng(0), config)
    builder.layer("layer", 0, (2 * config.L, 2 * config.H, size, size), raw=True, padding=(size // 2, size // 2))
    graph = lower(builder.network(), (2 * config.H, 12, 10))
    (operation,) = (x for x in graph.operations if isinstance(x, Convolution))
    weights = Weights(config, operation, coded=False)
    work = Work.of(weights)
    geometry = Geometry.of(operation, graph.values[operation.source], graph.values[operation.target])
    model, without = (tiling._Model(work, geometry) for _ in range(2))
    without.copy_words = 0
    hidden = set()
    for schedule in list(tiling._schedules(work))[:4]:
        for height, width in ((12, 10), (4, 10), (3, 5)):
            strips = 12 * 10 // (height * width)
            vectors = geometry.region(0, height) * geometry.region(1, width) * model.copy_words
            computed = without.cycles(schedule, height, width, 1, False, ahead=False)
            copied = strips * vectors * work.group_counts[0]
            apart, ahead = (model.cycles(schedule, height, width, 1, False, x) for x in (False, True))
            assert apart == pytest.approx(computed + copied + vectors)
            assert ahead == pytest.approx(max(computed, copied) + vectors)
            hidden.add(copied < computed)
    assert True in hidden
