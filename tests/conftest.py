"""The option of tests that have a short and a whole version."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the whole of what is otherwise sampled; takes long")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """The whole version is asked for."""
    return request.config.getoption("full")
