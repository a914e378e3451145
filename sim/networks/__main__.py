"""``python -m sim.networks``: whole networks on the simulated accelerator, every byte beside the golden model.

For each network a report goes to ``networks-<name>.json`` and ``.md``: cycles, utilisation and lost cycles of each
layer from the RTL's counters, and how far the cycle model is from them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hw.command_line import add_set_option, interruptible, writable_folder
from hw.config import preset
from sim.networks.command_line import report_parser
from sim.networks.options import NAMES, add_options
from sim.toolchain import ToolchainError, check_extra

__all__ = ["main"]

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 1 where a byte differs; 2 after one line on standard error."""
    parser = report_parser("sim.networks", __doc__)
    parser.add_argument("networks", metavar="NETWORK", nargs="+", choices=NAMES, help=", ".join(NAMES))
    parser.add_argument("--preset", action="append", metavar="NAME", help="in place of the network's own instances")
    add_set_option(parser)
    add_options(parser)
    parser.add_argument("--model", action="store_true", help="the cycle model alone: seconds, without a simulation")
    parser.add_argument("--processes", type=int, help="simulations at a time (one a core)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    check_extra(parser)

    from sim.networks.runs import NetworkError
    from sim.runner import BuildError, SimulationError

    try:
        writable_folder(options.output)
        return max(_network(name, options) for name in options.networks)
    except (ValueError, OSError, NetworkError, BuildError, SimulationError, ToolchainError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


def _network(name: str, options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from sim.networks.report import markdown, run_report, write_report
    from sim.networks.runs import run_workload
    from sim.networks.workloads import WORKLOADS

    make, presets = WORKLOADS[name]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    reports = []
    status = 0
    for instance in options.preset or presets:
        base, _, own = instance.partition(" ")
        settings = [*own.split(), *options.set]
        config = preset(base).override(own.split()).override(options.set)
        label = "-".join([base, *(text.replace("=", "-") for text in settings)])
        with Progress(
            *columns, console=console, transient=True, disable=options.quiet or not console.is_terminal
        ) as bar:
            task = bar.add_task(f"{name} on {instance}", total=1)
            workload = make(config, options)
            run = run_workload(
                config,
                label,
                workload,
                rtl=not options.model,
                label=name,
                processes=options.processes,
                progress=lambda text, share: bar.update(task, description=text, completed=share),  # noqa: B023
            )
        report = run_report(name, label, config, workload, run)
        reports.append(report)
        print(_line(report))
        if run.rtl and report["compared"]["different"]:
            print(f"  differing: {', '.join(report['compared']['differing']) or 'bytes outside the tensors'}")
            status = 1
        # After each instance: the ones before are not lost if a later one fails.
        write_report(options.output, name, reports, markdown(reports))
    return status


def _line(report: dict) -> str:
    """A run in one line."""
    summary = report["summary"]
    parts = [f"{report['network']} on {report['preset']} ({report['source']})"]
    if "compared" in report:
        compared = report["compared"]
        parts.append(
            f"{report['images']} images, {compared['different']} of {compared['layer_bytes']} bytes of "
            f"{compared['layers']} layers differ"
        )
    if "top1" in report:
        parts.append(f"top-1 {report['top1']['right']} of {report['top1']['images']}")
    if "classes" in report:
        parts.append(f"classes {', '.join(map(str, report['classes']))}")
    parts.append(f"{summary['cycles']} cycles")
    if "model" in summary:
        worst = summary["model_worst"]
        parts.append(
            f"model {100 * (summary['model'] / summary['cycles'] - 1):+.2f} %, at worst {100 * worst['apart']:+.2f} % "
            f"({worst['layer']})"
        )
    parts.append(f"utilisation {100 * summary['utilisation']:.1f} %")
    if "after_first" in summary:
        parts.append(f"after the first layer {100 * summary['after_first']['utilisation']:.1f} %")
    if "simulation" in report:
        simulation = report["simulation"]
        parts.append(
            f"{simulation['cycles_a_second']} cycles/s, {simulation['elapsed_seconds']} s after the build, "
            f"{simulation['processor_seconds']} s of processor time"
        )
        verilog, model = simulation["built"]["verilog"], simulation["built"]["model"]
        parts.append(
            f"{verilog['bytes'] / 1e6:.1f} MB of Verilog in {verilog['seconds']} s, model in {model['seconds']} s "
            f"({model['processor_seconds']} s of processor time, at most {model['largest_process_mb']} MB a process)"
        )
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
