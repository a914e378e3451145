from __future__ import annotations

import itertools
import json
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest

from hw.config import PRESETS
from sw.compiler.compile import compile_layers
from sw.compiler.graph import CompileError
from sw.network import read_network
from sw.perf import estimate as module
from sw.perf.estimate import Network, estimate
from sw.perf.mapping import Tiles
from sw.perf.prediction import predict
from sw.perf.shapes import Shapes
from sw.perf.timing import Latencies, LayerTiming, total
from tests.sw.perf.models import SLOW, both, of_seed

ROOT = Path(__file__).parents[3]
CONTAINERS = ROOT / "experiments" / "containers"
SHAPES = ROOT / "sim" / "networks" / "shapes"
TIMES = ("cycles", "wait_weights", "wait_activations", "wait_psums", "vector_cycles")


def traffic(timings: list[LayerTiming]) -> list[dict[str, int]]:
    """Counters that do not depend on time."""
    return [{name: count for name, count in x.counters.items() if name not in TIMES} for x in timings]


@pytest.mark.parametrize(
    ("container", "preset"),
    [
        ("mvq-4-16", "ews-cms-16"),
        ("mvq-4-16", "ews-cm-16"),
        ("msvq-4-16", "ews-msvq-16"),
        ("msvq-4-16", "ews-16"),
        ("msvq-4-16", "ws-16"),
        ("vq-d8", "ews-c-16"),
    ],
)
def test_layers_are_near_the_prediction_of_their_program(container: str, preset: str) -> None:
    """Traffic is the same; cycles are within 3 % or 20 cycles, those of the first layer, whose input comes, 5 %."""
    network = read_network(CONTAINERS / f"resnet20-{container}.msvq")
    found, expected = both(network, (3, 32, 32), PRESETS[preset])
    assert [x.name for x in found] == [x.name for x in expected]
    assert [x.macs for x in found] == [x.macs for x in expected]
    assert traffic(found) == traffic(expected)
    for number, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        cycles = theirs.counters["cycles"]
        near = max(20, cycles * (0.03 if number else 0.05))
        assert abs(mine.counters["cycles"] - cycles) <= near, (mine.name, mine.counters["cycles"], cycles)
    assert total(found)["cycles"] == pytest.approx(total(expected)["cycles"], rel=0.01)


def test_random_networks_on_random_instances(full: bool) -> None:
    """Small programs, in which all is beginning and end, on instances as odd as they can be."""
    apart = []
    for seed in range(60):
        timed = of_seed(seed) if full or seed != SLOW else None
        if timed is None:
            continue
        found, expected = timed
        assert traffic(found) == traffic(expected), seed
        apart.append(abs(total(found)["cycles"] / total(expected)["cycles"] - 1))
    assert len(apart) > 40
    apart.sort()
    assert apart[len(apart) // 2] < 0.08
    assert apart[len(apart) * 3 // 4] < 0.15
    assert apart[-1] < 0.5


@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("variant", ["ews", "ews-cms", "ews-ssvq"])
def test_layers_by_themselves_at_several_widths_of_the_bus(variant: str, width: int) -> None:
    config = replace(PRESETS[f"{variant}-32"], word_width=width, psum_width=28)
    entries = [
        {"name": f"linear {K} {C}", "kind": "linear", "shape": [K, C, 1, 1], "input": [C, 1, 197]}
        for K, C in ((576, 192), (192, 192), (768, 192), (192, 768))
    ]
    graph = Shapes(entries).network(config).graph
    layers = [operation.layer for operation in graph.operations]
    assert all(layer is not None for layer in layers)
    program = compile_layers(
        [(layer, tuple(entry["input"])) for layer, entry in zip(layers, entries, strict=True)], config
    )
    found, expected = estimate(Network(graph), config), predict(program)
    assert traffic(found) == traffic(expected)
    assert total(found)["cycles"] == pytest.approx(total(expected)["cycles"], rel=0.09)


@pytest.mark.parametrize(
    ("name", "preset"), [("resnet18", "ews-cms-16"), ("resnet18", "ews-64"), ("deit-tiny", "ews-ssvq-32")]
)
def test_repeated_sets_and_strips_take_as_long_as_one_by_one(
    name: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Shapes(json.loads((SHAPES / f"{name}.json").read_text())).network(PRESETS[preset])
    steps: list[object] = []
    run = module.ArrayTimes.run
    monkeypatch.setattr(module.ArrayTimes, "run", lambda *given, **named: steps.append(run(*given, **named)))
    quick = estimate(network, PRESETS[preset])
    few = len(steps)
    never = itertools.count()
    monkeypatch.setattr(module.ArrayTimes, "times", lambda self: (next(never),))
    slow = estimate(network, PRESETS[preset])
    assert len(steps) - few > few
    assert traffic(quick) == traffic(slow)
    for mine, theirs in zip(quick, slow, strict=True):
        assert mine.counters["cycles"] == pytest.approx(theirs.counters["cycles"], rel=0.01, abs=20), mine.name
    assert total(quick)["cycles"] == pytest.approx(total(slow)["cycles"], rel=0.001)


def test_same_every_time() -> None:
    shapes = json.loads((SHAPES / "resnet18.json").read_text())
    network = Shapes(shapes).network(PRESETS["ews-cms-64"])
    first = estimate(network, PRESETS["ews-cms-64"])
    assert estimate(network, PRESETS["ews-cms-64"]) == first
    assert estimate(Shapes(shapes).network(PRESETS["ews-cms-64"]), PRESETS["ews-cms-64"]) == first


def test_slower_memory_takes_longer() -> None:
    config = PRESETS["ews-64"]
    network = Shapes(json.loads((SHAPES / "resnet18.json").read_text())).network(config)
    near, far, farther = (total(estimate(network, config, Latencies(read=read)))["cycles"] for read in (8, 32, 128))
    assert near <= far < farther
    wide = total(estimate(network, replace(config, fifo_words=512), Latencies(read=128)))["cycles"]
    assert wide < farther


def test_narrower_words_take_longer() -> None:
    entries = json.loads((SHAPES / "resnet18.json").read_text())
    cycles = []
    for width in (128, 64, 32, 16):
        config = replace(PRESETS["ews-cms-32"], word_width=width)
        cycles.append(total(estimate(Shapes(entries).network(config), config))["cycles"])
    assert cycles == sorted(cycles)


def test_layer_that_does_not_fit_is_refused() -> None:
    config = replace(PRESETS["ews-cms-16"], l1_ifmap_bytes=256)
    shapes = Shapes([{"name": "wide", "shape": [16, 16, 5, 5], "input": [16, 9, 9]}])
    message = "layer 'wide': one output position needs 25 vectors of L1, the instance has 16 of activations"
    with pytest.raises(CompileError, match=message):
        estimate(shapes.network(config), config)


def test_activations_that_are_there_are_read_once_the_tile_has_come() -> None:
    latencies = Latencies()
    array = module.ArrayTimes(PRESETS["ews-tiny"], latencies)
    tile = Tiles(
        count=1, A=1, entries=1, operations=8, vectors=4, sums=4, rest=1, rows=1, last=False, g=0, groups=1
    )  # fmt: skip
    array.run(tile, ready=0.0)
    assert array.begun[-1] == array.given + latencies.queue
    array.run(tile, ready=1000.0)
    assert array.begun[-1] == 1000.0


def test_readers_of_l2_make_room_for_each_other() -> None:
    """Of two that together want more than a word a cycle, each ends later by what is too much."""
    model = object.__new__(module._Model)
    model.parts = deque()  # type: ignore[assignment]
    for reading, copy, end, after, vector_end in (
        # The vector unit reads half a word a cycle from 10 to 30, a COPY one of 8 words in 10 cycles.
        ((10.0, 30.0, 0.5, 1), (20.0, 10, 8), 33.0, (10.0, 33.0, 0.0, 1), 43.0),
        # Only in part at a time.
        ((10.0, 30.0, 0.5, 1), (26.0, 10, 10), 38.0, (10.0, 32.0, 0.0, 1), 42.0),
        # Just enough for both, one after the other, and one whose rate is nothing: as if they were alone.
        ((10.0, 30.0, 0.5, 1), (20.0, 10, 5), 30.0, (10.0, 30.0, 0.5, 1), 40.0),
        ((10.0, 30.0, 0.5, 1), (30.0, 10, 10), 40.0, (10.0, 30.0, 0.5, 1), 40.0),
        ((10.0, 30.0, 0.5, 1), (20.0, 10, 4), 30.0, (10.0, 30.0, 0.5, 1), 40.0),
    ):
        model.reading, model.vector_free, model.writes = reading, 40.0, [[], [(3, 40.0)]]
        assert model.share(*copy) == pytest.approx(end)
        assert model.reading == pytest.approx(after)
        assert model.vector_free == pytest.approx(vector_end)
        assert model.writes[1] == [(3, pytest.approx(vector_end))]
