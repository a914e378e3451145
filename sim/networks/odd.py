"""``python -m sim.networks.odd``: odd but ordinary networks, from torch's fake-quantised graph to the RTL.

Each network of :mod:`sim.networks.odd_networks`, :mod:`sim.networks.more_odd_networks` and
:mod:`sim.networks.further_odd_networks` is compressed twice, with weights of 8 bits and with codewords, and goes
through everything: its fake-quantised graph beside the integers of its file, those beside the golden executor's results
of the compiled program, and these beside DRAM after a run of the RTL, byte by byte: once with a bus that stalls and
every layer's result stored, and once with one that does not, for the cycles. A network that the front end refuses must
be one of those that say so. Writes ``networks-odd.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hw.command_line import Parser, interruptible, writable_folder
from hw.config import AcceleratorConfig, preset
from sim.toolchain import ToolchainError, check_extra

if TYPE_CHECKING:
    from sim.networks.odd_networks import Odd

__all__ = [
    "BASE",
    "SETTINGS",
    "Chain",
    "OddError",
    "instance",
    "main",
    "markdown",
    "methods",
    "networks",
    "prepared",
    "run_chains",
]

#: The instance that runs all of them: the smallest preset with all functions, and room for maps of 33 x 29 and for
#: sums of dense random weights.
BASE, SETTINGS = "ews-msvq-full-tiny", ("psum_width=26", "l2_bytes=65536")
#: Of the model in ``build/sim``.
MODEL = "gated-networks"
# A bus that stalls in 100 of 256 cycles and answers in any order.
_STALLS = {"latency": 20, "stall": 100, "reorder": True, "seed": 7}


class OddError(RuntimeError):
    """A network that is not accepted, or refused, as it should be; or two of its forms that are not equal."""


@dataclass(frozen=True)
class Chain:
    """A network with weights of one method, up to its programs."""

    #: Of the network, and of its weights.
    name: str
    method: str
    #: The one that stores every layer's result, and the one that keeps the counters of each.
    programs: tuple[Any, ...]
    #: DRAM before and after each, by the golden executor.
    memories: tuple[np.ndarray, ...] = field(repr=False)
    golden: tuple[np.ndarray, ...] = field(repr=False)
    #: The largest part of one operation's integers that are not the fake-quantised graph's rounded values, for a reason
    #: of rounding: half a step of the bias, and what the multiplier's bits leave off.
    rounded: float = 0.0


def networks() -> dict[str, Odd]:
    """All odd networks, by name."""
    from sim.networks.further_odd_networks import FURTHER
    from sim.networks.more_odd_networks import MORE
    from sim.networks.odd_networks import ODD

    return ODD | MORE | FURTHER


def instance() -> AcceleratorConfig:
    """The instance."""
    return preset(BASE).override(list(SETTINGS))


def methods(config: AcceleratorConfig) -> Mapping[str, Any]:
    """Recipes of the weights, by name."""
    from sim.networks.workloads import recipe_for_instance
    from sw.compress.methods import Recipe

    coded = recipe_for_instance(config)
    return {"int8": Recipe("int8"), coded.method: coded}


def prepared(name: str, method: str, recipe: Any, config: AcceleratorConfig) -> Chain | str:
    """A network, compressed and compiled; or why it is refused.

    Raises
    ------
    OddError
        The integers of the file and the results of a program differ.
    sw.compress.methods.CompressError
        The graph and the integers differ by more than rounding explains.
    """
    from sw.compiler.compile import compile_network
    from sw.compress.methods import CompressError
    from sw.compress.training.comparison import compare_file
    from sw.compress.training.integer import export_integers
    from sw.compress.training.prepare import prepare
    from sw.executor import execute
    from sw.network import read_network, write_network

    model, images = networks()[name].network()
    shape = (images.shape[1], images.shape[2], images.shape[3])
    try:
        graph, reason = prepare(model, [("*", recipe)], images.clone(), progress=False)
    except CompressError as error:
        return str(error)
    if reason is not None:
        return reason
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        write_network(path, export_integers(graph, shape))  # type: ignore[arg-type]
        comparison = compare_file(path, graph, images, program=False)
        network = read_network(path)
    image = network.quantise(images[:1].numpy())
    programs = tuple(compile_network(network, shape, config, dump=dump, records=not dump) for dump in (True, False))
    memories = tuple(program.memory([image[0]]) for program in programs)
    golden = tuple(
        execute(program, memory, check=True).memory for program, memory in zip(programs, memories, strict=True)
    )
    for program, memory in zip(programs, golden, strict=True):
        for tensor, wanted in zip(program.outputs, network.results(image), strict=True):
            if not np.array_equal(program.read(memory, tensor).reshape(-1), wanted[0].reshape(-1)):
                raise OddError(f"{name}, {method}: output {tensor.name!r} of the program is not that of the network")
    rounded = max((each.share for each in comparison.operations), default=0.0)
    return Chain(name, method, programs, memories, golden, rounded)


def run_chains(config: AcceleratorConfig, chains: Sequence[Chain]) -> list[dict[str, Any]]:
    """Run the programs of networks on the RTL, and compare all of DRAM. Returns a row of the report for each.

    Raises
    ------
    OddError
        A program did not run to its end.
    """
    from sim.accelerator.model import accelerator_runner
    from sim.accelerator.run import Bus, Job, run_jobs
    from sim.networks.runs import check_memory
    from sw.perf.prediction import predict
    from sw.perf.timing import measured

    jobs = []
    for chain in chains:
        buses = Bus(**_STALLS), Bus()  # type: ignore[arg-type]
        for program, memory, bus in zip(chain.programs, chain.memories, buses, strict=True):
            jobs.append(Job(memory.tobytes(), program.descriptors, program.descriptor_count, program.base, bus))
    outcomes = iter(run_jobs(accelerator_runner(config, MODEL, quick=True), jobs, "odd"))
    rows = []
    for chain in chains:
        checks = []
        for program, golden in zip(chain.programs, chain.golden, strict=True):
            outcome = next(outcomes)
            if not outcome.done:
                where = f"descriptor {outcome.error_descriptor}: {outcome.cause.name}"
                raise OddError(f"{chain.name}, {chain.method}: the program ended early at {where}")
            memory = np.frombuffer(outcome.memory, np.uint8)
            checks.append(check_memory(program, memory, golden))
        program = chain.programs[1]
        timings = measured(program, memory), predict(program)
        layers: list[dict[str, Any]] = [
            {"layer": rtl.name, "cycles": rtl.counters["cycles"], "model": model.counters["cycles"]}
            for rtl, model in zip(*timings, strict=True)
        ]
        rows.append(
            {
                "network": chain.name,
                "weights": chain.method,
                "layers": checks[0].layers,
                "bytes": sum(check.compared for check in checks),
                "different": sum(check.different for check in checks),
                "differing": sorted({name for check in checks for name in check.differing}),
                "rounded": round(chain.rounded, 5),
                "cycles": sum(layer["cycles"] for layer in layers),
                "model": sum(layer["model"] for layer in layers),
                "worst": max(layers, key=lambda layer: abs(_apart(layer))),
            }
        )
    return rows


def _apart(row: Mapping[str, Any]) -> float:
    return row["model"] / row["cycles"] - 1 if row["cycles"] else 0.0


def markdown(report: Mapping[str, Any]) -> str:
    """The page of a report."""
    rows, refused = report["networks"], report["refused"]
    different = sum(row["different"] for row in rows)
    lines = [
        "# Odd networks on the RTL",
        "",
        "Made by `python -m sim.networks.odd`. Each network goes from torch's fake-quantised graph over the integers",
        "of its file, golden executor and compiled program to the RTL, with weights of 8 bits and with codewords; all",
        "bytes of DRAM are compared after two runs, one of them on a bus that stalls. Rounding: the largest part of an",
        "operation's integers that differ from the graph's rounded values, by what rounding of biases and multipliers",
        "explains. Worst layer: where the cycle model is farthest from the RTL's counters.",
        "",
        f"{len({row['network'] for row in rows})} networks run on `{report['instance']}`; {different} of"
        f" {sum(row['bytes'] for row in rows)} bytes differ; {len(refused)} networks are refused by name.",
        "",
        "| network | weights | layers | bytes compared | different | rounding % | cycles | model % | worst layer |"
        " its cycles | % |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in rows:
        worst = row["worst"]
        cells = [row["network"], row["weights"], row["layers"], row["bytes"], row["different"]]
        cells += [f"{100 * row['rounded']:.2f}", row["cycles"], f"{100 * _apart(row):+.2f}"]
        cells += [worst["layer"], worst["cycles"], f"{100 * _apart(worst):+.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| refused | message |", "|---|---|"]
    lines += [f"| {name} | {text.replace('|', chr(92) + '|')} |" for name, text in refused.items()]
    return "\n".join(lines) + "\n"


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 1 where a byte differs; 2 after one line on standard error."""
    parser = Parser(
        prog="python -m sim.networks.odd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", metavar="NETWORK", nargs="*", help="names of some of them; all without")
    parser.add_argument(
        "--output", type=Path, default=Path("build/networks"), help="directory of the reports (%(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    check_extra(parser)

    known = networks()
    names = options.networks or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"argument NETWORK: must be one of {', '.join(map(repr, known))}, not {unknown[0]!r}")

    from rich.console import Console
    from rich.progress import Progress

    from sim.networks.report import write_report
    from sim.runner import BuildError, SimulationError
    from sw.compiler.graph import CompileError
    from sw.compress.methods import CompressError

    console = Console(stderr=True)
    config = instance()
    chains: list[Chain] = []
    refused: dict[str, str] = {}
    try:
        writable_folder(options.output)
        with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
            for name in progress.track(names, description="compiling"):
                _add(name, config, chains, refused)
        rows = run_chains(config, chains)
        report = {"instance": " ".join([BASE, *SETTINGS]), "networks": rows, "refused": refused}
        write_report(options.output, "odd", report, markdown(report))
    except (OSError, OddError, CompressError, CompileError, BuildError, SimulationError, ToolchainError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    different = [row for row in rows if row["different"]]
    for row in different:
        print(f"{row['network']}, {row['weights']}: {row['different']} bytes differ: {', '.join(row['differing'])}")
    compared = sum(row["bytes"] for row in rows)
    print(
        f"{len(rows)} runs of {len(names) - len(refused)} networks, {sum(row['different'] for row in rows)} of "
        f"{compared} bytes differ; {len(refused)} refused"
    )
    return 1 if different else 0


def _add(name: str, config: AcceleratorConfig, chains: list[Chain], refused: dict[str, str]) -> None:
    """Prepare a network with weights of each method; or say why it is refused, if that is as it should be."""
    expected = networks()[name].refused
    for method, recipe in methods(config).items():
        chain = prepared(name, method, recipe, config)
        if isinstance(chain, Chain) != (not expected) or (isinstance(chain, str) and expected not in chain):
            text = f"is refused: {chain}" if isinstance(chain, str) else f"must be refused: {expected}"
            raise OddError(f"{name}, {method}: {text}")
        if isinstance(chain, str):
            refused[name] = chain
        else:
            chains.append(chain)


if __name__ == "__main__":
    sys.exit(main())
