from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sw.compress.methods import LayerSource, Recipe, compress_layer
from sw.compress.ratio import StorageBits, ideal_ratio, layer_bits, storage_bits, sum_bits
from sw.format.container import compression_report, write_container


@pytest.mark.parametrize(
    ("k", "d", "n", "m", "masked", "signed", "bits"),
    [
        # The derived table of MVQ equation 7, codebooks left out.
        (512, 16, 4, 16, True, False, 1.25),
        (1024, 8, 1, 1, False, False, 1.25),
        (256, 16, 4, 16, True, False, 1.1875),
        (1024, 16, 4, 16, True, False, 1.3125),
        (512, 16, 3, 16, True, False, 1.1875),
        (512, 16, 2, 16, True, False, 1.0),
        (512, 8, 1, 2, True, False, 1.625),
        (512, 8, 2, 4, True, False, 1.875),
        # SSVQ, and both at once.
        (16, 8, 1, 1, False, True, 1.5),
        (32, 16, 4, 16, True, True, 1.25),
        (1, 16, 16, 16, True, False, 0.0),
    ],
)
def test_bits_a_weight(k: int, d: int, n: int, m: int, masked: bool, signed: bool, bits: float) -> None:
    found = storage_bits(16_000, d=d, k=k, n=n, m=m, masked=masked, signed=signed)
    assert (found.total - found.codebook) / 16_000 == bits
    assert found.codebook == k * d * (7 if signed else 8)
    assert found.per_weight == bits + found.codebook / 16_000


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", ["vq", "mvq", "ssvq", "msvq"])
def test_equation_7_counts_narrow_codewords(method: str, bits: int, tmp_path: Path) -> None:
    """A magnitude has one bit less: the weight's sign is counted with the signs."""
    weight = np.random.default_rng(0).standard_normal((16, 32, 3, 3)).astype(np.float32)
    layer = compress_layer(LayerSource("x", "conv", weight), Recipe(method, k=16, d=8, n=2, m=4, codeword_bits=bits))
    found = layer_bits(layer)
    assert found.codebook == 16 * 8 * (bits - 1 if layer.signs is not None else bits)
    assert ideal_ratio(found) == 32 * weight.size / found.total
    write_container(tmp_path / "x", [layer])
    sections = compression_report([layer], tmp_path / "x")["layers"][0]["sections"]
    assert 8 * (sections["codebook"] - 4) == found.codebook


def test_ideal_ratio_is_equation_7() -> None:
    bits = storage_bits(512 * 512 * 9, d=16, k=512, n=4, m=16, masked=True)
    assert ideal_ratio(bits) == pytest.approx(32 / (1.25 + 512 * 16 * 8 / (512 * 512 * 9)), rel=1e-12)
    raw = StorageBits(weight_count=100, raw=800)
    assert ideal_ratio(raw) == 4
    assert ideal_ratio(sum_bits([bits, raw])) == 32 * (512 * 512 * 9 + 100) / (bits.total + 800)


@pytest.mark.parametrize("method", ["int8", "vq", "mvq", "ssvq", "msvq"])
def test_layer_bits_count_what_the_layer_holds(method: str) -> None:
    weight = np.random.default_rng(0).standard_normal((16, 32, 3, 3)).astype(np.float32)
    layer = compress_layer(LayerSource("x", "conv", weight), Recipe(method, k=16, d=8, n=2, m=4))
    bits = layer_bits(layer)
    assert bits.weight_count == weight.size
    assert bits.signs == (0 if layer.signs is None else layer.signs.size)
    assert bits.masks == (0 if layer.masks is None else 3 * layer.masks.size // 4)
    assert bits.assignments == (0 if layer.assignments is None else 4 * layer.assignments.size)
    assert bits.raw == (8 * weight.size if method == "int8" else 0)
