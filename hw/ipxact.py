"""IP-XACT (IEEE 1685-2014): the accelerator as a component that tools for systems on a chip put into a design.

Buses, ports, address spaces and registers come from the ports of the instance and :mod:`hw.bus.register_map`. The
standard leaves definitions of buses to others: those of AXI are Arm's, those of clock, reset and interrupt Xilinx's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from hw.bus.register_map import ADDRESS_BITS, CAUSES, REGISTERS, VERSION, Access, Bits, Register

__all__ = ["NAMESPACE", "component"]

#: Of all elements: IEEE 1685-2014.
NAMESPACE = "http://www.accellera.org/XMLSchema/IPXACT/1685-2014"

_SCHEMA_LOCATION = "{http://www.w3.org/2001/XMLSchema-instance}schemaLocation"

# Vendor, library and version of the buses' definitions.
_AMBA = ("amba.com", "AMBA4", "r0p0_0")
_SIGNAL = ("xilinx.com", "signal", "1.0")

_ACCESS = {
    Access.READ: "read-only",
    Access.WRITE: "read-write",
    Access.ACT: "write-only",
    Access.CLEAR: "read-write",
}

#: Types of files by their endings; Verilator's waivers have none in the standard.
_FILE_TYPES = {".v": "verilogSource", ".sdc": "SDC", ".h": "cSource", ".c": "cSource", ".vlt": "user"}

#: Sets of files: the endings of each.
_FILE_SETS = {
    "rtl": (".v",),
    "constraints": (".sdc",),
    "waivers": (".vlt",),
    "software": (".h", "_driver.h", "_example.c"),
}


class _Writer:
    """Elements of :data:`NAMESPACE` below one another."""

    def __init__(self, parent: ElementTree.Element) -> None:
        self.parent = parent

    def add(self, tag: str, text: object = None, **attributes: str) -> _Writer:
        """A child: its text, where it has one, and its attributes."""
        child = ElementTree.SubElement(self.parent, f"{{{NAMESPACE}}}{tag}", attributes)
        if text is not None:
            child.text = str(text)
        return _Writer(child)

    def named(self, tag: str, name: str, description: str = "") -> _Writer:
        """A child that begins with a name, and a description where there is one."""
        child = self.add(tag)
        child.add("name", name)
        if description:
            child.add("description", description)
        return child


def _hex(value: int) -> str:
    return f"'h{value:X}"


def _bus_interface(
    buses: _Writer,
    name: str,
    description: str,
    kind: tuple[str, tuple[str, str, str]],
    ports: Mapping[str, str],
    inverted: Sequence[str] = (),
) -> _Writer:
    """A bus interface up to its mode: ``kind`` is the bus and whose definition, ``ports`` are by logical name."""
    bus, (vendor, library, version) = kind
    interface = buses.named("busInterface", name, description)
    interface.add("busType", vendor=vendor, library=library, name=bus, version=version)
    abstraction = interface.add("abstractionTypes").add("abstractionType")
    abstraction.add("abstractionRef", vendor=vendor, library=library, name=f"{bus}_rtl", version=version)
    maps = abstraction.add("portMaps")
    for logical, physical in ports.items():
        attributes = {"invert": "true"} if logical in inverted else {}
        port_map = maps.add("portMap", **attributes)
        port_map.add("logicalPort").add("name", logical)
        port_map.add("physicalPort").add("name", physical)
    return interface


def _parameters(interface: _Writer, values: Mapping[str, str]) -> None:
    parameters = interface.add("parameters")
    for name, value in values.items():
        parameters.named("parameter", name).add("value", value)


def _bus_interfaces(root: _Writer, names: Sequence[str]) -> None:
    buses = root.add("busInterfaces")

    def axi(prefix: str) -> dict[str, str]:
        signals = {name.removeprefix(prefix).upper(): name for name in names if name.startswith(prefix)}
        return {"ACLK": "clk", "ARESETn": "rst", **signals}

    # AXI's reset is active low, that of the instance active high.
    memory = _bus_interface(
        buses, "m_axi", "reads programs, weights and feature maps, and writes results", ("AXI4", _AMBA), axi("m_axi_"),
        ["ARESETn"],
    )  # fmt: skip
    memory.add("master").add("addressSpaceRef", addressSpaceRef="dram")
    registers = _bus_interface(
        buses, "s_axil", "registers of the host", ("AXI4-Lite", _AMBA), axi("s_axil_"), ["ARESETn"]
    )
    registers.add("slave").add("memoryMapRef", memoryMapRef="registers")
    clock = _bus_interface(buses, "clk", "the one clock, rising edge", ("clock", _SIGNAL), {"CLK": "clk"})
    clock.add("slave")
    _parameters(clock, {"ASSOCIATED_BUSIF": "m_axi:s_axil", "ASSOCIATED_RESET": "rst"})
    reset = _bus_interface(buses, "rst", "synchronous; one cycle is enough", ("reset", _SIGNAL), {"RST": "rst"})
    reset.add("slave")
    _parameters(reset, {"POLARITY": "ACTIVE_HIGH"})
    interrupt = _bus_interface(
        buses, "interrupt", "high while INTERRUPT and INTERRUPT_ENABLE have a bit in common", ("interrupt", _SIGNAL),
        {"INTERRUPT": "o_interrupt"},
    )  # fmt: skip
    interrupt.add("master")
    _parameters(interrupt, {"SENSITIVITY": "LEVEL_HIGH"})


def _field(parent: _Writer, register: Register, bits: Bits) -> None:
    field = parent.named("field", bits.name, bits.meaning)
    field.add("bitOffset", bits.offset)
    field.add("resets").add("reset").add("value", _hex(register.reset >> bits.offset & (1 << bits.width) - 1))
    field.add("bitWidth", bits.width)
    # A register that can only be read and has a reset value is a constant.
    changes = register.access is Access.CLEAR or (register.access is Access.READ and not register.reset)
    field.add("volatile", str(changes).lower())
    field.add("access", _ACCESS[register.access])
    if (register.name, bits.name) == ("ERROR", "cause"):
        values = field.add("enumeratedValues")
        for cause, meaning in CAUSES.items():
            values.named("enumeratedValue", cause.name, meaning).add("value", cause.value)
    if register.access is Access.CLEAR:
        field.add("modifiedWriteValue", "oneToClear")


def _memory_map(root: _Writer) -> None:
    memory_map = root.add("memoryMaps").named("memoryMap", "registers")
    block = memory_map.named("addressBlock", "registers", "other addresses are answered with SLVERR")
    block.add("baseAddress", _hex(0))
    block.add("range", _hex(1 << ADDRESS_BITS))
    block.add("width", 32)
    block.add("usage", "register")
    for register in REGISTERS:
        described = block.named("register", register.name, register.meaning)
        described.add("addressOffset", _hex(register.offset))
        described.add("size", 32)
        for bits in register.fields or (Bits(register.name.lower(), 0, 32, register.meaning),):
            _field(described, register, bits)
    memory_map.add("addressUnitBits", 8)


def _model(root: _Writer, top: str, ports: Sequence[Mapping[str, Any]]) -> None:
    model = root.add("model")
    view = model.add("views").named("view", "rtl")
    for purpose in ("Simulation", "Synthesis"):
        view.add("envIdentifier", f":*{purpose}:")
    view.add("componentInstantiationRef", "rtl")
    instantiation = model.add("instantiations").named("componentInstantiation", "rtl")
    instantiation.add("language", "verilog")
    instantiation.add("moduleName", top)
    for name in ("rtl", "constraints", "waivers"):
        instantiation.add("fileSetRef").add("localName", name)
    found = model.add("ports")
    for port in ports:
        wire = found.named("port", port["name"]).add("wire")
        wire.add("direction", port["direction"])
        if port["width"] > 1:
            vector = wire.add("vectors").add("vector")
            vector.add("left", port["width"] - 1)
            vector.add("right", 0)


def _file_sets(root: _Writer, name: str) -> None:
    sets = root.add("fileSets")
    for title, endings in _FILE_SETS.items():
        files = sets.named("fileSet", title)
        for ending in endings:
            file = files.add("file")
            file.add("name", f"{name}{ending}")
            kind = _FILE_TYPES[ending[ending.index(".") :]]
            file.add("fileType", kind, **({"user": "vlt"} if kind == "user" else {}))


def component(name: str, top: str, ports: Sequence[Mapping[str, Any]]) -> str:
    """The component description of an accelerator.

    Parameters
    ----------
    name
        Of the instance, and of its files.
    top
        The top module.
    ports
        Those of the manifest: ``name``, ``direction`` and ``width`` in bits.
    """
    ElementTree.register_namespace("ipxact", NAMESPACE)
    root = ElementTree.Element(f"{{{NAMESPACE}}}component", {_SCHEMA_LOCATION: f"{NAMESPACE} {NAMESPACE}/index.xsd"})
    tree = _Writer(root)
    version = f"{VERSION >> 16}.{VERSION & 0xFFFF}"
    for tag, text in (("vendor", "msvq"), ("library", "accelerators"), ("name", name), ("version", version)):
        tree.add(tag, text)
    widths = {port["name"]: port["width"] for port in ports}
    _bus_interfaces(tree, list(widths))
    space = tree.add("addressSpaces").named("addressSpace", "dram")
    space.add("range", _hex(1 << widths["m_axi_araddr"]))
    space.add("width", widths["m_axi_rdata"])
    space.add("addressUnitBits", 8)
    _memory_map(tree)
    _model(tree, top, ports)
    _file_sets(tree, name)
    tree.add("description", "Accelerator for networks with masked and sign-split vector quantisation.")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
