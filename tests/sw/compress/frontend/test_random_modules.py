"""Random modules: each is refused by name, or its file computes what torch does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.sw.compress.frontend.networks import Random, outcome, sample

#: Modules, in parts that can run side by side.
COUNT, PARTS = 300, 10


@pytest.mark.parametrize("part", range(PARTS))
def test_none_is_another_network_in_silence(part: int, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    outcomes: Counter[bool] = Counter()
    for seed in range(part, COUNT, PARTS):
        images = sample(8, seed)
        reason = outcome(Random(seed), images, tmp_path, program=seed < PARTS)
        assert reason != "", seed
        outcomes[reason is None] += 1
    # Neither all refused nor none.
    assert min(outcomes[True], outcomes[False]) >= 3, outcomes
