from __future__ import annotations

import numpy as np
import pytest

from sw.compress.quantiser import QuantiserError, quantise, quantise_channels, quantise_codebook, uniform_range


def test_quantise_is_equation_5() -> None:
    values = np.array([-1000, -64.1, -0.75, -0.25, 0, 0.25, 0.74, 0.76, 63.4, 1000], dtype=np.float32)
    assert quantise(values, np.array([0.5], dtype=np.float32)).tolist() == [-128, -128, -2, 0, 0, 0, 1, 2, 127, 127]
    assert quantise(values, np.array([0.5], dtype=np.float32), 0).tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 127, 127]


@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("heavy_tail", [False, True])
def test_codebook_scale_is_never_worse_than_max_abs(magnitudes: bool, heavy_tail: bool) -> None:
    rng = np.random.default_rng(0)
    codebook = rng.standard_normal((64, 8)).astype(np.float32)
    if heavy_tail:
        codebook[0, 0] = 40
    codebook = np.abs(codebook) if magnitudes else codebook
    counts = rng.integers(0, 9, size=codebook.shape).astype(np.float64)
    counts[0, 0] = 1

    def error(integers: np.ndarray, scale: np.ndarray) -> float:
        return float((counts * (integers * scale.astype(np.float64) - codebook) ** 2).sum())

    integers, scale = quantise_codebook(codebook, counts, magnitudes=magnitudes)
    plain = np.array([np.abs(codebook[counts > 0]).max() / 127], dtype=np.float32)
    assert integers.dtype == np.int8
    assert scale.shape == (1,)
    assert scale.dtype == np.float32
    assert integers.min() >= (0 if magnitudes else -128)
    assert error(integers, scale) <= error(quantise(codebook, plain, 0 if magnitudes else -128), plain)
    assert error(integers, scale) < 0.01 * float((counts * codebook**2).sum())


def test_elements_without_members_do_not_widen_the_range() -> None:
    codebook = np.array([[1.0, 1e6]], dtype=np.float32)
    integers, scale = quantise_codebook(codebook, np.array([[3.0, 0.0]]))
    assert float(scale[0]) * int(integers[0, 0]) == pytest.approx(1, rel=1e-6)
    assert integers[0, 1] == 127


@pytest.mark.parametrize("codebook", [np.zeros((2, 2)), np.full((2, 2), 1e-44), np.full((2, 2), 3e38)])
def test_scale_is_always_finite_and_positive(codebook: np.ndarray) -> None:
    for counts in (np.ones((2, 2)), np.zeros((2, 2))):
        _, scale = quantise_codebook(codebook.astype(np.float32), counts)
        assert np.isfinite(scale).all()
        assert (scale > 0).all()


def test_channels_have_a_scale_each() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)
    weight[1] *= 1000
    weight[2] = 0
    integers, scales = quantise_channels(weight)
    assert scales.shape == (5,)
    assert scales[2] == 1
    assert (np.abs(integers).max(axis=(1, 2, 3)) == [127, 127, 0, 127, 127]).all()
    assert integers.min() >= -127
    decoded = integers * scales.reshape(-1, 1, 1, 1)
    assert (np.abs(decoded - weight) <= 0.5001 * scales.reshape(-1, 1, 1, 1)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_what_has_no_scale(value: float) -> None:
    good, bad = np.ones((2, 2), np.float32), np.array([[1, value], [1, 1]], np.float32)
    with pytest.raises(QuantiserError, match="codebook must be finite, not NaN or infinite"):
        quantise_codebook(bad, good.astype(np.float64))
    with pytest.raises(QuantiserError, match="counts must be finite, not NaN or infinite"):
        quantise_codebook(good, bad.astype(np.float64))
    with pytest.raises(QuantiserError, match="weight must be finite, not NaN or infinite"):
        quantise_channels(bad[:, :, None, None])


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(2, (-2, 1)), (3, (-4, 3)), (4, (-8, 7)), (5, (-15, 15)), (6, (-31, 31)), (7, (-63, 63)), (8, (-127, 127))],
)
def test_uniform_range(bits: int, expected: tuple[int, int]) -> None:
    assert uniform_range(bits) == expected


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 7])
def test_narrow_channels_have_the_best_of_the_scales(bits: int) -> None:
    weight = np.random.default_rng(0).standard_normal((5, 40, 3, 3)).astype(np.float32)
    weight[2] = 0
    integers, scales = quantise_channels(weight, bits)
    low, high = uniform_range(bits)
    assert integers.min() == low
    assert integers.max() <= high
    wide = scales.reshape(-1, 1, 1, 1)
    error = ((integers * wide - weight) ** 2).sum((1, 2, 3))
    for factor in (0.8, 1.25):
        other = quantise(weight, wide * np.float32(factor), low, high) * wide * np.float32(factor)
        assert (error <= ((other - weight) ** 2).sum((1, 2, 3))).all()


@pytest.mark.parametrize("bits", [1, 9, 4.0])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(QuantiserError, match=r"bits must be an integer in 2\.\.8, not"):
        quantise_channels(np.ones((1, 1, 1, 1), np.float32), bits)
