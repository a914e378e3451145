"""Networks from ``.onnx`` files, by way of onnx2torch, each compared with the file's own meaning."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from sw.compress.methods import CompressError

__all__ = ["load_onnx"]

#: The newest operator set whose operations onnx2torch knows; files of newer ones are converted to it first.
OPERATOR_SET = 17
#: How far results may be apart, relative to their largest: float32 in another order.
TOLERANCE = 1e-4
#: Rows and columns of the image for the comparison where the file leaves them open.
OPEN_SIZE = 64


def load_onnx(path: str) -> torch.nn.Module:
    """The network of an ``.onnx`` file as a module.

    It is computed for one random image, by torch and by onnx's reference evaluator: a converter's fault must not become
    another network.

    Parameters
    ----------
    path
        An ``.onnx`` file of any operator set; newer ones than :data:`OPERATOR_SET` are converted to it.

    Raises
    ------
    CompressError
        The extra ``onnx`` is not installed, the file cannot be read or converted, or the module computes another thing.
    """
    try:
        import onnx
        from onnx2torch import convert
    except (
        Exception
    ) as error:  # torchvision, which onnx2torch imports, raises RuntimeError beside another torch's build
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CompressError(f"model {path!r} needs onnx2torch, which the extra msvq[onnx] installs: {text}") from error
    try:
        given = file = onnx.load(path)
        onnx.checker.check_model(given)
        found = next((entry.version for entry in file.opset_import if entry.domain in ("", "ai.onnx")), 0)
        if found > OPERATOR_SET:
            file = onnx.version_converter.convert_version(file, OPERATOR_SET)
        file = copy.deepcopy(file)
        _plain_reshapes(file)
        model: torch.nn.Module = convert(file).eval()
    except FileNotFoundError:
        raise CompressError(f"there is no model {path!r}") from None
    except Exception as error:  # the readers and the converter let errors of every kind out
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        way = f"; if it can be exported again, opset_version={OPERATOR_SET} is the newest that is read directly"
        raise CompressError(f"cannot read model {path!r}: {text}{way}") from error
    _compare(path, given, model)
    return model


def _plain_reshapes(file: Any) -> None:
    """Drop ``allowzero``, which torch's exporter writes and onnx2torch refuses, where the shape has no zero."""
    from onnx.numpy_helper import to_array

    known = {entry.name: to_array(entry) for entry in file.graph.initializer}
    known |= {
        n.output[0]: to_array(n.attribute[0].t)
        for n in file.graph.node
        if n.op_type == "Constant" and n.attribute[0].HasField("t")
    }
    for node in file.graph.node:
        if node.op_type == "Reshape" and (known.get(node.input[1], np.zeros(1)) != 0).all():
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)


def _compare(path: str, file: Any, model: torch.nn.Module) -> None:
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(file)
        names = evaluator.input_names
        shapes = {entry.name: entry.type.tensor_type.shape.dim for entry in file.graph.input}
        if len(names) != 1:
            raise CompressError(f"model {path!r} must have one input, not {len(names)}: {', '.join(names)}")
        shape = [d.dim_value or (OPEN_SIZE if axis else 1) for axis, d in enumerate(shapes[names[0]])]
        image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        expected = evaluator.run(None, {names[0]: image})
        with torch.no_grad():
            made = model(torch.from_numpy(image))
    except CompressError:
        raise
    except Exception as error:  # of the evaluator or the module, about shapes that the file leaves open
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CompressError(
            f"model {path!r} cannot be computed for one image of {' x '.join(map(str, shape))}: {text}; export it with"
            " a fixed size"
        ) from error
    for name, want, have in zip(
        evaluator.output_names, expected, made if isinstance(made, list | tuple) else [made], strict=True
    ):
        worst = float(np.abs(np.asarray(want) - have.numpy()).max(initial=0))
        if want.shape != tuple(have.shape) or not worst <= TOLERANCE * max(float(np.abs(want).max(initial=0)), 1e-6):
            raise CompressError(
                f"model {path!r}: onnx2torch makes another network of it: output {name!r} differs by {worst:.3g} of"
                f" {float(np.abs(want).max(initial=0)):.3g} from what the file says; give the module or a .pt2 file"
            )
