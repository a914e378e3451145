"""DINOv2's ViT-S/14 as this project's vision transformer: ``python -m experiments.dinov2 STATE.pt OUT.pt``.

STATE is a state dict with the names ``cls``, ``pos_cls``, ``pos`` (37 x 37 positions), ``patch``, ``norm`` and, of each
of 12 blocks, ``norm1``, ``q``, ``k``, ``v``, ``proj``, ``ls1``, ``norm2``, ``fc1``, ``fc2``, ``ls2``. The three layers
of an attention become one, layer scales go into the layers before them, the positions are interpolated, and the
classifier starts at random: nothing else changes, so that the features are those of the original.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sw.command_line import Parser, exit_status
from sw.compress.methods import CompressError

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.models import VisionTransformer

__all__ = ["converted", "main"]


def converted(state: Mapping[str, Tensor], model: VisionTransformer) -> dict[str, Tensor]:
    """The state of ``model`` with these weights; that of its classifier is its own.

    Raises
    ------
    CompressError
        A tensor is missing.
    """
    import torch
    from torch.nn import functional

    state = {name: value.float() for name, value in state.items()}
    found = {name: value for name, value in model.state_dict().items() if name.startswith("linear.")}
    tokens = model.positions.shape[1] - 1
    side = round(tokens**0.5)
    try:
        grid = state["pos"].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
        places = functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
        found["positions"] = torch.cat([torch.zeros_like(state["pos_cls"]), places.flatten(2).transpose(1, 2)], dim=1)
        found["cls_token"] = state["cls"] + state["pos_cls"]
        for kind in ("weight", "bias"):
            found[f"patches.{kind}"], found[f"norm.{kind}"] = state[f"patch.{kind}"], state[f"norm.{kind}"]
        for number in range(len(model.blocks)):
            path = f"blocks.{number}."
            for kind in ("weight", "bias"):
                for part in ("norm1", "norm2", "fc1"):
                    found[f"{path}{part}.{kind}"] = state[f"{path}{part}.{kind}"]
                parts = [state[f"{path}{part}.{kind}"] for part in "qkv"]
                found[f"{path}attention.qkv.{kind}"] = torch.cat(parts)
                for part, name, scale in (("proj", "attention.proj", "ls1"), ("fc2", "fc2", "ls2")):
                    value, factor = state[f"{path}{part}.{kind}"], state[path + scale]
                    found[f"{path}{name}.{kind}"] = value * (factor[:, None] if value.ndim > 1 else factor)
    except KeyError as error:
        raise CompressError(f"state must be one of DINOv2 ViT-S/14, but {error.args[0]!r} is missing") from None
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 2 for bad input, with one line on standard error."""
    parser = Parser(prog="python -m experiments.dinov2", description=__doc__)
    parser.add_argument("state", help="the original's state dict")
    parser.add_argument("output", help="file to write: weights of the network dinov2-s")
    options = parser.parse_args(arguments)
    return exit_status(parser.prog, lambda: _convert(options.state, options.output))


def _convert(source: str, output: str) -> None:
    from experiments.models import VisionTransformer, build, save_weights
    from sw.compress.checkpoints import read_state_dict

    model = build("dinov2-s")
    assert isinstance(model, VisionTransformer)
    state = converted(dict(read_state_dict(source)), model)
    model.load_state_dict(state)
    save_weights(state, output)


if __name__ == "__main__":
    sys.exit(main())
