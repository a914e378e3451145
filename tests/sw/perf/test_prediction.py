from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw.config import PRESETS, VARIANTS, AcceleratorConfig
from hw.control.counters import COUNTERS
from hw.control.descriptor import Opcode
from hw.layout import Schedule
from sw.compiler.compile import compile_layer, compile_network
from sw.compiler.lowering import lower
from sw.executor import COUNTS, execute
from sw.perf.estimate import Network, estimate
from sw.perf.prediction import predict
from sw.perf.timing import Latencies, measured, total, traffic_bytes, utilisation
from sw.program import Program, ProgramError, ProgramLayer
from tests.sw.assembler import Assembler, add_input, add_layer, add_output, layer_program
from tests.sw.executor.test_executor import edited, some_layer, vector_program, with_descriptors
from tests.sw.networks import every_operation, random_layer

CONFIG = PRESETS["ews-cms-16"]


def cycles(program: Program, **latencies: int) -> int:
    return total(predict(program, Latencies(**latencies)))["cycles"]


@pytest.mark.parametrize("size", ["tiny", "16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_traffic_and_operations_are_those_of_the_golden_run(variant: str, size: str) -> None:
    config = PRESETS[f"{variant}-{size}"]
    schedule = Schedule(config.H, config.L) if config.wrf_depth < 6 else Schedule(config.H, config.L, 2, 1, 1, 3)
    # Layer tiles of ws-cms have no room for the passes of a raw layer.
    for raw in (False,) if variant == "ws-cms" else (False, True):
        method = "int8" if raw else None
        layer = some_layer(config, (2 * config.L, config.H + 3, 3, 3), method=method, padding=(1, 1), stride=(1, 2))
        program = layer_program(config, layer, 5, 6, None if raw else schedule, raw=raw)
        expected = execute(program, program.memory()).layers[0]
        (timing,) = predict(program)
        assert {name: timing.counters[name] for name in COUNTS} == expected
        assert timing.counters["cycles"] > expected["operations"]


@pytest.mark.parametrize("operation", [0, 1, 2])
def test_traffic_of_pooling_and_addition(operation: int) -> None:
    geometry = {"kernel_rows": 3, "kernel_columns": 2, "stride_rows": 2, "stride_columns": 1}
    size = (7, 6) if operation == 2 else (4, 7)
    padding = {} if operation == 2 else {"padding_rows": 1, "padding_columns": 1}
    program = vector_program(PRESETS["ews-tiny"], (5, 7, 6), size, operation=operation, **geometry, **padding)
    expected = execute(program, program.memory()).layers[0]
    (timing,) = predict(program)
    assert {name: timing.counters[name] for name in COUNTS} == expected


@pytest.mark.parametrize("width", [8, 64, 256, 512])
def test_a_record_is_64_bytes_on_every_bus(width: int) -> None:
    config = replace(PRESETS["ews-tiny"], word_width=width)
    network = every_operation(np.random.default_rng(0), config)
    program = compile_network(network, (3, 9, 8), config)
    sizes = {Opcode.STORE: lambda words: -(-words * config.l2_word * 8 // width), Opcode.RECORD: lambda _: 512 // width}
    written = sum(sizes[x.opcode](x.body.get("words", 0)) for x in program.listing if x.opcode in sizes)
    assert sum(x.opcode == Opcode.RECORD for x in program.listing) == len(program.layers)
    golden = execute(program, program.memory()).layers
    assert sum(layer["dram_writes"] for layer in golden) == written
    assert total(predict(program))["dram_writes"] == written
    assert total(estimate(Network(lower(network, (3, 9, 8))), config))["dram_writes"] == written


def long_layer(config: AcceleratorConfig = CONFIG, **options: int) -> Program:
    layer = some_layer(config, (4 * config.L, 4 * config.H, 1, 1))
    return layer_program(config, layer, 16, 16, Schedule(config.H, config.L, 2, 4), **options)


def test_array_runs_without_a_pause_once_it_has_begun() -> None:
    """256 positions of 8 operations take longer than anything else; only the way in and out is added."""
    (timing,) = predict(long_layer())
    counters = timing.counters
    assert counters["operations"] == 256 * 4 * 4
    assert counters["wait_psums"] == 0
    # In: 1024 L2 words, of 2 DRAM words each; out: the last sums and 1024 L2 words.
    assert counters["cycles"] - counters["operations"] > 3 * 1024
    quick = predict(long_layer(), Latencies(read=0))[0].counters
    assert quick["operations"] == counters["operations"]
    assert quick["cycles"] < counters["cycles"]


def test_latency_costs_nothing_where_the_fifos_cover_it() -> None:
    deep = replace(CONFIG, fifo_words=256)
    near, far, farther = (cycles(long_layer(deep), read=read) for read in (0, 64, 128))
    assert near <= far <= near + 4 * 64
    assert farther <= near + 4 * 128
    shallow = replace(CONFIG, fifo_words=32)
    assert cycles(long_layer(shallow), read=64) > far + 1000


def test_wider_words_are_faster() -> None:
    times = [cycles(long_layer(replace(CONFIG, word_width=width))) for width in (16, 32, 64, 128)]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1] + 4096


def test_storer_holds_the_array_back() -> None:
    """With one row group, two sums leave every two cycles, and the storer takes four for each."""
    layer = some_layer(CONFIG, (2 * CONFIG.L, CONFIG.H, 1, 1))
    (timing,) = predict(layer_program(CONFIG, layer, 16, 16, Schedule(16, 16, 2)))
    counters = timing.counters
    assert counters["operations"] == 512
    assert 512 * 3 - 50 < counters["wait_psums"] <= 512 * 3


def test_layers_split_the_cycles() -> None:
    assembler = Assembler(CONFIG)
    layers = [some_layer(CONFIG, (16, 16, 3, 3), seed=seed, name=str(seed), padding=(1, 1)) for seed in range(2)]
    assembler.layers.append(ProgramLayer("0", "conv"))
    geometry = add_input(assembler, (16, 8, 8), 0)
    add_layer(assembler, layers[0], 0, geometry, 1000, waits={"loaded": 1})
    assembler.layers.append(ProgramLayer("1", "conv"))
    add_layer(assembler, layers[1], 1000, (8, 8, 1), 2000, waits={"stored": 1})
    add_output(assembler, (16, 8, 8), 2000, {"stored": 2})
    program = assembler.program()
    execute(program, program.memory(), check=True)
    timings = predict(program)
    assert [timing.name for timing in timings] == ["0", "1"]
    assert all(timing.counters["operations"] == 64 * 9 for timing in timings)
    assert all(timing.counters["cycles"] > 64 * 9 for timing in timings)
    assert total(timings)["cycles"] == sum(timing.counters["cycles"] for timing in timings)


@pytest.mark.parametrize("dropped", ["OUTPUT", "FETCH", "END"])
def test_hanging_program_is_refused(dropped: str) -> None:
    program = long_layer()
    table = list(program.listing)
    del table[max(i for i, descriptor in enumerate(table) if descriptor.opcode.name == dropped)]
    with pytest.raises(ProgramError, match=r"descriptor \d+: the program hangs; events to come: 0 loaded"):
        predict(with_descriptors(program, table))


@pytest.mark.parametrize(("opcode", "field"), [(Opcode.TILE, "A"), (Opcode.COPY, "width")])
def test_program_that_golden_refuses(opcode: Opcode, field: str) -> None:
    program = long_layer()
    changed = edited(program, opcode, 0, **{field: 0})
    with pytest.raises(ProgramError, match=r"descriptor \d+: it, or one of the next, has fields that the golden"):
        predict(changed)


def test_measured_reads_differences_of_records() -> None:
    program = long_layer()
    records = [program.base + program.dram_bytes + 64 * number for number in range(2)]
    layer = replace(program.layers[0], record=records[0], macs=77)
    layers = (layer, replace(layer, name="none", record=None), replace(layer, name="second", record=records[1]))
    program = replace(program, dram_bytes=program.dram_bytes + 128, layers=layers)
    memory = program.memory()
    first = np.arange(16, dtype=np.uint32) * 3 + 0xFFFFFFF0
    memory[-128:] = np.concatenate([first, first + np.arange(16, dtype=np.uint32)]).astype("<u4").view(np.uint8)
    timings = measured(program, memory)
    assert [timing.name for timing in timings] == ["random", "second"]
    assert timings[0].macs == 77
    assert timings[0].counters["operations"] == 0xFFFFFFF3
    assert list(timings[1].counters.values()) == list(range(16))


def test_a_layer_that_ends_before_the_one_in_front_of_it_adds_nothing() -> None:
    program = long_layer()
    records = [program.base + program.dram_bytes + 64 * number for number in range(3)]
    layers = tuple(replace(program.layers[0], name=str(record), record=record) for record in records)
    program = replace(program, dram_bytes=program.dram_bytes + 192, layers=layers)
    memory = program.memory()
    ends = np.array([[1000], [700], [1300]]) + np.arange(16)
    memory[-192:] = ends.astype("<u4").ravel().view(np.uint8)
    assert [timing.counters["cycles"] for timing in measured(program, memory)] == [1000, 0, 300]


def test_bytes_and_utilisation() -> None:
    counters = {name: 10 for name in COUNTERS}
    assert traffic_bytes(CONFIG, counters) == {
        "dram_reads": 80,
        "dram_writes": 80,
        "l2_reads": 160,
        "l2_writes": 160,
        "l1_reads": 160,
        "l1_writes": 160,
        "psum_reads": 480,
        "psum_writes": 480,
    }
    assert utilisation(CONFIG, 256 * 30, 40) == 0.75
    assert utilisation(CONFIG, 1, 0) == 0


def test_unknown_channel_is_refused() -> None:
    program = edited(long_layer(), Opcode.FETCH, 0, channel=2)
    with pytest.raises(ProgramError, match="descriptor 2: channel must be one of weight, mask, parameter"):
        predict(program)


def test_rows_longer_than_the_fifo_keep_the_bus_busy() -> None:
    # 64 weights a row are as many words as a channel's FIFO holds; the hardware takes one after the other.
    instance = replace(PRESETS["ews-64"], word_width=8)
    layer = random_layer(np.random.default_rng(0), instance, "layer", (128, 192, 1, 1))
    (timing,) = predict(compile_layer(layer, (192, 1, 2), instance))
    words = timing.counters["dram_reads"]
    assert words > layer.weights.size
    assert words < timing.counters["cycles"] < 1.15 * words


@pytest.mark.parametrize("positions", [(1, 1), (2, 2)])
def test_parameters_of_the_next_output_come_early_where_there_is_room_for_both(positions: tuple[int, int]) -> None:
    """A PRF of twice as many entries as an output has is enough; with as many as it has, they wait."""

    def taken(depth: int) -> int:
        config = replace(CONFIG, prf_depth=depth)
        layer = some_layer(config, (16 * config.L, config.H, 1, 1))
        return cycles(layer_program(config, layer, *positions, Schedule(config.H, config.L, 4, 1)))

    assert taken(4) > taken(8) == taken(16)
