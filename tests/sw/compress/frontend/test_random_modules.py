"""Random modules: each is refused by name, or its file computes what torch does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.sw.compress.frontend.networks import REFUSED, Random, outcome, sample

#: Modules, in parts that can run side by side.
COUNT, PARTS = 300, 10
#: Half of one of the parts in every run, all with ``--full``: ``make random``.
SAMPLED = [0, *(pytest.param(part, marks=pytest.mark.whole) for part in range(1, PARTS))]
#: Modules that torch.export sees together: alone, each costs twice the time.
TOGETHER = 10


class Together(nn.Module):
    """Some modules, of each an output, so that each is compared by itself.

    Parameters
    ----------
    seeds
        Of the modules.
    """

    def __init__(self, seeds: list[int]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict({str(seed): Random(seed) for seed in seeds})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The logits of each."""
        return {seed: net(images) for seed, net in self.nets.items()}


def refused(seeds: list[int], folder: Path) -> set[int]:
    """The modules that are refused, by their names; all others are equal, each by itself."""
    found: set[int] = set()
    while seeds:
        reason = outcome(Together(seeds), sample(8, seeds[0]), folder, program=False)
        if reason is None:
            break
        # Each refusal has the name that its user knows.
        named = {int(number) for number in re.findall(r"'nets\.(\d+)(?:\.[^']*)?'", reason)}
        if not named:
            # Of the whole, such as of memory with two names: which it is says each alone.
            assert "nets" not in reason
            return found | {seed for seed in seeds if outcome(Random(seed), sample(8, seed), folder, program=False)}
        found |= named
        seeds = [seed for seed in seeds if seed not in named]
    return found


@pytest.mark.parametrize("part", SAMPLED)
def test_none_is_another_network_in_silence(part: int, tmp_path: Path, full: bool) -> None:
    torch.set_num_threads(1)
    seeds = list(range(part, COUNT if full else COUNT // 2, PARTS))
    odd = [seed for seed in seeds if REFUSED.intersection(name for name, _, _ in Random(seed).steps)]
    plain = [seed for seed in seeds if seed not in odd]
    found: set[int] = set()
    for group in (odd, plain):
        for start in range(0, len(group), TOGETHER):
            found |= refused(group[start : start + TOGETHER], tmp_path)
    assert found >= set(odd)
    # Neither all refused nor none.
    assert 0 < len(found) < len(seeds) / 2


@pytest.mark.parametrize("seed", range(PARTS))
def test_program(seed: int, tmp_path: Path) -> None:
    """One by one, with the compiled program."""
    torch.set_num_threads(1)
    assert outcome(Random(seed), sample(8, seed), tmp_path) != ""
