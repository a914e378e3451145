"""What a host and a board say to each other over the UART. Plain Python.

The host asks, the board answers. Numbers are words of 32 bits, the lowest byte first. A request is a letter, its
words, its data, and a check word; an answer is a letter of :class:`Answer`, and where that is DONE, the words and data
that the request asks for, and a check word.

The check word is Fletcher's: with ``first = second = 0``, for each word and then for each byte of data
``first += value; second += first``, modulo 2**32; it is ``second``. The letter does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from hw.bus.register_map import REGISTERS

__all__ = ["RESULTS", "Answer", "Request", "check_word"]


class Request(IntEnum):
    """Letters of requests."""

    #: No words. Answer: bytes of the memory, the registers ID and VERSION, and the number of the configuration.
    INFORM = ord("I")
    #: Address, number of bytes; then the bytes: puts them into the memory.
    WRITE = ord("W")
    #: Address, number of bytes. Answer: those bytes of the memory.
    READ = ord("R")
    #: Address of the first descriptor, number of descriptors. Answer: the registers :data:`RESULTS` after the run.
    GO = ord("G")
    #: No words and no check word: the self-test once more, and its report as text in the place of an answer.
    TEST = ord("T")


class Answer(IntEnum):
    """Letters of answers."""

    #: It is done.
    DONE = ord("K")
    #: The check word was another one. What was to be written may be in the memory; ask again.
    AGAIN = ord("N")
    #: There is no such request, or the bytes are not all in the memory.
    REFUSED = ord("E")
    #: The accelerator has not raised its interrupt in time.
    LATE = ord("L")


#: Registers in the answer to GO, in this order.
RESULTS: tuple[str, ...] = (
    "STATUS",
    "ERROR",
    "ERROR_DESCRIPTOR",
    *(register.name for register in REGISTERS if register.name.startswith("COUNTER_")),
)


def check_word(words: Iterable[int], content: Iterable[int] = ()) -> int:
    """The check word of words and the data behind them."""
    first = second = 0
    for value in (*words, *content):
        first = (first + value) % (1 << 32)
        second = (second + first) % (1 << 32)
    return second
