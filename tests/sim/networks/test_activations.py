"""Real activations of a network, and their quantisation."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from sim.networks.activations import SIZE, layer_inputs, load_photograph, photograph_path, quantise_activations


def test_photograph_becomes_a_normalised_image() -> None:
    image = load_photograph(photograph_path())
    assert image.shape == (1, 3, SIZE, SIZE)
    assert image.dtype == torch.float32
    assert -1 <= image.min() < -0.5
    assert 0.5 < image.max() <= 1


class Padded(torch.nn.Conv2d):
    """A convolution that pads by a module of its own, as EfficientNet's do."""

    def __init__(self) -> None:
        super().__init__(2, 1, 3, bias=False)
        self.static_padding = torch.nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.static_padding(x))


def test_inputs_of_layers_include_separate_padding() -> None:
    network = torch.nn.Sequential(torch.nn.ReLU(), Padded())
    image = torch.arange(-8.0, 24.0).reshape(1, 2, 4, 4)
    inputs, output = layer_inputs(network, image, ["1"])
    expected = np.pad(np.maximum(image[0].numpy(), 0), ((0, 0), (0, 1), (0, 1)))
    np.testing.assert_array_equal(inputs["1"], expected)
    assert output.shape == (1, 3, 3)
    assert not network[1]._forward_pre_hooks


@pytest.mark.parametrize("fails", [False, True])
def test_one_thread_computes_activations(fails: bool) -> None:
    seen = []

    class Spy(torch.nn.Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            if fails:
                raise RuntimeError("fails")
            return x

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with contextlib.suppress(RuntimeError):
            layer_inputs(torch.nn.Sequential(Spy()), torch.zeros(1, 1, 2, 2), ["0"])
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_unknown_layer_is_an_error() -> None:
    with pytest.raises(KeyError, match="absent"):
        layer_inputs(torch.nn.Sequential(), torch.zeros(1, 1), ["absent"])


@pytest.mark.parametrize(
    ("values", "integers", "scale"),
    [
        ([0.0, 1.27, -0.64, 0.5], [0, 127, -64, 50], 0.01),
        ([-2.54, 0.02], [-127, 1], 0.02),
        ([0.0, 0.0], [0, 0], 1.0),
    ],
)
def test_activations_are_quantised_symmetrically(values: list[float], integers: list[int], scale: float) -> None:
    quantised, found = quantise_activations(np.array(values, dtype=np.float32))
    assert quantised.dtype == np.int8
    assert quantised.tolist() == integers
    assert found == pytest.approx(scale)
