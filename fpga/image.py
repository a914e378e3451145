"""What a board's memory holds when it starts: a program and its input; and what must come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpga import BAUD, CLOCK
from hw.boards.firmware import SelfTest
from hw.boards.system import BoardSystem
from hw.boards.uart import MAX_DIVISOR, MIN_DIVISOR
from hw.config import AcceleratorConfig, ConfigError
from sw.compiler.compile import compile_layer, compile_network
from sw.executor import execute
from sw.format.example import random_layer
from sw.program import Program

__all__ = ["BAUD", "CLOCK", "MEMORY", "NETWORKS", "BoardImage", "digits_program", "divisor_of", "layer_program"]

#: Least bytes of the memory, so that there is room for programs that come over the UART.
MEMORY = 1 << 15


def divisor_of(clock: int, baud: int) -> int:
    """Clock cycles of a bit.

    Raises
    ------
    ConfigError
        The UART would be off by more than 2 %, or is too fast or too slow.
    """
    divisor = round(clock / baud) if baud > 0 else 0
    if divisor < MIN_DIVISOR or abs(clock / divisor / baud - 1) > 0.02:
        raise ConfigError(f"baud must be at most an eighth of the clock, and within 2 % of a part of it, not {baud}")
    if divisor > MAX_DIVISOR:
        raise ConfigError(f"baud must be at least {-(-clock // MAX_DIVISOR)} at a clock of {clock} Hz, not {baud}")
    return divisor


@dataclass(frozen=True)
class BoardImage:
    """The contents of a board."""

    #: Of the network.
    name: str
    #: What the accelerator runs; its memory begins at address 0.
    program: Program
    #: All of it before the run, the input among it.
    memory: bytes
    #: Bytes of the program's last output, from the golden model.
    expected: bytes

    @classmethod
    def of(cls, name: str, program: Program, inputs: Sequence[NDArray[np.int8]]) -> BoardImage:
        """The contents for a program and its input.

        Raises
        ------
        ConfigError
            The program does not begin at address 0.
        """
        if program.base != 0:
            raise ConfigError(f"base of the program must be 0, not {program.base}")
        before = program.memory(inputs)
        after = execute(program, before, check=True).memory
        place = program.outputs[-1]
        return cls(name, program, before.tobytes(), after[place.address : place.address + place.size].tobytes())

    @property
    def size(self) -> int:
        """Bytes of the board's memory: the program's, rounded up to whole block RAMs, and room for others."""
        return max(MEMORY, -(-self.program.dram_bytes // 4096) * 4096)

    def flipped(self, address: int, mask: int = 1) -> BoardImage:
        """With bits of one byte of the memory flipped, as a broken board would have it."""
        memory = bytearray(self.memory)
        memory[address] ^= mask
        return dataclasses.replace(self, memory=bytes(memory))

    def system(self, title: str, clock: int = CLOCK, baud: int = BAUD, **settings: Any) -> BoardSystem:
        """The design that holds it.

        Parameters
        ----------
        title
            Begins the report, before the network's name.
        clock, baud
            In Hz.
        settings
            As for :class:`hw.boards.system.BoardSystem`.
        """
        program = self.program
        limit = 1 << 30
        test = SelfTest(
            f"{title} {self.name}",
            program.descriptors,
            program.descriptor_count,
            program.outputs[-1].address,
            self.expected,
            limit,
        )
        settings = {"patience": clock // 5} | settings
        return BoardSystem(program.config, test, self.memory, self.size, divisor_of(clock, baud), **settings)


def layer_program(config: AcceleratorConfig) -> tuple[Program, list[NDArray[np.int8]]]:
    """One small convolution with random weights, and an input."""
    rng = np.random.default_rng(0)
    features = config.features
    if not features.codebook:
        method, fields = "int8", {}
    else:
        method = {(False, False): "vq", (True, False): "mvq", (False, True): "ssvq", (True, True): "msvq"}[
            features.mask, features.sign
        ]
        fields = {"d": config.d, "k": config.k, "codeword_bits": config.weight_bits}
        fields |= {"n": config.N, "m": config.M} if features.mask else {}
    C = config.H
    layer = random_layer(rng, method, (2 * config.L, C, 3, 3), requantised=True, padding=(1, 1), **fields)
    program = compile_layer(layer, (C, 4, 4), config, records=False)
    return program, [rng.integers(-128, 128, (C, 4, 4)).astype(np.int8)]


def digits_program(config: AcceleratorConfig) -> tuple[Program, list[NDArray[np.int8]]]:
    """The network of :mod:`fpga.digits`, trained now, in seconds, and the first image of the test set."""
    from fpga.digits import digits_inputs, train_digits

    network: Any = train_digits(config).network
    return compile_network(network, (3, 8, 8), config, records=False), [digits_inputs(network)[0]]


#: What can be put on a board, by name.
NETWORKS: Mapping[str, Callable[[AcceleratorConfig], tuple[Program, list[NDArray[np.int8]]]]] = {
    "digits": digits_program,
    "layer": layer_program,
}
