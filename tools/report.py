"""``python -m tools.report``: the committed results on one page, pictures first, into build/report/index.html.

The page is one file: it needs no server, no network and no script, and follows the reader's light or dark scheme. Below
each picture stand its data, the file that they are of and the command that makes it.
"""

from __future__ import annotations

import html
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw.command_line import Parser, interruptible, path_argument, writable_folder, write_text
from synth.charts import Line, bars, lines
from tools import papers, power, readme

__all__ = ["Figure", "figures", "main", "page"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"

#: The way from the paper's first array to the best of ours, and what each step adds.
STEPS = ("WS", "EWS", "EWS-C", "EWS-CM", "EWS-CMS", "EWS-MSVQ")

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --soft: #f3f6f9; --ink: #1f2933; --faint: #5b6770; --grid: #d5dbe1;
  --link: #2f6db5; --series-1: #2f6db5; --series-2: #c4473a; --series-3: #3a8f5c; --series-4: #c98a1b;
  --series-5: #7a55a8; --series-6: #4aa3a8; --series-7: #8a5a3c; --series-8: #6b7785; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14191e; --soft: #1d242b; --ink: #e4e9ee; --faint: #a3aeb9; --grid: #36414c; --link: #7fb2ec;
    --series-1: #6aa5ea; --series-2: #e8796d; --series-3: #6cc391; --series-4: #e3b250; --series-5: #b596e0;
    --series-6: #7fd0d5; --series-7: #c99a78; --series-8: #a3aeb9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 Helvetica, Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 0 16px 48px; }
h1 { margin: 28px 0 4px; } h2 { margin: 40px 0 8px; } a { color: var(--link); }
p, li, figcaption { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 12px; padding: 0; }
.tiles li { list-style: none; background: var(--soft); border-radius: 8px; padding: 12px 16px; }
.tiles strong { display: block; font-size: 1.15em; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); gap: 20px; }
figure { margin: 0; background: var(--soft); border-radius: 8px; padding: 12px; min-width: 0; }
figure h3 { margin: 0 0 6px; font-size: 1em; }
.wide { overflow-x: auto; } .wide svg { display: block; width: 100%; min-width: 440px; height: auto; }
figcaption, details, footer { font-size: 0.88em; color: var(--faint); }
pre { overflow: auto; max-height: 320px; background: var(--paper); padding: 8px; }
table { border-collapse: collapse; font-size: 0.88em; } td, th { padding: 3px 8px;
  text-align: right; border-bottom: 1px solid var(--grid); }
td:first-child, th:first-child { text-align: left; }
code { font-size: 0.92em; }
"""


@dataclass(frozen=True)
class Figure:
    """A picture, or the reason why there is none."""

    name: str
    title: str
    #: The picture; "" if what it needs is not committed.
    svg: str
    #: What it shows, in a sentence.
    text: str
    #: What is drawn, JSON-compatible.
    data: Any
    #: The file of ``docs/results`` and the command that makes it.
    source: str
    command: str


def _read(name: str) -> Any:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _area(size: int) -> Figure:
    report = _read("area-nangate45_typ")
    presets = report["presets"]
    names = [name for name in presets if name.endswith(f"-{size}")]
    blocks = dict.fromkeys(block for name in names for block in presets[name]["blocks"])
    # The largest apart, the others together: eight colours are as many as can be told from each other.
    total = {block: sum(presets[name]["blocks"].get(block, 0.0) for name in names) for block in blocks}
    shown = sorted(total, key=lambda block: -total[block])[:7]
    series: dict[str, list[float | None]] = {
        block: [presets[name]["blocks"].get(block, 0.0) / 1e3 for name in names] for block in shown
    }
    series["others"] = [
        sum(area for block, area in presets[name]["blocks"].items() if block not in shown) / 1e3 for name in names
    ]
    title = f"Area by block, {size} x {size}"
    groups = [name.removesuffix(f"-{size}") for name in names]
    return Figure(
        f"area-{size}", title, bars(title, "kNAND2", groups, series, stacked=True),
        "Array and decoder, cells alone. The codebook's registers (CRF) decide at 16 x 16. "
        f"{readme.conditions(report)}.",
        {"presets": names, "kNAND2": series}, "area-nangate45_typ.json", "make synth LIB=cells.lib",
    )  # fmt: skip


def _energy(size: int) -> Figure:
    title = f"Energy by block, {size} x {size}"
    report = _read("power-nangate45_typ")
    presets = {name: entry for name, entry in (report or {}).get("presets", {}).items() if name.endswith(f"-{size}")}
    source, command = "power-nangate45_typ.json", "make power LIB=cells.lib"
    if not presets:
        return Figure(f"energy-{size}", title, "", papers.NOT_YET, None, source, command)

    def block(entry: Mapping[str, Any], name: str) -> float:
        parts = entry["blocks"].get(name, {})
        return float(sum(parts.get(part, 0.0) for part in ("data", "clock", "leakage")))

    names = list(presets)
    blocks = dict.fromkeys(name for entry in presets.values() for name in entry["blocks"])
    largest = sorted(blocks, key=lambda name: -sum(block(entry, name) for entry in presets.values()))
    series: dict[str, list[float | None]] = {
        name: [block(presets[preset], name) for preset in names] for name in largest[:7]
    }
    series["others"] = [sum(block(presets[preset], name) for name in largest[7:]) for preset in names]
    return Figure(
        f"energy-{size}", title,
        bars(title, "fJ a MAC", [name.removesuffix(f"-{size}") for name in names], series, stacked=True),
        "Gates with trained weights and real activations, every sum compared with the golden model; per"
        " dense-equivalent"
        " multiply-accumulate.",
        {"presets": names, "fJ": series}, source, command,
    )  # fmt: skip


def _steps(size: int) -> Figure:
    report = _read("area-nangate45_typ")
    areas = report["presets"]
    found = papers.runs()
    preset_of = {title: name for name, title in papers.VARIANTS.items()}
    energies = papers.efficiencies("ResNet-18", size)
    base = {
        "area": areas[f"ws-{size}"]["total"],
        "cycles": found["ResNet-18", "WS", size, 64]["without_ends"]["counters"]["cycles"],
    }
    series: dict[str, list[float | None]] = {
        "area": [areas[f"{preset_of[name]}-{size}"]["total"] / base["area"] for name in STEPS],
        "cycles of ResNet-18": [
            found["ResNet-18", name, size, 64]["without_ends"]["counters"]["cycles"] / base["cycles"] for name in STEPS
        ],
    }
    if "EWS" in energies:
        least = energies["EWS"].tops_per_watt()
        series["energy of ResNet-18, to EWS"] = [
            least / energies[name].tops_per_watt() if name in energies else None for name in STEPS
        ]
    title = f"Each step from WS to EWS-MSVQ, {size} x {size}"
    return Figure(
        f"steps-{size}", title, bars(title, "times WS", STEPS, series),
        "Less is better. ResNet-18 without its first and last layer, bus of 64 bits; area with codebooks. "
        f"{readme.conditions(report)}.",
        {"steps": STEPS, **series}, "area-nangate45_typ.json, papers.json, power-nangate45_typ.json",
        "make synth LIB=cells.lib; make power LIB=cells.lib; make papers",
    )  # fmt: skip


def _clock() -> Figure:
    report = _read("timing-nangate45_typ")
    limit = report["clock"] * (1 - report["margin"])
    slowest = {
        name: max(sections, key=lambda section: sections[section]) for name, sections in report["presets"].items()
    }
    series: dict[str, list[float | None]] = {
        "slowest section": [report["presets"][name][section] for name, section in slowest.items()],
        "second slowest": [sorted(report["presets"][name].values())[-2] for name in slowest],
    }
    title = f"Delays beside the {limit:,.0f} ps of {1e6 / report['clock']:,.0f} MHz less a tenth"
    return Figure(
        "clock", title, bars(title, "ps", list(slowest), series),
        "From register to register with wires and buffers, the longer of two opinions. "
        f"{readme.conditions(report)}.",
        {"limit": limit, "slowest": slowest, **series}, "timing-nangate45_typ.json", "make synth LIB=cells.lib",
    )  # fmt: skip


def _speed() -> Figure:
    theirs, ours = papers.values("figure 17"), papers.speeds("convolutions")
    networks = list(ours)
    series: dict[str, list[float | None]] = {}
    for name in ("WS-CMS", "EWS", "EWS-CMS"):
        series[f"{name}, paper"] = [theirs[network][name] for network in networks]
        series[f"{name}, ours"] = [ours[network][name] for network in networks]
    series["EWS-MSVQ, ours"] = [ours[network]["EWS-MSVQ"] for network in networks]
    title = "Speed beside WS, 64 x 64"
    return Figure(
        "speed", title, bars(title, "times WS", networks, series, labels=False),
        "Convolutions without the first and without depthwise ones, bus of 64 bits. Why ours differ from MVQ's"
        " figure 17:"
        " the table below.",
        {"networks": networks, **series}, "papers.json", "make papers",
    )  # fmt: skip


def _buses() -> Figure:
    buses = [bus for size, bus in papers.ARRAYS if size == 64]
    series: dict[str, list[float | None]] = {
        network: [
            papers.speeds("without_ends", 64, bus)[network]["EWS-MSVQ"]
            / papers.speeds("without_ends", 64, bus)[network]["EWS"]
            for bus in buses
        ]
        for network in papers.NETWORKS.values()
    }
    title = "EWS-MSVQ beside EWS by the width of the bus, 64 x 64"
    return Figure(
        "buses", title, bars(title, "times EWS", [f"{bus} bits" for bus in buses], series),
        "Without the first and the last layer. What compressed weights save is the bus; a wide one needs no saving.",
        {"buses": buses, **series}, "papers.json", "make papers",
    )  # fmt: skip


def _roofline() -> Figure:
    found = papers.runs()
    low, high = 4.0, 8192.0
    roof = [(low, 8 * low), (512.0, 4096.0), (high, 4096.0)]
    marks = []
    for name in ("WS", "EWS", "EWS-CMS", "EWS-MSVQ"):
        points = [papers.roofline_point(found[network, name, 64, 64])[:2] for network in papers.NETWORKS.values()]
        marks.append(Line(name, points, marks=True))
    title = "Roofline, 64 x 64, bus of 64 bits"
    return Figure(
        "roofline", title,
        lines(title, "multiply-accumulates a byte from DRAM", "the same a cycle", [Line("bound", roof), *marks]),
        "A mark a network, convolutions alone: below the slope the bus is the bound, below the flat the array.",
        {line.name: list(line.points) for line in marks}, "papers.json", "make papers",
    )  # fmt: skip


def _efficiency(network: str) -> Figure:
    title = f"Energy efficiency, {network}"
    source, command = "power-nangate45_typ.json, papers.json", "make power LIB=cells.lib; make papers"
    theirs = papers.values("figure 19")[network]
    groups: list[str] = []
    series: dict[str, list[float | None]] = {"paper": [], "ours": [], "ours, memories as the paper counts": []}
    for size, found in theirs.items():
        energies = papers.efficiencies(network, int(size))
        for name in found:
            if name not in energies or "EWS" not in energies or name == "EWS":
                continue
            groups.append(f"{name} {size}")
            own, base = energies[name], energies["EWS"]
            ratios = (
                found[name] / found["EWS"],
                *(own.tops_per_watt(staged) / base.tops_per_watt(staged) for staged in (False, True)),
            )
            for line, ratio in zip(series.values(), ratios, strict=True):
                line.append(ratio)
    if not groups:
        return Figure("efficiency", title, "", papers.NOT_YET, None, source, command)
    whole = [power.ratio("ews-cms-64", account, inner=False) for account in ("macro", "paper")]
    text = (
        "Operations a joule beside EWS of the same size, L1 and L2 included, without DRAM, and **without the first and"
        f" the last layer**. With them EWS-CMS has {whole[0]:.2f} times EWS at 64 x 64, as the paper counts"
        f" {whole[1]:.2f}: what was wanted, and what came out, is at the top of `docs/power.md`."
    )
    return Figure("efficiency", title, bars(title, "times EWS", groups, series), text, series, source, command)


def _front() -> Figure:
    from sw.perf.sweep import point_fields, sweep_points
    from synth.explore.front import picture

    title, source = "Pareto front of a sweep", "explore.json"
    report = _read("explore")
    if report is None:
        return Figure("front", title, "", "No sweep is committed: `make explore`.", None, source, "make explore")
    axes = list(point_fields(sweep_points(report["sweep"])[0]))
    svg = picture(report["points"], axes, report["objectives"], report["network"].removesuffix(".json"))
    front = [{name: row[name] for name in (*axes, *report["objectives"])} for row in report["points"] if row["front"]]
    text = (
        f"{len(report['points'])} instances by {' and '.join(report['objectives'])}, library"
        f" {report['library']['name']}, Yosys {report['tools']['yosys']};"
        f" those that no other one beats: {len(front)}."
    )
    sweep = " ".join(f"--sweep {axis}" for axis in report["sweep"])
    study = f" --study {report['study']}" if report["study"] else ""
    command = f"python -m synth.explore --lib cells.lib {sweep}{study} --objectives {','.join(report['objectives'])}"
    return Figure("front", title, svg, text, front, source, command)


def _accuracy(study: str, network: str) -> Figure:
    report = _read(study)
    losses: dict[str, list[float]] = {}
    for run in report["runs"]:
        losses.setdefault(run["case"], []).append(run["accuracy_float"] - run["accuracy"])
    means = {case: sum(found) / len(found) for case, found in losses.items()}
    cases = list(means)
    series: dict[str, list[float | None]] = {"points below the float network": [max(0.0, means[x]) for x in cases]}
    title = f"Accuracy lost, {network}"
    return Figure(
        study, title, bars(title, "percentage points", cases, series),
        "Integers of the file beside the float network that the case began from, means over seeds; less is better, and"
        " what is no worse than that is 0. Cases: MVQ table 3.",
        means, f"{study}.json", "python -m experiments.table3",
    )  # fmt: skip


def figures() -> list[Figure]:
    """All pictures, in the order of the page."""
    found = [_steps(64), _speed(), _energy(64), _area(64), _roofline(), _front(), _efficiency("ResNet-18"), _buses()]
    found += [_energy(16), _area(16), _steps(16), _clock(), _accuracy("table3-resnet18", "ResNet-18 on CIFAR-10")]
    return sorted(found, key=lambda figure: not figure.svg)


def _inline(text: str) -> str:
    from markdown_it import MarkdownIt

    return str(MarkdownIt().renderInline(text))


def _figure(figure: Figure, results: str) -> Iterator[str]:
    yield f'<figure id="{figure.name}"><h3>{html.escape(figure.title)}</h3>'
    if figure.svg:
        yield f'<div class="wide">{figure.svg}</div>'
    yield f"<figcaption>{_inline(figure.text)}</figcaption>"
    if figure.data is not None:
        text = html.escape(json.dumps(figure.data, indent=1))
        files = ", ".join(
            f'<a href="{html.escape(f"{results}/{name}")}">{html.escape(name)}</a>'
            for name in figure.source.split(", ")
        )
        yield f"<details><summary>data, of {files}</summary><pre>{text}</pre></details>"
    yield f"<figcaption>made by <code>{html.escape(figure.command)}</code></figcaption></figure>"


def _tiles() -> Iterator[str]:
    """README's headlines, without the links to its pages."""
    for line in list(readme.headlines_part())[2:]:
        what, figure, _ = (cell.strip() for cell in line.strip("|").split(" | "))
        yield f"<li>{_inline(what)} <strong>{_inline(figure)}</strong></li>"


def _tables() -> Iterator[str]:
    """docs/papers.md, each table where it can be scrolled."""
    from markdown_it import MarkdownIt

    text = papers.PAGE.read_text().partition("\n## ")
    body = str(MarkdownIt().enable("table").render(text[1] + text[2]))
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    yield body.replace("<h2>", "<h3>").replace("</h2>", "</h3>")


def page(folder: Path) -> str:
    """The whole page as HTML.

    Parameters
    ----------
    folder
        Where the page will be: its links lead to the committed results from there.
    """
    results = Path(os.path.relpath(RESULTS, folder.resolve())).as_posix()
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>msvq: results</title><style>{_STYLE}</style></head><body><main>",
        "<h1>Results of msvq</h1>",
        "<p>From the committed files of <code>docs/results</code>, by <code>make report</code>.</p>",
        '<ul class="tiles">', *_tiles(), "</ul>",
        '<h2>Pictures</h2><div class="figures">',
        *(line for figure in figures() for line in _figure(figure, results)),
        "</div>", "<h2>The papers' tables, and ours beside them</h2>", *_tables(),
        "</main></body></html>", "",
    ]  # fmt: skip
    return "\n".join(parts)


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after one line on stderr."""
    parser = Parser(prog="python -m tools.report", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", metavar="DIR", type=path_argument, dest="folder", default=Path("build/report"))
    options = parser.parse_args(arguments)
    try:
        target = writable_folder(options.folder) / "index.html"
        write_text(target, page(options.folder))
    except OSError as error:
        parser.error(f"cannot read or write: {error}")
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
