from __future__ import annotations

import json
from pathlib import Path

import pytest

from sw.format.strict_json import json_text

LONG = "n" * 120


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        ({"a": [], "b": {}, "c": [1, 2]}, ['{"a": [], "b": {}, "c": [1, 2]}']),
        ({"runs": [{"a": 1}], "x": LONG}, ["{", ' "runs": [{"a": 1}],', f' "x": "{LONG}"', "}"]),
        ([{"name": LONG, "scores": [1, 2]}], ["[", f' {{"name": "{LONG}", "scores": [1, 2]}}', "]"]),
        ([{"runs": [{"a": LONG}]}], ["[", " {", '  "runs": [', f'   {{"a": "{LONG}"}}', "  ]", " }", "]"]),
        (list(range(100)), [str(list(range(100)))]),
    ],
)
def test_a_report_has_an_item_a_line(value: object, lines: list[str]) -> None:
    text = json_text(value)
    assert text.splitlines() == lines
    assert json.loads(text) == value


def test_committed_reports_have_an_item_a_line() -> None:
    for path in sorted((Path(__file__).parents[3] / "docs" / "results").rglob("*.json")):
        text = path.read_text()
        assert text == json_text(json.loads(text)), f"{path}: sw.format.strict_json.json_text writes it"
