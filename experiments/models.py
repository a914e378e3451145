"""Networks for CIFAR-10 (32 x 32 pixels, 10 classes) and Tiny-ImageNet (64 x 64, 100 of its classes).

The two convolutional ones of the latter are those for CIFAR-10 with a stem of stride 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.checkpoints import write_state
from sw.compress.frontend import PadShortcut
from sw.compress.methods import CompressError
from sw.compress.sources import load_weights
from sw.format.output import staged

__all__ = [
    "MODELS",
    "ImageNetMobileNetV2",
    "MobileNetV2",
    "ResNet18",
    "ResNet20",
    "VisionTransformer",
    "build",
    "image_size",
    "load_weights",
    "save_weights",
]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: of a 1 x 1 convolution (ResNet's option B) or of zeros (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            added = outputs - inputs
            self.shortcut = (
                PadShortcut(stride, added // 2, added - added // 2)
                if option == "A"
                else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            )

    def forward(self, values: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(values)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(values))


class _ResNet(nn.Module):
    def __init__(
        self, blocks: tuple[int, ...], widths: tuple[int, ...], option: str, classes: int, stride: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        stages = []
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            layers = []
            for block in range(count):
                layers.append(BasicBlock(inputs, width, 2 if stage and not block else 1, option))
                inputs = width
            stages.append(nn.Sequential(*layers))
        for stage, layers in enumerate(stages):
            self.add_module(f"layer{stage + 1}", layers)
        self.stages = len(stages)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, values: Tensor) -> Tensor:
        values = functional.relu(self.bn1(self.conv1(values)))
        for stage in range(self.stages):
            values = self.get_submodule(f"layer{stage + 1}")(values)
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(values, 1), 1))


class ResNet20(_ResNet):
    """ResNet-20 (He et al., section 4.2): 16, 32, 64 channels, three blocks each, option A."""

    def __init__(self) -> None:
        super().__init__((3, 3, 3), (16, 32, 64), "A", 10, 1)


class ResNet18(_ResNet):
    """ResNet-18 with a 3 x 3 stem, of stride 1 as is usual for CIFAR-10, and without max pooling."""

    def __init__(self, classes: int = 10, stride: int = 1) -> None:
        super().__init__((2, 2, 2, 2), (64, 128, 256, 512), "B", classes, stride)


class InvertedResidual(nn.Module):
    """MobileNet-v2's block: widen, depthwise, narrow."""

    def __init__(self, inputs: int, outputs: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = inputs * factor
        layers: list[nn.Module] = []
        if factor != 1:
            layers += [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, values: Tensor) -> Tensor:
        return self.layers(values) + values if self.residual else self.layers(values)


#: MobileNet-v2's rows of blocks (Sandler et al. 2018, table 2): expansion, channels, blocks, stride of the first.
_MOBILENET_ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """MobileNet-v2, width 1; of its five strides of 2, the first is ``stride`` and the second is 1."""

    def __init__(self, classes: int = 10, stride: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, stride, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
        inputs = 32
        for number, (factor, outputs, count, step) in enumerate(_MOBILENET_ROWS):
            for block in range(count):
                # The first row of stride 2 keeps its map here: images are small.
                layers.append(InvertedResidual(inputs, outputs, 1 if block or number == 1 else step, factor))
                inputs = outputs
        layers += [nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(1280, classes)

    def forward(self, values: Tensor) -> Tensor:
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(self.features(values), 1), 1))


class _Convolution(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class _ImageNetBlock(nn.Module):
    """:class:`InvertedResidual` with torchvision's names."""

    def __init__(self, inputs: int, outputs: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = inputs * factor
        self.residual = stride == 1 and inputs == outputs
        widening = [_Convolution(inputs, wide, 1)] if factor != 1 else []
        narrowing = [nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*widening, _Convolution(wide, wide, 3, stride, wide), *narrowing)

    def forward(self, values: Tensor) -> Tensor:
        return self.conv(values) + values if self.residual else self.conv(values)


class ImageNetMobileNetV2(nn.Module):
    """MobileNet-v2, width 1, for 224 x 224 pixels and 1000 classes; its state dict has torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Convolution(3, 32, 3, 2)]
        inputs = 32
        for factor, outputs, count, step in _MOBILENET_ROWS:
            for block in range(count):
                layers.append(_ImageNetBlock(inputs, outputs, 1 if block else step, factor))
                inputs = outputs
        self.features = nn.Sequential(*layers, _Convolution(inputs, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, values: Tensor) -> Tensor:
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(self.features(values), 1), 1))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        batch, tokens, width = values.shape
        parts = self.qkv(values).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class _Encoder(nn.Module):
    def __init__(self, width: int, heads: int, epsilon: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, epsilon)
        self.attention = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, epsilon)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, values: Tensor) -> Tensor:
        values = values + self.attention(self.norm1(values))
        return values + self.fc2(functional.gelu(self.fc1(self.norm2(values))))


class VisionTransformer(nn.Module):
    """A vision transformer; by default with DeiT-tiny's width 192 and 3 heads, for 64 patches of 4 x 4 pixels.

    Parameters
    ----------
    depth, width, heads
        Blocks, channels and heads.
    patch, side
        Pixels of a patch's and an image's side.
    classes
        Of the classifier.
    class_token
        It reads a token of its own, that comes first; otherwise the mean of the tokens.
    epsilon
        Of the norms.
    """

    cls_token: nn.Parameter | None

    def __init__(
        self,
        depth: int = 12,
        width: int = 192,
        heads: int = 3,
        *,
        patch: int = 4,
        side: int = 32,
        classes: int = 10,
        class_token: bool = False,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.side = side
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.positions = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + class_token, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.Sequential(*[_Encoder(width, heads, epsilon) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, epsilon)
        self.linear = nn.Linear(width, classes)

    def forward(self, values: Tensor) -> Tensor:
        tokens = self.patches(values).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.norm(self.blocks(tokens + self.positions))
        return self.linear(tokens.mean(1) if self.cls_token is None else tokens[:, 0])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": ResNet20,
    "resnet18": ResNet18,
    "mobilenetv2": MobileNetV2,
    "vit": VisionTransformer,
    "vit-narrow": functools.partial(VisionTransformer, width=64, heads=2),
    "resnet18-64": functools.partial(ResNet18, 100, 2),
    "mobilenetv2-64": functools.partial(MobileNetV2, 100, 2),
    "dinov2-s": functools.partial(
        VisionTransformer, 12, 384, 6, patch=14, side=98, classes=100, class_token=True, epsilon=1e-6
    ),
}

#: Rows and columns of the images of networks that do not take them as they are.
_SIZES = {"dinov2-s": 98}


def image_size(name: str) -> int | None:
    """Rows and columns that a network's images are resized to; None if it takes them as they are."""
    return _SIZES.get(name)


def build(name: str, weights: str | Path | None = None, *, seed: int = 0) -> nn.Module:
    """A network of :data:`MODELS`, with fresh weights of that seed or those of a file.

    Raises
    ------
    CompressError
        The name is unknown.
    """
    if name not in MODELS:
        raise CompressError(f"model must be one of {', '.join(MODELS)}, not {name!r}")
    torch.manual_seed(seed)
    model = MODELS[name]()
    if weights is not None:
        load_weights(model, weights)
    return model


def save_weights(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write a state dict with floats in half precision, half as large, for :func:`load_weights`."""
    with staged(path) as temporary:
        write_state(
            temporary, {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        )
