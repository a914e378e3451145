"""The net under networks in steps: each value of a transformer is compared, and the first that differs is named."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hw.config import preset
from sw.compress.methods import CompressError
from sw.compress.training import comparison_steps
from sw.compress.training.comparison import compare_file
from sw.compress.training.integer import IntegerNetwork, export_steps, write_network
from tests.sw.devices import CUDA
from tests.sw.steps import converted

Transformer = tuple[nn.Module, torch.Tensor, IntegerNetwork]


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    model, images = converted(preset("ews-msvq-tiny"), depth=2)
    return model, images, export_steps(model, images)


def test_what_was_exported_is_explained_by_rounding(transformer: Transformer, tmp_path: Path) -> None:
    model, images, network = transformer
    write_network(tmp_path / "network", network)
    found = compare_file(tmp_path / "network", model, images)
    assert found.first is None
    # 13 values of each of two blocks, the input, the patches, the embedding, the pooled token, and the logits.
    assert len(found.operations) == 2 * 13 + 5
    # Shares move with the numerators of their softmax, and an embedding rounds twice; all others are near half a step.
    near = [each for each in found.operations if not any(x in each.operation for x in ("normalise", "embed", "logits"))]
    assert max(each.bound for each in near) < 0.51
    assert min(each.apart for each in near) > 0.3


def test_scales_are_calibrated_on_the_cpu_again(
    transformer: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of the file: a GPU's sums have other last bits, which the residual stream's integers show."""
    model, images, network = transformer
    write_network(tmp_path / "network", network)
    elsewhere = copy.deepcopy(model).to("meta")
    monkeypatch.setattr(comparison_steps, "on_cpu", {elsewhere: model}.__getitem__)
    assert compare_file(tmp_path / "network", elsewhere, images).first is None


@CUDA
def test_what_was_trained_on_a_gpu_is_explained_by_rounding(transformer: Transformer, tmp_path: Path) -> None:
    model, images, _ = transformer
    model, images = copy.deepcopy(model).cuda(), images.cuda()
    write_network(tmp_path / "network", export_steps(model, images))
    assert compare_file(tmp_path / "network", model, images).first is None


def changed(network: IntegerNetwork, kind: str, **fields: Any) -> IntegerNetwork:
    operations = list(network.operations)
    number = next(number for number, op in enumerate(operations) if op.kind == kind)
    operations[number] = dataclasses.replace(operations[number], **fields)
    return dataclasses.replace(network, operations=tuple(operations))


def field(network: IntegerNetwork, kind: str, name: str) -> Any:
    return next(getattr(op, name) for op in network.operations if op.kind == kind)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("positions", "embed"),
        ("gain", "layernorm"),
        ("epsilon", "layernorm"),
        ("matmul", "matmul"),
        ("softmax", "normalise"),
        ("factor", "normalise"),
        ("residual", "residual"),
        ("gelu", "gelu"),
        ("bias", "layer 'blocks.1.mlp.fc2'"),
        ("classifier", "logits 'head'"),
        ("heads", "split"),
    ],
)
def test_each_fault_is_found_where_it_is(transformer: Transformer, tmp_path: Path, fault: str, where: str) -> None:
    model, images, network = transformer
    constants = {name: values.copy() for name, values in network.constants.items()}
    match fault:
        case "positions":
            constants["positions"][0, 0] += 3
        case "gain":
            constants["blocks.0.norm1.gain"][1] *= 1.05
        case "softmax":
            constants[field(network, "softmax", "table")][:] = np.linspace(127, 1, 256).astype(np.int8)
        case "gelu":
            table = constants[field(network, "gelu", "table")]
            table[table.astype(int) > 5] -= 1
        case "epsilon":
            network = changed(network, "layernorm", epsilon=1e12)
        case "matmul":
            network = changed(network, "matmul", shift=field(network, "matmul", "shift") - 1)
        case "factor" | "residual":
            kind = "normalise" if fault == "factor" else "residual"
            network = changed(network, kind, factor=1.1 * field(network, kind, "factor"))
        case "heads":
            network = changed(network, "split", part=1)
        case _:
            name = "head" if fault == "classifier" else "blocks.1.mlp.fc2"
            layer = network.layers[name]
            assert layer.requantisation is not None
            factor = np.ldexp(layer.requantisation.multiplier.astype(float), -layer.requantisation.shift.astype(int))
            bias = layer.requantisation.bias + np.ceil(1.1 / factor).astype(np.int32)
            given = dataclasses.replace(layer.requantisation, bias=bias)
            network = dataclasses.replace(
                network, layers=dict(network.layers) | {name: dataclasses.replace(layer, requantisation=given)}
            )
    write_network(tmp_path / "network", dataclasses.replace(network, constants=constants))
    with pytest.raises(CompressError, match=rf"operation \d+ \({where}\) of the file is .* of the transformer\)"):
        compare_file(tmp_path / "network", model, images)
    assert compare_file(tmp_path / "network", model, images, force=True).forced


def test_a_file_of_another_transformer_is_refused(transformer: Transformer, tmp_path: Path) -> None:
    model, images, _ = transformer
    other, other_images = converted(preset("ews-msvq-tiny"), depth=1)
    write_network(tmp_path / "network", export_steps(other, other_images))
    with pytest.raises(CompressError, match="the file must have the operations of the transformer, and has others"):
        compare_file(tmp_path / "network", model, images)
