"""``python -m sw.compiler``: a network's container to a program, or to programs of a network in steps.

``python -m sw.compiler list PROGRAM`` lists one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hw.config import AcceleratorConfig, preset
from sw.command_line import Parser, add_image_option, add_instance_options, check_outputs, image_shape, run_command

if TYPE_CHECKING:
    from sw.network import Network


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["list"]:
        from sw.compiler.listing import main as list_program

        return list_program(given[1:])
    return run_command(_parser(), given, _compile)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sw.compiler",
        description="A network's container to a program, or to programs of a network in steps.",
        epilog="The command list lists one.",
    )
    parser.add_argument("container", metavar="CONTAINER", help="a network with its operations, from fine-tuning")
    add_instance_options(parser)
    add_image_option(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="the program; needed")
    parser.add_argument("--dump", action="store_true", help="store every layer's result, for comparison")
    parser.add_argument("--base", type=int, default=0, metavar="ADDRESS", help="DRAM address of the program (0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _compile(options: argparse.Namespace) -> None:
    check_outputs(options, "output")

    from sw.compiler.compile import compile_network
    from sw.format.output import staged
    from sw.network import read_network
    from sw.program import write_program

    config = preset(options.preset).override(options.set)
    if options.output is None:
        raise ValueError("-o FILE is needed: the program")
    network = read_network(options.container)
    if network.in_steps:
        _compile_steps(options, network, config)
        return
    shape = image_shape(options.image or ",".join(map(str, network.image_shape or ())))
    with staged(options.output) as path:
        with _progress(options) as show:
            program = compile_network(network, shape, config, dump=options.dump, base=options.base, progress=show)
        write_program(path, program)
    _advise(network, config)
    print(
        f"{options.output}: {program.descriptor_count} descriptors, image of {len(program.image)} bytes, "
        f"{program.dram_bytes} bytes of DRAM"
    )


def _compile_steps(options: argparse.Namespace, network: Network, config: AcceleratorConfig) -> None:
    """A network in steps: one program for each operation of the accelerator."""
    from sw.compiler.steps import compile_steps
    from sw.format.output import staged
    from sw.program.steps import write_stepped_program

    if options.dump or options.image:
        name = "--dump" if options.dump else "--image"
        raise ValueError(f"{name} is not for a network in steps: it has the image's size, and every result is in DRAM")
    with staged(options.output) as path:
        with _progress(options) as show:
            steps = compile_steps(network, config, base=options.base, progress=show)
        write_stepped_program(path, steps)
    _advise(network, config)
    programs = steps.programs.values()
    print(
        f"{options.output}: {len(steps.operations)} steps, {len(programs)} of them programs, images of "
        f"{sum(len(program.image) for program in programs)} bytes, {sum(p.dram_bytes for p in programs)} bytes of DRAM"
    )


def _advise(network: Network, config: AcceleratorConfig) -> None:
    """Say which layers take more digits than they would with fewer bits."""
    from sw.program import digit_advice

    ends = {
        name: (int(layer.weights.min()), int(layer.weights.max()))
        for name, layer in network.layers.items()
        if layer.weights is not None
    }
    if advice := digit_advice(config, ends):
        print(advice)


@contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Callable[[str, int, int], None]]:
    """A bar, and what moves it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as bar:
        task = bar.add_task("layers", total=None)

        def show(name: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=name)

        yield show


if __name__ == "__main__":
    sys.exit(main())
