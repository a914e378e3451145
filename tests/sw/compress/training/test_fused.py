"""The kernels of the training step against plain PyTorch."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import sys

import numpy as np
import pytest
import torch

from sw.compress.methods import LayerSource, Recipe, compress_layer
from sw.compress.training import quant
from sw.compress.training.freezing import Freezing, SignFreezer
from sw.compress.training.modules import CodebookDecoder, MovingDecoder
from sw.compress.training.norms import norms_by_kernel
from sw.compress.training.quant import StepSize

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("triton") is None, reason="needs CUDA and triton"
)

LAYERS = [
    ("vq", (32, 8, 3, 3), 20, 8),
    ("vq", (16, 4, 1, 1), 3, 4),
    ("mvq", (32, 8, 3, 3), 16, 16),
    ("mvq", (48, 8, 2, 3), 16, 16),
    ("ssvq", (64, 24, 1, 1), 16, 8),
    ("msvq", (32, 5, 3, 3), 4, 16),
]


def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    known = quant.kernels_for
    for module in [module for module in sys.modules.values() if vars(module).get("kernels_for") is known]:
        monkeypatch.setattr(module, "kernels_for", lambda values: None)


def decoder(method: str, shape: tuple[int, ...], k: int, d: int, bits: int = 8) -> CodebookDecoder:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    nm = (4, 16) if method in ("mvq", "msvq") else (0, 0)
    recipe = Recipe(method, k, d, *nm, iterations=2, codeword_bits=bits)
    layer = compress_layer(LayerSource("layer", "conv", weight), recipe)
    made = CodebookDecoder(layer, torch.from_numpy(weight))
    made.step.log_factor.data.fill_(-0.05)
    torch.manual_seed(0)
    if made.signs is not None:
        made.signs.frozen.copy_(torch.rand(made.signs.frozen.shape) < 0.2)
        made.signs.frozen_negative.copy_(torch.rand(made.signs.frozen.shape) < 0.5)
    return made.cuda()


def weights_and_gradients_are_near(
    monkeypatch: pytest.MonkeyPatch, made: torch.nn.Module, gradient: torch.Tensor
) -> None:
    """Of a decoder, by the kernels and in plain PyTorch, which stays in place."""
    results = []
    for _ in range(2):
        made.zero_grad()
        weight = made()
        weight.backward(gradient)
        results.append((weight.detach(), *(p.grad.clone() for p in made.parameters() if p.requires_grad)))
        plain(monkeypatch)
    for fused, reference in zip(*results, strict=True):
        torch.testing.assert_close(fused, reference, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("shape", [(5, 7, 9, 3), (3, 5000)])
def test_fake_quantisation(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    step, values, gradient = StepSize(torch.tensor(0.05)).cuda(), torch.randn(shape).cuda() * 3, torch.randn(shape)
    if values.ndim == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    results = []
    for _ in range(2):
        step.zero_grad()
        given = values.clone().requires_grad_()
        result = step.quantise(given, -128, 127)
        result.backward(gradient.cuda())
        results.append((result.detach(), given.grad, step.log_factor.grad.clone()))
        plain(monkeypatch)
    for fused, reference in zip(*results, strict=True):
        torch.testing.assert_close(fused, reference, rtol=1e-4, atol=1e-4)


def test_nan_stays_nan() -> None:
    step = StepSize(torch.tensor(1.0)).cuda()
    assert step.quantise(torch.tensor([float("nan"), 2.0]).cuda(), -128, 127).isnan().tolist() == [True, False]


@pytest.mark.parametrize(("channels_last", "bits"), [(False, 8), (True, 8), (True, 4), (False, 2)])
@pytest.mark.parametrize(("method", "shape", "k", "d"), LAYERS)
def test_decoding_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, method: str, shape: tuple[int, ...], k: int, d: int, channels_last: bool, bits: int
) -> None:
    made = decoder(method, shape, k, d, bits)
    # Some elements are beyond the range.
    made.codebook.data.mul_(1.3)
    gradient = torch.randn(shape).cuda()
    if channels_last:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    weights_and_gradients_are_near(monkeypatch, made, gradient)


def test_records_of_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    first = decoder("msvq", (32, 5, 3, 3), 4, 16)
    states = []
    for _ in range(2):
        watched = copy.deepcopy(first)
        freezer = SignFreezer(watched, Freezing(interval=2, momentum=0.5, first=0.3, last=0.3, begin=0), 10)
        torch.manual_seed(1)
        for step in range(1, 6):
            flips = torch.rand(watched.signs.latent.shape) < 0.4
            watched.signs.latent.data.mul_(torch.where(flips, -1.0, 1.0).cuda())
            freezer.step(step)
        states.append(watched.state_dict())
        plain(monkeypatch)
    assert freezer.frozen_share() > 0.2
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], msg=name)


MOVING = [
    ("vq", (32, 8, 3, 3), Recipe("vq", 20, 8, 0, 0)),
    ("vq of many codewords", (64, 24, 1, 1), Recipe("vq", 150, 4, 0, 0)),
    ("ssvq", (64, 24, 1, 1), Recipe("ssvq", 70, 8, 0, 0)),
    ("one codeword", (64, 24, 1, 1), Recipe("ssvq", 1, 16, 0, 0)),
    ("mvq", (48, 8, 2, 3), Recipe("mvq", 16, 16, 4, 16)),
    ("msvq", (32, 5, 3, 3), Recipe("msvq", 4, 16, 6, 16)),
    ("msvq of two groups", (32, 5, 3, 3), Recipe("msvq", 40, 16, 3, 8)),
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("shape", "recipe"), [row[1:] for row in MOVING], ids=[row[0] for row in MOVING])
def test_moving_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], recipe: Recipe, channels_last: bool
) -> None:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    layer = compress_layer(LayerSource("layer", "conv", weight), dataclasses.replace(recipe, iterations=2))
    torch.manual_seed(0)
    made = MovingDecoder(layer, torch.randn(shape)).cuda()
    made.step.log_factor.data.fill_(-0.05)
    # Some elements are beyond the range, and some weights are level, and 0 of either sign.
    made.codebook.data.mul_(1.3)
    made.weight.data[:8] = made.weight.data[:8].round()
    gradient = torch.randn(shape).cuda()
    if channels_last:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        # As if the codebook were one of several layers.
        made.factor = torch.tensor(0.7).cuda()
    assert all(parameter.requires_grad for parameter in made.parameters())
    weights_and_gradients_are_near(monkeypatch, made, gradient)
    if made.masked:
        assert (made().detach() == 0).float().mean() >= 1 - recipe.n / recipe.m


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [5, 64, 200])
def test_norms_that_keep_their_statistics(dtype: torch.dtype, channels: int) -> None:
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(channels).cuda().eval()
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        parameter.data.normal_()
    norm.running_var.uniform_(0.5, 2)
    values, gradient = (torch.randn(7, channels, 9, 11).cuda().to(dtype) for _ in range(2))
    # In double precision: in bfloat16, PyTorch's own sums of the parameters' gradients are 1 % off on some GPUs.
    exact = copy.deepcopy(norm).double()
    results = []
    for own, own_dtype in ((norm, dtype), (exact, torch.float64)):
        given = values.to(own_dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        with norms_by_kernel(own) if own is norm else contextlib.nullcontext():
            found = own(given)
        found.backward(gradient.to(own_dtype))
        assert found.dtype == own_dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert type(found.grad_fn).__name__.startswith("_Normalised") == (own is norm)
        results.append((found.detach(), given.grad, own.weight.grad, own.bias.grad))
    # The kernel sums in float32 whatever the values are.
    rounded, summed = 1e-4 if dtype == torch.float32 else 1e-2, 1e-4
    for fused_one, reference, near in zip(*results, (rounded, rounded, summed, summed), strict=True):
        torch.testing.assert_close(fused_one.double(), reference, rtol=near, atol=near)
    assert "forward" not in vars(norm)
