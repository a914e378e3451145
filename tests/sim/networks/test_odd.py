"""The command that runs odd networks: from the graph to the RTL, its report, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sim.networks import odd
from sim.networks.__main__ import RESULTS
from sim.networks.odd import OddError, main, networks, prepared
from sim.networks.odd_networks import ODD, Odd

NAMES = ("ESPCN by 3, grey", "squeeze and excitation", "unequal windows")


def test_networks_run_on_the_rtl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NAMES, "--quiet", "--output", str(tmp_path)]) == 0
    assert "4 runs of 2 networks, 0 of " in capsys.readouterr().out
    report = json.loads((tmp_path / "networks-odd.json").read_text())
    assert [row["network"] for row in report["networks"]] == [NAMES[0]] * 2 + [NAMES[1]] * 2
    assert list(report["refused"]) == [NAMES[2]]
    for row in report["networks"]:
        assert row["bytes"] > 1000
        assert row["model"] == pytest.approx(row["cycles"], rel=0.03)
    assert f"| {NAMES[0]} | int8 | " in (tmp_path / "networks-odd.md").read_text()


def test_a_byte_that_differs_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a simulation that gives back the memory as it was."""

    class Same:
        done = True

        def __init__(self, memory: bytes) -> None:
            self.memory = memory

    monkeypatch.setattr("sim.accelerator.run.run_jobs", lambda runner, jobs, label: [Same(x.memory) for x in jobs])
    monkeypatch.setattr("sim.accelerator.model.accelerator_runner", lambda *given, **more: None)
    assert main(["input 1 x 1", "--quiet", "--output", str(tmp_path)]) == 1
    assert "input 1 x 1, int8: " in capsys.readouterr().out


def test_a_network_is_refused_only_where_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, refused, text in (
        ("leaky ReLU", "has no integer form", "must be refused"),
        ("unequal windows", "", "is refused: adaptive_avg_pool2d"),
        ("reflected edges", "another reason", "is refused: 'm'"),
    ):
        changed = Odd(ODD[name].body, ODD[name].parts, refused=refused)
        monkeypatch.setitem(ODD, name, changed)
        with pytest.raises(OddError, match=text):
            odd._add(name, odd.instance(), [], {})


def test_an_output_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = odd.instance()
    chain = prepared("zeros", "int8", odd.methods(config)["int8"], config)
    assert not isinstance(chain, str)
    monkeypatch.setattr("sw.program.Program.read", lambda self, memory, tensor: np.zeros(5))
    with pytest.raises(OddError, match=r"zeros, int8: output '.*' of the program is not that of the network"):
        prepared("zeros", "int8", odd.methods(config)["int8"], config)


def test_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["no such network"])
    error = capsys.readouterr().err
    assert "must be one of 'input 1 x 1', " in error
    assert error.endswith("not 'no such network'\n")


def test_results_in_the_repository_are_of_all_networks() -> None:
    report = json.loads((RESULTS / "networks-odd.json").read_text())
    accepted = {name for name, each in networks().items() if not each.refused}
    assert {row["network"] for row in report["networks"]} == accepted
    assert set(report["refused"]) == set(networks()) - accepted
    assert not any(row["different"] for row in report["networks"])
