"""Networks in steps to programs: one for each operation of the accelerator, one behind the other in DRAM."""

from __future__ import annotations

from collections.abc import Callable

from hw.config import AcceleratorConfig
from sw.compiler.compile import Product, compile_layers, compile_products
from sw.host.network import SteppedNetwork, product_requantisation
from sw.host.operations import COMPUTED
from sw.program import Program
from sw.program.steps import SteppedProgram

__all__ = ["compile_steps"]


def compile_steps(
    network: SteppedNetwork,
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
    kinds = network.kinds
    programs: dict[int, Program] = {}
    numbers = [number for number, op in enumerate(network.operations) if op["op"] in COMPUTED]
    for count, number in enumerate(numbers):
        op = network.operations[number]
        name: str = op["name"] if op["op"] == "matmul" else op["layer"]
        if progress:
            progress(name, count, len(numbers))
        if op["op"] == "matmul":
            (G, C, T), (_, K, _) = (kinds[source].shape for source in op["in"])
            given = product_requantisation(op, K)
            products = [Product(f"{name}.{head}", K, C, T, given) for head in range(G)]
            program = compile_products(products, config, records=records, base=base)
        else:
            shape = kinds[op["in"][0]].shape
            layer = (network.layers[name], (shape[0], shape[1] if len(shape) == 3 else 1, shape[-1]))
            program = compile_layers([layer], config, wide=op["op"] == "logits", records=records, base=base)
        programs[number] = program
        base += program.dram_bytes
    return SteppedProgram(network.operations, network.constants, network.input_scale, programs)
