"""Networks with concatenation, slices, upsampling, products and tables: every value bit for bit, or a refusal."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from hw.config import AcceleratorConfig, preset
from hw.control.descriptor import Opcode, VectorOp
from sw.compiler.compile import compile_network
from sw.compiler.graph import CompileError
from sw.compiler.lowering import lower
from sw.compiler.vectors import vector_parts
from sw.executor import execute, run_program
from sw.network import Network, Output, parse_operations
from sw.perf.estimate import estimate
from sw.perf.mapping import Network as Shapes
from sw.perf.prediction import predict
from sw.program import program_bytes, program_from_bytes
from tests.sw.compiler.test_compile import check_every_layer
from tests.sw.gated_networks import GATED, two_outputs
from tests.sw.networks import Builder

SHAPE = (3, 8, 12)
FULL = {"vector_unit_functions": "full", "psum_width": 26, "l2_bytes": 1 << 17}
INSTANCES = {
    "tiny": dataclasses.replace(preset("ews-msvq-full-tiny"), **FULL),
    "words of one byte": dataclasses.replace(preset("ews-cms-tiny"), l2_word_bytes=1, **FULL),
    "16": dataclasses.replace(preset("ews-msvq-full-16"), psum_width=26),
    "4 bits": dataclasses.replace(preset("ews-msvq4-tiny"), H=8, L=24, l2_word_bytes=8, word_width=64, **FULL),
}


@pytest.mark.parametrize("make", GATED, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", INSTANCES)
def test_networks(make, name: str) -> None:
    config = INSTANCES[name]
    network = make(np.random.default_rng(3), config)
    program = compile_network(network, SHAPE, config, records=False)
    program = program_from_bytes(program_bytes(program))
    picture = np.random.default_rng(4).integers(-128, 128, SHAPE).astype(np.int8)
    memory = execute(program, program.memory([picture]), check=True).memory
    for tensor, wanted in zip(program.outputs, network.results(picture[None]), strict=True):
        assert np.array_equal(program.read(memory, tensor).reshape(-1), wanted[0].reshape(-1)), tensor.name
        assert len(np.unique(wanted)) > 4


def random_network(seed: int, config: AcceleratorConfig) -> Network:
    """A chain of random vector operations on parts of one another."""
    rng = random.Random(seed)
    b = Builder(np.random.default_rng(seed), config)
    shapes = [(rng.randint(1, 9), rng.randint(1, 6), rng.randint(1, 6))]
    b.operations[0]["shape"] = list(shapes[0])
    table = np.random.default_rng(seed).integers(-128, 128, 256).astype(np.int8)
    while len(shapes) < 9:
        source = len(shapes) - 1
        C, rows, columns = shapes[source]
        kinds = ["concatenate", "slice", "upsample", "multiply", "table", "maximum", "gate"]
        kind = rng.choice([*kinds, "crop", "repeat", "pixel_shuffle", "pixel_unshuffle"])
        if kind == "concatenate":
            sources = [source, *[i for i, shape in enumerate(shapes) if shape[1:] == (rows, columns)][-3:]]
            rng.shuffle(sources)
            b.op(kind, *sources)
            shapes.append((sum(shapes[i][0] for i in sources), rows, columns))
        elif kind == "slice":
            start = rng.randrange(C)
            stop = rng.randint(start + 1, C)
            b.op(kind, source, start=start, stop=stop)
            shapes.append((stop - start, rows, columns))
        elif kind == "upsample" and rows * columns < 60:
            mode = rng.choice(["nearest", "bilinear", "zeros"])
            f = rng.choice([2, 3, 6]) if mode == "bilinear" and rows * columns < 20 else 2
            b.op(kind, source, mode=mode, factor=f)
            shapes.append((C, f * rows, f * columns))
        elif kind == "multiply":
            b.op(kind, source, source, multiplier=rng.randint(-9, 9), shift=rng.randint(0, 9), range=[-90, 127])
            shapes.append((C, rows, columns))
        elif kind == "gate":
            b.op("flatten", b.op("average", source, multiplier=1 << 28, shift=28))
            b.op("multiply", source, source + 2, multiplier=rng.choice([-3, 5]), shift=8)
            # Of the average and what is flattened, no one else reads anything.
            shapes += [(C, 0, 0), (C, 0, 0), (C, rows, columns)]
        elif kind == "table":
            b.op(kind, source, table="t")
            shapes.append((C, rows, columns))
        elif kind == "crop":
            margins = [rng.randint(0, (size - 1) // 2) for size in (rows, rows, columns, columns)]
            stride = [rng.randint(1, 3), rng.randint(1, 3)]
            b.op(kind, source, margins=margins, stride=stride)
            size = (rows - sum(margins[:2]), columns - sum(margins[2:]))
            shapes.append((C, *(-(-extent // step) for extent, step in zip(size, stride, strict=True))))
        elif kind == "repeat" and rows * columns < 40:
            factors = [rng.randint(1, 3), rng.randint(1, 3)]
            b.op(kind, source, factors=factors)
            shapes.append((C, factors[0] * rows, factors[1] * columns))
        elif kind == "pixel_shuffle" and (C % 4 == 0 or C == 9):
            f = 3 if C == 9 else 2
            b.op(kind, source, factor=f)
            shapes.append((C // f**2, f * rows, f * columns))
        elif kind == "pixel_unshuffle" and C < 12 and rows % 2 == columns % 2 == 0:
            b.op(kind, source, factor=2)
            shapes.append((4 * C, rows // 2, columns // 2))
        elif kind == "maximum" and min(rows, columns) > 1:
            b.op(kind, source, kernel=2, stride=2, padding=0)
            shapes.append((C, rows // 2, columns // 2))
    operations = b.operations[: len(shapes)]
    return Network({}, parse_operations(operations), 0.05, {"t": table})


@pytest.mark.parametrize("seed", range(16))
def test_random_chains(seed: int) -> None:
    """Each value, on instances whose words hold 1, 2, 4 or 8 channels; and the traffic that the estimate says."""
    word = (1, 2, 4, 8)[seed % 4]
    fields = {"H": 8, "L": 16, "d": 4, "l2_word_bytes": word, **FULL}
    config = dataclasses.replace(preset("ews-msvq-tiny"), **fields)
    network = random_network(seed, config)
    shape = network.image_shape
    last = len(network.operations) - 1
    used = {source for op in network.operations for source in op.inputs}
    outputs = [{"value": i, "name": str(i)} for i in range(1, last + 1) if i == last or i not in used]
    assert shape is not None
    network = dataclasses.replace(network, outputs=tuple(Output(**x) for x in outputs))
    program = compile_network(network, shape, config)
    check_values(program, network, shape)
    estimated = estimate(Shapes(lower(network, shape)), config)
    for model, given in zip(estimated, predict(program), strict=True):
        for name in ("l2_reads", "l2_writes", "dram_reads", "dram_writes", "descriptors"):
            assert model.counters[name] == given.counters[name], (model.name, name)


def test_crops_and_pixels_as_channels_need_no_functions() -> None:
    """A crop is a maximum over 1 x 1, and pixels become channels by a convolution."""
    config = dataclasses.replace(preset("ews-cms-tiny"), psum_width=24)
    operations = [
        {"op": "input", "shape": [3, 7, 9]},
        {"op": "crop", "in": [0], "margins": [1, 0, 0, 3]},
        {"op": "pixel_unshuffle", "in": [1], "factor": 3},
        {"op": "crop", "in": [1], "margins": [0, 1, 2, 0], "stride": [2, 3]},
    ]
    network = Network({}, parse_operations(operations), 0.05, {}, (Output(2, "pixels"), Output(3, "rows")))
    check_values(compile_network(network, (3, 7, 9), config), network, (3, 7, 9))


def check_values(program, network, shape) -> None:
    picture = np.random.default_rng(9).integers(-128, 128, shape).astype(np.int8)
    found = run_program(program, [picture], check=True)
    for name, wanted in zip(found, network.results(picture[None]), strict=True):
        assert np.array_equal(found[name].reshape(-1), wanted[0].reshape(-1)), name


def test_every_layer_of_a_detector() -> None:
    config = INSTANCES["tiny"]
    network = two_outputs(np.random.default_rng(3), config)
    check_every_layer(compile_network(network, SHAPE, config, dump=True), network, SHAPE)


@pytest.mark.parametrize(
    ("operation", "fields", "shown"),
    [
        ("table", {"table": "t"}, "table"),
        ("upsample", {"mode": "nearest"}, "upsample"),
        ("upsample", {"mode": "bilinear"}, "upsample"),
        ("slice", {"start": 1, "stop": 3}, "slice"),
        ("multiply", {"multiplier": 1, "shift": 7}, "multiply"),
        ("concatenate", {}, "concatenate"),
        ("repeat", {"factors": [3, 1]}, "repeat"),
    ],
)
def test_an_instance_without_them_refuses_by_name(operation: str, fields: dict, shown: str) -> None:
    sources = [0, 0] if operation in ("multiply", "concatenate") else [0]
    operations = parse_operations([{"op": "input"}, {"op": operation, "in": sources, **fields}])
    network = Network({}, operations, 0.05, {"t": np.zeros(256, np.int8)} if operation == "table" else {})
    message = f"layer '{shown} input': the vector unit of this instance has no {operation}: use --set vector_unit_func"
    for ask in (lambda c: compile_network(network, SHAPE, c), lambda c: Shapes(lower(network, SHAPE)).mapped(c)):
        with pytest.raises(CompileError, match=message):
            ask(preset("ews-msvq-tiny"))
    assert compile_network(network, SHAPE, preset("ews-msvq-tiny").override(["vector_unit_functions=full"]))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [{"op": "flatten", "in": [0]}, {"op": "slice", "in": [1], "start": 3, "stop": 8}],
            r"operation 2 \(slice\): start and stop must be multiples of the 4 values of a channel that was flattened",
        ),
        (
            [
                {"op": "flatten", "in": [0]},
                {"op": "average", "in": [0], "multiplier": 1 << 28, "shift": 30},
                {"op": "flatten", "in": [2]},
                {"op": "concatenate", "in": [1, 3]},
            ],
            r"operation 4 \(concatenate\): what it reads was flattened from maps of different sizes",
        ),
    ],
)
def test_flattened_maps_are_not_taken_apart_in_silence(entries: list, message: str) -> None:
    network = Network({}, parse_operations([{"op": "input"}, *entries]), 0.05)
    with pytest.raises(CompileError, match=message):
        compile_network(network, (4, 2, 2), INSTANCES["tiny"])


def test_weights_of_a_large_factor_are_refused_before_they_are_made() -> None:
    """16 GB of them, nearly all 0."""
    network = Network(
        {}, parse_operations([{"op": "input"}, {"op": "pixel_unshuffle", "in": [0], "factor": 255}]), 0.05
    )
    with pytest.raises(
        CompileError, match=r"operation 1 \(pixel_unshuffle\): channels x factor\*\*4.*not 4 x 255\*\*4"
    ):
        compile_network(network, (4, 255, 255), INSTANCES["tiny"])


def test_flattened_maps_of_one_size() -> None:
    """Parts that end where channels do."""
    entries = [
        {"op": "flatten", "in": [0]},
        {"op": "slice", "in": [1], "start": 4, "stop": 12},
        {"op": "concatenate", "in": [2, 1]},
    ]
    network = Network({}, parse_operations([{"op": "input"}, *entries]), 0.05)
    check_values(compile_network(network, (4, 2, 2), INSTANCES["tiny"]), network, (4, 2, 2))


def test_a_clamp_behind_a_table_stays_behind_it() -> None:
    table = np.full(256, 100, np.int8)
    entries = [{"op": "table", "in": [0], "table": "t"}, {"op": "range", "in": [1], "range": [-5, 60]}]
    network = Network({}, parse_operations([{"op": "input"}, *entries]), 0.05, {"t": table})
    check_values(compile_network(network, SHAPE, INSTANCES["tiny"]), network, SHAPE)
    assert lower(network, SHAPE).ranges()[2] == (100, 100)


def test_parts_of_an_upsampled_map_begin_between_rows_of_the_source() -> None:
    operations = parse_operations([{"op": "input"}, {"op": "upsample", "in": [0], "mode": "bilinear"}])
    graph = lower(Network({}, operations, 0.05), (2, 21, 3))
    parts = list(vector_parts(graph, graph.operations[0]))
    assert [end for _, end in parts][:-1] == [start for start, _ in parts][1:]
    assert parts[-1][1] == 44
    assert all(start % 2 == 1 for start, _ in parts[1:])
    program = compile_network(Network({}, operations, 0.05), (2, 21, 3), INSTANCES["tiny"])
    kinds = [d.body["operation"] for d in program.listing if d.opcode == Opcode.VECTOR]
    assert kinds == [VectorOp.SUM] * len(parts)
