"""``python -m tools.tasks``: what the committed results of the studies of accuracy say, in docs/tasks.md.

All are in ``docs/results``: ``tiny-*.json``, ``distil-*.json``, ``measured-*.json``, ``fewshot-*.json``,
``tries-*.json`` and ``photographs.json``, and tables in ``.md`` files.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from tools.answers import RESULTS, ROOT, Case, best_vq, cases, verdict_row
from tools.marked import Page, Part, row

PAGE = ROOT / "docs" / "tasks.md"

#: Studies with committed results, and what their networks are called.
STUDIES = {"tiny-dinov2-s": "ViT-S/14", "tiny-resnet18-64": "ResNet-18"}

#: As :data:`STUDIES`, of the networks that learn from the dense one.
TAUGHT = {"distil-dinov2-s": "ViT-S/14", "distil-resnet18-64": "ResNet-18", "distil-mobilenetv2-64": "MobileNet-v2"}

#: As :data:`TAUGHT`, of those whose layers have bits of their own.
MEASURED = {"measured-resnet18-64": "ResNet-18", "measured-mobilenetv2-64": "MobileNet-v2"}

#: What is asked of both: of each method the case that does best on the images held out, at the size that rates were
#: tried at.
TAUGHT_QUESTIONS = (
    ("SSVQ", "VQ"),
    ("MVQ", "VQ"),
    ("MSVQ", "VQ"),
    ("MSVQ", "MVQ"),
    ("MSVQ", "SSVQ"),
    ("SSVQ", "DKM"),
    ("MSVQ", "DKM"),
)

#: Networks of :mod:`experiments.fewshot`.
FEWSHOT = {"efficientnet-lite0": "EfficientNet-Lite0", "mobilenetv2": "MobileNet-v2"}

#: Studies of :mod:`experiments.vision`.
PICTURES = ("camvid", "detect")

#: Other tables of the page.
TABLES = (
    *STUDIES,
    *TAUGHT,
    *MEASURED,
    "rates-tiny-dinov2-s",
    "rates-distil-dinov2-s",
    "rates-distil-resnet18-64",
    "rates-distil-mobilenetv2-64",
    *(f"rates-{study}" for study in MEASURED),
    "gpt",
    *PICTURES,
    "detect-10000",
    "detect-5000",
    "detect-1000",
    "detect-own",
    "detect-own-photographs",
    "minilm",
)

#: What is asked: of one case, whether it is ahead of another one; "VQ": the better one of those that were run.
QUESTIONS = (
    ("SSVQ of VQ", "SSVQ", "VQ"),
    ("learned of fixed signs", "SSVQ learned signs", "SSVQ fixed signs"),
    ("frozen of learned signs", "SSVQ", "SSVQ learned signs"),
    ("majority of EMA", "SSVQ", "SSVQ frozen, EMA"),
    ("SSVQ of LSQ 2 bit", "SSVQ", "LSQ 2 bit"),
    ("MVQ of VQ", "MVQ", "VQ"),
    ("MSVQ of MVQ", "MSVQ", "MVQ"),
    ("MSVQ of SSVQ", "MSVQ", "SSVQ"),
)


#: Head of the tables of what is ahead of what.
_VERDICTS = (row("is ... ahead of ...", "network", "this", "that", "by", "seeds", ""), "|---|---|---|---|--:|--:|---|")


def _sizes(studies: Mapping[str, str], sizes: Iterable[str]) -> Iterator[tuple[str, dict[str, Case], str, str]]:
    """Of each study and size: the study, its cases, what those of the size begin with, and how tables call them."""
    for study, network in studies.items():
        found = cases(study)
        for size in sizes:
            yield study, found, size, f"{network}, {size or '21x '}".strip()


def answers_part() -> Iterator[str]:
    """One row a question, network and size, and one of what both lose where this one had the better start."""
    yield from _VERDICTS
    for _, found, size, name in _sizes(STUDIES, ("", "16x ", "26x ", "30x ", "32x ")):
        for question, this, that in QUESTIONS:
            case, other = found.get(size + this), _case(found, size, that)
            if case is None or other is None:
                continue
            yield verdict_row(question, name, case, other)
            if case.start > other.start:
                yield verdict_row(f"{question}, each against its own float", name, _change(case), _change(other))


def _change(case: Case) -> Case:
    """A case, its accuracies those above the network that it started from: below 0 where there is a loss."""
    return dataclasses.replace(case, accuracies=[accuracy - case.start for accuracy in case.accuracies])


def _of_methods(studies: Mapping[str, str]) -> Iterator[str]:
    """One row a network, size and pair of methods."""
    for study, found, size, name in _sizes(studies, ("", "16x ", "26x ", "30x ")):
        best = {method: _best(study, found, size, method) for pair in TAUGHT_QUESTIONS for method in pair}
        for this, that in TAUGHT_QUESTIONS:
            ahead, other = best[this], best[that]
            if ahead is not None and other is not None:
                yield verdict_row(f"{this} of {that}", name, found[ahead], found[other])


def taught_part() -> Iterator[str]:
    """The same of networks that learn from the dense one."""
    yield from _VERDICTS
    yield from _of_methods(TAUGHT)
    for study, network in TAUGHT.items():
        found = cases(study)
        if "SSVQ, moving" in found:
            yield verdict_row("moving of fixed assignments", f"{network}, 21x", found["SSVQ, moving"], found["SSVQ"])


def measured_part() -> Iterator[str]:
    """As :func:`taught_part` where layers have bits of their own; and what these bring, and moving assignments."""
    yield from _VERDICTS
    yield from _of_methods(MEASURED)
    for study, found, size, name in _sizes(MEASURED, ("26x ", "30x ")):
        equal_study = study.replace("measured", "distil")
        equal = cases(equal_study)
        for method in ("SSVQ", "MVQ", "MSVQ"):
            own, other = _best(study, found, size, method), _best(equal_study, equal, size, method)
            if own is not None and other is not None:
                yield verdict_row(f"{method}, measured of equal bits", name, found[own], equal[other])
    for _, found, size, name in _sizes(MEASURED, ("26x ", "30x ")):
        for method in ("SSVQ", "MVQ", "MSVQ"):
            fixed, moving = found.get(size + method), found.get(f"{size}{method}, moving")
            if fixed is not None and moving is not None:
                yield verdict_row(f"{method}, moving of fixed assignments", name, moving, fixed)


def _best(study: str, found: Iterable[str], size: str, method: str) -> str | None:
    """Of a method's cases with final runs, the one that does best on the images held out; of a size, if not 21x.

    A case that was not tried counts as the one of 21x.
    """
    own = [name for name in found if re.fullmatch(rf"{size}{method}\b[^x]*", name.replace("d=8", ""))]
    tried = json.loads((RESULTS / f"rates-{study}.json").read_text())["runs"]
    scores: dict[str, float] = {}
    for run in tried:
        scores[run["case"]] = max(scores.get(run["case"], 0.0), run["accuracy"])
    return max(own, key=lambda name: scores.get(name, scores.get(name.removeprefix(size), 0.0)), default=None)


#: Columns of :func:`glance_part`, and whose assignments move in GPT.
_METHODS = ("VQ", "MVQ", "SSVQ", "MSVQ")
_MOVING = ("SSVQ", "MSVQ")

#: How the networks of a study are trained.
_TRAINED = (("fine-tuned", STUDIES), ("distilled", TAUGHT), ("distilled, bits measured", MEASURED))

#: Studies of :mod:`experiments.vision`: the task, its measure and the sizes of the files.
_VISION = {
    "camvid": ("CamVid, MobileNet-v2 and decoder", "mIoU", ("19x",)),
    "detect": ("COCO's 128 images, FastestDet", "AP50", ("20x", "14x", "10x")),
}


def glance_part() -> Iterator[str]:
    """All tasks, a row each: the float network, and of each method what it has at the same bytes."""
    yield row("task", "measure", "size", "trained", "float", *_METHODS)
    yield "|---|---|---|---|--:|" + "--:|" * len(_METHODS)
    for trained, studies in _TRAINED:
        for study, found, size, name in _sizes(studies, ("", "16x ", "26x ", "30x ", "32x ")):
            best = {method: _best(study, found, size, method) for method in _METHODS if studies is not STUDIES}
            own = [found.get(best[name] or "") if best else _case(found, size, name) for name in _METHODS]
            if None not in own[1:]:
                network, _, size = name.rpartition(", ")
                values = ("" if case is None else _spread(case.accuracies) for case in own)
                # SSVQ starts from the dense network in all of them.
                yield row(f"Tiny-ImageNet, {network}", "accuracy", size, trained, f"{own[2].start:.2f}", *values)  # type: ignore[union-attr]
    for study, (task, measure, sizes) in _VISION.items():
        report = json.loads((RESULTS / f"{study}.json").read_text())
        rows = {each["case"]: _spread(each["figures"]) for each in report["summary"]}
        (dense,) = (report["float"]["scores"][key] for key in ("miou", "ap50") if key in report["float"]["scores"])
        for size in sizes:
            cells = (rows.get(f"{size} {name}", "") for name in _METHODS)
            yield row(task, measure, size, "distilled", f"{dense:.2f}", *cells)
    report = json.loads((RESULTS / "gpt.json").read_text())
    rows = {each["case"]: _spread(each["perplexity"], 3) for each in report["summary"]}
    for size in ("2 bits", "3 bits"):
        cells = (rows.get(f"{size}, {name}{', moving' * (name in _MOVING)}", "") for name in _METHODS)
        yield row("bytes of text, GPT", "perplexity", size, "fine-tuned", f"{report['dense']:.3f}", *cells)
    report = json.loads((RESULTS / "minilm.json").read_text())
    tuned = [run for run in report["runs"] if run["steps"]]
    dense = f"{report['float']['scores']['test']:.2f}"
    for size in ("2 bits", "3 bits"):
        of_methods = ([run for run in tuned if run["case"] == f"{size}, {name}"] for name in _METHODS)
        cells = (_spread(_of_best_rate(runs)) for runs in of_methods)
        yield row("STS-B, MiniLM-L6", "rank correlation", size, "distilled", dense, *cells)


def _spread(figures: Sequence[float], decimals: int = 2) -> str:
    """:func:`experiments.common.spread`; of no figures nothing."""
    from experiments.common import spread

    return spread(figures, decimals) if figures else ""


def _of_best_rate(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """MiniLM's figures of the test part, with the rate that the dev part chooses by the first seed."""
    first = min((run["seed"] for run in runs), default=0)
    best = max((run for run in runs if run["seed"] == first), key=lambda run: run["dev"], default=None)
    return [] if best is None else [run["test"] for run in runs if run["lr"] == best["lr"]]


def _other_pictures(report: dict[str, Any]) -> int:
    """How many large ones, beside the images."""
    more = report["more_images"]
    made: int = report.get("made_images", 0)
    return made + (sum(more) if isinstance(more, list) else more)


def _final_runs(network: str) -> list[tuple[bool, dict[str, Any]]]:
    """Whether its file is kept, and the report, of each final run: the kept one, then those of most pictures."""
    paths = RESULTS.glob(f"fewshot-{network}*.json")
    found = [(path.stem == f"fewshot-{network}", json.loads(path.read_text())) for path in paths]
    return sorted(found, key=lambda own: (not own[0], -_other_pictures(own[1]), -own[1]["steps"]))


def fewshot_part() -> Iterator[str]:
    """The networks that were tuned with few images: each final run a row, first that whose file is kept."""
    headings = ("network", "other pictures", "assignments", "rate", "steps", "float", "before training", "file", "lost")
    yield row(*headings, "divergence", "bytes", "ratio, eq. 7", "ratio, whole file", "time")
    yield "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for network, title in FEWSHOT.items():
        for kept, report in _final_runs(network):
            dense, start, found = (report[key]["odd classes"] for key in ("float", "reconstructed", "integers"))
            yield row(
                f"**{title}**" if kept else title,
                f"{_other_pictures(report):,}",
                "move" if report["moving"] else "move in VQ" if report.get("move_plain") else "stay",
                f"{report['lr']:g}",
                f"{report['steps']:,}",
                *(f"{value:.1f}" for value in (dense, start, found, dense - found)),
                f"{report['distilled']['odd classes, divergence']:.3f}",
                f"{report['bytes']:,}",
                f"{report['ratio_ideal']:.2f}",
                f"{report['ratio_whole_file']:.2f}",
                f"{report['seconds']:.0f} s",
            )


def scored_part() -> Iterator[str]:
    """The kept files on images of ImageNet's validation set (:mod:`experiments.score`)."""
    yield row("network", "images", "float", "file", "lost", "float alone right", "file alone right")
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for network, title in FEWSHOT.items():
        report = json.loads((RESULTS / f"scored-{network}.json").read_text())
        own = report["containers"][f"{network}.msvq"]
        yield row(
            title,
            f"{report['images']:,}",
            *(f"{own[name]:.1f}" for name in ("float", "accuracy")),
            f"{own['lost']:.1f} ± {own['error']:.1f}",
            *(f"{own[name]:,}" for name in ("float_alone", "container_alone")),
        )


def scored_others_part() -> Iterator[str]:
    """What those images say of the files that are not kept: a sentence each."""
    for network, title in FEWSHOT.items():
        report = json.loads((RESULTS / f"scored-{network}.json").read_text())
        for name, own in report["containers"].items():
            if name != f"{network}.msvq":
                yield (
                    f"- {title}'s file of {_steps(name)} steps, which is not kept, has {own['accuracy']:.1f} per cent"
                    f" of them right: {own['lost']:.1f} ± {own['error']:.1f} are lost."
                )


def _steps(file: str) -> str:
    """Of a file that was measured beside the kept one, as its name has them."""
    return f"{int(file.removesuffix('.msvq').rpartition('-')[2]):,}"


def chosen_part() -> Iterator[str]:
    """The files of the last final runs on pictures that no run has tuned with, to choose one by."""
    yield row("network", "steps", "pictures", "images", "divergence", "less than the other", "the same class", "more")
    yield "|---|--:|---|--:|--:|--:|--:|--:|"
    for network, title in FEWSHOT.items():
        report = json.loads((RESULTS / f"chosen-{network}.json").read_text())
        sets = [(own["pictures"], own["images"], own["containers"]) for own in report["sets"]]
        for name in report["containers"]:
            for pictures, images, found in [*sets, ("all", report["images"], report["containers"])]:
                own = found[name]
                other = None if name == next(iter(found)) else own["from_first"]
                yield row(
                    f"**{title}**" if name == report["least_divergence"] else title,
                    _steps(name),
                    pictures,
                    f"{images:,}",
                    f"{own['divergence']:.3f} ± {own['divergence_error']:.3f}",
                    "" if other is None else f"{-other['divergence']:.3f} ± {other['divergence_error']:.3f}",
                    f"{own['agreement']:.1f} ± {own['agreement_error']:.1f}",
                    "" if other is None else f"{other['agreement']:.1f} ± {other['agreement_error']:.1f}",
                )


def tries_part() -> Iterator[str]:
    """What was tried on the images held out, with few images."""

    yield row(
        *(
            "network",
            "bits",
            "small views",
            "made",
            "made views",
            "block outputs",
            "logits",
            "signs",
            "plain layers",
            "mixed",
            "crop",
            "rate",
            "steps",
        ),
        *("reconstructed", "file", "divergence"),
    )
    yield "|---|---|--:|--:|--:|--:|--:|---|---|--:|--:|--:|--:|--:|--:|--:|"
    for run in json.loads((RESULTS / "tries-fewshot.json").read_text())["runs"]:
        if "more_views" in run:
            continue
        plain = any(recipe[0] == "vq" for recipe in run["recipes"].values())
        bits = "equal" if not run["allocated"] else "by sensitivity, VQ too" if plain else "by sensitivity"
        yield row(
            FEWSHOT[run["network"]],
            bits,
            # The first tries were made before there were these options.
            *(f"{run.get(name, 0):,}" for name in ("small_views", "made_images", "made_views")),
            *(f"{run[name]:g}" for name in ("features", "logits")),
            "move" if run["moving"] else "learned" if run["learned_signs"] else "fixed",
            ("move" if run["moving"] or run.get("move_plain", False) else "stay") if plain else "",
            *(f"{value:g}" for value in (run["mix"], run.get("crop", 0.2), run["lr"])),
            f"{run['steps']:,}",
            f"{run['reconstructed']['held out']:.0f}",
            f"{run['integers']['held out']:.0f}",
            f"{run['distilled']['held out, divergence']:.3f}",
        )


def _separate(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A run of ``--try`` as one of each try, without a mean of the weights; others as they are."""
    for tried in run.get("tries", ()):
        found = tried["on_the_way"][-1]
        own = {name: value for name, value in found.items() if not name.startswith("averaged, ")}
        pictures = {name: run[f"{name}_images"] if tried[name] else 0 for name in ("small", "made")}
        yield {
            **run,
            **{f"{name}_images": count for name, count in pictures.items()},
            **{name: tried[name] for name in ("steps", "lr", "batch", "average")},
            # The file is of one of them, and of its mean.
            "integers": {},
            "distilled": own,
            "averaged": found["averaged, judging, divergence"],
        }
    if "tries" not in run:
        yield run


def photographs_part() -> Iterator[str]:
    """What was tried on the images held out since there are thousands of photographs."""

    headings = ("network", "codewords", "assignments", "photographs", "to compress with", "small", "made", "batch")
    yield row(*headings, "rate", "steps", "before training", "file", "divergence", "of photographs", "average")
    yield "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for run in json.loads((RESULTS / "tries-fewshot.json").read_text())["runs"]:
        if "more_views" not in run:
            continue
        for own in _separate(run):
            many = own["more_images"]
            divergences = own["distilled"].get("judging, divergence"), own.get("averaged")
            yield row(
                FEWSHOT[own["network"]],
                "both" if own["wide"] else "SSVQ, VQ of large layers",
                "move" if own["moving"] else "move in VQ" if own["move_plain"] else "stay",
                " + ".join(f"{each:,}" for each in (many if isinstance(many, list) else [many])),
                *(f"{own[name]:,}" for name in ("more_views", "small_images", "made_images", "batch")),
                f"{own['lr']:g}",
                f"{own['steps']:,}",
                f"{own['reconstructed']['held out']:.0f}",
                f"{own['integers']['held out']:.0f}" if own["integers"] else "",
                f"{own['distilled']['held out, divergence']:.3f}",
                *("" if value is None else f"{value:.3f}" for value in divergences),
            )


def sources_part() -> Iterator[str]:
    """The repositories that photographs are from, one row each."""

    yield row("pictures", "commit", "directory", "licence stated", "read", "left out", "written")
    yield "|---|---|---|---|--:|--:|--:|"
    sources = json.loads((RESULTS / "photographs.json").read_text())["sources"]
    for source in sources:
        yield row(
            f"{source['name']}: [{source['repository']}](https://github.com/{source['repository']})",
            source["commit"][:12],
            source["directory"],
            source["licence"] or "none",
            *(f"{number:,}" for number in (source["read"], source["read"] - source["written"], source["written"])),
        )
    read, written = (sum(source[kind] for source in sources) for kind in ("read", "written"))
    yield row("all", "", "", "", *(f"{number:,}" for number in (read, read - written, written)))


def _detect_tries() -> list[dict[str, Any]]:
    """The runs of detection that tried a setting, on the images held out."""
    found: list[dict[str, Any]] = json.loads((RESULTS / "tries-detect.json").read_text())["runs"]
    return found


def _changed(run: Mapping[str, Any], settings: Iterable[tuple[str, object, str]]) -> str:
    """What of these settings a run has otherwise than usual."""
    given = {**run, **run.get("views", {})}
    return ", ".join(text.format(given[name]) for name, usual, text in settings if given[name] != usual)


def detect_tries_part() -> Iterator[str]:
    """What was tried on the images held out, in detection: SSVQ and MSVQ side by side."""

    headings = ("bits", "rows of one energy", "outputs", "small pictures", "mixed", "rate", "steps")
    methods = ("SSVQ", "MSVQ")
    yield row(*headings, *(f"{method}, {figure}" for method in methods for figure in ("divergence", "AP50")))
    yield "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|"
    found: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    for run in _detect_tries():
        if "whole" in run or "data_part" in run["views"]:
            continue
        setting = (
            "measured" if run["allocate"] else "equal",
            "yes" if run["level"] else "no",
            f"{run['features']:g}",
            "a third" if run["views"]["small"] else "none",
            f"{run['views']['mix']:g}",
            f"{run['lr']:g}",
            f"{run['steps']:,}",
        )
        found.setdefault(setting, {})[run["case"].split()[1]] = run["trained"]
    for chosen, scores in found.items():
        figures = (
            f"{scores[method][name]:.1f}" if method in scores else ""
            for method in methods
            for name in ("divergence", "ap50")
        )
        yield row(*chosen, *figures)


#: What the tries of detection change that were made side by side: an option, what it is else, and what the change is.
_CHANGES: tuple[tuple[str, object, str], ...] = (
    ("gradual", 0.0, "gradual, the first {:g}"),
    ("fixed", 0.0, "fixed statistics, the last {:g}"),
    ("features", 100.0, "outputs {:g}"),
    ("lr", 0.01, "rate {:g}"),
    ("least", 0.2, "mild views"),
    ("batch", 32, "batch {:g}"),
    ("measured", 32, "bits of {:g} images"),
)


def detect_photographs_part() -> Iterator[str]:
    """As :func:`detect_tries_part`, since there are thousands of photographs, by two numbers of whole pictures."""

    methods, numbers = ("SSVQ", "MSVQ"), ("64", "256")
    figures = (*(f"divergence, {number}" for number in numbers), "trained with", "AP50")
    yield row("change", "photographs", "steps", *(f"{method}, {name}" for method in methods for name in figures))
    yield "|---|---|--:" + 2 * len(figures) * "|--:" + "|"
    found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for run in _detect_tries():
        if "whole" in run:
            own = run["views"]["own"]
            share = "half" if own is None else f"{1 - own:g}"
            found.setdefault((run["phase"], _changed(run, _CHANGES), share), {})[run["case"].split()[1]] = run
    for (_, change, share), runs in found.items():
        steps = " and ".join(dict.fromkeys(f"{runs[method]['steps']:,}" for method in methods))
        values: list[float] = []
        for whole in (runs[method]["whole"] for method in methods):
            last = whole[numbers[-1]]
            values += [*(whole[number]["divergence"] for number in numbers), last["seen"], last["ap50"]]
        yield row(change or "none", share, steps, *(f"{value:.1f}" for value in values))


def detect_views_part() -> Iterator[str]:
    """What views are of, and of which pictures: each setting by SSVQ and MSVQ, the chosen one in bold."""
    headings = ("views of the training images", "least part of a picture", "mixed batches", "photographs", "steps")
    figures = ("divergence", "trained with", "AP50")
    methods = ("SSVQ", "MSVQ")
    yield row(*headings, *(f"{method}, {name}" for method in methods for name in figures), "divergence, mean")
    yield 5 * "|--:" + 2 * len(figures) * "|--:" + "|--:|"
    found: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for run in _detect_tries():
        views = run["views"]
        if "data_part" in views and "recolour" not in views:
            chosen = (f"{views[name]:g}" for name in ("data_part", "least_area", "mix"))
            found.setdefault((*chosen, f"{views['more']:,}", f"{run['steps']:,}"), []).append(run["trained"])
    means = {setting: sum(each["divergence"] for each in own) / len(own) for setting, own in found.items()}
    for setting, own in found.items():
        values = [each[name] for each in own for name in ("divergence", "seen", "ap50")]
        mean = f"{means[setting]:.1f}"
        best = means[setting] == min(means.values())
        yield row(*setting, *(f"{value:.1f}" for value in values), f"**{mean}**" if best else mean)


#: As :data:`_CHANGES`, of the tries of one method where settings were changed one or a few at a time.
_SETTINGS: tuple[tuple[str, object, str], ...] = (
    ("lr", 0.01, "rate {:g}"),
    ("features", 100.0, "outputs {:g}"),
    ("data_part", 0.125, "{:g} of the views of the training images"),
    ("least_area", 0.5, "{:g} or more of a picture"),
    ("recolour", 1.0, "colours {:g}"),
)


def detect_settings_part() -> Iterator[str]:
    """What SSVQ gains by other settings, from those of the views before: the smallest divergence in bold."""
    runs = [run for run in _detect_tries() if "recolour" in run.get("views", {})]
    yield row("change", "divergence", "trained with", "AP50", "steps")
    yield "|---" + 4 * "|--:" + "|"
    best = min(run["trained"]["divergence"] for run in runs)
    for run in runs:
        divergence, seen, ap50 = (f"{run['trained'][name]:.1f}" for name in ("divergence", "seen", "ap50"))
        if run["trained"]["divergence"] == best:
            divergence = f"**{divergence}**"
        yield row(_changed(run, _SETTINGS) or "none", divergence, seen, ap50, f"{run['steps']:,}")


#: Settings of the tries that the float network's boxes chose among, and how the table says them.
_CLASSES = (
    ("lr", "rate {:g}"),
    ("class_weight", "classes {:g} times"),
    ("class_power", "objectness to the power of {:g}"),
    ("balance", "rare classes by a power of {:g}"),
    ("four_part", "{:g} of the views of four"),
    ("small", "{:g} of small pictures"),
    ("data_part", "{:g} of the training images"),
    ("features", "outputs {:g}"),
    ("sensitivities", "sensitivities: {}"),
)


def detect_classes_part() -> Iterator[str]:
    """What SSVQ gains on pictures held out by settings that tell classes apart, in two rounds, each one's best in bold.

    Of each round the first has all of its settings, the others what they change.
    """
    runs = json.loads((RESULTS / "tries-detect-classes.json").read_text())["runs"]
    yield row("settings", "steps", "agreement", "objects", "classes", "boxes", "AP50, 25 images")
    yield "|---" + 6 * "|--:" + "|"
    for steps in dict.fromkeys(run["steps"] for run in runs):
        side_by_side = [run for run in runs if run["steps"] == steps]
        best = max(run["figures"]["others"]["agreement"] for run in side_by_side)
        for run in side_by_side:
            own, ap50 = run["figures"]["others"], run["figures"]["held_out"]["ap50"]
            usual = runs[0] if run is side_by_side[0] else side_by_side[0]
            changed = _changed(run, ((name, usual[name], text) for name, text in _CLASSES))
            agreement = f"**{own['agreement']:.1f}**" if own["agreement"] == best else f"{own['agreement']:.1f}"
            parts = (f"{own[name]:.1f}" for name in ("objects", "classes", "boxes"))
            yield row(changed or "as before", f"{steps:,}", agreement, *parts, f"{ap50:.1f}")


def detect_falls_part() -> Iterator[str]:
    """What MSVQ gains on pictures held out by rates that fall as a power of the cosine, side by side."""
    runs = json.loads((RESULTS / "tries-detect-falls.json").read_text())["runs"]
    yield row("rate", "power", "steps", "agreement", "divergence", "AP50, 25 images")
    yield "|--:" * 6 + "|"
    best = max(run["trained"]["choice"] for run in runs)
    for run in runs:
        own = run["trained"]
        agreement = f"**{own['choice']:.1f}**" if own["choice"] == best else f"{own['choice']:.1f}"
        rest = (f"{own[name]:.1f}" for name in ("divergence", "ap50"))
        yield row(f"{run['lr']:g}", f"{run['power']:g}", f"{run['steps']:,}", agreement, *rest)


def _case(found: dict[str, Case], size: str, name: str) -> Case | None:

    if name != "VQ":
        return found.get(size + name)
    own = {key.removeprefix(size): case for key, case in found.items() if key.startswith(size + "VQ")}
    return best_vq(own) if own else None


def table_part(study: str) -> Iterator[str]:
    """The table of a study, and its note."""

    yield from (RESULTS / f"{study}.md").read_text().rstrip("\n").split("\n")


def _parts() -> dict[str, Part]:
    tables = {study: partial(table_part, study) for study in TABLES}
    parts = {"glance": glance_part, "answers": answers_part, "taught": taught_part, "measured": measured_part}
    parts |= {"fewshot": fewshot_part, "scored": scored_part}
    parts |= {"scored-others": scored_others_part, "chosen": chosen_part}
    parts |= {"tries-fewshot": tries_part, "tries-photographs": photographs_part, "photographs": sources_part}
    parts |= {"tries-detect": detect_tries_part, "photographs-detect": detect_photographs_part}
    parts |= {"views-detect": detect_views_part, "settings-detect": detect_settings_part}
    parts |= {"classes-detect": detect_classes_part, "falls-detect": detect_falls_part}
    return {**parts, **tables}


_PAGE = Page(PAGE, _parts)
render = _PAGE.render
main = _PAGE.command("tools.tasks", __doc__)


if __name__ == "__main__":
    sys.exit(main())
