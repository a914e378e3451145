"""Layers and sessions that co-simulation runs: kernels, corner values, schedules, pauses, and random ones."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig, preset
from hw.layout import Schedule
from sim.cosim import Job, JobResult, Session, run_sessions
from sw.format import CompressedLayer, Requantisation, unrank_masks
from sw.program import digit_range
from sw.schedule import choose_schedule
from sw.schedule.choice import candidate_schedules, raw_passes

__all__ = ["VALUES", "random_activations", "random_job", "random_layer", "run_preset", "sessions"]

#: Ways to draw weights, codewords and activations.
VALUES = ("uniform", "normal", "corners", "lowest", "highest")
#: Ways to draw mask ranks.
MASKS = ("uniform", "ends", "first", "last")

_METHODS = {(False, False): "vq", (True, False): "mvq", (False, True): "ssvq", (True, True): "msvq"}


def _draw(rng: np.random.Generator, shape: Any, values: str) -> NDArray[np.int8]:
    if values == "uniform":
        return rng.integers(-128, 128, shape, np.int8)
    if values == "normal":
        return np.clip(np.rint(rng.normal(0, 24, shape)), -128, 127).astype(np.int8)
    if values == "corners":
        return rng.choice(np.array([-128, -127, -1, 0, 1, 127], np.int8), shape)
    return np.full(shape, {"lowest": -128, "highest": 127}[values], np.int8)


def _ranks(rng: np.random.Generator, shape: tuple[int, ...], masks: str, n: int, m: int) -> NDArray[np.int64]:
    last = comb(m, n) - 1
    if masks == "uniform":
        return rng.integers(0, last + 1, shape)
    if masks == "ends":
        return rng.choice([0, last], shape)
    return np.full(shape, {"first": 0, "last": last}[masks])


def random_layer(
    config: AcceleratorConfig,
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    name: str = "layer",
    values: str = "uniform",
    masks: str = "uniform",
    raw: str = "",
    **fields: Any,
) -> CompressedLayer:
    """A layer for an instance: random codebook, assignments, masks, signs and requantisation, or raw weights.

    Parameters
    ----------
    raw
        ``dense``: raw weights on a variant that has a codebook. ``sparse``: with no more than N of every M.
    values, masks
        One of :data:`VALUES` and one of ``uniform``, ``ends`` (first or last rank), ``first``, ``last``.
    fields
        ``kind``, ``stride``, ``padding``, ``dilation`` of the layer.
    """
    K = shape[0]
    bits = rng.integers(6, 14, K)
    requantisation = Requantisation(
        bias=rng.integers(-2000, 2000, K).astype(np.int32),
        multiplier=rng.integers(1 << 8, 1 << 9, K).astype(np.int32),
        shift=(bits + 8).astype(np.uint8),
    )
    fields = {"kind": "conv", **fields, "name": name, "shape": shape, "scale": np.ones(1, np.float32)}
    fields["requantisation"] = requantisation
    features = config.features
    if raw or not features.codebook:
        # Values of as many bits as weights have; ends stay ends.
        weights = np.maximum(_draw(rng, shape, values) >> (8 - config.weight_bits), digit_range(config)[0])
        if raw == "sparse":
            groups = -(-K // config.M)
            kept = rng.random((groups, config.M, *shape[1:])).argsort(axis=1) < config.N
            weights = weights * kept.reshape(-1, *shape[1:])[:K]
        return CompressedLayer(method="int8", weights=weights.astype(np.int8), **fields)
    d, k = config.d, config.k
    n, m = (config.N, config.M) if features.mask else (d, d)
    NG = int(np.prod(shape)) // d
    codebook = _draw(rng, (k, d), values) >> (8 - config.weight_bits)
    assignments = rng.integers(0, k, NG).astype(np.int32)
    assignments[[0, -1]] = [0, k - 1]
    if features.mask:
        fields["masks"] = unrank_masks(_ranks(rng, (NG, d // m), masks, n, m), n, m).reshape(NG, d)
    if features.sign:
        negative = {"lowest": 1.0, "highest": 0.0}.get(values, 0.5)
        fields["signs"] = rng.random((NG, d * n // m)) < negative
        codebook = np.minimum(np.abs(codebook.astype(np.int16)), digit_range(config)[1]).astype(np.int8)
    method = _METHODS[features.mask, features.sign]
    return CompressedLayer(method=method, d=d, k=k, n=n, m=m, codebook=codebook, assignments=assignments, **fields)


def random_activations(rng: np.random.Generator, shape: tuple[int, ...], values: str = "uniform") -> NDArray[np.int8]:
    """int8 activations."""
    return _draw(rng, shape, values)


def _job(
    config: AcceleratorConfig,
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
    name: str,
    schedule: Schedule | None = None,
    values: str = "uniform",
    masks: str = "uniform",
    any_schedule: bool = False,
    **fields: Any,
) -> Job:
    layer = random_layer(config, rng, shape, name, values, masks, **fields)
    activations = random_activations(rng, (shape[1], *size), values)
    if any_schedule:
        schedules = list(candidate_schedules(config, shape, raw_passes(config, layer)))
        schedule = schedules[int(rng.integers(len(schedules)))]
    return Job(layer, activations, schedule or choose_schedule(config, layer, *size))


def random_job(
    config: AcceleratorConfig, rng: np.random.Generator, name: str, positions: int = 40, groups: int = 3
) -> Job:
    """A constrained-random layer with any schedule that the instance can run.

    Parameters
    ----------
    positions
        About how many output positions.
    groups
        Channels are at most about this many times H and L; below 3, kernels are small too.
    """

    def pick(*choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    raw = ""
    if config.features.codebook:
        raw = pick("", "", "sparse", _most_weights(config))
    step = config.d if config.features.codebook and not raw else 1
    R, S = pick((1, 1), (1, 3), (2, 2), (3, 2), *([(1, 1), (3, 3), (5, 5), (1, 7)] if groups > 2 else []))
    K = step * int(rng.integers(1, groups * config.L // step + 1))
    C = int(rng.integers(1, groups * config.H + 2))
    stride = (pick(1, 1, 2, 3), pick(1, 1, 2, 3))
    dilation = (pick(1, 1, 1, 2), pick(1, 1, 1, 2))
    padding = (int(rng.integers(0, R)), int(rng.integers(0, S)))
    E = int(rng.integers(1, 9))
    F = max(1, positions // E)
    size = [
        max(1, (out - 1) * t + dil * (kernel - 1) + 1 - 2 * pad)
        for out, t, dil, kernel, pad in zip((E, F), stride, dilation, (R, S), padding, strict=True)
    ]
    values, masks = pick("uniform", "normal", "corners"), pick("uniform", "ends")
    return _job(
        config,
        rng,
        (K, C, R, S),
        (size[0], size[1]),
        name,
        values=values,
        masks=masks,
        any_schedule=True,
        raw=raw,
        stride=stride,
        padding=padding,
        dilation=dilation,
    )


def _most_weights(config: AcceleratorConfig) -> str:
    """``dense`` if the passes that dense raw weights need have room in a layer tile, else ``sparse``."""
    room = min(config.arf_depth, config.tile_weights) * (config.N if config.features.sparse else config.M)
    return "dense" if room >= config.M else "sparse"


def _kernels(config: AcceleratorConfig, rng: np.random.Generator) -> list[Job]:
    """Common layers with the best schedule each; channels are multiples of neither H nor L where d allows."""
    H, L = config.H, config.L
    odd = L + (config.d if config.features.codebook else 5)
    return [
        _job(config, rng, (odd, H + 3, 1, 1), (12, 10), "1x1"),
        _job(config, rng, (odd, H + 1, 3, 3), (9, 8), "3x3", padding=(1, 1)),
        _job(
            config, rng, (2 * L, 2 * H, 3, 3), (11, 12), "3x3-stride-2", stride=(2, 2), padding=(1, 1), values="normal"
        ),
        _job(config, rng, (odd, max(1, H - 1), 5, 5), (9, 9), "5x5-stride-2", stride=(2, 2), padding=(2, 2)),
        _job(config, rng, (L, H + 2, 1, 7), (5, 9), "1x7", padding=(0, 3)),
        _job(config, rng, (L, H, 3, 3), (8, 9), "3x3-dilated", dilation=(2, 2), padding=(2, 2)),
        _job(config, rng, (odd, 5 * H + 2, 1, 1), (1, 1), "linear", kind="linear", values="normal"),
        *_raw_kernels(config, rng, odd),
        # Every layer tile gives one vector.
        _job(config, rng, (L, 2 * H + 1, 1, 1), (1, 1), "linear-A1", Schedule(H, L), kind="linear"),
    ]


def _raw_kernels(config: AcceleratorConfig, rng: np.random.Generator, K: int) -> list[Job]:
    """Raw weights on a variant that has a codebook; what has zeros at random needs one pass in a sparse tile."""
    if not config.features.codebook:
        return []
    dense = _job(config, rng, (K + 1, config.H + 2, 3, 3), (8, 7), "raw", raw=_most_weights(config), padding=(1, 1))
    sparse = _job(config, rng, (K, 2 * config.H, 1, 1), (7, 6), "raw-one-pass", raw="sparse")
    return [dense, sparse]


def _corners(config: AcceleratorConfig, rng: np.random.Generator) -> list[Job]:
    """Extreme values and masks. ``lowest`` times ``lowest`` over more products than the psums have room for wraps."""
    H, L = config.H, config.L
    jobs = [
        _job(config, rng, (L, H + 1, 3, 3), (4, 5), f"corners-{masks}", values="corners", masks=masks, padding=(1, 1))
        for masks in MASKS
    ]
    room = (1 << (config.psum_width - 1)) // (digit_range(config)[1] * 128)
    wrapping = -(-(room + 1) // 9)
    jobs.append(_job(config, rng, (L, wrapping, 3, 3), (4, 4), "wraps", values="lowest", masks="first", padding=(1, 1)))
    if config.features.codebook:
        jobs.append(_job(config, rng, (L, H, 1, 3), (4, 5), "raw-corners", values="corners", raw=_most_weights(config)))
    for values in ("lowest", "highest"):
        jobs.append(_job(config, rng, (L, H, 1, 1), (3, 4), f"all-{values}", values=values))
    return jobs


def _schedules(config: AcceleratorConfig, rng: np.random.Generator, count: int) -> list[Job]:
    """One layer by the schedules at the limits of the WRF, ARF and PRF, and by others."""
    shape = (min(config.prf_depth, 8) * config.L, 4 * config.H, 3, 3)
    candidates = list(candidate_schedules(config, shape))
    chosen = {
        Schedule(config.H, config.L),
        max(candidates, key=lambda x: (x.A * x.B * x.D, x.D)),
        max(candidates, key=lambda x: (x.A, x.B * x.D)),
        max(candidates, key=lambda x: (x.B * x.D, x.B)),
        max(candidates, key=lambda x: (x.D, x.A)),
    }
    order = rng.permutation(len(candidates))
    chosen |= {candidates[i] for i in order[:count]}
    return [
        _job(config, rng, shape, (5, 4), f"A{x.A}-B{x.B}-D{x.Dr}x{x.Ds}", x, padding=(1, 1))
        for x in sorted(chosen, key=repr)
    ]


def sessions(config: AcceleratorConfig, seed: int = 0, thorough: bool = True) -> list[Session]:
    """The sessions that ``make sim`` runs on one instance; without ``thorough``, few and small ones for the tests.

    Layers of a session follow each other without a reset, each with a codebook of its own.
    """
    rng = np.random.default_rng([seed, *config.variant.encode(), config.H])
    streams = ["i_command", "i_activation", "i_psum", "o_psum", *(f"i_{name}" for name in config.channels)]
    if not thorough:
        jobs = [random_job(config, rng, f"random-{i}", 20) for i in range(3)]
        return [
            Session("kernels", _kernels(config, rng)[:3]),
            Session("corners", _corners(config, rng)[2:5]),
            Session("random", jobs),
            Session("paused", jobs, dict.fromkeys(streams, 0.5)),
        ]
    H, L = config.H, config.L
    result = [
        Session("kernels", _kernels(config, rng)),
        Session("corners", _corners(config, rng)),
        Session("schedules", _schedules(config, rng, 6)),
        Session("large", [_job(config, rng, (6 * L, H + 4, 1, 1), (50, 50), "large", values="normal")]),
        Session("random", [random_job(config, rng, f"random-{i}") for i in range(12)]),
    ]
    for density in (0.1, 0.5, 0.9):
        jobs = [random_job(config, rng, f"random-{i}") for i in range(4)]
        name = f"paused-{round(100 * density)}"
        result.append(Session(name, jobs, dict.fromkeys(streams, density), seed))
    for stream in streams:
        jobs = [random_job(config, rng, f"random-{i}", 20) for i in range(2)]
        result.append(Session(f"paused-{stream}", jobs, {stream: 0.25}, seed))
    jobs = [random_job(config, rng, f"random-{i}") for i in range(8)]
    densities = dict(zip(streams, rng.choice([0.2, 0.5, 0.8, 1.0], len(streams)).tolist(), strict=True))
    result.append(Session("paused-mixed", jobs, densities, seed))
    return result


def run_preset(name: str, seed: int = 0, thorough: bool = True) -> list[JobResult]:
    """Run the sessions of :func:`sessions` on a preset."""
    config = preset(name)
    return run_sessions(config, sessions(config, seed, thorough), name, "core" if thorough else "short")
