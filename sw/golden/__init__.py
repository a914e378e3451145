"""The integer golden model: what the hardware must produce, bit for bit."""

from sw.golden.layer import GoldenError, layer_sums, output_size, requantise
from sw.golden.psum import PsumOverflowError, check_psum_width, psum_bounds

__all__ = [
    "GoldenError",
    "PsumOverflowError",
    "check_psum_width",
    "layer_sums",
    "output_size",
    "psum_bounds",
    "requantise",
]
