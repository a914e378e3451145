"""``python -m sim.networks.speed``: how much faster compressed weights make the array, by the cycle model.

Two tables go to ``networks-speed.json`` and ``.md``: ResNet-18 at 224 x 224 on EWS-CMS beside EWS and WS, as in MVQ's
figure 17; and the linear layers of DeiT-tiny with SSVQ at 1.5 bit a weight beside 8-bit weights, at several widths of
the bus. Beside them stand the cycles of the RTL, where ``networks-resnet18-64.json`` and ``networks-deit-tiny-64.json``
have them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.command_line import interruptible
from hw.config import AcceleratorConfig, preset
from sim.networks.command_line import report_parser, run_report

if TYPE_CHECKING:
    from rich.progress import Progress

    from sw.perf.timing import LayerTiming

__all__ = ["main"]

#: Clock of MVQ's evaluation (section 7), for bytes a second.
CLOCK_MHZ = 300
RESNET18_PRESETS = ("ws-64", "ews-64", "ews-cms-64")
#: Array sizes and widths of the bus in bits for DeiT-tiny.
SIZES, WIDTHS = (32, 64), (8, 16, 32, 64)


def _cycles(timings: Sequence[LayerTiming]) -> int:
    return sum(timing.counters["cycles"] for timing in timings)


def _rtl(folder: Path, network: str) -> dict[str, int]:
    """Cycles on the RTL by instance, from the report of a network if it is there."""
    path = folder / f"networks-{network}.json"
    reports = json.loads(path.read_text()) if path.exists() else []
    return {report["preset"]: report["summary"]["cycles"] for report in reports if report["source"] == "RTL"}


def _resnet18(progress: Progress, rtl: Mapping[str, int]) -> list[dict[str, Any]]:
    from sim.networks.report import span
    from sim.networks.workloads import random_resnet18
    from sw.compiler.compile import compile_network
    from sw.perf.prediction import predict

    rows: list[dict[str, Any]] = []
    task = progress.add_task("ResNet-18", total=len(RESNET18_PRESETS))
    for name in RESNET18_PRESETS:
        config = preset(name)
        network, image = random_resnet18(config, progress=False)
        timings = predict(compile_network(network, (image.shape[1], image.shape[2], image.shape[3]), config))
        names = [timing.name for timing in timings]
        last = next(number for number in range(len(names) - 1, -1, -1) if timings[number].operation == "add")
        body = span(timings, names[0], names[last])
        macs = sum(timing.macs for timing in timings[1 : last + 1])
        rows.append(
            {
                "preset": name,
                "cycles": _cycles(timings),
                "rtl": rtl.get(name),
                "convolutions_after_first": body,
                "utilisation_after_first": macs / (config.H * config.L * body),
                "dram_words": sum(timing.counters["dram_reads"] for timing in timings),
            }
        )
        progress.advance(task)
    for row in rows:
        for key in ("cycles", "convolutions_after_first"):
            row[f"slower_{key}"] = row[key] / rows[-1][key]
    return rows


def _deit(config: AcceleratorConfig) -> tuple[int, int]:
    """Cycles with activations from DRAM, and with activations in L2."""
    from sim.networks.definitions import DEIT_TINY_TOKENS
    from sim.networks.workloads import deit_tiny_layers, on_chip, recipe_for_instance
    from sw.compiler.compile import compile_layers
    from sw.perf.prediction import predict

    layers = deit_tiny_layers(recipe_for_instance(config))
    program = compile_layers([(layer, (layer.shape[1], 1, DEIT_TINY_TOKENS)) for layer in layers], config)
    return _cycles(predict(program)), _cycles(predict(on_chip(program)))


def _deit_tiny(progress: Progress, rtl: Mapping[str, int]) -> list[dict[str, Any]]:
    rows = []
    task = progress.add_task("DeiT-tiny", total=len(SIZES) * len(WIDTHS))
    for size in SIZES:
        for width in WIDTHS:
            (ssvq, ssvq_chip), (raw, raw_chip) = (
                _deit(dataclasses.replace(preset(f"{variant}-{size}"), word_width=width))
                for variant in ("ews-ssvq", "ews")
            )
            rows.append(
                {
                    "array": size,
                    "bus_bits": width,
                    "mbytes_a_second": width // 8 * CLOCK_MHZ,
                    "ssvq": ssvq_chip,
                    "int8": raw_chip,
                    "faster": raw_chip / ssvq_chip,
                    "ssvq_rtl": rtl.get(f"ews-ssvq-{size}-word_width-{width}"),
                    "int8_rtl": rtl.get(f"ews-{size}-word_width-{width}"),
                    "ssvq_activations_from_dram": ssvq,
                    "int8_activations_from_dram": raw,
                    "faster_activations_from_dram": raw / ssvq,
                }
            )
            progress.advance(task)
    return rows


def markdown(report: dict[str, Any]) -> str:
    """The page of a report."""
    from sim.networks.definitions import DEIT_TINY_TOKENS

    lines = [
        "# What compressed weights save, in cycles",
        "",
        "Made by `python -m sim.networks.speed`, from the cycle model of whole programs (`sw.perf.prediction`).",
        "Weights are random, and fetched from DRAM for every image.",
        "",
        "## ResNet-18, 224 x 224, 64 x 64, bus of 64 bits",
        "",
        "The figures to the right leave out the first convolution, the pooling at the end and the classifier; both",
        "layers have 8-bit weights in all three.",
        "",
        "| instance | cycles | on the RTL | times EWS-CMS | DRAM words | convolutions after the first |"
        " times EWS-CMS | utilisation % |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report["resnet18"]:
        cells = [row["preset"], row["cycles"], row["rtl"] or "", f"{row['slower_cycles']:.2f}", row["dram_words"]]
        cells += [row["convolutions_after_first"], f"{row['slower_convolutions_after_first']:.2f}"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{100 * row['utilisation_after_first']:.1f}"])) + " |")
    lines += [
        "",
        f"## Linear layers of DeiT-tiny, {DEIT_TINY_TOKENS} tokens",
        "",
        "SSVQ with k = 16, d = 8 (1.5 bit a weight) on `ews-ssvq`, 8-bit weights on `ews`: the same array and bus.",
        "First with activations in L2, then with every layer's input from DRAM and its result to DRAM. MB/s: of the",
        f"bus at {CLOCK_MHZ} MHz.",
        "",
        "| array | bus, bits | MB/s | SSVQ, cycles | on the RTL | 8 bit | on the RTL | faster |"
        " SSVQ, activations from DRAM | 8 bit | faster |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report["deit_tiny"]:
        cells = [f"{row['array']} x {row['array']}", row["bus_bits"], row["mbytes_a_second"]]
        cells += [row["ssvq"], row["ssvq_rtl"] or "", row["int8"], row["int8_rtl"] or ""]
        cells += [f"{row['faster']:.2f}", row["ssvq_activations_from_dram"], row["int8_activations_from_dram"]]
        lines.append("| " + " | ".join(map(str, [*cells, f"{row['faster_activations_from_dram']:.2f}"])) + " |")
    return "\n".join(lines) + "\n"


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = report_parser("sim.networks.speed", __doc__)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    return run_report(parser.prog, "speed", options.output, lambda: _report(options.output, options.quiet), markdown)


def _report(folder: Path, quiet: bool) -> dict[str, Any]:
    """Cycles of both networks; those of the RTL from the runs whose reports are in the folder."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        return {
            "clock_mhz": CLOCK_MHZ,
            "resnet18": _resnet18(progress, _rtl(folder, "resnet18-64")),
            "deit_tiny": _deit_tiny(progress, _rtl(folder, "deit-tiny-64")),
        }


if __name__ == "__main__":
    sys.exit(main())
