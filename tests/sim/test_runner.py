"""The simulator builds and runs a model, caches it, and says what went wrong."""

from __future__ import annotations

import fcntl
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sim import runner as runner_module
from sim.runner import BuildError, SimulationError, VerilatorRunner, locked

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sim")


@pytest.fixture(autouse=True)
def _elsewhere(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build in a fresh directory, and let the simulator find counter_bench."""
    monkeypatch.setattr(runner_module, "BUILD", models)
    monkeypatch.syspath_prepend(str(HERE))


def counter() -> VerilatorRunner:
    return VerilatorRunner("counter", [HERE / "counter.v"], "counter")


@pytest.mark.costly("compiles the simulator's library, which all models share")
def test_tests_run_on_the_model_and_leave_junit_xml(models: Path) -> None:
    results = counter().run_tests("counter_bench", testcase=["counts_enabled_cycles", "hides_registers"])
    assert results == models / "counter.xml"
    names = [case.get("name") for case in ElementTree.parse(results).iter("testcase")]
    assert names == ["counts_enabled_cycles", "hides_registers"]


def test_model_is_built_again_for_other_sources_alone(models: Path, tmp_path: Path) -> None:
    counter().build_model()
    model = models / "counter" / "counter"
    first = model.stat().st_mtime_ns
    counter().build_model()
    assert model.stat().st_mtime_ns == first
    changed = tmp_path / "counter.v"
    changed.write_text((HERE / "counter.v").read_text().replace("16'd1", "16'd2"))
    VerilatorRunner("counter", [changed], "counter").build_model()
    assert model.stat().st_mtime_ns != first


def test_failed_test_is_named_with_the_log() -> None:
    with pytest.raises(SimulationError, match=r"(?s)1 of 1 failed: is_wrong.*the last lines of.*assert 3 == 4"):
        counter().run_tests("counter_bench", label="wrong", testcase="is_wrong")


def test_missing_test_is_an_error() -> None:
    with pytest.raises(SimulationError, match="no test ran"):
        counter().run_tests("counter_bench", label="none", testcase="no_such_test")


@pytest.mark.whole
@pytest.mark.parametrize("hosted", [True, False])
def test_waveforms_of_a_run(hosted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And Python needs no shared library."""
    if hosted:
        monkeypatch.setattr(runner_module.find_libpython, "find_libpython", lambda: None)
    runner = VerilatorRunner("counter", [HERE / "counter.v"], "counter", trace=tmp_path / "waves.vcd")
    results = runner.run_tests("counter_bench", testcase="counts_enabled_cycles")
    assert [case.get("name") for case in ElementTree.parse(results).iter("testcase")] == ["counts_enabled_cycles"]
    text = (tmp_path / "waves.vcd").read_text()
    assert "$enddefinitions" in text
    assert re.search(r"\$var wire +\d+ \S+ count ", text)
    # Values over time, not definitions alone.
    assert text.count("\n#") > 4


def test_refused_verilog_is_shown_with_the_log(tmp_path: Path) -> None:
    bad = tmp_path / "bad.v"
    bad.write_text("module bad(input clk); assign nonsense = ; endmodule\n")
    with pytest.raises(BuildError, match=r"(?s)building bad failed.*the last lines of.*syntax error"):
        VerilatorRunner("bad", [bad], "bad").build_model()


def test_a_model_that_is_built_or_runs_is_left_alone(models: Path, tmp_path: Path) -> None:
    """Tests that run side by side share models by their names."""
    counter().build_model()
    with counter()._held(), (models / "counter.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # another run may begin
        fcntl.flock(lock, fcntl.LOCK_UN)
        with pytest.raises(BlockingIOError):  # another build waits
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with locked(models / "counter.lock"), (models / "counter.lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)

    # Of two sources under one name each run gets its own, whoever comes first.
    changed = tmp_path / "counter.v"
    changed.write_text((HERE / "counter.v").read_text().replace("16'd1", "16'd2"))
    runners = [counter(), VerilatorRunner("counter", [changed], "counter")]
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(runner.run_tests, "counter_bench", label=f"beside-{number}", testcase="counts_enabled_cycles")
            for number, runner in enumerate(runners)
        ]
        runs[0].result()
        with pytest.raises(SimulationError, match="1 of 1 failed: counts_enabled_cycles"):
            runs[1].result()
