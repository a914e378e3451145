"""A network in steps for one instance: a program for each operation of the accelerator, in one file.

The file, all numbers little-endian: magic (8 bytes), version and length n of the header (4 each), header (n bytes of
JSON), CRC-32 of all that (4), then the programs, each as in its own file (:mod:`sw.program.file`). The header is
an object of ``operations``, ``constants`` and ``input_scale`` (:mod:`sw.network.file`), of ``programs``: of each the
number of its operation and its bytes; and of ``outputs`` where they are not just the result of the last operation. The
programs lie one behind the other in DRAM: the host writes their images once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from sw.format.envelope import MAGICS, Envelope
from sw.format.layer import CompressedLayer
from sw.format.output import write_atomically
from sw.network import Array, NetworkError, Operation, Output, Value, parse_operations
from sw.network.file import decode_constants, decode_outputs, encode_constants, encode_outputs
from sw.network.network import (
    check_images,
    check_operations,
    check_outputs,
    check_scale,
    interpret,
    single,
    to_dicts,
)
from sw.program import Input, Program, ProgramError, Tensor, program_bytes, program_from_bytes

__all__ = [
    "MAGIC",
    "VERSION",
    "Execute",
    "SteppedProgram",
    "Transfer",
    "is_stepped_program",
    "read_stepped_program",
    "write_stepped_program",
]

MAGIC = MAGICS["network in steps"]
VERSION = 1

_KEYS = ("operations", "constants", "input_scale", "programs")
_ENVELOPE = Envelope(MAGIC, VERSION, ProgramError, required=_KEYS, optional=("outputs",))

Memory = NDArray[np.uint8]
#: Runs a program: from the number of its operation, and for each image the program with its operands and the DRAM
#: before, to the DRAM after each.
Execute = Callable[[int, Sequence[tuple[Program, Memory]]], Sequence[Memory]]


@dataclass(frozen=True)
class Transfer:
    """What the host does for one operation and one image.

    Attributes
    ----------
    number, operation
        Of the network.
    written, read
        Bytes in DRAM that it writes before a program, operands and their checksums among them, and reads after it; 0
        for an operation of the host itself.
    """

    number: int
    operation: str
    written: int = 0
    read: int = 0


@dataclass(frozen=True)
class SteppedProgram:
    """A network in steps, compiled.

    Parameters
    ----------
    operations, constants, input_scale, outputs
        As of :class:`sw.network.Network`.
    programs
        Of each operation of the accelerator, by its number.

    Raises
    ------
    sw.network.NetworkError
        The operations cannot run on the constants, or on the programs.
    ProgramError
        Programs are missing, or too many, or not for one instance.
    """

    operations: tuple[Operation, ...]
    constants: Mapping[str, Array]
    input_scale: float
    programs: dict[int, Program]
    outputs: tuple[Output, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        object.__setattr__(self, "outputs", check_outputs(self.operations, self.outputs))
        check_scale(self.input_scale)
        self.image.known  # noqa: B018  refused without a size
        check_operations(self.operations, self.outputs, self, self._result)
        wanted = [number for number, op in enumerate(self.operations) if op.step]
        if not wanted:
            raise ProgramError("steps", "there must be an operation of the accelerator")
        if sorted(self.programs) != wanted:
            raise ProgramError("steps", f"there must be programs for operations {wanted}, not {sorted(self.programs)}")
        if len({json.dumps(program.config.to_dict()) for program in self.programs.values()}) > 1:
            raise ProgramError("steps", "all programs must be for one instance")

    def _result(self, number: int, op: Operation, sources: Sequence[Value]) -> Value:
        """What the program of an operation makes of what it reads."""
        program = self.programs.get(number)
        if program is None:
            raise NetworkError("it must have a program")
        product = len(sources) > 1
        heads, *shape = sources[0].known if product else (1, *sources[0].known)
        wanted = _image_shape(tuple(shape))
        inputs = [entry.shape for entry in program.inputs]
        if inputs != [wanted] * heads or len(program.outputs) != heads:
            raise NetworkError(f"its program must read {heads} inputs {list(wanted)}, not {inputs}")
        operands = [operand.shape for operand in program.operands]
        if operands != [sources[1].shape[1:] for _ in range(heads) if product]:
            raise NetworkError(f"its program must have operands for {sources[-1]}, not {operands}")
        output = program.outputs[0]
        if any((tensor.shape, tensor.dtype) != (output.shape, output.dtype) for tensor in program.outputs):
            raise NetworkError("all outputs of its program must be of one kind")
        found = {3: output.shape, 2: (output.channels, output.columns), 1: (output.channels,)}[len(shape)]
        return Value(output.dtype, (heads, *found) if product else found)

    @property
    def layers(self) -> Mapping[str, CompressedLayer]:
        """None: they are in the programs."""
        return {}

    @property
    def config(self) -> AcceleratorConfig:
        """The instance."""
        return next(iter(self.programs.values())).config

    @property
    def image(self) -> Value:
        """The image that the network takes, as a value."""
        return self.operations[0].result(self)

    @property
    def input(self) -> Input:
        """The image that the network takes, as an input of a program."""
        C, rows, columns = self.image.known
        return Input(Tensor("input", 0, C, rows, columns, 1, C, scale=self.input_scale))

    def results(self, images: NDArray[np.int8], execute: Execute) -> tuple[Array, ...]:
        """What the network gives for images, an array ``[batch, ...]`` for each output.

        Parameters
        ----------
        images
            int8 ``[batch, C, rows, columns]``.
        execute
            Runs the programs.

        Raises
        ------
        sw.network.NetworkError
            The images have another dtype or shape.
        ProgramError
            An operand has a value that the instance cannot multiply by.
        """
        check_images(self.image, images)

        def compute(number: int, op: Operation, values: Sequence[Array]) -> Array:
            if not op.step:
                return op.compute(self, *values)
            inputs = list(zip(*values, strict=True))
            jobs = [self._prepare(number, one) for one in inputs]
            found = zip(execute(number, jobs), inputs, strict=True)
            return np.stack([self._collect(number, memory, one) for memory, one in found])

        return interpret(self.operations, self.outputs, images, compute)

    def run(self, images: NDArray[np.int8], execute: Execute) -> Array:
        """The result of a network with one output: see :meth:`results`.

        Raises
        ------
        sw.network.NetworkError, ProgramError
            As :meth:`results`; or there are several outputs.
        """
        return single(self.outputs, self.results(images, execute))

    def _prepare(self, number: int, values: Sequence[Array]) -> tuple[Program, Memory]:
        program = self.programs[number]
        heads = [values[0]]
        if program.operands:
            heads = list(values[0])
            program = program.with_operands(list(values[1]))
        return program, program.memory([x.reshape(_image_shape(x.shape)) for x in heads])

    def _collect(self, number: int, memory: Memory, values: Sequence[Array]) -> Array:
        program = self.programs[number]
        found = [program.read(memory, tensor) for tensor in program.outputs]
        if program.operands:
            return np.stack(found)[:, :, 0]
        axes = values[0].ndim
        return found[0] if axes == 3 else found[0][:, 0] if axes == 2 else found[0][:, 0, 0]

    def transfers(self) -> list[Transfer]:
        """What the host does, operation by operation."""
        found = []
        for number, op in enumerate(self.operations[1:], 1):
            program = self.programs.get(number)
            if program is None:
                found.append(Transfer(number, op.kind))
                continue
            written = sum(entry.tensor.size for entry in program.inputs) + program.operand_bytes
            found.append(Transfer(number, op.kind, written, sum(tensor.size for tensor in program.outputs)))
        return found


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens ``[C, T]`` as an input of a program, ``[C, 1, T]``, and features ``[C]``, ``[C, 1, 1]``."""
    return shape if len(shape) == 3 else (shape[0], 1, *shape[1:]) if len(shape) == 2 else (*shape, 1, 1)


def write_stepped_program(path: str | os.PathLike[str], stepped: SteppedProgram) -> None:
    """Write it to one file. The same steps give the same bytes; the file is complete or unchanged.

    Raises
    ------
    sw.format.output.OutputError
        There is something at ``path`` that is not a regular file.
    OSError
        The file cannot be written.
    """
    files = {number: program_bytes(program) for number, program in sorted(stepped.programs.items())}
    header = {
        "operations": to_dicts(stepped.operations),
        "constants": encode_constants(stepped.constants),
        "input_scale": stepped.input_scale,
        **encode_outputs(stepped.operations, stepped.outputs),
        "programs": [[number, len(data)] for number, data in files.items()],
    }
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    write_atomically(path, [_ENVELOPE.pack(text, VERSION), *files.values()])


def is_stepped_program(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a network in steps does.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_stepped_program(path: str | os.PathLike[str]) -> SteppedProgram:
    """Read and check a whole file.

    Raises
    ------
    ProgramError
        The file is truncated, too long, corrupted or of another version, or a program in it is at fault.
    sw.network.NetworkError
        Its operations cannot run.
    OSError
        The file cannot be read.
    """
    data = Path(path).read_bytes()
    _, header, start = _ENVELOPE.unpack(data)
    entries = header["programs"]
    if not isinstance(entries, list) or any(
        not isinstance(x, list) or len(x) != 2 or any(type(y) is not int or y < 0 for y in x) for x in entries
    ):
        raise ProgramError("header", "programs must be pairs of an operation's number and bytes")
    if any(before >= after for (before, _), (after, _) in pairwise(entries)):
        raise ProgramError("header", "programs must be in the order of their operations")
    wanted = start + sum(size for _, size in entries)
    if len(data) != wanted:
        raise ProgramError(
            "steps", f"the file is {'truncated' if len(data) < wanted else 'too long'}: {len(data)} bytes, not {wanted}"
        )
    programs: dict[int, Program] = {}
    for number, size in entries:
        try:
            programs[number] = program_from_bytes(data[start : start + size])
        except ProgramError as error:
            raise ProgramError(f"program of operation {number}", str(error)) from None
        start += size
    return SteppedProgram(
        parse_operations(header["operations"]),
        decode_constants(header["constants"]),
        check_scale(header["input_scale"]),
        programs,
        decode_outputs(header["outputs"]) if "outputs" in header else (),
    )
