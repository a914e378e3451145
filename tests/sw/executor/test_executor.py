from __future__ import annotations

import zlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from hw.config import PRESETS, VARIANTS, AcceleratorConfig
from hw.control.descriptor import QUEUE_DEPTHS, Descriptor, Opcode
from hw.layout import Schedule
from sw.executor import ExecutionError, execute, run_program
from sw.format.example import random_layer
from sw.format.layer import CompressedLayer
from sw.golden.layer import layer_sums, requantise
from sw.program import Program, ProgramLayer
from tests.refusals import refusals
from tests.sw.assembler import ROOM, Assembler, add_input, add_layer, add_output, layer_program

METHODS = {
    "ws": "int8",
    "ews": "int8",
    "ews-c": "vq",
    "ews-cm": "mvq",
    "ews-cms": "mvq",
    "ews-ssvq": "ssvq",
    "ews-msvq": "msvq",
    "ws-cms": "mvq",
}


def some_layer(config: AcceleratorConfig, shape, seed=0, method=None, **geometry) -> CompressedLayer:
    rng = np.random.default_rng(seed)
    method = method or METHODS[config.variant]
    sizes = {}
    if method != "int8":
        sizes = {"d": config.d, "k": config.k}
        if method in ("mvq", "msvq"):
            sizes |= {"n": config.N, "m": config.M}
    layer = random_layer(rng, method, shape, requantised=True, **sizes, **geometry)
    if config.features.sign and layer.weights is not None:
        np.maximum(layer.weights, -127, out=layer.weights)
    return layer


def image(layer: CompressedLayer, rows: int, columns: int, seed: int = 1):
    rng = np.random.default_rng(seed)
    values = rng.integers(-128, 128, (layer.shape[1], rows, columns)).astype(np.int8)
    values.reshape(-1)[:2] = [-128, 127]
    return values


@pytest.mark.parametrize("size", ["tiny", "16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_equals_the_golden_layer(variant: str, size: str) -> None:
    config = PRESETS[f"{variant}-{size}"]
    L, H = config.L, config.H
    layer = some_layer(config, (2 * L, H + 3, 3, 3), padding=(1, 1))
    values = image(layer, 5, 6)
    schedule = Schedule(H, L) if config.wrf_depth < 6 else Schedule(H, L, 2, 1, 1, 3)
    program = layer_program(config, layer, 5, 6, schedule)
    (found,) = run_program(program, [values], check=True).values()
    assert np.array_equal(found, requantise(layer_sums(layer, values), layer.requantisation))


# Of ws-cms, whose layer tiles have no room for the passes of a raw layer, the compiler makes more tiles: its tests.
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "ws-cms"])
def test_raw_layer_of_odd_channels_runs_on_every_variant(variant: str) -> None:
    config = PRESETS[f"{variant}-tiny"]
    layer = some_layer(config, (config.L + 3, config.H + 1, 2, 3), method="int8", stride=(2, 1), padding=(0, 2))
    values = image(layer, 6, 5)
    schedule = Schedule(config.H, config.L, 2 if config.wrf_depth > 2 else 1, 2, 1, 1)
    program = layer_program(config, layer, 6, 5, schedule if config.wrf_depth > 8 else None, raw=True)
    (found,) = run_program(program, [values], check=True).values()
    assert np.array_equal(found, requantise(layer_sums(layer, values), layer.requantisation))


def edited(program: Program, opcode: Opcode, number: int, **changes: int) -> Program:
    """The program with fields of the ``number``-th descriptor of an opcode changed; waits as ``wait_...``."""
    table = list(program.listing)
    place = [i for i, descriptor in enumerate(table) if descriptor.opcode == opcode][number]
    waits = {name.removeprefix("wait_"): value for name, value in changes.items() if name.startswith("wait_")}
    body = {name: value for name, value in changes.items() if not name.startswith("wait_")}
    old = table[place]
    table[place] = Descriptor(opcode, {**old.body, **body}, old.layer, {**old.waits, **waits})
    return with_descriptors(program, table)


def edited_as(program: Program, words: list[str]) -> Program:
    """As :func:`edited` has it, of the opcode's name, the number and each ``field=value``."""
    fields = (word.split("=") for word in words[2:])
    return edited(program, Opcode[words[0]], int(words[1]), **{name: int(value) for name, value in fields})


def with_descriptors(program: Program, table: list[Descriptor]) -> Program:
    start = program.descriptors - program.base
    image = program.image[:start] + b"".join(descriptor.pack() for descriptor in table)
    assert len(image) <= ROOM
    return replace(program, image=image, descriptor_count=len(table))


@pytest.fixture(scope="module")
def small() -> Program:
    """Two tiles of a coded layer, and then two that accumulate, on ``ews-cms-tiny``."""
    config = PRESETS["ews-cms-tiny"]
    layer = some_layer(config, (16, 7, 1, 1), name="small")
    return layer_program(config, layer, 3, 4)


def run(program: Program, check: bool = True):
    rng = np.random.default_rng(0)
    images = [rng.integers(-128, 128, entry.shape).astype(np.int8) for entry in program.inputs]
    return execute(program, program.memory(images), check=check)


@refusals(
    """
    FETCH 0 channel=2 -> channel must be one of 0 weight, 1 mask, 3 parameter, not 2
    FETCH 0 words=0 -> words must be at least 1, not 0
    FETCH 1 words=3 -> checksum mismatch:
    FETCH 0 address=3 -> address must be a multiple of 2 in 1048576..
    LOAD 0 words=0 -> words must be at least 1, not 0
    LOAD 0 l2_base=4090 -> L2 words must be in 0..4095, not 4113
    LOAD 0 address=1099511627776 -> address must be a multiple of 4 in
    STORE 0 address=1048576 -> address must be a multiple of 4 in
    COPY 0 height=0 -> height must be at least 1, not 0
    COPY 0 l1_base=250 -> L1 words must be in 0..255, not 273
    COPY 0 l2_base=4094 -> L2 words must be in 0..4095, not 4117
    TILE 0 A=0 -> A must be in 1..8, not 0
    TILE 0 B=9 -> B*D must be in 1..8, not 9
    TILE 0 A=3 B=8 -> A*B*D must be in 1..16, not 24
    TILE 0 Dr=2 -> Dr must be in 1..1, not 2
    TILE 0 D=3 Dr=2 -> Dr must divide D = 3, not 2
    TILE 0 rows=5 -> rows must be in 1..4, not 5
    TILE 0 width=4096 -> width must be in 1..4095, not 4096
    TILE 0 height=0 -> height must be in 1..4095, not 0
    TILE 0 codewords=9 -> codewords must be in 0..8, not 9
    TILE 0 codewords=4 -> assignments must be in 0..3, the loaded codewords, not
    TILE 0 advance_columns=2 -> advance_columns must be in 1..1, not 2
    TILE 0 passes=2 -> passes must be in 1..1, not 2
    TILE 1 passes=2 B=3 -> passes must divide B = 3, not 2
    TILE 1 passes=2 B=2 -> rows must be 4 where passes > 1, not 3
    TILE 1 codewords=8 -> codewords must be 0 for raw weights and without start
    TILE 1 raw=1 -> start must be 1 between raw weights and codewords
    TILE 0 l1_base=250 -> L1 words must be in 0..255, not 272
    TILE 0 psum_base=250 -> psum entries must be in 0..203, not 261
    TILE 1 accumulate=0 width=4000 height=9 -> positions of 8 channels must fit L2, not 9 x 4000
    TILE 0 accumulate=1 -> accumulates psum entries that no TILE has written
    TILE 1 l1_base=0 -> activations of rows 3..3 of the last row group must be 0
    OUTPUT 0 A=9 -> A must be in 1..8, not 9
    OUTPUT 0 channels=9 -> channels must be in 1..8, not 9
    OUTPUT 0 low=3 high=2 -> low must be at most high = 2, not 3
    OUTPUT 0 width=0 -> width must be at least 1, not 0
    OUTPUT 0 parameters=0 -> parameters of 8 channels must have been taken
    OUTPUT 0 l2_base=4095 -> L2 words must be in 0..4095, not 4140
    COPY 0 wait_loaded=2 -> wait_loaded must be one of the 1 counts before 1 or that
    COPY 0 wait_loaded=32768 -> modulo 2**16, not 32768
    """
)
def test_out_of_range_is_named(small: Program, arguments: list[str], message: str) -> None:
    wrong = edited_as(small, arguments)
    with pytest.raises(ExecutionError, match=rf"descriptor \d+ \({arguments[0]}, layer 'small'\): ") as caught:
        run(wrong, check=False)
    assert message in str(caught.value)


@refusals(
    """
    COPY 0 wait_loaded=0 -> race: L2 word 0 is read without waiting for LOAD 0, which writes it
    COPY 0 l2_base=500 -> race: L2 word 500 is read before anything is written to it
    TILE 0 wait_copied=0 -> race: L1 word 0 is read without waiting for COPY 0, which writes it
    TILE 1 l1_base=100 -> race: L1 word 100 is read before anything is written to it
    STORE 0 wait_stored=1 -> race: L2 word 26 is read without waiting for OUTPUT 1, which writes it
    """
)
def test_race_is_named(small: Program, arguments: list[str], message: str) -> None:
    wrong = edited_as(small, arguments)
    with pytest.raises(ExecutionError) as caught:
        run(wrong)
    assert message in str(caught.value)


def test_without_races_the_check_changes_nothing(small: Program) -> None:
    assert np.array_equal(run(small).memory, run(small, check=False).memory)


def test_overwriting_needs_waits() -> None:
    """A second COPY to the same L1 vectors, and a second LOAD to the same L2 words, each without its wait."""
    config = PRESETS["ews-tiny"]
    first, second = (some_layer(config, (8, 4, 1, 1), seed=seed, name=name) for seed, name in ((0, "a"), (1, "b")))

    def program(fed: bool, copied: bool) -> Program:
        assembler = Assembler(config)
        assembler.layers.append(ProgramLayer("a", "conv"))
        geometry = add_input(assembler, (4, 3, 4), 0)
        add_layer(assembler, first, 0, geometry, 100, waits={"loaded": 1})
        waits = {"copied": 1} if copied else {}
        tensor = assembler.inputs[0].tensor
        assembler.add(Opcode.LOAD, waits, address=tensor.address, l2_base=0, words=tensor.words)
        place = len(assembler.descriptors)
        add_layer(assembler, second, 0, geometry, 200, waits={"loaded": 2})
        if not fed:
            old = assembler.descriptors[place]
            assembler.descriptors[place] = Descriptor(old.opcode, old.body, 0, {**old.waits, "fed": 0})
        add_output(assembler, (8, 3, 4), 200, {"stored": 2})
        return assembler.program()

    run(program(True, True))
    with pytest.raises(ExecutionError, match="L1 word 0 is written without waiting for TILE 0, which reads it"):
        run(program(False, True))
    with pytest.raises(ExecutionError, match="L2 word 0 is written without waiting for COPY 0, which reads it"):
        run(program(True, False))


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        ("OUTPUT", "hangs: waits for an OUTPUT that takes its sums"),
        ("TILE", "hangs: it waits for 12 vectors of sums, of which 0 have come"),
        ("END", "the last descriptor must be END"),
        ("FETCH", "hangs: waits for "),
    ],
)
def test_program_that_cannot_end(small: Program, dropped: str, message: str) -> None:
    table = list(small.listing)
    place = max(i for i, descriptor in enumerate(table) if descriptor.opcode.name == dropped)
    del table[place]
    table = [descriptor for descriptor in table if descriptor.opcode != Opcode.STORE]
    with pytest.raises(ExecutionError) as caught:
        run(with_descriptors(small, table))
    assert message in str(caught.value)


def test_more_than_was_asked_for_is_left(small: Program) -> None:
    table = list(small.listing)
    fetch = next(descriptor for descriptor in table if descriptor.opcode == Opcode.FETCH)
    words = dict(fetch.body) | {"words": 64, "address": small.base, "checksum": zlib.crc32(small.image[:128])}
    with pytest.raises(ExecutionError, match="END: 64 words are left in the weight channel"):
        run(with_descriptors(small, [*table[:-1], Descriptor(Opcode.FETCH, words), table[-1]]))
    with pytest.raises(ExecutionError, match=r"descriptor 2 \(FETCH, .*: hangs: at most 2 FETCHes of a channel may"):
        run(with_descriptors(small, [fetch, fetch, fetch, *table]))
    with pytest.raises(ExecutionError, match=r"descriptor 1 \(END\): must be the last of"):
        run(with_descriptors(small, [table[0], table[-1], *table]))
    tile = Descriptor(Opcode.TILE, next(d for d in table if d.opcode == Opcode.TILE).body)
    depth = QUEUE_DEPTHS[Opcode.TILE]
    with pytest.raises(ExecutionError, match=f"hangs: {depth} commands wait for the unit already, since descriptor 1"):
        run(with_descriptors(small, [Descriptor(Opcode.LOAD, table[0].body), *[tile] * (depth + 1), *table]))


def vector_program(config: AcceleratorConfig, shape: tuple[int, int, int], size: tuple[int, int], **body: int):
    """VECTOR on two inputs of a shape, with a result of ``size`` rows and columns."""
    assembler = Assembler(config)
    assembler.layers.append(ProgramLayer("v", "vector"))
    rows, columns, pixel = add_input(assembler, shape, 0)
    add_input(assembler, shape, 1000)
    assembler.add(
        Opcode.VECTOR,
        {"loaded": 2},
        rows=rows,
        columns=columns,
        pixel_words=pixel,
        height=size[0],
        width=size[1],
        b_base=1000,
        l2_base=2000,
        **({"low": -128, "high": 127} | body),
    )
    tensor = assembler.tensor("out", (shape[0], *size))
    assembler.outputs.append(tensor)
    assembler.add(Opcode.STORE, {"vectored": 1}, address=tensor.address, l2_base=2000, words=tensor.words)
    return assembler.program()


def rounded(values, shift: int, low: int, high: int):
    """By fractions, one value at a time."""

    def one(value: int) -> int:
        magnitude = Fraction(abs(int(value)), 1 << shift)
        whole = int(magnitude + Fraction(1, 2))
        return min(max(whole if value >= 0 else -whole, low), high)

    return np.vectorize(one, otypes=[np.int64])(values)


@pytest.mark.parametrize("shift", [0, 1, 9])
def test_vector_addition(shift: int) -> None:
    config = PRESETS["ews-tiny"]
    shape = (6, 3, 5)
    factors = {"multiplier_a": 257, "multiplier_b": -(1 << 22) + 1 if shift == 0 else -129}
    limits = {"low": -100, "high": 101}
    program = vector_program(config, shape, shape[1:], operation=2, shift=shift, **factors, **limits)
    rng = np.random.default_rng(shift)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for _ in "ab")
    (found,) = run_program(program, [a, b], check=True).values()
    total = a.astype(np.int64) * factors["multiplier_a"] + b.astype(np.int64) * factors["multiplier_b"]
    assert np.array_equal(found, rounded(total, shift, -100, 101))


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1)])
def test_vector_pooling(kernel: tuple[int, int], padding: tuple[int, int]) -> None:
    config = PRESETS["ews-tiny"]
    shape, stride = (5, 7, 6), (2, 1)
    size = tuple((shape[1 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2))
    geometry = {"kernel_rows": kernel[0], "kernel_columns": kernel[1], "stride_rows": 2, "stride_columns": 1}
    geometry |= {"padding_rows": padding[0], "padding_columns": padding[1]}
    rng = np.random.default_rng(0)
    a = rng.integers(-128, 128, shape).astype(np.int8)
    a[0] = -128  # padding must not win
    windows = {}
    for fill in (-128, 0):
        wide = np.pad(a.astype(np.int64), ((0, 0), *((p, p) for p in padding)), constant_values=fill)
        windows[fill] = sliding_window_view(wide, kernel, axis=(1, 2))[:, :: stride[0], :: stride[1]]
    (found,) = run_program(vector_program(config, shape, size, operation=0, **geometry), [a, a], check=True).values()
    assert np.array_equal(found, windows[-128].max(axis=(3, 4)))
    factor = {"multiplier_a": (1 << 31) - 1, "shift": 33}
    program = vector_program(config, shape, size, operation=1, **geometry, **factor)
    (found,) = run_program(program, [a, a], check=True).values()
    total = windows[0].sum(axis=(3, 4)) * factor["multiplier_a"]
    assert np.array_equal(found, rounded(total, 33, -128, 127))


def vector_refusal(name: str, channels: int, fields: list[str]) -> str:
    """What is said of an ADD on an instance, with each ``field=value`` changed."""
    kernel = {"kernel_rows": 1, "kernel_columns": 1, "stride_rows": 1, "stride_columns": 1}
    program = vector_program(PRESETS[name], (channels, 3, 5), (3, 5), operation=2, **kernel)
    with pytest.raises(ExecutionError) as caught:
        run(edited_as(program, ["VECTOR", "0", *fields]))
    return str(caught.value)


@refusals(
    """
    operation=3 -> operation must be in 0..2, not 3
    height=0 -> height must be at least 1, not 0
    height=2 -> height x width must be 3 x 5 for ADD, not 2 x 5
    shift=32 -> shift must be in 0..31, not 32
    operation=1 shift=63 -> shift must be in 0..62, not 63
    low=5 high=4 -> low must be at most high = 4, not 5
    multiplier_b=4194304 -> multiplier_b must be below 2**22, not 4194304
    a_base=4090 -> L2 words must be in 0..4095, not
    operation=1 kernel_columns=0 -> kernel_columns must be at least 1, not 0
    operation=0 padding_rows=2 -> every window of MAXIMUM must hold a value that is not padding
    """
)
def test_vector_out_of_range(arguments: list[str], message: str) -> None:
    assert message in vector_refusal("ews-tiny", 4, arguments)


@refusals(
    """
    operation=6 -> operation must be in 0..5, not 6
    operation=3 shift=63 -> shift must be in 0..62, not 63
    operation=3 width=4 -> height x width must be 3 x 5 for MULTIPLY, not 3 x 4
    operation=4 rotation=4 -> rotation must be in 0..3, not 4
    operation=4 kernel_columns=3 -> kernel_columns must be in 1..2 for MERGE, not 3
    operation=4 kernel_rows=2 -> kernel_rows must be 1 for MERGE, not 2
    operation=4 padding_rows=1 -> padding_rows must be 0 for MERGE, not 1
    operation=5 -> rows must be 1 for TABLE, not 3
    operation=5 height=1 width=1 rows=1 columns=1 -> pixel_words must be 64 for TABLE, not 2
    tail=4 -> tail must be in 0..3, not 4
    operation=0 upsample=1 -> operation must be 1 for upsample, not 0
    operation=1 upsample=1 kernel_rows=2 -> kernel_rows must be 1 for upsample, not 2
    operation=1 upsample=3 -> upsample must be in 0..2, not 3
    lookup=1 -> lookup must be 0 before a TABLE has come, not 1
    a_skip=-20 -> L2 words must be in 0..4095, not
    l2_skip=3000 -> L2 words must be in 0..4095, not
    """
)
def test_vector_functions_out_of_range(arguments: list[str], message: str) -> None:
    assert message in vector_refusal("ews-msvq-full-tiny", 6, arguments)


def test_fields_of_functions_that_the_vector_unit_lacks() -> None:
    program = vector_program(PRESETS["ews-tiny"], (4, 3, 5), (3, 5), operation=2)
    with pytest.raises(ExecutionError, match="lookup must be 0 where vector_unit_functions is basic, not 1"):
        run(edited(program, Opcode.VECTOR, 0, lookup=1))


def test_vector_reads_what_a_vector_wrote_only_after_a_wait() -> None:
    program = vector_program(PRESETS["ews-tiny"], (4, 3, 5), (3, 5), operation=2)
    table = list(program.listing)
    place = next(i for i, descriptor in enumerate(table) if descriptor.opcode == Opcode.VECTOR)
    body = dict(table[place].body) | {"a_base": 2000, "l2_base": 3000}
    for wait in (1, 0):
        second = Descriptor(Opcode.VECTOR, body, 0, {**table[place].waits, "vectored": wait})
        changed = with_descriptors(program, [*table[: place + 1], second, *table[place + 1 :]])
        if wait:
            run(changed)
        else:
            with pytest.raises(ExecutionError, match="L2 word 2000 is read without waiting for VECTOR 0, which"):
                run(changed)


def test_wide_output_and_limits() -> None:
    config = PRESETS["ews-cm-tiny"]
    layer = some_layer(config, (12, 5, 1, 1))
    values = image(layer, 2, 3)
    sums = layer_sums(layer, values)
    (found,) = run_program(layer_program(config, layer, 2, 3, wide=True), [values], check=True).values()
    assert np.array_equal(found, sums + layer.requantisation.bias[:, None, None])
    (found,) = run_program(layer_program(config, layer, 2, 3, limits=(-5, 60)), [values], check=True).values()
    assert np.array_equal(found, requantise(sums, layer.requantisation).clip(-5, 60))


def test_sums_wrap_at_psum_width() -> None:
    config = replace(PRESETS["ews-tiny"], psum_width=16)
    layer = some_layer(config, (8, 9, 3, 3), method="int8")
    np.copyto(layer.weights, 127)
    values = np.full((9, 4, 4), 127, np.int8)
    (found,) = run_program(layer_program(config, layer, 4, 4, wide=True), [values], check=True).values()
    wrapped = layer_sums(layer, values).astype(np.int16)
    assert (wrapped != layer_sums(layer, values)).all()
    assert np.array_equal(found, wrapped + layer.requantisation.bias[:, None, None])


def test_wide_dram_words_and_observation() -> None:
    config = replace(PRESETS["ews-cms-tiny"], word_width=256)
    layer = some_layer(config, (8, 3, 1, 1))
    values = image(layer, 3, 3)
    program = layer_program(config, layer, 3, 3)
    seen = []
    result = execute(program, program.memory([values]), observe=lambda n, d, data: seen.append((d.opcode, data.copy())))
    assert np.array_equal(
        program.read(result.memory, program.outputs[0]), requantise(layer_sums(layer, values), layer.requantisation)
    )
    assert [opcode for opcode, _ in seen] == [Opcode.LOAD, Opcode.COPY, Opcode.TILE, Opcode.OUTPUT]
    assert np.array_equal(seen[1][1].T[:3].reshape(3, 3, 3), values)
    assert np.array_equal(seen[2][1].T[:8].reshape(8, 3, 3), layer_sums(layer, values))
    assert result.total["operations"] == 9
    assert result.total["dram_writes"] == -(-9 * 8 // 32)


def test_memory_of_another_size(small: Program) -> None:
    with pytest.raises(ExecutionError, match=rf"memory must be uint8 \[{small.dram_bytes}\], not uint8 \[3\]"):
        execute(small, np.zeros(3, np.uint8))
