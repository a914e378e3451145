"""``python -m tools.answers``: what the committed accuracies say to the questions of the papers, in docs/training.md.

Every figure is of ``table3-*.json``, ``signs-*.json`` and ``narrow-*.json`` in ``docs/results``: means over the seeds,
in per cent. The first two are drawn, too, as ``docs/results/STUDY.svg``.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.drawing import AMBER, BLUE, GREEN, RED
from tools.marked import Page, row

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"
RESULTS = ROOT / "docs" / "results"

#: Studies with committed results, and what their networks are called in tables.
STUDIES = {
    "table3-resnet18": "ResNet-18",
    "table3-resnet20": "ResNet-20",
    "signs-vit": "transformer",
    "signs-vit-narrow": "narrow transformer",
    "signs-mobilenetv2": "MobileNet-v2",
}

#: Studies of narrow codewords, and their networks.
NARROW = {
    "narrow-resnet20": "ResNet-20",
    "narrow-resnet18": "ResNet-18",
    "narrow-vit": "transformer",
    "narrow-dinov2-s": "ViT-S/14",
}

#: Fine-tuning of the transformer by its number of epochs; before any, the accuracies before it.
EPOCHS = {
    0: "signs-vit",
    1: "ablations/epochs-1/signs-vit",
    3: "ablations/epochs-3/signs-vit",
    10: "signs-vit",
    40: "ablations/epochs-40/signs-vit",
}

#: What is compared there and in the answers: plain VQ, and SSVQ as its paper has it.
VQ, FROZEN = ("VQ d=4", "VQ d=8"), "SSVQ frozen, majority"

#: Colours of the pictures, by how a case's name begins without its size.
_COLOURS = {"D": BLUE, "MVQ": BLUE, "MSVQ": GREEN, "SSVQ": RED, "mixed": AMBER}

#: A file counts as within a budget up to this share above it.
_OVER = 1.005


@dataclass(frozen=True)
class Case:
    """The runs of a case: accuracies of its seeds and of the network it started from, bytes of its file, equation 7."""

    name: str
    accuracies: list[float]
    start: float
    file_bytes: int
    ratio: float

    @property
    def mean(self) -> float:
        """Over the seeds."""
        import numpy as np

        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds; 0 of one."""
        import numpy as np

        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


def cases(study: str, accuracy: str = "accuracy") -> dict[str, Case]:
    """The cases of a study's committed results, by name. ``accuracy``: which one, by its key in the results."""
    found: dict[str, Case] = {}
    for run in json.loads((RESULTS / f"{study}.json").read_text())["runs"]:
        name = run["case"]
        case = found.setdefault(name, Case(name, [], run["accuracy_float"], run["file_bytes"], run["ratio_ideal"]))
        case.accuracies.append(run[accuracy])
    return found


def verdict_row(question: str, network: str, case: Case, other: Case) -> str:
    ahead, both = case.mean - other.mean, math.hypot(case.deviation, other.deviation)
    names = [f"{x.name} {x.mean:.2f} ({x.file_bytes / 1000:,.1f} kB)" for x in (case, other)]
    verdict = "within the spread" if abs(ahead) <= both else "yes" if ahead > 0 else "no"
    seeds = min(len(case.accuracies), len(other.accuracies))
    return row(question, network, *names, f"{ahead:+.2f} ± {both:.2f}", seeds, verdict)


def _best_single(found: dict[str, Case], limit: int) -> Case:
    """The most accurate case with one recipe for all layers whose file keeps within that many bytes."""
    fitting = [x for x in found.values() if x.file_bytes <= _OVER * limit and "mixed" not in x.name]
    return max(fitting, key=lambda case: case.mean)


def best_vq(found: dict[str, Case]) -> Case:
    return max((found[name] for name in VQ if name in found), key=lambda case: case.mean)


def epochs_part() -> Iterator[str]:
    """SSVQ beside plain VQ on the transformer, one row a number of epochs."""
    from experiments.common import spread

    yield row("epochs", *VQ, FROZEN, "SSVQ ahead by", "seeds")
    yield "|--:|--:|--:|--:|--:|--:|"
    for epochs, study in EPOCHS.items():
        found = cases(study, "accuracy" if epochs else "accuracy_before")
        means = [spread(found[name].accuracies) if name in found else "" for name in (*VQ, FROZEN)]
        ahead = found[FROZEN].mean - best_vq(found).mean
        yield row(epochs, *means, f"{ahead:+.2f}", len(found[FROZEN].accuracies))


def answers_part() -> Iterator[str]:
    """One row a question and network."""
    from experiments import table3

    yield row("is ... ahead of ...", "network", "this", "that", "by", "seeds", "")
    yield "|---|---|---|---|--:|--:|---|"
    tables, signs = (
        {network: cases(study) for study, network in STUDIES.items() if study.startswith(name)}
        for name in ("table3", "signs")
    )
    for network, found in tables.items():
        for other in "ABC":
            yield verdict_row(f"MVQ's case D of {other}", network, found["D"], found[other])
    for network, found in tables.items():
        yield verdict_row("MVQ of PQF-style VQ", network, found["D"], found["PQF-style"])
    found = tables["ResNet-18"]
    yield verdict_row("MSVQ of MVQ", "ResNet-18", found["MSVQ k=32"], found["D"])
    for network, found in tables.items():
        yield verdict_row("MSVQ of MVQ", network, found["MSVQ"], found["D"])
    vit = signs["transformer"]
    for name in ("MSVQ 4:16 k=32", "MSVQ 4:16, MVQ's bits"):
        yield verdict_row("MSVQ of MVQ", "transformer", vit[name], vit["MVQ 4:16 k=512"])
    fixed, learned, average = "SSVQ fixed signs", "SSVQ learned signs", "SSVQ frozen, EMA"
    for network, found in signs.items():
        yield verdict_row("SSVQ of VQ", network, found[FROZEN], best_vq(found))
    for network, found in signs.items():
        yield verdict_row("learned of fixed signs", network, found[learned], found[fixed])
        yield verdict_row("frozen of learned signs", network, found[FROZEN], found[learned])
        if average in found:
            yield verdict_row("majority of EMA", network, found[FROZEN], found[average])
    for key in ("resnet18", "resnet20"):
        network = STUDIES[f"table3-{key}"]
        found = tables[network]
        for case in table3.cases(key):
            if case.file_bytes and case.sparse:
                best = _best_single(found, case.file_bytes)
                yield verdict_row("mixed search of every single recipe", network, found[case.name], best)
    yield ""
    found = tables["ResNet-18"]
    yield (
        f"Case D on ResNet-18 has {found['D'].mean:.2f}; the dense network has {found['A'].start:.2f}, the sparse one "
        f"that D starts from {found['D'].start:.2f}."
    )


def narrow_part() -> Iterator[str]:
    """Narrow codewords beside those of 8 bits, one row a network and method."""
    from experiments import narrow
    from experiments.common import spread

    widths = (8, *narrow.BITS)
    yield row("network", "method", *(f"{bits} bits" for bits in widths), "4 behind 8 by", "seeds")
    yield "|---|---|" + "--:|" * (len(widths) + 2)
    for study, network in NARROW.items():
        found = cases(study)
        for method in dict.fromkeys(name.partition(",")[0] for name in found):
            by_bits = {bits: found[name] for bits in widths if (name := f"{method}, {bits} bits") in found}
            cells = [
                f"{spread(case.accuracies)} ({case.file_bytes / 1000:,.1f} kB)" if (case := by_bits.get(bits)) else ""
                for bits in widths
            ]
            behind = by_bits[8].mean - by_bits[4].mean
            yield row(network, method, *cells, f"{behind:.2f}", len(by_bits[4].accuracies))


def picture(study: str) -> str:
    """Accuracies of a study's cases as SVG, the best at the top: each seed, and the mean."""
    from tools.drawing import FAINT, GREY, LINE, Drawing

    found = sorted(cases(study).values(), key=lambda case: -case.mean)
    low, high = (f([x for case in found for x in (*case.accuracies, case.start)]) for f in (min, max))
    low, high = math.floor(low), math.ceil(high)
    left, wide, top, pitch = 250, 400, 58, 19
    bottom = top + pitch * len(found)
    drawing = Drawing(left + wide + 190, bottom + 34, f"Accuracy on {STUDIES[study]}")

    def x(percent: float) -> float:
        return left + wide * (percent - low) / (high - low)

    drawing.text(
        20, 26, f"{STUDIES[study]}, CIFAR-10: accuracy of the file's integers, per cent", 14, anchor="start", bold=True
    )
    drawing.text(20, 43, "dots: seeds; bar: mean; grey: the network that it started from", 11, FAINT, "start")
    for percent in range(low, high + 1):
        drawing.parts.append(f'<path d="M{x(percent):g} {top - 6}V{bottom}" stroke="{GREY}" stroke-width="0.75"/>')
        drawing.text(x(percent), bottom + 16, str(percent), 11, FAINT)
    drawing.text(left + wide + 24, top - 8, "file, ratio by equation 7", 11, FAINT, "start")
    for i, case in enumerate(found):
        y = top + pitch * (i + 0.5)
        family = re.sub(r"^\d+x ", "", case.name).replace(",", " ").split()[0]
        colour = _COLOURS.get(family, FAINT)
        drawing.text(left - 16, y + 4, case.name, 12, colour, "end")
        drawing.box(x(case.start) - 1, y - 6, 2, 12, LINE, radius=0)
        for accuracy in case.accuracies:
            drawing.parts.append(
                f'<circle cx="{x(accuracy):.2f}" cy="{y:g}" r="3" fill="{colour}" fill-opacity="0.45"/>'
            )
        drawing.box(round(x(case.mean), 2) - 1.25, y - 7, 2.5, 14, colour, radius=1)
        text = f"{case.file_bytes / 1000:,.1f} kB, {case.ratio:.1f}x"
        drawing.text(left + wide + 24, y + 4, text, 11, FAINT, "start")
    return drawing.svg()


def _draw() -> None:
    for study in STUDIES:
        path = RESULTS / f"{study}.svg"
        path.write_text(picture(study))
        print(path)


_PAGE = Page(PAGE, lambda: {"answers": answers_part, "epochs": epochs_part, "narrow": narrow_part})
render = _PAGE.render
main = _PAGE.command("tools.answers", __doc__, after=_draw)


if __name__ == "__main__":
    sys.exit(main())
