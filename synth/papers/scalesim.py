"""Layers on the weight stationary array of SCALE-Sim, where the package is there (extra ``papers``)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from sw.compiler.graph import Convolution, Graph

__all__ = ["layer_cycles", "version"]

_CONFIG = """[general]
run_name = layers
[architecture_presets]
ArrayHeight: {size}
ArrayWidth: {size}
IfmapSramSzkB: 128
FilterSramSzkB: 128
OfmapSramSzkB: 128
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: ws
Bandwidth: 8
ReadRequestBuffer: 32
WriteRequestBuffer: 32
MemoryBanks: 1
[layout]
IfmapCustomLayout: False
FilterCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""


def version() -> str | None:
    """Of the package; None where there is none."""
    try:
        return metadata.version("scalesim")
    except metadata.PackageNotFoundError:
        return None


def layer_cycles(graph: Graph, size: int, names: Iterable[str]) -> dict[str, int]:
    """Cycles of layers on an array of ``size`` rows and columns, by name; their convolutions have one group.

    A layer is the product of T positions x Sr weights of a filter by Sc filters, as SCALE-Sim takes a convolution.
    These are its compute cycles: its memories answer at once (bandwidth ``CALC``). Its class of the dataflow is called
    directly, as version 3.0.0's model of the memory ends with a TypeError under numpy 2.
    """
    import numpy as np
    from scalesim.compute.systolic_compute_ws import systolic_compute_ws
    from scalesim.scale_config import scale_config

    wanted, found = set(names), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "array.cfg"
        path.write_text(_CONFIG.format(size=size))
        config = scale_config()
        config.read_conf_file(str(path))
    for operation in graph.operations:
        if not isinstance(operation, Convolution) or operation.name not in wanted:
            continue
        target = graph.values[operation.target]
        K, C, R, S = operation.shape
        positions, filters = target.rows * target.columns, C * R * S
        array: Any = systolic_compute_ws()
        array.set_params(
            config_obj=config,
            ifmap_op_mat=np.zeros((positions, filters), np.float32),
            filter_op_mat=np.zeros((filters, K), np.float32),
            ofmap_op_mat=np.zeros((positions, K), np.float32),
        )
        array.create_demand_matrices()
        _, _, sums = array.get_demand_matrices()
        found[operation.name] = int(sums.shape[0])
    return found
