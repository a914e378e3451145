"""Small integer networks with random weights, of every operation and for every variant."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from hw.config import AcceleratorConfig
from sw.format.layer import CompressedLayer, Requantisation
from sw.network import Network, parse_operations

METHODS = {(False, False): "vq", (True, False): "mvq", (False, True): "ssvq", (True, True): "msvq"}


def random_layer(
    rng: np.random.Generator,
    config: AcceleratorConfig,
    name: str,
    shape: tuple[int, int, int, int],
    *,
    raw: bool = False,
    k: int = 0,
    amplitude: int = 20,
    requantised: bool = True,
    **geometry: Any,
) -> CompressedLayer:
    """A layer that the instance can decode, or int8: asked for, or because the instance or K leaves no choice."""
    K = shape[0]
    fan = int(np.prod(shape[1:]))
    requantisation = Requantisation(
        rng.integers(-500, 500, K).astype(np.int32),
        rng.integers(1 << 29, 1 << 30, K).astype(np.int32),
        np.full(K, 34 + int(np.log2(fan)) // 2, np.uint8),
    )
    fields: dict[str, Any] = {"kind": "conv", **geometry, "name": name, "shape": shape, "scale": np.ones(1, np.float32)}
    if requantised:
        fields["requantisation"] = requantisation
    if raw or not config.features.codebook or K % config.d:
        weights = rng.integers(-amplitude, amplitude + 1, shape).astype(np.int8)
        return CompressedLayer(method="int8", weights=weights, **fields)
    mask, sign = config.features.mask, config.features.sign
    d, k, count = config.d, k or config.k, K * fan // config.d
    n, m = (config.N, config.M) if mask else (d, d)
    amplitude = min(amplitude, (1 << (config.weight_bits - 1)) - 1)
    codebook = rng.integers(0 if sign else -amplitude, amplitude + 1, (k, d)).astype(np.int8)
    fields |= {"codebook": codebook, "assignments": rng.integers(0, k, count).astype(np.int32)}
    if mask:
        fields["masks"] = (rng.random((count, d // m, m)).argsort(axis=-1) < n).reshape(count, d)
    if sign:
        fields["signs"] = rng.random((count, d * n // m)) < 0.5
    return CompressedLayer(method=METHODS[mask, sign], d=d, k=k, n=n, m=m, **fields)


class Builder:
    """Collects the operations of a network."""

    def __init__(self, rng: np.random.Generator, config: AcceleratorConfig) -> None:
        self.rng, self.config = rng, config
        self.layers: dict[str, CompressedLayer] = {}
        self.operations: list[dict[str, Any]] = [{"op": "input"}]

    def op(self, kind: str, *sources: int, **fields: Any) -> int:
        """Number of a new operation."""
        self.operations.append({"op": kind, "in": list(sources), **fields})
        return len(self.operations) - 1

    def layer(
        self,
        name: str,
        source: int,
        shape: tuple[int, int, int, int],
        *,
        op: str = "layer",
        range: tuple[int, int] | None = None,
        **given: Any,
    ) -> int:
        """Number of a new layer's operation."""
        layer = random_layer(self.rng, self.config, name, shape, **given)
        if op == "logits" and layer.requantisation is not None:
            K = shape[0]
            ones = Requantisation(layer.requantisation.bias, np.ones(K, np.int32), np.zeros(K, np.uint8))
            layer = dataclasses.replace(layer, requantisation=ones)
        self.layers[name] = layer
        return self.op(op, source, layer=name, **({} if range is None else {"range": list(range)}))

    def network(self) -> Network:
        """The network."""
        return Network(self.layers, parse_operations(self.operations), 0.05)


def every_operation(rng: np.random.Generator, config: AcceleratorConfig, channels: int = 3, width: int = 0) -> Network:
    """A network of all operations, with channel counts that are no multiples of H and L."""
    width = width or 2 * config.d
    b = Builder(rng, config)
    stem = b.layer("stem", 0, (width, channels, 3, 3), raw=True, padding=(1, 1), range=(0, 127))
    pool = b.op("maximum", stem, kernel=3, stride=2, padding=1)
    first = b.layer("first", pool, (width, width, 3, 3), padding=(1, 1), range=(0, 100))
    second = b.layer("second", first, (width, width, 3, 3), padding=(2, 2), dilation=(2, 2))
    joined = b.op("add", second, pool, multipliers=[1 << 20, (1 << 20) + 77], shift=21, range=[0, 127])
    strided = b.layer("strided", joined, (2 * width, width, 3, 3), k=2, stride=(2, 2), padding=(1, 1), range=(0, 127))
    depthwise = b.layer("depthwise", strided, (2 * width, 1, 3, 3), raw=True, padding=(1, 1), groups=2 * width)
    shortcut = b.op("shortcut", joined, stride=2, before=width // 2, after=width - width // 2)
    added = b.op("add", depthwise, shortcut, multipliers=[1 << 20, 1 << 20], shift=21)
    clamped = b.op("range", added, range=[0, 90])
    odd = b.layer("odd", clamped, (config.d + 3, 2 * width, 1, 1), raw=True, stride=(2, 2))
    side = b.op("range", b.op("maximum", odd, kernel=(2, 1), stride=1, padding=0), range=[-100, 60])
    side = b.op("flatten", b.op("average", side, multiplier=1 << 30, shift=30))
    side = b.layer("side", side, (2 * config.d, config.d + 3, 1, 1), raw=True, kind="linear")
    again = b.op("range", clamped, range=[5, 80])
    grouped = b.layer("grouped", again, (2 * width, width, 3, 3), raw=True, padding=(1, 1), groups=2)
    average = b.op("average", grouped, multiplier=(1 << 30) + 12345, shift=33)
    flat = b.op("flatten", average)
    hidden = b.layer("hidden", flat, (2 * config.d, 2 * width, 1, 1), kind="linear", range=(0, 127))
    hidden = b.op("add", side, hidden, multipliers=[1 << 21, 1 << 20], shift=21)
    b.layer("logits", hidden, (10, 2 * config.d, 1, 1), raw=True, kind="linear", op="logits")
    return b.network()


def residual_network(
    rng: np.random.Generator,
    config: AcceleratorConfig,
    *,
    blocks: tuple[int, ...] = (2, 2, 2, 2),
    widths: tuple[int, ...] = (64, 128, 256, 512),
    size: int = 224,
    classes: int = 1000,
    option: str = "B",
    amplitude: int = 12,
) -> Network:
    """The shape of a ResNet (He et al.): 7 x 7 stem and option B as for ImageNet, or 3 x 3 and option A."""
    large = option == "B"
    b = Builder(rng, config)
    kernel = 7 if large else 3
    value = b.layer(
        "stem", 0, (widths[0], 3, kernel, kernel), raw=True, amplitude=amplitude, padding=(kernel // 2,) * 2,
        stride=(2, 2) if large else (1, 1), range=(0, 127),
    )  # fmt: skip
    if large:
        value = b.op("maximum", value, kernel=3, stride=2, padding=1)
    channels = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for block in range(count):
            stride, name = (2 if stage and not block else 1), f"layer{stage + 1}.{block}"
            given: dict[str, Any] = {"padding": (1, 1), "amplitude": amplitude}
            hidden = b.layer(
                f"{name}.conv1", value, (width, channels, 3, 3), stride=(stride, stride), range=(0, 127), **given
            )
            hidden = b.layer(f"{name}.conv2", hidden, (width, width, 3, 3), **given)
            if channels != width and large:
                value = b.layer(
                    f"{name}.shortcut", value, (width, channels, 1, 1), stride=(stride, stride), amplitude=amplitude
                )
            elif channels != width:
                added = width - channels
                value = b.op("shortcut", value, stride=stride, before=added // 2, after=added - added // 2)
            value = b.op("add", hidden, value, multipliers=[1 << 20, 1 << 20], shift=21, range=[0, 127])
            channels = width
    side = size // (32 if large else 4)
    value = b.op("flatten", b.op("average", value, multiplier=(1 << 30) // side**2, shift=30))
    b.layer("linear", value, (classes, channels, 1, 1), raw=True, kind="linear", op="logits", amplitude=amplitude)
    return b.network()
