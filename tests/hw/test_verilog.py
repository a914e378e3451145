"""Generated Verilog is the same design to every reader, and runs at time 0 in every language mode."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from hw.config import preset
from hw.generate import UNITS, generate
from hw.verilog import VerilogError, run_at_time_zero

YOSYS = r"""module top(a, y);
  reg \$auto$verilog_backend.cc:2505:dump_module$1  = 0;
  input a;
  output reg y;
  reg q = 1'h0;
  always @* begin
    if (\$auto$verilog_backend.cc:2505:dump_module$1 ) begin end
    y = q;
  end
endmodule

module other(b);
  input b;
endmodule
"""


@pytest.fixture(scope="module")
def designs() -> dict[str, str]:
    return {unit: generate(preset("ews-msvq-tiny"), "ews-msvq-tiny", unit).verilog for unit in UNITS}


def test_the_trigger_is_an_event_and_nothing_else_changes() -> None:
    name = r"\$auto$verilog_backend.cc:2505:dump_module$1 "
    mended = run_at_time_zero(YOSYS)
    assert f"initial {name}<= 1'h0;" in mended
    assert re.sub(r"  /\*.*\n|  initial .*\n", "", mended).replace(f"reg {name};", f"reg {name} = 0;") == YOSYS


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (YOSYS.replace("  reg \\$auto$verilog_backend.cc:2505:dump_module$1  = 0;\n", ""), 5),
        (YOSYS.replace("    if (\\$auto$verilog_backend.cc:2505:dump_module$1 ) begin end\n", ""), 6),
        (YOSYS.replace("endmodule\n\nmodule other", "  always @*\n    y = a;\nendmodule\n\nmodule other"), 10),
        (YOSYS.replace("  input b;\n", "  input b;\n  reg c;\n  always @* begin\n    c = b;\n  end\n"), 15),
    ],
)
def test_a_block_that_nothing_starts_is_refused(text: str, line: int) -> None:
    with pytest.raises(VerilogError, match=rf"line {line} of Yosys' Verilog: an always @\* that nothing starts"):
        run_at_time_zero(text)


@pytest.mark.parametrize("unit", UNITS)
def test_every_combinational_block_has_its_trigger(unit: str, designs) -> None:
    blocks = designs[unit].count("always @*")
    triggers = set(re.findall(r"^  initial (\\\S+) <= 1'h0;$", designs[unit], re.MULTILINE))
    started = re.findall(r"^  always @\* begin\n    if \((\\\S+) \) begin end$", designs[unit], re.MULTILINE)
    assert len(started) == blocks > 50
    assert set(started) <= triggers
    assert not re.search(r"^  reg \S+  ?= 0;$", designs[unit], re.MULTILINE)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("mode", ["", "-sv"])
def test_yosys_reads_what_it_wrote(unit: str, mode: str, designs, tmp_path) -> None:
    """In a process of its own, as Yosys ends its process on an error."""
    (tmp_path / "design.v").write_text(designs[unit])
    script = "from pyosys import libyosys; d = libyosys.Design(); [libyosys.run_pass(p, d) for p in {!r}]"
    passes = [f"read_verilog {mode} design.v", f"hierarchy -check -top {unit}", "proc", "check -assert"]
    command = [sys.executable, "-c", script.format(passes)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("unit", UNITS)
def test_slang_has_no_error(unit: str, designs) -> None:
    pyslang = pytest.importorskip("pyslang")
    from pyslang import ast, syntax

    compilation = ast.Compilation()
    compilation.addSyntaxTree(syntax.SyntaxTree.fromText(designs[unit], "design.v"))
    errors = [diagnostic for diagnostic in compilation.getAllDiagnostics() if diagnostic.isError()]
    assert [str(error.code) for error in errors] == []
    assert [str(top.name) for top in compilation.getRoot().topInstances] == [unit]
    broken = ast.Compilation()
    broken.addSyntaxTree(syntax.SyntaxTree.fromText(designs[unit].replace("input clk;", ""), "design.v"))
    assert any(diagnostic.isError() for diagnostic in broken.getAllDiagnostics())
    assert pyslang.__version__
