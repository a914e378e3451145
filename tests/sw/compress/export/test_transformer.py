"""A vision transformer from torch to integers, and to programs of every variant."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from experiments.models import VisionTransformer
from hw.config import VARIANTS, preset
from sw.compiler.steps import compile_steps
from sw.compress.export.transformer import export_transformer
from sw.compress.methods import CompressError, Recipe
from sw.compress.training.graph import calibrate, quantise_inputs
from sw.compress.training.modules import UniformDecoder, convert
from sw.executor import execute
from sw.network import NetworkError
from sw.network.spatial import Layer, Logits
from tests.sw.steps import converted, small_transformer

INT8 = [("*", Recipe("int8"))]


def logits(network: Any, images: torch.Tensor) -> np.ndarray:
    """The integers' logits. Their scale is not in the network."""
    found = np.stack(network.run(network.quantise(images)))[:, :, 0]
    return found.astype(np.float64)


@pytest.mark.parametrize("variant", ["ews-tiny", "ews-msvq-tiny"])
def test_integers_follow_the_floats(variant: str) -> None:
    model, images = converted(preset(variant), depth=2)
    network = export_transformer(model, images)
    with torch.no_grad():
        expected = model(images).numpy()
    found = logits(network, images)
    found *= (found * expected).sum() / (found * found).sum()
    assert np.abs(found - expected).max() < 0.06 * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.75


def test_mean_of_tokens_and_learned_input_scales() -> None:
    torch.manual_seed(1)
    model = VisionTransformer(depth=1, width=16, heads=2).eval()
    images = torch.randn(4, 3, 32, 32)
    convert(model, INT8, progress=False)
    quantise_inputs(model)
    calibrate(model, images)
    with torch.no_grad():
        model.patches.quantiser.step.log_factor.fill_(0.5)
    network = export_transformer(model, images)
    assert model.patches.quantiser.ready
    assert network.input_scale == model.patches.quantiser.step().item()
    kinds = [op.kind for op in network.operations]
    assert kinds[-2:] == ["mean", "logits"]
    assert network.values[kinds.index("embed")].shape == (16, 64)
    with torch.no_grad():
        expected = model(images).numpy()
    found = logits(network, images)
    found *= (found * expected).sum() / (found * found).sum()
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_programs_compute_what_the_integers_say(variant: str) -> None:
    # 64 products of dense codewords do not fit 20 bits.
    config = preset(f"{variant}-tiny").override(["psum_width=24"])
    network, images = small_transformer(config)
    steps = compile_steps(network, config)
    seen = []

    def run(number: int, jobs: Any) -> list[np.ndarray]:
        seen.append(number)
        return [execute(program, memory, check=True).memory for program, memory in jobs]

    found = steps.run(images[:2], run)
    assert seen == sorted(steps.programs)
    for values, expected in zip(found, network.run(images[:2]), strict=True):
        assert values.dtype == expected.dtype == np.int32
        assert np.array_equal(values, expected)
    coded = [layer.note for program in steps.programs.values() for layer in program.layers if "qkv" in layer.name]
    assert coded[0].startswith("coded" if config.features.codebook else "raw")


def test_programs_lie_one_behind_the_other() -> None:
    config = preset("ews-tiny")
    network, _ = small_transformer(config)
    steps = compile_steps(network, config, base=1 << 16)
    end = 1 << 16
    for _, program in sorted(steps.programs.items()):
        assert program.base == end
        end += program.dram_bytes


def test_the_same_seed_gives_the_same_network() -> None:
    config = preset("ews-tiny")
    first, second = (small_transformer(config)[0] for _ in range(2))
    assert first.operations == second.operations
    assert all(np.array_equal(first.constants[name], second.constants[name]) for name in first.constants)


def changed(**parts: Any) -> tuple[nn.Module, torch.Tensor]:
    model, images = converted(preset("ews-tiny"))
    for name, part in parts.items():
        owner, _, child = name.replace("__", ".").rpartition(".")
        setattr(model.get_submodule(owner), child, part)
    return model, images


def test_a_module_that_computes_something_else_is_refused() -> None:
    model, images = changed()
    model.register_forward_hook(lambda module, given, result: result + 1)
    with pytest.raises(
        CompressError, match=r"the network must compute what its parts say .* not logits that are 1 apart"
    ):
        export_transformer(model, images)
    assert not model.training


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"blocks__0__norm1": nn.Identity()}, r"part blocks\.0\.norm1 must be LayerNorm, not Identity"),
        ({"blocks__0__mlp__fc1": nn.Linear(16, 64)}, r"part blocks\.0\.fc1 must be a decoded layer, not Linear"),
        ({"blocks__0__mlp": nn.Identity()}, r"must have a part blocks\.0\.mlp\.fc1 or blocks\.0\.fc1"),
    ],
)
def test_parts_of_another_kind_are_refused(parts: dict[str, Any], message: str) -> None:
    model, images = changed(**parts)
    with pytest.raises(CompressError, match=message):
        export_transformer(model, images)


def test_the_classifier_needs_one_scale() -> None:
    model, images = changed()
    model.head.decoder = UniformDecoder(torch.randn(10, 16, 1, 1))
    with pytest.raises(CompressError, match="layer 'head' must have one scale, not 10: its sums are compared"):
        export_transformer(model, images)


def test_a_bias_must_leave_room_for_the_sums() -> None:
    model, images = changed()
    with torch.no_grad():
        model.head.bias += 1e9
    message = r"layer 'head': bias must be within 536870912, not \S+, in the unit of .* have no effect, set them to 0"
    with pytest.raises(CompressError, match=message):
        export_transformer(model, images)


def test_biases_of_weights_that_are_zero_are_kept() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(depth=1, width=16, heads=2).eval()
    bias = 1e-3 * torch.arange(1.0, 11)
    with torch.no_grad():
        for layer in (model.linear, model.blocks[0].fc2):
            layer.weight.zero_()
        model.blocks[0].fc2.bias.mul_(1e-3)
        model.linear.bias.copy_(bias)
    convert(model, INT8, progress=False)
    found = logits(export_transformer(model, torch.randn(4, 3, 32, 32)), torch.randn(4, 3, 32, 32))
    assert np.abs(found / found[:, -1:] - bias.numpy() / 1e-2).max() < 1e-5


def test_training_mode_is_kept() -> None:
    model, images = changed()
    model.train()
    export_transformer(model, images)
    assert model.training


def test_layers_are_those_of_the_operations() -> None:
    network, _ = small_transformer(preset("ews-tiny"))
    used = [op.layer for op in network.operations if isinstance(op, Layer | Logits)]
    assert sorted(network.layers) == sorted(used)
    with pytest.raises(
        NetworkError, match=r"operation 1 \(layer\): layer must be the name of a layer of the file, not 'pat"
    ):
        dataclasses.replace(network, layers={})
