"""Modules of packages that hide what they consist of, taken apart: layers to compress, operations with integer form."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from torch import Tensor, nn

__all__ = ["SplitAttention", "replace_module", "split_modules"]


class SplitAttention(nn.MultiheadAttention):
    """``MultiheadAttention`` after :func:`split_modules`. It computes the same, in the same way.

    Attributes
    ----------
    in_proj
        Linear layer ``[3 E, E]`` of queries, keys and values, one after the other.
    """

    in_proj: nn.Linear

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """The one of ``in_proj``, where the base class looks for it."""
        return self.in_proj.weight

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        """The one of ``in_proj``, where the base class looks for it."""
        return cast("Tensor | None", self.in_proj.bias)


def split_modules(model: nn.Module) -> list[str]:
    """Take apart, in place, what hides layers or operations. The network computes the same, in the same way.

    - torch's ``MultiheadAttention`` has its input projection, three quarters of its weights, as a mere parameter, which
      nothing takes for a layer. It becomes a layer ``in_proj``; the keys ``in_proj_weight`` and ``in_proj_bias`` of the
      state become ``in_proj.weight`` and ``in_proj.bias``. Where keys or values are of other sizes than the queries,
      there are three parameters instead; those stay as they are, as do subclasses.
    - timm's ``BatchNormAct2d``, a batch norm with a dropout and an activation in it, becomes these three, one after the
      other: ``norm``, ``drop`` and ``act``.

    Parameters
    ----------
    model
        Any.

    Returns
    -------
    list
        Names of the modules that were taken apart.
    """
    names = []
    for name, module in list(model.named_modules()):
        if type(module) is nn.MultiheadAttention and module._qkv_same_embed_dim:
            _split_attention(module)
        elif isinstance(module, nn.BatchNorm2d) and _is_norm_with_activation(module):
            replace_module(model, module, _split_norm(module))
        else:
            continue
        names.append(name)
    return names


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, under all of its names. Its own children keep their place."""
    for name in [name for name, module in model.named_modules(remove_duplicate=False) if module is old]:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)


def _split_attention(attention: nn.MultiheadAttention) -> None:
    weight, bias = attention._parameters.pop("in_proj_weight"), attention._parameters.pop("in_proj_bias")
    assert weight is not None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight, layer.bias = weight, cast(nn.Parameter, bias)
    attention.__class__ = SplitAttention
    out_proj = attention._modules.pop("out_proj")
    attention.in_proj = layer.train(attention.training)
    attention._modules["out_proj"] = out_proj  # behind it, as it is computed


def _is_norm_with_activation(norm: nn.BatchNorm2d) -> bool:
    # By its name, since timm is an optional package.
    return type(norm).__name__ == "BatchNormAct2d" and set(norm._modules) == {"drop", "act"}


def _split_norm(norm: nn.BatchNorm2d) -> nn.Sequential:
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, "meta")
    plain._parameters, plain._buffers = norm._parameters, norm._buffers
    parts = OrderedDict([("norm", plain.train(norm.training)), *norm.named_children()])
    return nn.Sequential(parts).train(norm.training)
