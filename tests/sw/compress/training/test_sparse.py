from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sw.compress.grouping import group
from sw.compress.methods import CompressError
from sw.compress.pruning import PruningError, nm_mask
from sw.compress.training.sparse import finish_sparse, nm_keep, start_sparse


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.Flatten(), nn.Linear(512, 10)
    )


@pytest.mark.parametrize(("n", "m"), [(4, 16), (1, 2), (2, 4), (16, 16)])
def test_keep_is_the_mask_of_the_clustering(n: int, m: int) -> None:
    weight = torch.randn(32, 5, 3, 3).round(decimals=1)  # with ties
    expected = nm_mask(group(weight.numpy(), 16), n, m)
    np.testing.assert_array_equal(group(nm_keep(weight, n, m).numpy(), 16), expected)


def test_keep_refuses_channels_that_do_not_fit() -> None:
    with pytest.raises(PruningError, match="m must be at least 1 and divide d = 10, not 16"):
        nm_keep(torch.zeros(10, 2), 4, 16)


def test_sr_ste_gradient() -> None:
    model = network()
    assert start_sparse(model, ["2"], 4, 16, decay=0.5) == ["2"]
    original = model[2].parametrizations.weight.original
    model[2].weight.sum().backward()
    keep = nm_keep(original, 4, 16)
    expected = 1 + 0.5 * torch.where(keep, torch.zeros(()), original.detach())
    torch.testing.assert_close(original.grad, expected)


@pytest.mark.parametrize("scheme", ["sr-ste", "asp"])
def test_training_ends_sparse(scheme: str) -> None:
    model = network()
    first = nm_keep(model[2].weight, 4, 16)
    assert start_sparse(model, ["*"], 4, 16, scheme) == ["0", "2"]  # 10 classes do not fit 16
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(5):
        optimiser.zero_grad()
        model(torch.randn(4, 3, 4, 4)).square().mean().backward()
        optimiser.step()
    assert finish_sparse(model) == ["0", "2"]
    for layer in (model[0], model[2]):
        kept = group((layer.weight != 0).detach().numpy(), 16).sum(axis=1)
        assert (kept == 4).all()
    if scheme == "asp":
        assert torch.equal(model[2].weight != 0, first)


@pytest.mark.parametrize("scheme", ["sr-ste", "asp"])
def test_state_dict_round_trip(scheme: str) -> None:
    model, other = network(), network()
    for each in (model, other):
        start_sparse(each, ["2"], 4, 16, scheme)
    with torch.no_grad():
        model[2].parametrizations.weight.original.normal_()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[2].weight, model[2].weight)


def test_bad_arguments() -> None:
    with pytest.raises(CompressError, match=r"patterns must match a layer that 4:16 fits, not \['4'\]"):
        start_sparse(network(), ["4"], 4, 16)
    model = network()
    with pytest.raises(CompressError, match=r"patterns must match a layer, not '3\*'; layers are 0, 2, "):
        start_sparse(model, ["2", "3*"], 4, 16)
    assert not finish_sparse(model)
    with pytest.raises(CompressError, match="scheme must be one of sr-ste, asp, not 'dense'"):
        start_sparse(network(), ["2"], 4, 16, "dense")
    with pytest.raises(PruningError, match=r"n must be in 1..m = 1..16, not 17"):
        start_sparse(network(), ["2"], 17, 16)


def test_a_copy_ends_its_sparse_training_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    start_sparse(model, ["2"], 2, 4)
    images = torch.randn(2, 3, 8, 8)
    expected = model(images)
    other = copy.deepcopy(model)
    assert finish_sparse(other) == ["2"]
    assert torch.equal(other(images), expected)
    assert torch.equal(model(images), expected)
