"""The page of ``make report``: complete in itself, and as wide as the reader's screen."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from synth.charts import Line, Scatter, bars, lines, scatter
from tools import report

#: A browser's command; apt has the package chromium, pip has none that comes without a download of its own.
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

_VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes; unclosed ones are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


@pytest.fixture(scope="module")
def text() -> str:
    return report.page(report.ROOT / "build" / "report")


def test_the_page_needs_nothing_else(text: str) -> None:
    page = Page(text)
    assert not page.open
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "img"}
    assert not any("src" in attributes or "srcset" in attributes for _, attributes in page.elements)
    assert "url(" not in text
    assert "@import" not in text


def test_every_picture_is_whole_and_leads_to_its_data(text: str) -> None:
    found = report.figures()
    drawn = [figure for figure in found if figure.svg]
    assert len(drawn) >= 8
    assert text.count("<svg ") == len(drawn)
    for figure in found:
        assert html.escape(figure.command) in text
        if not figure.svg:
            continue
        body = figure.svg
        assert len(re.findall(r"<(?:rect|circle|path) ", body)) > 5, figure.name
        assert not re.search(r"\b(nan|inf|None)\b", body), figure.name
        assert json.loads(json.dumps(figure.data))
        for name in figure.source.split(", "):
            assert (report.RESULTS / name).exists(), name
    names = [figure.name for figure in found]
    assert len(set(names)) == len(names)
    assert {"steps-64", "speed", "area-64", "roofline", "front"} <= {figure.name for figure in drawn}


def test_dark_mode_has_every_colour(text: str) -> None:
    style = text.partition("<style>")[2].partition("</style>")[0]
    light, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    dark = dark.partition("} }")[0]
    assert set(re.findall(r"--[\w-]+(?=:)", light)) == set(re.findall(r"--[\w-]+(?=:)", dark)) != set()
    used = set(re.findall(r"var\((--[\w-]+)", text))
    assert used <= set(re.findall(r"--[\w-]+(?=:)", light))


def test_charts() -> None:
    picture = bars("t", "u", ["a", "b<"], {"one": [1.0, None], "two": [2.0, 0.0]})
    page = Page(picture)
    assert not page.open
    assert sum(tag == "rect" for tag, _ in page.elements) == 2 + 3  # legend, bars
    assert "b&lt;" in picture
    heights = [float(attributes["height"] or 0) for tag, attributes in page.elements if tag == "rect"][2:]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    stacked = Page(bars("t", "u", ["a"], {"one": [1.0], "two": [3.0]}, stacked=True))
    first, second = [attributes for tag, attributes in stacked.elements if tag == "rect"][2:]
    assert float(second["y"] or 0) + float(second["height"] or 0) == pytest.approx(float(first["y"] or 0), abs=0.2)
    for empty in (bars("t", "u", [], {}), lines("t", "x", "y", []), scatter([], "x", "y", "t")):
        assert not Page(empty).open
    marks = lines("t", "x", "y", [Line("roof", [(1, 1), (10, 10)]), Line("at", [(3, 2)], marks=True)])
    assert marks.count("<circle") == 1
    points = [Scatter(1, 4, "a", True), Scatter(2, 2, "b", True), Scatter(3, 3, "c", False)]
    assert scatter(points, "x", "y", "t").count("<circle") == 3


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["-o", str(tmp_path / "page")]) == 0
    text = (tmp_path / "page" / "index.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    links = [attributes["href"] for tag, attributes in Page(text).elements if tag == "a" and "href" in attributes]
    results = {(tmp_path / "page" / str(link)).resolve() for link in links if str(link).endswith(".json")}
    assert results == {report.RESULTS / name for figure in report.figures() for name in figure.source.split(", ")}
    assert all(path.exists() for path in results)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        report.main(["-o", str(tmp_path / "file")])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("python -m tools.report: cannot read or write: ")


_MEASURE = """<script>addEventListener("load", () => {
const svgs = [...document.querySelectorAll("svg")].map(x => x.getBoundingClientRect());
const found = {width: innerWidth, page: document.documentElement.scrollWidth,
 empty: svgs.filter(x => x.width < 100 || x.height < 50).length, svgs: svgs.length,
 paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
 label: getComputedStyle(document.querySelector("svg text")).fill};
document.title = JSON.stringify(found); });</script></head>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH: the page is looked at by a parser alone")
@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser(width: int, dark: bool, text: str, tmp_path: Path) -> None:
    """No picture is broken, nothing is wider than the screen, and text can be read in both schemes."""
    path = tmp_path / "index.html"
    frame = tmp_path / "frame.html"
    path.write_text(text.replace("</head>", _MEASURE, 1))
    # A window is at least 500 wide: a frame is not.
    frame.write_text(
        f'<body style="margin:0"><iframe id="f" src="index.html" style="width:{width}px;height:9in;border:0"></iframe>'
        "<script>setInterval(() => { document.title = document.getElementById('f').contentDocument.title; },"
        " 50)</script>"
    )
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1600,1000", "--dump-dom",
        frame.as_uri(),
    ]  # fmt: skip
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>(\{.*?\})</title>", dumped)
    assert title is not None, dumped[:500]
    found = json.loads(title[1].replace("&quot;", '"'))
    assert found["width"] == width
    assert found["page"] <= width
    assert found["svgs"] >= 8
    assert found["empty"] == 0
    light = [sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("paper", "ink", "label")]
    assert (light[0] < light[1] and light[0] < light[2]) == dark
    assert abs(light[0] - light[1]) > 300
