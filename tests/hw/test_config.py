from __future__ import annotations

import dataclasses
import inspect
import json
import re
from math import ceil, comb, log2
from typing import Any

import pytest

from hw.config import MASK_DECODERS, PRESETS, VARIANTS, AcceleratorConfig, ConfigError, preset

FIELDS = [field.name for field in dataclasses.fields(AcceleratorConfig)]


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    config = preset(name)
    variant, _, size = name.rpartition("-")
    assert (config.variant, config.weight_bits) == (
        variant.removesuffix("4").removesuffix("-full"),
        4 if "4-" in name else 8,
    )
    assert config.full_vector_unit == ("-full-" in name)
    assert (
        {"tiny": (4, 8), "fpga": (8, 8), "500mhz": (64, 64), "800mhz": (64, 64)}.get(size) or (int(size), int(size))
    ) == (
        config.H,
        config.L,
    )
    assert AcceleratorConfig.from_dict(config.to_dict()) == config
    assert AcceleratorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert list(config.to_dict()) == FIELDS
    assignments = [f"{field}={json.dumps(value)}" for field, value in config.to_dict().items()]
    assert AcceleratorConfig().override(assignments) == config
    assert config.override([]) == config


def test_presets_are_all_variants_at_all_sizes() -> None:
    names = (*VARIANTS, "ews4", "ews-msvq4", "ews-msvq-full")
    others = {"ews-msvq-fpga", "ews-cms-500mhz", "ews-msvq-500mhz", "ews-msvq4-500mhz", "ews-msvq4-800mhz"}
    assert set(PRESETS) == {f"{name}-{size}" for name in names for size in (16, 32, 64, "tiny")} | others


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_implies(name: str) -> None:
    config = preset(name)
    features = config.features
    assert config.tiles * config.d == config.L
    kept = config.d * config.N // config.M if features.mask else config.d
    assert kept == config.Q
    assert config.multipliers == (kept if features.sparse else config.d)
    index = ceil(log2(config.k)) if features.codebook else 0
    mask = ceil(log2(comb(config.M, config.N))) if features.mask else 0
    assert (config.index_bits, config.mask_bits) == (index, mask)
    assert config.position_bits == (ceil(log2(config.M)) if features.sparse else 0)
    bits = config.weight_bits
    assert (config.element_bits, config.product_width) == ((bits - 1, bits + 7) if features.sign else (bits, bits + 8))
    if not features.codebook:
        assert config.streams == {"weight": bits * config.L}
    else:
        streams = {"index": index, "mask": mask * config.mask_groups, "sign": kept if features.sign else 0}
        assert config.streams == {key: bits * config.tiles for key, bits in streams.items() if bits}


def test_bits_of_the_papers_codes() -> None:
    config = preset("ews-cms-64")
    assert (config.index_bits, config.mask_bits, config.position_bits, config.Q, config.tiles) == (9, 11, 4, 4, 4)
    assert preset("ews-msvq-16").streams == {"index": 5, "mask": 11, "sign": 4}
    assert preset("ews-ssvq-16").streams == {"index": 8, "sign": 16}
    assert preset("ews-msvq-16").channels == ("weight", "mask", "sign")
    assert preset("ews-msvq-16").raw_streams == {"weight": 32, "mask": 11}
    assert preset("ews-cm-16").raw_streams == {"weight": 128}
    assert preset("ews-msvq4-16").streams == {"index": 5, "mask": 10, "sign": 4}
    assert preset("ews-msvq4-16").raw_streams == {"weight": 16, "mask": 10}
    assert preset("ws-16").channels == ("weight",)
    assert (preset("ws-16").tile_weights, preset("ews-16").tile_weights) == (1, 16)


@pytest.mark.parametrize(
    ("H", "every", "product", "registers", "latency"),
    [(16, 3, True, 1, 4), (16, 0, True, 0, 3), (16, 1, False, 4, 6), (64, 3, True, 2, 5), (1, 1, False, 0, 2)],
)
def test_latency(H: int, every: int, product: bool, registers: int, latency: int) -> None:
    config = AcceleratorConfig(H=H, tree_register_levels=every, product_register=product)
    assert (config.tree_registers, config.latency) == (registers, latency)
    assert (config.drain_latency, config.psum_entries) == (latency, config.prf_depth)
    held = dataclasses.replace(config, psum_register=True)
    assert (held.latency, held.drain_latency, held.psum_entries) == (latency, latency + 1, config.prf_depth + 1)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"variant": "ews-x"}, f"variant must be one of {', '.join(VARIANTS)}, not 'ews-x'"),
    ({"mask_decoder": "rom"}, f"mask_decoder must be one of {', '.join(MASK_DECODERS)}, not 'rom'"),
    ({"vector_unit_functions": "all"}, "vector_unit_functions must be one of basic, full, not 'all'"),
    ({"N": 0}, "N must be in 1..M = 1..16, not 0"),
    ({"N": 17}, "N must be in 1..M = 1..16, not 17"),
    ({"wrf_depth": 12}, "wrf_depth must be a power of two, not 12"),
    ({"arf_depth": 3}, "arf_depth must be a power of two, not 3"),
    ({"prf_depth": 255}, "prf_depth must be a power of two, not 255"),
    ({"word_width": 12}, "word_width must be a multiple of 8, not 12"),
    ({"L": 24}, "L must be a multiple of d = 16, not 24"),
    ({"d": 8}, "d must be a multiple of M = 16, not 8"),
    (
        {"mask_decoder": "table", "N": 16, "M": 32, "d": 32, "L": 32},
        "mask_decoder must be arithmetic where there are more than 32768 masks, not 'table' for the 601080390 of 16:32",
    ),
    ({"variant": 3}, "variant must be str, not int 3"),
    ({"H": "16"}, "H must be int, not str '16'"),
    ({"H": 16.0}, "H must be int, not float 16.0"),
    ({"H": True}, "H must be int, not bool True"),
    ({"k": None}, "k must be int, not NoneType None"),
    *(
        ({name: 1}, f"{name} must be bool, not int 1")
        for name in ("product_register", "psum_register", "scaler_register", "transfer_register")
    ),
]


def documented_ranges() -> dict[str, tuple[int, int]]:
    """``low..high`` of the fields whose part of the docstring has it: what the reference says."""
    part = (inspect.getdoc(AcceleratorConfig) or "").partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    ranges = {}
    for names, text in re.findall(r"^(\w[\w, ]*)\n((?:    .*\n?)+)", part, re.MULTILINE):
        if found := re.search(r"(\d+)\.\.(?:2\*\*)?(\d+)", text):
            high = int(found[2])
            ranges |= dict.fromkeys(names.split(", "), (int(found[1]), 1 << high if "**" in found[0] else high))
    return ranges


RANGES = documented_ranges() | {"M": (1, 32)}
for _name, (_low, _high) in RANGES.items():
    for _value in (_low - 1, _high + 1):
        WRONG.append(({_name: _value}, f"{_name} must be in {_low}..{_high}, not {_value}"))


def test_ranges_are_documented() -> None:
    assert set(RANGES) >= {
        *("H", "L", "d", "k", "M", "weight_bits", "wrf_depth", "arf_depth", "prf_depth", "psum_width", "word_width"),
        *("loop_bits", "decoder_registers", "tree_register_levels", "address_bits", "l1_ifmap_bytes", "l1_psum_bytes"),
        "burst_words",
    }


@pytest.mark.parametrize(("fields", "message"), [pytest.param(*case, id=str(case[0])) for case in WRONG])
def test_config_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        AcceleratorConfig(**fields)


def test_masks_do_not_matter_without_masks() -> None:
    assert AcceleratorConfig(variant="ews-c", d=8).Q == 8


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        pytest.param(["H"], "expected field=value, not 'H'", id="no value"),
        pytest.param(["h=4"], "unknown field 'h'; the fields are variant, H, L,", id="unknown"),
        pytest.param(["H=2", "L=2", "H=4"], "H is given twice, as '2' and '4'; give it once", id="twice"),
        pytest.param(["H="], "H must be int, not str ''", id="empty"),
        pytest.param(["H=four"], "H must be int, not str 'four'", id="text"),
        pytest.param(["H=[4]"], r"H must be int, not list \[4\]", id="list"),
        pytest.param(["variant=ws=2"], "variant must be one of .*, not 'ws=2'", id="second sign"),
        pytest.param(["H=" + 5000 * "9"], r"^H must be int, not str '9{56}\.\.\.$", id="digits"),
        pytest.param(["H=" + 90000 * "["], r"^H must be int, not str '\[{56}\.\.\.$", id="nested"),
        pytest.param(["variant=" + 99 * "x"], r"not 'x{56}\.\.\.$", id="long"),
        pytest.param([3], r"^expected field=value, not 3$", id="no text"),
        pytest.param(["product_register=yes"], "product_register must be bool, not str 'yes'", id="bool"),
    ],
)
def test_override_refuses(assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AcceleratorConfig().override(assignments)


def test_override_sees_all_assignments_at_once() -> None:
    config = AcceleratorConfig().override(["d=8", "M=8", "variant=ews-cm", "product_register=false"])
    assert (config.d, config.M, config.variant, config.product_register) == (8, 8, "ews-cm", False)


def test_from_dict_and_preset_refuse() -> None:
    with pytest.raises(ConfigError, match="unknown field 'h'; the fields are variant, H, L,"):
        AcceleratorConfig.from_dict({"h": 4})
    with pytest.raises(ConfigError, match="unknown preset 'ews-8'; the presets are ws-16, ws-32,"):
        preset("ews-8")


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("variant", VARIANTS)
def test_products_fit_as_digits_do(variant: str, bits: int) -> None:
    """A product has no bit too few, and none too many; digits reach all multiples of what the next ones leave."""
    config = AcceleratorConfig(variant, weight_bits=bits)
    least = -(1 << (bits - 1)) + config.features.sign
    half = 1 << (config.product_width - 1)
    products = [least * -128, ((1 << (bits - 1)) - 1) * -128]
    assert max(products) < half <= 2 * max(products)
    assert min(products) >= -half
    digits = (1 << (bits - 1)) - 1 - least + 1
    assert digits >= 1 << config.digit_bits


@pytest.mark.parametrize("variant", VARIANTS)
def test_pipeline_of_the_large_presets_costs_the_array_no_cycle(variant: str) -> None:
    config = preset(f"{variant}-64")
    plain = AcceleratorConfig(variant, H=64, L=64)
    assert config.tree_register_levels != plain.tree_register_levels
    assert config.latency == plain.latency
