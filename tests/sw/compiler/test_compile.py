from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hw.config import VARIANTS, AcceleratorConfig, preset
from hw.control.descriptor import Opcode
from sw.compiler import emission
from sw.compiler.compile import compile_layer, compile_layers, compile_network
from sw.compiler.graph import CompileError
from sw.compiler.lowering import lower
from sw.executor import execute, run_program
from sw.format.layer import CompressedLayer
from sw.golden import PsumOverflowError, layer_sums, requantise
from sw.network import Network, NetworkError, Output
from sw.network.spatial import Input
from sw.program import Program
from tests.sw.networks import Builder, every_operation, random_layer, residual_network

SHAPE = (3, 13, 11)


def config(name: str, **fields: object) -> AcceleratorConfig:
    return dataclasses.replace(preset(name), **{"psum_width": 26, **fields})


def image(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.int8]:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def values(network: Network, picture: NDArray[np.int8]) -> list[NDArray[np.int32]]:
    """What every operation gives."""
    outputs = tuple(Output(number, str(number)) for number in range(1, len(network.operations)))
    results = dataclasses.replace(network, outputs=outputs).results(picture[None])
    return [picture, *(values[0] for values in results)]


def check_every_layer(program: Program, network: Network, shape: tuple[int, int, int]) -> None:
    """All dumped tensors are those of the network, and the program has no races."""
    picture = image(shape)
    memory = execute(program, program.memory([picture]), check=True).memory
    graph, expected = lower(network, shape), values(network, picture)
    tensors = {layer.tensor.name: layer.tensor for layer in program.layers if layer.tensor}
    last = {number: i for i, number in enumerate(graph.results) if number not in graph.inputs}
    assert len(last) <= len(tensors) == len(graph.operations)
    for number, i in last.items():
        got = program.read(memory, tensors[graph.values[number].name])
        assert np.array_equal(got, expected[i].reshape(got.shape)), network.operations[i]
    logits = expected[-1]
    assert np.unique(logits).size > len(logits) // 2  # not all saturated


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", ["tiny", "16"])
def test_every_operation_on_every_variant(variant: str, size: str) -> None:
    instance = config(f"{variant}-{size}")
    network = every_operation(np.random.default_rng(1), instance)
    check_every_layer(compile_network(network, SHAPE, instance, dump=True), network, SHAPE)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ews-tiny", {"H": 16, "l2_word_bytes": 4}),
        ("ews-tiny", {"H": 1, "l1_ifmap_bytes": 256}),
        ("ews-c-tiny", {"H": 12, "L": 4, "word_width": 64, "burst_words": 2}),
        ("ews-cm-tiny", {"H": 8, "L": 4, "N": 3, "l1_ifmap_bytes": 512, "wrf_depth": 8, "arf_depth": 4}),
        ("ews-cms-tiny", {"H": 3, "word_width": 128, "l1_psum_bytes": 256}),
        ("ews-cms-tiny", {"L": 32, "d": 8, "M": 8, "N": 3, "wrf_depth": 4, "arf_depth": 2, "prf_depth": 2}),
        ("ews-msvq-tiny", {"H": 8, "N": 1, "word_width": 8, "k": 3}),
        ("ews-msvq-tiny", {"H": 6, "L": 12, "N": 4, "l1_ifmap_bytes": 256, "l1_psum_bytes": 512}),
        ("ews-ssvq-tiny", {"L": 20, "H": 5, "word_width": 32, "k": 2}),
        ("ws-tiny", {"H": 2, "L": 4, "l2_bytes": 1 << 15}),
        ("ews-tiny", {"H": 6, "weight_bits": 2, "l1_ifmap_bytes": 256}),
        ("ews-c-tiny", {"weight_bits": 3}),
        ("ews-cm-tiny", {"weight_bits": 4, "l1_ifmap_bytes": 256, "H": 1}),
        ("ews-cms-tiny", {"weight_bits": 5, "L": 16, "d": 8, "M": 8, "N": 3}),
        ("ews-ssvq-tiny", {"weight_bits": 2, "k": 3}),
        ("ews-msvq4-tiny", {"l1_ifmap_bytes": 256, "l1_psum_bytes": 512}),
        ("ews-msvq-tiny", {"weight_bits": 7, "word_width": 8}),
        ("ws-tiny", {"weight_bits": 6}),
    ],
)
def test_every_operation_on_odd_instances(name: str, fields: dict[str, object]) -> None:
    instance = config(name, **{"l2_bytes": 1 << 16, **fields})
    network = every_operation(np.random.default_rng(2), instance, channels=2, width=2 * instance.d + instance.d)
    shape = (2, 12, 15)
    check_every_layer(compile_network(network, shape, instance, dump=True), network, shape)


@pytest.mark.parametrize("variant", ["ews", "ews-cms", "ews-msvq"])
def test_without_dump_space_is_used_again_and_the_logits_are_the_same(variant: str) -> None:
    instance = config(f"{variant}-tiny", l2_bytes=1 << 12)
    network = every_operation(np.random.default_rng(3), instance)
    program = compile_network(network, SHAPE, instance, records=False, base=1 << 20)
    total = sum(value.channels * value.rows * value.columns for value in lower(network, SHAPE).values)
    assert total > instance.l2_bytes
    picture = image(SHAPE)
    logits = run_program(program, [picture], check=True)["logits"]
    assert np.array_equal(logits.reshape(-1), network.run(picture[None])[0])
    assert all(layer.record is None and layer.tensor is None for layer in program.layers)


def test_residual_network_as_for_cifar() -> None:
    instance = preset("ews-cms-16")
    network = residual_network(
        np.random.default_rng(0), instance, blocks=(3, 3, 3), widths=(16, 32, 64), size=32, classes=10, option="A"
    )
    program = compile_network(network, (3, 32, 32), instance)
    picture = image((3, 32, 32))
    logits = run_program(program, [picture], check=True)["linear"].reshape(-1)
    assert np.array_equal(logits, network.run(picture[None])[0])
    assert np.unique(logits).size == 10


def test_input_is_folded_where_that_fills_the_rows() -> None:
    instance = preset("ews-16")
    builder = Builder(np.random.default_rng(0), instance)
    stem = builder.layer("stem", 0, (16, 3, 7, 7), padding=(3, 3), stride=(2, 2), amplitude=5)
    flat = builder.op("flatten", builder.op("average", stem, multiplier=1 << 30, shift=34))
    builder.layer("logits", flat, (4, 16, 1, 1), op="logits", kind="linear")
    network = builder.network()
    shape = (3, 31, 29)
    program = compile_network(network, shape, instance)
    fold = program.inputs[0].fold
    assert fold is not None
    picture = image(shape)
    logits = run_program(program, [picture], check=True)["logits"].reshape(-1)
    assert np.array_equal(logits, network.run(picture[None])[0])
    # 147 weights a column in rows of 16, instead of 49 kernel positions with 3 of 16 rows in use.
    operations = execute(program, program.memory([picture])).layers[0]["operations"]
    positions = 16 * 15
    assert 147 / 16 * positions <= operations <= 12 * positions


def test_kernel_edges_without_weights_cost_nothing() -> None:
    """Padding of one row at the bottom and one column at the right alone, as TensorFlow has it for a stride of 2."""
    instance = config("ews-tiny")
    builder = Builder(np.random.default_rng(9), instance)
    first = builder.layer("first", 0, (4, 4, 1, 1), padding=(3, 2), range=(0, 127))
    strided = builder.layer("strided", first, (4, 1, 4, 4), stride=(2, 2), padding=(1, 1), groups=4)
    for name, edges in (("first", ()), ("strided", ((0, slice(None)), (slice(None), 0)))):
        for edge in edges:
            builder.layers[name].weights[(slice(None), slice(None), *edge)] = 0
    last = builder.layer("last", strided, (4, 4, 5, 3), padding=(1, 1), dilation=(1, 2))
    builder.layers["last"].weights[:, :, [0, 1, 4]] = 0
    average = builder.op("average", last, multiplier=1 << 30, shift=33)
    builder.layer("logits", builder.op("flatten", average), (9, 4, 1, 1), op="logits", kind="linear")
    network, shape = builder.network(), (4, 10, 8)
    program = compile_network(network, shape, instance, dump=True)
    check_every_layer(program, network, shape)
    layers = execute(program, program.memory([image(shape)])).layers
    assert layers[1]["operations"] == 8 * 6 * 9
    assert layers[2]["operations"] == 6 * 4 * 2 * 3
    assert [layer.macs for layer in program.layers[:3]] == [4 * 4 * 16 * 12, 4 * 9 * 8 * 6, 4 * 4 * 6 * 24]


@pytest.mark.parametrize("raw", [False, True])
def test_linear_layer_behind_a_flattened_map_is_a_convolution_over_all_of_it(raw: bool) -> None:
    instance = config("ews-msvq-tiny")
    builder = Builder(np.random.default_rng(4), instance)
    stem = builder.layer("stem", 0, (5, 3, 3, 3), stride=(4, 4))
    flat = builder.op("flatten", stem)
    builder.layer("logits", flat, (8, 5 * 3 * 2, 1, 1), raw=raw, kind="linear", op="logits")
    network, shape = builder.network(), (3, 11, 7)
    program = compile_network(network, shape, instance)
    picture = image(shape)
    logits = run_program(program, [picture], check=True)["logits"].reshape(-1)
    assert np.array_equal(logits, network.run(picture[None])[0])


def test_layers_by_themselves_with_tokens_as_positions() -> None:
    instance = config("ews-ssvq-tiny")
    rng = np.random.default_rng(5)
    tokens = 19
    layers = [
        (random_layer(rng, instance, "qkv", (24, 8, 1, 1), kind="linear"), (8, 1, tokens)),
        (random_layer(rng, instance, "fc1", (32, 8, 1, 1), kind="linear", requantised=False), (8, 1, tokens)),
        (random_layer(rng, instance, "fc2", (8, 32, 1, 1), kind="linear"), (32, 1, tokens)),
    ]
    program = compile_layers(layers, instance)
    inputs = [image(shape, seed) for seed, (_, shape) in enumerate(layers)]
    results = run_program(program, inputs, check=True)
    for (layer, _), given in zip(layers, inputs, strict=True):
        sums = layer_sums(layer, np.ascontiguousarray(given[:, 0].T)).T
        expected = sums if layer.requantisation is None else requantise(sums[:, :, None], layer.requantisation)[..., 0]
        assert np.array_equal(results[layer.name][:, 0], expected)


def test_ranges_without_zero_leave_the_padding_of_pixels_zero() -> None:
    """Six channels in words of four: what fills a pixel up must not reach the next layer."""
    instance = config("ews-tiny")
    builder = Builder(np.random.default_rng(10), instance)
    first = builder.layer("first", 0, (6, 3, 1, 1), range=(3, 60))
    pooled = builder.op("maximum", first, kernel=2, stride=1, padding=0)
    clamped = builder.op("range", pooled, range=[7, 50])
    total = builder.op("add", pooled, clamped, multipliers=[5, 3], shift=3, range=[9, 40])
    again = builder.op("range", builder.op("add", total, clamped, multipliers=[1, 1], shift=1), range=[-90, -2])
    last = builder.layer("last", again, (6, 6, 3, 3), padding=(1, 1))
    average = builder.op("average", last, multiplier=1 << 30, shift=32, range=[1, 90])
    builder.layer("logits", builder.op("flatten", average), (9, 6, 1, 1), op="logits", kind="linear")
    network, shape = builder.network(), (3, 6, 5)
    check_every_layer(compile_network(network, shape, instance, dump=True), network, shape)


@pytest.mark.parametrize("shift", [22, 31, 32, 62])
def test_additions_of_every_shift(shift: int) -> None:
    instance = config("ews-tiny")
    builder = Builder(np.random.default_rng(8), instance)
    hidden = builder.layer("hidden", 0, (4, 4, 1, 1))
    most = (1 << 22) - 1
    total = builder.op("add", 0, hidden, multipliers=[most, most], shift=shift, range=[-90, 100])
    builder.layer("logits", builder.op("flatten", total), (8, 4, 1, 1), op="logits", kind="linear")
    network, shape = builder.network(), (4, 1, 1)
    check_every_layer(compile_network(network, shape, instance, dump=True), network, shape)


@pytest.mark.parametrize("variant", ["ews-c", "ews-cm", "ews-cms", "ews-ssvq", "ews-msvq"])
def test_layers_that_fit_the_instance_stay_compressed(variant: str) -> None:
    instance = config(f"{variant}-tiny")
    rng = np.random.default_rng(11)
    fits = random_layer(rng, instance, "fits", (16, 3, 3, 3), padding=(1, 1))
    fewer = random_layer(rng, instance, "fewer", (16, 16, 1, 1), k=3)
    other = random_layer(rng, config("ews-c-tiny", d=8, k=64), "other", (16, 16, 1, 1))
    program = compile_layers([(fits, (3, 8, 8)), (fewer, (16, 4, 4)), (other, (16, 4, 4))], instance)
    raw = {x.layer: x.body["raw"] for x in program.listing if x.opcode == Opcode.TILE}
    assert raw == {0: 0, 1: 0, 2: 1}
    results = run_program(program, [image((3, 8, 8)), image((16, 4, 4)), image((16, 4, 4))], check=True)
    for layer, shape in ((fits, (3, 8, 8)), (fewer, (16, 4, 4)), (other, (16, 4, 4))):
        assert np.array_equal(results[layer.name], requantise(layer_sums(layer, image(shape)), layer.requantisation))


def test_codewords_are_loaded_once_for_layers_that_share_them() -> None:
    instance = config("ews-c-tiny")
    rng = np.random.default_rng(6)
    one = random_layer(rng, instance, "one", (8, 8, 1, 1), codebook_name="shared")
    two = random_layer(rng, instance, "two", (8, 8, 1, 1), codebook_name="shared")
    other = dataclasses.replace(two, name="other", codebook_name=None)
    program = compile_layers(
        [(one, (8, 3, 3)), (dataclasses.replace(two, codebook=one.codebook), (8, 3, 3)), (other, (8, 3, 3))], instance
    )
    loads = [x.body["codewords"] for x in program.listing if x.opcode == Opcode.TILE and x.body["codewords"]]
    assert loads == [instance.k, instance.k]
    run_program(program, [image((8, 3, 3))] * 3, check=True)


def test_same_network_gives_the_same_bytes() -> None:
    instance = config("ews-cms-tiny")
    programs = [compile_network(every_operation(np.random.default_rng(1), instance), SHAPE, instance) for _ in "ab"]
    assert programs[0].image == programs[1].image


def test_waits_stay_within_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """The events of a long layer are waited for again and again, lest a wait lies too far back."""
    reach = 32
    monkeypatch.setattr(emission, "WAIT_REACH", reach)
    instance = config("ews-tiny", arf_depth=2)
    network = every_operation(np.random.default_rng(1), instance)
    program = compile_network(network, SHAPE, instance)
    counted = {Opcode.LOAD: "loaded", Opcode.COPY: "copied", Opcode.TILE: "fed", Opcode.OUTPUT: "stored"}
    given = dict.fromkeys(counted.values(), 0)
    for descriptor in program.listing:
        if descriptor.opcode != Opcode.FETCH:
            for event, count in given.items():
                assert count - reach <= descriptor.waits[event] <= count
        if descriptor.opcode in counted:
            given[counted[descriptor.opcode]] += 1
    assert given["fed"] > 2 * reach


# Refusals


def logits_of(instance: AcceleratorConfig, *, name: str = "fc", source: int = 0, **given: object) -> Network:
    builder = Builder(np.random.default_rng(0), instance)
    builder.layer(name, source, (8, 4, 1, 1), op="logits", **given)
    return builder.network()


def test_psum_width_is_proven() -> None:
    instance = preset("ews-tiny")
    layer = random_layer(np.random.default_rng(0), instance, "heavy", (8, 64, 3, 3), amplitude=127)
    with pytest.raises(PsumOverflowError, match=r"layer 'heavy': output channel \d+ reaches .* of 20 bits"):
        compile_layer(layer, (64, 4, 4), instance)


@pytest.mark.parametrize(("least", "fits"), [(0, True), (-1, True), (-128, False)])
def test_psum_proof_knows_the_range_of_activations(least: int, fits: bool) -> None:
    """Sums of 64 products with weights of both signs: 19 bits are enough for activations that are not negative."""
    instance = config("ews-tiny", psum_width=19)
    builder = Builder(np.random.default_rng(0), instance)
    hidden = builder.layer("hidden", 0, (64, 4, 1, 1), range=(least, 127))
    hidden = builder.op("maximum", hidden, kernel=2, stride=1, padding=0)
    hidden = builder.op("add", hidden, hidden, multipliers=[1, 1], shift=1, range=[least, 127])
    hidden = builder.op("average", hidden, multiplier=1, shift=0, range=[least, 127])
    builder.layer("heavy", builder.op("flatten", hidden), (2, 64, 1, 1), op="logits", kind="linear")
    builder.layers["heavy"].weights[0] = np.tile([[[63]], [[-63]]], (32, 1, 1))
    network, shape = builder.network(), (4, 3, 3)
    if fits:
        check_every_layer(compile_network(network, shape, instance, dump=True), network, shape)
    else:
        with pytest.raises(PsumOverflowError, match="layer 'heavy'"):
            compile_network(network, shape, instance)


def test_psums_of_depthwise_layers_are_proven_too() -> None:
    instance = preset("ews-tiny")
    layer = random_layer(np.random.default_rng(0), instance, "deep", (4, 1, 9, 9), amplitude=127, groups=4)
    with pytest.raises(PsumOverflowError, match="layer 'deep'"):
        compile_layer(layer, (4, 9, 9), dataclasses.replace(instance, psum_width=16))


@pytest.mark.parametrize(
    ("instance", "fields", "shape", "geometry", "image", "message"),
    [
        pytest.param(
            *("ews-tiny", {"l2_bytes": 1 << 10}, (8, 4, 1, 1), {}, (4, 20, 20)),
            "needs 4800 bytes of L2, the instance has 1024",
            id="L2",
        ),
        pytest.param(
            *("ews-tiny", {"H": 64, "l1_ifmap_bytes": 256}, (8, 4, 3, 3), {"dilation": (1, 2)}, (4, 6, 6)),
            "one output position needs 15 vectors of L1, .* has 4",
            id="L1",
        ),
        pytest.param(
            *("ews-16", {"l2_bytes": 1 << 21}, (16, 1, 1, 1), {}, (1, 1, 65535)),
            r"COPY: first_column must be in -32768\.\.32767, not \d+",
            id="descriptor",
        ),
    ],
)
def test_layers_that_have_no_room_are_named(
    instance: str,
    fields: dict[str, int],
    shape: tuple[int, int, int, int],
    geometry: dict[str, Any],
    image: tuple[int, int, int],
    message: str,
) -> None:
    small = config(instance, **fields)
    layer = random_layer(np.random.default_rng(0), small, "large", shape, **geometry)
    with pytest.raises(CompileError, match=f"layer 'large': {message}"):
        compile_layer(layer, image, small)


def test_raw_weights_of_minus_128_are_refused_where_signs_are_split() -> None:
    instance = config("ews-ssvq-tiny")
    layer = random_layer(np.random.default_rng(0), instance, "raw", (8, 4, 1, 1), raw=True)
    assert isinstance(layer, CompressedLayer)
    assert layer.weights is not None
    layer.weights[3, 2] = -128
    with pytest.raises(CompileError, match=r"layer 'raw': raw weights on ews-ssvq must be in -127\.\.127, not -128"):
        compile_layer(layer, (4, 3, 3), instance)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4, 4), (3, 4, 70000), (3.0, 4, 4)])
def test_image_shape_is_checked(shape: tuple[int, int, int]) -> None:
    instance = config("ews-tiny")
    with pytest.raises(NetworkError, match=r"operation 0 \(input\): shape must be 3 integers in 1\.\.65535"):
        compile_network(logits_of(instance), shape, instance)


def test_channels_must_fit() -> None:
    instance = config("ews-tiny")
    with pytest.raises(NetworkError, match=r"layer 'fc' must read int8 \[4 x rows x columns\], not int8 \[3 x 1 x 1\]"):
        compile_network(logits_of(instance), (3, 1, 1), instance)
    with pytest.raises(CompileError, match="layer 'alone': its input must have 4 channels, not 3"):
        compile_layer(random_layer(np.random.default_rng(0), instance, "alone", (8, 4, 1, 1)), (3, 1, 1), instance)


def test_image_must_be_that_of_the_network() -> None:
    instance = config("ews-tiny")
    network = logits_of(instance)
    network = dataclasses.replace(network, operations=(Input(shape=(4, 2, 2)), *network.operations[1:]))
    with pytest.raises(CompileError, match=r"the image must be \[4, 2, 2\], as the network says, not \[4, 1, 1\]"):
        compile_network(network, (4, 1, 1), instance)


def test_kernel_larger_than_the_map_is_refused() -> None:
    instance = config("ews-tiny")
    layer = random_layer(np.random.default_rng(0), instance, "deep", (8, 4, 5, 5))
    with pytest.raises(CompileError, match="layer 'deep'"):
        compile_layer(layer, (4, 3, 3), instance)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({"op": "average", "multiplier": 1, "shift": 0}, "average pooling: the map must be at most 255 x 255"),
        (
            {"op": "maximum", "kernel": (1, 256), "stride": 1, "padding": 0},
            "max pooling: kernel, stride and padding must",
        ),
    ],
)
def test_operations_that_cannot_run_are_named(operation: dict[str, object], message: str) -> None:
    instance = config("ews-tiny")
    builder = Builder(np.random.default_rng(0), instance)
    builder.operations.append({**operation, "in": [0]})
    builder.layer("fc", 1, (8, 4, 1, 1), op="logits")
    with pytest.raises(CompileError, match=message):
        compile_network(builder.network(), (4, 3, 256), instance)


def test_the_largest_window_of_pooling_is_taken() -> None:
    instance = config("ews-tiny", l2_bytes=1 << 13)
    builder = Builder(np.random.default_rng(0), instance)
    builder.op("maximum", 0, kernel=(1, 255), stride=1, padding=0)
    builder.layer("fc", 1, (8, 4, 1, 1), op="logits")
    assert compile_network(builder.network(), (4, 1, 255), instance).descriptor_count > 0


def test_no_layers_are_refused() -> None:
    with pytest.raises(CompileError, match="at least one layer"):
        compile_layers([], config("ews-tiny"))


def test_codewords_wider_than_the_weights_of_the_array_are_refused_before_anything_else() -> None:
    wide, narrow = preset("ews-msvq-tiny"), preset("ews-msvq4-tiny")
    rng = np.random.default_rng(0)
    layer = random_layer(rng, wide, "wide", (8, 4, 1, 1), amplitude=100)
    message = (
        r"^layer 'wide': codewords must have at most weight_bits = 4 bits, as the instance has, not 8; take an inst"
    )
    with pytest.raises(CompileError, match=message):
        compile_layer(layer, (4, 3, 3), narrow)
    # Narrower ones run on any array.
    layer = random_layer(rng, narrow, "narrow", (8, 4, 1, 1), amplitude=3)
    for instance in (narrow, wide, dataclasses.replace(narrow, weight_bits=3)):
        program = compile_layer(layer, (4, 3, 3), instance)
        (found,) = run_program(program, [image((4, 3, 3))], check=True).values()
        assert np.array_equal(found, requantise(layer_sums(layer, image((4, 3, 3))), layer.requantisation))


def test_the_listing_names_the_digits_of_raw_layers() -> None:
    instance = preset("ews-msvq4-tiny")
    layer = random_layer(np.random.default_rng(0), instance, "raw", (8, 4, 1, 1), raw=True, amplitude=100)
    program = compile_layer(layer, (4, 3, 3), instance)
    assert program.layers[0].note.startswith("raw in 3 digits in 2 passes, ")
    tiles = [x.body for x in program.listing if x.opcode == Opcode.TILE]
    # Digit by digit, whatever the passes: shifted twice, and only sums that were there.
    assert sum(body["shift"] for body in tiles) == 2 * sum(body["last"] for body in tiles)
    assert all(body["accumulate"] for body in tiles if body["shift"])
