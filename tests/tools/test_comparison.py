"""docs/comparison.md shows the committed results."""

from __future__ import annotations

import json

import pytest

from hw.config import preset
from tools import comparison


def test_the_page_is_what_the_results_say() -> None:
    text = comparison.PAGE.read_text()
    assert comparison.render(text) == text


def test_every_array_has_results() -> None:
    presets = json.loads((comparison.RESULTS / "area-nangate45_typ.json").read_text())["presets"]
    for array in comparison.ARRAYS:
        for size in comparison.SIZES:
            config = preset(f"{array.preset}-{size}")
            found = presets[f"{array.preset}-{size}"]
            assert (found["variant"], found["weight_bits"]) == (config.variant, config.weight_bits)
        for study, case in array.cases.values():
            report = json.loads((comparison.RESULTS / f"{study}.json").read_text())
            assert case in {entry["case"] for entry in report["summary"]}


def test_narrow_networks_have_no_byte_different() -> None:
    paths = list(comparison.RESULTS.glob("networks-*-narrow.json"))
    assert paths
    for path in paths:
        for run in json.loads(path.read_text()):
            if run["source"] == "RTL":
                assert run["compared"]["different"] == 0, path.name


def test_missing_part_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"comparison\.md must have one part 'headline', not 0"):
        comparison.render("# nothing marked here\n")
