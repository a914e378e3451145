"""Reports of runs: a JSON file, and a page of Markdown from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hw.config import AcceleratorConfig
from sim.networks.runs import Run
from sim.networks.workloads import Workload
from sw.format.output import staged
from sw.format.strict_json import json_text
from sw.perf.timing import CAUSES, LayerTiming

__all__ = ["layer_rows", "markdown", "run_report", "span", "write_report"]


def write_report(folder: Path, name: str, report: object, page: str) -> None:
    """Write ``networks-NAME.json``, and the page made of it beside it."""
    for suffix, text in ((".json", json_text(report)), (".md", page)):
        with staged(folder / f"networks-{name}{suffix}") as path:
            path.write_text(text, encoding="utf-8")


def _use(config: AcceleratorConfig, macs: int, cycles: int, coded: bool) -> dict[str, float]:
    """Shares of the array's slots and of its multipliers that do useful work in so many cycles.

    ``utilisation`` counts multiply-accumulates of pruned weights, as the paper's peak figures do. ``multipliers``
    counts products: of a sparse array's coded layers, those of kept weights alone.
    """
    slots = config.H * config.L * max(cycles, 1)
    products = macs * config.N / config.M if coded and config.features.mask else macs
    held = config.H * config.tiles * config.multipliers * max(cycles, 1)
    return {"utilisation": macs / slots, "multipliers": products / held}


def layer_rows(config: AcceleratorConfig, run: Run) -> list[dict[str, Any]]:
    """Every layer's cycles, where they went, and what the cycle model says; from the RTL where it ran."""
    rows = []
    by_name = {timing.name: timing for timing in run.model}
    notes = {layer.name: layer.note for layer in run.layers}
    for timing in run.rtl or run.model:
        counters = timing.counters
        cycles = counters["cycles"]
        lost = {cause: counters[counter] for cause, counter in CAUSES.items()}
        row: dict[str, Any] = {
            "layer": timing.name,
            "operation": timing.operation,
            "macs": timing.macs,
            "cycles": cycles,
            "operations": counters["operations"],
            "lost": lost | {"other": cycles - counters["operations"] - sum(lost.values())},
            "dram_words": counters["dram_reads"] + counters["dram_writes"],
            "mapping": notes[timing.name],
        }
        row |= _use(config, timing.macs, cycles, notes[timing.name].startswith("coded"))
        if run.rtl:
            row["model"] = by_name[timing.name].counters["cycles"]
        rows.append(row)
    return rows


def span(timings: Sequence[LayerTiming], first: str, last: str) -> int:
    """Cycles from the end of the layer ``first`` to the end of the layer ``last``, all between them included."""
    names = [timing.name for timing in timings]
    part = timings[names.index(first) + 1 : names.index(last) + 1]
    return sum(timing.counters["cycles"] for timing in part)


def _summary(config: AcceleratorConfig, run: Run) -> dict[str, Any]:
    """The whole network; and for a residual network its convolutions after the first, with all that is among them."""
    timings = run.rtl or run.model
    cycles = sum(timing.counters["cycles"] for timing in timings)
    found: dict[str, Any] = {"cycles": cycles, "macs": sum(timing.macs for timing in timings)}
    found["utilisation"] = _use(config, found["macs"], cycles, False)["utilisation"]
    if run.rtl:
        found["model"] = sum(timing.counters["cycles"] for timing in run.model)
        apart = {
            timing.name: model.counters["cycles"] / timing.counters["cycles"] - 1
            for timing, model in zip(run.rtl, run.model, strict=True)
            if timing.macs and timing.counters["cycles"]
        }
        worst = max(apart, key=lambda name: abs(apart[name]))
        found["model_worst"] = {"layer": worst, "apart": apart[worst]}
    adds = [timing.name for timing in timings if timing.operation == "add"]
    if adds and timings[0].operation == "layer":
        body = span(timings, timings[0].name, adds[-1])
        names = [timing.name for timing in timings]
        macs = sum(timing.macs for timing in timings[1 : names.index(adds[-1]) + 1])
        found["after_first"] = {
            "macs": macs,
            "cycles": body,
            "utilisation": _use(config, macs, body, False)["utilisation"],
        }
    return found


def run_report(name: str, preset: str, config: AcceleratorConfig, workload: Workload, run: Run) -> dict[str, Any]:
    """All that is known of a run, as plain JSON."""
    report: dict[str, Any] = {
        "network": name,
        "preset": preset,
        "weights": workload.weights,
        "source": "RTL" if run.rtl else "cycle model",
        "summary": _summary(config, run),
        "layers": layer_rows(config, run),
    }
    if run.transfers:
        report["host"] = {
            "programs": sum(entry.written > 0 for entry in run.transfers),
            "operations": sum(entry.written == 0 for entry in run.transfers),
            "written": sum(entry.written for entry in run.transfers),
            "read": sum(entry.read for entry in run.transfers),
        }
    if run.rtl:
        report["images"] = len(run.checks)
        report["compared"] = {
            "layers": run.checks[0].layers,
            "layer_bytes": sum(check.layer_bytes for check in run.checks),
            "bytes": sum(check.compared for check in run.checks),
            "different": sum(check.different for check in run.checks),
            "differing": sorted({name for check in run.checks for name in check.differing}),
        }
        report["simulation"] = {
            "cycles": run.cycles,
            "cycles_a_second": round(run.cycles / run.seconds) if run.seconds else None,
            "elapsed_seconds": round(run.elapsed, 1),
            "processor_seconds": round(run.processor, 1),
            "built": run.built,
        }
        if run.classes and workload.labels:
            right = sum(a == b for a, b in zip(run.classes, workload.labels, strict=True))
            report["top1"] = {"right": right, "images": len(run.classes)}
        elif run.classes:
            report["classes"] = run.classes
    return report


def _percent(part: float) -> str:
    return f"{100 * part:.1f}"


def _apart(model: int, cycles: int) -> str:
    return f"{100 * (model / cycles - 1):+.1f}" if cycles else ""


def markdown(reports: Sequence[dict[str, Any]]) -> str:
    """The page of one network's reports, one for each preset."""
    name = reports[0]["network"]
    lines = [
        f"# {name} on the accelerator",
        "",
        f"Made by `python -m sim.networks {name}`. Every byte of every layer's result is compared with the golden",
        "model. A layer's cycles go from the record of the layer before it to its own: what runs beside another layer",
        "counts for the one that ends first, so a share of more than 100 % means that a part of the layer ran before.",
        "Utilisation: useful multiply-accumulates of H * L a cycle, those of pruned weights among them. Multipliers:",
        "useful products, of those that the array's multipliers could make.",
        "",
        "| preset | weights | source | images | bytes of layers | different | top-1 | cycles | model % |"
        " utilisation % | after the first layer % |",
        "|---|---|---|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    for report in reports:
        summary, compared = report["summary"], report.get("compared", {})
        top1 = f"{report['top1']['right']} of {report['top1']['images']}" if "top1" in report else ""
        body = _percent(summary["after_first"]["utilisation"]) if "after_first" in summary else ""
        apart = _apart(summary["model"], summary["cycles"]) if "model" in summary else ""
        cells = [report["preset"], report["weights"], report["source"], report.get("images", "")]
        cells += [compared.get("layer_bytes", ""), compared.get("different", ""), top1, summary["cycles"], apart]
        lines.append("| " + " | ".join(map(str, [*cells, _percent(summary["utilisation"]), body])) + " |")
    for report in reports:
        lines += ["", f"## {report['preset']}", ""]
        if "host" in report:
            host = report["host"]
            lines += [
                f"{host['programs']} programs; between them {host['operations']} operations of the host, whose time is",
                f"not in the cycles. For each image the host writes {host['written']} bytes, inputs and operands of",
                f"programs, and reads {host['read']}, their results.",
                "",
            ]
        lines.append(
            "| layer | cycles | model % | utilisation % | multipliers % | lost to weights | activations | sums |"
            " other | mapping |"
        )
        lines.append("|---|--:|--:|--:|--:|--:|--:|--:|--:|---|")
        for row in report["layers"]:
            apart = _apart(row["model"], row["cycles"]) if "model" in row else ""
            use = [_percent(row[key]) if row["macs"] else "" for key in ("utilisation", "multipliers")]
            cells = [row["layer"], row["cycles"], apart, *use, *row["lost"].values(), row["mapping"]]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
