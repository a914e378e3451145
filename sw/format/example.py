"""Random layers for tests and co-simulation, with every corner value in them."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np

from sw.format.layer import SIGN_SPLIT, CompressedLayer, Requantisation, codeword_range
from sw.format.packing import unrank_masks

__all__ = ["random_layer"]


def random_layer(
    rng: np.random.Generator,
    method: str,
    shape: tuple[int, int, int, int],
    *,
    d: int = 0,
    k: int = 0,
    n: int = 0,
    m: int = 0,
    weight_bits: int = 8,
    codeword_bits: int = 8,
    requantised: bool = False,
    name: str = "random",
    **geometry: Any,
) -> CompressedLayer:
    """A layer of uniformly random integers.

    Among them, as far as the layer is large enough: the least, the greatest and the zero weight, the first and the last
    codeword, and the masks first and last in rank order.

    Parameters
    ----------
    rng
        Source of all randomness.
    method, shape, d, k, n, m, weight_bits, codeword_bits, name
        As in :class:`~sw.format.layer.CompressedLayer`; ``n`` and ``m`` default to d where the method has no masks, and
        all four are left out for ``int8``.
    requantised
        Give the layer a random requantisation.
    geometry
        ``kind``, ``stride``, ``padding``, ``dilation``, ``groups``.
    """
    K, C, R, S = shape
    parts: dict[str, Any] = {"scale": np.array([2.0**-7], np.float32)}
    if method == "int8":
        half = 1 << (weight_bits - 1)
        weights = rng.integers(-half, half, shape).astype(np.int8)
        weights.reshape(-1)[:3] = [-half, half - 1, 0][: weights.size]
        parts |= {"weights": weights, "weight_bits": weight_bits}
    else:
        n, m = n or d, m or d
        NG = K // d * C * R * S
        low, high = codeword_range(codeword_bits, method in SIGN_SPLIT)
        codebook = rng.integers(low, high + 1, (k, d)).astype(np.int8)
        codebook.reshape(-1)[:3] = [low, high, 0][: codebook.size]
        assignments = rng.integers(0, k, NG).astype(np.int32)
        assignments[:2] = [0, k - 1][:NG]
        parts |= {"d": d, "k": k, "n": n, "m": m, "codebook": codebook, "assignments": assignments}
        parts["codeword_bits"] = codeword_bits
        if method in ("mvq", "msvq"):
            ranks = rng.integers(0, comb(m, n), NG * (d // m))
            ranks[:2] = [0, comb(m, n) - 1][: len(ranks)]
            parts["masks"] = unrank_masks(ranks, n, m).reshape(NG, d)
        if method in SIGN_SPLIT:
            parts["signs"] = rng.random((NG, d * n // m)) < 0.5
    if requantised:
        parts["requantisation"] = Requantisation(
            bias=rng.integers(-(1 << 16), 1 << 16, K).astype(np.int32),
            multiplier=rng.integers(1 << 30, 1 << 31, K).astype(np.int32),
            shift=rng.integers(38, 46, K).astype(np.uint8),
        )
    return CompressedLayer(name=name, shape=shape, method=method, **({"kind": "conv"} | parts | geometry))
