"""Generated Verilog is the same design to every reader, and runs at time 0 in every language mode."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from hw.config import VARIANTS, preset
from hw.generate import UNITS, generate
from hw.kit import waiver_file
from hw.verilog import KEYWORDS, VerilogError, run_at_time_zero
from sim.toolchain import verilator_environment

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


def slang_errors(verilog: str, top: str) -> list[str]:
    """What slang, a third reader of Verilog, has against a design."""
    from pyslang import ast, syntax

    compilation = ast.Compilation()
    compilation.addSyntaxTree(syntax.SyntaxTree.fromText(verilog, "design.v"))
    assert [str(found.name) for found in compilation.getRoot().topInstances] == [top]
    return [str(found.code) for found in compilation.getAllDiagnostics() if found.isError()]


@pytest.mark.parametrize("unit", UNITS)
def test_slang_has_no_error(unit: str, designs) -> None:
    pyslang = pytest.importorskip("pyslang")
    assert slang_errors(designs[unit], unit) == []
    assert slang_errors(designs[unit].replace("input clk;", ""), unit)
    assert pyslang.__version__


def test_keywords_are_what_slang_takes_for_them() -> None:
    pytest.importorskip("pyslang")
    from pyslang import parsing, syntax

    def refused(name: str) -> bool:
        tree = syntax.SyntaxTree.fromText(f"module {name}; endmodule")
        return any(found.isError() for found in tree.diagnostics)

    assert {word for word in KEYWORDS if not refused(word)} == set()
    theirs = {name for name in dir(parsing.TokenKind) if name.endswith("Keyword")}
    assert {word.replace("_", "") + "keyword" for word in KEYWORDS} == {name.lower() for name in theirs}
    assert not refused("npu")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Weights of every width with every variant in a full run, two of them with all vector functions; else a narrow one
    that has them all."""
    if "instance" in metafunc.fixturenames:
        every = [(variant, bits, "basic") for variant in VARIANTS for bits in range(2, 9)]
        every += [("ews-msvq", 3, "full"), ("ews-cm", 6, "full")]
        metafunc.parametrize("instance", every if metafunc.config.getoption("full") else [every[-2]])


def test_readers_of_narrow_and_full_instances(instance: tuple[str, int, str], tmp_path) -> None:
    """The accelerator, its core in it, to slang and to Verilator with the waivers that travel with it."""
    variant, bits, functions = instance
    pytest.importorskip("pyslang")
    config = preset(f"{variant}-tiny").override([f"weight_bits={bits}", f"vector_unit_functions={functions}"])
    made = generate(config, "npu", "accelerator", "npu")
    assert slang_errors(made.verilog, "npu") == []
    (tmp_path / "npu.v").write_text(made.verilog)
    (tmp_path / "npu.vlt").write_text(waiver_file("npu"))
    assert made.kit[".vlt"] == waiver_file("npu")
    command = ["verilator", "--lint-only", "-Wall", "--top-module", "npu", "npu.vlt", "npu.v"]
    environment = verilator_environment()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
