"""The network of digits on the simulated board, all test images, and the netlist of a layer: ``make board-test``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fpga.digits import digits_data, digits_inputs, train_digits
from fpga.flow import sources, synthesise
from fpga.host import Board
from fpga.image import BoardImage, layer_program
from fpga.simulation import SimulatedPort, build_simulation, netlist_sources, source_verilog
from hw.boards.firmware import FAIL, PASS
from hw.boards.platforms import board_named
from hw.config import preset
from hw.control.descriptor import Opcode
from sw.compiler.compile import compile_network

CONFIG = preset("ews-msvq-fpga")
CLOCK, BAUD = 40_000_000, 5_000_000


@pytest.fixture(autouse=True)
def _only_in_full(full: bool) -> None:
    if not full:
        pytest.skip("minutes; make board-test")


def test_digits_over_the_whole_test_set(tmp_path: Path) -> None:
    done = train_digits(CONFIG)
    network = done.network
    inputs = digits_inputs(network)
    program = compile_network(network, (3, 8, 8), CONFIG, records=False)
    image = BoardImage.of("digits", program, [inputs[0]])
    texts = sources(board_named("ulx3s-85f"), CLOCK, CONFIG, lambda: image.system("MSVQ", CLOCK, BAUD, verilog=True))
    model = build_simulation(source_verilog(texts, tmp_path), tmp_path)
    _, test = digits_data()
    expected = network.run(torch.from_numpy(inputs)).numpy()
    right = int((expected.argmax(1) == test.labels).sum())
    with SimulatedPort(model, CLOCK, BAUD, timeout=0.1) as port:
        board = Board(port)
        assert board.report().passed
        port.run(100)
        assert port.leds & 7 == PASS
        found = []
        for values in inputs:
            outputs, registers = board.run(program, [values])
            found.append(outputs[program.outputs[0].name].reshape(-1))
            assert not registers["ERROR"]
        np.testing.assert_array_equal(np.stack(found), expected)
        print(f"{right} of {len(inputs)} right, golden and board; {registers['COUNTER_CYCLES']} cycles an image")
        # A byte of weights, masks, signs or parameters: each FETCH has its checksum.
        board.write(0, image.memory)
        assert board.self_test().passed
        fetches = [fields["address"] for opcode, fields in program.bodies() if opcode is Opcode.FETCH]
        for address in fetches[:: len(fetches) // 6]:
            board.write(address + 1, bytes([image.memory[address + 1] ^ 0x10]))
            assert re.fullmatch(r"FAIL error 00000004 at descriptor [0-9A-F]{8}", board.self_test().verdict)
            port.run(100)
            assert port.leds & 7 == FAIL
            board.write(address + 1, image.memory[address + 1 : address + 2])
        assert board.self_test().passed
    assert right > 0.93 * len(inputs)


def test_the_netlist_computes_the_same_bytes(tmp_path: Path) -> None:
    image = BoardImage.of("layer", *layer_program(CONFIG))
    texts = sources(board_named("ulx3s-85f"), CLOCK, CONFIG, lambda: image.system("MSVQ", CLOCK, BAUD, verilog=True))
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    synthesise(tmp_path)
    netlist = (tmp_path / "netlist.v").read_text()
    assert all(f"  {cell} #(" in netlist for cell in ("DP16KD", "LUT4", "TRELLIS_FF", "TRELLIS_DPR16X4"))
    assert "MULT18X18D" in netlist
    model = build_simulation(netlist_sources(tmp_path), tmp_path, quick=True)
    with SimulatedPort(model, CLOCK, BAUD, timeout=0.1) as port:
        board = Board(port)
        report = board.report()
        assert report.verdict == "PASS"
        assert board.read(image.program.outputs[0].address, len(image.expected)) == image.expected
