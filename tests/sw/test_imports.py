"""Packages of ``sw`` import downwards only, no files import each other, and the numpy rooms do without torch."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules() -> dict[str, Path]:
    """Every module of ``sw`` by its name; a package by the name of its folder."""
    found = {}
    for path in sorted((ROOT / "sw").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Names that a file imports, anywhere in it: of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_arrows() -> dict[str, set[str]]:
    """Modules that each module of ``sw`` imports. The empty package ``sw`` itself is none."""
    known = modules()
    return {
        name: {other for other in imported(path) if other in known and other not in (name, "sw")}
        for name, path in known.items()
    }


def package(name: str) -> str:
    """The room of a module: ``sw.golden`` of ``sw.golden.layer``."""
    return ".".join(name.split(".")[:2])


def circle(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """A circle of arrows, or nothing."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(arrows.get(name, ())):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := walk(name, []))), [])


def test_circles_are_found() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_no_file_is_in_a_circle() -> None:
    assert circle(file_arrows()) == []


def test_no_package_is_in_a_circle() -> None:
    arrows: dict[str, set[str]] = defaultdict(set)
    for name, others in file_arrows().items():
        # A command line stands above all packages.
        if not name.endswith("__main__"):
            arrows[package(name)] |= {package(other) for other in others} - {package(name), "sw"}
    assert arrows["sw.compiler"] >= {"sw.network", "sw.program"}
    assert circle(arrows) == []


def test_command_lines_are_imported_by_no_one() -> None:
    assert [(name, x) for name, others in file_arrows().items() for x in others if x.endswith("__main__")] == []


ROOMS = ("format", "golden", "network", "schedule", "program", "executor", "compiler", "perf")

#: Imports each list of modules in a process of its own, forked off before anything but numpy is loaded, and prints what
#: it has of torch.
FORKS = """
import json, os, sys
import numpy
for names in json.loads(sys.argv[1]):
    if os.fork() == 0:
        for name in names:
            __import__(name)
        torch = [name for name in sys.modules if name.split(".")[0] == "torch"]
        print(sum(name in sys.modules for name in names), torch, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@functools.cache
def found() -> dict[str, str]:
    """What each room, and what runs a program, has loaded: modules that were named, and those of torch."""
    named = {
        room: [name for name in modules() if name == f"sw.{room}" or name.startswith(f"sw.{room}.")] for room in ROOMS
    }
    named["run"] = ["sw.run", "sw.command_line"]
    command = [sys.executable, "-c", FORKS, json.dumps(list(named.values()))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = dict(zip(named, done.stdout.splitlines(), strict=True))
    assert [line.split()[0] for line in lines.values()] == [str(len(names)) for names in named.values()]
    assert all(named.values())
    return {name: line.partition(" ")[2] for name, line in lines.items()}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_numpy_import_no_torch(room: str) -> None:
    assert found()[room] == "[]"


def test_running_a_program_imports_no_torch() -> None:
    assert found()["run"] == "[]"
