"""Mapping keeps the function, and areas add up."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

import synth.__main__
from hw.config import PRESETS, preset
from hw.generate import to_rtlil
from hw.memory.register_file import RegisterFile
from hw.postprocess.requantiser import PARAMETERS
from hw.rtlil import parse_modules
from hw.yosys import YosysError, run_yosys
from synth import timing
from synth.__main__ import main
from synth.flow import Synthesiser, _adder_map
from synth.generic import generic
from synth.liberty import LibraryError
from synth.report import PAPER, UNITS, AreaReport, BlockArea, area, markdown, unit_area, unit_areas, write

# The generic cells as Verilog, for equivalence checks.
FA = "module FA (input A, B, C, output S, CO); assign {CO, S} = A + B + C; endmodule\n"


class Arithmetic(wiring.Component):
    """A product, a sum of three, a difference and a comparison."""

    def __init__(self) -> None:
        super().__init__(
            {
                "i_a": In(signed(6)), "i_b": In(signed(5)), "i_c": In(4),
                "o_product": Out(signed(11)), "o_sum": Out(signed(8)), "o_difference": Out(signed(7)), "o_less": Out(1),
            }
        )  # fmt: skip

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.o_product.eq(self.i_a * self.i_b),
            self.o_sum.eq(self.i_a + self.i_b + self.i_c),
            self.o_difference.eq(self.i_b - self.i_c),
            self.o_less.eq(self.i_a < self.i_b),
        ]
        return m


@pytest.fixture(scope="module")
def synthesiser(tmp_path_factory):
    return Synthesiser(generic(), tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("broken", [False, True])
def test_arithmetic_is_equivalent(synthesiser, broken, tmp_path) -> None:
    (tmp_path / "design.il").write_text(to_rtlil(Arithmetic()))
    for name, text in synthesiser.files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "fa.v").write_text(FA.replace("A + B + C", "A + B + B") if broken else FA)
    until = synthesiser.map_logic.index("techmap -map adder.v") + 1
    commands = [
        "read_rtlil design.il", "setattr -mod -unset top core", "proc", "rename core mapped", "copy mapped first",
        "select mapped", *synthesiser.map_logic[:until], "stat", "select -clear", "read_verilog fa.v",
        "miter -equiv -make_assert first mapped miter", "hierarchy -check -top miter", "proc", "flatten", "opt_clean",
        "sat -verify -prove-asserts miter",
    ]  # fmt: skip
    if broken:
        with pytest.raises(YosysError, match="proof did fail"):
            run_yosys(commands, tmp_path)
    else:
        log = run_yosys(commands, tmp_path)
        assert " FA\n" in log  # otherwise nothing was tested


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("gated", ["", "-D GATED", "-D GATED -D LATCH"])
def test_register_file_is_equivalent(gated, broken, tmp_path, synthesiser) -> None:
    (tmp_path / "design.il").write_text(to_rtlil(RegisterFile(4, 2, 2)))
    for name in ("register_file.v", "column.v"):
        (tmp_path / name).write_text(synthesiser.files[name])
    (tmp_path / "gate.v").write_text(
        "module clock_gate (input clock, enable, output out); reg held; "
        "always @* if (!clock) held = enable; assign out = clock & held; endmodule\n"
    )
    commands = [
        "read_rtlil design.il", "setattr -mod -unset top core", "delete t:$meminit_v2", "setattr -unset init w:*",
        "proc", "opt", "memory_collect", "copy core second", "rename core first",
        f"techmap -map register_file.v {gated} second",
        f"read_verilog -icells {gated} column.v", "read_verilog gate.v", "memory_map first",
        "miter -equiv -make_assert first second miter", "hierarchy -check -top miter", "proc", "flatten", "opt_clean",
        "select -assert-none t:$mem*", "clk2fflogic", "opt_clean",
        # Every step is a clock level: five cycles, enough to write and read each of the four words.
        "sat -verify -prove-asserts -set-init-zero -set-at 1 in_clk 0 -tempinduct-baseonly -maxsteps 10 miter",
    ]  # fmt: skip
    if broken:
        text = (tmp_path / "column.v").read_text()
        (tmp_path / "column.v").write_text(text.replace("|(held &", "|({held[SIZE-1:1], 1'b0} &"))
        with pytest.raises(YosysError, match="proof did fail"):
            run_yosys(commands, tmp_path)
    else:
        run_yosys(commands, tmp_path)


def test_areas_are_those_of_the_circuits(synthesiser) -> None:
    class Registers(wiring.Component):
        def __init__(self) -> None:
            super().__init__({"i_d": In(3), "o_q": Out(3)})

        def elaborate(self, platform):
            m = Module()
            m.d.sync += self.o_q.eq(self.i_d)
            return m

    netlist = synthesiser.netlists(to_rtlil(Registers()))["core"]
    # A synchronous reset: three flip-flops, and a gate each.
    assert netlist.cells["DFF"] == 3
    assert sum(netlist.cells.values()) >= 6
    gated = Synthesiser(generic(), synthesiser.cache, "gated").netlists(to_rtlil(RegisterFile(4, 5, 1)))["core"]
    assert (gated.cells["DFF"], gated.cells["CLOCKGATE"]) == (20, 4)
    latches = Synthesiser(generic(), synthesiser.cache, "latch").netlists(to_rtlil(RegisterFile(4, 5, 1)))["core"]
    assert (latches.cells["LATCH"], latches.cells["DFF"], latches.cells["CLOCKGATE"]) == (20, 5, 4)


def test_storage_needs_its_cells(tmp_path) -> None:
    plain = replace(generic(), clock_gate=None)
    netlist = Synthesiser(plain, tmp_path).netlists(to_rtlil(RegisterFile(4, 5, 1)))["core"]
    assert netlist.cells["DFF"] == 20
    assert "CLOCKGATE" not in netlist.cells
    with pytest.raises(LibraryError, match="library generic has no clock gate, which storage gated needs"):
        Synthesiser(plain, tmp_path, "gated")


def test_full_adder_with_inverted_outputs() -> None:
    library = generic()
    assert library.full_adder is not None
    text = _adder_map(replace(library, full_adder=replace(library.full_adder, inverted_sum=True)))
    assert "assign Y[i] = ~s;" in text
    assert "assign X[i] = x;" in text


def test_report(tmp_path) -> None:
    library, config = generic(), preset("ews-msvq-tiny")
    reports = {name: area(preset(name), library, cache=tmp_path / "cache") for name in ("ews-tiny", "ews-msvq-tiny")}
    report = reports["ews-msvq-tiny"]
    assert set(report.blocks) == {
        "CRF", "weight loader", "LZC", "WRF", "MRF", "multipliers", "demux", "adder trees", "PRF", "ARF",
        "control", "other",
    }  # fmt: skip
    assert set(reports["ews-tiny"].blocks) == set(report.blocks) - {"CRF", "LZC", "MRF", "demux"}
    flip_flop = library.cells["DFF"].area
    rows = config.H * config.tiles
    wrf = rows * config.wrf_depth * config.weight_bits * config.multipliers * flip_flop
    assert report.blocks["WRF"].sequential == pytest.approx(wrf)
    assert report.blocks["CRF"].sequential == pytest.approx(config.k * 7 * config.d * flip_flop)
    assert report.without_crf == pytest.approx(report.total - report.blocks["CRF"].area)
    assert 0 < report.sequential_share < 1
    # A second run comes from the cache and is the same.
    assert area(config, library, cache=tmp_path / "cache") == report

    json_path, markdown_path = write(reports, library, "flipflop", tmp_path / "out")
    described = json.loads(json_path.read_text())
    assert described["presets"]["ews-msvq-tiny"]["total"] == report.total
    assert described["library"]["sha256"] == library.sha256
    assert described["tools"]["yosys"]
    assert described["presets"]["ews-tiny"]["configuration"] == preset("ews-tiny").to_dict()
    assert markdown_path.read_text() == markdown(reports, "flipflop")
    change = 100 * (report.total / reports["ews-tiny"].total - 1)
    assert f"{change:+.1f} %" in markdown(reports, "flipflop")


@pytest.mark.whole
def test_units_around_the_array(tmp_path) -> None:
    narrow = ["H=2", "L=4", "address_bits=20", "loop_bits=6", "psum_width=16", "post_lanes=1", "vector_lanes=1"]
    library, config = generic(), preset("ews-cms-tiny").override([*narrow, "burst_words=1", "fifo_words=2"])
    units, bits = unit_areas(config, library, cache=tmp_path)
    assert set(units) == {*UNITS.values(), "counters"}
    assert all(unit.area > 0 for unit in units.values())
    # 15 counters of 32 bits, and an event each.
    assert units["counters"].sequential > 15 * 33 * library.cells["DFF"].area
    assert bits["L2"] == 8 * config.l2_word * config.l2_depth
    assert bits["L1 ifmap"] == 8 * config.H * config.l1_ifmap_depth
    assert bits["ofmap storer"] == config.prf_depth * config.L * PARAMETERS.size
    # Beside a dense one of twice the size, and one of which only the array is known.
    blocks = {"WRF": units["sequencer"], "other": units["registers"]}
    report = AreaReport(config.to_dict(), "generic", "NAND2", 1.0, blocks, units, bits)
    twice = {name: replace(unit, area=2 * unit.area) for name, unit in units.items()}
    two = {name: replace(block, area=2 * block.area) for name, block in blocks.items()}
    dense = AreaReport(preset("ews-tiny").override(["H=2", "L=4"]).to_dict(), "generic", "NAND2", 1.0, two, twice, bits)
    alone = replace(report, units={}, memory_bits={})
    text = markdown({"x": report, "dense": dense, "alone": alone}, "flipflop")
    around = sum(unit.area for unit in units.values())
    for name, size in (
        ("WRF", blocks["WRF"].area),
        ("sequencer", units["sequencer"].area),
        ("**around the array**", around),
        ("**all logic**", around + sum(block.area for block in blocks.values())),
    ):
        mark = "**" if "**" in name else ""
        assert f"| {name} | {mark}{size / 1e3:.4f}{mark} | {mark}{2 * size / 1e3:.4f}{mark} |\n" in text
    assert "| to EWS | -50.0 % | +0.0 % |" in text
    assert f"| memory of L2, KiB | {config.l2_bytes / 1024:.1f} |" in text
    assert report.to_dict()["memory_bits"] == bits


def test_narrow_arrays_stand_beside_both_dense_ones() -> None:
    """The 8-bit EWS is the base of all, that of as many bits of narrow ones; the paper's figures are of 8 bits."""
    sizes = {"ews-tiny": 8.0, "ews-msvq-tiny": 6.0, "ews4-tiny": 4.0, "ews-msvq4-tiny": 1.0}

    def report(name: str) -> AreaReport:
        block = {"WRF": BlockArea(sizes[name], 0.0, None)}
        return AreaReport(preset(name).to_dict(), "generic", "NAND2", 1.0, block, block)

    text = markdown({name: report(name) for name in sizes}, "flipflop")
    totals = next(line for line in text.splitlines() if line.startswith("| preset | total"))
    place = totals.strip("| ").split(" | ").index("to EWS")
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ews")]
    changes = {line[0].strip(): [cell.strip() for cell in line[place : place + 3]] for line in lines[: len(sizes)]}
    assert changes == {
        "ews-tiny": ["+0.0 %", "+0.0 %", ""],
        "ews-msvq-tiny": ["-25.0 %", "-25.0 %", ""],
        "ews4-tiny": ["-50.0 %", "-50.0 %", "+0.0 %"],
        "ews-msvq4-tiny": ["-87.5 %", "-87.5 %", "-75.0 %"],
    }
    assert "| to EWS | +0.0 % | -25.0 % | -50.0 % | -87.5 % |" in text
    assert "| to EWS of as many bits |  |  | +0.0 % | -75.0 % |" in text
    assert "as many bits" not in markdown({"ews-tiny": report("ews-tiny")}, "flipflop")
    alone = {name: replace(report(name), units={}) for name in sizes}
    assert "Whole accelerators" not in markdown(alone, "flipflop")


def test_report_shows_what_the_vector_functions_add() -> None:
    part = BlockArea(1000.0, 500.0, None)

    def report(name: str, **units: float) -> AreaReport:
        around = {unit.replace("_", " "): replace(part, area=area) for unit, area in units.items()}
        return AreaReport(preset(name).to_dict(), "gates", "NAND2", 1.0, {"WRF": part}, around)

    basic = report("ews-msvq-tiny", sequencer=300.0, vector_unit=500.0)
    full = report("ews-msvq-full-tiny", sequencer=300.0, vector_unit=700.0, products=50.0)
    text = markdown({"ews-msvq-tiny": basic, "ews-msvq-full-tiny": full}, "flipflop")
    _, _, gained = text.partition("What the functions of a full vector unit add to a basic one, kNAND2:\n\n")
    assert gained.splitlines()[:5] == [
        "| unit | basic | ews-msvq-full-tiny | more |",
        "| --- | ---: | ---: | ---: |",
        "| vector unit | 0.5000 | 0.7000 | 0.2000 |",
        "| products | 0.0000 | 0.0500 | 0.0500 |",
        "| **all logic** | **1.8000** | **2.0500** | **0.2500** |",
    ]
    assert "What the functions" not in markdown({"ews-tiny": report("ews-tiny", sequencer=1.0), "full": full}, "latch")


def test_reported_presets() -> None:
    """Every array of the paper's table of areas is among them."""
    reported = set(synth.__main__.MATRIX)
    assert {f"{variant}-{size}" for variant, sizes in PAPER.items() for size in sizes} <= reported
    assert reported | set(synth.__main__.WHOLE) | set(timing.PRESETS) <= set(PRESETS)
    assert set(synth.__main__.WHOLE) <= reported


def test_command_line_reports_all(tmp_path, monkeypatch, capsys) -> None:
    """Arrays of all presets, whole accelerators and delays of some; arrays alone where there is no bus."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synth.__main__, "MATRIX", ("ews-tiny", "ews-msvq-tiny"))
    monkeypatch.setattr(synth.__main__, "WHOLE", ("ews-msvq-tiny",))
    around = {"sequencer": BlockArea(1.0, 0.5, None)}, {"L2": 8192}
    monkeypatch.setattr("synth.report.unit_areas", lambda *given: around)
    monkeypatch.setattr(
        "synth.report.area",
        lambda config, library, *given: AreaReport(
            config.to_dict(), library.name, "NAND2", 1.0, {"WRF": around[0]["sequencer"]}
        ),
    )
    sections = [section for section in timing.SECTIONS if section.name in ("CRF", "loop controller")]
    monkeypatch.setattr(timing, "PRESETS", ("ews-msvq-tiny",))
    monkeypatch.setattr(timing, "delays", partial(timing.delays, sections=sections))
    assert main([]) == 0
    found, announced = capsys.readouterr()
    assert announced == (
        "2 arrays, 1 of them with all around them, and delays of 1: many minutes where they are not cached; "
        "--preset NAME is one array\n"
    )
    area_json, timing_json = (json.loads((tmp_path / f"build/synth/{x}.json").read_text()) for x in ("area", "timing"))
    assert {name: bool(x["units"]) for name, x in area_json["presets"].items()} == {
        "ews-tiny": False,
        "ews-msvq-tiny": True,
    }
    assert set(timing_json["presets"]["ews-msvq-tiny"]["sections"]) == {"CRF", "loop controller"}
    for name in ("area.md", "timing.md"):
        assert (tmp_path / "build/synth" / name).read_text().strip() in found
    named = ["--preset", "ews-tiny", "--preset", "ews-msvq-tiny", "--set", "word_width=24", "-o", "other"]
    assert main(named) == 0
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["area.json", "area.md"]
    # Instances that differ from a preset are not called as it is.
    found = json.loads((tmp_path / "other/area.json").read_text())["presets"]
    assert list(found) == ["ews-tiny word_width=24", "ews-msvq-tiny word_width=24"]
    assert not any(x["units"] for x in found.values())
    assert "| ews-tiny word_width=24 |" in (tmp_path / "other/area.md").read_text()
    capsys.readouterr()
    for arguments, message in (
        ([*named, "--around"], "the word_width of ews-tiny word_width=24 must be a power of two, not 24"),
        (["--around"], "--around must be given with --preset NAME and without --unit"),
        (["--around", "--preset", "ews-tiny", "--unit", "row"], "--around must be given with --preset NAME"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_unit(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    figures = {}
    for style in ("arithmetic", "table"):
        assert main(["--unit", "mask_decoder", "--preset", "ews-cms-tiny", "--set", f"mask_decoder={style}"]) == 0
        figures[style] = capsys.readouterr().out
        assert "2 of them" in figures[style]
    assert figures["arithmetic"] != figures["table"]
    modules = parse_modules(next((tmp_path / "build" / "synth" / "cache").glob("*.il")).read_text())
    assert any("mask_decoder" in name for name in modules)


@pytest.mark.parametrize(
    "damaged", ["", *(pytest.param(x, marks=pytest.mark.whole) for x in ("{}", "half", "changed"))]
)
@pytest.mark.parametrize("kind", ["il", "json"])
def test_damaged_caches_heal(kind: str, damaged: str, tmp_path) -> None:
    library, config = generic(), preset("ews-tiny")
    small = config.override(["H=1", "L=4", "prf_depth=2", "wrf_depth=2", "arf_depth=2"])
    report = unit_area(small, "control", library, cache=tmp_path)
    files = {path: path.read_text() for path in tmp_path.glob(f"*.{kind}")}
    assert files
    for path, text in files.items():
        if damaged == "half":
            path.write_text(text[: len(text) // 2])
        elif damaged == "changed":
            path.write_text(text[:-3] + "9" + text[-2:])
        else:
            path.write_text(damaged)
    assert unit_area(small, "control", library, cache=tmp_path) == report
    assert {path: path.read_text() for path in tmp_path.glob(f"*.{kind}")} == files
