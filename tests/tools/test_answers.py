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
    cells = [cell.strip() for cell in answers.verdict_row("A of B", "net", this, that).strip("|").split("|")]
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


def test_ssvq_is_compared_with_the_better_vq() -> None:
    found = {"VQ d=8": case(80.0), "VQ d=4": case(85.0), "SSVQ fixed signs": case(90.0)}
    assert answers.best_vq(found) is found["VQ d=4"]
    assert answers.best_vq({"VQ d=8": found["VQ d=8"]}) is found["VQ d=8"]


def test_no_epochs_is_the_accuracy_before_training() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in answers.epochs_part()]
    runs = json.loads((answers.RESULTS / "signs-vit.json").read_text())["runs"]
    for cells, key in ((rows[2], "accuracy_before"), (rows[5], "accuracy")):
        for name, cell in zip(rows[0][1:4], cells[1:4], strict=True):
            accuracies = [run[key] for run in runs if run["case"] == name]
            assert float(cell.split(" ")[0]) == pytest.approx(sum(accuracies) / len(accuracies), abs=0.006)
    assert [cells[0] for cells in rows[2:]] == list(map(str, answers.EPOCHS))


def test_picture_has_every_run() -> None:
    for study in answers.STUDIES:
        runs = json.loads((answers.RESULTS / f"{study}.json").read_text())["runs"]
        text = answers.picture(study)
        ElementTree.fromstring(text)
        assert text.count("<circle") == len(runs)
        for name in {run["case"] for run in runs}:
            assert re.search(rf">{re.escape(name).replace(chr(39), '&#x27;')}<", text), name
