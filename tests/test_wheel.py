"""What ``pip install`` gives: a working ``msvq`` in any directory, and no names that are not the project's to take."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LIBRARY = """
import json, sys
import msvq
assert "torch" not in sys.modules and "numpy" not in sys.modules
import hw
places = {"msvq": msvq.__file__, "hw": hw.__file__}
assert sorted(set(msvq.__all__) - set(dir(msvq))) == []
config = msvq.preset("ews-tiny")
assert isinstance(config, msvq.AcceleratorConfig)
made = msvq.generate(config, "rtl")
from sim.toolchain import BUILD
print(json.dumps(places | {"verilog": len(made.verilog), "build": str(BUILD)}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, since setuptools writes beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split("\n") if listed.returncode == 0 else []
    rooms = ("msvq", "hw", "sw", "sim", "synth", "fpga", "demo", "tests", "tools")
    for name in filter(None, names):
        if name in ("pyproject.toml", "README.md", "LICENSE") or name.split("/")[0] in rooms:
            if not (ROOT / name).is_file():
                continue
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    if not names:
        pytest.skip("the project is not in a git repository, so its files are not known")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder), str(folder / "source")], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Path:
    """An environment with the wheel, and from this one the packages that it depends on, but not the project itself."""
    folder = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    # Files named .pth in it are not read, so an editable installation of the project is not seen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    return folder


def run(environment: Path, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    variables |= {"XDG_CACHE_HOME": str(folder / "cache")}
    program = str(environment / "bin" / command[0])
    return subprocess.run([program, *command[1:]], cwd=folder, env=variables, capture_output=True, text=True)


#: Commands one after the other, each with the folder that it is followed by: their outputs. Loading torch anew for each
#: would take longest.
IN_TURN = """
import contextlib, io, json, os, sys
from msvq.__main__ import main
outputs = []
for words, after in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(words) == 0, words
    outputs.append(said.getvalue())
    os.chdir(after or ".")
print(json.dumps(outputs))
"""

#: What a wheel's user may not have; the commands say so where they need it.
EXTRAS = {"onnx", "onnx2torch", "triton"}


def imported(path: Path) -> set[str]:
    """Packages that a module imports, but for those that may be absent: in a `try` that catches that, or for types."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    optional: set[ast.AST] = set()
    for node in ast.walk(tree):
        catches = isinstance(node, ast.Try) and any(
            "ImportError" in ast.unparse(handler.type) for handler in node.handlers if handler.type
        )
        if catches or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            optional |= set(ast.walk(node))
    names: set[str] = set()
    for node in set(ast.walk(tree)) - optional:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_what_the_commands_import_is_installed_with_the_wheel() -> None:
    """No command of the library ends with "No module named": a folder of images once did, for want of Pillow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=!~]", entry)[0].lower() for entry in project["dependencies"]}
    rooms = {"msvq", "hw", "sw"}
    paths = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    found = set().union(*map(imported, paths)) - set(sys.stdlib_module_names) - rooms - {"sim", "synth", "fpga"}
    places = metadata.packages_distributions()
    lacking = {name for name in found - EXTRAS if not wanted & {each.lower() for each in places.get(name, [name])}}
    assert lacking == set()
    assert {"PIL", "numpy", "torch"} <= found


def test_names_that_the_wheel_takes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    taken = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert taken == {"msvq", "hw", "sw", "sim", "synth", "fpga"}
    for needed in ("hw/bus/driver.h", "sw/compress/kmeans_kernels.cpp", "sim/accelerator/dram.cpp", "msvq/py.typed"):
        assert needed in names
    kept = {path.relative_to(ROOT).as_posix() for room in taken for path in (ROOT / room).rglob("*.cpp")}
    assert kept <= set(names)


def test_the_command_works_in_another_directory(environment: Path, tmp_path: Path) -> None:
    done = run(environment, ["msvq", "--help"], tmp_path)
    assert done.returncode == 0
    assert "calibrate" in done.stdout
    done = run(environment, ["msvq", "generate", "--preset", "ews-tiny", "-o", "rtl"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "module core" in (tmp_path / "rtl" / "ews-tiny.v").read_text()
    done = run(environment, ["msvq", "generate", "--preset", "ews-17"], tmp_path)
    assert done.returncode == 2
    assert "unknown preset 'ews-17'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_library_is_the_installed_one_and_keeps_its_folder_clean(environment: Path, tmp_path: Path) -> None:
    done = run(environment, ["python", "-c", LIBRARY], tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("msvq", "hw"):
        assert Path(found[name]).is_relative_to(environment)
    assert found["verilog"] > 1000
    assert found["build"] == str(tmp_path / "cache" / "msvq" / "sim")


def test_the_commands_of_the_front_page_work_anywhere(environment: Path, tmp_path: Path) -> None:
    """Those of README.md, as they are written there, in their order; and each prints what it is shown to print."""
    shown = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    folder = tmp_path
    parts = re.split(r"^\$ ", shown[1], flags=re.MULTILINE)[1:]
    assert len(parts) == 5
    commands, printed = zip(*(part.strip().split("\n", 1) for part in parts), strict=True)
    steps = []
    for command in commands:
        line, _, after = command.partition(" && cd ")
        program, *words = line.split()
        assert program == "msvq"
        steps.append((words, after))
        folder = folder / after if after else folder
    done = run(environment, ["python", "-c", IN_TURN, json.dumps(steps)], tmp_path)
    assert done.returncode == 0, done.stderr
    for said, expected in zip(json.loads(done.stdout), printed, strict=True):
        # Figures may differ in the last digits from machine to machine.
        assert said.split()[0] == expected.split()[0]
    assert {path.name for path in folder.iterdir()} - {"__pycache__", "cache"} == {
        "net.py",
        "net.pt",
        "images.npz",
        "image.npy",
        "net.msvq",
        "net.prog",
    }
