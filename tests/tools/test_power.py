"""docs/power.md shows the committed energies, and its sentences repeat no other figures."""

from __future__ import annotations

import json
from math import log2

import pytest

from tools import power

PRESETS = json.loads(power.COMMITTED.read_text())["presets"]


def test_the_page_is_what_the_results_say() -> None:
    text = power.PAGE.read_text()
    assert power.render(text) == text


def test_missing_part_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"power.md must have one part 'acceptance', not 0"):
        power.render("")


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("account", ["macro", "paper"])
@pytest.mark.parametrize("name", ["ews-64", "ews-cms-64", "ews-msvq4-64"])
def test_totals_from_counters_alone(name: str, account: str, inner: bool) -> None:
    """The sums of the report, put together once more from its counters, without the code that made them."""
    entry = PRESETS[name]
    config, network = entry["configuration"], entry["network"]
    whole, inside = network["counters"], network["inner"]["counters"]
    scope, counts = (network["inner"], inside) if inner else (network, whole)
    places = config["H"] * config["L"]
    energy = inside["operations"] * entry["per_mac"] * places + inside["row_writes"] * entry["row_write"]
    if not inner:
        energy += (whole["operations"] - inside["operations"]) * entry["first"]["operation"]
        energy += (whole["row_writes"] - inside["row_writes"]) * entry["first"]["row_write"]
    energy += (counts["cycles"] - counts["operations"]) * entry["stall"] * places
    l2 = 64 * (counts["l2_reads"] + counts["l2_writes"])
    ifmap = config["H"] * (counts["l1_reads"] + counts["l1_writes"])
    psum = config["L"] * config["psum_width"] // 8 * (counts["psum_reads"] + counts["psum_writes"])
    if account == "macro":

        def byte(capacity: int) -> float:
            # Between 32 KiB and 1 MiB five times the energy for 32 times the bits.
            return float(2500 * 5 ** (log2(capacity / 32768) / 5) * (1.1 / 0.9) ** 2)

        energy += l2 * byte(config["l2_bytes"]) + ifmap * byte(config["l1_ifmap_bytes"])
        energy += psum * byte(config["l1_psum_bytes"])
    else:
        parts = [PRESETS["ews-64"]["blocks"][block] for block in ("multipliers", "adder trees")]
        mac = sum(part["data"] + part["clock"] for part in parts)
        energy += mac * (15 * (l2 + 2 * scope["weights"]) + 6 * (ifmap + psum))
    assert power.total(entry, account, inner) == pytest.approx(energy / scope["macs"], rel=1e-6)


def test_figures_in_sentences() -> None:
    text = " ".join(power.PAGE.read_text().split())
    ews, cms = (PRESETS[name] for name in ("ews-64", "ews-cms-64"))
    half = PRESETS["ews-cms-64 N=8"]
    network, array = cms["network"], power.total(ews, "array", True) / power.total(cms, "array", True)
    saved = (ews["network"]["weights"] - network["weights"]) * 1000 / network["macs"]
    inner = [entry["network"]["inner"] for entry in (ews, cms)]
    memories = [scope["memories"]["model_per_mac"] for scope in inner]
    sums = [scope["array_per_mac"] + memories[1] for scope in inner]
    own = power.ratio("ews-cms-64", "macro", inner=True)
    for sentence in (
        f"memories cost it {memories[0]:.0f} fJ and EWS-CMS {memories[1]:.0f}. With {memories[1]:.0f} for both,"
        f" the ratio there would be {sums[0] / sums[1]:.2f} instead of {own:.2f}.",
        f"at 8 of 16 takes {half['per_mac']:.0f} fJ in the array, where 4 of 16 takes {cms['per_mac']:.0f};",
        f"without these two layers, have [{array:.2f} times](#figures)",
        f"so that {saved:.1f} bytes a 1,000 multiply-accumulates that EWS-CMS saves count for nothing",
        f"are {network['first']:.0f} of {network['array']['operations']:.0f} fJ of operations",
    ):
        assert sentence in text
