"""Checkpoint files: state dicts of PyTorch, safetensors and NumPy, also in parts, in whatever they are wrapped."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from sw.compress.methods import CompressError
from sw.format.envelope import kind_of
from sw.format.npz import ArchiveError, check_unpacked, read_npz
from sw.format.strict_json import parse_json

__all__ = [
    "fit_state",
    "key_list",
    "must_be_dense",
    "must_be_floats",
    "plain_floats",
    "plain_state",
    "read_state_dict",
    "write_state",
]

#: Keys under which training scripts keep the state of the network, the first that a file has counts. Averages come
#: last: they count where there is nothing else.
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
)
# What torch.compile, DataParallel and DistributedDataParallel put in front of every key.
_PREFIXES = ("module.", "_orig_mod.")
# Beside the state of the averaged network in torch.optim.swa_utils.AveragedModel.
_COUNTER = "n_averaged"


def read_state_dict(path: str | Path) -> Mapping[Any, Any]:
    """The state dict of a checkpoint, its keys as the network alone would have them. Nothing in the file is executed.

    Parameters
    ----------
    path
        ``.npz``, ``.safetensors``, or a file of ``torch.save``; or of a checkpoint in parts its ``.index.json``, which
        names a file beside it for each key. A state dict may be wrapped: under ``state_dict``, ``model`` and the
        like, and with the prefixes ``module.`` and ``_orig_mod.``, one in the other (:func:`plain_state`).

    Raises
    ------
    CompressError
        The file is missing, or holds no state dict; the message has the keys that it has.
    """
    content = _content(Path(path))
    if not isinstance(content, Mapping):
        raise CompressError(f"checkpoint {str(path)!r} must hold a state dict, not {type(content).__name__}")
    return plain_state(content)


def _content(path: Path) -> object:
    try:
        if path.name.endswith(".index.json"):
            return _parts(path)
        if path.suffix == ".npz":
            return read_npz(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with open(path, "rb") as file:
            kind = kind_of(file.read(4))
        if kind is not None:
            why = f"is a {kind}, and weights are wanted; msvq.decompress gives the float weights of a container"
            raise CompressError(f"checkpoint {str(path)!r} {why}")
        check_unpacked(path)
        with warnings.catch_warnings():
            # That a file is TorchScript is said once, by the error.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except CompressError:
        raise
    except ArchiveError as error:
        raise CompressError(f"cannot read checkpoint {str(path)!r}: {error}") from error
    except ImportError as error:
        raise CompressError(f"checkpoint {str(path)!r} needs the package safetensors: {error}") from error
    except OSError as error:
        raise CompressError(f"cannot read checkpoint {str(path)!r}: {error}") from error
    except Exception as error:  # the readers let errors of every kind out where bytes are not what they expect
        raise CompressError(f"cannot read checkpoint {str(path)!r}: {_reason(error)}") from error


def _parts(path: Path) -> dict[str, Any]:
    """All tensors of a checkpoint in parts."""
    index = parse_json(path.read_bytes())
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise CompressError(f"checkpoint {str(path)!r} must have a weight_map from keys to files")
    tensors: dict[str, Any] = {}
    contents: dict[str, Mapping[Any, Any]] = {}
    for key, name in files.items():
        if Path(name).name != name or name.endswith(".index.json"):
            raise CompressError(f"checkpoint {str(path)!r} must name files beside it, not {name!r}")
        if name not in contents:
            part = _content(path.parent / name)
            if not isinstance(part, Mapping):
                raise CompressError(f"checkpoint {name!r} must hold a state dict, not {type(part).__name__}")
            contents[name] = part
        if key not in contents[name]:
            raise CompressError(
                f"checkpoint {name!r} must hold {key!r}, as {path.name!r} says: {key_list(contents[name])}"
            )
        tensors[key] = contents[name][key]
    return tensors


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(each, Tensor | np.ndarray) for each in value.values())


def plain_state(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """What is wrapped in a checkpoint, without the prefixes that all of its keys have.

    Parameters
    ----------
    content
        Of a file. Returned as it is if nothing wraps it.
    """
    while wrapped := {key: value for key, value in content.items() if isinstance(key, str) and _has_state(value)}:
        known = next((key for key in _WRAPPERS if key in wrapped), None)
        if known is None and len(wrapped) > 1:
            break
        content = wrapped[known if known is not None else next(iter(wrapped))]
    while prefix := next((each for each in _PREFIXES if _all_have(content, each)), None):
        content = {key.removeprefix(prefix): value for key, value in content.items() if key != _COUNTER}
    if any(isinstance(key, str) and "._orig_mod." in key for key in content):
        # A module of the network that was compiled alone.
        content = {key.replace("._orig_mod.", ".") if isinstance(key, str) else key: v for key, v in content.items()}
    return content


def _has_state(value: object) -> bool:
    return _is_state(value) or (
        isinstance(value, Mapping) and any(_is_state(value[key]) for key in _WRAPPERS if key in value)
    )


def _all_have(content: Mapping[Any, Any], prefix: str) -> bool:
    keys = [key for key in content if key != _COUNTER]
    return bool(keys) and all(isinstance(key, str) and key.startswith(prefix) for key in keys)


def fit_state(tensors: Mapping[Any, Any], keys: Mapping[str, Tensor]) -> dict[str, Any]:
    """The tensors of a checkpoint that are a network's, under its keys.

    Where the file has the network as a part of something, such as Lightning's ``model.``, the prefix goes. A key that
    the file lacks because the network has that tensor under another one, too, is filled in.

    Parameters
    ----------
    tensors
        Of :func:`read_state_dict`.
    keys
        The network's own state dict (of ``keep_vars=True``, so that shared tensors can be told).
    """
    first: dict[int, list[str]] = {}
    for key, tensor in keys.items():
        first.setdefault(id(tensor), []).append(key)
    given = [key for key in tensors if isinstance(key, str)]
    found = {key: tensors[key] for key in given}
    prefix = ""
    while more := next((each for each in _PREFIXES if _all_have(keys, prefix + each)), None):
        prefix += more
    if prefix and not any(key in found for key in keys) and any(key.removeprefix(prefix) in found for key in keys):
        # The network's only child is called so: what was taken off is its own.
        found = {prefix + key: value for key, value in found.items()}
        given = list(found)
    if not any(key in found for key in keys):
        prefixes = {key.removesuffix(own) for own in list(keys)[:1] for key in given if key.endswith(f".{own}")}
        fitting = [
            prefix
            for prefix in sorted(prefixes)
            if all(any(prefix + name in found for name in names) for names in first.values())
        ]
        if fitting:
            prefix = "model." if "model." in fitting else fitting[0]
            if len(fitting) == 1 or prefix == "model.":
                found = {key.removeprefix(prefix): found[key] for key in given if key.startswith(prefix)}
    for names in first.values():
        known = next((name for name in names if name in found), None)
        if known is not None:
            found |= {name: found[known] for name in names if name not in found}
    return found


class _Kept:
    """A file that keeps its first error: torch raises another one in its place, without file and reason."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, None  # type: tuple[BinaryIO, OSError | None]

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_state(path: str | Path, content: Any) -> None:
    """``torch.save``, the same bytes whatever the file is called.

    Raises
    ------
    OSError
        The file cannot be written, as when the disk is full.
    """
    with open(path, "wb") as file:
        kept = _Kept(file)
        try:
            torch.save(content, kept)  # type: ignore[arg-type]
        except Exception:
            if kept.error is not None:
                raise kept.error from None
            raise


def key_list(content: Mapping[Any, Any]) -> str:
    """The keys that a file has, for messages: the first ten."""
    keys = [str(key) for key in content]
    more = f" and {len(keys) - 10} more" if len(keys) > 10 else ""
    return f"it has {', '.join(keys[:10])[:400]}{more}" if keys else "it has no key"


def plain_floats(tensor: Tensor | np.ndarray[Any, Any]) -> bool:
    """Whether a tensor has floats that are its values: those of 8 bits or fewer come with scales beside them."""
    if isinstance(tensor, np.ndarray):
        return bool(tensor.dtype.kind == "f")
    return tensor.is_floating_point() and tensor.element_size() > 1


def must_be_floats(what: str, kind: str) -> str:
    """What is wrong with a weight of this dtype, and the way out."""
    if kind.startswith("float"):
        advice = "of a quantised checkpoint, multiply by the scales first; .float() makes them of values without"
        return f"{what} must be floats of at least 16 bits, not {kind}: {advice}"
    if kind.startswith("void"):
        return f"{what} must be floats, not {kind}: numpy reads back no bfloat16, so save it as float32"
    if kind.startswith("complex"):
        return f"{what} must be floats, not {kind}: an imaginary part would be lost"
    return f"{what} must be floats, not {kind}: of a quantised checkpoint, multiply by the scales first"


def must_be_dense(tensor: Tensor) -> str | None:
    """What is wrong with images that are sparse, or have no values; None of others."""
    if not tensor.is_meta and tensor.layout == torch.strided:
        return None
    kind = "a meta tensor" if tensor.is_meta else tensor.layout
    return f"images must be a dense tensor with values (torch.strided), not {kind}"


def _reason(error: Exception) -> str:
    """What is wrong, in one line."""
    text = str(error).strip()
    state = "a state dict is read alone: torch.save(model.state_dict(), FILE)"
    if "TorchScript archive" in text:
        return f"it is TorchScript, and {state}"
    if unpickler := re.search(r"WeightsUnpickler error:\s*(.*)", text):
        reason = unpickler[1].partition(" Please use")[0]
        return f"{reason} {state[0].upper()}{state[1:]}" if "GLOBAL" in reason else reason
    # The kind and the text of an error inside a reader, such as KeyError: 101, say little.
    return f"not a checkpoint of this format ({type(error).__name__}: {text.partition(chr(10))[0]})"
