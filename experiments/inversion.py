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

from experiments.distillation import NETWORKS, Replayed
from experiments.pictures import SIDE, Network
from sw.compress.training.loop import set_rate
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
    capture: bool = True,
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
    capture
        On a GPU, replay steps as a CUDA graph: else a good part of the time is launches.

    Returns
    -------
    Tensor
        uint8 ``[n, rows, columns, 3]``, of the last round's size.
    """
    mean, deviation = (
        torch.tensor(part, device=device).reshape(1, 3, 1, 1) for part in (network.mean, network.deviation)
    )
    low, high = -mean / deviation, (255 - mean) / deviation
    pixels = None
    with _watched(model) as apart:
        for size, steps in rounds:
            energy = _falling_energy(size).to(device)
            if pixels is None:
                half = (len(classes), 3, size, size // 2 + 1, 2)
                spectrum = NOISE * torch.randn(half, generator=generator).to(device)
            else:
                pixels = functional.interpolate(pixels, size=(size, size), mode="bicubic", align_corners=False)
                spectrum = torch.view_as_real(torch.fft.rfft2(pixels, norm="ortho") / energy)

            def shown(spectrum: Tensor, energy: Tensor = energy) -> Tensor:
                return _pixels(spectrum, energy).maximum(low).minimum(high)

            loss = _loss(model, classes.to(device), apart)
            told = _descend(spectrum, shown, loss, steps, generator, device.startswith("cuda"), capture)
            with torch.no_grad():
                pixels = shown(spectrum)
            sure, like, rough = told.tolist()
            report(f"{size} x {size}: classes {sure:.3f}, statistics {like:.3f}, rough {rough:.4f}")
    assert pixels is not None
    return (pixels * deviation + mean).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()


def _loss(model: nn.Module, wanted: Tensor, apart: list[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """What is made small, of pictures and of where they lie: its parts, ``[3]``: of classes, of statistics, of pixels.

    ``apart`` gets the divergences of a network's statistics as it runs (:func:`_watched`).
    """

    def parts(pixels: Tensor, where: Tensor) -> Tensor:
        views = pixels.index_select(2, where[0]).index_select(3, where[1])
        apart.clear()
        with torch.autocast("cuda", torch.bfloat16, enabled=pixels.is_cuda):
            found = model(views.contiguous(memory_format=torch.channels_last)).float()
        sure = functional.cross_entropy(found, wanted, label_smoothing=SPREAD)
        rough = pixels.diff(dim=2).square().mean() + pixels.diff(dim=3).square().mean()
        return torch.stack([sure, torch.stack(apart).sum(), rough])

    return parts


def _descend(
    spectrum: Tensor,
    shown: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    generator: torch.Generator,
    cuda: bool,
    capture: bool,
) -> Tensor:
    """Change a spectrum, in place, by Adam and a cosine of rates. Returns the parts of the last loss."""
    spectrum.requires_grad_()
    # A captured step reads the rate from the device.
    rate = torch.tensor(RATE, device=spectrum.device) if cuda else RATE
    optimiser = torch.optim.Adam([spectrum], rate, betas=(0.5, 0.9), capturable=cuda)
    (group,) = optimiser.param_groups
    weights = torch.tensor([1.0, STATISTICS, SMOOTH], device=spectrum.device)
    told = torch.zeros_like(weights)

    def work(where: Tensor) -> None:
        parts = loss(shown(spectrum), where)
        (spectrum.grad,) = torch.autograd.grad((weights * parts).sum(), spectrum)
        optimiser.step()
        told.copy_(parts.detach())

    advance = Replayed([work], cuda and capture)
    for step in range(steps):
        set_rate(group, RATE * 0.5 * (1 + math.cos(math.pi * step / steps)))
        advance([_where(spectrum.shape[2], generator).to(spectrum.device)])
    return told


def _where(size: int, generator: torch.Generator) -> Tensor:
    """Rows and columns of a picture as it is shown in a step, ``[2, size]``: rolled by an eighth at most, or mirrored.

    As indices, all steps are one CUDA graph.
    """
    reach = size // 8
    down, right = (int(torch.randint(-reach, reach + 1, (), generator=generator)) for _ in range(2))
    rows, columns = ((torch.arange(size) - shift) % size for shift in (down, right))
    if float(torch.rand((), generator=generator)) < 0.5:
        columns = columns.flip(0)
    return torch.stack([rows, columns])


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


def _pixels(spectrum: Tensor, energy: Tensor) -> Tensor:
    size = len(energy)
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
            pictures = invert(
                model,
                part,
                network,
                generator,
                rounds=ROUNDS,
                device=device,
                capture=not options.eager,
                report=_say,
            )
            made.append(pictures.numpy())
            done = sum(map(len, made))
            _say(f"{done} of {options.pictures} pictures after {time.perf_counter() - begin:.0f} s")
        with open(temporary, "wb") as file:
            np.savez(file, images=np.concatenate(made), labels=classes.numpy())
    return 0
