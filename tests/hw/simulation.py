"""Components in Amaranth's simulator that tests share: making one ready takes longer than most runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.simulation import Bench, Simulation

__all__ = ["SHARED", "shared"]


class _Shared:
    """Components by what they are made of, the last few of them, with their simulations."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.components: dict[Any, Any] = {}
        self.simulations: dict[int, Simulation] = {}

    def component(self, make: Callable[..., Any], *parameters: Any) -> Any:
        """``make(*parameters)``, the same one as before where it is still there."""
        key = make, *parameters
        found = self.components.pop(key, None)
        self.components[key] = make(*parameters) if found is None else found
        if len(self.components) > self.most:
            first = self.components.pop(next(iter(self.components)))
            self.simulations.pop(id(first), None)
        return self.components[key]

    def run(self, component: Any, bench: Bench) -> bool:
        """Run a bench, if the component is one of these."""
        if all(component is not each for each in self.components.values()):
            return False
        # Where a run fails, something is left that waits: it is not run again.
        simulation = self.simulations.pop(id(component), None) or Simulation(component)
        simulation.run(bench)
        self.simulations[id(component)] = simulation
        return True


SHARED = _Shared(6)
shared = SHARED.component
