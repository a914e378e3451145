"""Odd networks: from torch's fake-quantised graph over the integers of the file to its program, or refused by name."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from hw.config import preset
from sim.networks.further_odd_networks import FURTHER
from sim.networks.more_odd_networks import MORE
from sim.networks.odd_networks import ODD, Odd
from sw.compiler.compile import compile_network
from sw.compiler.graph import CompileError
from sw.compress.methods import Recipe
from sw.compress.training.prepare import prepare
from sw.executor import run_program
from sw.network import read_network
from tests.sw.compress.frontend.networks import outcome

CONFIG = dataclasses.replace(preset("ews-tiny"), vector_unit_functions="full", psum_width=24)


#: In every run all that are refused, and a fifth of the others.
SAMPLED = [
    pytest.param(name, id=name, marks=() if odd.refused or number % 5 == 0 else pytest.mark.whole)
    for number, (name, odd) in enumerate((ODD | MORE | FURTHER).items())
]


@pytest.mark.parametrize("name", SAMPLED)
def test_accepted_and_equal_or_refused_by_name(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    odd = (ODD | MORE | FURTHER)[name]
    network, images = odd.network()
    reason = outcome(network, images, tmp_path, program=False)
    if odd.refused:
        assert reason is not None
        assert odd.refused in reason
        # What to do.
        assert ": " in reason.split(odd.refused, 1)[1]
        return
    assert reason is None, reason
    network = read_network(tmp_path / "network")
    shape = (images.shape[1], images.shape[2], images.shape[3])
    program = compile_network(network, shape, CONFIG)
    image = network.quantise(images[:1].numpy())
    # In the order of the outputs, under their names.
    found, expected = run_program(program, [image[0]]), network.results(image)
    assert list(found) == [output.name for output in network.outputs] or len(found) == 1
    for values, wanted in zip(found.values(), expected, strict=True):
        assert np.array_equal(values.ravel(), wanted[0].ravel())


def test_few_are_refused() -> None:
    assert len(ODD) >= 60
    assert sum(bool(odd.refused) for odd in ODD.values()) <= 12
    assert len(MORE) >= 60
    assert sum(bool(odd.refused) for odd in MORE.values()) <= 4
    assert len(FURTHER) >= 40
    assert sum(bool(odd.refused) for odd in FURTHER.values()) <= 12


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


def test_what_does_not_fit_is_refused_by_its_layer(tmp_path: Path) -> None:
    """Maps larger than the instance's memory: the compiler says which."""
    network, images = ODD["33 x 29"].network()
    assert outcome(network, images, tmp_path, program=False) is None
    small = dataclasses.replace(CONFIG, l2_bytes=1 << 12)
    with pytest.raises(
        CompileError, match=r"layer 'stem': needs 11484 bytes of L2, the instance has 4096: take smaller images, or"
    ):
        compile_network(read_network(tmp_path / "network"), (3, 33, 29), small)
