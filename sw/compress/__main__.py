"""``python -m sw.compress``: compress a network into a container, or run the ablation of MVQ table 3 on its weights.

``check``, ``calibrate``, ``finetune``, ``evaluate`` and ``search`` as first argument are commands of their own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sw.command_line import Parser, check_outputs, run_command
from sw.compress.commands.options import bits_of_options, check_counts, refuse_bits
from sw.compress.kmeans import INITS
from sw.compress.methods import MASKED, RECIPE_METHODS, SCOPES, CompressError, LayerSource, Recipe, check_rules
from sw.compress.pruning import parse_nm
from sw.format.output import staged

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sw.compress.ablation import AblationRow
    from sw.compress.network import LayerReport

#: Figures of MVQ table 3 (ResNet-18): total SSE, mask SSE.
PAPER = {"A": (1153, 463), "B": (518, 498), "C": (1840, 1840), "D": (251, 251)}


#: Commands of their own, each a module of :mod:`sw.compress.commands`.
COMMANDS = ("check", "calibrate", "finetune", "evaluate", "search")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        command = importlib.import_module(f"sw.compress.commands.{given[0]}")
        status: int = command.main(given[1:])
        return status
    return run_command(_parser(), given, _run)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sw.compress",
        description="Compress a network into a container without training, or run the ablation of MVQ table 3.",
        epilog="Commands of their own, each with --help. check: what becomes of a network, and"
        " what is refused. calibrate: a whole network file from a batch of images. finetune: compress and train."
        " evaluate: accuracy of a file's integers. search: a recipe for each layer within a number of bytes.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model", help="efficientnet-lite0, timm:NAME, torchvision:NAME or package.module:callable, with its weights"
    )
    source.add_argument("--checkpoint", metavar="FILE", help="a PyTorch state dict, or .npz")
    parser.add_argument(
        "--method", choices=[name for name in RECIPE_METHODS if name != "pqf"], default="mvq", help="%(default)s"
    )
    parser.add_argument(
        "--scope", choices=SCOPES, default="layerwise", help="which layers share a codebook (%(default)s)"
    )
    parser.add_argument("--rules", metavar="FILE", help="a recipe for each layer, as the command search writes them")
    parser.add_argument("--nm", metavar="N:M", help="keep N of every M weights (4:16); unmasked methods only report it")
    parser.add_argument("--k", type=int, default=512, help="codewords (%(default)s)")
    parser.add_argument("--d", type=int, default=16, help="codeword length (%(default)s)")
    parser.add_argument("--codeword-bits", type=int, help="of a codeword's weights, 2..8, with their sign (8)")
    parser.add_argument("--uniform-bits", type=int, help="of a weight of layers without codewords, 5..8 (8)")
    parser.add_argument("--iterations", type=int, default=20, help="most iterations of k-means (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the clustering (%(default)s)")
    parser.add_argument("--init", choices=INITS, default="k-means++", help="initial codewords (%(default)s)")
    parser.add_argument("--threads", type=int, help="threads; does not change the result (all processors)")
    parser.add_argument("--device", default="cpu", help="of the clustering: cpu or cuda (%(default)s)")
    parser.add_argument("--ablation", action="store_true", help="MVQ table 3 on the larger convolutions, and MSVQ")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the compressed container")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _run(options: argparse.Namespace) -> int:
    check_outputs(options, "output", "json")

    import numpy as np
    import torch

    from sw.compress.rules import read_rules
    from sw.compress.sources import checkpoint_sources, model_sources

    if options.ablation and options.output is not None:
        raise CompressError("--ablation writes no container: -o must not be given with it")
    if options.ablation or options.rules is not None:
        refuse_bits(options, "--ablation" if options.ablation else "--rules")
    check_counts(options, "threads")
    n, m = _nm(options)
    recipe: Recipe | list[tuple[str, Recipe]] = Recipe(
        options.method,
        options.k,
        options.d,
        n,
        m,
        options.iterations,
        options.seed,
        options.init,
        scope=options.scope,
        **bits_of_options(options),
    )
    if options.rules is not None:
        recipe = read_rules(options.rules)
    sources = model_sources(options.model) if options.model else checkpoint_sources(options.checkpoint)
    if not isinstance(recipe, Recipe):
        check_rules(recipe, sources)
    report: dict[str, Any] = {
        "source": options.model or Path(options.checkpoint).name,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }
    with ExitStack() as files:
        # Both before the work, which takes minutes; neither takes its place unless both are complete.
        output, target = (path and files.enter_context(staged(path)) for path in (options.output, options.json))
        report |= _ablation(options, sources) if options.ablation else _compress(options, sources, recipe, output)
        if target:
            target.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    if output:
        file = report["file"]
        print(f"{options.output}: {file['bytes']} bytes, {file['ratio']:.2f} times smaller than float32")
    return 0


def _nm(options: argparse.Namespace) -> tuple[int, int]:
    if options.nm is None:
        return (4, 16) if options.method in MASKED else (0, 0)
    return parse_nm(options.nm)


def _compress(
    options: argparse.Namespace,
    sources: list[LayerSource],
    recipe: Recipe | list[tuple[str, Recipe]],
    output: Path | None,
) -> dict[str, Any]:
    from sw.compress.network import about_sources, compress_network, total_row

    layers, rows = compress_network(
        sources, recipe, threads=options.threads, device=options.device, progress=not options.quiet
    )
    totals = [total_row(rows)]
    if any(row.reason is None for row in rows):
        totals.insert(0, total_row(rows, compressed_only=True))
    _console().print(_layer_table(rows, totals))
    report: dict[str, Any] = {
        "recipe": vars(recipe) if isinstance(recipe, Recipe) else None,
        "layers": [row.to_dict() for row in rows],
        "totals": [row.to_dict() for row in totals],
    }
    if output:
        from sw.format.container import write_container

        write_container(output, layers, metadata=about_sources(sources))
        size = output.stat().st_size
        report["file"] = {"bytes": size, "ratio": 4 * totals[-1].bits.weight_count / size}
    return report


def _ablation(options: argparse.Namespace, sources: list[LayerSource]) -> dict[str, Any]:
    from sw.compress.ablation import ablation, larger_convolutions

    larger = larger_convolutions(sources)
    rows = ablation(
        larger,
        iterations=options.iterations,
        seed=options.seed,
        init=options.init,
        threads=options.threads,
        progress=not options.quiet,
    )
    kept = {row.case.name: row.kept_sse for row in rows}
    error = {row.case.name: row.relative_error for row in rows}
    ratios = {f"{name}/D": _quotient(kept[name], kept["D"]) for name in "ABC"}
    pairs = (("MSVQ", "D"), ("MSVQ", "D-paper"), ("MSVQ-128", "D"))
    msvq = {f"{one}/{other}": _quotient(error[one], error[other]) for one, other in pairs}
    _console().print(_ablation_table(rows, len(larger)))
    print("SSE on the kept weights: " + _listed(ratios, 2))
    print("Relative error: " + _listed(msvq, 4))
    return {
        "seed": options.seed,
        "iterations": options.iterations,
        "init": options.init,
        "layers": [{"layer": source.name, "shape": list(source.shape)} for source in larger],
        "cases": [row.to_dict() for row in rows],
        "kept_sse_ratios": ratios,
        "relative_error_ratios": msvq,
    }


def _quotient(one: float, other: float) -> float | None:
    """None for a quotient by 0, which JSON cannot say otherwise."""
    return one / other if other else None


def _listed(quotients: Mapping[str, float | None], digits: int) -> str:
    return ", ".join(f"{name} = {'-' if x is None else format(x, f'.{digits}f')}" for name, x in quotients.items())


def _console() -> Console:
    """Standard output, wide enough for the tables where it is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _layer_table(rows: Sequence[LayerReport], totals: Sequence[LayerReport]) -> Table:
    from rich.table import Table

    table = Table("layer", "shape", "method", box=None)
    for heading in ("SSE", "SSE kept", "error %", "bits/weight", "ideal ratio"):
        table.add_column(heading, justify="right")
    table.add_column("without codewords because")
    for row in (*rows, *totals):
        table.add_row(
            row.layer,
            "x".join(map(str, row.shape)),
            row.method,
            f"{row.sse:.4g}",
            "-" if row.kept_sse is None else f"{row.kept_sse:.4g}",
            f"{100 * row.relative_error:.2f}",
            f"{row.bits.per_weight:.3f}",
            f"{row.ideal_ratio:.2f}",
            row.reason or "",
        )
    return table


def _ablation_table(rows: Sequence[AblationRow], layers: int) -> Table:
    from rich.table import Table

    table = Table("case", "meaning", "method", title=f"MVQ table 3 on {layers} convolutions, 4:16", box=None)
    headings = ("k", "d", "total SSE", "mask SSE", "error %", "bits/weight", "with codebook", "paper")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        fields = row.to_dict()
        table.add_row(
            row.case.name,
            row.case.meaning,
            row.case.method,
            str(row.case.k),
            str(row.case.d),
            f"{row.sse:.2f}",
            f"{row.kept_sse:.2f}",
            f"{100 * row.relative_error:.2f}",
            f"{fields['code_bits_per_weight']:.3f}",
            f"{row.bits.per_weight:.3f}",
            "{} / {}".format(*PAPER[row.case.name]) if row.case.name in PAPER else "",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
