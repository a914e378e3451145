"""``python -m tools.readme``: the figures of README.md, and the tables of docs/results.md and docs/blocks.md.

Results of the last ``make demo``, ``make synth`` and ``python -m synth.choices`` are condensed into ``docs/results/``,
which is committed, by library; where there are none, what is committed stays. Then every part of those pages between
``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` is written.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hw.command_line import Parser, interruptible
from sw.format.strict_json import json_text
from tools import power
from tools.marked import row, write_parts

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results"

#: Pages, and the parts of each that are written.
PAGES = {
    README: ("headlines",),
    ROOT / "docs" / "results.md": ("compression", "cosimulation", "accuracy", "networks", "area", "whole", "choices"),
    ROOT / "docs" / "blocks.md": ("blocks",),
}

#: Studies whose rows docs/results.md shows.
ACCURACIES = ("table3-resnet18", "signs-mobilenetv2", "signs-vit")

#: Networks on the RTL that docs/results.md shows.
NETWORKS = {
    "resnet20": "ResNet-20, 32 x 32",
    "resnet18": "ResNet-18, 224 x 224",
    "efficientnet-lite0": "EfficientNet-Lite0, 224 x 224",
    "deit-tiny": "DeiT-tiny, linear layers",
    "vit": "DeiT-tiny, whole",
    "resnet18-64": "ResNet-18, 224 x 224",
    "deit-tiny-64": "DeiT-tiny, linear layers, activations in L2",
}


def condense_demo(summary: dict[str, Any]) -> dict[str, Any]:
    """The part of the demo's summary that the pages show."""
    compression = []
    for report in summary["compression"]:
        raw = sum(row["method"] == "int8" for row in report["layers"])
        compression.append(
            {
                "recipe": report["recipe"],
                "settings": {
                    key: report["settings"][key] for key in ("method", "k", "d", "n", "m", "iterations", "seed")
                },
                "compressed_layers": len(report["layers"]) - raw,
                "layers_at_8_bit": raw,
                "compressed": {
                    key: report["totals"][0][key]
                    for key in ("weights", "sse", "kept_sse", "relative_error", "ideal_ratio")
                },
                "container": {key: report["container"][key] for key in ("bytes", "float_bytes", "ratio")},
            }
        )
    keys = ("layer", "shape", "activations", "sums", "mismatches", "cycles", "predicted", "utilisation")
    return {
        "network": summary["network"],
        "versions": summary["versions"],
        "preset": summary["verilog"]["preset"],
        "compression": compression,
        "cosimulation": [{key: report[key] for key in keys} for report in summary["cosimulation"]],
    }


def compression_part(demo: dict[str, Any]) -> Iterator[str]:
    """Errors and ratios of each recipe."""
    yield row("method", "k", "d", "layers, at 8 bit", "error", "SSE kept", "ratio, eq. 7", "file", "ratio, file")
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for report in demo["compression"]:
        settings, compressed, file = report["settings"], report["compressed"], report["container"]
        masked = settings["method"] in ("mvq", "msvq")
        yield row(
            settings["method"].upper() + (f" {settings['n']}:{settings['m']}" if masked else ""),
            settings["k"],
            settings["d"],
            f"{report['compressed_layers']}, {report['layers_at_8_bit']}",
            f"{100 * compressed['relative_error']:.1f} %",
            f"{compressed['kept_sse']:.0f}",
            f"{compressed['ideal_ratio']:.2f}",
            f"{file['bytes'] / 1e6:.2f} MB",
            f"{file['ratio']:.2f}",
        )


def cosimulation_part(demo: dict[str, Any]) -> Iterator[str]:
    """Layers that ran on the generated Verilog."""
    yield row(
        f"layer, on {demo['preset']}",
        "weights",
        "activations",
        "sums",
        "different",
        "cycles",
        "predicted",
        "utilisation",
    )
    yield "|---|---|---|--:|--:|--:|--:|--:|"
    for report in demo["cosimulation"]:
        yield row(
            f"`{report['layer']}`",
            " x ".join(map(str, report["shape"])),
            " x ".join(map(str, report["activations"])),
            f"{report['sums']:,}",
            report["mismatches"],
            f"{report['cycles']:,}",
            f"{report['predicted']:,}",
            f"{100 * report['utilisation']:.1f} %",
        )


def accuracy_part() -> Iterator[str]:
    """Accuracy after fine-tuning: mean over the seeds, of the rows of each study."""
    from experiments.common import spread
    from tools.answers import STUDIES

    yield row("network", "float", "case", "accuracy", "seeds", "ratio, eq. 7", "file")
    yield "|---|--:|---|--:|--:|--:|--:|"
    for study in ACCURACIES:
        report = json.loads((RESULTS / f"{study}.json").read_text())
        for entry in report["summary"]:
            runs = [run for run in report["runs"] if run["case"] == entry["case"]]
            yield row(
                STUDIES[study],
                f"{runs[0]['accuracy_float']:.2f}",
                entry["case"],
                spread(entry["accuracy"]),
                entry["seeds"],
                f"{runs[0]['ratio_ideal']:.1f}",
                f"{runs[0]['file_bytes'] / 1e6:.2f} MB",
            )


def networks_part() -> Iterator[str]:
    """Whole networks that ran on the Verilog."""
    yield row(
        "network",
        "instance",
        "images",
        "bytes of layers",
        "different",
        "cycles",
        "cycle model",
        "utilisation",
        "worst layer",
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|"
    for network, title in NETWORKS.items():
        for run in json.loads((RESULTS / f"networks-{network}.json").read_text()):
            if run["source"] != "RTL":
                continue
            summary, compared = run["summary"], run["compared"]
            yield row(
                title,
                f"`{run['preset']}`",
                run["images"],
                f"{compared['layer_bytes']:,}",
                compared["different"],
                f"{summary['cycles']:,}",
                f"{100 * (summary['model'] / summary['cycles'] - 1):+.2f} %",
                f"{100 * summary['utilisation']:.1f} %",
                f"{100 * summary['model_worst']['apart']:+.2f} %",
            )


def _components(path: Path) -> Iterator[ast.ClassDef]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Component") for base in node.bases):
            yield node


def condense_area(report: dict[str, Any]) -> dict[str, Any]:
    """The part of the area report that the pages show; of blocks and units the NAND2 equivalents."""
    keys = ("total", "without_crf", "total_nand2", "sequential_share")
    presets = {}
    for name, values in report["presets"].items():
        config = values["configuration"]
        presets[name] = {key: config[key] for key in ("variant", "weight_bits")} | {"size": config["H"]}
        presets[name] |= {key: values[key] for key in keys}
        for part in ("blocks", "units"):
            presets[name][part] = {block: figures["nand2"] for block, figures in values[part].items()}
        presets[name]["memory_bits"] = values["memory_bits"]
    described = {key: report["library"][key] for key in ("name", "unit", "sha256")}
    found = {"library": described, "storage": report["storage"], "tools": report["tools"], "presets": presets}
    return dict(_rounded(found))


def _rounded(value: Any) -> Any:
    """Figures to twelve digits: the order in which areas are added up decides those beyond."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    return {key: _rounded(part) for key, part in value.items()} if isinstance(value, dict) else value


def condense_timing(report: dict[str, Any]) -> dict[str, Any]:
    """The part of the report of delays that the pages show: the longest opinion on each section."""
    presets = {
        name: {
            section: max(figures["registered"], figures["opensta"] or 0.0)
            for section, figures in values["sections"].items()
        }
        for name, values in report["presets"].items()
    }
    return {key: report[key] for key in ("library", "clock", "margin", "storage", "tools")} | {"presets": presets}


def conditions(report: dict[str, Any]) -> str:
    """What areas or delays were made with: library, how registers are kept, and the synthesiser."""
    return f"Library {report['library']['name']}, registers: {report['storage']}, Yosys {report['tools']['yosys']}"


def _to_base(value: float, base: float) -> str:
    return f"{100 * (value / base - 1):+.1f} %"


def area_part() -> Iterator[str]:
    """Totals of each variant beside MVQ table 7, for every library with results."""
    for path in sorted(RESULTS.glob("area-*.json")):
        yield from area_table(json.loads(path.read_text()))
        yield ""
    yield "The paper: Synopsys DC, 40 nm; its CRF is what EWS-C has over EWS."


def whole_part() -> Iterator[str]:
    """Logic of whole accelerators by block, and delays, for every library of real cells with results."""
    for path in sorted(RESULTS.glob("area-*.json")):
        report = json.loads(path.read_text())
        if report["library"]["unit"] != "um2":
            continue
        yield from whole_table(report)
        timing = RESULTS / path.name.replace("area-", "timing-")
        if timing.exists():
            yield ""
            yield from delay_table(json.loads(timing.read_text()))


def whole_table(report: dict[str, Any]) -> Iterator[str]:
    """Blocks of the array, units around it and memories of the presets of which all is known."""
    presets = {name: values for name, values in report["presets"].items() if values["units"]}
    yield row("logic, kNAND2", *(f"`{name}`" for name in presets))
    yield "|---|" + "--:|" * len(presets)
    array = {name: sum(values["blocks"].values()) for name, values in presets.items()}
    around = {name: sum(values["units"].values()) for name, values in presets.items()}
    for part, title, total in (("blocks", "array and decoder", array), ("units", "around the array", around)):
        for block in dict.fromkeys(block for values in presets.values() for block in values[part]):
            sizes = (values[part].get(block) for values in presets.values())
            yield row(block, *("" if size is None else f"{size / 1000:,.1f}" for size in sizes))
        yield row(f"**{title}**", *(f"**{size / 1000:,.1f}**" for size in total.values()))
    logic = {name: array[name] + around[name] for name in presets}
    yield row("**all logic**", *(f"**{size / 1000:,.1f}**" for size in logic.values()))
    base = [logic[f"ews-{values['size']}"] for values in presets.values()]
    changes = (_to_base(size, dense) if size != dense else "" for size, dense in zip(logic.values(), base, strict=True))
    yield row("to EWS", *changes)
    memories = [sum(values["memory_bits"].values()) / 8192 for values in presets.values()]
    yield row("static memories, KiB", *(f"{size:,.0f}" for size in memories))
    yield ""
    yield f"{conditions(report)}, cells alone; static memories are macros."


def delay_table(report: dict[str, Any]) -> Iterator[str]:
    """The slowest section of each preset."""
    margin = report["margin"]
    limit = report["clock"] * (1 - margin)
    yield row("delays", "slowest section", "ps", "second slowest", "ps", f"beyond {limit:,.0f} ps")
    yield "|---|---|--:|---|--:|--:|"
    for name, sections in report["presets"].items():
        slowest = sorted(sections, key=lambda section: -sections[section])
        figures = [text for section in slowest[:2] for text in (section, f"{sections[section]:,.0f}")]
        late = sum(delay > limit for delay in sections.values())
        yield row(f"`{name}`", *figures, f"{late} of {len(sections)}")
    yield ""
    yield (
        f"{conditions(report)}; from register to register, with buffers and wires, the longer of two opinions. "
        f"{limit:,.0f} ps are {1 - margin:.0%} of the clock cycle; the rest is for clock tree and layout."
    )


def area_table(report: dict[str, Any]) -> Iterator[str]:
    """Totals of each variant for one library."""
    from synth.report import PAPER

    yield row("array", "kNAND2", "to EWS", "paper", "without CRF, to EWS", "paper")
    yield "|---|--:|--:|--:|--:|--:|"
    for name, values in report["presets"].items():
        # The paper's weights have 8 bits, and so have those of older results.
        size, variant, bits = values["size"], values["variant"], values.get("weight_bits", 8)
        base = report["presets"][f"ews-{size}"]
        paper, paper_base = PAPER.get(variant, {}).get(size) if bits == 8 else None, PAPER["ews"][size]
        # The paper's CRF is what C and CM have over EWS.
        crf = PAPER["ews-cm"][size] - paper_base
        yield row(
            f"`{name}`",
            f"{values['total_nand2'] / 1000:,.0f}",
            _to_base(values["total"], base["total"]) if values is not base else "",
            _to_base(paper, paper_base) if paper and variant != "ews" else "",
            _to_base(values["without_crf"], base["without_crf"]) if values is not base else "",
            _to_base(paper - crf, paper_base) if paper and variant not in ("ws", "ews") else "",
        )
    yield ""
    yield f"{conditions(report)}, cells alone."


def choices_part() -> Iterator[str]:
    """Measurements behind choices of the hardware, for every library with results."""
    from synth.choices import markdown

    for path in sorted(RESULTS.glob("choices-*.json")):
        yield from "\n".join(markdown(json.loads(path.read_text()))).split("\n")
        yield ""


def _markdown(text: str) -> str:
    """One cell from reStructuredText: roles and double backquotes become single ones."""
    return re.sub(r":\w+:`|``", "`", text.replace("\n", " ").replace("|", "\\|"))


def blocks_part() -> Iterator[str]:
    """Every hardware block, with what it is and the tests that name it, but for those of the documentation."""
    yield row("block", "file", "what it is", "tests of its own")
    yield "|---|---|---|---|"
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if path.parent.name != "tools")
    tests = {path: path.read_text() for path in files}
    for path in sorted((ROOT / "hw").rglob("*.py")):
        for node in _components(path):
            summary = _markdown((ast.get_docstring(node) or "").partition("\n\n")[0])
            naming = [test for test, text in tests.items() if re.search(rf"\b{node.name}\b", text)]
            where = path.relative_to(ROOT)
            links = ", ".join(f"[{test.stem}](../{test.relative_to(ROOT)})" for test in naming)
            yield row(f"`{node.name}`", f"[{where}](../{where})", summary, links or "through the core alone")


def headlines_part() -> Iterator[str]:
    """Seven figures of README.md, each with the page that has all of them."""
    yield row("what", "figure", "proof")
    yield "|---|---|---|"
    found = _read("demo")["compression"]
    mvq, msvq = (next(x for x in found if x["settings"]["method"] == method) for method in ("mvq", "msvq"))
    yield row(
        "EfficientNet-Lite0, before training: the codebook",
        f"MSVQ has {msvq['settings']['k']} codewords where MVQ has {mvq['settings']['k']}, at the same error"
        f" ({100 * msvq['compressed']['relative_error']:.1f} and {100 * mvq['compressed']['relative_error']:.1f} %)",
        "[compression](docs/results.md#compression-without-training)",
    )
    study = _read("table3-resnet18")
    accuracy = next(entry for entry in study["summary"] if entry["case"] == "MSVQ")["accuracy"]
    run = next(run for run in study["runs"] if run["case"] == "MSVQ")
    yield row(
        "ResNet-18 on CIFAR-10, integers of the file",
        f"{run['ratio_ideal']:.1f} times smaller, {sum(accuracy) / len(accuracy):.2f} %"
        f" (float {run['accuracy_float']:.2f} %)",
        "[accuracy](docs/results.md#accuracy-after-fine-tuning)",
    )
    runs = [run for name in NETWORKS for run in _read(f"networks-{name}") if run["source"] == "RTL"]
    compared = sum(run["compared"]["layer_bytes"] for run in runs)
    different = sum(run["compared"]["different"] for run in runs)
    yield row(
        f"{len(runs)} runs of whole networks on the Verilog",
        f"{different} of {compared:,} bytes differ from the golden model",
        "[networks](docs/results.md#whole-networks-on-the-verilog)",
    )
    worst = max(abs(run["summary"]["model"] / run["summary"]["cycles"] - 1) for run in runs)
    yield row(
        "The cycle model beside those runs",
        f"within {100 * worst:.2f} % of a network's cycles",
        "[networks](docs/results.md#whole-networks-on-the-verilog)",
    )
    cycles = {run["preset"]: run["summary"]["cycles"] for run in _read("networks-resnet18-64")}
    yield row(
        "ResNet-18, 64 x 64, beside 8-bit weights",
        f"{cycles['ews-64'] / cycles['ews-cms-64']:.2f} times as fast ({cycles['ews-cms-64']:,} cycles)",
        "[speed](docs/results/networks-speed.md)",
    )
    presets = _read("area-nangate45_typ")["presets"]
    area = {name: presets[name]["total"] for name in ("ews-64", "ews-cms-64", "ews-msvq-64")}
    yield row(
        "Area of the array and its decoder at 64 x 64",
        f"{_to_base(area['ews-cms-64'], area['ews-64'])} EWS-CMS,"
        f" {_to_base(area['ews-msvq-64'], area['ews-64'])} EWS-MSVQ, to EWS with 8-bit weights",
        "[area](docs/results.md#area)",
    )
    energy = [
        [power.ratio(name, account, inner=False) for account in ("macro", "paper")]
        for name in ("ews-cms-64", power.best("macro", inner=False))
    ]
    yield row(
        "Energy of ResNet-18 with L1 and L2 at 64 x 64",
        f"EWS-CMS {energy[0][0]:.2f} times as efficient as EWS, EWS-MSVQ {energy[1][0]:.2f} (as the paper counts"
        f" {energy[0][1]:.2f} and {energy[1][1]:.2f}); wanted were 2.3 and 3.0",
        "[energy](docs/power.md)",
    )


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def parts() -> dict[str, Callable[[], Iterator[str]]]:
    """What each marked part consists of."""
    demo = json.loads((RESULTS / "demo.json").read_text())
    return {
        "compression": lambda: compression_part(demo),
        "cosimulation": lambda: cosimulation_part(demo),
        "accuracy": accuracy_part,
        "networks": networks_part,
        "area": area_part,
        "whole": whole_part,
        "choices": choices_part,
        "blocks": blocks_part,
        "headlines": headlines_part,
    }


def render(text: str, page: Path = README) -> str:
    """A page with its marked parts written anew.

    Raises
    ------
    ValueError
        A part is missing or marked more than once.
    """
    found = parts()
    return write_parts(text, {name: found[name] for name in PAGES[page]}, page.name)


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = Parser(prog="python -m tools.readme", description=__doc__)
    parser.parse_args(arguments)
    try:
        texts = _condensed()
    except ValueError as error:
        parser.error(str(error))
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (RESULTS / name).write_text(text)
    for page in PAGES:
        page.write_text(render(page.read_text(), page))
        print(page)
    return 0


def _condensed() -> dict[str, str]:
    """What goes into :data:`RESULTS`, by the names of its files, of the last results in ``build``.

    Raises
    ------
    ValueError
        Those of some presets alone would take the place of a table of more.
    """
    texts = {}
    for name, path, condense in (
        ("demo", "build/demo/summary.json", condense_demo),
        ("area-{}", "build/synth/area.json", condense_area),
        ("timing-{}", "build/synth/timing.json", condense_timing),
        ("choices-{}", "build/synth/choices.json", dict),
    ):
        if (ROOT / path).exists():
            condensed = condense(json.loads((ROOT / path).read_text()))
            name = name.format(condensed.get("library", {}).get("name"))
            kept = RESULTS / f"{name}.json"
            before = json.loads(kept.read_text()).get("presets", {}) if kept.exists() else {}
            if lost := [each for each in before if each not in condensed.get("presets", {})]:
                raise ValueError(
                    f"{path} lacks {len(lost)} presets of docs/results/{kept.name}, such as {lost[0]}: make synth"
                    " measures all; or delete the one or the other"
                )
            texts[kept.name] = json_text(condensed)
            if name.startswith(("area", "timing")):
                texts[f"{name}.md"] = (ROOT / path).with_suffix(".md").read_text()
    return texts


if __name__ == "__main__":
    sys.exit(main())
