"""``python -m tools.power``: the tables of docs/power.md, from the committed energies.

``docs/results/power-nangate45_typ.json`` is that of ``make power LIB=nangate45_typ.lib``; the line of S2TA is that of
docs/papers.md.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from synth.papers import values
from tools.answers import RESULTS, ROOT
from tools.marked import Page, Part, row
from tools.papers import half_dense, to_s2ta

__all__ = ["ACCOUNTS", "best", "main", "parts", "ratio", "render", "total"]

PAGE = ROOT / "docs" / "power.md"
COMMITTED = RESULTS / "power-nangate45_typ.json"

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Account:
    """What is counted of a network."""

    #: In tables.
    title: str
    #: Of ``memories`` in the report; None for the array and its decoder alone.
    memories: str | None


#: From the least to the most that is counted.
ACCOUNTS = {
    "array": Account("array and decoder alone", None),
    "macro": Account("and L1 and L2, macro model", "model_per_mac"),
    "table 8": Account("and L1 and L2 at the costs of MVQ's table 8", "paper_per_mac"),
    "paper": Account("and weights through L2, as the paper counts", "staged_per_mac"),
}

#: Headings of what of ResNet-18 is counted, and whether that is without the layers of 8-bit weights.
SCOPES = {"as a whole": False, "without first and last layer": True}

#: What was wanted of EWS-CMS and of the best of ours, times EWS.
_WANTED = {"ews-cms-64": 2.3, "best": 3.0}


@functools.cache
def _presets() -> Mapping[str, Entry]:
    found: Mapping[str, Entry] = json.loads(COMMITTED.read_text())["presets"]
    return found


def total(entry: Entry, account: str, inner: bool) -> float:
    """fJ a multiply-accumulate of ResNet-18 on an instance, by one of :data:`ACCOUNTS`."""
    scope = entry["network"]["inner"] if inner else entry["network"]
    memories = ACCOUNTS[account].memories
    return float(scope["array_per_mac"] + (scope["memories"][memories] if memories else 0.0))


def ratio(name: str, account: str, inner: bool) -> float:
    """How many times as efficient as ``ews-64`` an instance of its size is on ResNet-18, by one of :data:`ACCOUNTS`."""
    presets = _presets()
    return total(presets["ews-64"], account, inner) / total(presets[name], account, inner)


def best(account: str, inner: bool) -> str:
    """The instance of codebooks of signs that takes the least."""
    ours = [name for name in _presets() if name.startswith("ews-msvq") and name.endswith("-64")]
    return max(ours, key=lambda name: ratio(name, account, inner))


def _header(*cells: str) -> Iterator[str]:
    yield row(*cells)
    yield "|---|" + "--:|" * (len(cells) - 1)


def acceptance_part() -> Iterator[str]:
    """What was wanted, and what came out, by each account."""
    columns = [(account, inner) for account in ("macro", "paper") for inner in SCOPES.values()]
    yield from _header(
        "64 x 64, gated alike, memories included",
        "wanted",
        "**ResNet-18, macro model**",
        "without first and last layer",
        "**ResNet-18, as the paper counts**",
        "without first and last layer",
    )

    def cell(value: float, wanted: float, note: str = "") -> str:
        return f"{value:.2f}{note} {'yes' if value >= wanted else '**no**'}"

    wanted = _WANTED["ews-cms-64"]
    figures = (ratio("ews-cms-64", *column) for column in columns)
    yield row("EWS-CMS, times EWS", f"{wanted}", *(cell(value, wanted) for value in figures))
    wanted = _WANTED["best"]
    ours = [(best(*column), ratio(best(*column), *column)) for column in columns]
    yield row("best of ours, times EWS", f"{wanted}", *(cell(value, wanted, f" (`{name}`)") for name, value in ours))
    wanted = values("headlines")["to the best sparse accelerator"]
    energy = half_dense()
    assert energy is not None
    alexnet = [cell(to_s2ta(energy, staged), wanted) for staged in (False, True)]
    name = "EWS-CMS at 50 %, times S2TA (65 nm), AlexNet's convolutions"
    yield row(name, f"{wanted}", alexnet[0], "", alexnet[1], "")


def figures_part() -> Iterator[str]:
    """All instances, those of 64 x 64 first."""
    presets = _presets()
    for size in (64, 16):
        if size == 16:
            yield ""
        yield from _header(
            f"{size} x {size}", "fJ", "EWS / it", "with glitches", "EWS / it", "stall", "idle",
            *(
                title
                for scope in ("ResNet-18", "without first and last layer")
                for title in (f"{scope}, macro model", "EWS / it", "as the paper counts", "EWS / it")
            ),
        )  # fmt: skip
        own = {name: entry for name, entry in presets.items() if entry["configuration"]["H"] == size}
        base = own[f"ews-{size}"]

        def pair(figure: Callable[[Entry], float], entry: Entry, base: Entry = base) -> tuple[str, str]:
            return f"{figure(entry):,.1f}", f"{figure(base) / figure(entry):.2f}"

        for name, entry in own.items():
            cells = [*pair(lambda e: e["per_mac"], entry)]
            cells += pair(lambda e: e["per_mac"] * (1 + e["glitches"]), entry)
            cells += [f"{entry['stall']:.1f}", f"{entry['idle']:.1f}"]
            for inner in SCOPES.values():
                for account in ("macro", "paper"):
                    cells += pair(lambda e, a=account, i=inner: total(e, a, i), entry)  # type: ignore[misc]
            yield row(f"`{name}`" if " " in name else name, *cells)


def ladder_part() -> Iterator[str]:
    """The same ratio by what is counted."""
    for title, names in (("EWS-CMS", ("ews-cms-64",)), ("the best of ours", ("ews-msvq-64", "ews-msvq4-64"))):
        if title != "EWS-CMS":
            yield ""
        label = [f"`{name}`, {scope}" for name in names for scope in SCOPES]
        yield from _header(f"{title}, times EWS, ResNet-18", *label)
        for account, what in ACCOUNTS.items():
            figures = (ratio(name, account, inner) for name in names for inner in SCOPES.values())
            yield row(what.title, *(f"{figure:.2f}" for figure in figures))


def traffic_part() -> Iterator[str]:
    """Bytes at each memory, and what they cost."""
    yield from _header(
        "bytes a 1,000 MACs (fJ a MAC, macro model)",
        "L2",
        "L1 activations",
        "L1 partial sums",
        "weights, from DRAM",
    )
    presets = _presets()
    for name in ("ews-64", "ews-cms-64", "ews-msvq-64", "ews-msvq4-64"):
        network = presets[name]["network"]
        memories, macs = network["memories"], network["macs"]
        cells = []
        for place, moved in memories["bytes"].items():
            cost = f" ({memories['parts'][place]:.0f})" if place in memories["parts"] else ""
            cells.append(f"{1000 * moved / macs:.1f}{cost}")
        yield row(name, *cells)


def parts() -> dict[str, Part]:
    """What each marked part of the page consists of."""
    return {
        "acceptance": acceptance_part,
        "figures": figures_part,
        "ladder": ladder_part,
        "traffic": traffic_part,
    }


_PAGE = Page(PAGE, parts)
render = _PAGE.render
main = _PAGE.command("tools.power", __doc__)


if __name__ == "__main__":
    sys.exit(main())
