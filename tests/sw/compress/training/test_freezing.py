from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sw.compress.methods import CompressError
from sw.compress.training.freezing import Freezing, SignFreezer, threshold
from sw.compress.training.modules import SignBits

ALWAYS = Freezing(interval=10, momentum=0.5, first=0.3, last=0.3, begin=0)


def model(signs: int = 3) -> nn.Sequential:
    return nn.Sequential(SignBits(torch.zeros(signs, dtype=torch.bool), torch.ones(signs)))


def test_threshold_is_a_cosine_after_the_beginning() -> None:
    freezing = Freezing(first=0.1, last=0.01, begin=0.25)
    assert threshold(freezing, 249, 1000) == math.inf
    assert threshold(freezing, 250, 1000) == pytest.approx(0.1)
    assert threshold(freezing, 625, 1000) == pytest.approx(0.055)
    assert threshold(freezing, 1000, 1000) == pytest.approx(0.01)


def test_a_sign_that_oscillates_is_frozen_to_what_it_was_most_often() -> None:
    network = model()
    signs = network[0]
    freezer = SignFreezer(network, ALWAYS, 100)
    # The first sign changes every step, but is negative in 6 of 10; the second changes once; the third never.
    for step in range(1, 11):
        with torch.no_grad():
            signs.latent[0] = 1.0 if step in (1, 3, 5) else -1.0
            signs.latent[1] = -1.0 if step > 5 else 1.0
        assert not signs.frozen.any()
        if step == 10:
            signs.latent.data[0] = 1.0  # what it is at this moment does not count
            signs.record.frequency[0] = 0.9
        freezer.step(step)
    assert signs.frozen.tolist() == [True, False, False]
    assert signs.negative().tolist() == [True, True, False]
    assert freezer.frozen_share() == pytest.approx(1 / 3)
    signs.latent.data.fill_(5.0)
    assert signs.negative().tolist() == [True, False, False]
    signs().sum().backward()
    assert signs.latent.grad.tolist() == [0, 1, 1]


def frozen_to(value: str) -> list[bool]:
    network = model(1)
    signs = network[0]
    freezer = SignFreezer(network, Freezing(interval=20, momentum=0.4, first=0.3, last=0.3, begin=0, value=value), 100)
    # Positive at first, then it oscillates and ends with three negative steps of four.
    for step, sign in enumerate([1] * 12 + [-1, 1, -1, 1, -1, 1, -1, -1], start=1):
        signs.latent.data.fill_(float(sign))
        if step == 20:
            signs.record.frequency.fill_(0.9)
        freezer.step(step)
    assert signs.frozen.all()
    return signs.negative().tolist()


def test_majority_counts_all_steps_and_the_average_the_latest() -> None:
    assert frozen_to("majority") == [False]
    assert frozen_to("ema") == [True]


@pytest.mark.parametrize(
    "freezing",
    [Freezing(interval=0, momentum=0.5, first=0.3, last=0.3, begin=0), Freezing(10, 0.5, 0.3, 0.3, begin=0.9)],
    ids=["never", "later"],
)
def test_nothing_is_frozen_outside_its_time(freezing: Freezing) -> None:
    network = model()
    freezer = SignFreezer(network, freezing, 100)
    for step in range(1, 51):
        network[0].latent.data.neg_()
        freezer.step(step)
    assert freezer.frozen_share() == 0


def test_state_is_the_models() -> None:
    network, other = model(), model()
    freezer = SignFreezer(network, ALWAYS, 100)
    for step in range(1, 16):
        network[0].latent.data[:2].neg_()
        freezer.step(step)
    again = SignFreezer(other, ALWAYS, 100)
    other.load_state_dict(network.state_dict())
    for step in range(16, 21):
        for each, freeze in ((network, freezer), (other, again)):
            each[0].latent.data[2].neg_()
            freeze.step(step)
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), other.state_dict()[name].numpy())
    assert again.frozen_share() == freezer.frozen_share() > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"interval": -1}, "interval must be an integer of at least 0, not -1"),
        ({"momentum": 0}, r"momentum must be in \(0, 1\], not 0"),
        ({"first": 2.0}, r"first must be in \(0, 1\], not 2.0"),
        ({"begin": 1.0}, r"begin must be in \[0, 1\), not 1.0"),
        ({"last": "0.1"}, "last must be a number, not '0.1'"),
        ({"begin": None}, "begin must be a number, not None"),
        ({"value": "last"}, "value must be one of majority, ema, not 'last'"),
    ],
)
def test_bad_settings(fields: dict[str, object], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        Freezing(**fields)  # type: ignore[arg-type]


def test_bad_models() -> None:
    with pytest.raises(CompressError, match="freezing needs a layer with signs: the model has none"):
        SignFreezer(nn.Sequential(nn.ReLU()), Freezing(), 10)
    with pytest.raises(CompressError, match="steps must be at least 1, not 0"):
        SignFreezer(model(), Freezing(), 0)
