"""A board's BoardSystem, with its Processor, in Verilator: passes, says why it fails, and runs the host's programs."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from fpga.__main__ import main
from fpga.digits import main as digits_main
from fpga.flow import TOP, Built, sources
from fpga.host import Board, BoardError, Report
from fpga.host import main as host_main
from fpga.image import BoardImage, divisor_of, layer_program
from fpga.simulation import SimulatedPort, build_simulation, source_verilog
from hw.boards.firmware import FAIL, PASS, configuration_number
from hw.boards.platforms import BOARDS, BoardTop, Pll, board_named
from hw.boards.protocol import Request
from hw.bus.register_map import ID, VERSION
from hw.config import ConfigError, preset
from hw.control.descriptor import BYTES, Opcode
from sw.compiler.compile import compile_layer
from sw.executor import execute
from sw.format.example import random_layer
from sw.program import write_program
from tests.fpga.model import BoardModel, check
from tests.refusals import Refused

CONFIG_NAME = "ews-msvq-tiny"
CONFIG = preset(CONFIG_NAME)
CLOCK, BAUD = 40_000_000, 4_000_000
ULX3S = board_named("ulx3s-85f")


@pytest.fixture(scope="module")
def image() -> BoardImage:
    return BoardImage.of("layer", *layer_program(CONFIG))


def simulation(image: BoardImage, folder: Path) -> Path:
    texts = sources(ULX3S, CLOCK, CONFIG, lambda: image.system("MSVQ test", CLOCK, BAUD, verilog=True, patience=4000))
    return build_simulation(source_verilog(texts, folder), folder, quick=True)


@pytest.fixture(scope="module")
def model(image: BoardImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulation(image, tmp_path_factory.mktemp("board"))


@pytest.fixture
def port(model: Path):
    with SimulatedPort(model, CLOCK, BAUD, timeout=0.01) as port:
        yield port


def test_the_self_test_passes_and_the_host_runs_another_program(image: BoardImage, port: SimulatedPort) -> None:
    board = Board(port)
    report = board.report()
    assert report.title == "MSVQ test layer"
    assert report.passed
    port.run(100)
    assert port.leds & 7 == PASS
    assert report.counters["descriptors"] == image.program.descriptor_count
    assert report.counters["cycles"] > report.counters["operations"] > 0
    assert board.read(image.program.outputs[0].address, len(image.expected)) == image.expected

    # Another program, another input: what the golden model says.
    rng = np.random.default_rng(5)
    layer = random_layer(rng, "msvq", (8, 5, 1, 1), d=CONFIG.d, k=CONFIG.k, n=CONFIG.N, m=CONFIG.M, requantised=True)
    program = compile_layer(layer, (5, 3, 2), CONFIG, records=False)
    values = rng.integers(-128, 128, (5, 3, 2)).astype(np.int8)
    board.load(program)
    outputs, registers = board.run(program, [values])
    after = execute(program, program.memory([values])).memory
    for place in program.outputs:
        np.testing.assert_array_equal(outputs[place.name], program.read(after, place))
    assert registers["COUNTER_DESCRIPTORS"] == program.descriptor_count

    # What the host must not ask
    size, _ = board.inform()
    for address, count in ((size - 1, 2), (size, 1), (0, 0), (1 << 31, 1), (0, (1 << 32) - 1)):
        with pytest.raises(BoardError, match="not all in its memory"):
            board._ask(Request.READ, (address, count), b"", 0, 1)
    with pytest.raises(BoardError, match="not all in its memory"):
        board.write(size - 1, b"ab")
    other = compile_layer(layer, (5, 3, 2), CONFIG.override(["arf_depth=16"]), records=False)
    with pytest.raises(BoardError, match="another instance"):
        board.load(other)
    board.write(program.descriptors, bytes(64))  # an unknown opcode, or none that ends
    with pytest.raises(BoardError, match=r"ended early at descriptor \d+: ILLEGAL_DESCRIPTOR"):
        board.run(program, [values])
    # Noise on the line, and a request that breaks off: the next one is understood.
    port.write(b"R\x01\x02")
    port.run(20_000)
    assert board.inform()[0] == size


def test_one_flipped_byte_fails_with_the_right_words(image: BoardImage, port: SimulatedPort) -> None:
    """Through the UART: the self-test runs with what the memory holds."""
    board = Board(port)
    assert board.report().passed
    program = image.program
    # Of weights, which have a checksum.
    descriptors = range(program.descriptors, program.descriptors + BYTES * program.descriptor_count)
    fetches = [fields for opcode, fields in program.bodies() if opcode is Opcode.FETCH]
    assert fetches
    for fields in fetches[:2]:
        address = fields["address"] + 1
        assert address < len(program.image)
        assert address not in descriptors
        board.write(address, bytes([image.memory[address] ^ 0x10]))
        report = board.self_test()
        assert re.fullmatch(r"FAIL error 00000004 at descriptor [0-9A-F]{8}", report.verdict)
        port.run(100)
        assert port.leds & 7 == FAIL
        board.write(address, image.memory[address : address + 1])

    # Of the input, which has none: the first byte of the result that differs.
    place, output = program.inputs[0].tensor, program.outputs[-1]
    flipped = image.flipped(place.address, 0x7F)
    after = execute(program, np.frombuffer(flipped.memory, np.uint8).copy()).memory
    found = after[output.address : output.address + output.size].tobytes()
    at = next(number for number, pair in enumerate(zip(found, image.expected, strict=True)) if pair[0] != pair[1])
    board.write(place.address, flipped.memory[place.address : place.address + 1])
    assert board.self_test().verdict == f"FAIL byte {at:08X} is {found[at]:02X}, must be {image.expected[at]:02X}"
    board.write(place.address, image.memory[place.address : place.address + 1])
    assert board.self_test().passed
    port.run(100)
    assert port.leds & 7 == PASS


def request(rng: random.Random, size: int) -> bytes:
    """One request, good or bad."""
    letter = rng.choice([b"I", b"W", b"R", b"R", b"W"])
    words: tuple[int, ...] = ()
    data = b""
    if letter != b"I":
        count = rng.choice([1, 2, rng.randrange(1, 20)])
        address = rng.choice([0, size - count, rng.randrange(size - count)])
        if rng.random() < 0.2:
            address, count = rng.choice([(size, 1), (size - 1, 2), (0, 0), (1 << 31, 1), (4, (1 << 32) - 4)])
        words = (address, count)
        data = rng.randbytes(min(count, 20)) if letter == b"W" else b""
    sent = bytearray(letter + b"".join(word.to_bytes(4, "little") for word in words) + data + check(words, data))
    match rng.randrange(5):
        case 0:  # cut short
            del sent[rng.randrange(1, len(sent)) :]
        case 1:  # a bit of what follows the letter is wrong
            sent[rng.randrange(1, len(sent))] ^= 1 << rng.randrange(8)
        case 2:
            if rng.random() < 0.3:
                sent[0] = rng.choice(b"\x00\xffXwr")
    return bytes(sent)


def test_protocol_is_that_of_an_independent_model(image: BoardImage, port: SimulatedPort) -> None:
    """Random requests, good, cut short, damaged and out of range: the model's answers, byte by byte, and its memory."""
    assert Board(port).report().passed
    after = execute(image.program, np.frombuffer(image.memory, np.uint8).copy()).memory.tobytes()
    model = BoardModel(bytearray(after.ljust(image.size, b"\0")), (ID, VERSION, configuration_number(CONFIG)))
    rng = random.Random(20)
    letters = bytearray()
    for _ in range(60):
        sent = request(rng, image.size)
        expected = model.answer(sent)
        port.write(sent)
        # Longer than the request takes, the silence behind a bad one, and the answer.
        assert port.run(10 * 10 * (len(sent) + len(expected)) + 4600) == expected, sent.hex()
        letters += expected[:1]
    assert min(letters.count(letter) for letter in b"KNE") >= 5
    for address, count in model.written[-10:]:
        if count:
            assert Board(port).read(address, count) == bytes(model.memory[address : address + count])


class Script:
    """A port that says what it is told to."""

    def __init__(self, said: bytes) -> None:
        self.said, self.written = said, b""

    def read(self, size: int = 1) -> bytes:
        part, self.said = self.said[:size], self.said[size:]
        return part

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)

    def reset_input_buffer(self) -> None:
        pass


def frame(*words: int, content: bytes = b"") -> bytes:
    """An answer as the protocol has it, written down once more."""
    first = second = 0
    for value in (*words, *content):
        first = (first + value) & 0xFFFFFFFF
        second = (second + first) & 0xFFFFFFFF
    return b"K" + b"".join(word.to_bytes(4, "little") for word in words) + content + second.to_bytes(4, "little")


def test_host_asks_again_where_the_line_was_bad() -> None:
    good = frame(content=b"\x01\x02\x03")
    bad = good[:-1] + b"\xff"
    port = Script(b"N" + bad + good)
    assert Board(port).read(0x1234, 3) == b"\x01\x02\x03"
    asked = b"R" + (0x1234).to_bytes(4, "little") + (3).to_bytes(4, "little") + (2 * 0x1234 + 3).to_bytes(4, "little")
    assert port.written == 3 * asked


def test_host_speaks_to_the_model() -> None:
    """The host's side against the model of the board's."""
    model = BoardModel(bytearray(4096), (ID, VERSION, configuration_number(CONFIG)))

    class Line(Script):
        def write(self, data: bytes) -> int:
            self.said += model.answer(data)
            return len(data)

    board = Board(Line(b""))
    assert board.inform() == (4096, configuration_number(CONFIG))
    data = random.Random(1).randbytes(2500)
    board.write(100, data)
    assert bytes(model.memory[100:2600]) == data
    assert board.read(99, 2502) == b"\0" + data + b"\0"
    with pytest.raises(BoardError, match="not all in its memory"):
        board.read(4095, 2)


def test_host_gives_up() -> None:
    with pytest.raises(BoardError, match="READ: the check word was wrong three times"):
        Board(Script(b"NNN")).read(0, 1)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "READ: 0 of 1 bytes came; check the port, the baud rate and the power"),
        (b"E", "READ: the board refuses it: the bytes are not all in its memory"),
        (b"\xf7", "READ: the board answers 0xf7, which is no answer; check the baud rate"),
        (b"K\x01", "READ: 1 of 3 bytes came"),
    ],
)
def test_host_says_what_is_wrong(said: bytes, message: str) -> None:
    with pytest.raises(BoardError, match=message):
        Board(Script(said)).read(0, 3)


def test_host_reads_reports() -> None:
    text = b"\r\nMSVQ x\r\ncycles 000000FF\r\nFAIL byte 00000002 is 01, must be 02\r\n"
    assert Board(Script(text)).report() == Report("MSVQ x", {"cycles": 255}, "FAIL byte 00000002 is 01, must be 02")
    with pytest.raises(BoardError, match="bytes are no text; check the baud rate"):
        Board(Script(b"\xff\xfe\n")).report()
    with pytest.raises(BoardError, match="report: 'cycles 0Z' is no counter; check the cable and the baud rate"):
        Board(Script(b"MSVQ x\r\ncycles 0Z\r\n")).report()
    with pytest.raises(BoardError, match="the board has ID 0x1 and VERSION 0x2, not"):
        Board(Script(frame(4096, 1, 2, 3))).inform()


@pytest.mark.parametrize("source", [25_000_000, 48_000_000, 100_000_000])
def test_pll_makes_the_clock_within_its_range(source: int) -> None:
    pll = Pll.between(source, 40_000_000)
    vco = source * pll.feedback
    assert 400e6 <= vco <= 800e6
    assert vco / pll.output == 40e6
    with pytest.raises(
        ConfigError, match=r"clock must be one that the PLL makes of \d+ Hz, such as \[.*\], not 41000001"
    ):
        Pll.between(source, 41_000_001)
    with pytest.raises(ConfigError, match=r"clock must be in 3125000..400000000 Hz, not 1"):
        Pll.between(source, 1)


def test_divisor_of_a_baud_rate() -> None:
    assert divisor_of(40_000_000, 115_200) == 347
    for baud in (0, -1, 6_000_000, 4_300_000):
        with pytest.raises(ConfigError, match=f"baud must be at most an eighth of the clock.*, not {baud}"):
            divisor_of(40_000_000, baud)


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_has_its_pins(name: str, image: BoardImage) -> None:
    board = board_named(name)
    top = BoardTop(board, CLOCK, lambda: image.system("MSVQ", CLOCK, BAUD, verilog=True))
    constraints = board.make_platform().prepare(top, TOP).files[f"{TOP}.lpf"]
    text = constraints if isinstance(constraints, str) else constraints.decode()
    assert text.count("LOCATE COMP") >= 5
    assert "uart_0__rx__io" in text
    assert "uart_0__tx__io" in text


def test_an_earlier_report_is_not_the_tests() -> None:
    class Line(Script):
        def reset_input_buffer(self) -> None:
            self.said = b""

        def write(self, data: bytes) -> int:
            self.said += b"MSVQ x\r\nFAIL no interrupt\r\n"
            return len(data)

    assert not Board(Line(b"MSVQ x\r\nPASS\r\n")).self_test().passed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baud", "0"], "baud must be at least 1, not 0"),
        (["--output", "nowhere/out.npz", "net.prog"], "the folder 'nowhere' does not exist"),
        (["--output", "out.npz"], "--output needs a program: the self-test gives no outputs"),
    ],
)
def test_host_refuses_before_the_port(arguments: list[str], message: str, refused: Refused) -> None:
    assert message in refused(host_main, ["--port", "/dev/none", *arguments])


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("int8", "cannot open '/dev/none'"),
        ("float32", "cannot open '/dev/none'"),
        ("int64", "values must be int8 or float, not int64"),
    ],
)
def test_host_takes_what_the_command_run_takes(
    dtype: str,
    message: str,
    image: BoardImage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str, *_: object, **__: object) -> None:
        raise FileNotFoundError(name)

    # A stand-in for pyserial, which only those who have a board install.
    monkeypatch.setitem(sys.modules, "serial", types.SimpleNamespace(Serial=absent))
    (entry,) = image.program.inputs
    entry = dataclasses.replace(entry, tensor=dataclasses.replace(entry.tensor, scale=0.5))
    program = dataclasses.replace(image.program, inputs=(entry,))
    write_program(str(tmp_path / "net.prog"), program)
    np.save(tmp_path / "image.npy", np.ones(entry.shape, dtype))
    paths = [str(tmp_path / name) for name in ("net.prog", "image.npy")]
    assert message in refused(host_main, ["--port", "/dev/none", *paths])
    assert host_main(["--port", "/dev/none", *paths, paths[1]]) == 2
    assert "the program takes 1 inputs, not 2" in capsys.readouterr().err
    assert host_main(["--port", "/dev/none", paths[0], "image.png"]) == 2
    assert "image.png: an input must be a .npy file" in capsys.readouterr().err


def test_digits_without_their_library_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setattr("fpga.flow.check_tools", lambda: None)
    said = "network 'digits' needs scikit-learn, which has its images: pip install scikit-learn\n"
    assert digits_main([str(tmp_path / "digits.msvq")]) == 2
    assert capsys.readouterr().err == f"python -m fpga.digits: {said}"
    with pytest.raises(SystemExit) as stopped:
        main(["--board", "ulx3s-85f", "--network", "digits", "-o", str(tmp_path / "board")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith(said)


@pytest.mark.parametrize("bits", [2, 4])
def test_a_layer_of_narrow_weights_runs_on_its_instance(bits: int) -> None:
    config = preset("ews-msvq-fpga").override([f"weight_bits={bits}"])
    image = BoardImage.of("layer", *layer_program(config))
    assert image.program.config.weight_bits == bits
    assert any(image.expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--board NAME is needed: one of ulx3s-85f,"),
        (["--board", "de10"], "board must be one of ulx3s-85f, .*, not 'de10'"),
        (["--board", "ulx3s-85f", "--network", "x"], "network must be one of digits, layer, not 'x'"),
        (["--board", "ulx3s-85f", "--clock", "41000001"], "clock must be one that the PLL makes of 25000000 Hz"),
        (["--board", "ulx3s-85f", "--baud", "9000000"], "baud must be at most an eighth of the clock"),
        (["--board", "ulx3s-85f", "--baud", "2"], "baud must be at least 3 at a clock of 40000000 Hz, not 2"),
        (["--board", "ulx3s-85f", "--seed", "-1"], r"seed must be in 0..2147483647, not -1"),
        (["--board", "ulx3s-85f", "--preset", "x"], "unknown preset 'x'"),
    ],
)
def test_command_refuses(arguments: list[str], message: str, refused: Refused) -> None:
    assert re.search(message, refused(main, arguments))


def test_command_says_that_sums_overflow(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fpga.flow.check_tools", lambda: None)
    given = ["--board", "ulx3s-85f", "--network", "layer", "--set", "psum_width=16", "-o", str(tmp_path)]
    assert re.search(r"layer 'random': output channel \d+ reaches partial sums of .*, beyond", refused(main, given))


def test_command_is_called_as_the_documents_have_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hw.board", "--list"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ulx3s-85f" in done.stdout


def test_command_loads_the_bitstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A design that reaches its clock is loaded, with arguments that openFPGALoader knows; another one is not."""
    said = tmp_path / "said"
    tool = tmp_path / "openFPGALoader"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {said}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    reached = [41.0]

    def place(folder: Path, board: object, clock: int, seed: int) -> Built:
        found = {name: 3 for name in ("TRELLIS_COMB", "DP16KD")}
        return Built(folder / "top.bit", found, found, reached[0], clock / 1e6, seed, {"top": {"LUTs": 3}})

    for name, value in {
        "check_tools": lambda: None,
        "sources": lambda *_: {"top.il": ""},
        "synthesise": lambda folder: "",
        "place_and_route": place,
        "nextpnr_version": lambda: "1",
    }.items():
        monkeypatch.setattr(f"fpga.flow.{name}", value)
    arguments = ["--network", "layer", "--preset", CONFIG_NAME, "--program", "-o", str(tmp_path / "built")]
    for name, wanted in {
        "ulx3s-85f": "--board ulx3s",
        "versa-ecp5": "--cable ft2232",
        "orangecrab-85f": "--board orangeCrab",
    }.items():
        assert main(["--board", name, *arguments]) == 0
        assert said.read_text() == f"{wanted} {tmp_path}/built/top.bit\n"
        said.unlink()
        report = json.loads((tmp_path / "built" / "board.json").read_text())
        assert (report["board"], report["fmax_mhz"], report["clock_mhz"]) == (name, 41.0, 40.0)
    reached[0] = 39.9
    assert main(["--board", "ulx3s-85f", *arguments]) == 1
    assert not said.exists()
    assert "the clock is not reached: try another --seed, or a lower --clock" in capsys.readouterr().out
    tool.unlink()
    with pytest.raises(SystemExit, match="2"):
        main(["--board", "ulx3s-85f", *arguments])
    assert "openFPGALoader is not on PATH" in capsys.readouterr().err
