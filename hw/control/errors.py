"""Why a program ended early, or a doorbell was refused. Plain Python."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Cause"]


class Cause(IntEnum):
    """Codes of the ERROR register."""

    #: No error since the last start.
    NONE = 0
    #: The bus answered a read with SLVERR or DECERR.
    READ_RESPONSE = 1
    #: The bus answered a write with SLVERR or DECERR.
    WRITE_RESPONSE = 2
    #: An unknown opcode, or a field that this instance cannot carry out.
    ILLEGAL_DESCRIPTOR = 3
    #: Fetched words do not have the CRC-32 of their descriptor.
    CHECKSUM = 4
    #: The host wrote CONTROL.abort.
    ABORTED = 5
    #: The host wrote CONTROL.start while a program was running; that program goes on.
    DOORBELL_WHILE_BUSY = 6
