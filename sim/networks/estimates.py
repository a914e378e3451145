"""``python -m sim.networks.estimates``: the estimate of ``sw.perf`` beside what the RTL's counters have said.

Takes the reports ``networks-*.json`` of ``python -m sim.networks``, and writes ``networks-estimates.json`` and ``.md``:
cycles of every layer, and the time that an estimate takes. ResNet-20 is the project's containers, those of
:mod:`sim.networks.gated` are made anew, the other networks are the shapes in ``sim/networks/shapes``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

from hw.command_line import interruptible
from hw.config import AcceleratorConfig, preset
from sim.networks.__main__ import RESULTS
from sim.networks.command_line import report_parser, run_report

if TYPE_CHECKING:
    from sw.perf.estimate import Network

__all__ = ["compare", "main", "markdown"]

SHAPES = Path(__file__).parent / "shapes"
NETWORKS = (
    "resnet20",
    "resnet18",
    "resnet18-64",
    "deit-tiny",
    "efficientnet-lite0",
    "u-net",
    "mobilenet-v3",
    "efficientnet",
    "detector",
)
#: Layers that are further from the RTL are listed.
LISTED = 0.01
#: Estimates of which the fastest is timed.
TIMED = 5


def _network(report: dict[str, Any], config: AcceleratorConfig) -> Network:
    from sim.networks.gated import GATED
    from sim.networks.workloads import CONTAINERS, random_gated
    from sw.compiler.lowering import lower
    from sw.perf.estimate import Network
    from sw.perf.shapes import read_workload

    if report["network"] in GATED:
        network, images = random_gated(report["network"], config, False)
        return Network(lower(network, (images.shape[1], images.shape[2], images.shape[3])))
    path = SHAPES / f"{report['network'].removesuffix('-64')}.json"
    if not path.exists():
        # The container that ran: its name comes first.
        name = report["weights"].partition(",")[0]
        path = next((folder / name for folder in CONTAINERS if (folder / name).exists()), CONTAINERS[0] / name)
    return read_workload(path).network(config)


def compare(report: dict[str, Any]) -> dict[str, Any]:
    """A report of :mod:`sim.networks` beside the estimate: cycles of each layer, and of all; milliseconds."""
    from sw.perf.estimate import estimate

    config = preset(report["preset"])
    network = _network(report, config)
    start = process_time()
    network.mapped(config)
    searched = process_time()
    seconds = []
    for _ in range(TIMED):
        begin = process_time()
        timings = estimate(network, config)
        seconds.append(process_time() - begin)
    layers = [
        {"layer": row["layer"], "rtl": row["cycles"], "estimate": timing.counters["cycles"]}
        for row, timing in zip(report["layers"], timings, strict=True)
    ]
    return {
        "network": report["network"],
        "preset": report["preset"],
        "milliseconds": round(1000 * min(seconds), 1),
        "milliseconds_of_tiling": round(1000 * (searched - start), 1),
        "rtl": sum(layer["rtl"] for layer in layers),
        "estimate": sum(layer["estimate"] for layer in layers),
        "layers": layers,
    }


def _apart(row: dict[str, Any]) -> float:
    return row["estimate"] / row["rtl"] - 1 if row["rtl"] else 0.0


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The page of all comparisons."""
    lines = [
        "# The estimate beside the RTL",
        "",
        "Made by `python -m sim.networks.estimates` from the reports `networks-*.json`. Milliseconds of one processor",
        "core: of the estimate, the fastest of several, and of the choice of tiles, which is kept for the next one.",
        "",
        "| network | preset | RTL, cycles | estimate % | layers | within 3 % | worst layer | its cycles | % | ms |"
        " tiling, ms |",
        "|---|---|--:|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        worst = max(row["layers"], key=lambda layer: abs(_apart(layer)))
        near = sum(abs(_apart(layer)) <= 0.03 for layer in row["layers"])
        cells = [row["network"], row["preset"], row["rtl"], f"{100 * _apart(row):+.2f}", len(row["layers"]), near]
        cells += [worst["layer"], worst["rtl"], f"{100 * _apart(worst):+.2f}"]
        lines.append("| " + " | ".join(map(str, [*cells, row["milliseconds"], row["milliseconds_of_tiling"]])) + " |")
    lines += ["", f"## Layers that are more than {100 * LISTED:.0f} % off", ""]
    lines += ["| network | preset | layer | RTL, cycles | estimate, cycles | % |", "|---|---|---|--:|--:|--:|"]
    for row in rows:
        for layer in row["layers"]:
            if abs(_apart(layer)) > LISTED:
                cells = [row["network"], row["preset"], layer["layer"], layer["rtl"], layer["estimate"]]
                lines.append("| " + " | ".join(map(str, [*cells, f"{100 * _apart(layer):+.2f}"])) + " |")
    return "\n".join(lines) + "\n"


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = report_parser("sim.networks.estimates", __doc__)
    options = parser.parse_args(arguments)
    return run_report(parser.prog, "estimates", options.output, _compared, markdown)


def _compared() -> list[dict[str, Any]]:
    """The committed runs on the RTL, each beside its estimate."""
    reports = (
        report
        for name in NETWORKS
        for report in json.loads((RESULTS / f"networks-{name}.json").read_text(encoding="utf-8"))
    )
    return [compare(report) for report in reports if report["source"] == "RTL"]


if __name__ == "__main__":
    sys.exit(main())
