"""Every example runs as it is, and prints what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PRINTED = {
    "module_to_bits.py": "bits a weight",
    "load_back.py": "loaded: 0.weight, 2.weight",
    "sweep_instances.py": "ews-cms-32, bus of 64 bits: ",
    "generate_ip.py": "npu_raw: ",
}


def test_all_are_listed() -> None:
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert scripts == PRINTED.keys()
    readme = (ROOT / "examples" / "README.md").read_text()
    assert all(f"({name})" in readme for name in scripts)


@pytest.mark.parametrize("name", PRINTED)
def test_it_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert PRINTED[name] in done.stdout
    assert not list(tmp_path.iterdir())
