"""Random instances and random integer networks: any shape that the format allows, not those of usual networks."""

from __future__ import annotations

import dataclasses
import random
from math import gcd

import numpy as np

from hw.config import VARIANTS, VECTOR_UNIT_FUNCTIONS, AcceleratorConfig, ConfigError
from sw.compress.export.scales import fixed_point
from sw.format.layer import Requantisation
from sw.network import Network, Output, parse_operations
from sw.network.spatial import pooled_size
from tests.sw.networks import Builder

Shape = tuple[int, ...]


def random_instance(rng: random.Random, most: int = 1 << 16) -> AcceleratorConfig:
    """An instance of any variant with at most so many PEs, often with memories that are too small for comfort."""
    variant = rng.choice(list(VARIANTS))
    while True:
        M = rng.choice([1, 2, 3, 4, 5, 8, 16, 32])
        d = M * rng.choice([1, 1, 2, 3, 4])
        H, L = rng.choice([1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 32]), d * rng.choice([1, 1, 2, 3])
        word, burst = rng.choice([0, 0, 1, 2, 4, 8, 16]), rng.choice([1, 2, 4, 8, 16])
        try:
            config = AcceleratorConfig(
                variant=variant, H=H, L=L, d=d, k=rng.choice([2, 3, 5, 8, 17, 32, 100]), N=rng.randint(1, M), M=M,
                wrf_depth=rng.choice([2, 4, 8, 16, 32, 64]),
                arf_depth=rng.choice([2, 4, 8, 16, 32]),
                prf_depth=rng.choice([2, 4, 8, 16]),
                psum_width=rng.choice([16, 19, 24, 24, 32]),
                word_width=rng.choice([8, 16, 32, 64, 128, 256, 512]),
                loop_bits=rng.choice([4, 8, 12, 16]),
                address_bits=rng.choice([20, 32, 40, 64]),
                l2_bytes=rng.choice([3000, 1 << 13, 20_000, 1 << 16, 1 << 18]),
                l2_word_bytes=word if word and gcd(H, L) % word == 0 else 0,
                l1_ifmap_bytes=rng.choice([300, 600, 1 << 10, 5000, 1 << 16]),
                l1_psum_bytes=rng.choice([300, 700, 1 << 11, 10_000, 1 << 16]),
                post_lanes=rng.choice([0, *(x for x in range(1, L + 1) if L % x == 0)]),
                burst_words=burst, fifo_words=burst * rng.choice([2, 4]),
                weight_bits=rng.choice([2, 3, 4, 4, 5, 6, 7, 8, 8, 8]),
            )  # fmt: skip
        except ConfigError:  # a memory of fewer words than it must have
            continue
        size = config.H * config.L
        if size <= most:
            # Drawn apart, so that all else is as it was before there was this field; and so is what is drawn for it,
            # without the fields that came after it.
            text = str(config).replace(", psum_register=False, scaler_register=False, transfer_register=False", "")
            functions = random.Random(f"functions {text}").choice(VECTOR_UNIT_FUNCTIONS)
            return dataclasses.replace(config, vector_unit_functions=functions)


class _Growth:
    """A network that grows by one operation at a time."""

    def __init__(self, seed: int, config: AcceleratorConfig) -> None:
        self.rng, self.random, self.config = np.random.default_rng(seed), random.Random(seed), config
        self.builder = Builder(self.rng, config)
        r = self.random
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: list[Shape] = [(r.choice([1, 2, 3, 3, 4, 5, 17]), r.randint(1, 14), r.randint(1, 14))]
        self.builder.operations[0]["shape"] = list(self.shapes[0])

    def fits(self, fan: int) -> bool:
        """Whether sums of so many products can be proved to fit."""
        return 128 * fan < 1 << (self.config.psum_width - 1)

    def op(self, kind: str, *sources: int, shape: Shape, **fields: object) -> int:
        self.shapes.append(shape)
        return self.builder.op(kind, *sources, **fields)

    def limits(self) -> dict[str, tuple[int, int]]:
        """A range, or none."""
        r = self.random
        if r.random() < 0.4:
            return {}
        return {"range": (r.choice([0, 0, 0, -128, -100, -5, 7]), r.choice([127, 127, 90, 30]))}

    def ranged(self) -> dict[str, list[int]]:
        """The same for operations that are no layers."""
        return {name: list(pair) for name, pair in self.limits().items()}

    def layer(self, source: int, kernel: tuple[int, int, int, int], shape: Shape, **given: object) -> int:
        """A layer whose results are spread over int8."""
        name = f"layer {len(self.shapes)}"
        fan = int(np.prod(kernel[1:]))
        most = (1 << (self.config.psum_width - 1)) // (128 * fan) - 1
        amplitude = max(1, min(self.random.choice([3, 20, 100, 127]), most))
        number = self.builder.layer(name, source, kernel, amplitude=amplitude, **given)  # type: ignore[arg-type]
        layer, K = self.builder.layers[name], kernel[0]
        if given.get("op") != "logits":
            weights = layer.integer_weights().reshape(K, -1).astype(np.float64)
            factors = 0.7 / (np.sqrt((weights**2).sum(axis=1)) + 1)
            multiplier, shift = fixed_point(factors * self.rng.uniform(0.5, 1.5, K) * self.rng.choice([1, 1, 1, -1], K))
            bias = np.rint(self.rng.integers(-30, 30, K) / factors).clip(-(2**29), 2**29).astype(np.int32)
            layer = dataclasses.replace(layer, requantisation=Requantisation(bias, multiplier, shift))
        if layer.weights is not None and self.random.random() < 0.1:
            weights = layer.weights.copy()
            weights[..., 0] = 0  # an edge that the compiler can leave out
            layer = dataclasses.replace(layer, weights=weights)
        self.builder.layers[name] = layer
        self.shapes.append(shape)
        return number

    def convolution(self, source: int, K: int = 0) -> int | None:
        """A convolution; with K, one that keeps rows and columns. None if none was found that fits."""
        r, (C, rows, columns) = self.random, self.shapes[source]
        d, L = self.config.d, self.config.L
        for _ in range(50):
            kernel, stride, padding, dilation = [], [], [], []
            for extent in (rows, columns):
                kernel.append(r.choice([1, 3, 5]) if K else r.choice([1, 1, 2, 3, 3, 3, 4, 5, 7]))
                stride.append(1 if K else r.choice([1, 1, 1, 2, 2, 3, 4, 5]))
                half = kernel[-1] // 2
                padding.append(half if K else r.choice([0, 0, half, half, r.randint(0, kernel[-1] + 1)]))
                dilation.append(1 if K or r.random() < 0.9 else r.choice([2, 3]))
                if extent + 2 * padding[-1] < dilation[-1] * (kernel[-1] - 1) + 1:
                    break
            if len(dilation) < 2 or extent + 2 * padding[-1] < dilation[-1] * (kernel[-1] - 1) + 1:
                continue
            E, F = (
                (extent + 2 * p - q * (n - 1) - 1) // s + 1
                for extent, n, s, p, q in zip((rows, columns), kernel, stride, padding, dilation, strict=True)
            )
            kind = "dense" if K else r.choice(["dense"] * 5 + ["depthwise", "depthwise", "grouped"])
            groups = 1
            if kind == "dense":
                outputs = K or r.choice([1, 3, 5, 17, 33, d, 2 * d, L, L + d, r.randint(1, 40)])
            else:
                groups = C if kind == "depthwise" else r.choice([g for g in range(1, C + 1) if C % g == 0])
                outputs = groups * r.choice([1, 1, 2, 3])
            fan = C // groups * kernel[0] * kernel[1]
            if not self.fits(fan) or E * F > 400 or outputs > 120 or C * kernel[0] * kernel[1] * outputs > 60_000:
                continue
            return self.layer(
                source,
                (outputs, C // groups, kernel[0], kernel[1]),
                (outputs, E, F),
                raw=r.random() < (0.25 if groups == 1 else 0.7),
                stride=tuple(stride),
                padding=tuple(padding),
                dilation=tuple(dilation),
                groups=groups,
                **self.limits(),
            )
        return None

    def grow(self) -> None:
        """One more operation."""
        r = self.random
        maps = [number for number, shape in enumerate(self.shapes) if len(shape) == 3]
        source = maps[-1] if r.random() < 0.7 else r.choice(maps)
        shape = C, rows, columns = self.shapes[source]
        if self.config.full_vector_unit and r.random() < 0.5:
            self.grow_full(source)
            return
        kind = r.choice(
            [*["convolution"] * 6, "maximum", "average", "add", "add", "double", "range", "shortcut", "pad"]
        )
        if kind == "convolution":
            self.convolution(source)
        elif kind in ("maximum", "average"):
            kernel = [r.randint(1, min(5, rows)), r.randint(1, min(5, columns))]
            stride = [r.randint(1, 4), r.randint(1, 4)]
            padding = [r.randint(0, k // 2) for k in kernel]
            ceil = {"ceil": True} if kind == "maximum" and r.random() < 0.5 else {}
            sides = zip((rows, columns), kernel, stride, padding, strict=True)
            size = (C, *(pooled_size(*side, ceil=bool(ceil)) for side in sides))
            if kind == "average":
                multiplier = ((1 << 30) // (kernel[0] * kernel[1])) + r.randint(0, 5)
                ceil = {"multiplier": multiplier, "shift": r.randint(29, 30), **self.ranged()}
            self.op(kind, source, shape=size, kernel=kernel, stride=stride, padding=padding, **ceil)
        elif kind == "pad":
            top, bottom, left, right = padding = [r.choice([0, 0, 1, 1, 2, 5]) for _ in range(4)]
            source = self.op(kind, source, shape=(C, rows + top + bottom, columns + left + right), padding=padding)
            if r.random() < 0.8:
                self.convolution(source)
        elif kind in ("add", "double"):
            # With a convolution of it, or any value of its shape.
            same = [number for number in maps if self.shapes[number] == shape]
            other = self.convolution(source, C) if kind == "add" else r.choice(same)
            if other is not None:
                operands = [source, other] if r.random() < 0.5 else [other, source]
                multipliers = [r.randrange(1 << 22), r.randrange(1 << 22)]
                self.op(
                    "add", *operands, shape=shape, multipliers=multipliers, shift=r.randint(20, 22), **self.ranged()
                )
        elif kind == "range":
            self.op(kind, source, shape=shape, **(self.ranged() or {"range": [-77, 33]}))
        else:
            stride, before, after = r.choice([1, 2, 2, 3]), r.randint(0, 9), r.randint(0, 9)
            size = (C + before + after, -(-rows // stride), -(-columns // stride))
            self.op(kind, source, shape=size, stride=stride, before=before, after=after)

    def table(self, source: int) -> int:
        """A random function of a value."""
        name = f"table {len(self.shapes)}"
        self.constants[name] = self.rng.integers(-128, 128, 256).astype(np.int8)
        return self.op("table", source, shape=self.shapes[source], table=name)

    def product(self, *sources: int) -> int:
        """Of two values: the first gives the shape."""
        multiplier = self.random.choice([1, 3, -1, 200, -(1 << 15), (1 << 22) - 1])
        shift = 7 + abs(multiplier).bit_length() - self.random.randint(0, 2)
        fields = {"multiplier": multiplier, "shift": shift}
        return self.op("multiply", *sources, shape=self.shapes[sources[0]], **fields, **self.ranged())

    def grow_full(self, source: int) -> None:
        """One more operation of those that need all functions of the vector unit."""
        r, (C, rows, columns) = self.random, self.shapes[source]
        kind = r.choice(["table", "concatenate", "concatenate", "slice", "upsample", "product", "gate"])
        if kind == "table":
            self.table(source)
        elif kind == "concatenate":
            same = [n for n, shape in enumerate(self.shapes) if len(shape) == 3 and shape[1:] == (rows, columns)]
            parts = [source, *(r.choice(same) for _ in range(r.choice([1, 1, 2, 3])))]
            r.shuffle(parts)
            channels = sum(self.shapes[part][0] for part in parts)
            if channels <= 120:
                self.op(kind, *parts, shape=(channels, rows, columns))
        elif kind == "slice":
            start = r.randrange(C)
            stop = r.randint(start + 1, C)
            self.op(kind, source, shape=(stop - start, rows, columns), start=start, stop=stop)
        elif kind == "upsample" and rows * columns <= 100:
            mode = r.choice(["nearest", "bilinear", "zeros"])
            self.op(kind, source, shape=(C, 2 * rows, 2 * columns), mode=mode)
        elif kind == "product":
            same = [number for number, shape in enumerate(self.shapes) if shape == (C, rows, columns)]
            self.product(source, r.choice(same))
        elif kind == "gate":
            shift = 30 + r.randint(0, (rows * columns).bit_length())
            pooled = self.op("average", source, shape=(C, 1, 1), multiplier=1 << 30, shift=shift)
            if r.random() < 0.5:
                pooled = self.op("flatten", pooled, shape=(C,))
            self.product(source, self.table(pooled))

    def end(self) -> Network | None:
        """All values that no one reads yet go into the logits. None if that cannot be.

        With all functions, some values are outputs of their own.
        """
        r = self.random
        read = {source for operation in self.builder.operations for source in operation.get("in", ())}
        hidden = r.choice([3, self.config.d, 2 * self.config.d, 10])
        heads = []
        for number in [number for number in range(len(self.shapes)) if number not in read]:
            x, (C, rows, columns) = number, self.shapes[number]
            area = rows * columns
            if r.random() < 0.5 or not self.fits(C * area) or C * area * hidden > 60_000:
                shift = 30 + r.randint(0, area.bit_length() // 2)
                x = self.op("average", x, shape=(C, 1, 1), multiplier=1 << 30, shift=shift, **self.ranged())
                area = 1
            features = C * area
            x = self.op("flatten", x, shape=(features,))
            if not self.fits(features):
                return None
            shape = (hidden, features, 1, 1)
            heads.append(self.layer(x, shape, (hidden,), kind="linear", raw=r.random() < 0.4, **self.limits()))
        x = heads[0]
        for y in heads[1:]:
            multipliers = [r.randrange(1 << 19, 1 << 21), r.randrange(1 << 19, 1 << 21)]
            x = self.op("add", x, y, shape=(hidden,), multipliers=multipliers, shift=21)
        classes = r.choice([2, 5, 10, 33])
        if not self.fits(hidden):
            return None
        raw = r.random() < 0.6
        number = self.layer(x, (classes, hidden, 1, 1), (classes,), kind="linear", op="logits", raw=raw)
        if not self.config.full_vector_unit:
            return self.builder.network()
        own = [value for value, each in enumerate(self.builder.operations) if each["op"] in ("layer", "table")]
        others = r.sample(own, min(len(own), r.choice([0, 0, 1, 2])))
        outputs = tuple(Output(value, f"output {value}") for value in [*others, number])
        operations = parse_operations(self.builder.operations)
        return Network(self.builder.layers, operations, 0.05, outputs=outputs, constants=self.constants)


def random_network(seed: int, config: AcceleratorConfig, operations: int = 8) -> Network | None:
    """A network of up to so many random operations, and a classifier behind them.

    Its weights are such that the sums of every layer fit ``config.psum_width``; None if that is not possible.
    """
    growth = _Growth(seed, config)
    for _ in range(growth.random.randint(0, operations)):
        growth.grow()
    return growth.end()
