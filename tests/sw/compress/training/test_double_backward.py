"""Gradients of gradients: of plain PyTorch they are right, of kernels refused by PyTorch itself."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sw.compress.training import decoders, moving, norms, quant
from sw.compress.training.decoders import masked_lookup
from sw.compress.training.quant import fake_quantise


def test_of_the_plain_quantiser_they_are_those_of_its_gradients() -> None:
    torch.manual_seed(0)
    values, size, weights = torch.randn(50).requires_grad_(), torch.tensor(0.2).requires_grad_(), torch.randn(50)
    results = fake_quantise(values, size, -4, 3)
    of_values, of_size = torch.autograd.grad((weights * results**2).sum(), [values, size], create_graph=True)
    inside = (values / size).detach().clamp(-4, 3) == (values / size).detach()
    assert 0 < int(inside.sum()) < 50
    (found,) = torch.autograd.grad(of_values.sum(), values, retain_graph=True)
    assert torch.allclose(found, 2 * weights * inside)
    # That of the step is the sum of gradient * slope: the rule of products, the slope's own derivative being -1 / s.
    factor = (50 * 3) ** -0.5
    ratio, gradient = (values / size).detach(), (2 * weights * results).detach()
    slope = ratio.round().clamp(-4, 3) - ratio * inside
    expected = factor * (2 * weights * inside * slope - gradient * inside / size.detach())
    (found,) = torch.autograd.grad(of_size, values)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_of_the_plain_lookup_they_are_means_again(masked: bool) -> None:
    torch.manual_seed(0)
    codebook, assignments = torch.randn(3, 4, requires_grad=True), torch.arange(3).repeat(5)
    masks = torch.rand(15, 4) < 0.5 if masked else torch.ones(15, 4, dtype=torch.bool)
    counts = torch.zeros(3, 4).index_add(0, assignments, masks.float()).clamp_min(1)
    decoded = masked_lookup(codebook, assignments, masks if masked else None, counts)
    # Each element gets the mean over the weights that it stands for, of 3 c^2, and then of 6 c / counts.
    (gradient,) = torch.autograd.grad((decoded**3).sum(), codebook, create_graph=True)
    (found,) = torch.autograd.grad(gradient.sum(), codebook)
    stands = torch.zeros(3, 4).index_add(0, assignments, masks.float()) > 0
    assert torch.allclose(found, 6 * codebook.detach() * stands / counts, atol=1e-5)


VALUES = torch.ones(4, 2)


#: In the place of the kernels, which need a GPU: their shapes alone.
KERNELS = SimpleNamespace(
    fake_quantise=lambda values, *_: values.clone(),
    fake_quantise_backward=lambda *_: (VALUES.clone(), torch.ones(())),
    decode=lambda stored, codebook, *_: codebook.clone(),
    decode_backward=lambda *_: (VALUES.clone(), torch.ones(()), None),
    moving=lambda latent, *_: (torch.zeros(4, dtype=torch.int64), latent.clone(), None),
    moving_backward=lambda *_: (VALUES.clone(), torch.ones(())),
    normalise=lambda values, *_: values.clone(),
    normalise_backward=lambda *_: (VALUES.clone(), VALUES.clone(), VALUES.clone()),
)

DECODER = SimpleNamespace(
    step=lambda: torch.ones(()),
    _own_scale=lambda: torch.ones(()),
    factor=None,
    low=-8,
    high=7,
    masked=False,
    m=0,
    n=0,
    signed=False,
    counts=None,
)

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quantiser": lambda x: quant._FusedFakeQuantise.apply(x, torch.ones(()), torch.zeros(()), -8, 7, KERNELS),
    "codebook": lambda x: decoders._FusedDecode.apply(x, torch.ones(()), torch.zeros(()), None, (), None, KERNELS),
    "moving": lambda x: moving._FusedMoving.apply(x, VALUES, torch.ones(()), torch.zeros(()), DECODER, KERNELS),
    "batch norm": lambda x: norms._Normalised.apply(x, VALUES, VALUES, KERNELS),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_kernels_they_are_refused(name: str) -> None:
    """The kernels have none: taken as constants, they would be left out without a word."""
    values = VALUES.clone().requires_grad_()
    loss = (FUNCTIONS[name](values) ** 2).sum()
    (once,) = torch.autograd.grad(loss, values, retain_graph=True)
    assert once.shape == values.shape
    (gradient,) = torch.autograd.grad(loss, values, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice a function that was marked with @once_differentiable"):
        (loss + gradient.square().sum()).backward()
