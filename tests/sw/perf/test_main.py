from __future__ import annotations

import csv
import io
import json
import random
import re
import sys
from pathlib import Path

import pytest

from hw.config import PRESETS
from sw.compiler.compile import compile_network
from sw.compiler.graph import CompileError
from sw.compiler.lowering import lower
from sw.golden import PsumOverflowError
from sw.network import read_network
from sw.perf.__main__ import main
from sw.perf.estimate import Network, estimate
from sw.perf.report import layer_entries, layer_table, print_layers
from sw.perf.shapes import Shapes, ShapesError
from sw.perf.sweep import misfit, sweep_points
from sw.perf.timing import Latencies, total
from sw.program import ProgramError
from tests.refusals import Refused, refusals
from tests.sw.random_networks import random_instance, random_network

LAYERS = [
    {"name": "one", "shape": [32, 32, 3, 3], "padding": 1, "input": [32, 16, 16]},
    {"name": "two", "kind": "linear", "shape": [64, 128, 1, 1], "input": [128, 1, 50]},
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "layers.json"
    file.write_text(json.dumps(LAYERS))
    return str(file)


def test_one_instance(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "table.json"
    assert (
        main([path, "--preset", "ews-cms-16", "--set", "word_width=32", "--latency", "50", "--json", str(written)]) == 0
    )
    config = PRESETS["ews-cms-16"].override(["word_width=32"])
    timings = estimate(Shapes(LAYERS).network(config), config, Latencies(50, 50))
    shown, report = capsys.readouterr().out, json.loads(written.read_text())
    assert [layer["counters"] for layer in report["layers"]] == [timing.counters for timing in timings]
    assert report["total"]["counters"] == total(timings)
    for timing in timings:
        assert f"{timing.counters['cycles']} " in shown


def test_sweep(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, report = tmp_path / "sweep.csv", tmp_path / "sweep.json"
    arguments = ["--sweep", "H=16,32,48", "--sweep", "word_width=64,60", "--csv", str(table), "--json", str(report)]
    assert main([path, *arguments, "--quiet"]) == 0
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["H"], row["word_width"]) for row in rows] == [
        (H, width) for H in ("16", "32", "48") for width in ("64", "60")
    ]
    config = PRESETS["ews-cms-16"].override(["H=32"])
    counters = total(estimate(Shapes(LAYERS).network(config), config))
    assert rows[2]["cycles"] == str(counters["cycles"])
    assert rows[2]["dram_bytes"] == str(8 * (counters["dram_reads"] + counters["dram_writes"]))
    assert rows[2]["refused"] == ""
    assert rows[1]["cycles"] == ""
    assert rows[1]["refused"] == "word_width must be a multiple of 8, not 60"
    assert [row["cycles"] for row in json.loads(report.read_text())][2] == counters["cycles"]
    assert "word_width must be a multiple of 8" in capsys.readouterr().out


def test_presets_are_an_axis(path: str, tmp_path: Path) -> None:
    report = tmp_path / "sweep.json"
    arguments = ["--sweep", "preset=ews-16,ews-cms-32", "--sweep", "word_width=32,64", "--set", "burst_words=8"]
    assert main([path, *arguments, "--quiet", "--json", str(report)]) == 0
    config = PRESETS["ews-cms-32"].override(["burst_words=8", "word_width=32"])
    counters = total(estimate(Shapes(LAYERS).network(config), config))
    assert json.loads(report.read_text())[2]["cycles"] == counters["cycles"]


def test_points() -> None:
    assert sweep_points(["H=1,2", "L=3"]) == [("H=1", "L=3"), ("H=2", "L=3")]
    with pytest.raises(ShapesError, match=r"--sweep must be FIELD=A,B,\.\.\., not 'H='"):
        sweep_points(["H="])
    pairs = [("N=2", "M=4", "H=8"), ("N=4", "M=16", "H=8")]
    assert sweep_points(["N:M=2:4,4:16", "H=8"]) == pairs


def test_no_layer_is_above_its_peak(capsys: pytest.CaptureFixture[str]) -> None:
    """Layers of ResNet-18 begin beside the layer before: as such, and not as utilisation above 100 % or a lost
    cycle below none."""
    shapes = str(Path("sim/networks/shapes/resnet18.json").resolve())
    for name in ("ews-cms-64", "ews-64", "ews-msvq-16"):
        config = PRESETS[name]
        entries = layer_entries(config, estimate(Shapes(json.loads(Path(shapes).read_text())).network(config), config))
        assert any(entry["overlap"] for entry in entries[:-1])
        for entry in entries:
            counters, lost = entry["counters"], entry["lost"]
            assert 0 <= entry["utilisation"] <= 1
            assert min(lost.values()) >= 0
            assert counters["cycles"] + entry["overlap"] == counters["operations"] + sum(lost.values())


def test_a_network_that_does_not_fit(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "table.json"
    small = ["--set", "l2_bytes=1024"]
    assert main([path, *small, "--json", str(written)]) == 0
    error = capsys.readouterr().err
    assert error.startswith("python -m sw.perf: warning: this network does not fit the instance: ")
    assert error.count("\n") == 1
    assert json.loads(written.read_text())["does_not_fit"] in error
    assert main([path, "--sweep", "l2_bytes=1024,2097152", "--quiet", "--json", str(written)]) == 0
    first, second = json.loads(written.read_text())
    assert first["does_not_fit"]
    assert first["cycles"] == second["cycles"]
    assert [first["l2_bytes"], second["l2_bytes"]] == ["1024", "2097152"]
    assert first["l2_traffic_bytes"] == second["l2_traffic_bytes"] > 0
    assert second["does_not_fit"] is None
    assert main([path, "--json", str(written)]) == 0
    assert not capsys.readouterr().err
    assert json.loads(written.read_text())["does_not_fit"] is None


def test_what_fits_is_what_the_compiler_takes() -> None:
    """Word for word, on instances whose memories are often too small."""
    taken, refused = 0, set()
    for seed in range(5000, 5150):
        config = random_instance(random.Random(seed), 1 << 12)
        network = random_network(seed, config, 6)
        if network is None:
            continue
        reason = None
        try:
            compile_network(network, network.image_shape, config)
        except (CompileError, PsumOverflowError) as error:
            reason = str(error)
            refused.add(reason)
        else:
            taken += 1
        assert misfit(Network(lower(network, network.image_shape)), config) == reason, seed
    assert taken > 50
    assert any("bytes of L2" in reason for reason in refused)


def test_an_input_that_fits_folded_fits() -> None:
    """The RTL of this instance runs this network: docs/results/networks-resnet18-64.md."""
    shapes = json.loads(Path("sim/networks/shapes/resnet18.json").read_text())
    config = PRESETS["ews-cms-64"]
    assert misfit(Shapes(shapes).network(config), config) is None
    small = config.override(["l2_bytes=1048576"])
    assert "bytes of L2, the instance has 1048576" in str(misfit(Shapes(shapes).network(small), small))


def test_what_the_compiler_would_refuse(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Sums are proved of weights that there are, and not of those that stand for a shape's."""
    network = read_network(Path("experiments/containers/resnet20-msvq-4-16.msvq").resolve())
    config = PRESETS["ews-msvq-16"].override(["psum_width=16"])
    graph = lower(network, (3, 32, 32))
    reason = misfit(Network(graph), config)
    assert reason is not None
    with pytest.raises(PsumOverflowError, match=re.escape(reason)):
        compile_network(network, (3, 32, 32), config)
    assert misfit(Network(graph), PRESETS["ews-msvq-16"]) is None
    narrow = PRESETS["ews-msvq-16"].override(["address_bits=17"])
    wanted = "address_bits must be at least 18, not 17: it takes 137000 bytes of DRAM or more"
    assert misfit(Network(graph), narrow) == wanted
    with pytest.raises(ProgramError, match=r"dram_bytes must be at most .* with address_bits = 17"):
        compile_network(network, (3, 32, 32), narrow)
    assert misfit(Shapes(LAYERS).network(config), config) is None
    assert main([path, "--set", "word_width=48"]) == 0
    assert (
        "does not fit the instance: word_width must be a power of two, as AXI has it, not 48" in capsys.readouterr().err
    )


@refusals(
    """
    --sweep rows=1 -> unknown field 'rows'; the fields are variant, H
    --sweep H -> --sweep must be FIELD=A,B,..., not 'H'
    --sweep H=16 --sweep H=32 -> --sweep has H twice; give all its values at once: H=A,B,...
    --sweep N:M=2:4 --sweep M=8 -> --sweep has M twice
    --sweep N:M=2:4,4:8,2:4 -> --sweep N:M has 2:4 twice; give it once
    --sweep N:M=2:4,4 -> --sweep N:M: '4' must be 2 values with colons between them
    --sweep N:=2:4 -> --sweep must be FIELD=A,B,..., not 'N:=2:4'
    --sweep preset=ews-16,ews-17 -> unknown preset 'ews-17'; the presets are
    --sweep H=abc,16 -> --sweep H: H must be int, not 'abc'
    --sweep H=8.5 -> --sweep H: H must be int, not '8.5'
    --sweep zero_gating=1 -> --sweep zero_gating: zero_gating must be bool, not '1'
    --preset ews-16 --sweep preset=ews-16 -> --sweep has preset, and there is --preset ews-16, too; leave out one
    --sweep k=16 --set k=32 -> --sweep and --set both have k; leave out --set k=32
    --sweep L=24,40 -> no point of the axes can be an instance; L=24: L must be a multiple of d = 16, not 24
    --csv x -> --csv is for a sweep
    --latency -1 -> --latency must be in 0..1048575, not -1
    --image 3,4 -> --image must be three integers C,R,S, such as 3,224,224, not '3,4'
    --set H=0 -> H must be in 1..256, not 0
    --set l1_ifmap_bytes=256 -> needs 9 vectors
    """
)
def test_bad_input_is_one_line(path: str, arguments: list[str], message: str, refused: Refused) -> None:
    if "l1_ifmap_bytes=256" in arguments:
        arguments = [*arguments, "--set", "H=64", "--set", "L=64"]
    error = refused(main, [path, *arguments])
    assert error.startswith("python -m sw.perf: ")
    assert message in error


def test_table_beside_a_model() -> None:
    config = PRESETS["ews-cms-16"]
    timings = estimate(Shapes(LAYERS).network(config), config)
    entries = layer_entries(config, timings, timings[:1])
    assert [entry.get("model_cycles") for entry in entries] == [
        timings[0].counters["cycles"], None, timings[0].counters["cycles"],
    ]  # fmt: skip
    table = layer_table(entries)
    assert [column.header for column in table.columns][:4] == ["layer", "operation", "cycles", "model %"]
    assert list(table.columns[3].cells)[:2] == ["+0.00", "-"]


class _Terminal(io.StringIO):
    """A terminal, as far as printing asks."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [None, 120, 300])
def test_nothing_of_the_table_is_cut(columns: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name and number is there: in a pipe, on a terminal, and on one that is too narrow for all in one table."""
    config = PRESETS["ews-cms-16"]
    long = [{**layer, "name": f"blocks.0.attention.{layer['name']}"} for layer in LAYERS]
    entries = layer_entries(config, estimate(Shapes(long).network(config), config))
    monkeypatch.setattr("sys.stdout", io.StringIO() if columns is None else _Terminal())
    monkeypatch.setenv("COLUMNS", str(columns or 80))
    print_layers(entries)
    shown = sys.stdout.getvalue()  # type: ignore[attr-defined]
    words = re.sub(r"\x1b\[[0-9;]*m", "", shown).split()
    for entry in entries:
        values = [entry["layer"], entry["macs"], *entry["lost"].values(), *entry["bytes"].values()]
        assert not {str(value) for value in values} - set(words)
    assert "…" not in shown
    assert words.count("layer") == (2 + len(LAYERS) + 2 if columns == 120 else 1 + len(LAYERS))
