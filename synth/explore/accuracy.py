"""Accuracies of the studies, for instances that decode what a study has trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hw.config import AcceleratorConfig
from sw.format.strict_json import parse_json
from synth.explore.parts import ExploreError

__all__ = ["Study", "read_study"]

_METHODS = {(False, False): "vq", (True, False): "mvq", (False, True): "ssvq", (True, True): "msvq"}
_KIND = re.compile(r"(?P<method>\w+) (?P<n>\d+):(?P<m>\d+) k=(?P<k>\d+) d=(?P<d>\d+)")
_BITS = re.compile(r"(\d) bits?\b")


class Study:
    """Top-1 accuracies of a file's integers, in per cent, by what its layers are made of.

    Parameters
    ----------
    name
        Of the report: ``table3-resnet18``.
    report
        Its JSON.
    """

    def __init__(self, name: str, report: Any) -> None:
        self.name, self.network = name, str(report["network"])
        self._found: dict[tuple[Any, ...], dict[str, list[float]]] = {}
        for run in report["runs"]:
            key = self._key(run)
            if key is not None:
                self._found.setdefault(key, {}).setdefault(run["case"], []).append(float(run["accuracy"]))

    @staticmethod
    def _key(run: Any) -> tuple[Any, ...] | None:
        """Settings of a run whose coded layers are all alike; those of 8 bits are its first and its last."""
        kinds = [_KIND.fullmatch(kind) for kind in run.get("layers") or {}]
        coded = {match[0]: match for match in kinds if match and match["method"] != "int8"}
        if len(coded) != 1 or not all(kinds):
            return None
        (match,) = coded.values()
        bits = _BITS.search(run["case"])
        numbers = [int(match[name]) for name in ("n", "m", "k", "d")]
        return match["method"], *numbers, int(bits[1]) if bits else 8

    def accuracy(self, config: AcceleratorConfig) -> tuple[float, str] | None:
        """Mean over the seeds of the best case that this instance decodes, and the case; None if there is none.

        Cases that differ in how they were trained alone make files for the same instances.
        """
        features = config.features
        if not features.codebook:
            return None
        n, m = (config.N, config.M) if features.mask else (config.d, config.d)
        key = (_METHODS[features.mask, features.sign], n, m, config.k, config.d, config.weight_bits)
        means = [(sum(found) / len(found), case) for case, found in self._found.get(key, {}).items()]
        return max(means, default=None)


def read_study(name: str, folder: Path) -> Study:
    """A study of ``docs/results``.

    Raises
    ------
    ExploreError
        There is none of that name, or it is no study of accuracies.
    """
    path = folder / f"{name}.json"
    try:
        return Study(name, parse_json(path.read_bytes()))
    except FileNotFoundError:
        known = [other.stem for other in sorted(folder.glob("*.json")) if _is_study(other)]
        raise ExploreError(f"no study {name!r}; those of {folder} are {', '.join(known) or 'none'}") from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ExploreError(f"{path} is no study of accuracies") from None


def _is_study(path: Path) -> bool:
    try:
        report = parse_json(path.read_bytes())
        return bool(report["summary"]) and "layers" in report["runs"][0]
    except (KeyError, TypeError, IndexError, ValueError):
        return False
