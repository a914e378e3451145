"""Odd networks: from torch's fake-quantised graph to the integers of the file, or refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from sw.compress.methods import Recipe
from sw.compress.training.prepare import prepare
from tests.sw.compress.frontend.networks import outcome
from tests.sw.compress.frontend.odd_networks import ODD, Odd


@pytest.mark.parametrize("name", ODD)
def test_accepted_and_equal_or_refused_by_name(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    odd = ODD[name]
    network, images = odd.network()
    reason = outcome(network, images, tmp_path, program=False)
    if odd.refused:
        assert reason is not None
        assert odd.refused in reason
        # What to do.
        assert ": " in reason.split(odd.refused, 1)[1]
    else:
        assert reason is None, reason


def test_few_are_refused() -> None:
    assert len(ODD) >= 60
    assert sum(bool(odd.refused) for odd in ODD.values()) <= 12


def test_a_table_has_a_number_for_each_int8() -> None:
    """A function without a value where no image led so far; but none is asked for beyond the range of its operand."""
    odd = Odd(lambda net, x: (lambda y: y * y.reciprocal())(net.a(x)), ODD["SiLU"].parts)
    network, images = odd.network()
    _, reason = prepare(network, [("*", Recipe("int8"))], images, progress=False)
    assert reason is not None
    assert re.match(r"mul in the network \(OddNet\), odd_networks\.py:\d+ .* not NaN of 0: clamp it", reason), reason
    odd = Odd(lambda net, x: torch.sqrt(functional.relu(net.a(x))), ODD["SiLU"].parts)
    network, images = odd.network()
    assert prepare(network, [("*", Recipe("int8"))], images, progress=False)[1] is None
