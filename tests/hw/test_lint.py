"""Verilator's lint of the generated Verilog: no warning but those that come from how Yosys writes Verilog."""

from __future__ import annotations

import re
import subprocess

import pytest

from hw.config import VARIANTS, preset
from hw.generate import TOP, generate, write
from hw.kit import WAIVERS
from sim.toolchain import verilator_environment


def _lint(verilog: str, folder, waived=WAIVERS) -> subprocess.CompletedProcess[str]:
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
    changes += ["psum_register=true", "scaler_register=true", "transfer_register=true"]
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
    assert all(f"%Warning-{kind}:" in unwaived for kind in WAIVERS if kind != "PINCONNECTEMPTY")


@pytest.mark.whole
def test_two_instances_lint_together_with_the_waivers_that_travel_with_them(tmp_path) -> None:
    modules = []
    for name, unit, config in (
        ("npu_a", "accelerator", preset("ews-cms-tiny")),
        ("npu_b", "accelerator", preset("ews-tiny").override(["H=3"])),
        ("core_c", "core", preset("ews-msvq-tiny")),
    ):
        generated = generate(config, name, unit, name)
        write(generated, tmp_path)
        modules += re.findall(r"^module (\w+)", generated.verilog, re.MULTILINE)
        assert generated.manifest["top"] == name
    assert len(set(modules)) == len(modules)
    assert all(module.startswith(("npu_a", "npu_b", "core_c")) for module in modules)
    both = "module both(input clk, input rst, output [1:0] irq);\n" + "".join(
        f"  npu_{x} {x} (.clk(clk), .rst(rst), .o_interrupt(irq[{i}]));\n" for i, x in enumerate("ab")
    )
    (tmp_path / "both.v").write_text(both + "endmodule\n")
    files = [f"{name}{end}" for end in (".vlt", ".v") for name in ("npu_a", "npu_b")]
    command = ["verilator", "--lint-only", "-Wall", "-Wno-PINMISSING", "--top-module", "both", *files, "both.v"]
    done = subprocess.run(
        command, cwd=tmp_path, env=verilator_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    # A mistake of the design around them is not waived.
    (tmp_path / "both.v").write_text(
        "module both(input clk, input rst, output [1:0] irq);\n"
        "  npu_a a (.clk(clk), .rst(rst), .o_interrupt(irq));\nendmodule\n"
    )
    command = [word for word in command if "npu_b" not in word]
    assert subprocess.run(command, cwd=tmp_path, env=verilator_environment(), capture_output=True).returncode
