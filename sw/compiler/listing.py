"""``python -m sw.compiler list``: a program as text: memory map, layer table, and the descriptors layer by layer."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hw.control.descriptor import Channel, Descriptor, Opcode, VectorOp
from sw.command_line import Parser, run_command

if TYPE_CHECKING:
    from sw.program import Program, Tensor
    from sw.program.steps import SteppedProgram

__all__ = ["describe_descriptor", "list_program", "main"]


def _hexadecimal(name: str) -> bool:
    return name in ("address", "checksum")


def describe_descriptor(descriptor: Descriptor, previous: Descriptor | None = None) -> str:
    """A descriptor on one line: opcode, the fields that are not 0, and what it waits for.

    Parameters
    ----------
    descriptor
        The descriptor.
    previous
        The one of the same opcode before it, whose waits were met before; only later ones are shown.
    """
    parts = []
    for name, value in descriptor.body.items():
        if name == "channel" and value in list(Channel):
            parts.append(Channel(value).name.lower())
        elif name == "operation" and value in list(VectorOp):
            parts.append(VectorOp(value).name.lower())
        elif value or name in ("l2_base", "l1_base"):
            parts.append(f"{name}={value:#x}" if _hexadecimal(name) else f"{name}={value}")
    before = previous.waits if previous else {}
    waits = [f"{event} {count}" for event, count in descriptor.waits.items() if count and count != before.get(event)]
    text = f"{descriptor.opcode.name:<7} {' '.join(parts)}".rstrip()
    return f"{text}  after {', '.join(waits)}" if waits else text


def _tensor(tensor: Tensor) -> str:
    size = " x ".join(map(str, tensor.shape))
    return f"{tensor.dtype} [{size}], {tensor.pixel_words} L2 words a pixel"


def _memory_map(program: Program) -> Iterator[str]:
    areas: list[tuple[int, int, str]] = []
    image = len(program.image)
    areas.append((program.base, image, "image: packed streams, parameters, descriptors"))
    table = 64 * program.descriptor_count
    areas.append((program.descriptors, table, f"  of it descriptors: {program.descriptor_count}"))
    for operand in program.operands:
        K, C = operand.shape
        areas.append(
            (operand.address, operand.size, f"  of it operand {operand.name!r}, written by the host: {K} x {C}")
        )
    for entry in program.inputs:
        fold = entry.fold
        folded = ""
        if fold:
            window = f"{fold.fold_rows} x {fold.kernel[1]}"
            folded = f", folded from [{' x '.join(map(str, entry.shape))}] by windows of {window}"
        areas.append(
            (entry.tensor.address, entry.tensor.size, f"input {entry.tensor.name!r}: {_tensor(entry.tensor)}{folded}")
        )
    for tensor in program.outputs:
        areas.append((tensor.address, tensor.size, f"output {tensor.name!r}: {_tensor(tensor)}"))
    for layer in program.layers:
        if layer.tensor:
            areas.append((layer.tensor.address, layer.tensor.size, f"layer {layer.name!r}: {_tensor(layer.tensor)}"))
    records = [layer.record for layer in program.layers if layer.record is not None]
    if records:
        areas.append((min(records), max(records) + 64 - min(records), f"records of counters: {len(records)}"))
    for address, size, what in sorted(areas, key=lambda area: (area[0], -area[1])):
        yield f"  {address:#012x}  {size:>10}  {what}"


def _layer_table(program: Program) -> Iterator[str]:
    counts = [Counter[Opcode]() for _ in program.layers]
    fetched = [0] * len(program.layers)
    for descriptor in program.listing:
        if descriptor.layer < len(counts):
            counts[descriptor.layer][descriptor.opcode] += 1
            if descriptor.opcode == Opcode.FETCH:
                fetched[descriptor.layer] += descriptor.body["words"] * (program.config.word_width // 8)
    width = max((len(layer.name) for layer in program.layers), default=0)
    head = f"{'operation':<10} {'MACs':>12} {'fetched':>10} {'tiles':>6} {'copies':>6}"
    yield f"  {'#':>4}  {'name':<{width}}  {head}  mapping"
    for number, layer in enumerate(program.layers):
        row = (
            f"  {number:>4}  {layer.name:<{width}}  {layer.operation:<10} {layer.macs:>12} {fetched[number]:>10} "
            f"{counts[number][Opcode.TILE]:>6} {counts[number][Opcode.COPY]:>6}  {layer.note}"
        )
        yield row.rstrip()


def list_program(program: Program, *, layers: Sequence[str] | None = None, descriptors: bool = True) -> Iterator[str]:
    """The lines of a listing.

    Parameters
    ----------
    program
        Any program.
    layers
        Names of the layers whose descriptors are listed; all where it is None.
    descriptors
        List descriptors at all.

    Raises
    ------
    ProgramError
        A descriptor has an unknown opcode, or the program has no layer of a name.
    """
    from sw.program import COUNTED, ProgramError

    config = program.config
    known = [layer.name for layer in program.layers]
    for name in layers or ():
        if name not in known:
            raise ProgramError("program", f"there must be a layer {name!r}; the layers are {', '.join(known)}")
    yield (
        f"program for {config.variant}, {config.H} x {config.L}, DRAM words of {config.word_width} bits, "
        f"L2 words of {config.l2_word} bytes"
    )
    yield ""
    yield f"memory map, {program.dram_bytes} bytes from {program.base:#x} on:"
    yield f"  {'address':<12}  {'bytes':>10}"
    yield from _memory_map(program)
    yield ""
    yield "layers:"
    yield from _layer_table(program)
    if not descriptors:
        return
    turns: Counter[Opcode] = Counter()
    last: dict[Opcode, Descriptor] = {}
    of = {opcode: event for event, opcode in COUNTED.items()}
    shown: int | None = None
    for number, descriptor in enumerate(program.listing):
        opcode = Opcode.STORE if descriptor.opcode == Opcode.RECORD else descriptor.opcode
        turns[opcode] += 1
        previous, last[opcode] = last.get(opcode), descriptor
        name = known[descriptor.layer] if descriptor.layer < len(known) else ""
        if layers is not None and name not in layers:
            continue
        if shown != descriptor.layer:
            shown = descriptor.layer
            yield ""
            yield f"layer {shown}" + (f" {name!r}" if name else "") + ":"
        event = f"  -> {of[opcode]} {turns[opcode]}" if opcode in of else ""
        yield f"  {number:>6}  {describe_descriptor(descriptor, previous)}{event}"


def _list_steps(steps: SteppedProgram, layers: Sequence[str] | None, descriptors: bool) -> Iterator[str]:
    """The lines of a network in steps; of its programs, those that have the layers."""
    from sw.program import ProgramError

    known = {number: {layer.name for layer in program.layers} for number, program in steps.programs.items()}
    for name in layers or ():
        if not any(name in names for names in known.values()):
            every = ", ".join(sorted(set().union(*known.values())))
            raise ProgramError("steps", f"there must be a layer {name!r}; the layers are {every}")
    for number, op in enumerate(steps.operations):
        program = steps.programs.get(number)
        reads = f" of {', '.join(map(str, op.inputs))}" if op.inputs else ""
        yield f"step {number}: {op.kind}{reads}{'' if program else ' on the host'}"
        if program and (layers is None or known[number] & {*layers}):
            asked = layers and [name for name in layers if name in known[number]]
            yield from (f"  {line}".rstrip() for line in list_program(program, layers=asked, descriptors=descriptors))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(prog="python -m sw.compiler list", description="List a program.")
    parser.add_argument("program", metavar="PROGRAM")
    parser.add_argument("--layer", action="append", metavar="NAME", help="descriptors of this layer alone; repeatable")
    parser.add_argument("--summary", action="store_true", help="no descriptors: memory map and layer table")
    return run_command(parser, arguments, _print)


def _print(options: argparse.Namespace) -> None:
    from sw.program import read_program
    from sw.program.steps import is_stepped_program, read_stepped_program

    try:
        given: Iterator[str]
        if is_stepped_program(options.program):
            given = _list_steps(read_stepped_program(options.program), options.layer, not options.summary)
        else:
            given = list_program(read_program(options.program), layers=options.layer, descriptors=not options.summary)
        for line in given:
            print(line)
    except BrokenPipeError:
        # The reader, such as head, has seen enough; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
