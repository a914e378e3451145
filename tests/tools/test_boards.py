"""docs/board.md says what the committed builds say, and a new build takes the place of its board's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fpga.image import NETWORKS
from hw.boards.platforms import BOARDS
from tools import boards


def test_page_is_the_committed_results() -> None:
    text = boards.PAGE.read_text()
    assert boards.render(text, json.loads(boards.COMMITTED.read_text())) == text


def test_committed_builds_reach_their_clock() -> None:
    reports = json.loads(boards.COMMITTED.read_text())
    assert len({report["board"] for report in reports.values()}) >= 2
    for report in reports.values():
        assert report["board"] in BOARDS
        assert report["network"] in NETWORKS
        assert report["fmax_mhz"] >= report["clock_mhz"] >= 40
        assert report["configuration"]["H"] >= 8
        assert report["configuration"]["L"] >= 8
        assert report["processor_seconds"] < 30 * 60


def test_a_build_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    report = {"board": "a", "network": "x", "seed": 2, "used": {"DP16KD": 3}, "available": {"DP16KD": 4, "more": 1}}
    (tmp_path / "a-x").mkdir()
    (tmp_path / "a-x" / "board.json").write_text(json.dumps(report))
    found = boards.condense(tmp_path, {"b x": {"board": "b"}, "a x": {"seed": 1}})
    assert list(found) == ["a x", "b x"]
    assert found["a x"]["seed"] == 2
    assert found["a x"]["used"] == {"TRELLIS_COMB": 0, "TRELLIS_FF": 0, "DP16KD": 3, "MULT18X18D": 0}


def test_missing_part_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"board.md must have one part 'boards', not 0"):
        boards.render("", {})
