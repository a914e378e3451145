"""The integer golden model: what the hardware must produce, bit for bit."""

from sw.golden.layer import GoldenError, layer_sums, output_size, requantise
from sw.golden.psum import PsumOverflowError, check_psum_width, psum_bounds
from sw.golden.schedule import TilePsums, advance, run_schedule, tile_activations, tile_psums

__all__ = [
    "GoldenError",
    "PsumOverflowError",
    "TilePsums",
    "advance",
    "check_psum_width",
    "layer_sums",
    "output_size",
    "psum_bounds",
    "requantise",
    "run_schedule",
    "tile_activations",
    "tile_psums",
]
