from __future__ import annotations

import pytest
import torch

from sim.networks.definitions import deit_tiny_layers, efficientnet_lite0, resnet18
from sw.compress.sources import load_model
from sw.compress.training.graph import trace


def test_efficientnet_lite0_computes_what_the_package_computes() -> None:
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = load_model("efficientnet-lite0")(images)
        assert torch.allclose(efficientnet_lite0()(images), expected, rtol=0, atol=1e-4)
    assert expected.abs().max() > 1


@pytest.mark.parametrize("seed", [0, 1])
def test_resnet18_has_the_parameters_of_its_paper_and_can_be_traced(seed: int) -> None:
    network = resnet18(seed)
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512
    assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    trace(network, torch.zeros(1, 3, 64, 64))


def test_random_weights_depend_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    same = [resnet18(3).fc.weight, resnet18(3).fc.weight, resnet18(4).fc.weight]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_deit_tiny_has_5_million_weights_in_its_linear_layers() -> None:
    layers = deit_tiny_layers()
    assert len({name for name, _, _ in layers}) == 48
    assert sum(outputs * inputs for _, outputs, inputs in layers) == 12 * 12 * 192**2
