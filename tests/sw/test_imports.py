"""Packages of ``sw`` import downwards only, no files import each other, and the numpy rooms do without torch."""

from __future__ import annotations

import ast
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


@pytest.mark.parametrize("room", ["format", "golden", "network", "schedule", "program", "executor", "compiler", "perf"])
def test_rooms_of_numpy_import_no_torch(room: str) -> None:
    names = [name for name in modules() if name == f"sw.{room}" or name.startswith(f"sw.{room}.")]
    assert names
    check_without_torch(names)


def test_running_a_program_imports_no_torch() -> None:
    check_without_torch(["sw.run", "sw.command_line"])


def check_without_torch(names: list[str]) -> None:
    code = f"import {', '.join(names)}, sys; print([name for name in sys.modules if name.split('.')[0] == 'torch'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
