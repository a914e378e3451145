from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sw.format.example import random_layer
from sw.format.layer import CompressedLayer, LayerError, Requantisation


def test_decoding_by_hand() -> None:
    layer = CompressedLayer(
        name="a",
        kind="conv",
        shape=(8, 1, 1, 2),
        method="msvq",
        scale=np.array([0.5], np.float32),
        d=4,
        k=2,
        n=2,
        m=4,
        codebook=np.array([[1, 2, 3, 4], [10, 20, 30, 127]], np.int8),
        assignments=np.array([0, 1, 1, 0], np.int32),
        masks=np.array([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 0, 1]], np.bool_),
        signs=np.array([[0, 1], [1, 1], [0, 0], [1, 0]], np.bool_),
    )
    decoded = [[1, -2, 0, 0], [0, -20, 0, -127], [0, 0, 30, 127], [-1, 0, 0, 4]]
    assert layer.subvectors().tolist() == decoded
    weights = layer.integer_weights()
    # Subvector j of channels 0..3 or 4..7 at kernel column s is number 2*(block) + s.
    assert weights[:4, 0, 0, 0].tolist() == decoded[0]
    assert weights[:4, 0, 0, 1].tolist() == decoded[1]
    assert weights[4:, 0, 0, 0].tolist() == decoded[2]
    assert layer.float_weights()[7, 0, 0].tolist() == [63.5, 2.0]
    assert (layer.subvector_count, layer.Q) == (4, 2)


def test_scales_of_channels() -> None:
    weights = np.array([[1, 2], [3, 4]], np.int8)[:, :, None, None]
    layer = CompressedLayer("a", "linear", (2, 2, 1, 1), "int8", np.array([1, 0.5], np.float32), weights=weights)
    assert layer.float_weights().reshape(2, 2).tolist() == [[1, 2], [1.5, 2]]
    assert layer.subvector_count == 0
    with pytest.raises(LayerError, match="layer 'a': method int8 has no subvectors"):
        layer.subvectors()


def test_signs_of_all_weights() -> None:
    layer = random_layer(np.random.default_rng(0), "ssvq", (8, 3, 1, 1), d=4, k=8)
    assert layer.codebook is not None
    assert layer.signs is not None
    signed = layer.codebook[layer.assignments].astype(int) * np.where(layer.signs, -1, 1)
    assert np.array_equal(layer.subvectors(), signed)


def requantisation(**change: Any) -> Requantisation:
    parts = {"bias": np.zeros(8, np.int32), "multiplier": np.zeros(8, np.int32), "shift": np.zeros(8, np.uint8)}
    return Requantisation(**(parts | change))


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        pytest.param("mvq", {"name": ""}, "layer '': name must be text, and not empty", id="name"),
        pytest.param("mvq", {"kind": "pool"}, "layer 'random': kind must be conv or linear, not 'pool'", id="kind"),
        pytest.param("mvq", {"method": "zip"}, "method must be one of int8, .*, not 'zip'", id="method"),
        pytest.param("mvq", {"shape": (8, 3, 1)}, r"shape must be four positive integers", id="shape"),
        pytest.param("mvq", {"shape": 8}, r"shape must be four positive integers .*, not 8", id="shape number"),
        pytest.param("mvq", {"shape": (8, 0, 1, 1)}, r"shape must be four positive integers", id="shape zero"),
        pytest.param("mvq", {"stride": (0, 1)}, "stride must be two integers of at least 1", id="stride"),
        pytest.param("mvq", {"stride": 2}, "stride must be two integers of at least 1, not 2", id="stride number"),
        pytest.param("mvq", {"padding": (0, -1)}, "padding must be two integers of at least 0", id="padding"),
        pytest.param("mvq", {"dilation": (1.0, 1)}, "dilation must be two integers of at least 1", id="dilation"),
        pytest.param("mvq", {"groups": 3}, "groups must be at least 1 and divide K = 8, not 3", id="groups"),
        pytest.param("int8", {"d": 4}, "d, k, n, m must be 0 for method int8, not 4, 0, 0, 0", id="int8 with d"),
        pytest.param("mvq", {"d": None}, "d must be an integer, not None", id="no d"),
        pytest.param("mvq", {"d": 3}, "d must be at least 1 and divide K = 8, not 3", id="d"),
        pytest.param("mvq", {"k": 0}, r"k must be in 1\.\.65536, not 0", id="k"),
        pytest.param("mvq", {"m": 3}, "m must be at least 1 and divide d = 4, not 3", id="m"),
        pytest.param("mvq", {"n": 5}, r"n must be in 1\.\.4, not 5", id="n"),
        pytest.param("vq", {"n": 2}, r"n must be in 1\.\.4 and equal to m = 4, not 2", id="n without masks"),
        pytest.param("mvq", {"scale": np.ones(8, np.float32)}, r"scale must have shape \[1\], not \[8\]", id="scales"),
        pytest.param("mvq", {"scale": np.ones(1)}, "scale must be float32, not float64", id="scale dtype"),
        pytest.param("mvq", {"scale": np.zeros(1, np.float32)}, "scale must be finite and positive", id="scale zero"),
        pytest.param("mvq", {"scale": np.full(1, np.nan, np.float32)}, "scale must be finite and positive", id="NaN"),
        pytest.param("mvq", {"weights": np.zeros((8, 3, 1, 1), np.int8)}, "weights must be None", id="weights"),
        pytest.param(
            "int8", {"weights": None}, "weights must be an array for method int8, not NoneType", id="no weights"
        ),
        pytest.param("mvq", {"codebook": [[0]]}, "codebook must be an array for method mvq, not list", id="codebook"),
        pytest.param(
            "mvq",
            {"codebook": np.zeros((4, 4), np.int8)},
            r"codebook must have shape \[8, 4\], not \[4, 4\]",
            id="k rows",
        ),
        pytest.param("mvq", {"weight_bits": 4}, "weight_bits must be 8 for method mvq, not 4", id="bits of mvq"),
        pytest.param("int8", {"weight_bits": 1}, r"weight_bits must be an integer in 2\.\.8, not 1", id="bits"),
        pytest.param("int8", {"weight_bits": 9}, r"weight_bits must be an integer in 2\.\.8, not 9", id="more bits"),
        pytest.param("int8", {"weight_bits": 4}, r"weights of 4 bits must be in -8\.\.7, not -128", id="wide"),
        pytest.param("mvq", {"codeword_bits": 1}, r"codeword_bits must be an integer in 2\.\.8, not 1", id="1 bit"),
        pytest.param("mvq", {"codeword_bits": 9}, r"codeword_bits must be an integer in 2\.\.8, not 9", id="9 bits"),
        pytest.param("vq", {"codeword_bits": 4.0}, r"codeword_bits must be an integer in 2\.\.8, not 4\.0", id="4.0"),
        pytest.param("int8", {"codeword_bits": 4}, "codeword_bits must be 8 for method int8, not 4", id="no codewords"),
        pytest.param(
            "mvq", {"codeword_bits": 4}, r"codebook must hold integers -8\.\.7, not -128", id="wide codewords"
        ),
        pytest.param("ssvq", {"codeword_bits": 4}, r"codebook must hold magnitudes 0\.\.7, not 127", id="magnitudes"),
        pytest.param("int8", {"codebook_name": "x"}, "codebook_name must be None for method int8, not 'x'", id="own"),
        pytest.param("mvq", {"codebook_name": ""}, "codebook_name must be text and not empty, or None", id="name ''"),
        pytest.param("mvq", {"masks": None}, "masks must be an array for method mvq", id="no masks"),
        pytest.param("vq", {"masks": np.ones((6, 4), np.bool_)}, "masks must be None for method vq", id="masks"),
        pytest.param(
            "mvq", {"masks": np.ones((6, 4), np.bool_)}, "masks must keep 2 of every 4, not 4", id="masks of all"
        ),
        pytest.param("msvq", {"signs": np.ones((6, 4), np.bool_)}, r"signs must have shape \[6, 2\]", id="signs"),
        pytest.param(
            "ssvq",
            {"codebook": np.full((8, 4), -1, np.int8)},
            r"codebook must hold magnitudes 0\.\.127, not -1",
            id="sign",
        ),
        pytest.param(
            "mvq", {"assignments": np.full(6, 8, np.int32)}, r"assignments must be in 0\.\.7, not 8", id="assignment"
        ),
        pytest.param(
            "mvq", {"assignments": np.full(6, -1, np.int32)}, r"assignments must be in 0\.\.7, not -1", id="negative"
        ),
        pytest.param(
            "mvq",
            {"requantisation": requantisation(bias=np.zeros(4, np.int32))},
            r"requantisation\.bias must be int32 \[8\]",
            id="bias",
        ),
        pytest.param(
            "mvq",
            {"requantisation": requantisation(shift=np.full(8, 63, np.uint8))},
            r"requantisation\.shift must be in 0\.\.62, not 63",
            id="shift",
        ),
    ],
)
def test_layer_refuses(method: str, change: dict[str, Any], message: str) -> None:
    coding = {"d": 4, "k": 8} if method != "int8" else {}
    coding |= {"n": 2, "m": 4} if method in ("mvq", "msvq") else {}
    layer = random_layer(np.random.default_rng(0), method, (8, 3, 1, 1), **coding)
    with pytest.raises(LayerError, match=message):
        replace(layer, **change)


def test_a_linear_layer_has_no_kernel() -> None:
    with pytest.raises(LayerError, match="shape must end in R = S = 1 for a linear layer"):
        random_layer(np.random.default_rng(0), "int8", (8, 3, 3, 1), kind="linear")
