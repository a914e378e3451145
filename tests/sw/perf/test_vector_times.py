"""What a VECTOR command costs."""

from __future__ import annotations

from hw.config import preset
from hw.control.descriptor import VectorOp
from sw.perf.vector_times import vector_cost


def test_fields_that_are_absent_are_0() -> None:
    window = {
        "operation": int(VectorOp.MAXIMUM), "kernel_rows": 3, "kernel_columns": 3, "rows": 5, "columns": 5,
        "pixel_words": 1, "height": 3, "width": 3, "stride_rows": 1, "stride_columns": 1,
    }  # fmt: skip
    found = vector_cost(preset("ews-tiny"), window)
    assert found == vector_cost(preset("ews-tiny"), {**window, "padding_rows": 0, "padding_columns": 0})
    # Without padding each window lies in the map.
    assert found.reads == 3 * 3 * 3 * 3
