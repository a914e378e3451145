"""docs/papers.md shows the committed results."""

from __future__ import annotations

import pytest

from hw.config import preset
from synth.papers import published, values
from synth.papers.__main__ import ARRAYS, NETWORKS, VARIANTS, measure
from synth.papers.energy import access_cost, network_energy
from tools import papers


def test_the_page_is_what_the_results_say() -> None:
    text = papers.PAGE.read_text()
    assert papers.render(text) == text


def test_every_figure_has_its_source() -> None:
    for name, entry in published().items():
        assert set(entry) - {"note"} == {"paper", "where", "section", "title", "unit", "conditions", "values"}, name
        assert entry["where"] in (name, "abstract")
    table = values("table 7")
    total = sum(table[name]["64"] for name in ("EWS-CMS", "L1", "L2", "others"))
    assert total == pytest.approx(values("table 9")["MVQ-64"]["mm2"], abs=0.01)


def test_results_have_every_network_variant_and_array() -> None:
    wanted = [(NETWORKS[n], VARIANTS[v], *array) for n in NETWORKS for array in ARRAYS for v in VARIANTS]
    assert set(papers.runs()) == set(wanted)
    assert not any(run["does_not_fit"] for run in papers.runs().values())


def test_a_run_is_what_the_model_says() -> None:
    """Of one network; the others cost seconds."""
    run = measure("mobilenetv1", "ews-cms", 64, 64)
    assert papers.runs()["MobileNet-v1", "EWS-CMS", 64, 64] == run
    whole, inner, convolutions = (run[scope] for scope in ("whole", "without_ends", "convolutions"))
    assert whole["macs"] == 568740352  # of the network's definition, at 224 x 224
    assert whole["macs"] - inner["macs"] == 32 * 27 * 112 * 112 + 1024 * 1000
    depthwise = ((32, 112), (64, 56), (128, 56), (128, 28), (256, 28), (256, 14), *[(512, 14)] * 5, (512, 7), (1024, 7))
    assert inner["macs"] - convolutions["macs"] == sum(channels * 9 * size**2 for channels, size in depthwise)
    for scope in (whole, inner, convolutions):
        assert scope["counters"]["cycles"] * 64 * 64 >= scope["macs"]


def test_fully_connected_layers_are_no_convolutions() -> None:
    """Nor is the one behind the last map, which the array runs as a convolution of the map's size."""
    scope = papers.runs()["AlexNet", "EWS-CMS", 64, 64]["convolutions"]
    assert scope["macs"] == 27**2 * 192 * 64 * 25 + 13**2 * 9 * (384 * 192 + 256 * 384 + 256 * 256)


def test_changes_of_the_instance() -> None:
    """At 8 of 16 the array takes as many operations; masks have other codes, and layers are cut otherwise."""
    run = papers.runs()["AlexNet", "EWS-CMS", 64, 64]["convolutions"]["counters"]
    half = measure("alexnet", "ews-cms", 64, 64, ["N=8"])["convolutions"]["counters"]
    assert half["operations"] == run["operations"]
    assert half["dram_reads"] != run["dram_reads"]


def test_energy_by_hand() -> None:
    config = preset("ews-16")
    counts = dict.fromkeys(
        (
            *("l2_reads", "l2_writes", "l1_reads", "l1_writes", "psum_reads", "psum_writes"),
            *("dram_reads", "dram_writes", "descriptors"),
        ),
        0,
    )
    scope = {"macs": 1000, "counters": {**counts, "operations": 10, "row_writes": 3, "cycles": 15, "l1_reads": 2}}
    entry = {"configuration": config.to_dict(), "per_mac": 2.0, "row_write": 100.0, "stall": 0.5, "network": {}}
    found = network_energy(entry, 4.0, scope, {})
    assert (found.operations, found.rows, found.waiting) == (10 * 2 * 256, 300, 5 * 0.5 * 256)
    assert found.memories_paper == found.memories_staged == 2 * 16 * 6 * 4
    total = found.operations + found.rows + found.waiting
    assert found.tops_per_watt(staged=True) == pytest.approx(2000 * 1000 / (total + 768))
    # A descriptor is 64 bytes, 8 words of the bus: 5 words are weights, written to L2 and read from there.
    counts = {**scope["counters"], "dram_reads": 8 + 5, "descriptors": 1}
    staged = network_energy(entry, 4.0, {**scope, "counters": counts}, {})
    assert staged.memories_paper == found.memories_paper
    assert staged.memories_staged == found.memories_paper + 2 * 5 * 8 * 15 * 4
    costs = {"L1": 6, "L2": 15, "DRAM": 200}
    assert access_cost(config, {**scope["counters"], "dram_reads": 1}, costs, dram=True) == 2 * 16 * 6 + 8 * 200
    assert access_cost(config, {**scope["counters"], "dram_reads": 1}, costs, dram=False) == 2 * 16 * 6


def test_energies_come_from_a_report() -> None:
    """With made-up energies that are alike, efficiencies differ by what the counters say alone."""
    entries = {}
    for variant in ("ws", "ews", "ews-cms"):
        parts = {"multipliers": {"data": 1.0, "clock": 0.5}, "adder trees": {"data": 0.5}}
        alike = {"per_mac": 2.0, "row_write": 10.0, "stall": 0.1, "network": {"voltage": 1.1}, "blocks": parts}
        entries[f"{variant}-64"] = {"configuration": preset(f"{variant}-64").to_dict(), **alike}
    found = papers.efficiencies("ResNet-18", 64, entries)
    assert list(found) == ["WS", "EWS", "EWS-CMS"]
    run = papers.runs()["ResNet-18", "EWS", 64, 64]["without_ends"]
    assert found["EWS"].operations == run["counters"]["operations"] * 2.0 * 4096
    assert found["EWS"].waiting > found["EWS-CMS"].waiting
    assert papers.efficiencies("ResNet-18", 64, {}) == {}


def test_missing_part_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"papers\.md must have one part 'table2', not 0"):
        papers.render("# nothing marked here\n")
