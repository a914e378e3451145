"""The demo's steps on a network of two small layers."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from demo import __main__ as demo
from demo import tables
from sw.compress.methods import LayerSource


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def reports(folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    shapes = {"fits": (256, 64, 1, 1), "narrow": (24, 32, 1, 1)}
    sources = [LayerSource(name, "conv", rng.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()]
    return list(demo.compress(sources, folder, None))


def test_every_recipe_is_reported_and_written(reports: list[dict[str, Any]], folder: Path) -> None:
    assert [report["recipe"] for report in reports] == list(demo.RECIPES)
    for report in reports:
        assert (folder / report["container"]["file"]).stat().st_size == report["container"]["bytes"]
    json.dumps(reports, allow_nan=False)


def test_layers_that_do_not_fit_are_reported_with_the_reason(reports: list[dict[str, Any]]) -> None:
    row = reports[0]["layers"][1]
    assert row["method"] == "int8"
    assert "24" in row["reason"]
    assert "d = 16" in row["reason"]


def test_tables_show_every_layer_and_recipe(reports: list[dict[str, Any]]) -> None:
    console = Console(width=180, file=io.StringIO())
    console.print(tables.compression_table(reports))
    console.print(tables.totals_table(reports))
    text = console.file.getvalue()
    assert text.count("256x64x1x1") == text.count("24x32x1x1") == len(demo.RECIPES)
    for report in reports:
        assert f"{report['container']['bytes']:,}" in text
        assert f"{report['container']['ratio']:.2f}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--photograph", "/no/such/picture.jpg"], r"No such file or directory: '/no/such/picture.jpg'"),
        (["--photograph", __file__], f"--photograph {__file__!r}: must be a picture"),
    ],
)
def test_bad_picture_is_one_clear_error(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([*arguments, "-o", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    assert error.startswith("python -m demo: ")
    assert message in error


@pytest.mark.parametrize("threads", ["0", "-2"])
def test_threads_below_one_are_refused(threads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--threads", threads, "-o", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"python -m demo: --threads must be at least 1, not {threads}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("folder", "root", "said"),
    [
        ("a b", "", "models are built in {}, and make cannot build where a path has a space"),
        ("a", "/home/ü/verilator", "Verilator lies in {}, and make .* where a path has spaces or letters beyond ASCII"),
    ],
)
def test_a_path_that_make_cannot_take_is_told_before_the_work(
    folder: str,
    root: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Verilator's makefiles ended in "No rule to make target", after the compression."""
    monkeypatch.setattr("sim.toolchain.BUILD", tmp_path / folder)
    monkeypatch.setattr("sim.toolchain._additions", lambda: (("VERILATOR_ROOT", root),))
    monkeypatch.setattr(demo, "compress", lambda *_: pytest.fail("it worked"))
    assert demo.main(["-o", str(tmp_path / "demo")]) == 1
    path = re.escape(repr(root or str(tmp_path / folder)))
    assert re.fullmatch(f"python -m demo: {said.format(path)}: move the project\n", capsys.readouterr().err)
