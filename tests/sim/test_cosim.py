"""Co-simulation of the tiny presets, and that it sees what is broken."""

from __future__ import annotations

import numpy as np
import pytest

import hw.decoder.mask_decoder
import sim.cosim
from hw.config import VARIANTS, preset
from hw.layout import Schedule, mask_unrank
from sim.cosim import Session, build_model, run_layers, simulate
from sim.runner import SimulationError
from sim.scenarios import random_activations, random_job, random_layer, run_preset, sessions
from sim.transfers import layer_program

#: One of each kind of tile in every run; all others with ``--full``, and, more of each, in ``make sim``.
SAMPLED = [x if x in ("ws", "ews-msvq") else pytest.param(x, marks=pytest.mark.whole) for x in VARIANTS]


@pytest.mark.parametrize("variant", SAMPLED)
def test_tiny_preset_is_bit_exact(variant: str) -> None:
    results = run_preset(f"{variant}-tiny", thorough=False)
    for result in results:
        assert result.passed, f"{result.session}: {result.message or result}"
    assert {result.session for result in results} == {"kernels", "corners", "random", "paused"}
    assert sum(result.psums for result in results) > 5000
    assert all(result.cycles == result.predicted for result in results if not result.paused)
    assert sum(result.cycles - result.predicted for result in results if result.paused) > 0
    assert all(0 < result.utilisation <= 1 for result in results)


def test_layer_tiles_of_one_vector_leave_the_core_idle_in_between() -> None:
    config = preset("ews-msvq-tiny")
    rng = np.random.default_rng(0)
    layer = random_layer(config, rng, (8, 12, 1, 1), "fc", kind="linear")
    (result,) = run_layers(config, [(layer, random_activations(rng, (12,)), Schedule(4, 8))], "ews-msvq-tiny", "fc")
    assert result.passed
    assert result.psums == 3 * 8


@pytest.mark.parametrize("variant", VARIANTS)
def test_thorough_sessions_have_layer_tiles_of_one_vector(variant: str) -> None:
    config = preset(f"{variant}-tiny")
    (job,) = (job for session in sessions(config) for job in session.jobs if job.layer.name == "linear-A1")
    program = layer_program(config, job.layer, job.activations, job.schedule)
    assert program.vectors == [1, 1, 1]


@pytest.mark.parametrize("end", [".v", ".json", ".bench.v"])
@pytest.mark.parametrize(
    "damage", ["empty", *(pytest.param(x, marks=pytest.mark.whole) for x in ("changed", "missing"))]
)
def test_damaged_designs_are_generated_again(end: str, damage: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sim.cosim, "BUILD", tmp_path)
    monkeypatch.setattr(sim.cosim.VerilatorRunner, "build_model", lambda runner: tmp_path)
    config = preset("ews-tiny")
    _, manifest = build_model(config, "damaged")
    path = tmp_path / "designs" / f"damaged{end}"
    good = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(b"" if damage == "empty" else good + b" ")
    assert build_model(config, "damaged")[1] == manifest
    assert path.read_bytes() == good
    unchanged = path.stat().st_mtime_ns
    build_model(config, "damaged")
    assert path.stat().st_mtime_ns == unchanged


def test_progress_reaches_the_end() -> None:
    config = preset("ews-msvq-tiny")
    rng = np.random.default_rng(0)
    layer = random_layer(config, rng, (8, 4, 1, 1))
    seen: list[float] = []
    job = (layer, random_activations(rng, (4, 120, 120)), Schedule(4, 8))
    (result,) = run_layers(config, [job], "ews-msvq-tiny", "progress", seen.append)
    assert result.passed
    assert result.sums == 8 * 14400
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] == 1


#: A stream, and whether the bit is of its last word: ``i_weight`` begins with codewords and ends with assignments.
FLIPS = (("i_weight", False), ("i_weight", True), ("i_mask", False), ("i_sign", False), ("i_activation", False))


def test_one_wrong_bit_in_any_stream_is_seen() -> None:
    config = preset("ews-msvq-tiny")
    job = random_job(config, np.random.default_rng(1), "flipped")
    runner, manifest = build_model(config, "ews-msvq-tiny")
    sessions = [Session(f"{stream}-{last}", [job]) for stream, last in FLIPS]
    programs = [[layer_program(config, job.layer, job.activations, job.schedule)] for _ in FLIPS]
    for (stream, last), (program,) in zip(FLIPS, programs, strict=True):
        # In the first codeword: of an element that the first subvector, whose assignment is 0, keeps.
        first = stream == "i_weight" and not last
        word, bit = divmod(7 * int(np.flatnonzero(job.layer.masks[0])[0]) if first else 0, config.word_width)
        program.streams[stream][-1 if last else word] ^= 1 << bit
    results = simulate(config, sessions, programs, runner, manifest, "flipped")
    for result in results:
        assert result.mismatches, result.session
        assert not result.passed
        assert "layer 'flipped': " in result.message


def test_wrong_order_of_masks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A design whose mask table counts from the other end."""
    config = preset("ews-cms-tiny").override(["mask_decoder=table"])

    def reversed_order(rank: int, n: int, m: int) -> list[bool]:
        return mask_unrank(rank, n, m)[::-1]

    monkeypatch.setattr(hw.decoder.mask_decoder, "mask_unrank", reversed_order)
    job = random_job(config, np.random.default_rng(2), "reversed")
    (result,) = run_layers(config, [job], "mutant-mask-order")
    assert result.mismatches > 0.5 * result.sums


def test_missing_transfer_ends_the_simulation() -> None:
    config = preset("ews-msvq-tiny")
    job = random_job(config, np.random.default_rng(3), "short")
    program = layer_program(config, job.layer, job.activations, job.schedule)
    del program.streams["i_activation"][-1]
    runner, manifest = build_model(config, "ews-msvq-tiny")
    with pytest.raises(SimulationError, match=r"nothing moved for \d+ cycles"):
        simulate(config, [Session("short", [job])], [[program]], runner, manifest, "short-of-one")


def test_superfluous_transfer_is_seen() -> None:
    config = preset("ews-msvq-tiny")
    job = random_job(config, np.random.default_rng(4), "long")
    program = layer_program(config, job.layer, job.activations, job.schedule)
    program.streams["i_weight"].append(0)
    runner, manifest = build_model(config, "ews-msvq-tiny")
    with pytest.raises(SimulationError, match="1 transfers were never taken from i_weight"):
        simulate(config, [Session("long", [job])], [[program]], runner, manifest, "one-too-many")
