"""The code passes ruff, ruff's formatter and mypy: configuration in pyproject.toml. Files and functions stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        pytest.param(["mypy"], marks=pytest.mark.costly("reads torch's types, once a checkout")),
    ],
    ids=["ruff-check", "ruff-format", "mypy"],
)
def test_tool_finds_nothing(command: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert result.returncode == 0, result.stdout


#: Lines of a file, and of a function from its name to its end.
FILE_LINES, FUNCTION_LINES = 700, 120


def longer(path: Path) -> set[str]:
    """What is too long in a file, by its name."""
    text, name = path.read_text(), path.relative_to(ROOT).as_posix()
    found = {name} if text.count("\n") > FILE_LINES else set()
    # What spans few lines has nothing in it that spans more; some nodes, such as cases of a match, do not say.
    nodes: list[ast.AST] = [ast.parse(text)]
    while nodes:
        for node in ast.iter_child_nodes(nodes.pop()):
            begin, end = getattr(node, "lineno", 0), getattr(node, "end_lineno", None) or FUNCTION_LINES
            if end - begin + 1 > FUNCTION_LINES:
                nodes.append(node)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(f"{name} {node.name}")
    return found


def test_files_and_functions_are_short() -> None:
    rooms = [room for room in ROOT.iterdir() if room.is_dir() and room.name != "build" and room.name[0] != "."]
    paths = [path for room in rooms for path in sorted(room.rglob("*.py"))]
    assert len(paths) > 400
    assert set().union(*map(longer, paths)) == set()
