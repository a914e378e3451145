"""The testbench class moves data, pauses, and sees broken streams and standstills."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from sim import runner as runner_module
from sim.runner import SimulationError, VerilatorRunner
from sim.testbench import Pauses
from sim.wrapper import TOP, wrapper_verilog

HERE = Path(__file__).parent
PORTS = [("mode", "in", 2), ("i_a__payload", "in", 40), ("i_a__valid", "in", 1), ("o_full", "out", 1)]


@pytest.fixture
def echo(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> VerilatorRunner:
    monkeypatch.setattr(runner_module, "BUILD", tmp_path_factory.getbasetemp())
    monkeypatch.syspath_prepend(str(HERE))
    from echo_bench import STREAMS

    manifest = {
        "top": "echo",
        "streams": STREAMS,
        "ports": [{"name": name, "direction": direction, "width": width} for name, direction, width in PORTS],
    }
    wrapper = tmp_path_factory.getbasetemp() / "bench.v"
    wrapper.write_text(wrapper_verilog(manifest))
    return VerilatorRunner("echo", [HERE / "echo.v", wrapper], TOP)


def test_streams(echo: VerilatorRunner) -> None:
    densities = ("0.1", "0.5", "1.0")
    names = ["one_transfer_a_cycle", "broken_protocol/mode=1", "broken_protocol/mode=2"]
    names += [f"pauses_slow_it_down/source={a}/sink={b}" for a in densities for b in densities]
    results = echo.run_tests("echo_bench", testcase=names)
    assert {case.get("name") for case in ElementTree.parse(results).iter("testcase")} == set(names)


def test_standstill_ends_the_test(echo: VerilatorRunner) -> None:
    with pytest.raises(
        SimulationError, match=r"(?s)stands_still.*nothing moved for 12288 cycles: i_a: 0 done, 200 left"
    ):
        echo.run_tests("echo_bench", label="stuck", testcase="stands_still")


@pytest.mark.parametrize("density", [0, -0.5, 1.5])
def test_density_out_of_range(density: float) -> None:
    with pytest.raises(ValueError, match="density must be above 0 and at most 1, not"):
        Pauses(density, 0)
