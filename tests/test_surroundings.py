"""What a process is set to changes no result of the library, and is left as it was."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import msvq
from msvq.surroundings import undisturbed
from sw.compress.methods import CompressError
from sw.compress.training.finetune import Finetuned


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 5),
    )  # fmt: skip


IMAGES = torch.randn(8, 1, 5, 7, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(8) % 5


def calibrated(images: Any = IMAGES) -> Finetuned:
    return msvq.calibrate(network().train(), images, progress=False)


def finetuned(images: torch.Tensor = IMAGES) -> Finetuned:
    batches = [(images, LABELS)]
    return msvq.finetune(network().train(), batches, batches, config=msvq.TrainConfig(1), progress=False)


def file_of(done: Finetuned, folder: Path) -> bytes:
    done.write(folder / "net.msvq")
    return (folder / "net.msvq").read_bytes()


@contextmanager
def float64() -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, bytes]:
    """Files of :func:`finetuned` and, by False, of :func:`calibrated`."""
    folder = tmp_path_factory.mktemp("expected")
    return {False: file_of(calibrated(), folder), True: file_of(finetuned(), folder)}


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": float64,
    "device": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


@pytest.mark.parametrize("train", [False, True], ids=["calibrate", "finetune"])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_process_do_not_count(
    name: str, train: bool, expected: dict[bool, bytes], tmp_path: Path
) -> None:
    # Made before, so of float32 and with values.
    model, batches = network().train(), [(IMAGES, LABELS)]
    with SETTINGS[name]():
        if train:
            done = msvq.finetune(model, batches, batches, config=msvq.TrainConfig(1), progress=False)
        else:
            done = msvq.calibrate(model, IMAGES, progress=False)
        assert torch.is_inference_mode_enabled() == (name == "inference")
        assert torch.is_autocast_enabled("cpu") == (name == "autocast")
        assert torch.get_default_dtype() == (torch.float64 if name == "float64" else torch.float32)
    assert file_of(done, tmp_path) == expected[train]


def test_nothing_of_the_process_is_changed() -> None:
    def settings() -> list[Any]:
        return [
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # type: ignore[index] # noqa: NPY002
        ]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    model, batches = network(), [(IMAGES, LABELS)]
    try:
        before = settings()
        config = msvq.TrainConfig(1, threads=2)
        msvq.finetune(model, batches, batches, config=config, progress=False)
        assert settings() == before
    finally:
        torch.set_num_threads(threads)


def test_random_numbers_that_an_import_draws_are_given_back() -> None:
    """As those of rich's first import, which is within the first call."""
    before = random.getstate()
    undisturbed(random.random)()
    assert random.getstate() == before


def test_threads_get_what_one_alone_does(expected: dict[bool, bytes], tmp_path: Path) -> None:
    found: dict[int, Finetuned] = {}
    models = [network() for _ in range(3)]

    def work(number: int) -> None:
        found[number] = msvq.calibrate(models[number], IMAGES, progress=False)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.backends.mkldnn.enabled
    assert [file_of(found[number], tmp_path) for number in range(3)] == [expected[False]] * 3


def test_a_call_within_a_call_goes_on() -> None:
    def metric(output: torch.Tensor, target: torch.Tensor) -> float:
        calibrated()
        return 1.0

    batches = [(IMAGES, LABELS)]
    done = msvq.finetune(network(), batches, batches, config=msvq.TrainConfig(1), metric=metric, progress=False)
    assert done.report["metric_integers"] == 1.0


def test_tensors_of_inference_mode_are_trained_on(expected: dict[bool, bytes], tmp_path: Path) -> None:
    with torch.inference_mode():
        images = IMAGES.clone()
    assert file_of(finetuned(images), tmp_path) == expected[True]


def test_arrays_of_any_strides_and_byte_order_are_images(expected: dict[bool, bytes], tmp_path: Path) -> None:
    array = IMAGES.numpy()
    for given in (array[::-1].copy()[::-1], array.astype(">f4"), array.astype(np.longdouble), np.asfortranarray(array)):
        assert file_of(calibrated(given), tmp_path) == expected[False]
    for dtype in (object, str, np.complex64):
        with pytest.raises(CompressError, match=r"images must be normalised floats \[n, C, rows, columns\], not "):
            calibrated(array.astype(dtype))
