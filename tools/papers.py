"""``python -m tools.papers``: the tables of the papers beside ours, in docs/papers.md.

The papers' figures are of ``synth/papers/figures.json``; ours of ``docs/results``: ``papers.json`` (``make papers``),
``area-nangate45_typ.json``, ``power-nangate45_typ.json`` if it is there, the studies and ``networks-speed.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from math import ceil, comb, log2
from pathlib import Path
from typing import Any

from hw.config import AcceleratorConfig, preset
from synth.papers import published, values
from synth.papers.__main__ import ARRAYS, NETWORKS, SCALESIM_SIZE, VARIANTS, measure
from synth.papers.energy import Energy, access_cost, mac_energy, network_energy
from tools.marked import Page, row

__all__ = ["PAGE", "efficiencies", "half_dense", "main", "parts", "render", "runs", "speeds", "to_s2ta"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "papers.md"
RESULTS = ROOT / "docs" / "results"

SIZES = (16, 32, 64)

#: Our conditions, for every table of areas and energies.
OURS = "Nangate 45 nm typical, 1.1 V, Yosys and ABC, no layout"

Rows = Iterator[str]


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _optional(name: str) -> Any:
    return _read(name) if (RESULTS / f"{name}.json").exists() else None


def runs() -> dict[tuple[str, str, int, int], dict[str, Any]]:
    """Runs of the cycle model by network, variant, size and bus, named as the paper does."""
    return {
        (NETWORKS[run["network"]], VARIANTS[run["variant"]], run["size"], run["bus"]): run
        for run in _read("papers")["runs"]
    }


def _header(*cells: str) -> Rows:
    yield row(*cells)
    yield "|---|" + "--:|" * (len(cells) - 1)


def _source(name: str) -> str:
    entry = published()[name]
    section = f", section {entry['section']}" if entry["section"] else ""
    note = f" {entry['note']}" if "note" in entry else ""
    return f"{entry['paper']}, {entry['where']}{section}: {entry['conditions']}.{note}"


def _cell(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def table2() -> Rows:
    """Resources of a tile, by the paper's formulas and of the configuration."""
    dense, sparse = preset("ews-16"), preset("ews-cms-16")
    H, d, Q, bits, psum = sparse.H, sparse.d, sparse.Q, sparse.weight_bits, sparse.psum_width
    paper = {
        "multipliers": (H * d, H * Q),
        "adders": (H * d, H * d),
        "register file bits": (H * d * 16 * bits, H * Q * 16 * bits + H * Q * 16 * int(log2(d))),
        "LZC": (0, H * Q),
        "DEMUX": (0, H * Q * psum),
    }

    def ours(config: AcceleratorConfig) -> dict[str, int]:
        wrf = H * config.multipliers * config.weight_bits * config.wrf_depth
        return {
            "multipliers": H * config.multipliers,
            "adders": H * config.d,
            "register file bits": wrf + H * config.mrf_width * config.wrf_depth,
            "LZC": 0,
            "DEMUX": H * config.multipliers * config.product_width if config.features.sparse else 0,
        }

    yield from _header("tile of 16 x 16, 4:16", "EWS, paper", "ours", "EWS-Sparse, paper", "ours")
    mine = ours(dense), ours(sparse)
    for name, (one, other) in paper.items():
        yield row(name, f"{one:,}", f"{mine[0][name]:,}", f"{other:,}", f"{mine[1][name]:,}")
    yield ""
    yield _source("table 2")
    yield ""
    yield (
        f"- Ours keeps all positions of a row as one number of {sparse.mrf_width} bits (paper: Q log2 d = "
        f"{Q * int(log2(d))}), which one encoder a mask makes: no LZCs in the tile.\n"
        f"- Demultiplexers: ours stand behind the multipliers and carry products of {sparse.product_width} bits; the "
        f"paper's have those of sums, here {psum}."
    )


def table5() -> Rows:
    """Error and accuracy beside PQF."""
    yield from _header("network", "method", "SSE", "accuracy, %", "float, %")
    for network, found in values("table 5").items():
        for method, (sse, accuracy) in found.items():
            yield row(f"{network}, ImageNet (paper)", method, sse, accuracy, "")
    study = _read("table3-resnet18")
    for case, name in (("PQF-style", "PQF-style"), ("D", "MVQ"), ("MSVQ", "MSVQ")):
        those = [run for run in study["runs"] if run["case"] == case]
        mean = sum(run["accuracy"] for run in those) / len(those)
        sse = sum(run["sse"] for run in those) / len(those)
        yield row("ResNet-18, CIFAR-10 (ours)", name, f"{sse:.0f}", f"{mean:.2f}", f"{those[0]['accuracy_float']:.2f}")
    yield ""
    yield _source("table 5")
    yield ""
    yield "- Other images and other weights: errors compare within a network alone. ImageNet is not at hand for ours."


def table7() -> Rows:
    """Area by variant and size."""
    presets = _read("area-nangate45_typ")["presets"]
    names = {
        "WS": ["ws"],
        "WS-CMS": ["ws-cms"],
        "EWS": ["ews"],
        "EWS-C/CM": ["ews-c", "ews-cm"],
        "EWS-CMS": ["ews-cms"],
    }
    names["EWS-MSVQ"] = ["ews-msvq"]
    paper = values("table 7")
    header = [text for size in SIZES for text in (f"{size}: paper", "to EWS", "ours", "to EWS")]
    yield from _header("mm2", *header)
    for title, variants in names.items():
        cells = []
        for size in SIZES:
            theirs, base = paper.get(title, {}).get(str(size)), paper["EWS"][str(size)]
            found = [presets.get(f"{variant}-{size}", {}).get("total") for variant in variants]
            own, own_base = found, presets.get(f"ews-{size}", {}).get("total")
            shown = [f"{area / 1e6:.3f}" for area in own if area]
            changes = [f"{100 * (area / own_base - 1):+.0f} %" for area in own if area and own_base]
            cells += ["" if theirs is None else f"{theirs:.3f}"]
            cells += ["" if theirs is None else f"{100 * (theirs / base - 1):+.0f} %"]
            cells += [", ".join(shown), ", ".join(changes)]
        yield row(title, *cells)
    yield ""
    yield _source("table 7")
    yield ""
    yield (
        f"- Ours: {OURS}; 45 nm cells of a teaching library beside 40 nm of a foundry, both without layout.\n"
        "- Ours keeps the CRF of 512 x 16 bytes in flip-flops with read ports of gates: at 16 x 16 that is most"
        " of it.\n"
        "- The paper says register files, not how they are built; `make synth` with `--storage latch` is smaller.\n"
        "- The paper has no WS-CMS and no MSVQ there; of C and CM it has one figure, ours"
        " has both."
    )


def table8() -> Rows:
    """Costs of memories."""
    power = _optional("power-nangate45_typ")
    yield from _header("access", "paper, MAC", "ours, MAC a byte at 16", "at 64")
    for name, cost in values("table 8").items():
        yield row(name, cost, *_costs(name, power))
    yield ""
    yield _source("table 8")
    yield ""
    yield (
        "- An access's width is not published; here and in `make power` it is a byte.\n"
        "- Ours of L1 and L2: Horowitz's energies by capacity (ISSCC 2014) in multiply-accumulates of `ews` at 45 nm.\n"
        "- Register files: `make power` measures them as gates, by block and not by access."
    )


def _costs(name: str, power: Any) -> Iterator[str]:
    from synth.power.memories import access_energy

    for size in (16, 64):
        entry = (power or {}).get("presets", {}).get(f"ews-{size}")
        config = preset(f"ews-{size}")
        capacity = {"L2": config.l2_bytes, "L1": config.l1_ifmap_bytes}.get(name)
        if entry is None or capacity is None:
            yield ""
            continue
        yield f"{access_energy(capacity, entry['network'].get('voltage', 1.1)) / mac_energy(entry):.1f}"


def figure13() -> Rows:
    """Ratio by codewords, by equation 7; accuracy of ours where a study has it."""
    study = _read("table3-resnet18")
    layers = json.loads((ROOT / "sim" / "networks" / "shapes" / "resnet18.json").read_text())
    shapes = [entry["shape"] for entry in layers if entry["op"] == "layer" and not entry.get("raw")]
    weights = sum(K * C * R * S for K, C, R, S in shapes)
    accuracy = {entry["case"]: sum(entry["accuracy"]) / len(entry["accuracy"]) for entry in study["summary"]}
    yield from _header("codebooks", "k", "times smaller, equation 7", "ours on CIFAR-10, %")
    for kind, key, count in (("layerwise", "layerwise k", len(shapes)), ("crosslayer", "crosslayer k", 1)):
        for k in values("figure 13")[key]:
            bits = ceil(log2(k)) * weights / 16 + ceil(log2(comb(16, 4))) * weights / 16 + count * k * 16 * 8
            case = {("layerwise", 512): "D"}.get((kind, k))
            yield row(kind, k, f"{32 * weights / bits:.1f}", "" if case is None else f"{accuracy[case]:.2f}")
    yield ""
    yield _source("figure 13")
    yield ""
    yield (
        f"- Ratios of all convolutions of ResNet-18 but the first, 4:16, d = 16, codebooks of 8 bits. Our"
        f" crosslayer case has"
        f" k = 512 ({accuracy['D crosslayer']:.2f} %)."
    )


def figure15() -> Rows:
    """Cost of data access."""
    found, costs = runs(), values("table 8")
    header = [text for size in SIZES for text in (f"{size}: paper", "ours", "with DRAM")]
    yield from _header("EWS-CMS, times less than WS", *header)
    for network, theirs in values("figure 15").items():
        cells = []
        for size in SIZES:
            ratios = []
            for dram in (False, True):
                ws, cms = (found[network, name, size, 64] for name in ("WS", "EWS-CMS"))
                ratios.append(_cost(ws, costs, dram) / _cost(cms, costs, dram))
            cells += [theirs[str(size)], *(f"{ratio:.2f}" for ratio in ratios)]
        yield row(network, *cells)
    yield ""
    yield _source("figure 15")
    yield ""
    yield (
        "- Ours: bytes of L1 and L2 (and DRAM) times table 8, all layers but the first and the last. The paper"
        " does not say"
        " whether DRAM and register files are in it, nor what an access is wide.\n"
        "- MobileNet-v1 and the fully connected layers of VGG-16 and AlexNet: convolutions alone, without"
        " depthwise ones."
    )


def _scope(network: str) -> str:
    return "without_ends" if network.startswith("ResNet") else "convolutions"


def _config(run: Mapping[str, Any]) -> AcceleratorConfig:
    changes = [f"word_width={run['bus']}", f"l2_bytes={run['l2_bytes']}"]
    return preset(f"{run['variant']}-{run['size']}").override(changes)


def _cost(run: Mapping[str, Any], costs: Mapping[str, float], dram: bool) -> float:
    return access_cost(_config(run), run[_scope(NETWORKS[run["network"]])]["counters"], costs, dram)


def speeds(scope: str, size: int = 64, bus: int = 64) -> dict[str, dict[str, float]]:
    """How many times as fast as WS each variant is, by network."""
    found = runs()

    def cycles(network: str, variant: str) -> int:
        return int(found[network, variant, size, bus][scope]["counters"]["cycles"])

    return {
        network: {name: cycles(network, "WS") / cycles(network, name) for name in VARIANTS.values()}
        for network in NETWORKS.values()
    }


def figure17() -> Rows:
    """Speed beside WS, as the paper has it, with other scopes and other buses."""
    names = ("WS-CMS", "EWS", "EWS-CMS", "EWS-MSVQ")
    paper = values("figure 17")
    yield from _header("64 x 64, bus of 64 bits", *(f"{name}: paper, ours" for name in names))
    scopes = {
        "whole": "whole",
        "without_ends": "without the first and the last layer",
        "convolutions": "convolutions alone",
    }
    for scope, title in scopes.items():
        for network, found in speeds(scope).items():
            cells = [f"{paper[network].get(name, '')}, **{found[name]:.2f}**" for name in names]
            yield row(f"{network}, {title}", *cells)
    yield ""
    yield from _header("times WS, convolutions alone", *(f"{n}, {b} bits" for n in names for _, b in ARRAYS[2:]))
    by_bus = {bus: speeds("convolutions", 64, bus) for _, bus in ARRAYS[2:]}
    for network in NETWORKS.values():
        yield row(network, *(f"{by_bus[bus][network][name]:.2f}" for name in names for bus in by_bus))
    yield ""
    yield _source("figure 17")
    yield ""
    larger: dict[int, dict[str, None]] = {}
    for (network, _, size, _), run in runs().items():
        if size == 64:
            larger.setdefault(run["l2_bytes"] >> 20, {})[network] = None
    places = "; ".join(f"{size} MB: {', '.join(those)}" for size, those in sorted(larger.items()))
    yield (
        "- Weights come from DRAM for every image, at one word a cycle and 32 cycles of latency: 8-bit weights"
        " of 64 rows"
        " are bound by that bus, so that our EWS hardly gains on WS, and compressed weights gain more than the"
        " paper's.\n"
        "- The first layer has 3 of 64 channels and 8-bit weights, four passes of them on a sparse tile; the"
        " last has one position for each weight."
        " Whole networks"
        " are what a user waits for; the paper does not say which layers its figure has.\n"
        f"- L2: {places}. Maps that do not fit the paper's 2 MB would spill to DRAM there; here L2 is larger instead.\n"
        "- MobileNet-v1: depthwise layers take a tile for each band of channels and bound the whole network; the paper"
        " leaves them out, too."
    )


def figure18() -> Rows:
    """The roofline: bound, and where each network is."""
    found = runs()
    header = [
        text for name in ("EWS", "EWS-CMS", "EWS-MSVQ") for text in (f"{name}: MAC a byte", "MAC a cycle", "% of bound")
    ]
    yield from _header("64 x 64, bus of 64 bits, convolutions", *header)
    for network in NETWORKS.values():
        cells = []
        for name in ("EWS", "EWS-CMS", "EWS-MSVQ"):
            intensity, speed, bound = roofline_point(found[network, name, 64, 64])
            cells += [f"{intensity:,.0f}", f"{speed:,.0f}", f"{100 * speed / bound:.0f}"]
        yield row(network, *cells)
    yield ""
    yield _source("figure 18")
    yield ""
    yield (
        "- The bound is the smaller of 4,096 multiply-accumulates a cycle and 8 bytes a cycle times the"
        " multiply-accumulates"
        " that a byte from DRAM serves. The paper counts weights alone; ours has descriptors, codebooks and"
        " parameters, too."
    )


def roofline_point(run: Mapping[str, Any]) -> tuple[float, float, float]:
    """Multiply-accumulates a DRAM byte and a cycle, and those that array and bus allow a cycle."""
    scope = run["convolutions"]
    bytes_moved = (scope["counters"]["dram_reads"] + scope["counters"]["dram_writes"]) * run["bus"] // 8
    intensity = scope["macs"] / bytes_moved
    bound = min(float(run["size"] ** 2), intensity * run["bus"] / 8)
    return intensity, scope["macs"] / scope["counters"]["cycles"], bound


def efficiencies(network: str, size: int, entries: Mapping[str, Any] | None = None) -> dict[str, Energy]:
    """Energy of a network by variant, of those whose arrays were measured; empty without a report of energies."""
    report = _optional("power-nangate45_typ")
    presets = entries if entries is not None else (report or {}).get("presets", {})
    if not presets:
        return {}
    found = runs()
    energies = {}
    for variant, name in VARIANTS.items():
        entry = presets.get(f"{variant}-{size}")
        if entry is not None:
            run = found[network, name, size, 64]
            changes = {"l2_bytes": run["l2_bytes"]}
            # As in the report: the unit of table 8 is of the array of 8-bit weights, else of the instance itself.
            base = presets.get(f"ews-{size}", entry)
            energies[name] = network_energy(entry, mac_energy(base), run[_scope(network)], changes)
    return energies


NOT_YET = (
    "The energies for this are not committed (those of EWS or WS at the same size among them):"
    " `make power LIB=cells.lib`, then `python -m tools.papers`."
)


def figure16() -> Rows:
    """Power by part at the paper's clock."""
    rows = []
    for size in SIZES:
        for name, energy in efficiencies("ResNet-18", size).items():
            run = runs()["ResNet-18", name, size, 64]
            seconds = run[_scope("ResNet-18")]["counters"]["cycles"] / 300e6
            parts = (energy.operations, energy.rows, energy.waiting, energy.memories)
            cells = [f"{part * 1e-15 / seconds * 1e3:.1f}" for part in (*parts, sum(parts))]
            rows.append(row(f"{name} {size}", *cells, values("figure 16")[str(size)]))
    if not rows:
        yield NOT_YET
        return
    yield from _header(
        "mW at 0.3 GHz, ResNet-18", "computing", "rows of weights", "waiting", "memories", "all", "paper's axis"
    )
    yield from rows
    yield ""
    yield _source("figure 16")
    yield ""
    yield (
        f"- Ours: {OURS}; array, decoder, L1 and L2 (macro model); the paper has DMA and control, too, and 40 nm at"
        f" 0.99 V."
    )


def figure19() -> Rows:
    """Energy efficiency of the two ResNets."""
    yield from _efficiency_rows("figure 19", "TOPS/W", lambda energy, _: energy)


def figure20() -> Rows:
    """Energy efficiency beside WS."""

    yield from _efficiency_rows("figure 20", "times WS", lambda energy, base: energy / base if base else None)


#: How memories are counted in the two tables of efficiencies, and whether as the paper does.
_ACCOUNTS = {"memories by the macro model": False, "memories as the paper counts them": True}


def _efficiency_rows(figure: str, unit: str, value: Callable[[float, float | None], float | None]) -> Rows:
    found = False
    for account, staged in _ACCOUNTS.items():
        rows = []
        for network, sizes in values(figure).items():
            for size, theirs in sizes.items():
                energies = efficiencies(network, int(size))
                own = {name: energy.tops_per_watt(staged) for name, energy in energies.items()}
                if not own or (figure == "figure 20" and "WS" not in own):
                    continue
                cells = []
                for name in (*theirs, "EWS-MSVQ"):
                    ours = value(own[name], own.get("WS")) if name in own else None
                    paper_ratio, ratio = "", ""
                    if "EWS" in theirs and name in theirs and name != "EWS":
                        paper_ratio = f" ({theirs[name] / theirs['EWS']:.2f})"
                    if ours is not None and name != "EWS" and "EWS" in own:
                        ratio = f" ({own[name] / own['EWS']:.2f})"
                    text = "" if ours is None else f"**{ours:.2f}**"
                    cells.append(f"{theirs.get(name, '')}{paper_ratio}; {text}{ratio}")
                rows.append(row(f"{network} {size}", *cells))
                names = [*theirs, "EWS-MSVQ"]
        if rows:
            found = True
            yield from _header(f"{unit} (to EWS): paper; ours, {account}", *names)
            yield from rows
            yield ""
    if not found:
        yield NOT_YET
        yield ""
    yield _source(figure)
    yield ""
    yield (
        f"- Ours: {OURS}; energies of gates from trained weights and real activations, registers and pipeline"
        f" behind clock"
        " gates in all variants alike; DRAM, DMA and control not included. Memories by a macro model of 45 nm and what"
        " goes in and out of ours; or as the paper counts them, by its table 8 and with weights that are written to L2"
        " and read from there.\n"
        "- The paper: 40 nm at 0.99 V: voltage alone is a factor of 1.23. Compare the columns in brackets.\n"
        "- Layers: those of figure 15. A cell without ours: its array was not measured."
    )


def table9() -> Rows:
    """Other accelerators, and ours beside the best of them."""
    peers = values("table 9")
    yield from _header("", "nm", "GHz", "MACs", "sparsity", "workload", "mm2", "TOPS/W", "at 40 nm")
    for name, entry in peers.items():
        keys = ("nm", "GHz", "MACs", "sparsity", "workload", "mm2", "TOPS_W", "normalised")
        yield row(name, *(entry[key] for key in keys))
    for name, energy in efficiencies("AlexNet", 64).items():
        yield row(f"ours, {name}-64", 45, 0.3, "", "75 %", "AlexNet", "", _cell(energy.tops_per_watt()), "")
    yield ""
    yield _source("table 9")
    yield ""
    best, half = peers["S2TA 65 nm"], peers["MVQ-64, 50 %"]
    factor = best["normalised"] / best["TOPS_W"]
    yield (
        f"- Normalisation, from the table itself: S2TA's {best['TOPS_W']} TOPS/W at 65 nm become"
        f" {best['normalised']} at 40 nm, a"
        f" factor of {factor:.2f}; at 16 nm {peers['S2TA 16 nm']['TOPS_W']} become"
        f" {peers['S2TA 16 nm']['normalised']}, a factor of"
        f" {peers['S2TA 16 nm']['normalised'] / peers['S2TA 16 nm']['TOPS_W']:.3f}.\n"
        f"- The paper's {values('headlines')['to the best sparse accelerator']} is {half['TOPS_W']} /"
        f" {best['normalised']} ="
        f" {half['TOPS_W'] / best['normalised']:.3f}: AlexNet at 50 % beside S2TA at 65 nm.\n"
        f"{_own_s2ta(peers)}"
    )


def half_dense() -> Energy | None:
    """AlexNet's convolutions on ``ews-cms-64`` with ``N=8``; None without its energy."""
    presets = (_optional("power-nangate45_typ") or {}).get("presets", {})
    entry = presets.get("ews-cms-64 N=8")
    if entry is None:
        return None
    run = measure("alexnet", "ews-cms", 64, 64, ["N=8"])
    base = presets.get("ews-64", entry)
    return network_energy(entry, mac_energy(base), run[_scope("AlexNet")], {"l2_bytes": run["l2_bytes"]})


def _to_40_nm(peers: Mapping[str, Any]) -> dict[str, float]:
    """What the table itself takes from 45 nm to 40 nm, by the accelerators that it has at 45."""
    return {name: peers[name]["normalised"] / peers[name]["TOPS_W"] for name in ("SparTen", "SPOTS")}


def to_s2ta(energy: Energy, staged: bool) -> float:
    """How many times as efficient as S2TA at 65 nm, both normalised to 40 nm as MVQ's table 9 does it.

    Parameters
    ----------
    energy
        Of ours (:func:`half_dense`).
    staged
        As :meth:`synth.papers.energy.Energy.tops_per_watt` has it.
    """
    peers = values("table 9")
    factors = _to_40_nm(peers).values()
    ours = energy.tops_per_watt(staged) * sum(factors) / len(factors)
    return float(ours / peers["S2TA 65 nm"]["normalised"])


def _own_s2ta(peers: Mapping[str, Any]) -> str:
    energy, peer = half_dense(), peers["S2TA 65 nm"]["normalised"]
    if energy is None:
        return "- Ours at 50 % (`ews-cms-64` with `N=8`) has no committed energy: that line of the comparison is open."
    factors = _to_40_nm(peers)
    factor = sum(factors.values()) / len(factors)
    lines = [
        "- 45 nm to 40 nm, from the table itself: "
        + ", ".join(f"{name} {value:.3f}" for name, value in factors.items())
        + f"; mean {factor:.3f}."
    ]
    for account, staged in _ACCOUNTS.items():
        own = energy.tops_per_watt(staged)
        lines.append(
            f"- Ours at 50 % (`ews-cms-64` with `N=8`, AlexNet's convolutions), {account}: {own:.2f} TOPS/W at 45 nm"
            f" and 1.1 V. Normalised as the table does, {own:.2f} x {factor:.3f} = {own * factor:.2f} at 40 nm,"
            f" **{to_s2ta(energy, staged):.2f} times** S2TA's {peer}; taken as it is, {own / peer:.2f} times."
            f" The paper: {values('headlines')['to the best sparse accelerator']}."
        )
    return "\n".join(lines)


def ssvq() -> Rows:
    """SSVQ's three times."""
    speed = values("ssvq speed")["speed"]
    yield from _header(
        "DeiT-tiny, linear layers",
        "bus, bits",
        "MB a second",
        "ours, times 8 bits",
        "with activations in DRAM",
        "paper",
    )
    for entry in _read("networks-speed")["deit_tiny"]:
        size = entry["array"]
        cells = (entry["bus_bits"], entry["mbytes_a_second"], f"{entry['faster']:.2f}")
        yield row(f"{size} x {size}", *cells, f"{entry['faster_activations_from_dram']:.2f}", speed)
    yield ""
    yield _source("ssvq speed")
    yield ""
    yield (
        "- Array, bus, clock and bits of the paper's simulator are not published; at 1.5 bit a weight 5.33 is"
        " the most that"
        " a narrow bus can give, and an array that is never short of weights gives 1."
    )


def scalesim() -> Rows:
    """Layers on another weight stationary array."""
    report = _read("papers")["scalesim"]
    if report is None:
        yield "Not measured: `pip install 'msvq[papers]'`, then `make papers`."
        return
    found = runs()
    yield from _header("layer, 64 x 64", f"SCALE-Sim {report['version']}", "WS", "EWS", "EWS-CMS")
    for key, layers in report["networks"].items():
        network = NETWORKS[key]
        columns = [found[network, name, SCALESIM_SIZE, 64]["layers"] for name in ("WS", "EWS", "EWS-CMS")]
        for layer, cycles in layers.items():
            yield row(f"{network} {layer}", f"{cycles:,}", *(f"{own[layer]:,}" for own in columns))
        totals = [sum(own[layer] for layer in layers) for own in columns]
        yield row(f"**{network}, these**", f"**{sum(layers.values()):,}**", *(f"**{total:,}**" for total in totals))
    yield ""
    yield (
        "- SCALE-Sim shifts operands through the array: a fold of 64 x 64 weights takes 2 x 64 + 64 - 2 cycles"
        " more than its"
        " positions, and loads its weights through the array's edge; ours hands operands to all of a row at"
        " once, and loads"
        " the next weights while these compute.\n"
        "- Its memories answer at once; ours waits for the bus, which 8-bit weights of 64 x 64 fill: 512 cycles"
        " for a fold."
        " Where positions are fewer than that (7 x 7 and 14 x 14), ours waits, and compressed weights do not.\n"
        "- It flattens channels and kernel into folds of 64; ours takes 64 channels a kernel position: a first"
        " layer of 3"
        " channels fills 3 of 64 rows.\n"
        "- Ours has the hand-overs between layers; it has each layer alone."
    )


def contradictions() -> Rows:
    """Where the paper disagrees with itself."""
    area, headlines, peers = values("table 7"), values("headlines"), values("table 9")
    cms, ews, cm = (area[name]["64"] for name in ("EWS-CMS", "EWS", "EWS-C/CM"))
    small = area["EWS-CMS"]["16"] / area["EWS"]["16"]
    best = values("figure 19")["ResNet-18"]["64"]
    yield (
        f"- Abstract: the array is {headlines['array smaller than EWS, %']} % smaller than EWS. Table 7 at 64 x"
        f" 64: {cms} / {ews} is"
        f" {100 * (1 - cms / ews):.1f} % smaller; {100 * (1 - cms / cm):.1f} % is what EWS-C and CM give."
    )
    yield f"- Table 7 at 16 x 16: EWS-CMS is {100 * (small - 1):.0f} % larger than EWS, for its codebook registers."
    yield (
        f"- Abstract: {headlines['energy efficiency to EWS']} times the efficiency of EWS. Figure 19 at 64 x 64 says"
        f" {best['EWS-CMS'] / best['EWS']:.2f} on ResNet-18, at 16 x 16"
        f" {values('figure 19')['ResNet-18']['16']['EWS-CMS'] / values('figure 19')['ResNet-18']['16']['EWS']:.2f}."
    )
    peak = 2 * 64 * 64 * 0.3 / 1e3
    yield (
        f"- Table 9: the peak of MVQ-64, 2 x 64 x 64 x 0.3 GHz = {peak:.2f} TOPS, counts products that are skipped; its"
        f" {peers['MVQ-64']['MACs']} multipliers do {2 * peers['MVQ-64']['MACs'] * 0.3 / 1e3:.2f}."
    )
    yield (
        "- Table 4: of two rows of MobileNet-v1 at 50 %, one has 0.29 G and one 0.56 G operations; the second is"
        " the dense figure."
    )
    yield "- Section 2.1 says that N of M weights are pruned; sections 4.3 and 5.3, and every ratio, that N are kept."


def parts() -> dict[str, Callable[[], Rows]]:
    """What each marked part of the page consists of."""
    tables: tuple[Callable[[], Rows], ...] = (table2, table5, table7, table8, table9)
    figures = (figure13, figure15, figure16, figure17, figure18, figure19, figure20)
    found = (*tables, *figures, ssvq, scalesim, contradictions)
    return {function.__name__: function for function in found}


def _take_built() -> None:
    """The last runs' results become those of the page."""
    built = ROOT / "build" / "papers" / "papers.json"
    if built.exists():
        (RESULTS / "papers.json").write_text(built.read_text())


_PAGE = Page(PAGE, parts)
render = _PAGE.render
main = _PAGE.command("tools.papers", __doc__, before=_take_built)


if __name__ == "__main__":
    sys.exit(main())
