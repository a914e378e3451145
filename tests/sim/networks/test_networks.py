"""Whole networks: what is compared, what is reported, and a small network from end to end on the RTL."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hw.config import AcceleratorConfig, preset
from hw.control.counters import COUNTERS
from hw.control.descriptor import BYTES, Opcode
from sim.networks import __main__ as command
from sim.networks import speed, workloads
from sim.networks.options import NAMES
from sim.networks.report import layer_rows, markdown, run_report, span
from sim.networks.runs import NetworkError, Run, check_memory, run_workload, top_classes
from sim.networks.workloads import Workload, WorkloadError, narrowed_layer
from sw.compiler.compile import compile_layers, compile_network
from sw.compiler.steps import compile_steps
from sw.executor import execute
from sw.network import write_network
from sw.perf.prediction import predict
from sw.perf.timing import LayerTiming
from sw.program import Program
from tests.sim.accelerator.test_robustness import QUICK
from tests.sw.networks import random_layer, residual_network
from tests.sw.steps import small_transformer

CONFIG = preset("ews-msvq-tiny")
SHAPE = (3, 12, 12)


def small_network(config: AcceleratorConfig = CONFIG):
    rng = np.random.default_rng(0)
    return residual_network(rng, config, blocks=(1, 1), widths=(8, 16), size=12, classes=10, option="A", amplitude=6)


@pytest.fixture(scope="module")
def workload() -> Workload:
    network = small_network()
    images = np.random.default_rng(1).integers(-128, 128, (2, *SHAPE)).astype(np.int8)
    return Workload(
        "random",
        lambda dump: compile_network(network, SHAPE, CONFIG, dump=dump),
        [[image] for image in images],
        [3, 4],
    )


@pytest.fixture(scope="module")
def program(workload: Workload) -> Program:
    return workload.compile(True)


def test_a_small_network_is_bit_exact_on_the_rtl(workload: Workload) -> None:
    seen: list[float] = []
    run = run_workload(
        CONFIG, "tiny", workload, model_name="ews-msvq-tiny-accelerator", processes=2, quick=QUICK,
        progress=lambda text, share: seen.append(share),
    )  # fmt: skip
    assert [check.different for check in run.checks] == [0, 0]
    assert [check.differing for check in run.checks] == [(), ()]
    assert run.checks[0].layers == len(run.layers)
    assert len(run.classes) == 2
    assert max(seen) <= 1
    cycles = sum(timing.counters["cycles"] for timing in run.rtl)
    assert 0 < cycles < run.cycles
    predicted = sum(timing.counters["cycles"] for timing in run.model)
    assert predicted == pytest.approx(cycles, rel=0.1)
    report = run_report("small", "tiny", CONFIG, workload, run)
    assert report["source"] == "RTL"
    assert report["top1"]["images"] == 2
    built = report["simulation"]["built"]
    assert built["verilog"]["bytes"] > 100_000
    assert built["model"]["seconds"] > 0
    assert built["model"]["largest_process_mb"] > 10
    assert "MB of Verilog in" in command._line(report)
    assert "| tiny | random | RTL | 2 |" in markdown([report])


def test_a_small_transformer_is_bit_exact_on_the_rtl() -> None:
    """Attention, with operands that the host packs, and the host's operations between the programs."""
    network, images = small_transformer(CONFIG)
    steps = compile_steps(network, CONFIG)
    expected = list(network.run(images[:2]))
    given = Workload("random", lambda dump: steps, [[x] for x in images[:2]], expected=lambda: expected)
    run = run_workload(
        CONFIG, "tiny", given, model_name="ews-msvq-tiny-accelerator", label="steps", processes=2, quick=QUICK
    )
    assert [(check.different, check.differing) for check in run.checks] == [(0, ())] * 2
    # Two heads of each product: 8 programs of 10 layers.
    assert run.checks[0].layers == len(run.layers) == len(run.rtl) == 10
    assert run.classes == [int(values.argmax()) for values in network.run(images[:2])]
    report = run_report("vit", "tiny", CONFIG, given, run)
    assert report["host"]["programs"] == 8
    assert "8 programs; between them 13 operations of the host" in markdown([report])


def test_a_result_that_is_not_that_of_the_integers() -> None:
    network, images = small_transformer(CONFIG)
    wrong = [values + 1 for values in network.run(images[:1])]
    given = Workload("random", lambda dump: compile_steps(network, CONFIG), [[images[0]]], expected=lambda: wrong)
    with pytest.raises(NetworkError, match="tiny: image 0: the programs' result is not that of the integer network"):
        run_workload(CONFIG, "tiny", given)


def test_every_byte_but_the_records_is_compared(workload: Workload, program: Program) -> None:
    after = execute(program, program.memory(workload.images[0])).memory
    found = after.copy()
    found[program.layers[0].record - program.base] ^= 1
    check = check_memory(program, found, after)
    assert check.different == 0
    assert check.compared == len(after) - BYTES * len(program.layers)
    assert check.layer_bytes == sum(layer.tensor.size for layer in program.layers)
    tensor = program.layers[2].tensor
    found[tensor.address - program.base + tensor.size - 1] ^= 1
    found[0] ^= 1
    check = check_memory(program, found, after)
    assert check.different == 2
    assert check.differing == (tensor.name,)


def test_the_class_is_that_of_the_largest_logit(workload: Workload, program: Program) -> None:
    after = execute(program, program.memory(workload.images[0])).memory
    logits = program.read(after, program.outputs[0]).reshape(-1)
    assert top_classes(program, [after]) == [int(logits.argmax())]
    layer = random_layer(np.random.default_rng(0), CONFIG, "alone", (8, 4, 1, 1))
    assert top_classes(compile_layers([(layer, (4, 2, 2))], CONFIG), []) == []


def timing(name: str, operation: str, macs: int, **counters: int) -> LayerTiming:
    return LayerTiming(name, operation, macs, dict.fromkeys(COUNTERS, 0) | counters)


def test_rows_say_where_cycles_went(workload: Workload) -> None:
    program = workload.compile(False)
    model = predict(program)
    run = Run(program.layers, model, [], [], [], 0, 0.0, 0.0, 0.0)
    rows = layer_rows(CONFIG, run)
    assert [row["layer"] for row in rows] == [layer.name for layer in program.layers]
    for row, entry in zip(rows, model, strict=True):
        assert row["operations"] + sum(row["lost"].values()) == entry.counters["cycles"]
    coded = next(row for row in rows if row["mapping"].startswith("coded"))
    # 2 of 4 weights are kept, and there are 2 multipliers for them.
    assert coded["multipliers"] == pytest.approx(coded["utilisation"])
    raw = next(row for row in rows if row["mapping"].startswith("raw in"))
    assert raw["multipliers"] == pytest.approx(2 * raw["utilisation"])
    assert rows[0]["utilisation"] == pytest.approx(rows[0]["macs"] / (CONFIG.H * CONFIG.L * rows[0]["cycles"]))


def test_a_span_begins_behind_its_first_layer() -> None:
    timings = [
        timing(name, "layer", 1, cycles=cycles) for name, cycles in (("a", 1), ("b", 20), ("c", 300), ("d", 4000))
    ]
    assert span(timings, "a", "c") == 320


def test_reports_of_the_model_alone(workload: Workload, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(workloads.WORKLOADS, "resnet18", (lambda config, options: workload, ("ews-msvq-tiny",)))
    assert command.main(["resnet18", "--model", "--quiet", "--output", str(tmp_path)]) == 0
    assert "resnet18 on ews-msvq-tiny (cycle model)" in capsys.readouterr().out
    (report,) = json.loads((tmp_path / "networks-resnet18.json").read_text())
    assert report["source"] == "cycle model"
    assert report["summary"]["after_first"]["cycles"] < report["summary"]["cycles"]
    assert "compared" not in report
    assert (tmp_path / "networks-resnet18.md").read_text().startswith("# resnet18 on the accelerator\n")


@pytest.mark.parametrize(
    ("network", "changes", "message"),
    [
        ("resnet20", {"containers": "."}, r"no container resnet20\*\.msvq"),
        ("resnet20", {"containers": "here"}, r"CIFAR-10 is missing; get cifar-10-python\.tar\.gz"),
        ("efficientnet-lite0", {}, "a picture is missing; name any photograph"),
        ("efficientnet-lite0", {"picture": "absent.jpg"}, "cannot read picture 'absent.jpg'"),
        ("efficientnet-lite0", {"picture": "bad.png"}, "cannot read picture 'bad.png': cannot be read as a picture: "),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    network: str, changes: dict[str, str], message: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "resnet20-int8.msvq").touch()
    Image.new("RGB", (90, 90)).save(tmp_path / "bad.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "bad.png").read_bytes()[:60])
    options = argparse.Namespace(**({"data": None, "picture": None, "containers": None, "images": None} | changes))
    with pytest.raises(WorkloadError, match=message) as caught:
        workloads.WORKLOADS[network][0](CONFIG, options)
    assert "\n" not in str(caught.value)


def test_the_command_ends_with_one_line_on_bad_input(tmp_path: Path, capsys) -> None:
    arguments = ["efficientnet-lite0", "--output", str(tmp_path), "--picture", str(tmp_path / "absent.jpg")]
    assert command.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("instance", "container"), [("ews-msvq-tiny", "msvq"), ("ews-tiny", "int8"), ("ws-tiny", "int8")]
)
def test_an_instance_takes_the_container_that_it_decodes(instance: str, container: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, config in (("int8", preset("ews-tiny")), ("msvq", CONFIG), ("vq", preset("ews-c-tiny"))):
        network = residual_network(
            np.random.default_rng(0),
            config,
            blocks=(1, 1),
            widths=(8, 16),
            size=32,
            classes=10,
            option="A",
            amplitude=6,
        )
        write_network(tmp_path / f"resnet20-{name}.msvq", network)
    images = {f"{part}_images": rng.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "data.npz", train_labels=np.arange(3), test_labels=np.arange(3), **images)
    options = argparse.Namespace(data=str(tmp_path / "data.npz"), containers=str(tmp_path), images=2)
    found = workloads.WORKLOADS["resnet20"][0](preset(instance), options)
    assert found.weights == f"resnet20-{container}.msvq, trained on CIFAR-10"
    assert [len(images) for images in found.images] == [1, 1]
    assert found.images[0][0].shape == (3, 32, 32)
    assert list(found.labels) == [0, 1]


@pytest.mark.parametrize(
    ("name", "method", "k"),
    [("ews-cms-16", "mvq", 512), ("ews-ssvq-32", "ssvq", 16), ("ews-16", "int8", None), ("ews-c-16", "vq", 1024)],
)
def test_the_recipe_of_an_instance(name: str, method: str, k: int | None) -> None:
    recipe = workloads.recipe_for_instance(preset(name))
    assert recipe.method == method
    assert k is None or recipe.k == k


def test_the_command_knows_every_network() -> None:
    assert set(NAMES) == set(workloads.WORKLOADS)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ews-msvq4-64", {"method": "msvq", "n": 2, "m": 8, "codeword_bits": 4, "uniform_bits": 7}),
        ("ews4-64", {"method": "lsq4", "uniform_bits": 7}),
        ("ews-16 weight_bits=6", {"method": "int8", "uniform_bits": 6}),
        ("ews-ssvq-16 weight_bits=5", {"method": "ssvq", "codeword_bits": 5, "uniform_bits": 8}),
    ],
)
def test_the_recipe_of_a_narrow_instance(name: str, fields: dict[str, object]) -> None:
    """Layers without codewords have two digits, as many bits as go into them."""
    base, _, more = name.partition(" ")
    recipe = workloads.recipe_for_instance(preset(base).override(more.split()))
    assert {field: getattr(recipe, field) for field in fields} == fields


def test_activations_on_the_chip_leave_the_bus_to_the_weights() -> None:
    rng = np.random.default_rng(0)
    layers = [(random_layer(rng, CONFIG, f"layer {i}", (16, 8, 1, 1), kind="linear"), (8, 1, 50)) for i in range(2)]
    program = compile_layers(layers, CONFIG)
    short = workloads.on_chip(program)
    assert len(short.image) == len(program.image)
    before, after = ([d for d in x.listing if d.opcode == Opcode.LOAD] for x in (program, short))
    assert len(before) == len(after)
    assert {d.body["words"] for d in after} == {1}
    assert sum(d.body["words"] for d in before) == 2 * 50 * 2
    assert [d for d in program.listing if d.opcode == Opcode.TILE] == [
        d for d in short.listing if d.opcode == Opcode.TILE
    ]
    cycles = [sum(t.counters["cycles"] for t in predict(x)) for x in (program, short)]
    assert cycles[1] < cycles[0]


def test_tables_of_speed() -> None:
    row = {"preset": "ews-64", "cycles": 200, "rtl": 201, "slower_cycles": 2.0, "dram_words": 7}
    row |= {"convolutions_after_first": 150, "slower_convolutions_after_first": 3.0, "utilisation_after_first": 0.5}
    deit = dict.fromkeys(("array", "bus_bits", "mbytes_a_second", "ssvq", "int8"), 64)
    deit |= {"ssvq_rtl": None, "int8_rtl": 65}
    deit |= dict.fromkeys(("faster", "ssvq_activations_from_dram", "int8_activations_from_dram"), 2)
    page = speed.markdown({"resnet18": [row], "deit_tiny": [deit | {"faster_activations_from_dram": 1.5}]})
    assert "| ews-64 | 200 | 201 | 2.00 | 7 | 150 | 3.00 | 50.0 |" in page
    assert "| 64 x 64 | 64 | 64 | 64 |  | 64 | 65 | 2.00 | 2 | 2 | 1.50 |" in page


def test_settings_of_an_instance_reach_the_report(workload: Workload, tmp_path: Path, monkeypatch, capsys) -> None:
    seen = []

    def make(config: AcceleratorConfig, options: argparse.Namespace) -> Workload:
        seen.append(config)
        return workload

    monkeypatch.setitem(workloads.WORKLOADS, "resnet18", (make, ()))
    arguments = ["resnet18", "--model", "--quiet", "--preset", "ews-msvq-tiny", "--set", "fifo_words=64"]
    assert command.main([*arguments, "--output", str(tmp_path)]) == 0
    assert seen == [dataclasses.replace(CONFIG, fifo_words=64)]
    assert "resnet18 on ews-msvq-tiny-fifo_words-64" in capsys.readouterr().out
    # An instance of the network's own may have some, too.
    monkeypatch.setitem(workloads.WORKLOADS, "resnet18", (make, ("ews-msvq-tiny fifo_words=64",)))
    assert command.main(["resnet18", "--model", "--quiet", "--output", str(tmp_path)]) == 0
    assert seen[1:] == seen[:1]
    assert "resnet18 on ews-msvq-tiny-fifo_words-64" in capsys.readouterr().out


def test_codewords_are_rounded_to_the_bits_of_the_instance() -> None:
    """By a power of two, with scale, bias and shift: sums stay those of nearly the same weights."""
    wide, narrow = preset("ews-msvq-tiny"), preset("ews-msvq4-tiny")
    layer = random_layer(np.random.default_rng(0), wide, "layer", (8, 4, 1, 1), amplitude=100)
    found = narrowed_layer(narrow, layer)
    assert np.array_equal(found.codebook, np.minimum(np.rint(layer.codebook / 16), 7))
    assert found.scale == 16 * layer.scale
    assert np.array_equal(found.requantisation.shift, layer.requantisation.shift - 4)
    assert np.array_equal(found.requantisation.bias, np.rint(layer.requantisation.bias / 16))
    assert narrowed_layer(wide, layer) is layer
    assert narrowed_layer(narrow, found) is found
    low = dataclasses.replace(layer.requantisation, shift=np.full(8, 3, np.uint8))
    with pytest.raises(WorkloadError, match=r"^layer 'layer': shifts must be at least 4, not 3$"):
        narrowed_layer(narrow, dataclasses.replace(layer, requantisation=low))
