"""What batch norms are computed by kernels, with plain PyTorch in their place; the kernels: test_fused.py."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from sw.compress.training import norms
from sw.compress.training.norms import norms_by_kernel


def normalise(values: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    return values * slopes[:, None, None] + offsets[:, None, None]


def normalise_backward(gradient: Tensor, values: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    others = (0, 2, 3)
    return gradient * slopes[:, None, None], (gradient * values).sum(others), gradient.sum(others)


@pytest.fixture
def norm(monkeypatch: pytest.MonkeyPatch) -> nn.BatchNorm2d:
    kernels = SimpleNamespace(normalise=normalise, normalise_backward=normalise_backward)
    monkeypatch.setattr(norms, "kernels_for", lambda values: kernels)
    torch.manual_seed(0)
    made = nn.BatchNorm2d(3).eval()
    assert made.running_mean is not None
    for values in (made.weight.data, made.bias.data, made.running_mean):
        values.normal_()
    return made


def by_kernel(norm: nn.BatchNorm2d, values: Tensor) -> bool:
    return "_Normalised" in type(norm(values).grad_fn).__name__


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, 4, 5, dtype=dtype).contiguous(memory_format=torch.channels_last)


def test_blocks_within_one_another_and_errors_leave_the_network_as_it_was(norm: nn.BatchNorm2d) -> None:
    values = images()
    with norms_by_kernel(norm):
        with norms_by_kernel(norm):
            assert by_kernel(norm, values)
        assert by_kernel(norm, values)
    assert not by_kernel(norm, values)
    with pytest.raises(RuntimeError, match="within"), norms_by_kernel(norm):
        raise RuntimeError("within")
    assert "forward" not in vars(norm)


def test_a_forward_of_its_own_stays(norm: nn.BatchNorm2d) -> None:
    norm.forward = lambda input: 2 * input  # type: ignore[method-assign]
    with norms_by_kernel(norm):
        torch.testing.assert_close(norm(torch.ones(1, 3, 1, 1)), torch.full((1, 3, 1, 1), 2.0))
    assert "forward" in vars(norm)


def test_double_precision_and_other_memory_are_left_to_pytorch(norm: nn.BatchNorm2d) -> None:
    with norms_by_kernel(norm):
        assert not by_kernel(norm, images().contiguous())
        with torch.no_grad():
            assert norm(images()).grad_fn is None
        assert by_kernel(norm, images())
        # Memory of one pixel, or of one channel, is both.
        assert by_kernel(norm, torch.randn(2, 3, 1, 1))
        assert not by_kernel(norm.double(), images(torch.float64))


def test_gradients_are_those_of_pytorch(norm: nn.BatchNorm2d) -> None:
    plain, values = copy.deepcopy(norm), images()
    found, wanted = (values.clone().requires_grad_() for _ in range(2))
    with norms_by_kernel(norm):
        # A copy computes by its own parameters.
        copied = copy.deepcopy(norm)
        copied.weight.data.zero_()
        norm(found).square().sum().backward()
        torch.testing.assert_close(copied(values), copied.bias[:, None, None].expand_as(values))
    plain(wanted).square().sum().backward()
    for own, other in ((found, wanted), (norm.weight, plain.weight), (norm.bias, plain.bias)):
        torch.testing.assert_close(own.grad, other.grad)
