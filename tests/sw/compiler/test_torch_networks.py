"""A torch module of a user, in whatever way it is written, to a program: what cannot run is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hw.config import AcceleratorConfig, preset
from sw.compiler.compile import compile_network
from sw.compress.methods import CompressError, Recipe
from sw.compress.training.finetune import prepare
from sw.compress.training.graph import calibrate, quantise_activations
from sw.compress.training.integer import IntegerNetwork, export_integers, read_network, write_network
from sw.compress.training.modules import convert
from sw.executor import run_program

CONFIG = preset("ews-cms-tiny").override(["psum_width=32", "l2_bytes=65536", "l1_ifmap_bytes=4096", "k=8"])
SHAPE = (3, 11, 9)


class Written(nn.Module):
    """A convolution, then something, then a classifier of what is left."""

    def __init__(self, between: Callable[[Tensor], Tensor], classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.between = between
        self.body = nn.Conv2d(16, 16, (1, 3), padding=(0, 2), stride=(1, 2))
        size = self.features(torch.zeros(2, *SHAPE)).shape[1]
        self.classify = nn.Linear(size, classes)

    def features(self, values: Tensor) -> Tensor:
        values = functional.relu(self.body(self.between(functional.relu6(self.norm(self.stem(values))))))
        return values.view(values.size(0), -1)

    def forward(self, values: Tensor) -> Tensor:
        return self.classify(self.features(values))  # type: ignore[no-any-return]


def exported(model: nn.Module, images: Tensor) -> tuple[torch.fx.GraphModule, IntegerNetwork]:
    model.eval()
    convert(model, [("body*", Recipe("mvq", k=8, d=CONFIG.d, n=CONFIG.N, m=CONFIG.M))], progress=False)
    graph = quantise_activations(model, images)
    calibrate(graph, images)
    return graph, export_integers(graph, SHAPE)


@pytest.mark.parametrize(
    "between",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d((2, 3), 1, (1, 0), count_include_pad=False, divisor_override=5),
        nn.AdaptiveAvgPool2d((3, 7)),
        nn.AdaptiveAvgPool2d((9, 1)),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d((2, 3), (3, 4), ceil_mode=True),
        nn.ZeroPad2d((0, 1, 2, 0)),
        nn.Sequential(nn.ZeroPad2d(1), nn.ZeroPad2d((0, 3, 0, 0))),
        nn.Dropout2d(0.5),
        lambda x: functional.max_pool2d(x, 2),
        lambda x: functional.avg_pool2d(x, 2, padding=1),
        lambda x: functional.avg_pool2d(x, kernel_size=3, stride=(3, 2), ceil_mode=True),
        lambda x: functional.adaptive_avg_pool2d(x, output_size=1),
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: torch.mean(x, [-1, -2], True),
        lambda x: functional.pad(x, (0, 1, 0, 1)),
        lambda x: functional.pad(x, pad=(1, 0)),
        lambda x: functional.max_pool2d(functional.pad(x, (0, 1, 0, 1)), 2),
        lambda x: functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 0)),
        lambda x: functional.dropout(x, 0.5, training=False),
        lambda x: torch.add(x, x),
    ],
)
def test_ways_to_write_an_operation(between: Callable[[Tensor], Tensor], tmp_path: object) -> None:
    check(between, CONFIG, tmp_path)


@pytest.mark.parametrize(
    "between",
    [
        # The pooled branch of DeepLab and PSPNet, and an image that has its size already.
        lambda x: x + functional.interpolate(x.mean((2, 3), keepdim=True), size=x.shape[2:], mode="bilinear"),
        lambda x: functional.interpolate(x.mean(2, True), size=x.shape[2:], mode="bilinear", align_corners=True),
        lambda x: functional.interpolate(x, size=x.shape[2:], mode="bilinear"),
        lambda x: torch.cat(x.chunk(2, 3)[0].split([4, 5], 2)[1:], 1),
        lambda x: x.narrow(2, -4, 4).narrow(3, 1, 3),
        lambda x: x * x.permute(0, 2, 3, 1).mean((1, 2), keepdim=True).permute(0, 3, 1, 2),
        lambda x: x * x.permute(0, 2, 3, 1).amax(-1).unsqueeze(1),
        lambda x: x.flatten(2).transpose(1, 2).mean(1)[:, :, None, None],
        lambda x: x + x.mean(2).mean(-1).unflatten(1, (16, 1, 1)),
    ],
)
def test_ways_to_crop_repeat_and_reduce(between: Callable[[Tensor], Tensor], tmp_path: object) -> None:
    check(between, CONFIG.override(["vector_unit_functions=full"]), tmp_path)


def check(between: Callable[[Tensor], Tensor], config: AcceleratorConfig, tmp_path: object) -> None:
    """The graph's results are those of the integers, and these the program's."""
    images = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))
    graph, network = exported(Written(between), images)
    write_network(f"{tmp_path}/network", network)
    network = read_network(f"{tmp_path}/network")
    integers = network.quantise(images)
    logits = network.run(integers, golden=False)
    with torch.no_grad():
        expected = graph(images)
    ratio = (expected * logits).sum() / (logits.double() ** 2).sum()
    assert (logits * ratio - expected).norm() / expected.norm() < 0.03
    program = compile_network(network, SHAPE, config)
    (found,) = run_program(program, [integers[0].numpy()], check=True).values()
    assert np.array_equal(found.ravel(), logits[0].numpy())


def test_without_training(tmp_path: object) -> None:
    """What the compiler's page shows."""
    model, images = Written(nn.Identity()), torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))
    rules = [("stem", Recipe("int8")), ("*", Recipe("mvq", k=8, d=CONFIG.d, n=CONFIG.N, m=CONFIG.M))]
    graph, reason = prepare(model.eval(), rules, images, progress=False)
    assert reason is None
    assert isinstance(graph, torch.fx.GraphModule)
    write_network(f"{tmp_path}/network", export_integers(graph, SHAPE))
    program = compile_network(read_network(f"{tmp_path}/network"), SHAPE, CONFIG)
    assert [layer.note.split(",")[0] for layer in program.layers] == ["raw in 2 passes", "coded", "raw in 2 passes"]


class Two(Written):
    def forward(self, values: Tensor, more: Tensor) -> Tensor:
        return super().forward(values + more)


class Pair(Written):
    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        result = super().forward(values)
        return result, result


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), "between.*: must divide by one number"),
        (nn.AvgPool2d(2, ceil_mode=True), "between.*: no window may hang over the end: ceil_mode must be False"),
        (nn.AdaptiveAvgPool2d(4), r"between.*: all windows must have one size, not those of \(9, 7\) to \(4, 4\)"),
        (nn.MaxPool2d(2, dilation=2), "between.*: must have dilation 1 and give no indices"),
        (nn.ReflectionPad2d(1), r"'between' \(ReflectionPad2d\).* with mode 'reflect' has no integer form"),
        (nn.GroupNorm(2, 16), r"'between' \(GroupNorm\).* has no integer form: replace it"),
        (nn.ConvTranspose2d(16, 16, 3, 3), r"'between' \(ConvTranspose2d\).* of stride 3 x 3 has no integer form: use"),
        (nn.ConvTranspose2d(16, 16, 1, 2), "with a kernel 1 x 1, stride 2 and padding 0 x 0 has no integer form: use"),
        (
            lambda x: functional.pad(x, (1, 1, 1, 1), "reflect"),
            "pad.*: padding must add zeros to rows and columns alone",
        ),
        (lambda x: functional.pad(x, (1, 1), value=1.0), "pad.*: padding must add zeros to rows and columns alone"),
        (lambda x: functional.pad(x, (0, 0, 0, 0, -1, 1)), "pad.*: padding must add zeros to rows and columns alone"),
        (lambda x: x.flip(1), "flip in .* has no integer form: replace it"),
        (
            lambda x: x.transpose(2, 3),
            "transpose in .* of 16 x 9 x 7 to 16 x 7 x 9 has no integer form: move",
        ),
        (
            lambda x: x.permute(1, 0, 2, 3).relu().permute(1, 0, 2, 3),
            "permute in .* of 16 x 9 x 7 to 3 x 9 x 7 has no integer form: move channels of maps, or pixels",
        ),
        (lambda x: torch.cat([x, x], 2), "cat in .* along axis 2 has no integer form: concatenate channels"),
        (
            lambda x: torch.add(x.flatten(1), x.flatten(1)[:, :1], alpha=2).unflatten(1, (16, 9, 7)),
            "add in .* of 1008 and 1 has no integer form: add two values of one shape",
        ),
        (
            lambda x: (x.flatten(1) * x.flatten(1)[:, :1]).unflatten(1, (16, 9, 7)),
            "mul in .* of 1008 and 1 has no integer form: multiply two values of one shape",
        ),
        (
            lambda x: x * x.mean((1, 2), keepdim=True),
            r"mean in .* over axes \[1, 2\] has no integer form: take the mean of a map over channels, rows",
        ),
        (
            lambda x: torch.atan2(x, functional.max_pool2d(x, 3, 1, 1)),
            "atan2 in .* of two values has no integer form: compute it",
        ),
        (lambda x: functional.dropout(x, 0.0), "dropout in .* draws random numbers"),
        (lambda x: functional.softmax(x, 1), "softmax in .* has no integer form: leave it out of the network"),
        (
            lambda x: x + torch.ones(16, 9, 7),
            "add in .* with a constant of 16 x 9 x 7 has no integer form: use one number",
        ),
        (
            lambda x: functional.interpolate(x, size=(13, 7)),
            "nearest of 9 x 7 to 13 x 7 has no integer form: use whole factors",
        ),
        (
            lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
            "bilinear, corners aligned, of 9 x 7 to 18 x 14 has no integer form: use a whole factor of 2 to 7 with",
        ),
        (
            lambda x: functional.interpolate(x, scale_factor=2, mode="bicubic"),
            "bicubic2d in .* has no integer form: rep",
        ),
        (
            lambda x: (
                x + functional.linear(x.mean((2, 3)), torch.eye(16)).reshape(-1, 16, 1, 1).relu().repeat(1, 1, 9, 7)
            ),
            "repeat in .* has no integer form",
        ),
    ],
)
def test_what_has_no_integer_form(between: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        exported(Written(between), torch.zeros(2, *SHAPE))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Two, "missing 1 required positional argument: 'more'"),
        (Pair, "outputs '0' and '1' must differ, not be one value: return it once"),
    ],
)
def test_one_input_and_outputs_that_differ(model: type[Written], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        exported(model(nn.Identity()), torch.zeros(2, *SHAPE))
