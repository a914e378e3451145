"""Merge equal modules of an RTLIL text.

Amaranth emits one RTLIL module for every instance: an array of 64 x 64 processing elements is 4096 copies of one
module. :func:`merge_equal_modules` keeps one of each kind, so that Verilog, Verilator builds and synthesis grow with
the number of different blocks, not with the size of the array.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

__all__ = ["RtlilError", "RtlilModule", "merge_equal_modules", "parse_modules"]


class RtlilError(ValueError):
    """A text that is not RTLIL as Amaranth writes it. The message has the line number."""


# Source locations carry paths of the machine; the generator's name says nothing about the hardware.
_DROPPED_ATTRIBUTES = (r"attribute \src ", r"attribute \generator ", r"attribute \amaranth.hierarchy ")
# A port that is not exactly one signal of its module gets a name with the numbers of the driving cell and bit in the
# whole design, which differ from instance to instance. It becomes port$<count>$, which neither this matches nor
# Amaranth makes.
_NUMBERED_PORT = re.compile(r"\\port\$\d+\$\d+(?!\S)")
_PORT = re.compile(r"  wire width (\d+) (input|output|inout) \d+ (.*)")
_NAME = re.compile(r"\\\S+")
# Stands for the name of an instantiated module until that is known; NUL can't be in a name.
_REFERENCE = re.compile("\0(\\d+)\0")


@dataclass
class RtlilModule:
    r"""One module as it was read. Names include their ``\``; indentation is kept; source locations are left out."""

    #: Of the module.
    name: str
    #: Lines before it.
    attributes: list[str] = field(default_factory=list)
    #: One text each, with its attribute lines.
    ports: list[str] = field(default_factory=list)
    wires: list[str] = field(default_factory=list)
    #: The other lines.
    body: list[str] = field(default_factory=list)
    #: (line of ``body``, name of the module, name of the instance) of every cell that isn't a primitive of Yosys.
    instances: list[tuple[int, str, str]] = field(default_factory=list)


def parse_modules(rtlil: str) -> dict[str, RtlilModule]:
    """The modules of an RTLIL text by name, in its order.

    Raises
    ------
    RtlilError
        The text is not RTLIL as Amaranth writes it, or a module is defined twice.
    """
    modules: dict[str, RtlilModule] = {}
    module: RtlilModule | None = None
    pending: list[str] = []  # attributes wait for what they belong to
    # Nesting inside a module: cells, processes and switches end with "end" too, always indented.
    for number, line in enumerate(rtlil.split("\n"), 1):
        text = line.lstrip()
        if not text:
            continue
        if text.startswith(_DROPPED_ATTRIBUTES):
            continue
        if module is None:
            if text.startswith("attribute "):
                pending.append(text)
            elif text.startswith("module "):
                name = text[len("module ") :]
                if name in modules:
                    raise RtlilError(f"line {number}: module {name} is defined twice")
                module = modules[name] = RtlilModule(name, pending)
                pending = []
            elif not text.startswith(("#", "autoidx ")):
                raise RtlilError(f"line {number}: expected a module, not {text[:60]!r}")
            continue
        if line == "end":
            module.body += pending
            pending = []
            module = None
        elif line.startswith("  attribute "):
            pending.append(line)
        elif line.startswith("  wire "):
            wires = module.ports if _PORT.fullmatch(line) else module.wires
            wires.append("\n".join([*pending, line]))
            pending = []
        else:
            module.body += pending
            pending = []
            if line.startswith("  cell \\"):
                _, kind, name = text.split(" ")
                module.instances.append((len(module.body), kind, name))
            module.body.append(line)
    if module is not None:
        raise RtlilError(f"module {module.name} has no end")
    if not modules:
        raise RtlilError("no module in the text")
    return modules


def _children_first(modules: dict[str, RtlilModule]) -> list[RtlilModule]:
    order: list[RtlilModule] = []
    state: dict[str, bool] = {}  # False while its children are visited
    for root in modules:
        stack = [(root, False)]
        while stack:
            name, done = stack.pop()
            if done:
                state[name] = True
                order.append(modules[name])
            elif name not in state:
                state[name] = False
                stack.append((name, True))
                for _, kind, _ in modules[name].instances:
                    if kind in modules:
                        if state.get(kind) is False:
                            raise RtlilError(f"module {kind} instantiates itself")
                        stack.append((kind, False))
    return order


class _Merger:
    """Canonical text of every module, children first; equal texts are one module."""

    def __init__(self, modules: dict[str, RtlilModule]) -> None:
        self.modules = modules
        instantiated = {kind for module in modules.values() for _, kind, _ in module.instances}
        self.roots = [name for name in modules if name not in instantiated]
        self.number: dict[str, int] = {}  # module name -> its number among the different modules
        self.port_names: dict[str, dict[str, str]] = {}  # module name -> numbered ports -> canonical names
        self.members: list[RtlilModule] = []  # number -> the first module with this text
        self.text: list[str] = []
        found: dict[tuple[str, ...], int] = {}
        for module in _children_first(modules):
            text = self._canonical(module)
            # A root keeps its name, so it's equal to nothing else.
            key = (module.name if module.name in self.roots else "", text, *module.attributes)
            if key not in found:
                found[key] = len(self.text)
                self.text.append(text)
                self.members.append(module)
            self.number[module.name] = found[key]

    def _canonical(self, module: RtlilModule) -> str:
        body = module.body[:]
        for position, kind, name in module.instances:
            if kind not in self.modules:
                continue
            body[position] = f"  cell \0{self.number[kind]}\0 {name}"
            end = body.index("  end", position)
            connects = body[position + 1 : end]
            port_names = self.port_names[kind]
            if port_names:
                for i, line in enumerate(connects):
                    _, port, value = line.split(None, 2)
                    connects[i] = f"    connect {port_names.get(port, port)} {value}"
            # The order of a child's ports is that of their drivers in the whole design.
            body[position + 1 : end] = sorted(connects)
        text = "\n".join(self._without_aliases(module.wires, body))
        ports = module.ports
        port_names = {}
        if module.name not in self.roots:
            if any(r"\port$" in port for port in ports):
                for name in _NUMBERED_PORT.findall(text):
                    port_names.setdefault(name, rf"\port${len(port_names)}$")
                for name in _NUMBERED_PORT.findall("\n".join(ports)):
                    port_names.setdefault(name, rf"\port${len(port_names)}$")
                text = _NUMBERED_PORT.sub(lambda match: port_names[match[0]], text)
                ports = [_NUMBERED_PORT.sub(lambda match: port_names[match[0]], port) for port in ports]
            ports = sorted(ports, key=lambda port: port.rsplit(" ", 1)[1])
        self.port_names[module.name] = port_names
        numbered = []
        for i, port in enumerate(ports, 1):
            lines = port.split("\n")
            lines[-1] = _PORT.sub(rf"  wire width \1 \2 {i} \3", lines[-1])
            numbered += lines
        return "\n".join([*numbered, text])

    @staticmethod
    def _without_aliases(wires: list[str], body: list[str]) -> list[str]:
        # Every signal of a child that its parent mentions is a wire of the parent too, connected and never read. In an
        # array these are most of the text.
        values = (line.split(" ", 6)[-1] if line.startswith("    connect ") else line for line in body)
        uses = Counter(_NAME.findall("\n".join([*wires, *values])))
        aliases = set()
        kept = []
        for line in body:
            if line.startswith("connect \\"):
                name = line.split(" ", 2)[1]
                if uses[name] == 2:
                    aliases.add(name)
                    continue
            kept.append(line)
        return [wire for wire in wires if wire.rsplit(" ", 1)[1] not in aliases] + kept

    def names(self) -> dict[int, str]:
        """A readable name for each different module, in the order in which a walk from the roots meets them."""
        names: dict[int, str] = {}
        used: set[str] = set()
        for root in self.roots:
            names[self.number[root]] = root
            used.add(root)
        for root in self.roots:
            stack = [self.number[root]]
            while stack:
                children = []
                for _, kind, instance in self.members[stack.pop()].instances:
                    if kind in self.modules and self.number[kind] not in names:
                        number = self.number[kind]
                        stem = re.sub(r"(_\d+|\$\d+)+$", "", instance[1:]) or instance[1:]
                        base = name = re.sub(r"\W", "_", rf"{root[1:]}_{stem}")
                        copy = 1
                        while f"\\{name}" in used:
                            copy += 1
                            name = f"{base}_{copy}"
                        used.add(f"\\{name}")
                        names[number] = f"\\{name}"
                        children.append(number)
                stack += reversed(children)
        return names


def merge_equal_modules(rtlil: str) -> str:
    """Merge modules that are equal but for their names.

    Two modules are equal if their ports, wires, cells and processes are, after the modules that they instantiate have
    been merged. The order of ports, port numbers that Amaranth draws from the whole design, and source locations do not
    count. The modules that nothing instantiates keep their names and the order of their ports. A survivor is called
    after the first root and its first instance without its number: ``core_wrf``; where different modules would have
    one name, the later ones get ``_2``, ``_3`` and so on. Attributes that hold source locations are removed. The
    result is the same for a text that has already been merged.

    Parameters
    ----------
    rtlil
        RTLIL as :func:`amaranth.back.rtlil.convert` writes it.

    Raises
    ------
    RtlilError
        The text is not RTLIL, a module is defined twice, or a module instantiates itself.
    """
    merger = _Merger(parse_modules(rtlil))
    names = merger.names()
    output = []
    for number, name in names.items():
        text = _REFERENCE.sub(lambda match: names[int(match[1])], merger.text[number])
        output += [*merger.members[number].attributes, f"module {name}", text, "end", ""]
    return "\n".join(output)
