"""``python -m sim``: summary, exit status, bad arguments."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from sim.__main__ import main, report
from sim.cosim import JobResult

GOOD = JobResult("kernels", "3x3", 100, 300, 0, "", 70, 70, False, 0.8, 0.1)
PAUSED = replace(GOOD, session="paused", cycles=90, paused=True)


def test_summary_counts_everything_and_cycles_of_runs_without_pauses(tmp_path: Path) -> None:
    results = {"ews-tiny": [GOOD, PAUSED], "ews-16": [GOOD]}
    assert report(results, {}, {"seed": 3}, tmp_path) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["passed"]
    assert summary["seed"] == 3
    assert summary["total"] == {
        "layers": 3,
        "sums": 300,
        "psums": 900,
        "mismatches": 0,
        "cycles": 140,
        "predicted": 140,
    }
    assert summary["presets"]["ews-tiny"]["configuration"]["H"] == 4
    assert summary["presets"]["ews-tiny"]["jobs"][1]["cycles"] == 90


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (
            replace(GOOD, mismatches=2, message="layer '3x3': 2 of 300 partial sums differ"),
            "2 of 300 partial sums differ",
        ),
        (replace(GOOD, cycles=71), "kernels: 71 cycles, not 70"),
        (replace(PAUSED, mismatches=1, message="wrong"), "paused: wrong"),
    ],
)
def test_mismatch_gives_a_failing_status(result: JobResult, text: str, tmp_path: Path, capsys) -> None:
    assert report({"ews-tiny": [GOOD, result]}, {}, {}, tmp_path) == 1
    assert text in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert not summary["passed"]
    assert text in summary["failures"]["ews-tiny"]


def test_missing_results_give_a_failing_status(tmp_path: Path) -> None:
    assert report({}, {"ews-tiny": "building ews-tiny failed"}, {}, tmp_path) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ews-17"], "unknown preset 'ews-17'"),
        (["--jobs", "0"], "--jobs must be at least 1, not 0"),
        (["ews-tiny", "--seed", "-1"], "--seed must be at least 0, not -1"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, refused) -> None:
    assert message in refused(main, arguments)


@pytest.mark.parametrize("name", ["sim", "sim.accelerator", "sim.networks", "sim.networks.odd"])
def test_without_the_extra_the_way_to_it_is_said(name: str, refused, monkeypatch) -> None:
    module = importlib.import_module(name if name.endswith("odd") else f"{name}.__main__")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    given = {"sim.accelerator": ["a", "b", "c"], "sim.networks": ["resnet18"]}.get(name, [])
    assert refused(module.main, given).endswith(
        "simulation needs the extra sim: pip install 'msvq[sim]', in a checkout '.[sim]'\n"
    )
