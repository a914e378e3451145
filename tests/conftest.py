"""The option of tests that have a short and a whole version, threads of tests side by side, and what tests cost."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.refusals import Refused

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker for each core: more threads would take turns. Read by the libraries when they are imported, after this.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
# Training asks for two threads all the same. One that waits for the other sleeps: its spinning would take the processor
# from what it waits for, wherever something else runs on the other core. Results do not depend on it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

#: What takes a worker longest at a time begins first, so that the others end with it: names of files and folders.
FIRST = ("test_style.py", "test_wheel.py", "test_site.py", "sim")

#: Processor seconds that a test may take in `make test`, its fixtures and processes among them; longer ones are named
#: at the end, but for those with the mark `costly`.
BUDGET = 20.0
#: Name of what a report says of them.
PROCESSOR = "processor_seconds"
#: Runs that take as many are told where they went.
LONG_RUN = 60.0

FOLDER = Path(__file__).parent

_BEGIN = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the whole of what is otherwise sampled; takes long")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "whole: runs with --full alone; `make test` has another member of its kind")
    config.addinivalue_line("markers", "costly(reason): may take more processor time than others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(part in FIRST for part in item.path.relative_to(FOLDER).parts))
    if config.getoption("full"):
        return
    for item in items:
        if item.get_closest_marker("whole"):
            item.add_marker(pytest.mark.skip(reason="a part of the whole: make test-full"))


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end; nothing is found by going through them again."""
    gc.freeze()
    # What is frozen does not count as old, so that all that tests share would be gone through after every few of them:
    # a tenth of what Amaranth's simulator takes.
    gc.set_threshold(2000, 10, 60)


def _processor() -> float:
    """Seconds of this process and of those that it has waited for; unlike the clock's, others do not lengthen them."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _one_thread() -> None:
    """Training sets torch's number of threads; what runs after it in a worker has the worker's one again."""
    torch = sys.modules.get("torch")
    if "PYTEST_XDIST_WORKER" in os.environ and torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _one_thread()
    item.stash[_BEGIN] = _processor()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "teardown":
        report.user_properties.append((PROCESSOR, round(_processor() - item.stash[_BEGIN], 2)))
        if (mark := item.get_closest_marker("costly")) is not None:
            report.user_properties.append(("costly", mark.args[0]))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    found = {report.nodeid: dict(report.user_properties) for report in reports if _counted(report)}
    costs = {name: given[PROCESSOR] for name, given in found.items()}
    if sum(costs.values()) >= LONG_RUN:
        terminalreporter.section("processor time")
        for line in folders(costs):
            terminalreporter.write_line(line)
    if not config.getoption("full"):
        for name in beyond({name: seconds for name, seconds in costs.items() if "costly" not in found[name]}):
            terminalreporter.write_line(
                f"{costs[name]:.0f} s of a processor, more than {BUDGET:.0f}: {name}; make it smaller, or mark it whole"
                " beside a smaller member of its kind (docs/verification.md)"
            )


def _counted(report: object) -> bool:
    """Of a test's three reports: setup, call and teardown."""
    return PROCESSOR in dict(getattr(report, "user_properties", ()))


def folders(costs: Mapping[str, float]) -> list[str]:
    """Lines with the seconds of the tests in each folder below tests/ and its folders, the longest first."""
    sums: Counter[str] = Counter()
    for name, seconds in costs.items():
        sums["/".join(name.split("::")[0].split("/")[:-1][:3])] += seconds
    return [f"{seconds:7.0f} s {folder}" for folder, seconds in [("all", sum(sums.values())), *sums.most_common()]]


def beyond(costs: Mapping[str, float]) -> list[str]:
    """Names of the tests that take more than :data:`BUDGET`, the longest first."""
    return sorted((name for name, seconds in costs.items() if seconds > BUDGET), key=lambda name: -costs[name])


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must refuse its arguments, by exit code 2 and one line on standard error, which it gives."""

    def check(main: Callable[..., Any], arguments: Sequence[str]) -> str:
        try:
            status = main(arguments)
        except SystemExit as stopped:
            status = stopped.code
        assert status == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return check


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """The whole version is asked for."""
    return request.config.getoption("full")


@pytest.fixture(scope="module")
def settled() -> None:
    """What a worker holds by now is gone through once, and not again by each test that has all garbage collected."""
    gc.collect()
    gc.freeze()
