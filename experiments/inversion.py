"""Pictures made from what a network itself knows of those that it was trained with (:func:`invert`).

Its batch norms hold the mean and the variance of each channel over all training images, its classifier what tells
classes apart. Noise becomes a picture of a class by gradients of both (Yin et al., "Dreaming to Distill",
arXiv 1912.08795; Cai et al., ZeroQ, arXiv 2001.00281): no image is needed, and every class can be shown. The gradients
change a picture's spectrum, low frequencies most, as photographs have it (Olah et al., Feature Visualization, 2017).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.distillation import NETWORKS
from experiments.pictures import SIDE, Network
from sw.format.output import staged

__all__ = ["invert", "run", "statistics_apart"]

#: Rows and columns, and steps at that size: what is large is found where a step is cheap.
ROUNDS = ((112, 200), (SIDE, 200))
#: Of Adam, of a spectrum whose values are about 1.
RATE = 0.05
#: Standard deviation of what they begin with.
NOISE = 0.05
#: What the divergences of statistics and the squares of differences of neighbouring pixels weigh beside the classes.
STATISTICS, SMOOTH = 0.5, 10.0
#: Share of the classes' probability that is spread over all of them: what is too sure tells of no other class.
SPREAD = 0.1


def statistics_apart(norm: nn.BatchNorm2d, values: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the normal distributions a batch norm was trained on, a mean over channels."""
    variance, mean = torch.var_mean(values.float(), (0, 2, 3), correction=0)
    ratio = (variance + norm.eps) / (norm.running_var + norm.eps)  # type: ignore[operator]
    shift = (mean - norm.running_mean).square() / (norm.running_var + norm.eps)  # type: ignore[operator]
    return 0.5 * (ratio - 1 - ratio.log() + shift).mean()


def invert(
    model: nn.Module,
    classes: Tensor,
    network: Network,
    generator: torch.Generator,
    *,
    rounds: tuple[tuple[int, int], ...] = ROUNDS,
    device: str = "cpu",
    report: Callable[[str], None] = lambda line: None,
) -> Tensor:
    """Pictures that a network takes for these classes, and whose statistics are those of its training images.

    Parameters
    ----------
    model
        In evaluation mode, on the device, with batch norms.
    classes
        int64 ``[n]``: as many pictures. Statistics are of all of them together, so they should be of many classes.
    network
        Its pixels' mean and deviation.
    generator
        On the CPU: of the noise, and of where pictures lie in each step.
    rounds
        Rows and columns, and steps at that size.
    device, report
        Where, and told a line a round.

    Returns
    -------
    Tensor
        uint8 ``[n, rows, columns, 3]``, of the last round's size.
    """
    mean, deviation = (
        torch.tensor(part, device=device).reshape(1, 3, 1, 1) for part in (network.mean, network.deviation)
    )
    low, high = -mean / deviation, (255 - mean) / deviation
    wanted = classes.to(device)
    pixels = None
    cuda = device.startswith("cuda")
    with _watched(model) as apart:
        for size, steps in rounds:
            energy = _falling_energy(size).to(device)
            if pixels is None:
                half = (len(classes), 3, size, size // 2 + 1, 2)
                spectrum = NOISE * torch.randn(half, generator=generator).to(device)
            else:
                pixels = functional.interpolate(pixels, size=(size, size), mode="bicubic", align_corners=False)
                spectrum = torch.view_as_real(torch.fft.rfft2(pixels, norm="ortho") / energy)
            spectrum.requires_grad_()
            optimiser = torch.optim.Adam([spectrum], RATE, betas=(0.5, 0.9))
            for step in range(steps):
                optimiser.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
                pixels = _pixels(spectrum, energy, size).maximum(low).minimum(high)
                reach = size // 8
                down, right = (int(torch.randint(-reach, reach + 1, (), generator=generator)) for _ in range(2))
                views = pixels.roll((down, right), (2, 3))
                if float(torch.rand((), generator=generator)) < 0.5:
                    views = views.flip(3)
                apart.clear()
                with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
                    found = model(views.contiguous(memory_format=torch.channels_last)).float()
                sure = functional.cross_entropy(found, wanted, label_smoothing=SPREAD)
                like = torch.stack(apart).sum()
                rough = pixels.diff(dim=2).square().mean() + pixels.diff(dim=3).square().mean()
                (spectrum.grad,) = torch.autograd.grad(sure + STATISTICS * like + SMOOTH * rough, spectrum)
                optimiser.step()
            with torch.no_grad():
                pixels = _pixels(spectrum, energy, size).maximum(low).minimum(high)
            last = f"classes {sure.item():.3f}, statistics {like.item():.3f}, rough {rough.item():.4f}"
            report(f"{size} x {size}: {last}")
    assert pixels is not None
    return (pixels * deviation + mean).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Gets :func:`statistics_apart` of each batch norm that a network runs; its parameters have no gradients."""
    apart: list[Tensor] = []

    def watch(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        apart.append(statistics_apart(module, given[0]))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(watch) for norm in norms]
    kept = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield apart
    finally:
        for handle in handles:
            handle.remove()
        for parameter, before in zip(model.parameters(), kept, strict=True):
            parameter.requires_grad_(before)


def _falling_energy(size: int) -> Tensor:
    """What each value of a spectrum counts, ``[size, size // 2 + 1]``: as photographs have it, less the faster it is.

    Of a spectrum of independent values, the pixels have about their standard deviation.
    """
    down, right = torch.fft.fftfreq(size), torch.fft.rfftfreq(size)
    cycles = size * (down[:, None].square() + right.square()).sqrt()
    energy = 1 / cycles.clamp_min(1)
    return energy / energy.square().mean().sqrt()


def _pixels(spectrum: Tensor, energy: Tensor, size: int) -> Tensor:
    return torch.fft.irfft2(torch.view_as_complex(spectrum) * energy, s=(size, size), norm="ortho")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> int:
    """The command, with its options. Returns 0.

    Raises
    ------
    CompressError
        The weights are not as they must be.
    """
    torch.set_num_threads(options.threads)
    begin = time.perf_counter()
    network, device = NETWORKS[options.network], options.device
    model = copy.deepcopy(network.build(options.weights)).to(device).eval()
    if device.startswith("cuda"):
        model = model.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(options.seed)
    with torch.no_grad():
        many = model(torch.zeros(1, 3, SIDE, SIDE, device=device)).shape[1]
    # Each class as often as every other, nearly, and all of them once before any comes again.
    turns = [torch.randperm(many, generator=generator) for _ in range(-(-options.pictures // many))]
    classes = torch.cat(turns)[: options.pictures]
    made: list[np.ndarray] = []
    with staged(options.output) as temporary:
        for part in classes.split(options.batch):
            made.append(invert(model, part, network, generator, rounds=ROUNDS, device=device, report=_say).numpy())
            done = sum(map(len, made))
            _say(f"{done} of {options.pictures} pictures after {time.perf_counter() - begin:.0f} s")
        with open(temporary, "wb") as file:
            np.savez(file, images=np.concatenate(made), labels=classes.numpy())
    return 0
