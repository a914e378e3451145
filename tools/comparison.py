"""``python -m tools.comparison``: area, bits and accuracy of the arrays side by side, in docs/comparison.md.

Every figure is of a report in ``docs/results``: ``area-*.json`` of ``make synth``, the accuracies of ``experiments``,
and the cycles of ``sim.networks``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.marked import Page, row

__all__ = ["PAGE", "main", "parts", "render"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "comparison.md"
RESULTS = ROOT / "docs" / "results"


@dataclass(frozen=True)
class Array:
    """A kind of array and the weights that it is made for."""

    #: In the tables.
    title: str
    #: Without the size.
    preset: str
    #: By network the study and the case whose weights it takes.
    cases: Mapping[str, tuple[str, str]]


ARRAYS = (
    Array("EWS, 8 bits", "ews", {}),
    Array(
        "EWS, 4 bits",
        "ews4",
        {"ResNet-20": ("table3-resnet20", "LSQ 4 bit"), "ResNet-18": ("table3-resnet18", "LSQ 4 bit")},
    ),
    Array(
        "EWS-CMS: MVQ 4:16, k = 512",
        "ews-cms",
        {"ResNet-20": ("table3-resnet20", "D"), "ResNet-18": ("table3-resnet18", "D")},
    ),
    Array(
        "MSVQ 4:16, k = 32, 8 bits",
        "ews-msvq",
        {"ResNet-20": ("narrow-resnet20", "MSVQ, 8 bits"), "ResNet-18": ("narrow-resnet18", "MSVQ, 8 bits")},
    ),
    Array("MSVQ 2:8, k = 32, 4 bits", "ews-msvq4", {"ResNet-20": ("narrow-resnet20", "MSVQ 2:8, 4 bits")}),
)
NETWORKS = ("ResNet-20", "ResNet-18")
SIZES = (16, 64)


def _report(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _change(value: float, base: float) -> str:
    return f"{100 * (value / base - 1):+.1f} %"


def _logic(preset: Mapping[str, Any]) -> float:
    """Array, decoder and what is around them, in NAND2."""
    return float(sum(sum(preset[part].values()) for part in ("blocks", "units")))


def headline_part() -> Iterator[str]:
    """One row an array: areas, bits a weight, accuracies."""
    report = _report("area-nangate45_typ")
    presets = report["presets"]
    header = [text for size in SIZES for text in (f"{size} x {size}, mm2", "to EWS", "to EWS of 4 bits")]
    yield row("array and weights", *header, "all logic at 64, to EWS", "bits a weight", *NETWORKS)
    yield "|---|" + "--:|" * (len(header) + 2 + len(NETWORKS))
    for array in ARRAYS:
        areas = []
        for size in SIZES:
            found, base, narrow = (presets[f"{name}-{size}"]["total"] for name in (array.preset, "ews", "ews4"))
            areas += [f"{found / 1e6:.3f}", _change(found, base), _change(found, narrow)]
        logic = _change(*(_logic(presets[f"{name}-64"]) for name in (array.preset, "ews")))
        yield row(array.title, *areas, logic, *_accuracies(array))
    yield ""
    yield (
        f"Library {report['library']['name']}, Yosys {report['tools']['yosys']}, cells alone, CRF included. Accuracies "
        "are those of the file's integers, mean of the seeds, `of` that of the float network that they started from; "
        "studies have different ones, so that the distance says more than the first number. Bits: equation 7."
    )


def _accuracies(array: Array) -> Iterator[str]:
    """Bits a weight, of the first network; then the accuracy of each."""
    from experiments.common import spread

    cells, bits = [], 8.0
    for network in NETWORKS:
        if network not in array.cases:
            cells.append("")
            continue
        study, case = array.cases[network]
        report = _report(study)
        (summary,) = (entry for entry in report["summary"] if entry["case"] == case)
        run = next(run for run in report["runs"] if run["case"] == case)
        bits = 32 / run["ratio_ideal"] if not any(cells) else bits
        cells.append(f"{spread(summary['accuracy'])} of {run['accuracy_float']:.2f}")
    yield f"{bits:.2f}"
    yield from cells


def cycles_part() -> Iterator[str]:
    """Whole networks on arrays of narrow weights, and beside them on those of 8 bits."""
    yield row("network", "instance", "source", "bytes of layers", "different", "cycles", "first layer", "last layer")
    yield "|---|---|---|--:|--:|--:|--:|--:|"
    for path in sorted(RESULTS.glob("networks-*.json")):
        if not path.stem.endswith("-narrow"):
            continue
        for run in json.loads(path.read_text()):
            compared = run.get("compared", {})
            size = compared.get("layer_bytes")
            layers = [layer["cycles"] for layer in run["layers"] if layer.get("utilisation") is not None]
            yield row(
                path.stem.removeprefix("networks-").removesuffix("-narrow"),
                f"`{run['preset']}`",
                run["source"],
                "" if size is None else f"{size:,}",
                compared.get("different", ""),
                *(f"{cycles:,}" for cycles in (run["summary"]["cycles"], layers[0], layers[-1])),
            )


def levers_part() -> Iterator[str]:
    """What one change at a time does to area and cycles."""
    from synth.levers import markdown

    yield from "\n".join(markdown(_report("levers-nangate45_typ"))).split("\n")


def parts() -> dict[str, Any]:
    """What each marked part of the page consists of."""
    return {"headline": headline_part, "cycles": cycles_part, "levers": levers_part}


_PAGE = Page(PAGE, parts)
render = _PAGE.render
main = _PAGE.command("tools.comparison", __doc__)


if __name__ == "__main__":
    sys.exit(main())
