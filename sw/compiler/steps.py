"""Networks in steps to programs: one for each operation of the accelerator, one behind the other in DRAM."""

from __future__ import annotations

from collections.abc import Callable

from hw.config import AcceleratorConfig
from sw.compiler.compile import Product, compile_layers, compile_products
from sw.compiler.graph import CompileError
from sw.network import FULL_RANGE, Network, Operation
from sw.network.spatial import Layer, Logits
from sw.network.tokens import MatMul
from sw.program import Program
from sw.program.steps import SteppedProgram

__all__ = ["compile_steps"]


def compile_steps(
    network: Network,
    config: AcceleratorConfig,
    *,
    records: bool = True,
    base: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> SteppedProgram:
    """Compile a network in steps.

    The heads of a ``matmul`` run one after the other in one program, each with its own input and operand.

    Parameters
    ----------
    network
        The network.
    config
        The instance.
    records
        Write the performance counters to DRAM after every layer.
    base
        DRAM address of the first program, a multiple of 64.
    progress
        Called with the name of each operation before it is compiled, its number among those of the accelerator, and
        how many these are.

    Raises
    ------
    sw.compiler.graph.CompileError, sw.golden.PsumOverflowError, sw.program.ProgramError
        As :func:`sw.compiler.compile.compile_network`.
    """
    programs: dict[int, Program] = {}
    numbers = [number for number, op in enumerate(network.operations) if op.step]
    for count, number in enumerate(numbers):
        op = network.operations[number]
        if progress:
            progress(op.label, count, len(numbers))
        programs[number] = _compile(network, op, config, records, base)
        base += programs[number].dram_bytes
    return SteppedProgram(network.operations, network.constants, network.input_scale, programs, network.outputs)


def _compile(network: Network, op: Operation, config: AcceleratorConfig, records: bool, base: int) -> Program:
    """One operation of the accelerator as a program."""
    sources = [network.values[source].known for source in op.inputs]
    if isinstance(op, MatMul):
        (G, C, T), (_, K, _) = sources
        given = op.requantisation(K)
        products = [Product(f"{op.name}.{head}", K, C, T, given) for head in range(G)]
        return compile_products(products, config, records=records, base=base)
    if not isinstance(op, Layer | Logits):
        raise CompileError(f"operation {op.kind!r}: the compiler has no program for it")
    # Tokens are columns of one row, features are one pixel.
    C, *sides = sources[0]
    rows, columns = sides if len(sides) == 2 else (1, *sides) if sides else (1, 1)
    limits = op.range if isinstance(op, Layer) else FULL_RANGE
    layer = (network.layers[op.layer], (C, rows, columns))
    wide = isinstance(op, Logits)
    return compile_layers([layer], config, wide=wide, limits=limits, records=records, base=base)
