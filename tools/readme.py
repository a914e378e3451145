"""``python -m tools.readme``: the tables of README.md, from results and from the code.

Results of the last ``make demo``, ``make synth`` and ``python -m synth.choices`` are condensed into ``docs/results/``,
which is committed, by library; where there are none, what is committed stays. Then every part of README.md between
``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` is written.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.common import spread
from synth.choices import markdown
from synth.report import PAPER
from tools.marked import write_parts

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results"

#: Networks and their studies whose rows README.md shows.
ACCURACIES = {
    "ResNet-18": "table3-resnet18",
    "MobileNet-v2": "signs-mobilenetv2",
    "transformer": "signs-vit",
}

#: Networks on the RTL that README.md shows.
NETWORKS = {
    "resnet20": "ResNet-20, 32 x 32",
    "resnet18": "ResNet-18, 224 x 224",
    "efficientnet-lite0": "EfficientNet-Lite0, 224 x 224",
    "deit-tiny": "DeiT-tiny, linear layers",
    "vit": "DeiT-tiny, whole",
}


def condense_demo(summary: dict[str, Any]) -> dict[str, Any]:
    """The part of the demo's summary that README.md shows."""
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


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def compression_part(demo: dict[str, Any]) -> Iterator[str]:
    """Errors and ratios of each recipe."""
    yield _row("method", "k", "d", "layers, at 8 bit", "error", "SSE kept", "ratio, eq. 7", "file", "ratio, file")
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for report in demo["compression"]:
        settings, compressed, file = report["settings"], report["compressed"], report["container"]
        masked = settings["method"] in ("mvq", "msvq")
        yield _row(
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
    yield _row(
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
        yield _row(
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
    yield _row("network", "float", "case", "accuracy", "seeds", "ratio, eq. 7", "file")
    yield "|---|--:|---|--:|--:|--:|--:|"
    for network, study in ACCURACIES.items():
        report = json.loads((RESULTS / f"{study}.json").read_text())
        for entry in report["summary"]:
            runs = [run for run in report["runs"] if run["case"] == entry["case"]]
            yield _row(
                network,
                f"{runs[0]['accuracy_float']:.2f}",
                entry["case"],
                spread(entry["accuracy"]),
                entry["seeds"],
                f"{runs[0]['ratio_ideal']:.1f}",
                f"{runs[0]['file_bytes'] / 1e6:.2f} MB",
            )


def networks_part() -> Iterator[str]:
    """Whole networks that ran on the Verilog."""
    yield _row(
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
            yield _row(
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
    """The part of the area report that README.md shows."""
    keys = ("total", "without_crf", "total_nand2", "sequential_share")
    presets = {
        name: {"variant": values["configuration"]["variant"], "size": values["configuration"]["H"]}
        | {key: values[key] for key in keys}
        for name, values in report["presets"].items()
    }
    described = {key: report["library"][key] for key in ("name", "unit", "sha256")}
    return {"library": described, "storage": report["storage"], "tools": report["tools"], "presets": presets}


def _to_base(value: float, base: float) -> str:
    return f"{100 * (value / base - 1):+.1f} %"


def area_part() -> Iterator[str]:
    """Totals of each variant beside MVQ table 7, for every library with results."""
    for path in sorted(RESULTS.glob("area-*.json")):
        yield from area_table(json.loads(path.read_text()))
        yield ""
    yield "The paper: Synopsys DC, 40 nm; its CRF is what EWS-C has over EWS."


def area_table(report: dict[str, Any]) -> Iterator[str]:
    """Totals of each variant for one library."""
    yield _row("array", "kNAND2", "to EWS", "paper", "without CRF, to EWS", "paper")
    yield "|---|--:|--:|--:|--:|--:|"
    for name, values in report["presets"].items():
        size, variant = values["size"], values["variant"]
        base = report["presets"][f"ews-{size}"]
        paper, paper_base = PAPER.get(variant, {}).get(size), PAPER["ews"][size]
        # The paper's CRF is what C and CM have over EWS.
        crf = PAPER["ews-cm"][size] - paper_base
        yield _row(
            f"`{name}`",
            f"{values['total_nand2'] / 1000:,.0f}",
            _to_base(values["total"], base["total"]) if variant != "ews" else "",
            _to_base(paper, paper_base) if paper and variant != "ews" else "",
            _to_base(values["without_crf"], base["without_crf"]) if variant != "ews" else "",
            _to_base(paper - crf, paper_base) if paper and variant not in ("ws", "ews") else "",
        )
    library, storage, yosys = report["library"]["name"], report["storage"], report["tools"]["yosys"]
    yield ""
    yield f"Library {library}, registers: {storage}, Yosys {yosys}, cells alone."


def choices_part() -> Iterator[str]:
    """Measurements behind choices of the hardware, for every library with results."""
    for path in sorted(RESULTS.glob("choices-*.json")):
        yield from "\n".join(markdown(json.loads(path.read_text()))).split("\n")
        yield ""


def _markdown(text: str) -> str:
    """One cell from reStructuredText: roles and double backquotes become single ones."""
    return re.sub(r":\w+:`|``", "`", text.replace("\n", " ").replace("|", "\\|"))


def blocks_part() -> Iterator[str]:
    """Every hardware block, with what it is and the tests that name it."""
    yield _row("block", "file", "what it is", "tests of its own")
    yield "|---|---|---|---|"
    tests = {path: path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    for path in sorted((ROOT / "hw").rglob("*.py")):
        for node in _components(path):
            summary = _markdown((ast.get_docstring(node) or "").partition("\n\n")[0])
            naming = [test for test, text in tests.items() if re.search(rf"\b{node.name}\b", text)]
            where = path.relative_to(ROOT)
            links = ", ".join(f"[{test.stem}]({test.relative_to(ROOT)})" for test in naming) or "through the core alone"
            yield _row(f"`{node.name}`", f"[{where}]({where})", summary, links)


def parts() -> dict[str, Callable[[], Iterator[str]]]:
    """What each marked part of README.md consists of."""
    demo = json.loads((RESULTS / "demo.json").read_text())
    return {
        "compression": lambda: compression_part(demo),
        "cosimulation": lambda: cosimulation_part(demo),
        "accuracy": accuracy_part,
        "networks": networks_part,
        "area": area_part,
        "choices": choices_part,
        "blocks": blocks_part,
    }


def render(text: str) -> str:
    """README.md with its marked parts written anew.

    Raises
    ------
    ValueError
        A part is missing or marked more than once.
    """
    return write_parts(text, parts(), README.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    argparse.ArgumentParser(prog="python -m tools.readme", description=__doc__).parse_args(arguments)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, path, condense in (
        ("demo", "build/demo/summary.json", condense_demo),
        ("area-{}", "build/synth/area.json", condense_area),
        ("choices-{}", "build/synth/choices.json", dict),
    ):
        if (ROOT / path).exists():
            condensed = condense(json.loads((ROOT / path).read_text()))
            library = condensed.get("library", {}).get("name")
            (RESULTS / f"{name.format(library)}.json").write_text(json.dumps(condensed, indent=1) + "\n")
    README.write_text(render(README.read_text()))
    print(README)
    return 0


if __name__ == "__main__":
    sys.exit(main())
