"""The OSU 0.18 um standard cells from Debian's package qflow-tech-osu018."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from synth.liberty import Library, LibraryError, load

__all__ = ["osu018"]

_PACKAGE = "qflow-tech-osu018"


def osu018(folder: Path) -> Library:
    """The library, fetched into ``folder`` at first use with ``apt-get download`` and ``dpkg -x``, which need no root.

    Raises
    ------
    LibraryError
        There is no apt-get or dpkg, or the package can't be had.
    """
    root = folder / _PACKAGE
    found = sorted(root.glob("**/osu018_stdcells.lib"))
    if not found:
        for tool in ("apt-get", "dpkg"):
            if shutil.which(tool) is None:
                raise LibraryError(
                    f"osu018 comes from Debian's package {_PACKAGE}, but there is no {tool} here; use a Liberty file"
                )
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["apt-get", "download", _PACKAGE], cwd=folder, capture_output=True, text=True, check=False
        )
        packages = sorted(folder.glob(f"{_PACKAGE}_*.deb"))
        if done.returncode or not packages:
            reason = (done.stderr.strip().splitlines() or ["no package"])[-1]
            raise LibraryError(f"osu018: apt-get download {_PACKAGE} failed: {reason}")
        subprocess.run(["dpkg", "-x", packages[-1].name, _PACKAGE], cwd=folder, capture_output=True, check=True)
        found = sorted(root.glob("**/osu018_stdcells.lib"))
        if not found:
            raise LibraryError(f"osu018: no osu018_stdcells.lib in the package {_PACKAGE}")
    return replace(load([found[0]]), name="osu018")
