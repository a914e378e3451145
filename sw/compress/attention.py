"""torch's ``MultiheadAttention`` with its input projection as a layer, so that it is compressed as other layers are."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

__all__ = ["SplitAttention", "split_attention"]


class SplitAttention(nn.MultiheadAttention):
    """``MultiheadAttention`` after :func:`split_attention`. It computes the same, in the same way.

    Attributes
    ----------
    in_proj
        Linear layer ``[3 E, E]`` of queries, keys and values, one after the other.
    """

    in_proj: nn.Linear

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """That of ``in_proj``, where the base class looks for it."""
        return self.in_proj.weight

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        """That of ``in_proj``, where the base class looks for it."""
        return cast("Tensor | None", self.in_proj.bias)


def split_attention(model: nn.Module) -> list[str]:
    """Make the input projection of every ``MultiheadAttention`` a layer ``in_proj``, in place.

    torch keeps it as a mere parameter, which nothing takes for a layer: three quarters of an attention's weights. Those
    whose keys or values are of other sizes than the queries have three parameters instead, and stay as they are, as do
    subclasses.

    Parameters
    ----------
    model
        Its keys ``in_proj_weight`` and ``in_proj_bias`` become ``in_proj.weight`` and ``in_proj.bias``.

    Returns
    -------
    list
        Names of the new layers.
    """
    names = []
    for name, module in model.named_modules():
        if type(module) is not nn.MultiheadAttention or not module._qkv_same_embed_dim:
            continue
        weight, bias = module._parameters.pop("in_proj_weight"), module._parameters.pop("in_proj_bias")
        assert weight is not None
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight, layer.bias = weight, cast(nn.Parameter, bias)
        module.__class__ = SplitAttention
        out_proj = module._modules.pop("out_proj")
        module.in_proj = layer.train(module.training)
        module._modules["out_proj"] = out_proj  # behind it, as it is computed
        names.append(f"{name}.in_proj".removeprefix("."))
    return names
