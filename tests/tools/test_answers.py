"""docs/training.md says what the committed accuracies say."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tools import answers


def test_page_and_pictures_are_the_committed_results() -> None:
    text = answers.PAGE.read_text()
    assert answers.render(text) == text
    for study in answers.STUDIES:
        assert (answers.RESULTS / f"{study}.svg").read_text() == answers.picture(study)
        assert f"(results/{study}.svg)" in text


def case(*accuracies: float, file_bytes: int = 1000, name: str = "one") -> answers.Case:
    return answers.Case(name, list(accuracies), 92.0, file_bytes, 20.0)


@pytest.mark.parametrize(
    ("this", "that", "by", "verdict"),
    [
        (case(90.0, 90.2), case(89.0, 89.2), "+1.00 ± 0.20", "yes"),
        (case(89.0, 89.2), case(90.0, 90.2), "-1.00 ± 0.20", "no"),
        (case(90.0, 90.2), case(89.9, 90.1), "+0.10 ± 0.20", "within the spread"),
        (case(90.0), case(89.9, 89.9), "+0.10 ± 0.00", "yes"),
    ],
)
def test_verdicts(this: answers.Case, that: answers.Case, by: str, verdict: str) -> None:
    cells = [cell.strip() for cell in answers._row("A of B", "net", this, that).strip("|").split("|")]
    assert cells[2] == f"one {this.mean:.2f} (1.0 kB)"
    assert (cells[4], cells[6]) == (by, verdict)
    assert cells[5] == str(min(len(this.accuracies), len(that.accuracies)))


def test_best_single_keeps_within_the_bytes() -> None:
    found = {
        "mixed search": case(95.0, name="mixed search"),
        "small": case(80.0, file_bytes=900, name="small"),
        "as large": case(85.0, file_bytes=1004, name="as large"),
        "large": case(90.0, file_bytes=1100, name="large"),
    }
    assert answers._best_single(found, 1000).name == "as large"
    assert answers._best_single(found, 1100).name == "large"


def test_picture_has_every_run() -> None:
    for study in answers.STUDIES:
        runs = json.loads((answers.RESULTS / f"{study}.json").read_text())["runs"]
        text = answers.picture(study)
        ElementTree.fromstring(text)
        assert text.count("<circle") == len(runs)
        for name in {run["case"] for run in runs}:
            assert re.search(rf">{re.escape(name).replace(chr(39), '&#x27;')}<", text), name
