from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.grouping import GroupingError, group
from sw.compress.kmeans import kmeans
from sw.compress.training.permutation import channel_order, log_determinant, permute_network


def correlated(seed: int = 0) -> np.ndarray:
    """32 channels, four of each of eight kinds that correlate, shuffled."""
    rng = np.random.default_rng(seed)
    kinds = rng.standard_normal((8, 128))
    channels = np.repeat(kinds, 4, axis=0) + 0.1 * rng.standard_normal((32, 128))
    return rng.permutation(channels).reshape(32, 128, 1, 1).astype(np.float32)


def test_objective_is_the_determinant_of_the_covariance() -> None:
    weight, order = correlated(), np.random.default_rng(1).permutation(32)
    covariance = np.cov(group(weight[order], 8).T.astype(np.float64), bias=True)
    assert log_determinant(weight, order, 8) == pytest.approx(np.linalg.slogdet(covariance)[1], rel=1e-6)


def test_order_is_a_permutation_that_clusters_better() -> None:
    weight = correlated()
    order = channel_order(weight, 4, swaps=2000)
    assert sorted(order) == list(range(32))
    assert log_determinant(weight, order, 4) < log_determinant(weight, np.arange(32), 4) - 1
    before, after = (kmeans(group(w, 4), 16, threads=1).objective for w in (weight, weight[order]))
    assert after < 0.9 * before
    np.testing.assert_array_equal(channel_order(weight, 4, swaps=2000), order)


def test_constant_channels() -> None:
    assert sorted(channel_order(np.zeros((8, 2, 1, 1), np.float32), 4, swaps=10)) == list(range(8))


def test_bad_d() -> None:
    with pytest.raises(GroupingError, match="d must be at least 1 and divide the 32 output channels, not 5"):
        channel_order(correlated(), 5)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.conv2, self.bn2 = nn.Conv2d(32, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)

    def forward(self, values: Tensor) -> Tensor:
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(values))))) + values)


def test_network_computes_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), Residual(), nn.Conv2d(16, 8, 1), nn.ReLU6(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        for tensor in (model[1].bn1.weight, model[1].bn1.bias, model[1].bn1.running_mean):
            tensor.normal_()
    images = torch.randn(2, 3, 5, 5)
    expected, before = model.eval()(images), model[1].conv1.weight.detach().clone()
    # The stem and the second convolution of the block write the residual stream; the last feeds nothing.
    assert permute_network(model, 8, images=images, swaps=200) == ["1.conv1", "2"]
    assert not torch.equal(model[1].conv1.weight, before)
    torch.testing.assert_close(model(images), expected)
