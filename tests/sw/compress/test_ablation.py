from __future__ import annotations

import numpy as np
import pytest

from sw.compress.ablation import CASES, ablation, larger_convolutions
from sw.compress.methods import CompressError, LayerSource, kept_weights
from sw.compress.sources import model_sources


def source(name: str, K: int, C: int, R: int = 1, kind: str = "conv", groups: int = 1) -> LayerSource:
    weight = np.random.default_rng(0).standard_normal((K, C, R, R)).astype(np.float32)
    return LayerSource(name, kind, weight, groups=groups)


def test_larger_convolutions_are_those_with_four_subvectors_a_codeword() -> None:
    sources = [
        source("small", 128, 255),
        source("enough", 128, 256),
        source("linear", 128, 256, kind="linear"),
        source("odd", 129, 512),
        source("depthwise", 4096, 1, 3, groups=4096),
        source("spatial", 64, 64, 3),
    ]
    assert [found.name for found in larger_convolutions(sources)] == ["enough", "spatial"]
    with pytest.raises(CompressError, match="a convolution of at least 32768 weights that MVQ can compress"):
        larger_convolutions(sources[:1])


def test_efficientnet_lite0_has_21_larger_convolutions() -> None:
    assert len(larger_convolutions(model_sources("efficientnet-lite0"))) == 21


def test_rows_on_random_weights() -> None:
    given = source("x", 128, 256)
    rows = {row.case.name: row for row in ablation([given], iterations=5, progress=False)}
    assert list(rows) == [case.name for case in CASES]
    kept = kept_weights(given.weight, 4, 16)
    assert kept is not None
    pruning = float((given.weight[~kept].astype(np.float64) ** 2).sum())
    energy = float((given.weight.astype(np.float64) ** 2).sum())
    for name in ("C", "D", "D-paper", "MSVQ", "MSVQ-128"):  # sparse recon: all of the error is on the kept weights
        assert rows[name].sse == pytest.approx(rows[name].kept_sse)
        assert rows[name].relative_error == pytest.approx((pruning + rows[name].kept_sse) / energy)
    assert rows["A"].relative_error == pytest.approx(rows["A"].sse / energy)
    assert rows["B"].kept_sse < rows["B"].sse
    equal_codes = {row.to_dict()["code_bits_per_weight"] for name, row in rows.items() if name != "MSVQ-128"}
    assert equal_codes == {1.25}
    assert rows["MSVQ-128"].bits.total < rows["D"].bits.total
    assert rows["D"].kept_sse < min(rows[name].kept_sse for name in "ABC")


def test_masked_clustering_wins_on_a_real_layer() -> None:
    layers = [found for found in model_sources("efficientnet-lite0") if found.name == "_blocks.11._project_conv"]
    kept = {row.case.name: row.kept_sse for row in ablation(layers, iterations=8, progress=False)}
    assert kept["C"] > 10 * kept["D"]
    assert kept["B"] > 2.5 * kept["D"]
    assert kept["A"] > 3.5 * kept["D"]
