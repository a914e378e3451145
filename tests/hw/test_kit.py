"""What travels with the Verilog: waivers, constraints, and a FuseSoC core."""

from __future__ import annotations

import subprocess

import pytest

from hw.kit import constraints, fusesoc_core, waiver_file
from sim.toolchain import verilator_environment

#: A width that does not fit, which is waived.
NARROW = "module {name}(input [7:0] a, output [3:0] y); assign y = a; endmodule\n"


@pytest.mark.parametrize(("period", "text"), [(2.0, "2.0"), (2, "2.0"), (1.25, "1.25"), (3.3333333, "3.3333333")])
def test_a_third_of_the_period_is_no_whole_number(period: float, text: str) -> None:
    """Tcl divides 2 by 3 to 0, and then nothing would be outside the ports."""
    written = constraints("npu", ["rst"], ["o_interrupt"], period)
    assert f"set period {text}\n" in written
    assert written.count("[expr $period / 3]") == 2


@pytest.mark.parametrize("folder", ["", "ip/", "../design/ip/"])
def test_waivers_are_for_the_instance_alone(folder: str, tmp_path) -> None:
    """Not for a file whose name ends with the instance's."""
    design = tmp_path / "design"
    (design / "ip").mkdir(parents=True)
    for name in ("npu", "soc_npu"):
        (design / folder / f"{name}.v").write_text(NARROW.format(name=name))
    (design / "npu.vlt").write_text(waiver_file("npu"))

    def lint(name: str) -> str:
        command = ["verilator", "--lint-only", "-Wall", "npu.vlt", f"{folder}{name}.v"]
        environment = verilator_environment()
        return subprocess.run(command, cwd=design, env=environment, capture_output=True, text=True, check=False).stderr

    assert lint("npu") == ""
    assert f"WIDTHTRUNC: {folder}soc_npu.v:1:" in lint("soc_npu")


@pytest.mark.parametrize("name", ["npu", "on", "no"])
def test_a_core_description_has_the_top_module_as_text(name: str) -> None:
    """YAML takes on and no for truth values."""
    yaml = pytest.importorskip("yaml")
    read = yaml.safe_load(fusesoc_core(name, name).partition("\n")[2])
    assert {target["toplevel"] for target in read["targets"].values()} == {name}
    assert read["filesets"]["rtl"]["files"] == [{f"{name}.v": {"file_type": "verilogSource"}}]
