"""README.md and docs show the committed results, and list every hardware block."""

from __future__ import annotations

import json
import re

import pytest

from tools import readme


def part(name: str) -> str:
    page = next(page for page, names in readme.PAGES.items() if name in names)
    found = re.search(rf"<!-- {name}: begin.*?-->\n(.*?)<!-- {name}: end -->", page.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


NAMES = ["headlines", "compression", "accuracy", "cosimulation", "networks", "area", "whole", "choices"]


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_the_committed_results(name: str) -> None:
    assert part(name).splitlines() == list(readme.parts()[name]())


def test_every_block_is_listed() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", part("blocks"), re.MULTILINE)
    assert listed == re.findall(r"^\| `(\w+)` \|", "\n".join(readme.blocks_part()), re.MULTILINE)
    assert {"WeightDecoder", "Tile", "MaskDecoder"} <= set(listed)


def test_committed_results_are_bit_exact() -> None:
    demo = json.loads((readme.RESULTS / "demo.json").read_text())
    assert [report["mismatches"] for report in demo["cosimulation"]] == [0, 0, 0]


def test_missing_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="must have one part 'headlines', not 0"):
        readme.render("# nothing marked here\n")


def test_links_lead_to_files() -> None:
    for page in readme.PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), target


def test_the_front_page_is_short() -> None:
    assert len(readme.README.read_text().splitlines()) <= 120


@pytest.mark.parametrize("name", ["area", "whole"])
def test_areas_and_delays_say_what_they_were_made_with(name: str) -> None:
    tables = len(re.findall(r"^\|-", part(name), re.MULTILINE))
    said = re.findall(r"^Library \w+, registers: (?:flipflop|gated|latch), Yosys [\d.]+[,;]", part(name), re.MULTILINE)
    assert len(said) == tables > 0


def test_some_presets_do_not_take_the_place_of_all(tmp_path, monkeypatch, refused) -> None:
    """As after ``python -m synth --preset ews-16``, whose report lies where that of ``make synth`` did."""
    results, built = tmp_path / "docs" / "results", tmp_path / "build" / "synth"
    for folder in (results, built):
        folder.mkdir(parents=True)
    for name in ("area-generic.json", "area-generic.md"):
        (results / name).write_bytes((readme.RESULTS / name).read_bytes())
    committed = json.loads((results / "area-generic.json").read_text())
    before = {path: path.read_bytes() for path in results.iterdir()}
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "RESULTS", results)
    monkeypatch.setattr(readme, "PAGES", {})
    monkeypatch.setattr(readme, "condense_area", dict)
    (built / "area.md").write_text("all\n")
    some = {name: entry for name, entry in committed["presets"].items() if name == "ews-16"}
    (built / "area.json").write_text(json.dumps(committed | {"presets": some}))
    error = refused(readme.main, [])
    assert re.search(r"area\.json lacks \d+ presets of docs/results/area-generic\.json, such as .*: make synth", error)
    assert {path: path.read_bytes() for path in results.iterdir()} == before
    (built / "area.json").write_text(json.dumps(committed))
    assert readme.main([]) == 0
    assert (results / "area-generic.md").read_text() == "all\n"
    assert json.loads((results / "area-generic.json").read_text()) == committed
