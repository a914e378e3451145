"""Emit a repeated block once.

Amaranth elaborates and emits every instance of a component by itself: the rows of a 64 x 64 array take minutes.
Handed to
``elaborate`` as the platform, an :class:`Emission` makes :func:`shared` components into instances of a module that is
emitted once. Simulation in Python has no such platform and sees the components themselves.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, Elaboratable, Instance, ResetSignal
from amaranth.lib import wiring

__all__ = ["Emission", "shared"]


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Python does not look for circles of objects: Amaranth makes a million, hardly any of them garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Emission:
    """Modules that are emitted once, by name.

    Parameters
    ----------
    prefix
        Of the modules' names.

    Attributes
    ----------
    texts
        RTLIL of each module that the design uses, without the design itself.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.texts: dict[str, str] = {}
        self._names: dict[tuple, str] = {}

    def emit(self, component: wiring.Component, name: str) -> str:
        """RTLIL of a component and of everything below it, as one text."""
        with _without_collection():
            text = rtlil.convert(component, name=name, platform=self, emit_src=False)
        return "\n".join([text, *self.texts.values()])

    def instance(self, component: wiring.Component) -> Instance:
        """An instance of the component's module, connected to the component's own ports."""
        members = component.signature.members
        parameters = {name: value for name, value in vars(component).items() if name not in members and name[0] != "_"}
        key = (type(component), tuple(sorted(parameters.items())))
        if key not in self._names:
            self._names[key] = name = f"{self.prefix}_{type(component).__name__.lower()}_{len(self._names)}"
            self.texts[name] = rtlil.convert(component, name=name, platform=self, emit_src=False)
        name = self._names[key]
        ports = [
            ("i" if member.flow is wiring.In else "o", "__".join(map(str, path)), value)
            for path, member, value in component.signature.flatten(component)
        ]
        # Amaranth warns of components that are never elaborated; this one stands for its module.
        component._MustUse__used = True
        # A module without registers has no clock.
        if " \\clk\n" in self.texts[name]:
            ports += [("i", "clk", ClockSignal()), ("i", "rst", ResetSignal())]
        return Instance(name, *ports)


def shared(component: wiring.Component, platform: object) -> Elaboratable:
    """The component, or an instance of its one module where the platform is an :class:`Emission`.

    Components of one class whose attributes besides the ports are equal are taken as equal; the attributes are
    hashable.
    """
    return platform.instance(component) if isinstance(platform, Emission) else component
