"""The gates of a whole design in one flat netlist, with the block that each belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from synth.flow import GateNetlist

__all__ = ["CellArray", "FlatNetlist", "flatten"]

Nets = NDArray[np.int32]


@dataclass(frozen=True)
class CellArray:
    """All instances of one library cell."""

    #: Names of the pins, in the order of the columns of ``nets``.
    pins: list[str]
    #: int32 ``[instances, pins]``.
    nets: Nets
    #: uint8 ``[instances]``: index into the netlist's ``blocks``.
    blocks: NDArray[np.uint8]


@dataclass(frozen=True)
class FlatNetlist:
    """A design without hierarchy."""

    #: How many; 0 and 1 are the constants.
    nets: int
    #: Nets of each port of the design, its lowest bit first.
    ports: Mapping[str, Nets]
    #: Names of the ports that are inputs.
    inputs: list[str]
    #: By library cell.
    cells: Mapping[str, CellArray]
    #: Names of the blocks.
    blocks: list[str]

    @property
    def instances(self) -> int:
        """How many cells there are."""
        return sum(len(cell.nets) for cell in self.cells.values())


@dataclass
class _Module:
    """A module without hierarchy; its instances of one cell in parts that share a block."""

    nets: int
    ports: dict[str, Nets]
    cells: dict[str, tuple[list[str], list[tuple[Nets, int]]]] = field(default_factory=dict)


def _stem(instance: str) -> str:
    # "storage.column_[3].column" and "row_3" are parts of "column" and "row".
    return re.sub(r"(_\d+|\$\d+)+$", "", instance)


class _Flattener:
    def __init__(self, modules: Mapping[str, GateNetlist], names: Mapping[str, str], rest: str) -> None:
        self.modules, self.names = modules, names
        self.blocks = list(dict.fromkeys([*names.values(), rest]))
        self.known: dict[tuple[str, str], _Module] = {}

    def module(self, name: str, block: str) -> _Module:
        if (name, block) not in self.known:
            self.known[name, block] = self._make(name, block)
        return self.known[name, block]

    def _make(self, name: str, block: str) -> _Module:
        gates = self.modules[name]
        number = self.blocks.index(block)
        used = [1, *(net for nets in gates.ports.values() for net in nets)]
        used += [net for _, rows in gates.cells.values() for row in rows for net in row]
        used += [net for _, _, ports in gates.instances for nets in ports.values() for net in nets]
        count = max(used) + 1
        module = _Module(count, {port: np.array(nets, np.int32) for port, nets in gates.ports.items()})
        for cell, (pins, rows) in gates.cells.items():
            module.cells[cell] = (pins, [(np.array(rows, np.int32), number)])
        same: list[tuple[int, int]] = []
        for kind, instance, ports in gates.instances:
            child = self.module(kind, self.names.get(_stem(instance), block))
            # Inner nets of the child get numbers behind those of this module; 0 and 1 stay.
            numbers = np.arange(module.nets - 2, module.nets - 2 + child.nets, dtype=np.int32)
            numbers[:2] = 0, 1
            known: dict[int, int] = {0: 0, 1: 1}
            for port, nets in child.ports.items():
                outside = ports.get(port, [])
                for inner, outer in zip(nets.tolist(), outside, strict=False):
                    if known.setdefault(inner, outer) != outer:
                        same.append((known[inner], outer))
                    numbers[inner] = known[inner]
            module.nets += child.nets - 2
            for cell, (pins, parts) in child.cells.items():
                module.cells.setdefault(cell, (pins, []))[1].extend((numbers[nets], owner) for nets, owner in parts)
        # Neighbours in the hierarchy stay neighbours, and copies of this module are made from one array a cell.
        joined = {cell: (pins, _joined(parts)) for cell, (pins, parts) in module.cells.items()}
        return self._merged(_Module(module.nets, module.ports, joined), same)

    @staticmethod
    def _merged(module: _Module, same: list[tuple[int, int]]) -> _Module:
        """The module with nets that a child connects to each other as one, and without numbers that are not used."""
        parent: dict[int, int] = {}

        def root(net: int) -> int:
            while net in parent:
                net = parent[net]
            return net

        for a, b in same:
            low, high = sorted((root(a), root(b)))
            if low != high:
                parent[high] = low
        numbers = np.arange(module.nets, dtype=np.int32)
        for net in parent:
            numbers[net] = root(net)
        used = np.zeros(module.nets, np.bool_)
        used[:2] = True
        for nets in module.ports.values():
            used[numbers[nets]] = True
        for _, parts in module.cells.values():
            for nets, _ in parts:
                used[numbers[nets]] = True
        dense = np.cumsum(used, dtype=np.int32) - 1
        numbers = dense[numbers]
        return _Module(
            int(dense[-1]) + 1,
            {port: numbers[nets] for port, nets in module.ports.items()},
            {
                cell: (pins, [(numbers[nets], owner) for nets, owner in parts])
                for cell, (pins, parts) in module.cells.items()
            },
        )


def _joined(parts: list[tuple[Nets, int]]) -> list[tuple[Nets, int]]:
    owners = list(dict.fromkeys(owner for _, owner in parts))
    return [(np.concatenate([nets for nets, owner in parts if owner == wanted]), wanted) for wanted in owners]


def flatten(modules: Mapping[str, GateNetlist], top: str, names: Mapping[str, str], rest: str) -> FlatNetlist:
    """All gates below a module.

    Parameters
    ----------
    modules
        As :meth:`synth.flow.Synthesiser.gates` gives them.
    top
        Name of the module.
    names
        Block that an instance of this name, without its number, begins.
    rest
        Block of what belongs to no other.
    """
    flattener = _Flattener(modules, names, rest)
    module = flattener.module(top, rest)
    cells = {}
    for cell, (pins, parts) in sorted(module.cells.items()):
        nets = np.concatenate([nets for nets, _ in parts])
        blocks = np.concatenate([np.full(len(nets), owner, np.uint8) for nets, owner in parts])
        cells[cell] = CellArray(pins, np.ascontiguousarray(nets), blocks)
    return FlatNetlist(module.nets, module.ports, modules[top].inputs, cells, flattener.blocks)
