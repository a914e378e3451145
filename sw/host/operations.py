"""Operations of a network that runs in steps: which there are, their sizes, and the arithmetic of the host's.

The accelerator computes ``layer``, ``logits`` and ``matmul``; the host everything else, between them. A value is an
integer array: an image or a map ``[C, rows, columns]``, tokens ``[C, T]``, or heads ``[G, C, T]``. The residual stream
is int32, in -2**20 + 1 .. 2**20 - 1. ``round`` goes to the nearest integer, halves to even; ``clamp8`` to -128..127.

==============  ======================================================================================================
``input``       int8 image of ``shape``
``layer``       int8: sums, requantisation (:class:`sw.format.layer.Requantisation`); of a map or, linear, of tokens
``logits``      int32: sums and bias of a linear layer of tokens
``matmul``      ``y[g, k, t] = sum over c of b[g, k, c] * a[g, c, t]`` of int8 a and b: int32, or int8 with
                ``multiplier`` and ``shift``, as a layer's; ``name`` is for reports
``embed``       residual: map as tokens, ``round(x * factor)``, plus ``positions``; one token more than pixels: it comes
                first and is ``positions`` alone
``residual``    residual: ``r + round(x * factor)``, r the first value
``layernorm``   ``clamp(round((r - mean) / sqrt(variance + epsilon) * gain + offset), -limit - 1, limit)`` for each
                token; int8 for a limit of 127, int32 for another
``token``       one token of a residual
``mean``        int8: ``clamp8(round(sum over tokens * factor))``
``split``       heads: part ``part`` of ``parts`` of the channels, ``[G, C, T]``; ``transposed`` ``[G, T, C]``; -128
                becomes -127, which all arrays can take as a weight
``gelu``        int8: ``table[x + 128]``
``softmax``     int8: ``table[m - x]``, m the largest over axis 1: numerators in 0..127, 127 or so for the largest
``normalise``   tokens int8: ``clamp8(round(y * factor / s))``, y int32 of a product with numerators, s their sum (>= 1)
==============  ======================================================================================================

Everything is exact in int64, or a correctly rounded operation on float64, in the order in which it stands here: so all
machines give the same integers. Of ``layernorm``, with C channels and S the sum of a token: ``(C*r - S) / sqrt(C * (sum
of r*r) - S*S + C*C*epsilon)``, numerator and the root's first two terms as integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = ["COMPUTED", "RESIDUAL_LIMIT", "Array", "Kind", "StepError", "check_steps", "run_steps"]

#: Operations of the accelerator.
COMPUTED = ("layer", "logits", "matmul")
#: Largest magnitude in the residual stream; with it the sums of ``layernorm`` fit int64 for 2048 channels.
RESIDUAL_LIMIT = (1 << 20) - 1
_MAX_CHANNELS = 2048
#: Bounds what a file can make its reader allocate.
_MAX_VALUES = 1 << 28

Array = NDArray[Any]


class StepError(ValueError):
    """A network in steps that cannot be run. The message names the operation, the value and what is allowed."""


@dataclass(frozen=True)
class Kind:
    """Type and shape of a value."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{' x '.join(map(str, self.shape))}]"

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


#: Of an operation of the accelerator: the kind of its result, from its number, itself and the kinds that it reads.
Computed = Callable[[int, Mapping[str, Any], Sequence[Kind]], Kind]
#: Its results for several images, from its number, itself and what it reads for each of them.
Compute = Callable[[int, Mapping[str, Any], Sequence[Sequence[Array]]], Sequence[Array]]


class _Check:
    """One operation of a file."""

    def __init__(self, number: int, op: object, constants: Mapping[str, Array]) -> None:
        self.place, self.constants = f"operation {number}", constants
        if not isinstance(op, dict) or not isinstance(op.get("op"), str):
            self.fail("must be an object with its name as 'op'")
        self.op: dict[str, Any] = op
        self.kind: str = op["op"]
        if self.kind not in _OPERATIONS:
            self.fail(f"op must be one of {', '.join(_OPERATIONS)}, not {self.kind!r}")
        self.place += f" ({self.kind})"
        self.inputs, needed, free = _OPERATIONS[self.kind][:3]
        allowed = ("op", *(("in",) if self.inputs else ()), *needed)
        for name in allowed:
            if name not in op:
                self.fail(f"field {name!r} is missing")
        for name in op:
            if name not in (*allowed, *free):
                self.fail(f"unknown field {name!r}")
        if (self.kind == "input") != (number == 0):
            self.fail("the first operation, and no other, must be the input")

    def fail(self, text: str) -> NoReturn:
        raise StepError(f"{self.place}: {text}")

    def sources(self, kinds: Sequence[Kind]) -> list[Kind]:
        if not self.inputs:
            return []
        given = self.op["in"]
        good = isinstance(given, list) and len(given) == self.inputs
        if not good or any(type(x) is not int or not 0 <= x < len(kinds) for x in given):
            self.fail(f"in must be {self.inputs} numbers of operations before it, 0..{len(kinds) - 1}, not {given!r}")
        return [kinds[number] for number in given]

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.op[name]
        if type(value) is not int or not low <= value <= high:
            self.fail(f"{name} must be an integer in {low}..{high}, not {value!r}")
        return value

    def positive(self, name: str) -> float:
        value = self.op[name]
        if type(value) not in (int, float) or not isfinite(value) or value <= 0:
            self.fail(f"{name} must be finite and positive, not {value!r}")
        return float(value)

    def constant(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        key = self.op[name]
        values = self.constants.get(key) if isinstance(key, str) else None
        if values is None:
            self.fail(f"{name} must be the name of a constant of the file, not {key!r}")
        if values.dtype != dtype or values.shape != shape:
            self.fail(f"{name} must be {Kind(dtype, shape)}, not {Kind(values.dtype.name, values.shape)}")
        if not np.isfinite(values).all():
            self.fail(f"{name} must be finite")
        return values

    def read(self, kind: Kind, dtype: str, *axes: str) -> tuple[int, ...]:
        """Shape of a value that must have this type and these axes."""
        if kind.dtype != dtype or len(kind.shape) != len(axes):
            self.fail(f"it must read {dtype} [{' x '.join(axes)}], not {kind}")
        return kind.shape


def check_steps(operations: object, constants: Mapping[str, Array], computed: Computed) -> list[Kind]:
    """Check that operations can run one after the other.

    Parameters
    ----------
    operations
        Of a file: any JSON value.
    constants
        By name.
    computed
        Checks an operation of the accelerator beyond its fields.

    Returns
    -------
    list
        The kind of every result.

    Raises
    ------
    StepError
        The message names the first operation at fault.
    """
    if not isinstance(operations, list) or not operations:
        raise StepError("operations must be a list and not empty")
    kinds: list[Kind] = []
    used: Counter[int] = Counter()
    for number, op in enumerate(operations):
        check = _Check(number, op, constants)
        sources = check.sources(kinds)
        kind = _OPERATIONS[check.kind][3](check, sources)
        if check.kind in COMPUTED:
            try:
                kind = computed(number, check.op, sources)
            except StepError as error:
                check.fail(str(error))
        if prod(kind.shape) > _MAX_VALUES:
            check.fail(f"its result must have at most {_MAX_VALUES} values, not {kind}")
        kinds.append(kind)
        used.update(check.op.get("in", ()))
    for number, op in enumerate(operations[:-1]):
        if not used[number]:
            raise StepError(f"operation {number} ({op['op']}): a later operation must read its result")
    return kinds


def run_steps(
    operations: Sequence[Mapping[str, Any]],
    constants: Mapping[str, Array],
    images: Sequence[NDArray[np.int8]],
    compute: Compute,
) -> list[Array]:
    """The result of the last operation for each image, of operations that :func:`check_steps` has let pass.

    Parameters
    ----------
    operations, constants
        The network.
    images
        int8, of the input's shape.
    compute
        Does the operations of the accelerator.

    Raises
    ------
    StepError
        An image has another shape or dtype.
    """
    wanted = Kind("int8", tuple(operations[0]["shape"]))
    for image in images:
        if not isinstance(image, np.ndarray) or image.dtype != np.int8 or image.shape != wanted.shape:
            given = f"{getattr(image, 'dtype', type(image).__name__)} {list(np.shape(image))}"
            raise StepError(f"an image must be {wanted}, not {given}")
    last = {source: number for number, op in enumerate(operations) for source in op.get("in", ())}
    values: dict[int, Sequence[Array]] = {}
    for number, op in enumerate(operations):
        inputs = list(zip(*(values[source] for source in op.get("in", ())), strict=True))
        if op["op"] == "input":
            values[number] = images
        elif op["op"] in COMPUTED:
            values[number] = compute(number, op, inputs)
        else:
            values[number] = [_RUN[op["op"]](op, constants, *read) for read in inputs]
        for source in {*op.get("in", ())}:
            if last[source] == number:
                del values[source]
    return list(values[len(operations) - 1])


# Sizes


def _input_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    shape = check.op["shape"]
    if not isinstance(shape, list) or len(shape) != 3 or any(type(x) is not int or not 0 < x < 1 << 16 for x in shape):
        check.fail(f"shape must be three integers in 1..65535, not {shape!r}")
    return Kind("int8", tuple(shape))


def _layer_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    if not isinstance(check.op["layer"], str):
        check.fail(f"layer must be the name of a layer, not {check.op['layer']!r}")
    (source,) = sources
    if source.dtype != "int8":
        check.fail(f"it must read int8, not {source}")
    return source


def _matmul_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    if not isinstance(check.op["name"], str) or not check.op["name"]:
        check.fail(f"name must be text and not empty, not {check.op['name']!r}")
    if ("multiplier" in check.op) != ("shift" in check.op):
        check.fail("multiplier and shift must be given together")
    if "shift" in check.op:
        check.integer("multiplier", -(1 << 31), (1 << 31) - 1)
        check.integer("shift", 0, 62)
    a, b = check.read(sources[0], "int8", "G", "C", "T"), check.read(sources[1], "int8", "G", "K", "C")
    if a[0] != b[0] or a[1] != b[2]:
        check.fail(f"it must read int8 [G x C x T] and [G x K x C], not {sources[0]} and {sources[1]}")
    return Kind("int8" if "shift" in check.op else "int32", (a[0], b[1], a[2]))


def _embed_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    C, rows, columns = check.read(sources[0], "int8", "C", "rows", "columns")
    check.positive("factor")
    key = check.op["positions"]
    given = check.constants.get(key) if isinstance(key, str) else None
    # A class token is one more.
    T = rows * columns + (given is not None and given.shape == (C, rows * columns + 1))
    positions = check.constant("positions", "int32", (C, T))
    if np.abs(positions.astype(np.int64)).max() > RESIDUAL_LIMIT:
        check.fail(f"positions must be within {RESIDUAL_LIMIT}, not {np.abs(positions.astype(np.int64)).max()}")
    return Kind("int32", (C, T))


def _residual_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    check.read(sources[0], "int32", "C", "T")
    check.read(sources[1], "int8", "C", "T")
    check.positive("factor")
    if sources[0].shape != sources[1].shape:
        check.fail(f"both values must have one shape, not {sources[0]} and {sources[1]}")
    return sources[0]


def _layernorm_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    C, T = check.read(sources[0], "int32", "C", "T")
    if C > _MAX_CHANNELS:
        check.fail(f"it must read at most {_MAX_CHANNELS} channels, not {C}")
    check.positive("epsilon")
    for name in ("gain", "offset"):
        check.constant(name, "float64", (C,))
    return Kind("int8" if check.integer("limit", 1, (1 << 20) - 1) == 127 else "int32", (C, T))


def _token_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    C, T = check.read(sources[0], "int32", "C", "T")
    check.integer("number", 0, T - 1)
    return Kind("int32", (C, 1))


def _mean_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    C, _ = check.read(sources[0], "int32", "C", "T")
    check.positive("factor")
    return Kind("int8", (C, 1))


def _split_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    channels, T = check.read(sources[0], "int8", "C", "T")
    parts, heads = check.integer("parts", 1, channels), check.integer("heads", 1, channels)
    check.integer("part", 0, parts - 1)
    if type(check.op["transposed"]) is not bool:
        check.fail(f"transposed must be true or false, not {check.op['transposed']!r}")
    if channels % (parts * heads):
        check.fail(f"parts x heads must divide {channels} channels, not {parts} x {heads}")
    C = channels // (parts * heads)
    return Kind("int8", (heads, T, C) if check.op["transposed"] else (heads, C, T))


def _gelu_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    check.constant("table", "int8", (256,))
    if sources[0].dtype != "int8":
        check.fail(f"it must read int8, not {sources[0]}")
    return sources[0]


def _softmax_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    check.read(sources[0], "int8", "G", "U", "T")
    table = check.constant("table", "int8", (256,))
    if table.min() < 0 or table[0] < 1:
        check.fail(f"table must be in 0..127 and begin with at least 1, not {table[0]}.. with a least of {table.min()}")
    return sources[0]


def _normalise_kind(check: _Check, sources: Sequence[Kind]) -> Kind:
    G, C, T = check.read(sources[0], "int32", "G", "C", "T")
    other, _, tokens = check.read(sources[1], "int8", "G", "U", "T")
    check.positive("factor")
    if (other, tokens) != (G, T):
        check.fail(f"both values must have the same heads and tokens, not {sources[0]} and {sources[1]}")
    return Kind("int8", (G * C, T))


# Arithmetic


def _scaled(values: Array, factor: float) -> NDArray[np.int64]:
    """``round(x * factor)``, kept to a range that int64 holds."""
    rounded: NDArray[np.float64] = np.rint(values.astype(np.float64) * factor)
    return rounded.clip(-4 * RESIDUAL_LIMIT, 4 * RESIDUAL_LIMIT).astype(np.int64)


def _clamp8(values: Array) -> NDArray[np.int8]:
    clamped: NDArray[np.int8] = values.clip(-128, 127).astype(np.int8)
    return clamped


def _on_residual(values: Array) -> NDArray[np.int32]:
    clamped: NDArray[np.int32] = values.clip(-RESIDUAL_LIMIT, RESIDUAL_LIMIT).astype(np.int32)
    return clamped


def _embed(op: Mapping[str, Any], constants: Mapping[str, Array], values: Array) -> Array:
    positions = constants[op["positions"]].astype(np.int64)
    pixels = _scaled(values.reshape(len(values), -1), op["factor"])
    positions[:, positions.shape[1] - pixels.shape[1] :] += pixels
    return _on_residual(positions)


def _residual(op: Mapping[str, Any], constants: Mapping[str, Array], stream: Array, values: Array) -> Array:
    return _on_residual(stream + _scaled(values, op["factor"]))


def _layernorm(op: Mapping[str, Any], constants: Mapping[str, Array], values: Array) -> Array:
    stream = values.astype(np.int64)
    C, total = len(stream), stream.sum(axis=0)
    spread = C * (stream * stream).sum(axis=0) - total * total
    root = np.sqrt(spread.astype(np.float64) + C * C * float(op["epsilon"]))
    normal = (C * stream - total).astype(np.float64) / root
    scaled = normal * constants[op["gain"]][:, None] + constants[op["offset"]][:, None]
    limit = op["limit"]
    clamped: Array = np.rint(scaled).clip(-limit - 1, limit).astype(np.int8 if limit == 127 else np.int32)
    return clamped


def _token(op: Mapping[str, Any], constants: Mapping[str, Array], values: Array) -> Array:
    return values[:, op["number"], None]


def _mean(op: Mapping[str, Any], constants: Mapping[str, Array], values: Array) -> Array:
    return _clamp8(_scaled(values.sum(axis=1, keepdims=True, dtype=np.int64), op["factor"]))


def _split(op: Mapping[str, Any], constants: Mapping[str, Array], values: Array) -> Array:
    T = values.shape[1]
    heads = values.reshape(op["parts"], op["heads"], -1, T)[op["part"]].clip(-127, 127)
    return np.ascontiguousarray(heads.transpose(0, 2, 1) if op["transposed"] else heads)


def _gelu(op: Mapping[str, Any], constants: Mapping[str, Array], values: Array) -> Array:
    table: Array = constants[op["table"]]
    found: Array = table[values.astype(np.int64) + 128]
    return found


def _softmax(op: Mapping[str, Any], constants: Mapping[str, Array], values: Array) -> Array:
    scores = values.astype(np.int64)
    table: Array = constants[op["table"]]
    found: Array = table[scores.max(axis=1, keepdims=True) - scores]
    return found


def _normalise(op: Mapping[str, Any], constants: Mapping[str, Array], values: Array, numerators: Array) -> Array:
    total = np.maximum(numerators.sum(axis=1, keepdims=True, dtype=np.int64), 1)
    shares = values.astype(np.float64) * op["factor"] / total
    return _clamp8(np.rint(shares)).reshape(-1, values.shape[2])


# Number of inputs, fields, fields that may be left out, and the check of each operation.
_OPERATIONS: dict[str, tuple[int, tuple[str, ...], tuple[str, ...], Callable[[_Check, Sequence[Kind]], Kind]]] = {
    "input": (0, ("shape",), (), _input_kind),
    "layer": (1, ("layer",), (), _layer_kind),
    "logits": (1, ("layer",), (), _layer_kind),
    "matmul": (2, ("name",), ("multiplier", "shift"), _matmul_kind),
    "embed": (1, ("factor", "positions"), (), _embed_kind),
    "residual": (2, ("factor",), (), _residual_kind),
    "layernorm": (1, ("gain", "offset", "epsilon", "limit"), (), _layernorm_kind),
    "token": (1, ("number",), (), _token_kind),
    "mean": (1, ("factor",), (), _mean_kind),
    "split": (1, ("part", "parts", "heads", "transposed"), (), _split_kind),
    "gelu": (1, ("table",), (), _gelu_kind),
    "softmax": (1, ("table",), (), _softmax_kind),
    "normalise": (2, ("factor",), (), _normalise_kind),
}
_RUN: dict[str, Callable[..., Array]] = {
    "embed": _embed,
    "residual": _residual,
    "layernorm": _layernorm,
    "token": _token,
    "mean": _mean,
    "split": _split,
    "gelu": _gelu,
    "softmax": _softmax,
    "normalise": _normalise,
}
