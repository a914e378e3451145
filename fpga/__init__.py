"""Bitstreams that test themselves: networks on the accelerator in an FPGA (``python -m hw.board``)."""

import hw  # noqa: F401 - Ctrl-C while a command loads is one line

__all__ = ["BAUD", "CLOCK"]

#: Frequency of the system and of the UART's bits, in Hz, where none is given.
CLOCK, BAUD = 40_000_000, 115_200
