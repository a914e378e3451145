"""The measurements behind choices of the hardware."""

from __future__ import annotations

import json

import pytest

from synth import choices
from synth.generic import generic
from synth.report import AreaReport, BlockArea


def counted(config, library, storage: str = "flipflop", *_) -> AreaReport:
    """In the place of a synthesis, which test_flow.py has in every run: bits of registers, gated ones a little less."""
    bits = config.wrf_depth * config.multipliers * config.weight_bits
    blocks = {"WRF": BlockArea(bits * (1.0 if storage == "flipflop" else 0.9), bits, None)}
    blocks |= {"CRF": BlockArea(config.k * config.d, 0.0, None)} if config.features.codebook else {}
    return AreaReport(config.to_dict(), library.name, library.area_unit, library.nand2.area, blocks)


def test_areas_of_decoders_and_storages(monkeypatch, tmp_path, capsys, full: bool) -> None:
    if not full:
        monkeypatch.setattr("synth.report.area", counted)
    monkeypatch.chdir(tmp_path)  # for its cache
    monkeypatch.setattr(choices, "PATTERNS", ((2, 4),))
    monkeypatch.setattr(choices, "measure", lambda library: MEASURE(library, "tiny", progress=False))
    monkeypatch.setattr("synth.flow.STORAGES", ("flipflop", "gated"))
    assert choices.main(["-o", str(tmp_path)]) == 0
    measured = json.loads((tmp_path / "choices.json").read_text())
    assert set(measured["mask_decoder"]["2:4"]) == {"arithmetic", "table"}
    plain, gated = (measured["storage"][storage]["ews"]["total"] for storage in ("flipflop", "gated"))
    assert 0 < gated != plain
    text = (tmp_path / "choices.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    change = 100 * (measured["storage"]["gated"]["ews-cms"]["total"] / gated - 1)
    assert f"| {change:+.1f} % |" in text
    assert generic().name in text


MEASURE = choices.measure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pdk", "none"], "unknown library 'none'"),
        (["--pdk", "generic", "--lib", "x.lib"], "not both"),
        (["--lib", "missing.lib"], "missing.lib"),
    ],
)
def test_bad_library_is_one_line(arguments: list[str], message: str, refused) -> None:
    assert message in refused(choices.main, arguments)
