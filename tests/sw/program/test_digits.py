"""Digits of raw weights: as few as can be, in the range of the array, and together the weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hw.config import VARIANTS, AcceleratorConfig
from sw.program import bits_of, digit_advice, digit_count, digit_range, split_digits


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("variant", VARIANTS)
def test_digits_give_the_weights_back(variant: str, bits: int) -> None:
    config = AcceleratorConfig(variant, weight_bits=bits)
    weights = np.arange(-128, 128).astype(np.int8)
    least, greatest = digit_range(config)
    for low, high in ((-128, 127), (-128, 0), (0, 127), (-7, 5), (least, greatest), (least, greatest + 1)):
        if high > 127:
            continue
        part = weights[(weights >= low) & (weights <= high)]
        count = digit_count(config, low, high)
        for number in (count, count + 1):
            digits = split_digits(config, part, number)
            assert digits.shape == (number, *part.shape)
            assert digits.min() >= least
            assert digits.max() <= greatest
            total = np.zeros(part.shape, np.int64)
            for digit in digits:
                total = (total << config.digit_bits) + digit
            assert np.array_equal(total, part)
    assert digit_count(config, least, greatest) == 1


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("variant", ["ews", "ews-msvq"])
def test_fewer_digits_do_not_reach(variant: str, bits: int) -> None:
    config = AcceleratorConfig(variant, weight_bits=bits)
    least, greatest = digit_range(config)
    for value in range(-128, 128):
        count = digit_count(config, min(value, 0), max(value, 0))
        if count > 4:
            continue
        places = [1 << config.digit_bits * i for i in range(count - 1)]
        choices = itertools.product(range(least, greatest + 1), repeat=len(places))
        reached = any(sum(d * p for d, p in zip(found, places, strict=True)) == value for found in choices)
        assert not (places and reached), (value, count)


def test_layers_that_fewer_bits_would_speed_up_are_named() -> None:
    signed, plain = AcceleratorConfig("ews-msvq", weight_bits=4), AcceleratorConfig("ews-cms", weight_bits=4)
    ends = {"conv1": (-127, 127), "small": (-63, 63), "fc": (-100, 119)}
    more = "take 3 digits on 4-bit arrays, each as long as the layer; compressed with --uniform-bits 7 they take 2"
    assert digit_advice(signed, ends) == f"conv1, fc: weights without codewords {more}"
    assert digit_advice(plain, ends) == f"conv1: weights without codewords {more}"
    assert digit_advice(signed, {f"l{i}": (-128, 127) for i in range(5)}).startswith("l0, l1, l2 and 2 more: ")
    assert digit_advice(signed, {"small": (-63, 63)}) == digit_advice(signed, {}) == ""
    assert digit_advice(AcceleratorConfig("ews-msvq"), ends) == ""
    # One digit less would cost two bits here.
    assert digit_advice(AcceleratorConfig("ews-msvq", weight_bits=6), ends) == ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_eight_bits_are_one_digit(variant: str) -> None:
    config = AcceleratorConfig(variant)
    weights = np.arange(-128, 128).astype(np.int8)
    assert digit_count(config, -128, 127) == 1
    assert np.array_equal(split_digits(config, weights, 1), weights[None])


@pytest.mark.parametrize(("values", "bits"), [([0], 1), ([-1], 1), ([1], 2), ([-8, 7], 4), ([8], 5), ([-128], 8)])
def test_bits_of_integers(values: list[int], bits: int) -> None:
    assert bits_of(np.array(values, np.int8)) == bits
