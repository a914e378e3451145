"""Verilog, containers and programs of all presets, methods and committed networks are the bytes that are committed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sw.format.strict_json import json_text
from tests.refusals import Refused
from tools import digests
from tools.digests import COMMITTED, CONTAINERS, KINDS

TABLE: dict[str, dict[str, str]] = json.loads(COMMITTED.read_text())

#: What is compared without --full: seconds of each kind.
SAMPLE: dict[str, Callable[[str], bool]] = {
    "verilog": lambda name: name.endswith("-tiny core") or name == "ews-msvq-tiny accelerator",
    "containers": lambda name: True,
    "programs": lambda name: name.startswith("resnet20-"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_has_all_that_there_is(kind: str) -> None:
    """A new preset, method or container has its line: ``python -m tools.digests``."""
    assert list(TABLE[kind]) == KINDS[kind][0]()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=() if SAMPLE[kind](name) else pytest.mark.whole)
        for kind, (names, _) in KINDS.items()
        for name in names()
    ],
)
def test_bytes_are_those_of_the_table(kind: str, name: str) -> None:
    # Other versions of these tools may write other bytes of the same meaning: the table is of those of constraints.txt.
    assert digests.made_by() == TABLE["tools"]
    assert KINDS[kind][1](name) == TABLE[kind][name]


def test_committed_containers_are_what_is_written_of_them_today() -> None:
    for path in CONTAINERS.rglob("*.msvq"):
        assert digests.digest(path.read_bytes()) == TABLE["containers"][path.relative_to(CONTAINERS).as_posix()]


def test_each_committed_network_runs_somewhere() -> None:
    names = {name.split()[0] for name in TABLE["programs"]}
    running = {name.split()[0] for name, digest in TABLE["programs"].items() if digest != digests.REFUSED}
    # One has sums of 25 bits, and the instances have 24.
    assert names - running == {"resnet18-msvq-4-16.msvq"}


def test_the_command_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "COMMITTED", tmp_path / "digests.json")
    monkeypatch.setattr(
        digests, "KINDS", {"programs": (lambda: ["resnet20-mvq-4-16.msvq ews-ssvq-16"], KINDS["programs"][1])}
    )
    assert digests.main([]) == 0
    written = (tmp_path / "digests.json").read_text()
    expected = {"tools": TABLE["tools"], "programs": {"resnet20-mvq-4-16.msvq ews-ssvq-16": digests.REFUSED}}
    assert written == json_text(expected)


def test_only_what_is_named_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    before = {"tools": TABLE["tools"], "containers": {"one": "kept", "two": "old"}}
    (tmp_path / "digests.json").write_text(json_text(before))
    monkeypatch.setattr(digests, "COMMITTED", tmp_path / "digests.json")
    monkeypatch.setattr(digests, "KINDS", {"containers": (lambda: ["one", "two", "new one"], str.upper)})
    assert digests.main(["--only", "two"]) == 0
    expected = {"one": "kept", "two": "TWO", "new one": "NEW ONE"}
    assert json.loads((tmp_path / "digests.json").read_text())["containers"] == expected
    assert "nothing has 'three' in its name" in refused(digests.main, ["--only", "three"])
