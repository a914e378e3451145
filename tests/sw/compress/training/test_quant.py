from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sw.compress.methods import CompressError
from sw.compress.quantiser import quantise
from sw.compress.training.quant import ActivationQuantiser, StepSize, fake_quantise, integers, weight_range


def lsq(values: Tensor, size: Tensor, low: int, high: int) -> Tensor:
    """LSQ as its paper writes it, for autograd to differentiate."""
    factor = (values.numel() / size.numel() * high) ** -0.5
    scaled = size * factor + (size - size * factor).detach()
    inside = (values / scaled).clamp(low, high)
    return (inside + (inside.round() - inside).detach()) * scaled


@pytest.mark.parametrize("low", [-128, 0])
def test_integers_are_those_of_equation_5(low: int) -> None:
    values = torch.randn(100, 8) * 50
    values[0, :4] = torch.tensor([0.5, 1.5, -0.5, 2.5])  # halves
    expected = quantise(values.numpy(), np.float32(0.5), low)
    np.testing.assert_array_equal(integers(values, torch.tensor(0.5), low, 127).numpy(), expected)


@pytest.mark.parametrize("shape", [(), (6, 1)])
@pytest.mark.parametrize(("low", "high"), [(-128, 127), (0, 127), (-2, 1)])
def test_gradients_are_those_of_lsq(shape: tuple[int, ...], low: int, high: int) -> None:
    torch.manual_seed(0)
    values, size = torch.randn(6, 50), torch.rand(shape) * 0.02 + 0.005
    weights = torch.randn(6, 50)
    results = []
    for function in (fake_quantise, lsq):
        v, s = values.clone().requires_grad_(), size.clone().requires_grad_()
        out = function(v, s, low, high)
        (out * weights).sum().backward()
        results.append((out.detach(), v.grad, s.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_step_learns_by_a_factor_and_starts_to_the_bit() -> None:
    step = StepSize(torch.tensor(1e-4))
    assert step() == torch.tensor(1e-4)
    optimiser = torch.optim.Adam(step.parameters(), 0.01)
    step().backward()
    optimiser.step()
    assert step().item() == pytest.approx(1e-4 * np.exp(-0.01), rel=1e-5)


@pytest.mark.parametrize(("bits", "expected"), [(2, (-2, 1)), (4, (-8, 7)), (7, (-63, 63)), (8, (-127, 127))])
def test_weight_range(bits: int, expected: tuple[int, int]) -> None:
    assert weight_range(bits) == expected


@pytest.mark.parametrize("bits", [1, 9, 4.0])
def test_weight_range_refuses(bits: object) -> None:
    with pytest.raises(CompressError, match=r"bits must be an integer in 2\.\.8, not "):
        weight_range(bits)  # type: ignore[arg-type]


def test_activations_pass_until_calibrated_and_are_int8_then() -> None:
    torch.manual_seed(0)
    values, quantiser = torch.randn(1000), ActivationQuantiser()
    assert quantiser(values) is values
    quantiser.calibrate(values)
    result = quantiser(values).detach()
    whole = result / quantiser.step().detach()
    torch.testing.assert_close(whole, whole.round())
    assert whole.abs().max() <= 128
    assert (result - values).square().mean() < 1.05 * (values.abs().max() / 127) ** 2 / 12


def test_calibration_clips_an_outlier() -> None:
    torch.manual_seed(0)
    values = torch.cat([torch.randn(100_000), torch.tensor([30.0])])
    quantiser = ActivationQuantiser()
    quantiser.calibrate(values)
    assert quantiser.step().item() < 0.9 * 30 / 127


def test_constant_zero_gets_a_scale() -> None:
    quantiser = ActivationQuantiser()
    quantiser.calibrate(torch.zeros(10))
    assert quantiser.step() == 1
    assert (quantiser(torch.zeros(10)) == 0).all()


def test_loading_a_state_makes_it_ready() -> None:
    quantiser, other = ActivationQuantiser(), ActivationQuantiser()
    quantiser.calibrate(torch.randn(100))
    other.load_state_dict(quantiser.state_dict())
    values = torch.randn(20)
    assert torch.equal(other(values), quantiser(values))
    other.load_state_dict(ActivationQuantiser().state_dict())
    assert other(values) is values
