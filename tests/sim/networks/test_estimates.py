from __future__ import annotations

import json

import pytest

from sim.networks.__main__ import RESULTS
from sim.networks.estimates import compare, markdown


@pytest.mark.parametrize(
    ("network", "preset", "apart"),
    [("resnet20", "ews-cms-16", 0.035), ("deit-tiny", "ews-ssvq-32", 0.035), ("resnet18-64", "ews-64", 0.08)],
)
def test_layers_of_a_report_are_near_its_rtl(network: str, preset: str, apart: float) -> None:
    reports = json.loads((RESULTS / f"networks-{network}.json").read_text())
    (report,) = (report for report in reports if report["preset"] == preset and report["source"] == "RTL")
    row = compare(report)
    assert [layer["layer"] for layer in row["layers"]] == [layer["layer"] for layer in report["layers"]]
    assert row["rtl"] == report["summary"]["cycles"]
    assert row["estimate"] == pytest.approx(row["rtl"], rel=0.01)
    for layer in row["layers"]:
        assert layer["estimate"] == pytest.approx(layer["rtl"], rel=apart), layer["layer"]


def test_page() -> None:
    layers = [{"layer": "one", "rtl": 200, "estimate": 210}, {"layer": "second", "rtl": 1000, "estimate": 1001}]
    row = {"network": "net", "preset": "ews-16", "rtl": 1200, "estimate": 1211, "layers": layers}
    page = markdown([{**row, "milliseconds": 1.5, "milliseconds_of_tiling": 20.0}])
    assert "| net | ews-16 | 1200 | +0.92 | 2 | 1 | one | 200 | +5.00 | 1.5 | 20.0 |" in page
    assert "| net | ews-16 | one | 200 | 210 | +5.00 |" in page
    assert "| second |" not in page
