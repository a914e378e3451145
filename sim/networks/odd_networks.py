"""Sixty odd but ordinary networks: what stands between a stem and a head, the image, and why some are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ODD", "Odd", "OddNet"]

WIDTH = 8
# Of the network, with any modules.
Body = Callable[[Any, Tensor], Any]


class OddNet(nn.Module):
    """A stem, a body that calls what it wants of some modules, and a linear head where the body gives a map.

    Parameters
    ----------
    body
        Of the network and the stem's map; what it gives is pooled for the head if it is a map.
    parts
        Modules of the body, by name.
    channels
        Of the images.
    stem
        In the place of a 3 x 3 convolution to 8 channels.
    head
        Whether there is one; else the network gives what the body does.
    image
        Whether the network returns its image, too.
    """

    def __init__(
        self,
        body: Body,
        parts: Mapping[str, nn.Module],
        channels: int = 3,
        stem: nn.Module | None = None,
        head: bool = True,
        image: bool = False,
    ) -> None:
        super().__init__()
        self.image = image
        self.body = body
        self.stem = nn.Conv2d(channels, WIDTH, 3, padding=1) if stem is None else stem
        for name, module in parts.items():
            self.add_module(name, module)
        self.fc: nn.Module | None = nn.LazyLinear(5) if head else None
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr, operator]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)

    def forward(self, images: Tensor) -> Any:
        """Logits, or what the body gives."""
        values = self.body(self, F.relu(self.stem(images)))
        if self.fc is None:
            return values
        logits = self.fc(values.mean((2, 3)) if values.ndim == 4 else values)
        return (images, logits) if self.image else logits


@dataclass(frozen=True)
class Odd:
    """One of the networks."""

    #: As for :class:`OddNet`.
    body: Body
    #: Makes its modules.
    parts: Callable[[], dict[str, nn.Module]] = dict
    #: Rows and columns of the images.
    size: tuple[int, int] = (8, 6)
    #: Words of the message that refuses it; empty if it is accepted.
    refused: str = ""
    #: More for :class:`OddNet`.
    given: Callable[[], dict[str, Any]] = dict

    def network(self) -> tuple[OddNet, Tensor]:
        """The network, in evaluation mode, and six images. The same every time."""
        torch.manual_seed(0)
        given = {"channels": 3, **self.given()}
        network = OddNet(self.body, self.parts(), **given).eval()
        images = torch.randn(6, given["channels"], *self.size)
        with torch.no_grad():
            network(images)
        return network, images


def conv(c: int = WIDTH, k: int = WIDTH, size: int = 3, **given: Any) -> nn.Conv2d:
    """A convolution that keeps rows and columns, if not told otherwise."""
    return nn.Conv2d(c, k, size, **({"padding": size // 2} | given))


def one(module: nn.Module) -> Callable[[], dict[str, nn.Module]]:
    """A convolution and a module."""
    return lambda: {"a": conv(), "m": module}


def act(module: Callable[[], nn.Module]) -> Odd:
    """An activation behind a convolution, and one behind it."""
    return Odd(lambda n, x: n.b(n.m(n.a(x))), lambda: {"a": conv(), "m": module(), "b": conv()})


def tail(c: int = WIDTH) -> dict[str, nn.Module]:
    """Two convolutions, the second of c channels in."""
    return {"a": conv(), "b": conv(c)}


class SqueezeExcite(nn.Module):
    """Of MobileNet-v3, by convolutions or by linear layers."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        kind: Any = nn.Linear if linear else lambda c, k: nn.Conv2d(c, k, 1)
        self.linear, self.down, self.up = linear, kind(WIDTH, 4), kind(4, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The gated map."""
        pooled = F.adaptive_avg_pool2d(x, 1)
        gate = self.up(F.relu(self.down(pooled.flatten(1) if self.linear else pooled)))
        if self.linear:
            return x * torch.sigmoid(gate).view(len(x), -1, 1, 1)
        return x * F.hardsigmoid(gate)


class UNet(nn.Module):
    """Two levels with a skip."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.down, self.up = mode, conv(WIDTH, 16), conv(WIDTH + 16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same size."""
        low = F.relu(self.down(F.max_pool2d(x, 2)))
        corners = {"align_corners": False} if self.mode == "bilinear" else {}
        high = F.interpolate(low, size=x.shape[2:], mode=self.mode, **corners)
        return F.relu(self.up(torch.cat([x, high], 1)))


def residual(n: Any, x: Tensor) -> Tensor:
    """Pre-activation."""
    return x + n.b(F.relu(n.m(n.a(x))))


def dense(n: Any, x: Tensor) -> Tensor:
    """Two layers of a dense block (DenseNet): norm and ReLU before each convolution."""
    first = n.a(F.relu(n.m(x)))
    both = torch.cat([x, first], 1)
    return torch.cat([both, n.b(F.relu(n.norm(both)))], 1)


def c2f(n: Any, x: Tensor) -> Tensor:
    """A block of YOLOv8: chunks, of which one goes on, and all are concatenated."""
    y = list(F.silu(n.a(x)).chunk(2, 1))
    y.append(F.silu(n.b(y[-1])))
    return F.silu(n.m(torch.cat(y, 1)))


def spp(n: Any, x: Tensor) -> Tensor:
    """Pooled, pooled again, and all of it (SPPF): of one scale."""
    y = F.relu(n.a(x))
    z = F.max_pool2d(y, 3, 1, 1)
    return n.b(torch.cat([y, z, F.max_pool2d(z, 3, 1, 1)], 1))


def pooled(n: Any, x: Tensor) -> Tensor:
    """Squeezed behind pooling, by and by."""
    return F.adaptive_avg_pool2d(n.a(x), 1).squeeze(-1).squeeze(-1)


def scaled_residual(factor: float) -> Odd:
    """A sum of scales far apart."""
    return Odd(lambda n, x: x + n.a(x) * factor, one(nn.Identity()))


def zeros() -> dict[str, nn.Module]:
    """A layer of zeros."""
    layer = conv()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return {"a": layer}


def prelu(count: int) -> nn.PReLU:
    """Slopes that differ."""
    module = nn.PReLU(count)
    nn.init.uniform_(module.weight, -0.2, 0.5)
    return module


class Gamma(nn.Module):
    """A factor for each channel (LayerScale), and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.linspace(-0.5, 1.5, WIDTH).reshape(WIDTH, 1, 1))
        self.register_buffer("mean", torch.linspace(-0.3, 0.3, WIDTH).reshape(1, WIDTH, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``gamma * (x - mean) / 2 + 1``."""
        return self.gamma * (x - self.mean) / 2 + 1  # type: ignore[operator, no-any-return]


PLAIN: Body = lambda n, x: n.a(x)  # noqa: E731
ODD: dict[str, Odd] = {
    # Shapes.
    "input 1 x 1": Odd(PLAIN, one(nn.Identity()), (1, 1)),
    "strip 1 x 255": Odd(PLAIN, one(nn.Identity()), (1, 255)),
    "grey, 17 channels": Odd(
        lambda n, x: n.b(n.a(x)), lambda: {"a": conv(8, 17), "b": conv(17, 8)}, (9, 7), given=lambda: {"channels": 1}
    ),
    "7 x 7, stride 3, beyond the input": Odd(PLAIN, lambda: {"a": conv(size=7, stride=3)}, (5, 4)),
    "dilation": Odd(
        lambda n, x: n.b(n.a(x)), lambda: {"a": conv(dilation=2, padding=2), "b": conv(dilation=(3, 1), padding=(3, 1))}
    ),
    "depthwise, multiplier 2": Odd(
        lambda n, x: n.b(n.a(x)), lambda: {"a": conv(8, 16, groups=8, stride=2), "b": conv(16, 8, groups=4)}
    ),
    "33 x 29": Odd(lambda n, x: n.a(F.max_pool2d(x, 3, 2, 1)), one(nn.Identity()), (33, 29)),
    "residual x30": scaled_residual(30),
    "residual x1e-4": scaled_residual(1e-4),
    "zeros": Odd(lambda n, x: F.relu(n.a(x)) + x, zeros),
    "max pooling, ceil": Odd(lambda n, x: n.a(F.max_pool2d(x, 3, 2, 1, ceil_mode=True)), one(nn.Identity())),
    "adaptive pooling": Odd(
        lambda n, x: n.m(F.adaptive_avg_pool2d(n.a(x), (4, 3))), lambda: {"a": conv(), "m": conv()}
    ),
    "global max pooling": Odd(
        lambda n, x: F.adaptive_max_pool2d(n.a(x), 1) + n.m(x).amax((2, 3), keepdim=True),
        lambda: {"a": conv(), "m": conv()},
    ),
    "every second row and column": Odd(lambda n, x: n.a(x)[:, :, ::2, ::2], one(nn.Identity())),
    # Activations.
    "leaky ReLU": act(lambda: nn.LeakyReLU(0.1)),
    "SiLU": act(nn.SiLU),
    "Hardswish": act(nn.Hardswish),
    "Hardtanh 0..6": act(lambda: nn.Hardtanh(0, 6)),
    "Hardtanh -1..1": act(nn.Hardtanh),
    "PReLU": act(lambda: prelu(1)),
    "PReLU of each channel": act(lambda: prelu(WIDTH)),
    "sigmoid": act(nn.Sigmoid),
    "Mish, tanh": Odd(lambda n, x: torch.tanh(n.m(n.a(x))), one(nn.Mish())),
    "GELU, ELU": Odd(lambda n, x: F.elu(n.m(n.a(x))), one(nn.GELU())),
    "x * sigmoid(x)": Odd(lambda n, x: (lambda y: n.b(y * torch.sigmoid(y)))(n.a(x)), tail),
    "Hardswish by hand": Odd(lambda n, x: (lambda y: n.b(y * F.relu6(y + 3) / 6))(n.a(x)), tail),
    # Concatenation, upsampling, slices.
    "concatenation": Odd(lambda n, x: n.b(torch.cat([n.a(x), x * 3, x], 1)), lambda: tail(24)),
    "dense block": Odd(
        dense, lambda: {"a": conv(), "b": conv(16, 8), "m": nn.BatchNorm2d(8), "norm": nn.BatchNorm2d(16)}
    ),
    "pyramid of pools": Odd(spp, lambda: tail(24)),
    "chunks": Odd(c2f, lambda: {"a": conv(), "b": conv(4, 4), "m": conv(12, 8, 1)}),
    "slice": Odd(lambda n, x: n.b(n.a(x)[:, 2:6]), lambda: tail(4)),
    "split, features": Odd(lambda n, x: torch.cat(n.a(x).mean((2, 3)).split([3, 5], 1)[::-1], 1), one(nn.Identity())),
    "narrow, sum of both halves": Odd(
        lambda n, x: (lambda y: y.narrow(1, 0, 4) + y.narrow(1, 4, 4))(n.a(x)), one(nn.Identity())
    ),
    "nearest": Odd(lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=2)), tail),
    "bilinear": Odd(lambda n, x: n.b(nn.functional.interpolate(n.a(x), scale_factor=2, mode="bilinear")), tail),
    "nearest by 4": Odd(lambda n, x: n.m(n.a(x)), lambda: {"a": conv(stride=2), "m": nn.Upsample(scale_factor=4)}),
    "nearest, to half": Odd(lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=0.5)), tail),
    "U-Net, nearest": Odd(lambda n, x: n.m(x), lambda: {"m": UNet("nearest")}),
    "U-Net, bilinear": Odd(lambda n, x: n.m(x), lambda: {"m": UNet("bilinear")}),
    "transposed, kernel = stride": Odd(
        lambda n, x: n.b(F.relu(n.m(n.a(x)))), lambda: {**tail(), "m": nn.ConvTranspose2d(8, 8, 2, 2)}
    ),
    "transposed 4 x 4, groups": Odd(
        lambda n, x: n.m(n.a(x)), lambda: {"a": conv(), "m": nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2)}
    ),
    "transposed 3 x 3, output padding": Odd(
        lambda n, x: n.m(n.a(x)), lambda: {"a": conv(), "m": nn.ConvTranspose2d(8, 8, 3, 2, 1, 1)}
    ),
    # Gates.
    "squeeze and excitation": Odd(
        lambda n, x: n.b(n.m(F.hardswish(n.a(x)))), lambda: {**tail(), "m": SqueezeExcite(False)}
    ),
    "squeeze and excitation, linear": Odd(
        lambda n, x: n.b(n.m(F.silu(n.a(x)))), lambda: {**tail(), "m": SqueezeExcite(True)}
    ),
    "gate of a mean in another shape": Odd(
        lambda n, x: x * torch.sigmoid(n.m(n.a(x).mean((2, 3))[:, :, None, None])),
        lambda: {"a": conv(), "m": conv(size=1)},
    ),
    "features as a map": Odd(
        lambda n, x: n.b(n.m(x.mean((2, 3))).view(-1, 8, 1, 1)),
        lambda: {"m": nn.Linear(8, 8), "b": conv(size=1)},
        refused="features as a map have no integer form",
    ),
    "the image returned": Odd(
        lambda n, x: n.a(x),
        tail,
        given=lambda: {"image": True},
        refused="output '0' must be computed by the network, not the image itself",
    ),
    "product of two maps": Odd(lambda n, x: n.a(x) * torch.sigmoid(n.b(x)), tail),
    # Arithmetic.
    "subtraction": Odd(lambda n, x: n.a(x) - n.b(x), tail),
    "add with alpha": Odd(lambda n, x: torch.add(n.a(x), x, alpha=-0.5), tail),
    "constants": Odd(lambda n, x: n.b(2 - n.a(x) * 0.5 + 1), tail),
    "factors of channels": Odd(lambda n, x: n.b(n.m(F.relu(n.a(x)))), lambda: {**tail(), "m": Gamma()}),
    # Norms, layers, padding.
    "pre-activation": Odd(residual, lambda: {"a": nn.BatchNorm2d(8), "m": conv(), "b": conv()}),
    "norm on the input": Odd(
        PLAIN, one(nn.Identity()), given=lambda: {"stem": nn.Sequential(nn.BatchNorm2d(3), conv(3, 8))}
    ),
    "norm behind ReLU": Odd(lambda n, x: n.b(n.m(F.relu(n.a(x)))), lambda: {**tail(), "m": nn.BatchNorm2d(8)}),
    "a layer twice": Odd(lambda n, x: n.a(F.relu(n.a(x))), tail),
    "even kernel, same": Odd(lambda n, x: n.a(x), lambda: {"a": conv(size=4, padding="same")}),
    "squeeze behind pooling": Odd(pooled, tail),
    "reflected edges": Odd(lambda n, x: n.m(n.a(x)), one(nn.ReflectionPad2d(1)), refused="'m' (ReflectionPad2d)"),
    "unequal windows": Odd(
        lambda n, x: F.adaptive_avg_pool2d(n.a(x), (3, 4)), one(nn.Identity()), refused="odd_networks.py"
    ),
    "average without padding": Odd(
        lambda n, x: n.m(n.a(x)), one(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), refused="'m' (AvgPool2d)"
    ),
    # Outputs.
    "two outputs": Odd(
        lambda n, x: {"boxes": n.a(x), "classes": [n.b(F.silu(n.a(x))), x]}, tail, given=lambda: {"head": False}
    ),
    "a convolution at the end": Odd(lambda n, x: n.b(F.relu(n.a(x))), tail, given=lambda: {"head": False}),
    "pooling at the end": Odd(lambda n, x: F.relu(n.a(x)).mean((2, 3)), tail, given=lambda: {"head": False}),
    "norm and ReLU at the end": Odd(
        lambda n, x: F.relu(n.m(n.a(x))), lambda: {"a": conv(), "m": nn.BatchNorm2d(8)}, given=lambda: {"head": False}
    ),
    "softmax at the end": Odd(
        lambda n, x: F.softmax(n.m(n.a(x)).mean((2, 3)), 1),
        lambda: {"a": conv(), "m": conv()},
        refused="softmax in the network (OddNet)",
        given=lambda: {"head": False},
    ),
}
