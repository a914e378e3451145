"""``python -m sim.accelerator``: run a program file on the RTL, DRAM contents in, DRAM contents out."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hw.command_line import Parser, interruptible, path_argument
from hw.config import PRESETS, AcceleratorConfig
from sim.accelerator.run import Bus
from sim.toolchain import ToolchainError, check_extra


def model_name(config: AcceleratorConfig) -> str:
    """The name of the model in ``build/sim``: the preset's, or one made from the fields."""
    for name, known in PRESETS.items():
        if known == config:
            return f"accelerator-{name}"
    return f"accelerator-{hashlib.sha256(json.dumps(config.to_dict()).encode()).hexdigest()[:12]}"


def _run(program_file: str, files: Sequence[str], latency: int, trace: Path | None = None) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from sim.accelerator.model import accelerator_runner
    from sim.accelerator.run import Bus, Job, run_jobs
    from sim.runner import SimulationError
    from sw.format.output import staged
    from sw.program import read_program

    program = read_program(program_file)
    memories = [Path(name).read_bytes() for name in files[::2]]
    for name, memory in zip(files[::2], memories, strict=True):
        if len(memory) != program.dram_bytes:
            raise ValueError(f"{name}: must have {program.dram_bytes} bytes, not {len(memory)}")
    bus = Bus(latency=latency)
    jobs = [Job(memory, program.descriptors, program.descriptor_count, program.base, bus) for memory in memories]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("building the simulation, unless that is done", total=None)
        runner = accelerator_runner(program.config, model_name(program.config), trace=trace)
        runner.build_model()

        def progress(number: int, cycles: int) -> None:
            shown.update(task, description=f"run {number + 1} of {len(jobs)}: {cycles} cycles")

        outcomes = run_jobs(runner, jobs, progress=progress)
    for outcome, name in zip(outcomes, files[1::2], strict=True):
        if not outcome.done:
            where = f"at descriptor {outcome.error_descriptor}"
            raise SimulationError(f"the program failed: {outcome.cause.name} {where}")
        with staged(name) as target:
            target.write_bytes(outcome.memory)
    return 0


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 1 where a program fails, 2 for bad input, with one line on stderr."""
    parser = Parser(prog="python -m sim.accelerator", description=__doc__)
    parser.add_argument("program", metavar="PROGRAM", help="of the compiler")
    parser.add_argument(
        "files", metavar="BEFORE AFTER", nargs="+", help="DRAM from the program's base on: files to read and to write"
    )
    parser.add_argument("--latency", type=int, default=Bus().latency, help="of the DRAM in cycles (%(default)s)")
    parser.add_argument("--trace", type=path_argument, metavar="FILE.vcd", help="record waveforms of all runs")
    options = parser.parse_args(arguments)
    check_extra(parser)

    from sim.runner import BuildError, SimulationError

    if len(options.files) % 2:
        parser.error(f"BEFORE and AFTER must come in pairs, not {len(options.files)} files")
    try:
        return _run(options.program, options.files, options.latency, options.trace)
    except (ValueError, OSError, ToolchainError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except (SimulationError, BuildError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
