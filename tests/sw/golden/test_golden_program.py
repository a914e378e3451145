from __future__ import annotations

import numpy as np
import pytest

from hw.config import PRESETS, VARIANTS, AcceleratorConfig
from hw.layout import Schedule
from sw.format.example import random_layer
from sw.format.layer import CompressedLayer
from sw.golden.layer import layer_sums, requantise
from sw.golden.program import run_program
from tests.sw.assembler import layer_program

METHODS = {
    "ws": "int8",
    "ews": "int8",
    "ews-c": "vq",
    "ews-cm": "mvq",
    "ews-cms": "mvq",
    "ews-ssvq": "ssvq",
    "ews-msvq": "msvq",
}


def some_layer(config: AcceleratorConfig, shape, seed=0, method=None, **geometry) -> CompressedLayer:
    rng = np.random.default_rng(seed)
    method = method or METHODS[config.variant]
    sizes = {}
    if method != "int8":
        sizes = {"d": config.d, "k": config.k}
        if method in ("mvq", "msvq"):
            sizes |= {"n": config.N, "m": config.M}
    layer = random_layer(rng, method, shape, requantised=True, **sizes, **geometry)
    if config.features.sign and layer.weights is not None:
        np.maximum(layer.weights, -127, out=layer.weights)
    return layer


def image(layer: CompressedLayer, rows: int, columns: int, seed: int = 1):
    rng = np.random.default_rng(seed)
    values = rng.integers(-128, 128, (layer.shape[1], rows, columns)).astype(np.int8)
    values.reshape(-1)[:2] = [-128, 127]
    return values


@pytest.mark.parametrize("size", ["tiny", "16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_equals_the_golden_layer(variant: str, size: str) -> None:
    config = PRESETS[f"{variant}-{size}"]
    L, H = config.L, config.H
    layer = some_layer(config, (2 * L, H + 3, 3, 3), padding=(1, 1))
    values = image(layer, 5, 6)
    schedule = Schedule(H, L) if config.wrf_depth < 6 else Schedule(H, L, 2, 1, 1, 3)
    program = layer_program(config, layer, 5, 6, schedule)
    (found,) = run_program(program, [values], check=True).values()
    assert np.array_equal(found, requantise(layer_sums(layer, values), layer.requantisation))


@pytest.mark.parametrize("variant", VARIANTS)
def test_raw_layer_of_odd_channels_runs_on_every_variant(variant: str) -> None:
    config = PRESETS[f"{variant}-tiny"]
    layer = some_layer(config, (config.L + 3, config.H + 1, 2, 3), method="int8", stride=(2, 1), padding=(0, 2))
    values = image(layer, 6, 5)
    schedule = Schedule(config.H, config.L, 2 if config.wrf_depth > 2 else 1, 2, 1, 1)
    program = layer_program(config, layer, 6, 5, schedule if config.wrf_depth > 8 else None, raw=True)
    (found,) = run_program(program, [values], check=True).values()
    assert np.array_equal(found, requantise(layer_sums(layer, values), layer.requantisation))
