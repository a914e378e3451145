"""The set-up of the environment, where another one is under way; kills of it are in :mod:`tests.faults`."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "setup.sh"


@pytest.mark.skipif(shutil.which("flock") is None, reason="no program flock, without which two set-ups do not wait")
def test_a_second_set_up_waits_for_the_first_and_takes_what_it_made(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools" / "setup.sh"
    shutil.copyfile(SCRIPT, script)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / ".unfinished").touch()
    with open(script) as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = subprocess.Popen(
            ["sh", "tools/setup.sh", "environment"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        assert second.stdout is not None
        assert second.stdout.readline() == "waiting for another set-up to end\n"
        assert second.poll() is None
        (tmp_path / "environment" / ".unfinished").unlink()
        (tmp_path / "environment" / ".ready").touch()
    assert second.communicate(timeout=60)[0] == "environment is ready\n"
    assert second.returncode == 0
    assert [path.name for path in (tmp_path / "environment").iterdir()] == [".ready"]
