"""Proof that accesses to a memory are ordered by events."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.program import COUNTED

__all__ = ["UNITS", "Ordered"]

#: The units by the commands that they run; the store unit runs RECORD too.
UNITS = tuple(COUNTED.values())


class Ordered:
    """A memory whose accesses must be ordered by events: who wrote each word last, and who has read it since."""

    def __init__(self, name: str, words: int, filled: bool = False) -> None:
        self.name = name
        # What was there before the program, no command of it has written.
        self.writer = np.full(words, 0 if filled else -1, np.int8)
        self.written = np.zeros(words, np.int32)
        self.reads = np.zeros((len(UNITS), words), np.int32)

    def _fail(self, words: NDArray[np.integer[Any]], wrong: NDArray[np.bool_], text: str) -> None:
        if wrong.any():
            raise ValueError(f"race: {self.name} word {int(np.ravel(words)[np.ravel(wrong)][0])} {text}")

    def _by(self, unit: int, number: int) -> str:
        return f"{UNITS[unit].name} {number - 1}"

    def read(self, words: NDArray[np.int64], unit: int, number: int, known: NDArray[np.int64]) -> None:
        writer = self.writer[words]
        self._fail(words, writer < 0, "is read before anything is written to it")
        written = self.written[words]
        wrong = written > known[writer]
        if wrong.any():
            text = self._by(int(writer[wrong][0]), int(written[wrong][0]))
            self._fail(words, wrong, f"is read without waiting for {text}, which writes it")
        self.reads[unit][words] = number

    def write(self, words: NDArray[np.int64], unit: int, number: int, known: NDArray[np.int64]) -> None:
        for reader in range(len(UNITS)):
            read = self.reads[reader][words]
            wrong = read > known[reader] if reader != unit else np.zeros(read.shape, np.bool_)
            if wrong.any():
                text = self._by(reader, int(read[wrong][0]))
                self._fail(words, wrong, f"is written without waiting for {text}, which reads it")
        writer, written = self.writer[words], self.written[words]
        wrong = (writer >= 0) & (writer != unit) & (written > known[writer])
        if wrong.any():
            text = self._by(int(writer[wrong][0]), int(written[wrong][0]))
            self._fail(words, wrong, f"is written without waiting for {text}, which writes it too")
        self.writer[words] = unit
        self.written[words] = number
