"""Every example runs as it is, and prints what it promises."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PRINTED = {
    "module_to_bits.py": "bits a weight",
    "own_loss.py": "of the file's integers: ",
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
def test_it_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # In this process: what takes long is loading torch.
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert PRINTED[name] in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
