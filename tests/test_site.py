"""The documentation builds without a dead link, and answers what someone asks who has just arrived."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Questions, the pages that answer them, and words that must be there.
QUESTIONS = {
    "a checkpoint and images to a file, and how accurate it is": {
        "start": ["msvq calibrate", "--weights", "--data", "msvq evaluate", "top-1", "finetune"],
        "howto/data": ["train_images", "folder"],
    },
    "layers and operations, and what to do about one that is refused": {
        "howto/network": ["msvq check", "Conv2d", "Linear", "concatenation", "What to do about one that is refused"],
    },
    "float weights back": {"howto/weights": ["decompress", "load_state_dict", "float"]},
    "Verilog of 32 x 32 with a bus of 128 bits, fields and ranges": {
        "howto/configuration": ["msvq generate", "ews-cms-32", "word_width=128"],
        "reference/configuration": ["word_width", "a multiple of 8 in 8..512", "H", "1..256", "default"],
    },
    "two in an SoC with SRAM macros, clock and reset": {
        "integration": ["--name", "Two instances", "macro", "rising edge", "synchronous and active high"],
    },
    "firmware that starts a network and finds out that it failed": {
        "howto/firmware": ["doorbell", "STATUS", "ERROR", "interrupt", "npu_driver.h"],
        "registers": ["CONTROL", "failed", "cause"],
    },
    "waveforms of a run": {"howto/waveforms": ["--trace", "VCD", "Which run", "hangs"]},
    "how large, fast, how many joules, at which clock, and the paper": {
        "results": ["kNAND2", "cycles", "paper", "ps"],
        "power": ["fJ", "GHz", "paper"],
    },
    "to add a block, a method, a field, and the tests that tell": {
        "howto/extend": ["a hardware block", "a compression method", "a configuration field", "tests/hw/test_grid.py"],
    },
    "layer tile, row write, subvector, mask rank, program": {
        "glossary": ["Layer tile", "Row write", "Subvector", "Mask rank", "Program"],
    },
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="the site's generator is not installed: pip install '.[site]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return folder


def text_of(page: Path) -> str:
    """What a reader sees of a page's own content, with single spaces."""
    content = page.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", content)).split())


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_page_answers(site: Path, question: str) -> None:
    for name, words in QUESTIONS[question].items():
        text = text_of(site / f"{name}.html")
        assert [word for word in words if word not in text] == [], name


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_one_click_away(site: Path, question: str) -> None:
    front = (site / "index.html").read_text(encoding="utf-8")
    for name in QUESTIONS[question]:
        assert f'href="{name}.html"' in front


def test_reference_is_of_the_present_code(site: Path) -> None:
    import msvq
    from msvq.__main__ import COMMANDS

    library = text_of(site / "reference/library.html")
    assert [name for name in msvq.__all__ if name.islower() and f"{name}(" not in library and name != "preset"] == []
    commands = text_of(site / "reference/commands.html")
    assert [name for name in COMMANDS if f"usage: msvq {name}" not in commands and f"msvq {name}" not in commands] == []


def test_no_picture_or_page_is_missing(site: Path) -> None:
    for page in site.rglob("*.html"):
        for target in re.findall(r'(?:src|href)="([^"#?]+)', page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:|//|/", html.unescape(target)):
                assert (page.parent / html.unescape(target)).exists(), f"{page.name}: {target}"
