"""The net finds what is not the network, and names the first operation that differs."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional

from sw.compress.methods import CompressError, Recipe
from sw.compress.training.comparison import compare_file
from sw.compress.training.finetune import Finetuned
from sw.compress.training.integer import IntegerNetwork, export_integers, write_network
from sw.compress.training.prepare import prepare
from tests.sw.compress.frontend.networks import Net, sample


def body(net: Net, x: Tensor) -> Tensor:
    x = functional.relu(x)
    return functional.relu(net.norm(net.b(x)) + x)


@pytest.fixture(scope="module")
def trained() -> tuple[fx.GraphModule, IntegerNetwork]:
    graph, reason = prepare(Net(body), [("b", Recipe("msvq", 4, 8, 4, 8))], sample(), progress=False)
    assert reason is None
    assert isinstance(graph, fx.GraphModule)
    return graph, export_integers(graph, (3, 9, 9))


def test_what_was_exported_is_explained_by_rounding(
    trained: tuple[fx.GraphModule, IntegerNetwork], tmp_path: Path
) -> None:
    graph, network = trained
    write_network(tmp_path / "network", network)
    found = compare_file(tmp_path / "network", graph, sample())
    assert found.first is None
    assert found.program == "equal"
    assert [each.operation.split()[1].strip("()") for each in found.operations] == [
        *("input", "layer", "layer", "add", "average", "logits")
    ]
    # The bounds are no wider than rounding: half a step, and what a bias and a multiplier leave off.
    assert all(each.bound < 0.51 for each in found.operations[:-1])
    # Logits are sums: but for the bias nothing is rounded.
    assert found.operations[-1].bound < 0.6
    assert found.to_dict()["first_difference"] is None


def changed_layer(network: IntegerNetwork, name: str, **fields: Any) -> IntegerNetwork:
    layer = network.layers[name]
    assert layer.requantisation is not None
    requantisation = dataclasses.replace(layer.requantisation, **fields)
    return dataclasses.replace(
        network, layers=network.layers | {name: dataclasses.replace(layer, requantisation=requantisation)}
    )


def changed_operation(network: IntegerNetwork, number: int, **fields: Any) -> IntegerNetwork:
    operations = list(network.operations)
    operations[number] = dataclasses.replace(operations[number], **fields)
    return dataclasses.replace(network, operations=tuple(operations))


@pytest.mark.parametrize("fault", ["bias", "multiplier", "range", "addends", "average"])
def test_a_small_fault_is_found_and_named(
    fault: str, trained: tuple[fx.GraphModule, IntegerNetwork], tmp_path: Path
) -> None:
    graph, network = trained
    given = network.layers["b"].requantisation
    assert given is not None
    numbers = {op.kind: number for number, op in enumerate(network.operations)}
    if fault == "bias":
        # Of one channel, by less than one step of the result.
        step = np.ldexp(1.0 / given.multiplier.astype(np.float64), given.shift.astype(np.int64))
        bias = given.bias + (np.arange(8) == 3) * np.rint(0.8 * step).astype(np.int32)
        network, where = changed_layer(network, "b", bias=bias.astype(np.int32)), "layer 'b'"
    elif fault == "multiplier":
        multiplier = (given.multiplier * 0.97).astype(np.int32)
        network, where = changed_layer(network, "b", multiplier=multiplier), "layer 'b'"
    elif fault == "range":
        network, where = changed_operation(network, 1, range=(-128, 127)), "layer 'a'"
    elif fault == "addends":
        multipliers = network.operations[numbers["add"]].multipliers[::-1]  # type: ignore[attr-defined]
        network, where = changed_operation(network, numbers["add"], multipliers=multipliers), "add"
    else:
        shift = network.operations[numbers["average"]].shift - 1  # type: ignore[attr-defined]
        network, where = changed_operation(network, numbers["average"], shift=shift), "average"
    write_network(tmp_path / "network", network)
    with pytest.raises(CompressError, match=rf"operation \d+ \({where}\) of the file is .* and rounding explains"):
        compare_file(tmp_path / "network", graph, sample())
    forced = compare_file(tmp_path / "network", graph, sample(), force=True)
    assert forced.forced
    assert where in forced.to_dict()["first_difference"]


def test_a_file_of_another_network_is_refused(trained: tuple[fx.GraphModule, IntegerNetwork], tmp_path: Path) -> None:
    graph, _ = trained
    other, _ = prepare(Net(lambda net, x: net.b(functional.relu(x))), [], sample(), progress=False)
    assert isinstance(other, fx.GraphModule)
    write_network(tmp_path / "network", export_integers(other, (3, 9, 9)))
    with pytest.raises(CompressError, match=r"the file must have the \d+ operations of the network, not \d+"):
        compare_file(tmp_path / "network", graph, sample())


def test_large_networks_say_that_no_program_was_run(
    trained: tuple[fx.GraphModule, IntegerNetwork], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, network = trained
    write_network(tmp_path / "network", network)
    monkeypatch.setattr("sw.compress.training.comparison._PROGRAM_PRODUCTS", 10)
    found = compare_file(tmp_path / "network", graph, torch.randn(2, 3, 9, 9))
    assert found.program.startswith("not compared: ")
    assert found.images == 2


def test_a_file_that_is_refused_takes_no_place(trained: tuple[fx.GraphModule, IntegerNetwork], tmp_path: Path) -> None:
    graph, network = trained
    path = tmp_path / "network"
    done = Finetuned(graph, list(network.layers.values()), network, {}, sample(), {})
    done.write(path)
    good = path.read_bytes()
    trained_on = copy.deepcopy(graph)
    with torch.no_grad():
        for name, parameter in trained_on.named_parameters():
            if name.endswith("bias"):
                parameter.add_(1)
    other = dataclasses.replace(done, model=trained_on)
    with pytest.raises(CompressError, match="rounding explains"):
        other.write(path)
    assert path.read_bytes() == good
    with pytest.raises(CompressError, match="rounding explains"):
        other.write(tmp_path / "new")
    assert [each.name for each in tmp_path.iterdir()] == ["network"]
    assert other.write(path, force=True)["forced"]  # type: ignore[index]
