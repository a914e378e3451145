"""The self-test, and the service of the UART, as a program of the board's processor."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

from hw.boards.processor import Instruction, Operation
from hw.boards.protocol import RESULTS, Answer, Request
from hw.bus.register_map import ID, REGISTERS, VERSION
from hw.config import AcceleratorConfig
from hw.control.counters import COUNTERS

__all__ = ["FAIL", "PASS", "RUNNING", "SelfTest", "configuration_number", "firmware"]

#: What the LEDs say, as bits; none of them: the processor has not started.
RUNNING, PASS, FAIL = 1, 2, 4

_OFFSETS = {register.name: register.offset for register in REGISTERS}


@dataclass(frozen=True)
class SelfTest:
    """What the self-test runs, and what must come out.

    Raises
    ------
    ValueError
        A field is out of range.
    """

    #: ASCII text of the first line of the report.
    title: str
    #: Address of the first descriptor, and their number.
    program: int
    descriptors: int
    #: Address of the bytes that are compared.
    result: int
    #: What they must be, at least one byte.
    expected: bytes
    #: Cycles after which the accelerator counts as stuck, below 2**40.
    limit: int = 1 << 30

    def __post_init__(self) -> None:
        if not (self.title.isascii() and self.title.isprintable()):
            raise ValueError(f"title must be printable ASCII, not {self.title!r}")
        for name, low, high in (
            ("program", 0, (1 << 32) - 64),
            ("descriptors", 1, (1 << 32) - 1),
            ("result", 0, (1 << 31) - 1),
            ("limit", 256, (1 << 40) - 1),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} must be in {low}..{high}, not {value!r}")
        if not self.expected:
            raise ValueError("expected must have at least one byte")


def configuration_number(config: AcceleratorConfig) -> int:
    """CRC-32 of a configuration: a board tells it, so that a host does not send it another instance's program."""
    return zlib.crc32(json.dumps(config.to_dict(), sort_keys=True).encode())


# Registers of the processor
_FIRST, _SECOND, _ADDRESS, _COUNT, _ONE, _LEFT, _SCRATCH, _INDEX = range(8)


class _Assembler:
    def __init__(self) -> None:
        self.code: list[tuple[Operation, int | str]] = []
        self.labels: dict[str, int] = {}
        self.fresh = 0

    def __call__(self, operation: Operation, argument: int | str = 0) -> None:
        self.code.append((operation, argument))

    def label(self, name: str = "") -> str:
        if not name:
            self.fresh += 1
            name = f".{self.fresh}"
        self.labels[name] = len(self.code)
        return name

    def text(self, text: str) -> None:
        for byte in text.encode("ascii"):
            self(Operation.PUT, byte)

    def digits(self, count: int = 8) -> None:
        for _ in range(count):
            self(Operation.DIGIT)

    def assemble(self) -> list[Instruction]:
        return [
            Instruction(operation, self.labels[argument] if isinstance(argument, str) else argument)
            for operation, argument in self.code
        ]

    # Parts of frames

    def count_in(self) -> None:
        """The accumulator goes into the check word, and is lost."""
        self(Operation.ADD, _FIRST)
        self(Operation.KEEP, _FIRST)
        self(Operation.ADD, _SECOND)
        self(Operation.KEEP, _SECOND)

    def start_frame(self) -> None:
        self(Operation.SET, 0)
        self(Operation.KEEP, _FIRST)
        self(Operation.KEEP, _SECOND)

    def get_word(self) -> None:
        for _ in range(4):
            self(Operation.GET, "short")

    def get_field(self, register: int) -> None:
        self.get_word()
        self(Operation.KEEP, register)
        self.count_in()

    def check(self) -> None:
        """Go to ``again`` unless the check word that comes is right."""
        self.get_word()
        self(Operation.SUBTRACT, _SECOND)
        self(Operation.IF_NOT, "again")

    def send_word(self, counted: bool = True) -> None:
        """Send the accumulator."""
        for _ in range(4):
            self(Operation.SEND)
            self(Operation.RIGHT)
        if counted:
            self.count_in()

    def end_frame(self) -> None:
        self(Operation.TAKE, _SECOND)
        self.send_word(counted=False)
        self(Operation.JUMP, "serve")

    def count_down(self, again: str) -> None:
        self(Operation.TAKE, _LEFT)
        self(Operation.SUBTRACT, _ONE)
        self(Operation.KEEP, _LEFT)
        self(Operation.IF_NOT, again)

    def range_check(self, size: int) -> None:
        """Go to ``refused`` unless address and count lie in the memory, and count is not 0."""
        self(Operation.TAKE, _COUNT)
        self(Operation.IF_ZERO, "refused")
        for register in (_ADDRESS, _COUNT):
            # Neither reaches 2**31, so that their sum does not wrap.
            self(Operation.TAKE, register)
            self(Operation.IF_NEGATIVE, "refused")
        self(Operation.SET, size)
        self(Operation.SUBTRACT, _ADDRESS)
        self(Operation.IF_NEGATIVE, "refused")
        self(Operation.SUBTRACT, _COUNT)
        self(Operation.IF_NEGATIVE, "refused")

    def ring(self, program: int | None, descriptors: int | None) -> None:
        """Ring the doorbell; None: the address and the number are in registers."""
        for name, value, register in (
            ("PROGRAM_LOW", program, _ADDRESS),
            ("PROGRAM_HIGH", 0, None),
            ("PROGRAM_DESCRIPTORS", descriptors, _COUNT),
            ("INTERRUPT", 0b111, None),
            ("INTERRUPT_ENABLE", 0b111, None),
            ("CONTROL", 1, None),
        ):
            if value is None:
                assert register is not None
                self(Operation.TAKE, register)
            else:
                self(Operation.SET, value)
            self(Operation.STORE, _OFFSETS[name])

    def abort(self) -> None:
        self(Operation.SET, 0b10)
        self(Operation.STORE, _OFFSETS["CONTROL"])


def firmware(test: SelfTest, config: AcceleratorConfig, size: int) -> list[Instruction]:
    """The processor's program.

    Parameters
    ----------
    test
        What the self-test does.
    config
        The instance.
    size
        Bytes of the memory.
    """
    a = _Assembler()
    wait = -(-test.limit // 256)
    a(Operation.SET, 1)
    a(Operation.KEEP, _ONE)
    _self_test(a, test, wait)
    _failures(a)
    _requests(a)
    a.label(Request.TEST.name)
    a(Operation.JUMP, "test")
    _inform(a, (size, ID, VERSION, configuration_number(config)))
    _write(a, size)
    _read(a, size)
    _go(a, wait)
    return a.assemble()


def _self_test(a: _Assembler, test: SelfTest, wait: int) -> None:
    """The self-test and its report, as far as all is well."""
    a.label("test")
    a(Operation.LIGHT, RUNNING)
    a.text(f"\r\n{test.title}\r\n")
    a.ring(test.program, test.descriptors)
    a(Operation.WAIT, wait)
    a(Operation.IF_ZERO, "stuck")
    for name in COUNTERS:
        a.text(f"{name} ")
        a(Operation.LOAD, _OFFSETS[f"COUNTER_{name.upper()}"])
        a.digits()
        a.text("\r\n")
    a(Operation.LOAD, _OFFSETS["ERROR"])
    a(Operation.IF_NOT, "error")
    a(Operation.SET, test.result)
    a(Operation.POINT)
    a(Operation.SET, len(test.expected))
    a(Operation.KEEP, _LEFT)
    a(Operation.SET, 0)
    a(Operation.KEEP, _INDEX)
    compare = a.label()
    a(Operation.EXPECTED)
    a(Operation.KEEP, _SCRATCH)
    a(Operation.READ)
    a(Operation.KEEP, _COUNT)
    a(Operation.SUBTRACT, _SCRATCH)
    a(Operation.IF_NOT, "different")
    a(Operation.TAKE, _INDEX)
    a(Operation.ADD, _ONE)
    a(Operation.KEEP, _INDEX)
    a.count_down(compare)
    a.text("PASS\r\n")
    a(Operation.LIGHT, PASS)
    a(Operation.JUMP, "serve")


def _failures(a: _Assembler) -> None:
    """The last lines of reports of what went wrong."""
    a.label("different")
    a.text("FAIL byte ")
    a(Operation.TAKE, _INDEX)
    a.digits()
    a.text(" is ")
    for register, text in ((_COUNT, ", must be "), (_SCRATCH, "\r\n")):
        a(Operation.TAKE, register)
        a(Operation.RIGHT)
        a.digits(2)
        a.text(text)
    a(Operation.LIGHT, FAIL)
    a(Operation.JUMP, "serve")
    a.label("error")
    a.text("FAIL error ")
    a.digits()
    a.text(" at descriptor ")
    a(Operation.LOAD, _OFFSETS["ERROR_DESCRIPTOR"])
    a.digits()
    a.text("\r\n")
    a(Operation.LIGHT, FAIL)
    a(Operation.JUMP, "serve")
    a.label("stuck")
    a.text("FAIL no interrupt\r\n")
    a.abort()
    a(Operation.LIGHT, FAIL)


def _requests(a: _Assembler) -> None:
    """Waits for a request and goes to its part; answers to those that are damaged or refused."""
    a.label("serve")
    a.start_frame()
    a(Operation.GET, 0)
    a(Operation.LEFT)
    a(Operation.KEEP, _SCRATCH)
    for request in Request:
        a(Operation.SET, request)
        a(Operation.SUBTRACT, _SCRATCH)
        a(Operation.IF_ZERO, request.name)
    # What is still on its way belongs to the same request: the answer comes when the line is silent.
    for label, answer in (("refused", Answer.REFUSED), ("again", Answer.AGAIN)):
        a.label(label)
        a(Operation.GET, f"{label} now")
        a(Operation.JUMP, label)
        a.label(f"{label} now")
        a(Operation.PUT, answer)
        a(Operation.JUMP, "serve")
    a.label("short")
    a(Operation.PUT, Answer.AGAIN)
    a(Operation.JUMP, "serve")


def _inform(a: _Assembler, words: tuple[int, ...]) -> None:
    a.label(Request.INFORM.name)
    a.check()
    a.start_frame()
    a(Operation.PUT, Answer.DONE)
    for word in words:
        a(Operation.SET, word)
        a.send_word()
    a.end_frame()


def _write(a: _Assembler, size: int) -> None:
    a.label(Request.WRITE.name)
    a.get_field(_ADDRESS)
    a.get_field(_COUNT)
    a.range_check(size)
    a(Operation.TAKE, _ADDRESS)
    a(Operation.POINT)
    a(Operation.TAKE, _COUNT)
    a(Operation.KEEP, _LEFT)
    byte = a.label()
    a(Operation.SET, 0)
    a(Operation.GET, "short")
    a(Operation.LEFT)
    a(Operation.WRITE)
    a.count_in()
    a.count_down(byte)
    a.check()
    a(Operation.PUT, Answer.DONE)
    a(Operation.SET, 0)
    a.send_word(counted=False)
    a(Operation.JUMP, "serve")


def _read(a: _Assembler, size: int) -> None:
    a.label(Request.READ.name)
    a.get_field(_ADDRESS)
    a.get_field(_COUNT)
    a.check()
    a.range_check(size)
    a.start_frame()
    a(Operation.TAKE, _ADDRESS)
    a(Operation.POINT)
    a(Operation.TAKE, _COUNT)
    a(Operation.KEEP, _LEFT)
    a(Operation.PUT, Answer.DONE)
    byte = a.label()
    a(Operation.READ)
    a(Operation.SEND)
    a.count_in()
    a.count_down(byte)
    a.end_frame()


def _go(a: _Assembler, wait: int) -> None:
    """Runs the program of a host."""
    a.label(Request.GO.name)
    a.get_field(_ADDRESS)
    a.get_field(_COUNT)
    a.check()
    a(Operation.LIGHT, RUNNING)
    a.ring(None, None)
    a(Operation.WAIT, wait)
    a(Operation.IF_ZERO, "late")
    a(Operation.LIGHT, 0)
    a.start_frame()
    a(Operation.PUT, Answer.DONE)
    for name in RESULTS:
        a(Operation.LOAD, _OFFSETS[name])
        a.send_word()
    a.end_frame()
    a.label("late")
    a(Operation.PUT, Answer.LATE)
    a.abort()
    a(Operation.JUMP, "serve")
