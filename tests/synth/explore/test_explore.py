from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hw.config import AcceleratorConfig, preset
from synth.cache import kept
from synth.explore.__main__ import main
from synth.explore.accuracy import Study, read_study
from synth.explore.front import pareto
from synth.explore.parts import ExploreError, Part, Settings, compute, core_config, sources
from synth.generic import generic
from synth.report import component_rtlil
from tests.refusals import Refused, refusals

ROOT = Path(__file__).parents[3]

LAYERS = [
    {"name": "one", "shape": [32, 32, 3, 3], "padding": 1, "input": [32, 8, 8]},
    {"name": "two", "kind": "linear", "shape": [64, 32, 1, 1], "input": [32, 1, 5]},
]
AXES = ["--sweep", "preset=ews-16,ews-msvq-16", "--sweep", "H=8,16,32", "--sweep", "word_width=32,64"]
QUICK = [*AXES, "--no-area", "--jobs", "1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with shapes, to work in."""
    (tmp_path / "layers.json").write_text(json.dumps(LAYERS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {"pdk": None, "liberty": (), "library_sha256": generic().sha256, "container": None}
    return Settings(**{**values, "network": json.dumps(LAYERS), "image": None, "latency": 32, **changes})


def test_front() -> None:
    rows: list[dict[str, Any]] = [
        {"area": 1.0, "cycles": 9},
        {"area": 2.0, "cycles": 5},
        {"area": 2.0, "cycles": 5},
        {"area": 2.0, "cycles": 6},
        {"area": 3.0, "cycles": 5},
        {"area": 0.5, "cycles": None},
        {"area": 0.5, "cycles": 1, "does_not_fit": "too large"},
        {"area": 0.5, "cycles": 1, "refused": "no such instance"},
        {"area": 9.0, "cycles": 1},
    ]
    assert pareto(rows, ["area", "cycles"]) == [True, True, True, False, False, False, False, False, True]
    rows = [{"area": 1.0, "accuracy": 90.0}, {"area": 2.0, "accuracy": 91.0}, {"area": 2.0, "accuracy": 89.0}]
    assert pareto(rows, ["area", "accuracy"]) == [True, True, False]


def test_fields_around_the_array_are_not_in_it() -> None:
    """Points that differ there share the area: the RTLIL of the array is the same."""
    config = preset("ews-msvq-tiny")
    around = config.override(["l2_bytes=32768", "address_bits=40", "burst_words=8", "vector_unit_functions=full"])
    around = around.override(["l1_psum_bytes=8192", "l1_ifmap_bytes=2048", "fifo_words=32", "post_lanes=1"])
    assert around != config
    assert core_config(around) == core_config(config)
    texts = [component_rtlil(c, Path("build/synth/cache"), "hw.core", "AcceleratorCore") for c in (config, around)]
    assert texts[0] == texts[1]
    assert core_config(config.override(["word_width=32"])) != core_config(config)


def test_area_is_the_report_s(folder: Path) -> None:
    arguments = ["layers.json", "--preset", "ews-msvq-tiny", "--sweep", "l2_bytes=16384,32768", "--set", "L=4"]
    assert main([*arguments, "--jobs", "1"]) == 0
    first, second = json.loads(Path("build/explore/explore.json").read_text())["points"]
    from synth.report import area

    report = area(preset("ews-msvq-tiny").override(["L=4"]), generic())
    assert first["area"] == second["area"] == pytest.approx(report.total)
    assert first["area_unit"] == "NAND2"
    assert first["cycles"] == second["cycles"] > 0


def test_a_killed_sweep_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parts that were done before a kill -9 are there, and the table is that of a sweep that nobody killed."""
    command = [sys.executable, "-m", "synth.explore", "layers.json", *QUICK]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    cache = folder / "build" / "explore" / "cache"
    while process.poll() is None and len(list(cache.glob("*.json"))) < 2:
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert children
    for _ in range(500):
        # Workers end with the process that started them. A zombie has no command line any more.
        paths = [Path(f"/proc/{child}/cmdline") for child in children]
        if not any(path.exists() and b"synth.explore" in path.read_bytes() for path in paths):
            break
        time.sleep(0.02)
    else:
        pytest.fail("workers outlive the process that was killed")
    done = [path for path in cache.glob("*.json") if kept(path) is not None]
    assert 2 <= len(done) < 12
    assert main(["layers.json", *QUICK]) == 0
    said = re.search(r"12 parts of 12 points: (\d+) were there, (\d+) computed", capsys.readouterr().err)
    assert said is not None
    assert int(said[1]) == len(done)
    texts = {path.name: path.read_bytes() for path in Path("build/explore").glob("explore.*")}
    for path in cache.glob("*.json"):
        path.unlink()
    assert main(["layers.json", *QUICK]) == 0
    assert {path.name: path.read_bytes() for path in Path("build/explore").glob("explore.*")} == texts
    assert set(texts) == {"explore.json", "explore.csv", "explore.md", "explore.svg"}


def test_a_damaged_result_is_computed_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers.json", *QUICK]) == 0
    table = Path("build/explore/explore.json").read_bytes()
    path = next(Path("build/explore/cache").glob("*.json"))
    path.write_bytes(path.read_bytes()[:-5])
    assert main(["layers.json", *QUICK]) == 0
    assert "11 were there, 1 computed" in capsys.readouterr().err
    assert Path("build/explore/explore.json").read_bytes() == table


def test_two_workers_of_dask_give_the_same_table(folder: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="no package distributed: pip install 'msvq[explore]'")
    assert main(["layers.json", *QUICK]) == 0
    table = Path("build/explore/explore.json").read_bytes()
    for path in Path("build/explore/cache").glob("*.json"):
        path.unlink()
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        assert main(["layers.json", *QUICK, "--dask", cluster.scheduler_address]) == 0
    assert Path("build/explore/explore.json").read_bytes() == table


def test_key_has_all_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = preset("ews-16")
    part, settings = Part("cycles", config, ""), _settings()
    keys = [
        part.key(settings),
        part.key(_settings(latency=33)),
        part.key(_settings(network=json.dumps(LAYERS[:1]))),
        Part("cycles", config.override(["H=8"]), "").key(settings),
        Part("area", config, "flipflop").key(settings),
        Part("area", config, "gated").key(settings),
        Part("area", config, "flipflop").key(_settings(library_sha256="0")),
    ]
    assert len(set(keys)) == len(keys)
    assert Part("area", config, "flipflop").key(_settings(latency=33)) == keys[4]
    for kind in ("hw", "library"):
        monkeypatch.setattr("synth.explore.parts.sources", lambda name, kind=kind: f"{name} {kind}")
        keys.append(part.key(settings))
    assert len(set(keys)) == len(keys)


def test_a_worker_with_other_sources_refuses() -> None:
    part = Part("cycles", AcceleratorConfig(), "")
    assert compute(part, _settings(), [("cycles", sources("cycles"))])["cycles"] > 0
    with pytest.raises(ExploreError, match="has other sources or tools than this machine"):
        compute(part, _settings(), [("cycles", "0" * 64)])
    with pytest.raises(ExploreError, match="library generic is another one there"):
        compute(Part("area", AcceleratorConfig(), "flipflop"), _settings(pdk="generic", library_sha256="0"))


def test_accuracy_of_a_study() -> None:
    study = read_study("table3-resnet18", ROOT / "docs" / "results")
    report = json.loads((ROOT / "docs" / "results" / "table3-resnet18.json").read_text())
    (case,) = (entry for entry in report["summary"] if entry["case"] == "D")
    assert study.accuracy(preset("ews-cms-64")) == (pytest.approx(sum(case["accuracy"]) / len(case["accuracy"])), "D")
    assert study.accuracy(preset("ews-cm-16")) == study.accuracy(preset("ews-cms-64"))
    assert study.accuracy(preset("ews-64")) is None
    assert study.accuracy(preset("ews-cms-64").override(["k=64"])) is None
    narrow = read_study("narrow-resnet20", ROOT / "docs" / "results")
    four, eight = (narrow.accuracy(preset("ews-msvq-16").override([f"weight_bits={bits}"])) for bits in (4, 8))
    assert four
    assert eight
    assert (four[1], eight[1]) == ("MSVQ, 4 bits", "MSVQ, 8 bits")
    with pytest.raises(ExploreError, match=r"no study 'table4'; those of .* are .*table3-resnet18"):
        read_study("table4", ROOT / "docs" / "results")

    mixed = {"case": "mixed", "accuracy": 1, "layers": {"mvq 4:16 k=512 d=16": 3, "vq 8:8 k=64 d=8": 1}}
    assert Study("x", {"network": "n", "runs": [mixed]}).accuracy(preset("ews-cms-64")) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 100_000, '{"network": 1, "runs": [{"layers": {}}, 3]}', "\xff", "9" * 5000]
)
def test_a_damaged_study_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text, encoding="latin-1")
    with pytest.raises(ExploreError, match=r"bad\.json is no study of accuracies"):
        read_study("bad", tmp_path)
    # Nor is it in the way of others.
    with pytest.raises(ExploreError, match=r"no study 'good'; those of .* are none"):
        read_study("good", tmp_path)


def test_energy_is_that_of_synth_power(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation is tested where it is; here, that each point asks for its own and that the front has it."""
    from synth.power.sources import SourceError

    asked = []

    def instead(config: AcceleratorConfig, library: Any, options: dict[str, Any]) -> dict[str, float]:
        asked.append((config.variant, options["storage"], options["network"]))
        assert options["photograph"].exists()
        assert not options["network_energy"]
        if config.variant == "ews-c":
            raise SourceError("no weights for it")
        return {"per_mac": 2.0 if config.variant == "ews" else 1.0}

    monkeypatch.setattr("synth.power.report.measure_instance", instead)
    # In this process: the one that stands in is not in another.
    monkeypatch.setattr(
        "synth.explore.engines.by_processes",
        lambda parts, settings, jobs: ((key, compute(part, settings)) for key, part in parts.items()),
    )
    arguments = ["layers.json", "--no-area", "--energy", "--sweep", "preset=ews-16,ews-cms-16,ews-c-16"]
    assert main(arguments) == 0
    assert sorted(asked) == [(name, "flipflop", "efficientnet-lite0") for name in ("ews", "ews-c", "ews-cms")]
    rows = json.loads(Path("build/explore/explore.json").read_text())["points"]
    assert [row["energy"] for row in rows] == [2.0, 1.0, None]
    assert [row["front"] for row in rows][1:] == [True, False]
    assert rows[2]["energy_refused"] == "no weights for it"


@refusals(
    """
    --sweep rows=1 -> unknown field 'rows'; the fields are variant, H
    --sweep preset=ews-17 -> unknown preset 'ews-17'
    --sweep H=8 --sweep H=16 -> --sweep has H twice
    --sweep storage=ram -> storage must be one of flipflop, gated, latch, not 'ram'
    --set H=0 -> H must be in 1..256, not 0
    --sweep H=abc,16 -> --sweep H: H must be int, not 'abc'
    --preset ews-16 --sweep preset=ews-16 -> --sweep has preset, and there is --preset ews-16, too; leave out one
    --sweep k=16 --set k=32 -> --sweep and --set both have k; leave out --set k=32
    --sweep N:M=16:8 -> no point of the axes can be an instance; N=16, M=8: N must be in 1..M = 1..8, not 16
    --jobs 0 -> --jobs must be in 1..256, not 0
    --latency -1 -> --latency must be in 0..1048575, not -1
    --objectives area,speed -> --objectives: 'speed' is not one of area, cycles, energy
    --objectives area -> --objectives must be two different ones or more, not 'area'
    --objectives area,accuracy -> --objectives has accuracy, which this sweep does not compute
    --study none -> no study 'none'
    --study table3-resnet20 -> study table3-resnet20 is of resnet20, not of layers.json: give shapes or a container
    --pdk none -> unknown library 'none'
    """
)
def test_bad_input_is_one_line(arguments: list[str], message: str, folder: Path, refused: Refused) -> None:
    error = refused(main, ["layers.json", *arguments])
    assert error.startswith("python -m synth.explore: ")
    assert message in error
    assert not Path("build/explore/explore.json").exists()


def test_a_scheduler_that_is_not_there_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="no package distributed: pip install 'msvq[explore]'")
    monkeypatch.setattr("synth.explore.engines.TIMEOUT", "0.2s")
    with pytest.raises(SystemExit) as end:
        main(["layers.json", "--dask", "tcp://127.0.0.1:9"])
    assert end.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("python -m synth.explore: no Dask scheduler at tcp://127.0.0.1:9")
    assert not Path("build/explore/explore.json").exists()


def test_too_many_points_are_one_line(folder: Path, refused: Refused) -> None:
    axes = (f"k={','.join(map(str, range(2, 4097)))}", f"H={','.join(map(str, range(1, 65)))}")
    error = refused(main, ["layers.json", "--sweep", axes[0], "--sweep", axes[1]])
    assert error.startswith("python -m synth.explore: ")
    assert "the axes have 262080 points, more than 100000" in error
    assert not Path("build/explore/explore.json").exists()


def test_refused_points_are_lines_of_the_table(folder: Path) -> None:
    assert main(["layers.json", "--no-area", "--sweep", "L=16,24", "--sweep", "l1_ifmap_bytes=256,65536"]) == 0
    rows = json.loads(Path("build/explore/explore.json").read_text())["points"]
    assert [row["L"] for row in rows] == ["16", "16", "24", "24"]
    assert all("L must be a multiple of d = 16, not 24" in row["refused"] for row in rows[2:])
    assert not any(row["front"] for row in rows if row["refused"])
    picture = Path("build/explore/explore.svg").read_text()
    assert picture.startswith("<svg ")
    usable = [row for row in rows if row["cycles"]]
    assert picture.count("<circle") == len(usable) > 0
    # No library has a part in cycles.
    assert Path("build/explore/explore.md").read_text().endswith("\nlayers.json.\n")
