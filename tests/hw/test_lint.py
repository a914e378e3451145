"""Verilator's lint of the generated Verilog: no warning but those that come from how Yosys writes Verilog."""

from __future__ import annotations

import subprocess

import pytest

from hw.config import VARIANTS, preset
from hw.generate import TOP, generate
from sim.toolchain import verilator_environment

WAIVED = {
    "WIDTHEXPAND": "Yosys leaves widths of operands implicit",
    "WIDTHTRUNC": "Yosys leaves widths of results implicit",
    "CASEINCOMPLETE": "Yosys leaves out the values of a case that change nothing",
    "UNUSEDSIGNAL": "Yosys declares a wire for every bit of a sum, needed or not",
    "DECLFILENAME": "the file has the preset's name and holds all modules",
    "PROCASSINIT": "registers have initial values beside their reset",
}


def _lint(verilog: str, folder, waived=WAIVED) -> subprocess.CompletedProcess[str]:
    (folder / "design.v").write_text(verilog)
    command = ["verilator", "--lint-only", "-Wall", *(f"-Wno-{kind}" for kind in waived), "--top-module", TOP]
    return subprocess.run(
        [*command, "design.v"], cwd=folder, env=verilator_environment(), capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_lint_of_tiny_presets(variant: str, tmp_path) -> None:
    name = f"{variant}-tiny"
    done = _lint(generate(preset(name), name).verilog, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("variant", ["ws", "ews-cm", "ews-msvq"])
def test_lint_with_all_pipeline_registers(variant: str, tmp_path) -> None:
    changes = ["zero_gating=true", "decoder_registers=4", "mrf_register=true", "tree_register_levels=1"]
    name = f"{variant}-tiny"
    done = _lint(generate(preset(name).override(changes), name).verilog, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_lint_sees_a_broken_design_and_every_waiver_is_needed(tmp_path) -> None:
    verilog = generate(preset("ews-cms-tiny"), "ews-cms-tiny").verilog
    undriven = verilog.replace(
        "endmodule", "  wire nobody_drives_this;\n  assign clk = nobody_drives_this;\nendmodule", 1
    )
    assert _lint(undriven, tmp_path).returncode != 0
    unwaived = _lint(verilog, tmp_path, ()).stderr
    assert all(f"%Warning-{kind}:" in unwaived for kind in WAIVED)
