"""docs/tasks.md says what the committed accuracies say."""

from __future__ import annotations

import json

from experiments.protocol import TOLERANCE, bytes_apart
from tools import tasks


def test_page_is_the_committed_results() -> None:
    text = tasks.PAGE.read_text()
    assert tasks.render(text) == text


def test_results_follow_the_protocol() -> None:
    for study in tasks.STUDIES:
        runs = json.loads((tasks.RESULTS / f"{study}.json").read_text())["runs"]
        tries = json.loads((tasks.RESULTS / f"rates-{study}.json").read_text())["runs"]
        assert {run["scored_on"] for run in runs} == {"test"}
        assert {run["scored_on"] for run in tries} == {"held out"}
        assert {run["images"] for run in (*runs, *tries)} == {36_000}
        assert not {run["seed"] for run in runs} & {run["seed"] for run in tries}
        budgets = [sum(run["case"] == case for run in tries) for case in {run["case"] for run in tries}]
        assert len(set(budgets)) == 1
        for bits in {run["mean_bits"] for run in runs} - {None}:
            assert bytes_apart([run["file_bytes"] for run in runs if run["mean_bits"] == bits]) < TOLERANCE


def test_a_question_takes_the_cases_of_one_size() -> None:
    case = tasks.Case("VQ", [50.0], 60.0, 1000, 21.0)
    better = tasks.Case("VQ", [55.0], 60.0, 1000, 21.0)
    found = {"VQ d=8": case, "VQ d=4": better, "26x VQ d=8": case, "26x SSVQ": better}
    assert tasks._case(found, "", "VQ") is better
    assert tasks._case(found, "26x ", "VQ") is case
    assert tasks._case(found, "26x ", "SSVQ") is better
    assert tasks._case(found, "16x ", "VQ") is None
