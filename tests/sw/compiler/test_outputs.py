"""Several outputs, int8 ones too, and tensors that others need as they are: programs give what the network says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hw.config import preset
from sw.compiler.compile import compile_network
from sw.compiler.graph import CompileError
from sw.compiler.lowering import lower
from sw.compiler.steps import compile_steps
from sw.executor import execute, run_program
from sw.network import Network, Output, parse_operations
from tests.sw.networks import Builder
from tests.sw.steps import small_transformer

CONFIG = dataclasses.replace(preset("ews-tiny"), psum_width=26)
SHAPE = (4, 5, 6)


def build() -> Builder:
    return Builder(np.random.default_rng(0), CONFIG)


def check(network: Network) -> list[np.ndarray]:
    """The program's outputs are the network's, by their names."""
    image = np.random.default_rng(1).integers(-128, 128, SHAPE).astype(np.int8)
    program = compile_network(network, SHAPE, CONFIG)
    found = run_program(program, [image], check=True)
    expected = network.results(image[None])
    for output, (values,) in zip(network.outputs, expected, strict=True):
        assert found[output.name].dtype == values.dtype
        assert np.array_equal(found[output.name].ravel(), values.ravel()), output.name
    scales = {tensor.name: tensor.scale for tensor in program.outputs}
    assert scales == {output.name: output.scale for output in network.outputs}
    return [values[0] for values in expected]


def test_int8_is_an_output() -> None:
    b = build()
    first = b.layer("first", 0, (8, 4, 3, 3), padding=(1, 1))
    b.op("maximum", first, kernel=2, stride=2, padding=0)
    network = b.network()
    image = np.zeros(SHAPE, np.int8)
    found = run_program(compile_network(network, SHAPE, CONFIG), [image])
    assert list(found) == ["maximum first"]
    assert np.array_equal(found["maximum first"], network.run(image[None])[0])


def test_several_outputs_of_one_network() -> None:
    """Of a layer that others read, of a padded map, of a range, and logits."""
    b = build()
    first = b.layer("first", 0, (8, 4, 3, 3), padding=(1, 1))
    padded = b.op("pad", first, padding=[1, 0, 0, 2])
    second = b.layer("second", padded, (8, 8, 3, 3))
    clamped = b.op("range", second, range=[-9, 20])
    flat = b.op("flatten", b.op("average", clamped, multiplier=1 << 30, shift=32))
    logits = b.layer("logits", flat, (5, 8, 1, 1), kind="linear", op="logits")
    outputs = (
        Output(logits, "classes"), Output(first, "features", 0.5), Output(padded, "padded"), Output(second, "raw"),
        Output(clamped, "clamped", 0.125),
    )  # fmt: skip
    found = check(dataclasses.replace(b.network(), outputs=outputs))
    assert found[3].min() < -9
    assert (found[2][:, 0] == 0).all()


def test_a_tensor_is_not_clamped_for_one_of_its_readers() -> None:
    """A range behind ``flatten`` must not go into a layer whose map another one reads."""
    b = build()
    first = b.layer("first", 0, (8, 4, 3, 3), padding=(1, 1))
    flat = b.op("flatten", first)
    clamped = b.op("range", flat, range=[0, 3])
    left = b.layer("left", clamped, (4, 8 * 5 * 6, 1, 1), kind="linear", amplitude=3)
    right = b.op("flatten", b.layer("right", first, (4, 8, 5, 6)))
    b.op("add", left, right, multipliers=[1 << 20, 1 << 20], shift=21)
    network = b.network()
    image = np.random.default_rng(1).integers(-128, 128, SHAPE).astype(np.int8)
    (found,) = run_program(compile_network(network, SHAPE, CONFIG), [image], check=True).values()
    assert np.array_equal(found.ravel(), network.run(image[None])[0])
    assert lower(network, SHAPE).operations[0].low != 0


@pytest.mark.parametrize("value", [1, 2])
def test_outputs_that_are_no_tensor_of_their_own(value: int) -> None:
    operations = [{"op": "input", "shape": list(SHAPE)}, {"op": "flatten", "in": [0]}]
    operations += [{"op": "maximum", "in": [0], "kernel": 1, "stride": 1, "padding": 0}, {"op": "flatten", "in": [2]}]
    outputs = (Output(value, "x"), Output(3, "y"), *([Output(1, "z")] if value == 2 else []))
    network = Network({}, parse_operations(operations), 1.0, outputs=outputs)
    with pytest.raises(CompileError, match="it must be a tensor of its own, not the input or another's"):
        compile_network(network, SHAPE, CONFIG)


def test_a_network_for_the_host_too_needs_steps() -> None:
    network, _ = small_transformer(preset("ews-tiny"))
    with pytest.raises(
        CompileError, match=r"operation 2 \(embed\): the host computes a part of this network: .* steps"
    ):
        compile_network(network, (3, 8, 8), preset("ews-tiny"))


def test_steps_with_operations_of_both_kinds() -> None:
    """What the array computes alone elsewhere, the host does between steps; layers clamp, and several outputs are."""
    config = preset("ews-tiny")
    network, images = small_transformer(config)
    operations = list(network.operations)
    operations[1] = dataclasses.replace(operations[1], range=(-20, 33))
    pooled = parse_operations([*(op.to_dict() for op in operations), {
        "op": "maximum", "in": [1], "kernel": 2, "stride": 1, "padding": 1,
    }])  # fmt: skip
    last = len(operations) - 1
    outputs = (Output(last, "head"), Output(last + 1, "pooled", 2.0))
    network = dataclasses.replace(network, operations=pooled, outputs=outputs)
    steps = compile_steps(network, config)
    found = steps.results(images[:2], lambda _, jobs: [execute(program, memory).memory for program, memory in jobs])
    for mine, theirs in zip(found, network.results(images[:2]), strict=True):
        assert np.array_equal(mine, theirs)
    assert found[1].max() == 33
