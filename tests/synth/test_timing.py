"""Delays of sections between registers."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from hw.config import preset
from hw.rtlil import parse_modules
from synth import timing
from synth.generic import generic
from synth.liberty import LibraryError
from synth.report import component_rtlil

SECTIONS = {section.name: section for section in timing.SECTIONS}


def delay(name: str, config, cache) -> timing.Delay:
    (found,) = timing.delays(config, generic(), 2000.0, [SECTIONS[name]], cache=cache).values()
    return found


@pytest.mark.whole
def test_registers_in_the_mask_decoder_make_it_faster(tmp_path) -> None:
    config = preset("ews-cms-16")
    plain, cut = (delay("mask decoder", replace(config, decoder_registers=n), tmp_path) for n in (0, 4))
    assert 0 < cut.delay < 0.6 * plain.delay
    assert cut.area > 0
    assert " to " in cut.path
    # From the cache it is the same.
    files = sorted(tmp_path.glob("*.timing.json"))
    assert delay("mask decoder", config, tmp_path) == plain
    assert sorted(tmp_path.glob("*.timing.json")) == files


@pytest.mark.whole
def test_path_through_the_demultiplexers_goes_on_into_the_tree(tmp_path) -> None:
    config = preset("ews-cms-tiny").override(["H=8", "tree_register_levels=1"])
    name = "demux to first tree register"
    one = delay(name, config, tmp_path)
    assert SECTIONS[name].shrink(config).H == 2
    two = delay(name, replace(config, tree_register_levels=2), tmp_path)
    read = delay(name, replace(config, mrf_register=True), tmp_path)
    assert read.delay < one.delay < two.delay


def test_path_from_the_last_tree_register_into_the_prf(tmp_path) -> None:
    name = "last tree levels, PRF"
    assert preset("ews-cms-64").tree_registers == 1
    assert SECTIONS[name].exists(preset("ews-cms-64"))
    config = preset("ews-cms-tiny").override(["H=8"])
    found = []
    for levels, registers in ((2, 1), (0, 0)):
        changed = replace(config, tree_register_levels=levels)
        assert changed.tree_registers == registers
        found.append(delay(name, changed, tmp_path).delay)
    assert 0 < found[0] < found[1]
    for levels in (1, 3):  # a register is at the end
        assert not SECTIONS[name].exists(replace(config, tree_register_levels=levels))


def test_delays_beyond_the_clock_are_marked() -> None:
    library = replace(generic(), area_unit="um2")
    results = {"a": {"CRF": timing.Delay(1999.0, 1.0, "")}, "b": {"CRF": timing.Delay(2001.0, 1.0, "")}}
    text = "\n".join(timing.markdown(results, library, 2000.0))
    assert "| CRF | 1,999 | **2,001** |" in text
    assert "| longest | 1,999 | **2,001** |" in text
    # From register to register a tenth of the cycle has to be left, in either tool's opinion.
    margin = {
        "a": {"CRF": timing.Delay(1.0, 1.0, "", 1799.0, 1801.0)},
        "b": {"CRF": timing.Delay(1.0, 1.0, "", 1801.0, 1799.0)},
    }
    text = "\n".join(timing.markdown(margin, library, 2000.0))
    assert "| CRF | 1,799 | **1,801** |" in text
    assert "| CRF | **1,801** | 1,799 |" in text
    assert "beyond 1,800 ps, 90% of a clock of 500 MHz" in text
    # Gate equivalents have no real time.
    assert "**" not in "\n".join(timing.markdown(results, generic(), 2000.0))


@pytest.mark.whole
def test_faster_adders_where_the_clock_needs_them(tmp_path) -> None:
    config = preset("ews-tiny").override(["H=32"])
    section = [SECTIONS["adder tree"]]
    slow, fast = (
        timing.delays(config, generic(), clock, section, cache=tmp_path)["adder tree"] for clock in (1e5, 10.0)
    )
    # Faster adders, and then ABC with less of the cycle.
    assert len(list(tmp_path.glob("*.timing.json"))) == 5
    assert 0 < fast.delay < slow.delay


@pytest.mark.whole
def test_wide_register_file_loads_its_decoders(tmp_path) -> None:
    config = preset("ews-cms-tiny").override(["k=32"])
    narrow, wide = (delay("CRF", replace(config, d=d, M=d, L=d, l2_word_bytes=0), tmp_path) for d in (4, 32))
    assert 0 < narrow.delay < wide.delay
    assert wide.area > 4 * narrow.area


#: Of a vector unit with all functions.
VECTOR = {"vector unit product", "vector unit table"}


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("ews-tiny", {"mask decoder", "LZC, selection, signs", "CRF", "demux to first tree register", *VECTOR}),
        ("ews-c-tiny", {"mask decoder", "demux to first tree register", *VECTOR}),
        ("ews-msvq-tiny", VECTOR),
        ("ews-msvq-full-tiny", set()),
    ],
)
def test_sections_of_a_variant(name: str, absent: set[str]) -> None:
    missing = {section for section, x in SECTIONS.items() if not x.exists(preset(name))}
    assert missing - {"multipliers to first tree register", "weight loader, decoder's enables"} == absent


def test_borders_of_a_section_are_black_boxes(tmp_path) -> None:
    section = SECTIONS["PRF, accumulators, output"]
    config = section.shrink(preset("ews-cms-tiny"))
    modules = parse_modules(component_rtlil(config, tmp_path, *section.component))
    text = timing._section_text(modules, next(iter(modules)), section.without)
    kept = re.findall(r"^module \\(\w+)", text, re.MULTILINE)
    assert "design" in kept
    assert any("prf" in name for name in kept)
    assert not any(part in name for name in kept for part in ("row", "tree", "control", "wrf"))
    assert text.count("attribute \\blackbox 1") == 5


def test_command_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)  # for its cache
    arguments = ["--preset", "ews-cms-tiny", "--section", "mask decoder", "--section", "loop controller", "-o", "out"]
    assert timing.main(arguments) == 0
    text = capsys.readouterr().out
    assert text.strip() == (tmp_path / "out" / "timing.md").read_text().strip()
    described = json.loads((tmp_path / "out" / "timing.json").read_text())["presets"]["ews-cms-tiny"]
    assert described["configuration"] == preset("ews-cms-tiny").to_dict()
    found = {name: round(value["delay"]) for name, value in described["sections"].items()}
    assert set(found) == {"mask decoder", "loop controller"}
    for name, value in [*found.items(), ("longest", max(found.values()))]:
        assert f"| {name} | {value} |" in text


def test_an_instance_that_differs_from_its_preset_is_not_called_as_it_is(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--preset", "ews-cms-tiny", "--set", "H=2", "N=1", "--section", "mask decoder", "-o", "out"]
    assert timing.main(arguments) == 0
    ((name, found),) = json.loads((tmp_path / "out" / "timing.json").read_text())["presets"].items()
    assert name == "ews-cms-tiny H=2 N=1"
    assert found["configuration"]["H"] == 2
    assert f" {name} |" in capsys.readouterr().out


def test_clock_gates(tmp_path, monkeypatch, capsys, full: bool) -> None:
    """With them, what enables the weight decoder is a section, and an operation's issue ends at a row's clock gates."""
    monkeypatch.chdir(tmp_path)
    sections = ["loop controller, weight loader, one row", "weight loader, decoder's enables"]
    found = {}
    for storage in timing.STYLES if full else ("gated",):
        arguments = ["--preset", "ews-cms-tiny", "--storage", storage, "-o", storage]
        assert timing.main([*arguments, *(x for name in sections for x in ("--section", name))]) == 0
        report = json.loads((tmp_path / storage / "timing.json").read_text())
        assert report["storage"] == storage
        found[storage] = report["presets"]["ews-cms-tiny"]
        assert found[storage]["configuration"]["clock_gating"] == (storage == "gated")
    assert list(found["gated"]["sections"]) == sections
    if full:
        assert list(found["flipflop"]["sections"]) == sections[:1]
        assert found["gated"]["sections"][sections[0]]["area"] < found["flipflop"]["sections"][sections[0]]["area"]
    assert all(section["registered"] > 0 for section in found["gated"]["sections"].values())
    assert "No second opinion" in capsys.readouterr().out


def test_an_input_that_goes_to_more_tiles_comes_later(tmp_path) -> None:
    name = "WRF, MRF, multipliers, demux"
    config = preset("ews-tiny")
    few, many = (delay(name, config.override([f"L={lanes}"]), tmp_path) for lanes in (4, 32))
    # The same netlist.
    assert (few.delay, few.area) == (many.delay, many.area)
    assert few.registered < many.registered


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--section", "crf"], r"unknown section 'crf'; the sections are unpackers and weight loader; mask decoder;"),
        (["--clock", "0"], r"--clock must be above 0 and below 1000000, not 0"),
        (["--clock", "nan"], r"--clock must be above 0 and below 1000000, not nan"),
        (["--preset", "ews-1"], r"unknown preset 'ews-1'"),
        (["--set", "decoder_registers=9"], r"decoder_registers must be in 0\.\.8, not 9"),
        (["--lib", "missing.lib"], r"missing\.lib: cannot read the Liberty file"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], message: str, refused) -> None:
    assert re.search(message, refused(timing.main, arguments))


def test_a_bus_that_axi_has_not_is_said_before_the_core_is_timed(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "delays", None)
    arguments = ["--preset", "ews-tiny", "--set", "word_width=24"]
    assert "word_width must be a power of two in 8..512 for AXI, not 24" in refused(timing.main, arguments)


def test_library_without_a_buffer(tmp_path) -> None:
    library = generic()
    cells = {name: cell for name, cell in library.cells.items() if name != "BUF"}
    with pytest.raises(LibraryError, match="library generic has no buffer, which delays need"):
        timing.delays(
            preset("ews-tiny"), replace(library, cells=cells), 2000.0, [SECTIONS["loop controller"]], cache=tmp_path
        )
