"""Post-training quantisation: a network from its floats to a file in one call, with inputs and without labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sw.compress.checkpoints import must_be_dense
from sw.compress.frontend.inputs import Given, joined
from sw.compress.kmeans_gpu import device_kind
from sw.compress.methods import CompressError, Recipe
from sw.compress.network import check_network_rules
from sw.compress.ratio import ideal_ratio, layer_bits, sum_bits
from sw.compress.training.batches import Batches, finite, in_float32, output_of, tensors_of
from sw.compress.training.checking import check_integer_form
from sw.compress.training.data import ImageData
from sw.compress.training.finetune import CALIBRATION, RECALIBRATION, Finetuned, about
from sw.compress.training.graph import calibrate, recalibrate_batch_norm
from sw.compress.training.layers import compressed_layers
from sw.compress.training.loop import images_of
from sw.compress.training.prepare import about_weights, prepare, to_integers

__all__ = ["calibrate_network"]

#: Images that pass through the network at a time where batch norm is recalibrated.
_BATCH = 100


def calibrate_network(
    model: nn.Module,
    images: Tensor | ImageData | Iterable[Any],
    rules: Sequence[tuple[str, Recipe]],
    *,
    inputs: Callable[[Any], Any] | None = None,
    values: bool = False,
    device: str = "cpu",
    layers_alone: bool = False,
    progress: bool = True,
) -> Finetuned:
    """Compress a network without training: cluster its weights, recalibrate batch norm, and set the scales.

    Two things follow the images: batch norm's statistics, where theirs are better than those that the network has, and
    the scales of the activations. Labels are not looked at.

    Parameters
    ----------
    model
        Trained, in floats. Changed; one of another precision computes in float32 from then on, and so do its inputs.
    images
        Normalised floats ``[n, C, rows, columns]`` as the network reads them; or images with what is done to them, of
        which the first 5000 recalibrate batch norm and the first 500 set the scales; or a loader
        (:class:`sw.compress.training.batches.Batches`), of whose batches as many samples do.
    rules
        Recipe of each layer (:func:`sw.compress.methods.recipe_for`).
    inputs
        From a loader's batch what the network takes.
    values
        The result counts as it is, as in regression, and not by which class is the largest: the file says its scale.
    device
        Where to compute.
    layers_alone
        Take a network without integer form, too: its file has the layers alone.
    progress
        Show bars on standard error.

    Returns
    -------
    Finetuned
        As of :func:`sw.compress.training.finetune.finetune`. Its report says how far the integers are from the float
        network on the images that set the scales: ``agreement``, the share of images, pixels or tokens in per cent for
        which the largest of the first result's scores is the same (None of a result with one score), and ``error``, the
        relative squared error of all results.

    Raises
    ------
    CompressError
        The images do not fit the network, a rule is for no layer of it, or it has no integer form; before anything is
        clustered.
    KMeansError
        PyTorch does not see the device.
    """
    device_kind(device)
    model.to(device).eval()
    check_network_rules(model, rules)
    if isinstance(images, np.ndarray):
        images = _tensor(images)
    if isinstance(images, Tensor) and (wrong := must_be_dense(images)) is not None:
        raise CompressError(wrong)
    other = in_float32(model)
    if isinstance(images, Tensor) and images.is_floating_point():
        images = images.float()
    batches, found = _batches(model, images, device, inputs, float32=other)
    sample = joined(batches[: -(-CALIBRATION // max(len(batches[0]), 1))], CALIBRATION)
    if not all(map(finite, batches)):
        raise CompressError("images must be finite, not NaN or infinite")
    form = None if layers_alone else check_integer_form(model, rules, sample)
    expected = _float_results(model, sample)
    compressed, reason = prepare(model, rules, sample, progress=progress, form=form)
    compressed.eval()
    kept = None
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in compressed.modules()):
        kept = _recalibrate(compressed, batches, sample, expected, scales=reason is None)
    layers = compressed_layers(compressed)
    bits = sum_bits(map(layer_bits, layers))
    report: dict[str, Any] = {
        "images": sum(map(len, batches)),
        "bits_per_weight": bits.per_weight,
        "ratio_ideal": ideal_ratio(bits),
        "weights": bits.weight_count,
        "no_integer_form": None,
        "batch_norm": kept,
    }
    network = None
    try:
        network = to_integers(compressed, reason, sample, values=values)
    except CompressError as error:
        if not layers_alone:
            raise
        report["no_integer_form"] = str(error)
    results = _float_results(compressed, sample)
    report |= {"error": _error(results, expected), "agreement": _agreement(results[0], expected[0])}
    return Finetuned(compressed, layers, network, report, sample, found | about_weights(compressed, network))


def _tensor(images: NDArray[Any]) -> Tensor:
    """An array of any strides, byte order and precision, which torch does not all take, as a tensor."""
    if images.dtype.kind not in "fiub":
        raise CompressError(
            f"images must be normalised floats [n, C, rows, columns], not {images.dtype} {list(images.shape)}"
        )
    dtype = np.float32 if images.dtype.kind == "f" else images.dtype.newbyteorder("=")
    return torch.from_numpy(np.ascontiguousarray(images, dtype))


def _batches(
    model: nn.Module,
    images: Tensor | ImageData | Iterable[Any],
    device: str,
    inputs: Callable[[Any], Any] | None,
    *,
    float32: bool,
) -> tuple[list[Given], dict[str, Any]]:
    """Inputs in parts, and what the file is to say of them."""
    if inputs is not None and isinstance(images, Tensor | ImageData):
        raise CompressError("inputs must be None with images that are no loader's")
    if isinstance(images, ImageData):
        return [part for part, _ in images_of(images, device, batch=_BATCH, limit=RECALIBRATION)], about(images)
    if not isinstance(images, Tensor):
        loader = Batches(images, model, inputs)
        loader.float32 = float32
        return list(loader.samples(device, RECALIBRATION)), {}
    if images.ndim < 2 or not len(images) or (images.ndim == 4 and not images.is_floating_point()):
        raise CompressError(
            f"images must be normalised floats [n, C, rows, columns], not {images.dtype} {list(images.shape)}"
        )
    return list(torch.split(images.to(device), _BATCH)), {}


def _agreement(found: Tensor, expected: Tensor) -> float | None:
    """Per cent of results ``[n, classes, ...]`` or ``[n, tokens, classes]`` alike; None if there is one class."""
    axis = 2 if found.ndim == 3 else 1
    if found.ndim < 2 or found.shape[axis] < 2:
        return None
    return 100 * float((found.argmax(axis) == expected.argmax(axis)).float().mean())


def _recalibrate(
    model: nn.Module, batches: Sequence[Given], sample: Given, expected: Sequence[Tensor], *, scales: bool
) -> str:
    """Give batch norm the statistics of the images where that brings the results nearer to the float network's.

    It need not: those of training images without their augmentation can be worse than what compression has left.
    """
    before, error = copy.deepcopy(model.state_dict()), _error(_float_results(model, sample), expected)
    recalibrate_batch_norm(model, batches)
    if scales:
        calibrate(model, sample)
    model.eval()
    if _error(_float_results(model, sample), expected) < error:
        return "recalibrated"
    model.load_state_dict(before)
    return "kept"


def _error(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Relative squared error of all results together; in float64, where no square of a float32 overflows."""
    pairs = [(one.double(), other.double()) for one, other in zip(results, expected, strict=True)]
    wrong = sum(float((one - other).square().sum()) for one, other in pairs)
    return wrong / max(sum(float(other.square().sum()) for _, other in pairs), 1e-200)


@torch.no_grad()
def _float_results(model: nn.Module, images: Given) -> list[Tensor]:
    """All floats that a network gives, in the order of its outputs, in parts of a few images."""
    parts = []
    for part in torch.split(images, _BATCH) if isinstance(images, Tensor) else [images]:
        found = [tensor for tensor in tensors_of(output_of(model, part)) if tensor.is_floating_point()]
        if not found:
            raise CompressError("the network must return tensors of floats, not none")
        parts.append([tensor if tensor.ndim else tensor[None] for tensor in found])
    return [torch.cat(tensors).float() for tensors in zip(*parts, strict=True)]
