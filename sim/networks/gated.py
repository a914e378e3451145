"""Networks that need all functions of the vector unit, for whole runs on the accelerator, with random weights.

A U-Net, MobileNet-v3 small, EfficientNet with a block a stage, and a detector with two outputs: concatenation,
upsampling, transposed layers, SiLU and Hardswish, squeeze and excitation, slices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GATED", "Detector", "EfficientNet", "MobileNetV3Small", "UNet", "gated_network"]


def _layer(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts: list[nn.Module] = [convolution, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([act()] if act else []))


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) of three levels, padded: one map comes up bilinear, one transposed."""

    def __init__(self, width: int = 16, classes: int = 5) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList(
            nn.Sequential(_layer(inputs, outputs), _layer(outputs, outputs))
            for inputs, outputs in zip((3, *widths), widths, strict=False)
        )
        self.transposed = nn.ConvTranspose2d(widths[1], widths[0], 2, 2)
        self.up = nn.ModuleList(
            nn.Sequential(_layer(inputs, outputs), _layer(outputs, outputs))
            for inputs, outputs in ((widths[2] + widths[1], widths[1]), (2 * widths[0], widths[0]))
        )
        self.classes = nn.Conv2d(width, classes, 1)

    def forward(self, values: Tensor) -> Tensor:
        top = self.down[0](values)
        middle = self.down[1](functional.max_pool2d(top, 2))
        deep = self.down[2](functional.max_pool2d(middle, 2))
        wide = functional.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=False)
        values = self.up[0](torch.cat([middle, wide], 1))
        return self.classes(self.up[1](torch.cat([top, self.transposed(values)], 1)))


class _Gate(nn.Module):
    """Squeeze and excitation (Hu et al. 2017)."""

    def __init__(self, width: int, squeezed: int, inner: type[nn.Module], outer: type[nn.Module]) -> None:
        super().__init__()
        self.less, self.more = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
        self.inner, self.outer = inner(), outer()

    def forward(self, values: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(values, 1)
        return values * self.outer(self.more(self.inner(self.less(pooled))))


class _Inverted(nn.Module):
    """An inverted residual, with a gate or without."""

    def __init__(
        self, inputs: int, wide: int, outputs: int, kernel: int, stride: int, act: type[nn.Module], gate: nn.Module
    ) -> None:
        super().__init__()
        self.expand = _layer(inputs, wide, 1, act=act) if wide != inputs else nn.Identity()
        self.deep, self.gate = _layer(wide, wide, kernel, stride, wide, act), gate
        self.project = _layer(wide, outputs, 1, act=None)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.project(self.gate(self.deep(self.expand(values))))
        return hidden + values if self.residual else hidden


# Kernel, width within, outputs, gate, Hardswish, stride.
_SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


class MobileNetV3Small(nn.Module):
    """MobileNet-v3 small (Howard et al. 2019, table 2)."""

    def __init__(self, classes: int = 100) -> None:
        super().__init__()
        inputs = 16
        blocks: list[nn.Module] = [_layer(3, inputs, 3, 2, act=nn.Hardswish)]
        for kernel, wide, outputs, gated, hard, stride in _SMALL:
            squeezed = max(8, (wide // 4 + 4) // 8 * 8)
            gate = _Gate(wide, squeezed, nn.ReLU, nn.Hardsigmoid) if gated else nn.Identity()
            blocks.append(_Inverted(inputs, wide, outputs, kernel, stride, nn.Hardswish if hard else nn.ReLU, gate))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks, _layer(inputs, 576, 1, act=nn.Hardswish))
        self.hidden, self.classes = nn.Linear(576, 1024), nn.Linear(1024, classes)

    def forward(self, values: Tensor) -> Tensor:
        values = functional.adaptive_avg_pool2d(self.blocks(values), 1).flatten(1)
        return self.classes(functional.hardswish(self.hidden(values)))


# Kernel, stride, factor of the expansion, output channels.
_B0 = ((3, 1, 1, 16), (3, 2, 6, 24), (5, 2, 6, 40), (3, 2, 6, 80), (5, 1, 6, 112), (5, 2, 6, 192), (3, 1, 6, 320))


class EfficientNet(nn.Module):
    """The first block of each stage of EfficientNet-B0 (Tan and Le 2019, table 1), its stem and its head."""

    def __init__(self, classes: int = 100) -> None:
        super().__init__()
        inputs = 32
        blocks: list[nn.Module] = [_layer(3, inputs, 3, 2, act=nn.SiLU)]
        for kernel, stride, factor, outputs in _B0:
            wide = inputs * factor
            gate = _Gate(wide, max(1, inputs // 4), nn.SiLU, nn.Sigmoid)
            blocks.append(_Inverted(inputs, wide, outputs, kernel, stride, nn.SiLU, gate))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks, _layer(inputs, 1280, 1, act=nn.SiLU))
        self.classes = nn.Linear(1280, classes)

    def forward(self, values: Tensor) -> Tensor:
        return self.classes(self.blocks(values).mean((2, 3)))


class _Split(nn.Module):
    """A block of YOLOv8 (C2f): one half goes on through a bottleneck, and all is concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.first, self.last = _layer(width, width, 1, act=nn.SiLU), _layer(3 * half, width, 1, act=nn.SiLU)
        self.inner = nn.Sequential(_layer(half, half, act=nn.SiLU), _layer(half, half, act=nn.SiLU))

    def forward(self, values: Tensor) -> Tensor:
        kept, more = self.first(values).chunk(2, 1)
        return self.last(torch.cat([kept, more, more + self.inner(more)], 1))


class Detector(nn.Module):
    """A detector as YOLOv8 is one: two scales, each with boxes and classes in one map, of which the finer sees both."""

    def __init__(self, width: int = 16, outputs: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(_layer(3, width, 3, 2, act=nn.SiLU), _layer(width, 2 * width, 3, 2, act=nn.SiLU))
        self.fine, self.narrow = _Split(2 * width), _layer(2 * width, 4 * width, 3, 2, act=nn.SiLU)
        self.coarse, self.pyramid = _Split(4 * width), _layer(12 * width, 4 * width, 1, act=nn.SiLU)
        self.joined = _layer(6 * width, 2 * width, 1, act=nn.SiLU)
        self.heads = nn.ModuleList(nn.Conv2d(channels, outputs, 1) for channels in (2 * width, 4 * width))

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        fine = self.fine(self.stem(values))
        coarse = self.coarse(self.narrow(fine))
        pooled = functional.max_pool2d(coarse, 5, 1, 2)
        coarse = self.pyramid(torch.cat([coarse, pooled, functional.max_pool2d(pooled, 5, 1, 2)], 1))
        fine = self.joined(torch.cat([functional.interpolate(coarse, scale_factor=2), fine], 1))
        return {"fine": self.heads[0](fine), "coarse": self.heads[1](coarse)}


#: Networks by name, and rows and columns of their images.
GATED: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "u-net": (UNet, (32, 48)),
    "mobilenet-v3": (MobileNetV3Small, (64, 64)),
    "efficientnet": (EfficientNet, (64, 64)),
    "detector": (Detector, (64, 96)),
}


def gated_network(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """One of :data:`GATED` with random weights, and four random images."""
    make, size = GATED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make().eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.75, 1.25)
                nn.init.normal_(module.bias, 0, 0.2)
        return network, torch.randn(4, 3, *size)
