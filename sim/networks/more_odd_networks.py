"""More odd networks: the blocks of the families that people take from the shelf, small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sim.networks.odd_networks import Odd, conv, tail

__all__ = ["MORE"]


def silu(c: int, k: int, size: int = 1, **given: Any) -> nn.Sequential:
    """Convolution, norm and SiLU, in place as YOLO has it."""
    return nn.Sequential(conv(c, k, size, bias=False, **given), nn.BatchNorm2d(k), nn.SiLU(inplace=True))


def relu(c: int, k: int, size: int = 1, **given: Any) -> nn.Sequential:
    """Convolution, norm and ReLU in place."""
    return nn.Sequential(conv(c, k, size, bias=False, **given), nn.BatchNorm2d(k), nn.ReLU(inplace=True))


class Csp(nn.Module):
    """A block of YOLOv5 (C3): two branches of 1 x 1, of which one goes on, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = silu(8, 4), silu(8, 4), silu(8, 8)
        self.inner = nn.Sequential(silu(4, 4), silu(4, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        y = self.one(x)
        return self.last(torch.cat((y + self.inner(y), self.two(x)), dim=1))  # type: ignore[no-any-return]


class RepVgg(nn.Module):
    """A block before it is folded: 3 x 3, 1 x 1 and the identity, each with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Sequential(conv(bias=False), nn.BatchNorm2d(8))
        self.point = nn.Sequential(conv(size=1, bias=False), nn.BatchNorm2d(8))
        self.identity = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        return F.relu(self.dense(x) + self.point(x) + self.identity(x))


class Ghost(nn.Module):
    """A module of GhostNet: some channels by a convolution, the others cheaply from them."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.cheap = relu(8, 5, 1), relu(5, 5, 3, groups=5)

    def forward(self, x: Tensor) -> Tensor:
        """Of both as many channels as are wanted."""
        some = self.primary(x)
        return torch.cat([some, self.cheap(some)], dim=1)[:, :8, :, :]


class Shuffle(nn.Module):
    """A unit of ShuffleNet-v2: channels in halves, one goes on, and both are shuffled."""

    def __init__(self, module: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(relu(4, 4), conv(4, 4, groups=4, bias=False), nn.BatchNorm2d(4), relu(4, 4))
        self.shuffle = nn.ChannelShuffle(2) if module else None

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        kept, more = x.chunk(2, dim=1)
        x = torch.cat((kept, self.branch(more)), dim=1)
        if self.shuffle is not None:
            return self.shuffle(x)  # type: ignore[no-any-return]
        batch, channels, rows, columns = x.shape
        x = x.view(batch, 2, channels // 2, rows, columns)
        return torch.transpose(x, 1, 2).contiguous().view(batch, -1, rows, columns)


class Fire(nn.Module):
    """A module of SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.small, self.large = conv(8, 3, 1), conv(3, 4, 1), conv(3, 5)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Nine channels."""
        x = self.act(self.squeeze(x))
        return torch.cat([self.act(self.small(x)), self.act(self.large(x))], 1)


class Inception(nn.Module):
    """Four branches, one of them pooled with overlap, one of 1 x 5 by 5 x 1."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = relu(8, 3), nn.Sequential(relu(8, 3), relu(3, 4, 3))
        row, column = nn.Conv2d(8, 3, (1, 5), padding=(0, 2)), nn.Conv2d(3, 4, (5, 1), padding=(2, 0))
        self.c = nn.Sequential(row, nn.ReLU(), column, nn.ReLU())
        self.d = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), relu(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Thirteen channels."""
        return torch.cat([branch(x) for branch in (self.a, self.b, self.c, self.d)], 1)


class Pyramid(nn.Module):
    """PANet: down, up with skips by sums, down again with concatenation; three outputs."""

    def __init__(self, cat: bool) -> None:
        super().__init__()
        self.cat = cat
        self.c4, self.c5 = silu(8, 8, 3, stride=2), silu(8, 8, 3, stride=2)
        self.p4, self.p3 = silu(16 if cat else 8, 8, 3), silu(16 if cat else 8, 8, 3)
        self.n4 = silu(8, 8, 3, stride=2)
        self.heads = nn.ModuleList(nn.Conv2d(8 * (1 + (cat and n == 1)), 6, 1) for n in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of three sizes."""
        c4 = self.c4(x)
        c5 = self.c5(c4)
        join = (lambda a, b: torch.cat([a, b], 1)) if self.cat else torch.add
        p4 = self.p4(join(F.interpolate(c5, scale_factor=2, mode="nearest"), c4))
        p3 = self.p3(join(F.interpolate(p4, size=x.shape[-2:]), x))
        return [head(y) for head, y in zip(self.heads, (p3, join(self.n4(p3), p4), c5), strict=True)]


class UNetPlus(nn.Module):
    """UNet++ of two levels: every node sees all before it on its level, and the one below, bilinear; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.x10, self.x20 = relu(8, 8, 3), relu(8, 8, 3)
        self.x01, self.x11, self.x02 = relu(16, 8, 3), relu(16, 8, 3), relu(24, 8, 3)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.last = nn.ModuleList([nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Deep supervision."""
        x10 = self.x10(F.max_pool2d(x, 2))
        x01 = self.x01(torch.cat([x, self.up(x10)], 1))
        x11 = self.x11(torch.cat([x10, self.up(self.x20(F.max_pool2d(x10, 2)))], 1))
        x02 = self.x02(torch.cat([x, x01, self.up(x11)], 1))
        return self.last[0](x01), self.last[1](x02)


class Fused(nn.Module):
    """A fused block of EfficientNet-v2, and one with squeeze and excitation by a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = nn.Sequential(silu(8, 16, 3), conv(16, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.wide, self.deep = silu(8, 16), silu(16, 16, 3, groups=16)
        self.less, self.more = nn.Conv2d(16, 2, 1), nn.Conv2d(2, 16, 1)
        self.narrow = nn.Sequential(conv(16, 8, 1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        x = self.fused(x) + x
        y = self.deep(self.wide(x))
        gate = y.mean((2, 3), keepdim=True)
        return self.narrow(self.more(F.silu(self.less(gate))).sigmoid() * y) + x  # type: ignore[no-any-return]


class Attention(nn.Module):
    """CBAM: a gate of channels by two poolings through one network, then one of positions."""

    def __init__(self, spatial: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1))
        self.spatial = nn.Conv2d(2, 1, 3, padding=1) if spatial else None

    def forward(self, x: Tensor) -> Tensor:
        """The gated map."""
        x = x * torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
        if self.spatial is None:
            return x
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.spatial(both))


def focus(n: Any, x: Tensor) -> Tensor:
    """Of YOLOv5: every second row and column, four times."""
    y = n.a(x)
    return n.b(torch.cat([y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]], 1))


def block(module: Any, c: int = 8) -> Odd:
    """A block, and a convolution behind it."""
    return Odd(lambda n, x: n.b(n.m(x)), lambda: {"m": module(), "b": conv(c)}, (8, 8))


HEADLESS: dict[str, Any] = {"given": lambda: {"head": False}}
MORE: dict[str, Odd] = {
    "C3 of YOLOv5": block(Csp),
    "RepVGG": block(RepVgg),
    "GhostNet": block(Ghost),
    "ShuffleNet, by hand": block(lambda: Shuffle(False)),
    "ShuffleNet, module": block(lambda: Shuffle(True)),
    "SqueezeNet": block(Fire, 9),
    "Inception": block(Inception, 13),
    "PANet, sums": Odd(lambda n, x: n.m(x), lambda: {"m": Pyramid(False)}, (8, 12), **HEADLESS),
    "PANet, concatenation": Odd(lambda n, x: n.m(x), lambda: {"m": Pyramid(True)}, (8, 12), **HEADLESS),
    "UNet++": Odd(lambda n, x: n.m(x), lambda: {"m": UNetPlus()}, (8, 12), **HEADLESS),
    "EfficientNet-v2": block(Fused),
    "CBAM, channels": block(lambda: Attention(False)),
    "CBAM": block(lambda: Attention(True)),
    "Focus": Odd(focus, lambda: tail(32), (8, 6)),
    "rows and columns cut off": Odd(lambda n, x: n.b(n.a(x)[:, :, 1:-1, 2:]), tail),
    "SiLU in place twice": Odd(lambda n, x: n.b(n.m(n.m(n.a(x)))), lambda: {**tail(), "m": nn.SiLU(inplace=True)}),
    "gate first": Odd(
        lambda n, x: torch.sigmoid(n.b(F.adaptive_avg_pool2d(x, 1))) * n.a(x), lambda: {"a": conv(), "b": conv(size=1)}
    ),
    "gate of one channel": Odd(lambda n, x: n.a(x) * torch.sigmoid(n.b(x)), lambda: {"a": conv(), "b": conv(8, 1)}),
    "gate of one number": Odd(
        lambda n, x: n.a(x) * torch.sigmoid(n.b(x.mean((2, 3), keepdim=True))),
        lambda: {"a": conv(), "b": conv(8, 1, 1)},
    ),
    "gate of rows": Odd(lambda n, x: x * torch.sigmoid(n.a(x).mean(3, keepdim=True)), tail),
    "gate added": Odd(lambda n, x: n.b(x + x * torch.sigmoid(n.a(x))), tail),
    "bias of the image": Odd(
        lambda n, x: n.a(x) + n.b(F.adaptive_avg_pool2d(x, 1)), lambda: {"a": conv(), "b": conv(size=1)}
    ),
    "dictionary": Odd(lambda n, x: {"out": n.a(x), "aux": n.b(F.relu(n.a(x)))}, tail, **HEADLESS),
    "nested outputs": Odd(lambda n, x: (n.a(x), [n.b(x), {"third": F.max_pool2d(n.b(x), 2)}]), tail, **HEADLESS),
    "sum over rows and columns": Odd(lambda n, x: n.a(x).sum((2, 3)), tail),
    "mean by sum": Odd(lambda n, x: n.a(x).sum(dim=(-2, -1), keepdim=True) / 48, tail),
    "mean of means": Odd(lambda n, x: n.a(x).mean(3).mean(2), tail),
    "rsub": Odd(lambda n, x: n.b(torch.rsub(n.a(x), x)), tail),
    "1 - x": Odd(lambda n, x: n.b(1.0 - torch.sigmoid(n.a(x))), tail),
    "pixel shuffle": Odd(lambda n, x: n.b(F.pixel_shuffle(n.a(x), 2)), lambda: {"a": conv(8, 32), "b": conv()}),
    "pixel unshuffle": Odd(lambda n, x: n.b(F.pixel_unshuffle(n.a(x), 2)), lambda: tail(32)),
    "transposed 2 x 2, grouped": Odd(
        lambda n, x: n.m(n.a(x)), lambda: {"a": conv(), "m": nn.ConvTranspose2d(8, 4, 2, 2, groups=4)}
    ),
    "transposed 5 x 5": Odd(lambda n, x: n.m(n.a(x)), lambda: {"a": conv(), "m": nn.ConvTranspose2d(8, 8, 5, 2, 2, 1)}),
    "transposed, stride 3": Odd(lambda n, x: n.m(n.a(x)), lambda: {"a": conv(), "m": nn.ConvTranspose2d(8, 8, 3, 3)}),
    "transposed, depthwise": Odd(
        lambda n, x: n.m(n.a(x)), lambda: {"a": conv(), "m": nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8, bias=False)}
    ),
    "adaptive 2 x 3": Odd(lambda n, x: n.b(F.adaptive_avg_pool2d(n.a(x), (2, 3))), tail),
    "adaptive, rows alone": Odd(lambda n, x: n.b(F.adaptive_avg_pool2d(n.a(x), (None, 2))), tail),
    "adaptive, features of several": Odd(lambda n, x: F.adaptive_avg_pool2d(n.a(x), (4, 3)).flatten(1), tail),
    "pyramid pooling": Odd(
        lambda n, x: n.b(torch.cat([x, F.interpolate(n.m(F.adaptive_avg_pool2d(x, 4)), size=x.shape[2:])], 1)),
        lambda: {"m": conv(8, 8, 1), "b": conv(16)},
        (8, 8),
    ),
    "ASPP": Odd(
        lambda n, x: n.b(
            torch.cat([n.a(x), n.m(x), F.interpolate(n.p(F.adaptive_avg_pool2d(x, 1)), size=x.shape[2:])], 1)
        ),
        lambda: {"a": conv(dilation=2, padding=2), "m": conv(size=1), "p": conv(size=1), "b": conv(24)},
        (8, 8),
    ),
    "nearest by 8": Odd(lambda n, x: F.interpolate(n.b(F.max_pool2d(n.a(x), 8)), scale_factor=8), tail, (8, 8)),
    "nearest by 2 and 1": Odd(lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=(2, 1))), tail),
    "nearest by 3": Odd(lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=3)), tail),
    "bilinear by 4": Odd(lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=4, mode="bilinear")), tail, (4, 3)),
    "bilinear, corners": Odd(
        lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=2, mode="bilinear", align_corners=True)), tail
    ),
    "bilinear twice": Odd(
        lambda n, x: n.b(
            F.interpolate(F.interpolate(n.a(x), scale_factor=2, mode="bilinear"), scale_factor=2, mode="bilinear")
        ),
        tail,
        (4, 3),
    ),
    "Hardswish, Hardsigmoid by functions": Odd(
        lambda n, x: F.hardswish(n.a(x), inplace=True) * F.hardsigmoid(n.b(x)), tail
    ),
    "maximum of two": Odd(lambda n, x: torch.maximum(n.a(x), n.b(x)), tail),
    "ReLU of half the channels": Odd(lambda n, x: n.b(torch.cat([F.relu(n.a(x)[:, :4]), n.a(x)[:, 4:]], 1)), tail),
    "CReLU": Odd(lambda n, x: n.b(torch.cat([F.relu(n.a(x)), F.relu(-n.a(x))], 1)), lambda: tail(16)),
    "GLU": Odd(lambda n, x: n.b(F.glu(n.a(x), 1)), lambda: tail(4)),
    "unbind, stack": Odd(lambda n, x: n.b(torch.stack(n.a(x).unbind(1), 1)), tail),
    "channels last": Odd(lambda n, x: n.b(n.a(x.contiguous(memory_format=torch.channels_last))), tail),
    "alpha times the first": Odd(lambda n, x: n.b(torch.rsub(n.a(x), 0.5, alpha=2)), tail),
    "three sums": Odd(lambda n, x: sum([n.a(x), n.b(x), x]), tail),
    "weighted sum of maps": Odd(lambda n, x: 0.25 * n.a(x) + 0.75 * n.b(x), tail),
    "dropout, identity": Odd(
        lambda n, x: n.m(n.b(n.d(n.a(x)))), lambda: {**tail(), "d": nn.Dropout2d(0.3), "m": nn.Identity()}
    ),
    "concatenation of features": Odd(lambda n, x: torch.cat([n.a(x).mean((2, 3)), n.b(x).amax((2, 3))], 1), tail),
    "average, then SiLU": Odd(lambda n, x: F.silu(F.avg_pool2d(n.a(x), 2)), tail),
    "average 3 x 3, overlapping": Odd(lambda n, x: n.b(F.avg_pool2d(n.a(x), 3, 1, 1)), tail),
    "padding, one side": Odd(
        lambda n, x: n.b(F.pad(n.a(x), (0, 1, 0, 1))), lambda: {"a": conv(), "b": conv(stride=2, padding=0)}
    ),
    "two heads of one": Odd(lambda n, x: (n.a(x), n.a(x).mean((2, 3))), tail, **HEADLESS),
    "clamp with both ends": Odd(lambda n, x: n.b(n.a(x).clamp(-0.5, 0.7)), tail),
    "batch norm twice": Odd(
        lambda n, x: n.m(n.p(n.a(x))), lambda: {"a": conv(), "m": nn.BatchNorm2d(8), "p": nn.BatchNorm2d(8)}
    ),
    "batch norm of a sum": Odd(lambda n, x: F.relu(n.m(n.a(x) + x)), lambda: {"a": conv(), "m": nn.BatchNorm2d(8)}),
    "batch norm of a concatenation": Odd(
        lambda n, x: n.b(F.relu(n.m(torch.cat([n.a(x), x], 1)))), lambda: {**tail(16), "m": nn.BatchNorm2d(16)}
    ),
    "linear layers with norm": Odd(
        lambda n, x: F.relu(n.m(n.p(n.a(x).flatten(1)))),
        lambda: {"a": conv(8, 2), "m": nn.BatchNorm1d(9), "p": nn.Linear(96, 9)},
    ),
    "log of softplus": Odd(lambda n, x: n.b(F.softplus(n.a(x))), tail),
    "swapped add_": Odd(lambda n, x: n.b(x).add_(n.a(x)).mul_(0.5), tail),
}

#: Of those that are refused: words of the message.
REFUSED = {
    "transposed, stride 3": "'m' (ConvTranspose2d)",
    "bilinear, corners": "upsample_bilinear2d in the network (OddNet)",
    "maximum of two": "maximum in the network (OddNet)",
    "unbind, stack": "unbind in the network (OddNet)",
}
MORE |= {name: replace(MORE[name], refused=words) for name, words in REFUSED.items()}
