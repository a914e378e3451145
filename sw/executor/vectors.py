"""VECTOR: what the vector unit makes of words of L2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig
from hw.control.bodies import FULL_VECTOR_FIELDS
from hw.control.descriptor import TABLE_BYTES, VectorOp

__all__ = ["VectorUnit", "at_least_one", "clamped_divide"]

Read = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
Write = Callable[[NDArray[np.int64], NDArray[np.uint8]], None]

#: Fields that the operations without a window need to be 1, or 0.
_WINDOW = dict.fromkeys(("kernel_rows", "kernel_columns", "stride_rows", "stride_columns"), 1)
_PADDING = dict.fromkeys(("padding_rows", "padding_columns"), 0)


def at_least_one(body: Mapping[str, int], name: str) -> int:
    """The field, checked."""
    if body[name] < 1:
        raise ValueError(f"{name} must be at least 1, not {body[name]}")
    return body[name]


def clamped_divide(values: NDArray[np.int64], shift: int, low: int, high: int) -> NDArray[np.int8]:
    """``clamp(round(v / 2**shift))``, halves away from zero."""
    half = 1 << shift >> 1
    rounded = np.sign(values) * ((np.abs(values) + half) >> shift)
    clamped: NDArray[np.int8] = np.clip(rounded, low, high).astype(np.int8)
    return clamped


def _require(body: Mapping[str, int], operation: str, wanted: Mapping[str, int]) -> None:
    for name, value in wanted.items():
        if body[name] != value:
            raise ValueError(f"{name} must be {value} for {operation}, not {body[name]}")


@dataclass
class VectorUnit:
    """The vector unit of an instance, with its table once one was loaded."""

    config: AcceleratorConfig
    table: NDArray[np.int8] | None = None

    def run(self, body: Mapping[str, int], read: Read, write: Write) -> None:
        """A command.

        Parameters
        ----------
        body
            Of the descriptor.
        read, write
            Bytes of words of L2, each of ``l2_word`` bytes; they refuse words that do not exist.

        Raises
        ------
        ValueError
            A field is out of range, or the fields contradict each other.
        """
        operation = self._check(body)
        if operation == VectorOp.TABLE:
            self.table = read(body["a_base"] + np.arange(body["pixel_words"])).reshape(-1).view(np.int8).copy()
            return
        shape = body["height"], body["width"], body["pixel_words"]
        self._check_room(body, shape)
        target = self._words(body, "l2", np.arange(shape[0] * shape[1])).reshape(shape)
        if operation in (VectorOp.ADD, VectorOp.MULTIPLY):
            values = self._pair(operation, body, read)
        elif operation == VectorOp.MERGE:
            values = self._merge(body, read)
        elif body["upsample"]:
            values = self._upsample(body, read)
        else:
            values = self._pool(operation, body, read)
        result = values.reshape(*shape, self.config.l2_word)
        if body["lookup"]:
            if self.table is None:
                raise ValueError("lookup must be 0 before a TABLE has come, not 1")
            result = self.table[result.view(np.uint8)]
        if body["tail"]:
            result[:, :, -1, body["tail"] :] = 0
        write(target, result.view(np.uint8))

    def _check(self, body: Mapping[str, int]) -> VectorOp:
        config = self.config
        last = VectorOp.TABLE if config.full_vector_unit else VectorOp.ADD
        if not 0 <= body["operation"] <= last:
            raise ValueError(f"operation must be in 0..{int(last)}, not {body['operation']}")
        operation = VectorOp(body["operation"])
        if not config.full_vector_unit:
            for name in FULL_VECTOR_FIELDS:
                if body[name]:
                    text = f"{name} must be 0 where vector_unit_functions is {config.vector_unit_functions}"
                    raise ValueError(f"{text}, not {body[name]}")
        for name in ("height", "width", "pixel_words"):
            at_least_one(body, name)
        limit = 31 if operation == VectorOp.ADD else 62
        for name, high in (
            ("shift", limit),
            ("rotation", config.l2_word - 1),
            ("tail", config.l2_word - 1),
            ("upsample", 2),
        ):
            if body[name] > high:
                raise ValueError(f"{name} must be in 0..{high}, not {body[name]}")
        if body["low"] > body["high"]:
            raise ValueError(f"low must be at most high = {body['high']}, not {body['low']}")
        if operation == VectorOp.TABLE:
            sizes = {"height": 1, "width": 1, "pixel_words": TABLE_BYTES // config.l2_word}
            _require(body, "TABLE", {**_WINDOW, **_PADDING, "rows": 1, "columns": 1, **sizes, "lookup": 0})
        if operation == VectorOp.MERGE:
            if body["kernel_columns"] not in (1, 2):
                raise ValueError(f"kernel_columns must be in 1..2 for MERGE, not {body['kernel_columns']}")
            _require(body, "MERGE", {**_WINDOW, **_PADDING, "kernel_columns": body["kernel_columns"]})
        if body["upsample"]:
            _require(body, "upsample", {"operation": int(VectorOp.SUM), **_WINDOW})
        if operation in (VectorOp.ADD, VectorOp.MULTIPLY, VectorOp.MERGE):
            sizes = {"height": body["rows"], "width": body["columns"]}
            if (body["height"], body["width"]) != tuple(sizes.values()):
                wanted = " x ".join(map(str, sizes.values()))
                raise ValueError(
                    f"height x width must be {wanted} for {operation.name}, not {body['height']} x {body['width']}"
                )
        if operation == VectorOp.ADD:
            for name in ("multiplier_a", "multiplier_b"):
                if abs(body[name]) >= 1 << 22:
                    raise ValueError(f"{name} must be below 2**22, not {body[name]}")
        return operation

    def _check_room(self, body: Mapping[str, int], shape: tuple[int, int, int]) -> None:
        """Refuse a result that does not fit L2, before as many of anything are allocated."""
        count, depth = shape[0] * shape[1] * shape[2], self.config.l2_depth
        if count > depth:
            end = body["l2_base"] + count - 1
            raise ValueError(f"L2 words must be in 0..{depth - 1}, not {end}")

    def _words(self, body: Mapping[str, int], tensor: str, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Words of some pixels of a tensor, ``[pixel, word]``. They are checked before so many are allocated."""
        base, size, depth = body[f"{tensor}_base"], body["pixel_words"], self.config.l2_depth
        pitch = size + body[f"{tensor}_skip"]
        ends = [int(base + at * pitch + word) for at in (pixels.min(), pixels.max()) for word in (0, size - 1)]
        for end in ends:
            if not 0 <= end < depth:
                raise ValueError(f"L2 words must be in 0..{depth - 1}, not {end}")
        return base + pixels[:, None] * pitch + np.arange(size)

    def _pair(self, operation: VectorOp, body: Mapping[str, int], read: Read) -> NDArray[np.int8]:
        """Each word of one tensor with one of the other."""
        pixels = np.arange(body["height"] * body["width"])
        a, b = (read(self._words(body, name, pixels)).view(np.int8).astype(np.int64) for name in "ab")
        if operation == VectorOp.ADD:
            total = a * body["multiplier_a"] + b * body["multiplier_b"]
        else:
            total = a * b * body["multiplier_a"]
        return clamped_divide(total, body["shift"], body["low"], body["high"])

    def _merge(self, body: Mapping[str, int], read: Read) -> NDArray[np.int8]:
        pixels = np.arange(body["height"] * body["width"])
        rotation = body["rotation"]
        found = read(self._words(body, "a", pixels)).view(np.int8)
        if body["rotate_a"]:
            found = np.roll(found, rotation, axis=-1)
        if body["kernel_columns"] == 2:
            other = read(self._words(body, "b", pixels)).view(np.int8)
            found = found.copy()
            found[..., rotation:] = np.roll(other, rotation, axis=-1)[..., rotation:]
        clipped: NDArray[np.int8] = found.clip(body["low"], body["high"])
        return clipped

    def _upsample(self, body: Mapping[str, int], read: Read) -> NDArray[np.int8]:
        """Words of the source at the rows and columns of the result, halved; 0 where there is none."""
        places, there = [], []
        for size, of in (("height", "rows"), ("width", "columns")):
            at = np.arange(body[size]) - body[f"padding_{of}"]
            places.append((at // 2).clip(0, at_least_one(body, of) - 1))
            there.append((at % 2 == 0) | (body["upsample"] == 1))
        values = np.zeros((body["height"], body["width"], body["pixel_words"], self.config.l2_word), np.int64)
        rows, columns = (place[found] for place, found in zip(places, there, strict=True))
        if len(rows) and len(columns):
            words = self._words(body, "a", (rows[:, None] * body["columns"] + columns).reshape(-1))
            values[np.ix_(*there)] = read(words).view(np.int8).reshape(len(rows), len(columns), *values.shape[2:])
        return clamped_divide(values * body["multiplier_a"], body["shift"], body["low"], body["high"])

    def _pool(self, operation: VectorOp, body: Mapping[str, int], read: Read) -> NDArray[np.int8]:
        """A window of one tensor for each word."""
        height, width, pixel = body["height"], body["width"], body["pixel_words"]
        rows, columns = body["rows"], body["columns"]
        empty = -128 if operation == VectorOp.MAXIMUM else 0
        result: NDArray[Any] = np.full((height, width, pixel, self.config.l2_word), empty, np.int64)
        seen = np.zeros((height, width), np.bool_)
        for r in range(at_least_one(body, "kernel_rows")):
            u = np.arange(height) * body["stride_rows"] - body["padding_rows"] + r
            in_rows = (u >= 0) & (u < rows)
            for s in range(at_least_one(body, "kernel_columns")):
                v = np.arange(width) * body["stride_columns"] - body["padding_columns"] + s
                in_columns = (v >= 0) & (v < columns)
                pixels = ((u[in_rows] * columns)[:, None] + v[in_columns]).reshape(-1)
                if not pixels.size:
                    continue
                place = np.ix_(in_rows, in_columns)
                values = read(self._words(body, "a", pixels)).view(np.int8).reshape(result[place].shape)
                seen[place] = True
                if operation == VectorOp.MAXIMUM:
                    result[place] = np.maximum(result[place], values)
                else:
                    result[place] += values
        if operation == VectorOp.MAXIMUM:
            if not seen.all():
                raise ValueError("every window of MAXIMUM must hold a value that is not padding")
            return result.clip(body["low"], body["high"]).astype(np.int8)
        return clamped_divide(result * body["multiplier_a"], body["shift"], body["low"], body["high"])
