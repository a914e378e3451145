"""The host's side of a board: run programs on it over its UART.

``python -m fpga.host --port /dev/ttyUSB0 PROGRAM INPUT.npy`` runs a program of the compiler on the board and compares
what comes out with the golden model. Without PROGRAM it asks the board for its self-test.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fpga import BAUD
from hw.boards.protocol import RESULTS, Answer, Request, check_word
from hw.bus.register_map import ID, VERSION
from hw.command_line import Parser, interruptible
from hw.control.errors import Cause

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sw.program import Program

__all__ = ["Board", "BoardError", "Port", "Report", "main"]

#: Bytes of a write, after which the board says whether they came well.
_CHUNK = 1024


class BoardError(RuntimeError):
    """The board does not answer, or not as it should. The message says how, and what to do."""


class Port(Protocol):
    """What a host needs of ``serial.Serial``."""

    def read(self, size: int = 1) -> bytes:
        """That many bytes, or fewer after the port's time limit."""

    def write(self, data: bytes) -> int | None:
        """Send bytes."""

    def reset_input_buffer(self) -> None:
        """Forget what has come."""


@dataclass(frozen=True)
class Report:
    """The text of a self-test."""

    #: Its first line.
    title: str
    #: By name.
    counters: dict[str, int]
    #: The last line: ``PASS``, or ``FAIL`` and why.
    verdict: str

    @property
    def passed(self) -> bool:
        """The result was the golden model's."""
        return self.verdict == "PASS"


class Board:
    """A board at a serial port.

    Parameters
    ----------
    port
        The open port.
    """

    def __init__(self, port: Port) -> None:
        self.port = port

    def _read(self, size: int, what: str) -> bytes:
        data = self.port.read(size)
        if len(data) != size:
            raise BoardError(f"{what}: {len(data)} of {size} bytes came; check the port, the baud rate and the power")
        return data

    def report(self) -> Report:
        """The report that the board sends after reset, or after :meth:`self_test`."""
        title, counters = "", {}
        while True:
            line = b""
            while not line.endswith(b"\n"):
                line += self._read(1, "report")
            try:
                text = line.decode("ascii").strip()
            except UnicodeDecodeError:
                raise BoardError("report: the bytes are no text; check the baud rate") from None
            if text.startswith(("PASS", "FAIL")):
                return Report(title, counters, text)
            name, _, value = text.rpartition(" ")
            if not title:
                title = text
            elif name:
                try:
                    counters[name] = int(value, 16)
                except ValueError:
                    raise BoardError(f"report: {text!r} is no counter; check the cable and the baud rate") from None

    def self_test(self) -> Report:
        """Run the self-test once more, with what the memory holds now."""
        # An earlier report, such as that of power-up, is not this one's.
        self.port.reset_input_buffer()
        self.port.write(bytes([Request.TEST]))
        return self.report()

    def _ask(self, request: Request, words: Sequence[int], content: bytes, reply_words: int, reply_bytes: int) -> bytes:
        frame = b"".join(word.to_bytes(4, "little") for word in words) + content
        check = check_word(words, content).to_bytes(4, "little")
        for _ in range(3):
            self.port.reset_input_buffer()
            self.port.write(bytes([request]) + frame + check)
            letter = self._read(1, request.name)[0]
            if letter == Answer.AGAIN:
                continue
            if letter != Answer.DONE:
                why = {
                    Answer.REFUSED: "the board refuses it: the bytes are not all in its memory",
                    Answer.LATE: "the accelerator has not raised its interrupt in time",
                }.get(letter, f"the board answers {letter:#04x}, which is no answer; check the baud rate")
                raise BoardError(f"{request.name}: {why}")
            data = self._read(4 * reply_words + reply_bytes, request.name)
            found = int.from_bytes(self._read(4, request.name), "little")
            numbers = [int.from_bytes(data[4 * n : 4 * n + 4], "little") for n in range(reply_words)]
            if found == check_word(numbers, data[4 * reply_words :]):
                return data
        raise BoardError(f"{request.name}: the check word was wrong three times; check the cable and the baud rate")

    def inform(self) -> tuple[int, int]:
        """Bytes of the memory, and the number of the configuration.

        Raises
        ------
        BoardError
            It is no such board, or of another version.
        """
        data = self._ask(Request.INFORM, (), b"", 4, 0)
        size, name, version, number = (int.from_bytes(data[at : at + 4], "little") for at in range(0, 16, 4))
        if (name, version) != (ID, VERSION):
            raise BoardError(f"the board has ID {name:#x} and VERSION {version:#x}, not {ID:#x} and {VERSION:#x}")
        return size, number

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into the memory."""
        for at in range(0, len(data), _CHUNK):
            part = data[at : at + _CHUNK]
            self._ask(Request.WRITE, (address + at, len(part)), part, 0, 0)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the memory."""
        return b"".join(
            self._ask(Request.READ, (address + at, min(_CHUNK, size - at)), b"", 0, min(_CHUNK, size - at))
            for at in range(0, size, _CHUNK)
        )

    def go(self, descriptors: int, count: int) -> dict[str, int]:
        """Ring the doorbell and wait: the registers :data:`hw.boards.protocol.RESULTS` by name."""
        data = self._ask(Request.GO, (descriptors, count), b"", len(RESULTS), 0)
        words = (int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))
        return dict(zip(RESULTS, words, strict=True))

    def load(self, program: Program) -> None:
        """Put a program's image into the memory.

        Raises
        ------
        BoardError
            It is another instance's, or does not fit.
        """
        from hw.boards.firmware import configuration_number

        size, number = self.inform()
        if number != configuration_number(program.config):
            raise BoardError("the program was compiled for another instance than the board's: compile it for that")
        if program.base or program.dram_bytes > size:
            end = program.base + program.dram_bytes
            raise BoardError(f"the program must lie in the board's memory, 0..{size}, not in {program.base}..{end}")
        self.write(0, program.image)

    def run(
        self, program: Program, inputs: Sequence[NDArray[np.int8]]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
        """Run a program that has been loaded: its outputs by name, and the registers.

        Raises
        ------
        BoardError
            The program ended early.
        """
        import numpy as np

        before = program.memory(inputs)
        for entry in program.inputs:
            place = entry.tensor
            self.write(place.address, before[place.address : place.address + place.size].tobytes())
        registers = self.go(program.descriptors, program.descriptor_count)
        if registers["ERROR"]:
            cause = Cause(registers["ERROR"]).name
            raise BoardError(f"the program ended early at descriptor {registers['ERROR_DESCRIPTOR']}: {cause}")
        memory = np.zeros(program.dram_bytes, np.uint8)
        for place in program.outputs:
            memory[place.address : place.address + place.size] = np.frombuffer(
                self.read(place.address, place.size), np.uint8
            )
        return {place.name: program.read(memory, place) for place in program.outputs}, registers


def _open(name: str, baud: int) -> Any:
    try:
        import serial
    except ImportError:
        raise BoardError("pyserial is not installed: make board, or pip install pyserial") from None
    try:
        return serial.Serial(name, baud, timeout=10)
    except (OSError, ValueError) as error:
        raise BoardError(f"cannot open {name!r}: {error}") from None


def _run(options: argparse.Namespace) -> int:
    import numpy as np

    from sw.command_line import check_folders
    from sw.executor import execute
    from sw.format.npz import write_npz
    from sw.format.output import staged
    from sw.program import read_program
    from sw.run import read_images

    if options.baud < 1:
        raise BoardError(f"baud must be at least 1, not {options.baud}")
    if options.output is not None:
        if options.program is None:
            raise BoardError("--output needs a program: the self-test gives no outputs")
        check_folders(str(options.output))
    program = None if options.program is None else read_program(options.program)
    inputs = []
    if program is not None:
        if len(options.inputs) != len(program.inputs):
            raise BoardError(f"the program takes {len(program.inputs)} inputs, not {len(options.inputs)}")
        for path, entry in zip(options.inputs, program.inputs, strict=True):
            if path.suffix != ".npy":
                raise BoardError(f"{path}: an input must be a .npy file")
            images = read_images(str(path), entry)
            if len(images) > 1:
                raise BoardError(f"{path}: must be one image, not {len(images)}")
            inputs.append(images[0])
    expected: dict[str, Any] = {}
    if program is not None:
        # Before the port: an input that does not fit is refused at once.
        after = execute(program, program.memory(inputs)).memory
        expected = {place.name: program.read(after, place) for place in program.outputs}
    board = Board(_open(options.port, options.baud))
    if program is None:
        report = board.self_test()
        print(report.title, *(f"{name:18} {value:12,}" for name, value in report.counters.items()), sep="\n")
        print(report.verdict)
        return 0 if report.passed else 1
    board.load(program)
    outputs, registers = board.run(program, inputs)
    different = [name for name, values in outputs.items() if not np.array_equal(values, expected[name])]
    if options.output is not None:
        with staged(options.output) as temporary, open(temporary, "wb") as file:
            write_npz(file, outputs)
    print(f"{registers['COUNTER_CYCLES']:,} cycles")
    for name in outputs:
        print(f"{name}: {'differs from the golden model' if name in different else 'as the golden model'}")
    return 1 if different else 0


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 1 for a difference or a failed test, 2 for bad input."""
    parser = Parser(prog="python -m fpga.host", description=__doc__)
    parser.add_argument("--port", required=True, help="the serial port, such as /dev/ttyUSB0")
    parser.add_argument("--baud", type=int, default=BAUD, help="as the board was built for (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.npz", help="write the outputs")
    parser.add_argument("program", nargs="?", metavar="PROGRAM", help="of the compiler, for the board's instance")
    parser.add_argument(
        "inputs",
        nargs="*",
        type=Path,
        metavar="INPUT.npy",
        help="[C, rows, columns], int8 or normalised float; one each",
    )
    options = parser.parse_args(arguments)

    from sw.program import ProgramError
    from sw.run import RunError

    try:
        return _run(options)
    except (BoardError, ProgramError, RunError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
