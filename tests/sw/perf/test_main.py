from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hw.config import PRESETS
from sw.perf.__main__ import main, sweep_points
from sw.perf.estimate import estimate
from sw.perf.report import layer_entries, layer_table
from sw.perf.shapes import Shapes, ShapesError
from sw.perf.timing import Latencies, total

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


def test_points() -> None:
    assert sweep_points(["H=1,2", "L=3"]) == [("H=1", "L=3"), ("H=2", "L=3")]
    with pytest.raises(ShapesError, match=r"--sweep must be FIELD=A,B,\.\.\., not 'H='"):
        sweep_points(["H="])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "rows=1"], "unknown field 'rows'; the fields are variant, H"),
        (["--sweep", "H"], "--sweep must be FIELD=A,B,..., not 'H'"),
        (["--csv", "x"], "--csv is for a sweep"),
        (["--latency", "-1"], "--latency must be in 0..1048575, not -1"),
        (["--image", "3,4"], "--image must be three integers C,R,S, such as 3,224,224, not '3,4'"),
        (["--set", "H=0"], "H must be in 1..256, not 0"),
        (["--set", "l1_ifmap_bytes=256"], "needs 9 vectors"),
    ],
)
def test_bad_input_is_one_line(
    path: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "l1_ifmap_bytes=256" in arguments:
        arguments = [*arguments, "--set", "H=64", "--set", "L=64"]
    assert main([path, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m sw.perf: ")
    assert message in error
    assert error.count("\n") == 1


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
