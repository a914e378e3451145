"""The option of tests that have a short and a whole version, and threads of tests that run side by side."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker for each core: more threads would take turns. Read by the libraries when they are imported, after this.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the whole of what is otherwise sampled; takes long")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "whole: runs with --full alone; `make test` has another member of its kind")


#: What takes a worker longest at a time begins first, so that the others end with it.
FIRST = ("test_style.py", "test_wheel.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)
    if config.getoption("full"):
        return
    for item in items:
        if item.get_closest_marker("whole"):
            item.add_marker(pytest.mark.skip(reason="a part of the whole: make test-full"))


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """The whole version is asked for."""
    return request.config.getoption("full")
