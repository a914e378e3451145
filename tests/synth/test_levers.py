"""What could make the narrow array smaller, measured."""

from __future__ import annotations

import json

import pytest

from hw.config import preset
from synth import levers
from tests.synth.test_choices import counted


def test_every_lever_is_an_instance() -> None:
    """And changes what it says, of the dense array where that has it."""
    for lever in levers.LEVERS:
        for array in levers.ARRAYS:
            if preset(array).features.mask or not any(field[:2] == "N=" for field in lever.fields):
                assert (preset(array).override(lever.fields) != preset(array)) == bool(lever.fields), lever
        changes = bool(lever.fields) + (lever.storage != "flipflop") + lever.carry_save
        assert changes == (lever is not levers.LEVERS[0]), lever


def test_areas_and_cycles(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys, full: bool) -> None:
    if not full:
        monkeypatch.setattr("synth.report.area", counted)
    monkeypatch.chdir(tmp_path)  # for its cache
    shapes = [
        {"op": "input", "shape": [3, 8, 8]},
        {"op": "layer", "name": "a", "shape": [16, 3, 3, 3], "padding": 1, "raw": True},
        {"op": "layer", "name": "b", "shape": [16, 16, 3, 3], "padding": 1},
    ]
    (tmp_path / "shapes.json").write_text(json.dumps(shapes))
    monkeypatch.setattr(levers, "_SHAPES", tmp_path / "shapes.json")
    monkeypatch.setattr(levers, "ARRAYS", ("ews-msvq4-tiny", "ews4-tiny"))
    chosen = [
        levers.LEVERS[0],
        levers.Lever("few", ("wrf_depth=2",)),
        levers.Lever("masks", ("N=1", "M=2")),
    ]
    if full:
        chosen.append(levers.Lever("carry-save", carry_save=True))
    monkeypatch.setattr(levers, "LEVERS", chosen)
    assert levers.main(["-o", str(tmp_path)]) == 0
    found = {(e["lever"], e["array"]): e for e in json.loads((tmp_path / "levers.json").read_text())["levers"]}
    assert len(found) == (7 if full else 5)
    for array in levers.ARRAYS:
        few, whole = found["few", array], found["as it is", array]
        assert few["area"] < whole["area"]
        assert few["cycles"] >= whole["cycles"] > 0
        assert few["area"] == pytest.approx(sum(few["blocks"].values()))
        if not full:
            continue
        saved = found["carry-save", array]
        assert {block for block, area in saved["blocks"].items() if area != whole["blocks"][block]} == {"adder trees"}
        assert saved["area"] - whole["area"] == pytest.approx(
            saved["blocks"]["adder trees"] - whole["blocks"]["adder trees"]
        )
    text = (tmp_path / "levers.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    ours, dense = (found["few", array]["area"] for array in levers.ARRAYS)
    assert f"| {100 * (ours / dense - 1):+.1f} % |" in text
