"""Instances for the memories and movers."""

from __future__ import annotations

import pytest

from hw.config import AcceleratorConfig, preset

# Widths that differ from each other in every direction: H and L, words of L2 and of DRAM, vectors of one to four words.
SHAPES = [
    {},
    {"H": 8, "L": 4, "word_width": 64},
    {"H": 6, "L": 4, "word_width": 8, "psum_width": 17},
    {"H": 1, "L": 1, "d": 1, "word_width": 32, "l1_psum_bytes": 1024},
    {"H": 16, "L": 16, "word_width": 512, "l2_word_bytes": 4, "l2_bytes": 5000},
    {"H": 8, "L": 6, "psum_width": 19, "weight_bits": 3, "transfer_register": True},
    {"variant": "ews-msvq", "H": 8, "L": 4, "N": 2, "M": 4, "word_width": 64, "weight_bits": 4},
    {"H": 16, "L": 48, "word_width": 32, "arf_depth": 16, "wrf_depth": 32, "l1_ifmap_bytes": 4000},
]


def config_of(shape: dict) -> AcceleratorConfig:
    if not shape:
        return preset("ews-cms-tiny")
    small = {"l2_bytes": 1 << 13, "l1_ifmap_bytes": 1 << 11, "l1_psum_bytes": 1 << 13}
    return AcceleratorConfig(**{"variant": "ews", "d": shape["L"], **small, **shape})


@pytest.fixture(params=SHAPES, ids=lambda shape: "-".join(f"{k}{v}" for k, v in shape.items()) or "tiny")
def config(request) -> AcceleratorConfig:
    return config_of(request.param)
