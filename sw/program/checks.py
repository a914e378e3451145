"""What every part of a program checks of its fields."""

from __future__ import annotations

__all__ = ["MAX_DRAM_BYTES", "ProgramError", "check_integer", "check_text"]

#: Most DRAM that a program may use. It bounds what a reader may have to allocate.
MAX_DRAM_BYTES = 1 << 30


class ProgramError(ValueError):
    """A program that cannot be, be read or be written. The message and ``section`` name the part at fault."""

    def __init__(self, section: str, text: str) -> None:
        super().__init__(f"{section}: {text}")
        self.section = section


def check_integer(section: str, name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ProgramError(section, f"{name} must be an integer in {low}..{high}, not {value!r}")


def check_text(section: str, name: str, value: object, empty: bool = False) -> None:
    if type(value) is not str or not (value or empty):
        raise ProgramError(section, f"{name} must be text{'' if empty else ' and not empty'}, not {value!r}")
