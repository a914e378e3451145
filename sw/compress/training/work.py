"""Whose a directory of checkpoints is: what its job began with, and whether a job that finds it there is the same.

Nothing that may differ from one run of a script to the next is compared: a setting of a loss that its call changes, a
batch that a loader gives otherwise when it is asked again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sw.compress.frontend.capture import Captured, capture
from sw.compress.frontend.inputs import Given, mapped
from sw.compress.methods import CompressError
from sw.compress.training.data import ImageData
from sw.compress.training.settings import TrainConfig
from sw.format.output import staged
from sw.format.strict_json import parse_json

__all__ = ["begun", "claim", "name_of", "seen_batch", "seen_graph", "settings_of"]

# Parts of a tensor whose means say what is in it, and by how much of its deviation they may differ: those of pictures
# that another machine decodes do by less.
_PARTS, _CLOSE = 64, 0.02

# What a file says beside the job.
_SEEN = ("loss_settings", "batch", "graph")

# A loss is nested in others, such as a partial of one, at most so deep.
_DEPTH = 4


def begun(model: nn.Module, train: object) -> dict[str, Any]:
    """Checksums of what a job begins with: the weights, and labels of images."""
    start = {key: zlib.crc32(value.cpu().contiguous().numpy()) for key, value in model.state_dict().items()}
    labels = zlib.crc32(np.ascontiguousarray(train.labels).tobytes()) if isinstance(train, ImageData) else None
    return {"start": start, "labels": labels}


def name_of(given: object) -> str | None:
    """A loss or a metric by its name; None if there is none."""
    if given is None:
        return None
    found = given if hasattr(given, "__qualname__") else type(given)
    return f"{found.__module__}.{found.__qualname__}"


def settings_of(loss: object, depth: int = 0) -> dict[str, Any]:
    """What a loss was made with, as far as it can be told, by name: numbers, and checksums of tensors.

    Parameters
    ----------
    loss
        A module, an object, a function or a ``functools.partial``. Of a module its own values and those of PyTorch's
        losses in it count, of a function defaults and what it encloses. Text is a setting where PyTorch or a partial
        has it: elsewhere it may be the name of a run. Parameters count for nothing, as they may start at random.
    depth
        In how many others it is.
    """
    if depth > _DEPTH or loss is None or isinstance(loss, types.MethodType | types.BuiltinFunctionType | type):
        return {}
    if isinstance(loss, nn.Module):
        found: dict[str, Any] = {}
        for name, module in loss.named_modules():
            known = isinstance(module, nn.modules.loss._Loss)
            if module is loss or known:
                values = vars(module) | dict(module.named_buffers(recurse=False))
                found |= _named(name, _plain(values, known))
        return found
    if isinstance(loss, functools.partial):
        given = {str(number): value for number, value in enumerate(loss.args)} | loss.keywords
        return settings_of(loss.func, depth + 1) | _plain(given, True) | _enclosed(given, depth)
    if isinstance(loss, types.FunctionType):
        code = loss.__code__
        defaults = loss.__defaults__ or ()
        names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
        given = dict(zip(names, defaults, strict=True)) | (loss.__kwdefaults__ or {})
        for name, cell in zip(code.co_freevars, loss.__closure__ or (), strict=True):
            try:
                given[name] = cell.cell_contents
            except ValueError:
                continue  # not set yet
        return _plain(given, False) | _enclosed(given, depth)
    return _plain(getattr(loss, "__dict__", {}), False)


def _enclosed(values: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Settings of losses among the values of another."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, nn.modules.loss._Loss | functools.partial | types.FunctionType):
            found |= _named(name, settings_of(value, depth + 1))
    return found


def _named(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}" if name else key: value for key, value in values.items()}


def _plain(values: Mapping[Any, Any], text: bool) -> dict[str, Any]:
    """What of a mapping JSON can hold, and checksums of its tensors, but for private names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str) or name.startswith("_") or name == "training" or isinstance(value, nn.Parameter):
            continue
        kinds = bool | int | float | str if text else bool | int | float
        if isinstance(value, kinds) and not (isinstance(value, float) and not math.isfinite(value)):
            found[name] = value
        elif isinstance(value, np.ndarray) and value.dtype.isnative and value.dtype.kind in "biuf":
            found[name] = _described(torch.from_numpy(np.ascontiguousarray(value)), exact=True)
        elif isinstance(value, Tensor):
            found[name] = _described(value, exact=True)
    return found


def seen_batch(batches: Callable[[], Iterator[Any]]) -> list[Any] | None:
    """What a first batch is like: of each tensor kind and shape, and a checksum, or its deviation and means of parts.

    None where it has no tensors, or is another one the second time.

    Parameters
    ----------
    batches
        Begins again with the first batch at each call.
    """
    one, other = (_tensors(next(batches())) for _ in range(2))
    return one if one and one == other else None


def seen_graph(model: nn.Module, images: Given, captured: Captured | None = None) -> list[Any]:
    """What a network computes: of its graph, as this version of torch captures it, a checksum, and tensors in it.

    Of a network that cannot be captured, or takes no images, its modules stand for the graph. Tensors are those that
    its state dict has not. Another version of torch may write the same graph otherwise, so it is told, too.

    Parameters
    ----------
    model
        In float32.
    images
        Some that it takes.
    captured
        What :func:`sw.compress.frontend.capture.capture` gave of them, if that has been asked before.
    """
    try:
        if not isinstance(images, Tensor):
            raise CompressError("no images")
        captured = captured or capture(model, images)
    except CompressError:
        text, constants = str(model), []
    else:
        text, own = f"{captured.graph} {captured.output}", model.state_dict().keys()
        constants = [_described(tensor) for tensor, name in captured.tensors.values() if name not in own]
    # Where a run computes, and where a function lies in memory, is another matter.
    text = re.sub(r"device\(type='[^)]*\)|\bcuda:\d+|\bcuda\b|\bcpu\b", "device", re.sub(r"0x[0-9a-f]+", "", text))
    return [torch.__version__, zlib.crc32(text.encode()), constants]


def _same_graph(found: Any, wanted: list[Any]) -> bool:
    """Whether a file says the same of a graph as :func:`seen_graph`, or was written with another version of torch."""
    version, checksum, constants = wanted
    if not isinstance(found, list) or found[:1] != [version]:
        return isinstance(found, list)
    return len(found) == len(wanted) and found[1] == checksum and _alike(found[2], constants)


def _tensors(batch: Any) -> list[Any]:
    found: list[Any] = []

    def add(tensor: Tensor) -> Tensor:
        found.append(_described(tensor))
        return tensor

    mapped(add, batch)
    return found


def _described(tensor: Tensor, exact: bool = False) -> list[Any]:
    kind = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
        return kind
    values = tensor.detach().cpu().contiguous()
    if exact or (not values.is_floating_point() and values.dtype != torch.uint8):
        return [*kind, zlib.crc32(values.flatten().view(torch.uint8).numpy().tobytes()) if values.numel() else 0]
    if not values.numel():
        return kind
    values = values.double().flatten()
    parts = values.tensor_split(min(_PARTS, len(values)))
    moments = [float(values.std(correction=0)), *(float(part.mean()) for part in parts)]
    return [*kind, *(moments if all(map(math.isfinite, moments)) else [])]


def _alike(one: Any, other: Any) -> bool:
    """Whether a file says the same of a batch as :func:`seen_batch`, but for what decodes pictures otherwise."""
    if not isinstance(one, list) or len(one) != len(other):
        return False
    for found, wanted in zip(one, other, strict=True):
        if not isinstance(found, list) or found[:2] != wanted[:2] or len(found) != len(wanted):
            return False
        if len(wanted) > 3:
            close = _CLOSE * wanted[2] + 1e-6
            pairs = zip(found[2:], wanted[2:], strict=True)
            if not all(type(x) in (int, float) and y - close <= x <= y + close for x, y in pairs):
                return False
        elif found != wanted:
            return False
    return True


def claim(path: Path, settings: dict[str, Any], write: bool, seen: Mapping[str, Any] | None = None) -> None:
    """Refuse a directory of another job; make it this job's if it is new.

    Parameters
    ----------
    path
        Of the file that says whose it is.
    settings
        The job, and what it begins with.
    write
        Whether this process writes the file.
    seen
        ``loss_settings`` (:func:`settings_of`), ``batch`` (:func:`seen_batch`) and ``graph`` (:func:`seen_graph`),
        where they are known.

    Raises
    ------
    CompressError
        The file cannot be read, or is another job's.
    """
    seen = seen or {}
    if not path.exists():
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            with staged(path) as temporary:
                temporary.write_text(json.dumps({**settings, **seen}, indent=1) + "\n", encoding="utf-8")
        return
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise CompressError(f"cannot read {str(path)!r}: {error}") from error
    own = f"work {str(path.parent)!r} must be new or of the same"
    then = {name: found.pop(name, None) for name in _SEEN} if isinstance(found, dict) else {}
    if not _same_job(found, settings):
        raise CompressError(f"{own} job, weights, labels, number of images, loss and metric")
    before = then["loss_settings"] if isinstance(then["loss_settings"], dict) else {}
    for name, value in seen.get("loss_settings", {}).items():
        if name in before and before[name] != value:
            what = "is another tensor" if isinstance(value, list) else f"was {str(before[name])[:80]}, and is {value}"
            raise CompressError(f"{own} loss: its {name} {what}")
    if then["batch"] is not None and seen.get("batch") is not None and not _alike(then["batch"], seen["batch"]):
        raise CompressError(f"{own} data: the first batch is another one than it was")
    if then["graph"] is not None and seen.get("graph") is not None and not _same_graph(then["graph"], seen["graph"]):
        raise CompressError(f"{own} network: its weights are the same, and it computes something else with them")


def _same_job(found: Any, settings: dict[str, Any]) -> bool:
    """Whether a directory's job is this one; one that is older has the defaults of fields that came later."""
    defaults = {each.name: each.default for each in dataclasses.fields(TrainConfig) if each.name != "epochs"}
    if isinstance(found, dict):
        old = {key: defaults | found[key] for key in ("config", "sparse") if isinstance(found.get(key), dict)}
        # One that is older does not say these.
        new: Iterable[str] = settings.keys() & {"loss", "metric", "labels"}
        found = {name: settings[name] for name in new} | found | old
    return bool(found == settings)
