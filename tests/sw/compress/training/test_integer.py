from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import msvq
from sw.compress.methods import CompressError, Recipe
from sw.compress.training.graph import (
    PadShortcut,
    calibrate,
    quantise_activations,
    quantise_inputs,
    recalibrate_batch_norm,
)
from sw.compress.training.integer import export_integers, fixed_point, read_network, write_network
from sw.compress.training.modules import UniformDecoder, convert
from sw.compress.training.quant import ActivationQuantiser
from sw.format.container import write_container
from tests.sw.devices import CUDA

ROOT = Path(__file__).parents[4]

SIZE = 12


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, shortcut: nn.Module) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = shortcut

    def forward(self, values: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(values)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(values))


def network() -> nn.Sequential:
    """All operations that have an integer form."""
    torch.manual_seed(0)
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 16, 3, padding=1),
            norm=nn.BatchNorm2d(16),
            relu6=nn.ReLU6(),
            pool=nn.MaxPool2d(3, 2, 1),
            same=Block(16, 16, nn.Identity()),
            padded=Block(16, 32, PadShortcut(2, 8, 8)),
            wide=Block(32, 64, nn.Sequential(nn.Conv2d(32, 64, 1, 2, bias=False), nn.BatchNorm2d(64))),
            depthwise=nn.Conv2d(64, 64, 3, padding=1, groups=64),
            activation=nn.ReLU6(),
            average=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            dropout=nn.Dropout(0.5),
            classify=nn.Linear(64, 10),
        )
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1, 0.3)  # some negative
                module.bias.normal_(0, 0.3)
                module.weight[0] = 0
    return model


def quantised(images: Tensor) -> torch.fx.GraphModule:
    model = network()
    convert(model, [("stem", Recipe("int8")), ("*.conv*", Recipe("msvq", 8, 16, 4, 16))], progress=False)
    graph = quantise_activations(model, images)
    recalibrate_batch_norm(graph, [images])
    calibrate(graph, images)
    return graph.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(16, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@CUDA
def test_the_file_does_not_depend_on_the_device() -> None:
    """Weights half-way between two integers, whose step is an exponential: its last bit is another one on a GPU."""
    model = network()
    convert(model, [("wide*", Recipe("vq", 8, 8, 0, 0))], progress=False)
    graph = quantise_activations(model).eval()
    calibrate(graph, torch.randn(8, 3, SIZE, SIZE))
    for decoder in filter(lambda m: isinstance(m, UniformDecoder), graph.modules()):
        with torch.no_grad():
            decoder.step.log_factor.uniform_(-0.5, 0.5)
            step = decoder.step()
            decoder.weight.copy_(((decoder.weight / step).round().clamp(-120, 120) + 0.5) * step)
    shape = (3, SIZE, SIZE)
    expected = export_integers(graph, shape)
    found = export_integers(copy.deepcopy(graph).cuda(), shape)
    assert found.layers.keys() == expected.layers.keys()
    for name, layer in expected.layers.items():
        assert np.array_equal(found.layers[name].integer_weights(), layer.integer_weights())


def test_quantisers_change_nothing_before_calibration(images: Tensor) -> None:
    model = network().eval()
    convert(model, [], progress=False)
    expected = model(images)
    graph = quantise_activations(model, images).eval()
    assert torch.equal(graph(images), expected)
    # Input, stem, two layers and an addition a block, the convolution of a shortcut, depthwise, average.
    assert sum(isinstance(module, ActivationQuantiser) for module in graph.modules()) == 2 + 3 * 3 + 1 + 2


def test_integers_give_what_the_float_network_gives(images: Tensor) -> None:
    graph = quantised(images)
    exported = export_integers(graph, (3, SIZE, SIZE))
    with torch.no_grad():
        expected = graph(images)
    logits = exported.run(exported.quantise(images))
    assert logits.dtype == torch.int32
    ratio = (expected * logits).sum() / (logits.double() ** 2).sum()
    error = (logits * ratio - expected).norm() / expected.norm()
    # Both compute with the same integers; they differ where a rounding falls the other way.
    assert error < 0.03


def test_golden_model_and_device_agree_to_the_bit(images: Tensor) -> None:
    exported = export_integers(quantised(images), (3, SIZE, SIZE))
    integers = exported.quantise(images)
    assert torch.equal(exported.run(integers, golden=True), exported.run(integers, golden=False))


def test_each_layer_matches_its_quantised_float_form(images: Tensor) -> None:
    """One layer with batch norm of weight 0, negative and positive: at most one integer apart, and rarely."""
    graph = quantised(images)
    exported = export_integers(graph, (3, SIZE, SIZE))
    values = exported.quantise(images)
    first = next(op for op in exported.operations if op.kind == "layer")
    low, high = first.range
    from sw.golden import layer_sums, requantise

    layer = exported.layers[first.layer]
    ours = np.clip(requantise(layer_sums(layer, values.numpy()), layer.requantisation), low, high)
    with torch.no_grad():
        node = next(n for n in graph.graph.nodes if n.target == "quantiser_1")
        captured: list[Tensor] = []
        handle = graph.get_submodule(str(node.target)).register_forward_hook(lambda m, i, o: captured.append(o))
        graph(images)
        handle.remove()
        theirs = (captured[0] / graph.quantiser_1.step()).round().numpy()
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 0.002


def test_container_round_trip(images: Tensor, tmp_path: object) -> None:
    exported = export_integers(quantised(images), (3, SIZE, SIZE))
    write_network(f"{tmp_path}/network", exported)
    restored = read_network(f"{tmp_path}/network")
    assert restored.operations == exported.operations
    integers = exported.quantise(images)
    assert torch.equal(restored.quantise(images), integers)
    assert torch.equal(restored.run(integers), exported.run(integers))


def test_container_without_operations(tmp_path: object) -> None:
    write_container(f"{tmp_path}/layers", convert(network(), [], progress=False))
    with pytest.raises(CompressError, match="must hold a network's operations, not layers alone"):
        read_network(f"{tmp_path}/layers")


@pytest.mark.parametrize("factor", [1.0, -1.0, 0.3, 1e-4, -7.5e-9, 2.0**29, 0.0, 1 - 2.0**-40, 1e-30])
def test_fixed_point(factor: float) -> None:
    multiplier, shift = fixed_point(np.array([factor]))
    assert multiplier.dtype == np.int32
    assert shift.dtype == np.uint8
    assert shift[0] <= 62
    assert float(multiplier[0]) * 2.0 ** -int(shift[0]) == pytest.approx(factor, rel=2**-30, abs=2.0**-62)


@pytest.mark.parametrize("factor", [2.0**30, float("nan"), float("inf")])
def test_fixed_point_refuses(factor: float) -> None:
    with pytest.raises(CompressError, match="requantisation factors must be below"):
        fixed_point(np.array([factor]))


class Softmax(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.softmax(1)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(3, 4, 1), Softmax()], "has no integer form"),
        ([nn.Conv2d(3, 4, 1)], "layer '0' must have one scale, as its sums are an output: convert it with one_scale"),
        ([nn.Conv2d(3, 4, 1), nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2)], "of features behind no layer"),
        ([nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 2)], "must have one size"),
        ([nn.Conv2d(3, 4, 1), nn.MaxPool2d(2, dilation=2), nn.Flatten(), nn.Linear(4, 2)], "dilation 1"),
    ],
)
def test_networks_without_integer_form(layers: list[nn.Module], message: str) -> None:
    model = nn.Sequential(*layers)
    convert(model, [], progress=False)
    size = 4 if "dilation" in message else 2
    with pytest.raises(CompressError, match=message):  # noqa: PT012
        graph = quantise_activations(model, torch.randn(2, 3, size, size))
        calibrate(graph, torch.randn(2, 3, size, size))
        export_integers(graph, (3, size, size))


def test_images_must_be_int8(images: Tensor) -> None:
    exported = export_integers(quantised(images), (3, SIZE, SIZE))
    with pytest.raises(CompressError, match=r"images must be int8 \[batch x 3 x 12 x 12\], not float32"):
        exported.run(images)


def test_calibration_needs_quantisers(images: Tensor) -> None:
    with pytest.raises(CompressError, match="the model must have an activation quantiser, not 0"):
        calibrate(network(), images)


def test_inputs_of_layers_alone(images: Tensor) -> None:
    """For networks with operations that have no integer form."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GELU(), nn.Flatten(), nn.Linear(1600, 10))
    convert(model, [], progress=False)
    before = model(images)
    quantise_inputs(model)
    assert torch.equal(model(images), before)
    calibrate(model, images)
    error = (model(images) - before).norm() / before.norm()
    assert 0 < error < 0.05


def test_batch_norm_takes_the_plain_average(images: Tensor) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    recalibrate_batch_norm(model, [images[:8], images[8:]])
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)))
    assert model[0].momentum == 0.1
    assert model[0].training
    # Each batch counts by its samples.
    recalibrate_batch_norm(model, [images[:13], images[13:15], images[15:]])
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)))


class _OfTwo(nn.BatchNorm2d):
    """A batch norm of somebody's own: with another argument, and a ``train`` that gives nothing."""

    def forward(self, values: Tensor, offset: float) -> Tensor:  # type: ignore[override]
        return super().forward(values) + offset

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


class _Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = _OfTwo(3)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(values, 1.0)


def test_batch_norm_may_be_of_ones_own(images: Tensor) -> None:
    model = _Shifted()
    recalibrate_batch_norm(model, [images])
    torch.testing.assert_close(model.norm.running_mean, images.mean((0, 2, 3)))


def test_batch_norm_takes_what_no_dropout_has_changed(images: Tensor) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3))
    recalibrate_batch_norm(model, [images])
    torch.testing.assert_close(model[1].running_mean, images.mean((0, 2, 3)))
    assert model[0].training


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("recipe", [Recipe("int8"), Recipe("ssvq", k=2, d=4, n=0, m=0)])
def test_biases_of_weights_that_are_zero_are_kept(size: float, recipe: Recipe) -> None:
    """A head that starts at zero; rows of a convolution, with and without batch norm; a batch norm alone."""
    torch.manual_seed(0)
    last = nn.Linear(8, 4)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()
    images = torch.randn(8, 1, 8, 8)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, 2, 3, -4]) * size)
    done = msvq.calibrate(model, images, [("0", Recipe("int8")), ("*", recipe)], values=True, progress=False)
    assert done.network is not None
    found = np.asarray(done.network.results(done.network.quantise(images).numpy())[0]) * done.network.outputs[0].scale
    assert np.abs(found.reshape(8, 4) / size - [1, 2, 3, -4]).max() < 1e-5

    norm = nn.BatchNorm2d(8)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), norm).eval()
    with torch.no_grad():
        model[0].weight.zero_()
        model[1].weight.zero_()
        for layer in (model[0], model[2], norm):
            layer.bias.copy_(torch.linspace(0.5, 1.5, 8) * size)
        norm.weight.zero_()
    done = msvq.calibrate(model, images, [("0", Recipe("int8")), ("*", recipe)], values=True, progress=False)
    assert done.network is not None
    found = done.network.results(done.network.quantise(images).numpy())[0] * done.network.outputs[0].scale
    with torch.no_grad():
        expected = model(images).numpy()
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
def test_an_activation_of_the_input_itself(images: Tensor, activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(activation(), nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(16, 4))
    convert(model, [], progress=False)
    graph = quantise_activations(model, images).eval()
    calibrate(graph, images)
    exported = export_integers(graph, (3, SIZE, SIZE))
    logits = exported.run(exported.quantise(images)).double()
    with torch.no_grad():
        expected = graph(images)
    ratio = (expected * logits).sum() / (logits**2).sum()
    assert (logits * ratio - expected).norm() / expected.norm() < 0.03


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((1, 3, 4, 4), np.nan, np.float32), "images must be finite, not NaN or infinite"),
        (np.full((1, 3, 4, 4), np.inf, np.float64), "images must be finite, not NaN or infinite"),
        (np.zeros((1, 3, 4, 4), np.uint8), "images must be normalised floats, not uint8"),
    ],
)
def test_images_that_are_no_normalised_floats(images: np.ndarray, message: str) -> None:
    network = read_network(ROOT / "experiments" / "containers" / "resnet20-vq-d8.msvq")
    for given in (images, torch.from_numpy(images)):
        with pytest.raises(ValueError, match=message):
            network.quantise(given)
