"""What the benchmarks of k-means share: their options, and how a report is written."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from typing import Any

from sw.format.strict_json import json_text

ROOT = Path(__file__).parents[1]


def parser_of(description: str, repeats: str, default: int) -> argparse.ArgumentParser:
    """The options of a benchmark, from its docstring; ``--<repeats>`` is how often everything is timed."""
    parser = argparse.ArgumentParser(description=description.partition(":")[0])
    parser.add_argument(f"--{repeats}", type=int, default=default)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", action="store_true", help="write docs/results too")
    return parser


def processor() -> str:
    """The processor's name and the cores there are."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def write_report(name: str, report: dict[str, Any], keep: bool) -> None:
    """Write ``build/benchmarks/<name>.json``, and with ``keep`` the same to ``docs/results``."""
    for folder in ("build/benchmarks", "docs/results") if keep else ("build/benchmarks",):
        path = ROOT / folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json_text(report))
