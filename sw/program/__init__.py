"""A program of the accelerator: its image in DRAM, what the host writes and reads, and its file."""

from sw.program.checks import MAX_DRAM_BYTES, ProgramError
from sw.program.digits import bits_of, digit_advice, digit_count, digit_range, split_digits
from sw.program.file import MAGIC, VERSION, program_bytes, program_from_bytes, read_program, write_program
from sw.program.image import COUNTED, Program, ProgramLayer
from sw.program.operands import OPERAND_TILE, Operand
from sw.program.tensors import Fold, Input, Tensor

__all__ = [
    "COUNTED",
    "MAGIC",
    "MAX_DRAM_BYTES",
    "OPERAND_TILE",
    "VERSION",
    "Fold",
    "Input",
    "Operand",
    "Program",
    "ProgramError",
    "ProgramLayer",
    "Tensor",
    "bits_of",
    "digit_advice",
    "digit_count",
    "digit_range",
    "program_bytes",
    "program_from_bytes",
    "read_program",
    "split_digits",
    "write_program",
]
