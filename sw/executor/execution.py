"""The golden executor: runs a program from its bytes in DRAM, as the accelerator does, without its timing.

Descriptors are taken in order and given to the units. A unit runs its commands in order, each once the events that it
waits for have happened and the words that it needs have been fetched; a command then runs as a whole. A program
without races gives the same memory in every order that its waits allow, so this one stands for all of them. With
``check`` the executor proves that there are no races: every access to L2 and to the L1 of activations must be ordered,
by events, behind those that it depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from hw.control.descriptor import BYTES, Descriptor, Opcode
from sw.executor.machine import COUNTS, ExecutionError, Machine, descriptor_name
from sw.program import Program

__all__ = ["Execution", "execute", "run_program"]


@dataclass(frozen=True)
class Execution:
    """What a run leaves."""

    #: DRAM from the program's base on, uint8 ``[dram_bytes]``. Records of counters are not written.
    memory: NDArray[np.uint8]
    #: For each layer of the table, how often each of :data:`COUNTS` happened in its descriptors; those that belong to
    #: no layer are in a last entry.
    layers: list[dict[str, int]]

    @property
    def total(self) -> dict[str, int]:
        """The counts of the whole program."""
        return {name: sum(layer[name] for layer in self.layers) for name in COUNTS}


def execute(
    program: Program,
    memory: NDArray[np.uint8],
    *,
    check: bool = False,
    observe: Callable[[int, Descriptor, NDArray[Any]], None] | None = None,
    progress: bool = False,
) -> Execution:
    """Run a program.

    Parameters
    ----------
    program
        For any instance.
    memory
        DRAM as :meth:`sw.program.Program.memory` gives it; it is not changed.
    check
        Prove that no result depends on which unit is faster, and that nothing is read before it is written.
    observe
        Called with what each command has produced: the number of its descriptor, the descriptor, and the words that it
        wrote to L2 (uint8), the vectors that it wrote to L1 (int8), or the sums of a TILE (int32).
    progress
        Show a progress bar.

    Raises
    ------
    ExecutionError
        A descriptor is out of range, an address out of bounds, a checksum wrong, the program hangs or does not end, or,
        with ``check``, it has a race. The message names the descriptor.
    """
    if memory.dtype != np.uint8 or memory.shape != (program.dram_bytes,):
        raise ExecutionError(f"memory must be uint8 [{program.dram_bytes}], not {memory.dtype} {list(memory.shape)}")
    machine = Machine(program, memory.copy(), check, observe)
    listing = program.listing
    bar = Progress(transient=True) if progress else nullcontext()
    with bar as shown:
        task = shown.add_task("golden run", total=len(listing)) if shown else None
        for number, descriptor in enumerate(listing):
            if descriptor.opcode == Opcode.END:
                if number != len(listing) - 1:
                    raise ExecutionError(f"descriptor {number} (END): must be the last of {len(listing)} descriptors")
                machine.count(descriptor, "descriptors", 1)
                machine.count(descriptor, "dram_reads", max(1, BYTES // machine.word_bytes))
                machine.finish()
                return Execution(machine.memory, machine.layers)
            try:
                machine.give(number, descriptor)
            except ExecutionError:
                raise
            except ValueError as error:
                raise ExecutionError(f"{descriptor_name(program, number, descriptor)}: {error}") from None
            if shown and task is not None:
                shown.update(task, advance=1)
    raise ExecutionError(f"descriptor {len(listing) - 1}: the last descriptor must be END")


def run_program(
    program: Program, images: Sequence[NDArray[np.int8]], *, check: bool = False, progress: bool = False
) -> dict[str, NDArray[Any]]:
    """The outputs of a program for its inputs, by name.

    Raises
    ------
    sw.program.ProgramError
        The images do not fit the program.
    ExecutionError
        As :func:`execute`.
    """
    result = execute(program, program.memory(images), check=check, progress=progress)
    return {tensor.name: program.read(result.memory, tensor) for tensor in program.outputs}
