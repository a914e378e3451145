"""Further odd networks: blocks and heads as people write them by hand, and odd sizes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sim.networks.more_odd_networks import HEADLESS, block, relu, silu
from sim.networks.odd_networks import Odd, conv, tail

__all__ = ["FURTHER"]


class Fast(nn.Module):
    """SPPF of YOLOv5: one pooling of 5 x 5 three times, all concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.pool = silu(8, 4), silu(16, 8), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        x = self.one(x)
        y = self.pool(x)
        z = self.pool(y)
        return self.two(torch.cat((x, y, z, self.pool(z)), 1))  # type: ignore[no-any-return]


class Spatial(nn.Module):
    """SPP of YOLOv3: pooling of three sizes beside the map."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        """Four times the channels."""
        return torch.cat([x, *(pool(x) for pool in self.pools)], 1)


class C2f(nn.Module):
    """A block of YOLOv8: in halves, each further part from the last, all concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = silu(8, 10), silu(20, 8)
        self.parts = nn.ModuleList(nn.Sequential(silu(5, 5, 3), silu(5, 5, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        y = list(self.one(x).chunk(2, 1))
        y.extend(part(y[-1]) + y[-1] for part in self.parts)
        return self.two(torch.cat(y, 1))  # type: ignore[no-any-return]


class Elan(nn.Module):
    """A block of YOLOv7: every second of a chain of convolutions, and both branches."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = silu(8, 4), silu(8, 4), silu(16, 8)
        self.chain = nn.ModuleList(silu(4, 4, 3) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        kept = [self.a(x), self.b(x)]
        y = kept[-1]
        for index, layer in enumerate(self.chain):
            y = layer(y)
            if index % 2:
                kept.append(y)
        return self.last(torch.cat(kept[::-1], 1))  # type: ignore[no-any-return]


class Weighted(nn.Module):
    """A node of BiFPN: a sum of two maps by learned weights, which are normalised, of three levels."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.7, 1.3]))
        self.down, self.node = conv(stride=2), nn.Sequential(conv(groups=8), conv(size=1), nn.BatchNorm2d(8), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        w = F.relu(self.weights)
        w = w / (w.sum() + 1e-4)
        deep = F.interpolate(self.down(x), scale_factor=2.0, mode="nearest")
        return self.node(F.silu(w[0] * x + w[1] * deep))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """DenseNet: norm, ReLU, 1 x 1, norm, ReLU, 3 x 3, four layers that see all before, and a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for index in range(4):
            c = 8 + 3 * index
            self.layers.append(
                nn.Sequential(
                    nn.BatchNorm2d(c), nn.ReLU(inplace=True), conv(c, 6, 1, bias=False),
                    nn.BatchNorm2d(6), nn.ReLU(inplace=True), conv(6, 3, 3, bias=False),
                )
            )  # fmt: skip
        self.transition = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), conv(20, 8, 1, bias=False), nn.AvgPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        """Half the rows and columns."""
        found = [x]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return self.transition(torch.cat(found, 1))  # type: ignore[no-any-return]


class ShuffleDown(nn.Module):
    """A unit of ShuffleNet-v2 that halves the map: two branches, and the shuffle as torchvision writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(conv(groups=8, stride=2, bias=False), nn.BatchNorm2d(8), relu(8, 6))
        self.right = nn.Sequential(
            relu(8, 6), conv(6, 6, stride=2, groups=6, bias=False), nn.BatchNorm2d(6), relu(6, 6)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Twelve channels."""
        x = torch.cat((self.left(x), self.right(x)), dim=1)
        batchsize, num_channels, height, width = x.size()
        x = x.view(batchsize, 2, num_channels // 2, height, width)
        return torch.transpose(x, 1, 2).contiguous().view(batchsize, num_channels, height, width)


class Factored(nn.Module):
    """Inception-v3: 1 x 7 behind 7 x 1, an average with overlap, and a map halved in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(
            nn.Conv2d(8, 5, (1, 7), padding=(0, 3), bias=False), nn.BatchNorm2d(5), nn.ReLU(),
            nn.Conv2d(5, 7, (7, 1), padding=(3, 0), bias=False), nn.BatchNorm2d(7), nn.ReLU(),
        )  # fmt: skip
        self.b, self.c = relu(8, 4), conv(11, 9, 3, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """Twenty channels, half the rows and columns."""
        y = torch.cat([self.a(x), self.b(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))], 1)
        return torch.cat([self.c(y), F.max_pool2d(y, kernel_size=3, stride=2)], 1)


class Convnext(nn.Module):
    """ConvNeXt with batch norm for layer norm: 7 x 7 depthwise, a wide 1 x 1, GELU, a scale of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.norm = conv(size=7, groups=8), nn.BatchNorm2d(8)
        self.wide, self.narrow = conv(8, 32, 1), conv(32, 8, 1)
        self.gamma = nn.Parameter(torch.full((8, 1, 1), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        return x + self.gamma * self.narrow(F.gelu(self.wide(self.norm(self.deep(x)))))


class Layered(nn.Module):
    """A layer norm of channels in a CNN, as ConvNeXt has it: channels last and back."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class Eca(nn.Module):
    """ECA: a gate of channels by a convolution along them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The gated map."""
        y = F.adaptive_avg_pool2d(x, 1)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid()


class Cbam(nn.Module):
    """The gate of positions of CBAM, as its authors write it: maximum and mean of 12 channels, 7 x 7, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = conv(8, 12, 1)
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1))

    def forward(self, x: Tensor) -> Tensor:
        """The gated map."""
        x = self.wide(x)
        both = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.spatial(both))


class Both(nn.Module):
    """scSE: a gate of channels by linear layers and one of positions, added."""

    def __init__(self) -> None:
        super().__init__()
        self.less, self.more, self.where = nn.Linear(8, 4), nn.Linear(4, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The gated map."""
        batch, channels = x.shape[:2]
        gate = torch.sigmoid(self.more(F.relu(self.less(x.mean(dim=(2, 3)))))).view(batch, channels, 1, 1)
        return x * gate + x * torch.sigmoid(self.where(x))


class Effective(nn.Module):
    """Effective squeeze and excitation of VoVNet: one layer and a Hardsigmoid; two pools instead of one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Conv2d(8, 8, 1), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """The gated map."""
        return x * self.act(self.fc(0.5 * (F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1))))


class Repeated(nn.Module):
    """One block of a ModuleList that is called in a loop, its layers shared, each with a dropout and an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv(), nn.Identity(), nn.Dropout(0.1), nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        for _ in range(3):
            for layer in self.layers:
                x = layer(x)
        return x


class Tied(nn.Module):
    """Two convolutions of one weight and biases of their own, with other strides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv(stride=2)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        """Half the rows and columns."""
        return self.b(F.relu(self.a(x)))  # type: ignore[no-any-return]


class Shapes(nn.Module):
    """Heads of a detector: a dictionary of lists, one of them from a stride, one from a pool, one padded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(8, 5, stride=2), conv(8, 7, 1), conv(8, 3, 2, padding=0)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Nested outputs."""
        return {"boxes": [self.a(x), self.b(F.avg_pool2d(x, 2))], "scores": {"all": self.c(F.pad(x, (1, 0, 1, 0)))}}


def super_resolution(factor: int, channels: int = 3) -> Odd:
    """ESPCN: a convolution to as many channels as a pixel becomes, and the shuffle at the end."""
    return Odd(
        lambda n, x: n.s(n.b(F.relu(n.a(x)))),
        lambda: {"a": conv(), "b": conv(8, channels * factor**2), "s": nn.PixelShuffle(factor)},
        (5, 4),
        **HEADLESS,
    )


class Focus(nn.Module):
    """Of YOLOv5, in its order."""

    def forward(self, x: Tensor) -> Tensor:
        """Four times the channels, half the rows and columns."""
        return torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1)


def windowed(n: Any, x: Tensor) -> Tensor:
    """Space to depth by hand: rows and columns in twos, and both beside the channels."""
    batch, channels, rows, columns = x.shape
    x = x.view(batch, channels, rows // 2, 2, columns // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return n.b(x.reshape(batch, 4 * channels, rows // 2, columns // 2))  # type: ignore[no-any-return]


def retina(n: Any, x: Tensor) -> Tensor:
    """A head whose anchors come last."""
    y = n.b(n.a(x)).permute(0, 2, 3, 1)
    return y.reshape(y.shape[0], -1, 4)


ACTS = (nn.SELU, nn.CELU, nn.Softsign, nn.Hardshrink, nn.LogSigmoid, lambda: nn.Softplus(2, 10), nn.Tanhshrink)

FURTHER: dict[str, Odd] = {
    "SPPF": block(Fast),
    "SPP of 5, 9, 13": block(Spatial, 32),
    "C2f of YOLOv8": block(C2f),
    "ELAN": block(Elan),
    "BiFPN": block(Weighted),
    "DenseNet": block(Dense),
    "ShuffleNet, halving": block(ShuffleDown, 12),
    "Inception, 1 x 7 and 7 x 1": Odd(lambda n, x: n.b(n.m(x)), lambda: {"m": Factored(), "b": conv(20)}, (9, 11)),
    "ConvNeXt, batch norm": block(Convnext),
    "layer norm of channels": block(Layered),
    "group norm": block(lambda: nn.Sequential(conv(), nn.GroupNorm(2, 8), nn.ReLU())),
    "instance norm": block(lambda: nn.Sequential(conv(), nn.InstanceNorm2d(8), nn.ReLU())),
    "ECA": block(Eca),
    "scSE": block(Both),
    "CBAM, positions": block(Cbam, 12),
    "gates of rows and of columns": Odd(
        lambda n, x: x * torch.sigmoid(n.a(x.mean(3, keepdim=True))) * torch.sigmoid(n.b(x.amax(2, keepdim=True))),
        lambda: {"a": conv(size=1), "b": conv(size=1)},
    ),
    "context of the image": Odd(
        lambda n, x: n.b(torch.cat([x, n.a(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, 8, 6)], 1)),
        lambda: {"a": conv(size=1), "b": conv(16)},
    ),
    "pixels by their norm": Odd(lambda n, x: n.b(n.a(x) * torch.rsqrt((n.a(x) ** 2).sum(1, keepdim=True) + 1)), tail),
    "effective squeeze": block(Effective),
    "a list in a loop": block(Repeated),
    "tied weights": block(Tied),
    "heads of a detector": Odd(lambda n, x: n.m(x), lambda: {"m": Shapes()}, (8, 12), **HEADLESS),
    "other activations": Odd(
        lambda n, x: n.b(n.m(n.a(x))), lambda: {**tail(), "m": nn.Sequential(*(act() for act in ACTS))}
    ),
    "ESPCN by 2": super_resolution(2),
    "ESPCN by 3, grey": super_resolution(3, 1),
    "Focus of the image": Odd(
        lambda n, x: n.b(x),
        lambda: {"b": conv()},
        given=lambda: {"stem": nn.Sequential(Focus(), conv(12, 8))},
    ),
    "space to depth by hand": Odd(windowed, lambda: {"b": conv(32)}),
    "anchors last": Odd(retina, lambda: {"a": conv(), "b": conv(8, 8, 1)}, **HEADLESS),
    "rows alone": Odd(lambda n, x: n.b(n.a(x)[:, :, ::2]), tail),
    "border cut off and added": Odd(
        lambda n, x: n.b(n.a(x) + x[:, :, 1:-1, 1:-1]), lambda: {"a": conv(padding=0), "b": conv()}
    ),
    "negative padding": Odd(lambda n, x: n.b(F.pad(n.a(x), (-1, 2, -1, 0))), tail),
    "center crop of a skip": Odd(
        lambda n, x: n.b(torch.cat([x[:, :, 2:6, 1:5], n.a(x)], 1)),
        lambda: {"a": conv(padding=0, size=5), "b": conv(16)},
        (8, 8),
    ),
    "nearest to a size": Odd(lambda n, x: n.b(F.interpolate(n.a(x), size=(24, 12))), tail),
    "nearest-exact, to half": Odd(
        lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=0.5, mode="nearest-exact")), tail
    ),
    "bilinear to a size": Odd(lambda n, x: F.interpolate(n.b(n.a(x)), size=(24, 18), mode="bilinear"), tail),
    "bilinear to another size": Odd(lambda n, x: F.interpolate(n.b(n.a(x)), size=(12, 9), mode="bilinear"), tail),
    "bilinear by 6, many": Odd(
        lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=6, mode="bilinear")),
        lambda: {"a": conv(8, 11), "b": conv(11)},
        (3, 2),
    ),
    "bilinear to half": Odd(lambda n, x: n.b(F.interpolate(n.a(x), scale_factor=0.5, mode="bilinear")), tail),
    "the same three times": Odd(lambda n, x: n.b(torch.cat([n.a(x), x, n.a(x), x], 1)), lambda: tail(32)),
    "uneven split": Odd(lambda n, x: n.b(torch.cat([F.silu(y) for y in n.a(x).split([1, 2, 5], 1)][::-1], 1)), tail),
    "tensor_split in three": Odd(lambda n, x: n.b(torch.cat(n.a(x).tensor_split(3, 1)[:2], 1)), lambda: tail(6)),
    "argmax at the end": Odd(lambda n, x: n.b(n.a(x)).argmax(1), tail, **HEADLESS),
    "mean over channels": Odd(lambda n, x: n.b(n.a(x) - n.a(x).mean(1, keepdim=True)), tail),
    "pooled by flatten(2)": Odd(
        lambda n, x: torch.cat([n.a(x).flatten(2).mean(-1), n.b(x).view(-1, 8, 48).max(2)[0]], 1), tail
    ),
    "flatten by view": Odd(
        lambda n, x: n.m(F.max_pool2d(n.a(x), 2).view(x.size(0), -1)),
        lambda: {"a": conv(), "m": nn.Linear(96, 10)},
        **HEADLESS,
    ),
    "reshape of logits": Odd(
        lambda n, x: n.m(n.a(x).flatten(1)).view(-1, 2, 5), lambda: {"a": conv(), "m": nn.Linear(384, 10)}, **HEADLESS
    ),
    "map of one channel, tall": Odd(
        lambda n, x: n.b(n.a(x)),
        lambda: {"a": nn.Conv2d(8, 1, (7, 1), padding=(3, 0)), "b": conv(1, 1)},
        (29, 3),
        given=lambda: {"channels": 1, "head": False},
    ),
    "stride 3 of 1 x 1": Odd(lambda n, x: n.b(n.a(x)), lambda: {"a": conv(size=1, stride=3), "b": conv()}, (10, 7)),
    "multiplied by a constant map": Odd(lambda n, x: n.b(n.a(x) * torch.linspace(0, 1, 6)), tail),
    "squared": Odd(lambda n, x: n.b(n.a(x) ** 2 + n.a(x).abs().sqrt()), tail),
    "global max and mean": Odd(
        lambda n, x: torch.cat([n.a(x).amax((2, 3)), n.b(x).mean((2, 3)), x.mean((2, 3))], 1), tail
    ),
}

#: Of those that are refused: words of the message.
REFUSED = {
    "layer norm of channels": "'m.norm' (LayerNorm)",
    "group norm": "'m.1' (GroupNorm)",
    "instance norm": "'m.1' (InstanceNorm2d)",
    "ECA": "'m.conv' (Conv1d)",
    "anchors last": "permute in the network (OddNet)",
    "bilinear to another size": "upsample_bilinear2d in the network (OddNet)",
    "bilinear to half": "upsample_bilinear2d in the network (OddNet)",
    "argmax at the end": "argmax in the network (OddNet)",
    "reshape of logits": "view in the network (OddNet)",
    "multiplied by a constant map": "mul in the network (OddNet)",
}
FURTHER |= {name: replace(FURTHER[name], refused=words) for name, words in REFUSED.items()}
