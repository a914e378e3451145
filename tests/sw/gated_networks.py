"""Small integer networks of the kinds that need all functions of the vector unit, with random weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from sw.network import Network, Output, parse_operations
from tests.sw.networks import Builder

__all__ = ["GATED", "efficientnet_like", "mobilenet_like", "two_outputs", "u_net"]


class _Gated(Builder):
    """Collects operations, tables and outputs."""

    def __init__(self, rng: np.random.Generator, config: AcceleratorConfig) -> None:
        super().__init__(rng, config)
        self.constants: dict[str, NDArray[np.int8]] = {}
        self.outputs: list[Output] = []

    def table(self, source: int, kind: str) -> int:
        """A named function of the int8, of real values that are a thirty-second of it."""
        x = np.arange(256).astype(np.uint8).view(np.int8) / 32
        sigmoid = 1 / (1 + np.exp(-x))
        values = {
            "silu": x * sigmoid * 32,
            "sigmoid": sigmoid * 127,
            "hardswish": x * np.clip(x / 6 + 0.5, 0, 1) * 32,
            "hardsigmoid": np.clip(x / 6 + 0.5, 0, 1) * 127,
            "leaky": np.where(x < 0, x / 10, x) * 32,
            "random": self.rng.permutation(256) - 128,
        }[kind]
        self.constants[kind] = np.rint(values).clip(-128, 127).astype(np.int8)
        return self.op("table", source, table=kind)

    def gate(self, source: int, channels: int, hidden: int, name: str, kind: str) -> int:
        """Squeeze and excitation."""
        squeezed = self.op("flatten", self.op("average", source, multiplier=1 << 28, shift=33))
        less = self.layer(f"{name}.less", squeezed, (hidden, channels, 1, 1), raw=True, kind="linear", range=(0, 127))
        more = self.layer(f"{name}.more", less, (channels, hidden, 1, 1), raw=True, kind="linear")
        return self.op("multiply", source, self.table(more, kind), multiplier=1, shift=7)

    def network(self) -> Network:
        outputs = tuple(self.outputs)
        return Network(self.layers, parse_operations(self.operations), 0.05, outputs=outputs, constants=self.constants)


def u_net(rng: np.random.Generator, config: AcceleratorConfig, width: int = 6, channels: int = 3) -> Network:
    """Two scales down and up again, with skips: concatenation, upsampling of all three kinds, a transposed layer."""
    b = _Gated(rng, config)
    top = b.layer("top", 0, (width, channels, 3, 3), raw=True, padding=(1, 1), range=(0, 127))
    half = b.op("maximum", top, kernel=2, stride=2, padding=0)
    middle = b.layer("middle", half, (2 * config.d, width, 3, 3), padding=(1, 1), range=(0, 127))
    quarter = b.op("maximum", middle, kernel=2, stride=2, padding=0)
    deep = b.layer("deep", quarter, (width + 1, 2 * config.d, 3, 3), raw=True, padding=(1, 1))
    up = b.op("upsample", deep, mode="bilinear")
    joined = b.op("concatenate", up, middle)
    up = b.layer("up", joined, (width + 3, width + 1 + 2 * config.d, 3, 3), raw=True, padding=(1, 1))
    nearest = b.op("upsample", b.table(up, "leaky"), mode="nearest")
    sparse = b.layer("transposed", b.op("upsample", up, mode="zeros"), (5, width + 3, 3, 3), raw=True, padding=(1, 1))
    joined = b.op("concatenate", nearest, top, sparse)
    b.layer("classes", joined, (5, 2 * width + 8, 1, 1), raw=True, op="logits")
    return b.network()


def mobilenet_like(rng: np.random.Generator, config: AcceleratorConfig, width: int = 0, channels: int = 3) -> Network:
    """Inverted residuals with hard swish and squeeze and excitation, as in MobileNet-v3."""
    width = width or 2 * config.d
    b = _Gated(rng, config)
    value = b.layer("stem", 0, (width, channels, 3, 3), raw=True, padding=(1, 1), stride=(2, 2))
    value = b.table(value, "hardswish")
    for number in range(2):
        inner = width * 2 + 1
        wide = b.table(b.layer(f"wide{number}", value, (inner, width, 1, 1), raw=True), "hardswish")
        deep = b.layer(f"deep{number}", wide, (inner, 1, 3, 3), raw=True, padding=(1, 1), groups=inner)
        gated = b.gate(b.table(deep, "hardswish"), inner, 5, f"gate{number}", "hardsigmoid")
        narrow = b.layer(f"narrow{number}", gated, (width, inner, 1, 1), raw=True)
        value = b.op("add", value, narrow, multipliers=[1 << 20, 1 << 20], shift=21)
    flat = b.op("flatten", b.op("average", value, multiplier=1 << 27, shift=33))
    b.layer("logits", flat, (10, width, 1, 1), raw=True, kind="linear", op="logits")
    return b.network()


def efficientnet_like(rng: np.random.Generator, config: AcceleratorConfig, channels: int = 3) -> Network:
    """Depthwise layers with SiLU, gates by sigmoids, and a product of two maps."""
    width, inner = config.d, 3 * config.d + 2
    b = _Gated(rng, config)
    value = b.table(b.layer("stem", 0, (width, channels, 3, 3), raw=True, padding=(1, 1)), "silu")
    wide = b.table(b.layer("wide", value, (inner, width, 1, 1), raw=True), "silu")
    deep = b.layer("deep", wide, (inner, 1, 5, 5), raw=True, padding=(2, 2), stride=(2, 2), groups=inner)
    gated = b.gate(b.table(deep, "silu"), inner, 3, "gate", "sigmoid")
    value = b.layer("narrow", gated, (width, inner, 1, 1), raw=True)
    gate = b.table(b.layer("attention", value, (width, width, 1, 1)), "random")
    value = b.op("multiply", value, gate, multiplier=-3, shift=8, range=[-100, 127])
    flat = b.op("flatten", b.op("average", value, multiplier=1 << 27, shift=31))
    b.layer("logits", flat, (10, width, 1, 1), raw=True, kind="linear", op="logits")
    return b.network()


def two_outputs(rng: np.random.Generator, config: AcceleratorConfig, channels: int = 3) -> Network:
    """A detector's head: parts of a map by themselves, two scales, two outputs of which one is read further on."""
    width = 2 * config.l2_word + 3
    b = _Gated(rng, config)
    value = b.table(b.layer("stem", 0, (width, channels, 3, 3), raw=True, padding=(1, 1)), "silu")
    first = b.op("slice", value, start=0, stop=config.l2_word + 1)
    second = b.op("slice", value, start=config.l2_word + 1, stop=width)
    more = width - config.l2_word - 1
    inner = b.layer("inner", second, (more, more, 3, 3), raw=True, padding=(1, 1))
    joined = b.op("concatenate", first, inner, second, inner)
    total = config.l2_word + 1 + 3 * more
    fine = b.layer("fine", joined, (7, total, 1, 1), raw=True)
    coarse = b.op("maximum", fine, kernel=2, stride=2, padding=0)
    last = b.op("slice", b.op("concatenate", coarse, coarse), start=5, stop=11)
    b.outputs += [Output(fine, "fine"), Output(last, "coarse")]
    return b.network()


GATED = (u_net, mobilenet_like, efficientnet_like, two_outputs)
