"""What :mod:`experiments.minilm` does: its network, its sentences, rank correlation, and the runs."""

from __future__ import annotations

import argparse
import copy
import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.case import Case
from experiments.common import OTHER_RUNS, file_stem, machine, part_note, read_run, run_file, spread, write_report
from experiments.finetune import rules_for
from experiments.vision_runs import learn
from hw.command_line import write_text
from sw.compress.methods import CompressError, Recipe
from sw.compress.network import module_sources
from sw.compress.ratio import ideal_ratio, layer_bits, sum_bits
from sw.compress.training.modules import compressed_layers, convert, load_layers
from sw.format.container import read_container, write_container
from sw.format.strict_json import json_text

__all__ = ["CASES", "MiniLM", "Sentences", "correlation", "load_pairs", "load_state", "run"]

PARTS = ("train", "dev", "test")

#: Tokens of a sentence that count, and sentences of a batch of tuning, with the tokens that they are cut or filled to.
LONGEST, BATCH, TUNED = 256, 32, 32

#: The rate in the files of runs without tuning.
UNTUNED = 1e-3


def _cases() -> list[Case]:
    rows = []
    for size, bits in (("2 bits", 2.05), ("3 bits", 3.05)):
        rows += [
            Case(f"{size}, VQ", Recipe("vq", 2, 4, 0, 0), mean_bits=bits, moving=True),
            Case(f"{size}, SSVQ", Recipe("ssvq", 2, 8 if size == "2 bits" else 4, 0, 0), mean_bits=bits, moving=True),
            # Masks and codewords as the GPT's (experiments/language.py).
            Case(
                f"{size}, MSVQ",
                Recipe("msvq", 2, *((16, 8, 16) if size == "2 bits" else (8, 6, 8))),
                mean_bits=bits,
                moving=True,
            ),
        ]
    return rows


#: Of the table.
CASES = _cases()


class _Block(nn.Module):
    """BERT's: attention and two layers, each with the norm behind the sum."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, width = values.shape

        def split(layer: nn.Module) -> Tensor:
            return layer(values).reshape(batch, tokens, self.heads, width // self.heads).transpose(1, 2)  # type: ignore[no-any-return]

        mixed = functional.scaled_dot_product_attention(
            split(self.query), split(self.key), split(self.value), attn_mask=mask
        )
        values = self.norm1(values + self.output(mixed.transpose(1, 2).reshape(batch, tokens, width)))
        return self.norm2(values + self.fc2(functional.gelu(self.fc1(values))))  # type: ignore[no-any-return]


class MiniLM(nn.Module):
    """A BERT encoder whose sentence vectors are the means of its tokens', of length 1.

    Takes tokens, integers ``[batch, tokens]``, 0 where a sentence is at its end.
    """

    def __init__(
        self, depth: int = 6, width: int = 384, heads: int = 12, inner: int = 1536, words: int = 30522
    ) -> None:
        super().__init__()
        self.words, self.positions, self.kinds = (nn.Embedding(count, width) for count in (words, 512, 2))
        self.norm = nn.LayerNorm(width, 1e-12)
        self.blocks = nn.ModuleList(_Block(width, heads, inner) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        known = tokens != 0
        places = torch.arange(tokens.shape[1], device=tokens.device)
        values = self.norm(self.words(tokens) + self.positions(places) + self.kinds.weight[0])
        for block in self.blocks:
            values = block(values, known[:, None, None])
        count = known.sum(1, keepdim=True)
        mean = (values * known[..., None]).sum(1) / count
        return functional.normalize(mean, dim=1)


#: The file's names of a block's layers, and ours.
_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "norm2",
}


def load_state(model: MiniLM, state: dict[str, Tensor]) -> None:
    """Load a state dict with BERT's names; its pooler, which sentence vectors do not use, is left out.

    Raises
    ------
    CompressError
        Names or shapes are others.
    """
    names = {
        "words.weight": "embeddings.word_embeddings.weight",
        "positions.weight": "embeddings.position_embeddings.weight",
        "kinds.weight": "embeddings.token_type_embeddings.weight",
        "norm.weight": "embeddings.LayerNorm.weight",
        "norm.bias": "embeddings.LayerNorm.bias",
    }
    for number in range(len(model.blocks)):
        for theirs, ours in _NAMES.items():
            for part in ("weight", "bias"):
                names[f"blocks.{number}.{ours}.{part}"] = f"encoder.layer.{number}.{theirs}.{part}"
    try:
        model.load_state_dict({ours: state[theirs].float() for ours, theirs in names.items()})
    except KeyError as error:
        raise CompressError(f"model must have BERT's names: {error.args[0]!r} is missing") from None
    except RuntimeError as error:
        raise CompressError(f"model must be MiniLM-L6: {' '.join(str(error).split())[:200]}") from None


class Sentences:
    """Pairs of sentences as tokens, and how alike they are.

    Parameters
    ----------
    first, second
        Tokens of each sentence.
    scores
        0..5.
    """

    def __init__(
        self, first: Sequence[Sequence[int]], second: Sequence[Sequence[int]], scores: Sequence[float]
    ) -> None:
        self.first, self.second, self.scores = first, second, scores


def load_pairs(texts: Path, tokenizer: Any, limit: int | None = None) -> dict[str, Sentences]:
    """The parts of STS-B.

    Raises
    ------
    CompressError
        A file is missing, or a line has other than two sentences and a score.
    """
    found = {}
    for part in PARTS:
        path = texts / f"stsb-en-{part}.csv"
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[:limit]
            pairs = [(first, second, float(score)) for first, second, score in rows]
        except OSError as error:
            raise CompressError(f"texts must have {path.name}: {error.strerror}") from None
        except ValueError as error:
            raise CompressError(f"{path.name} must have two sentences and a score a line: {error}") from None
        sides = [[tokenizer.encode(pair[side]).ids[:LONGEST] for pair in pairs] for side in (0, 1)]
        found[part] = Sentences(sides[0], sides[1], [pair[2] for pair in pairs])
    return found


def _filled(sentences: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
    length = length or max(map(len, sentences))
    return torch.tensor([[*part[:length], *[0] * (length - len(part))] for part in sentences])


@torch.no_grad()
def correlation(model: nn.Module, pairs: Sentences, device: str) -> float:
    """Spearman's rank correlation of the vectors' cosines with the scores, times 100."""
    from scipy.stats import spearmanr

    every = [*pairs.first, *pairs.second]
    # Sentences of one length together: none is filled in vain.
    order = sorted(range(len(every)), key=lambda number: len(every[number]))
    vectors = torch.empty(0)
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        own = model(_filled([every[number] for number in part]).to(device)).float().cpu()
        vectors = vectors if len(vectors) else torch.empty(len(every), own.shape[1])
        vectors[part] = own
    alike = (vectors[: len(pairs.first)] * vectors[len(pairs.first) :]).sum(1)
    return 100 * float(spearmanr(alike.numpy(), pairs.scores).statistic)


def _one(
    model: MiniLM, case: Case, seed: int, parts: dict[str, Sentences], options: argparse.Namespace, path: Path
) -> dict[str, Any]:
    """One run: compressed, tuned, written, and read again."""
    begin = time.perf_counter()
    student = copy.deepcopy(model)
    sources = module_sources(student)
    convert(
        student,
        rules_for(sources, case, seed),
        moving=case.moving and options.steps > 0,
        device=options.device,
        threads=options.threads,
        progress=False,
    )
    student.to(options.device).eval()
    report: dict[str, Any] = {"case": case.name, "seed": seed, "steps": options.steps, "lr": options.lr}
    report["clustering_seconds"] = time.perf_counter() - begin
    if options.steps:
        sentences = [*parts["train"].first, *parts["train"].second]

        def views(generator: torch.Generator) -> Tensor:
            chosen = torch.randperm(len(sentences), generator=generator)[:BATCH].tolist()
            return _filled([sentences[number] for number in chosen], TUNED).to(options.device)

        def loss(network: nn.Module, tokens: Tensor) -> Tensor:
            with torch.no_grad():
                wanted = model(tokens).float()
            # What the cosines of a batch are, and each vector itself.
            found = network(tokens).float()
            alike = (found @ found.T - wanted @ wanted.T).square().mean()
            return (found - wanted).square().sum(1).mean() + alike

        report["losses"] = learn(
            student, views, loss, steps=options.steps, lr=options.lr, device=options.device, seed=seed
        )
    layers = compressed_layers(student)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_container(path, layers)
    final = copy.deepcopy(model).cpu()
    load_layers(final, read_container(path).layers)
    if options.steps:
        # Norms, biases and embeddings learned, too; a container of layers alone does not have them.
        own = {key: value for key, value in student.cpu().state_dict().items() if ".decoder." not in key}
        final.load_state_dict(final.state_dict() | own)
    final.to(options.device).eval()
    # The dev part is for the choice of a rate.
    report |= {part: correlation(final, parts[part], options.device) for part in ("dev", "test")[not options.steps :]}
    rest = sum(parameter.numel() for parameter in model.parameters()) - sum(source.weight.size for source in sources)
    size = path.stat().st_size
    report |= {
        "mean_bits": case.mean_bits,
        "ratio_ideal": ideal_ratio(sum_bits(map(layer_bits, layers))),
        "bytes": size,
        "rest_weights": rest,
        "ratio_all": 4 * (rest + sum(source.weight.size for source in sources)) / (size + 4 * rest),
        "machine": machine(options.device),
        "seconds": time.perf_counter() - begin,
    }
    return report


def run(options: argparse.Namespace) -> int:
    """The command, with its options. Returns 0.

    Raises
    ------
    CompressError
        An option, a text or the model is not as it must be.
    """
    names = [case.name for case in CASES]
    for name in options.cases or ():
        if name not in names:
            raise CompressError(f"case must be one of {', '.join(names)}, not {name!r}")
    if options.steps < 0:
        raise CompressError(f"--steps must be at least 0, not {options.steps}")
    if not options.steps:
        options.lr = UNTUNED  # a rate that nothing has: runs of two would be the same one
    if not options.report_only:
        _all(options, options.cases or names)
    _report(options)
    return 0


def _all(options: argparse.Namespace, names: Sequence[str]) -> None:
    for name in ("model", "texts"):
        if getattr(options, name) is None:
            raise CompressError(f"--{name} must be given")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise CompressError("minilm needs the package tokenizers: pip install tokenizers") from None
    from safetensors.torch import load_file

    torch.set_num_threads(options.threads)
    model = MiniLM()
    for name in ("model.safetensors", "tokenizer.json"):
        if not (options.model / name).exists():
            raise CompressError(f"--model must have {name}, which {str(options.model)!r} has not")
    load_state(model, load_file(options.model / "model.safetensors"))
    model.to(options.device).eval()
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    tokenizer.no_padding()
    parts = load_pairs(options.texts, tokenizer, options.pairs)
    known = options.runs / "float.json"
    part = {"pairs": options.pairs} if options.pairs else {}
    if known.exists():
        read_run(known, {"pairs": options.pairs}, {}, OTHER_RUNS)
    else:
        scores = {"test": correlation(model, parts["test"], options.device)}
        options.runs.mkdir(parents=True, exist_ok=True)
        write_text(known, json_text({"scores": scores, "machine": machine(options.device)} | part))
        print(f"minilm float {scores}", flush=True)
    for seed in options.seeds:
        for case in CASES:
            path = options.runs / f"{file_stem(case.name)}-{options.steps}-{options.lr:g}-{seed}.json"
            if case.name not in names:
                continue
            if path.exists():
                read_run(path, {"pairs": options.pairs}, {}, OTHER_RUNS)
            else:
                report = _one(model, case, seed, parts, options, path.with_suffix(".msvq")) | part
                write_text(path, json_text(report))
                print(f"minilm {case.name} steps {options.steps} seed {seed}: {report['test']:.2f}", flush=True)


def _report(options: argparse.Namespace) -> None:
    names = [case.name for case in CASES]
    paths = [path for path in sorted(options.runs.glob("*.json")) if path.name != "float.json"]
    runs = [run_file(path, "case", "steps", "lr", "seed") for path in paths]
    for path, each in zip(paths, runs, strict=True):
        if each["case"] not in names:
            raise CompressError(f"{path} is of {each['case']!r}, and a case of this study is wanted")
    runs.sort(key=lambda each: (names.index(each["case"]), each["steps"], each["lr"], each["seed"]))
    if not runs:
        raise CompressError("there is no run to report")
    known = run_file(options.runs / "float.json", "scores")
    rows = []
    for key in dict.fromkeys((each["case"], each["steps"], each["lr"] if each["steps"] else 0) for each in runs):
        group = [each for each in runs if (each["case"], each["steps"], each["lr"] if each["steps"] else 0) == key]
        first = group[0]
        rows.append(
            [
                key[0],
                f"{key[1]} steps, rate {key[2]:g}" if key[1] else "none",
                spread([each["test"] for each in group]),
                f"{known['scores']['test'] - np.mean([each['test'] for each in group]):.2f}",
                spread([each["dev"] for each in group]) if key[1] else "",
                f"{first['ratio_ideal']:.2f}",
                f"{first['ratio_all']:.2f}",
                f"{first['bytes']:,}",
                len(group),
                f"{np.mean([each['seconds'] for each in group]):.0f} s",
            ]
        )
    headings = ["case", "tuning", "test", "below float", "dev", "ratio, eq. 7", "ratio, embeddings too", "bytes"]
    headings += ["seeds", "a run"]
    devices = ", ".join(sorted({each["machine"]["device"] for each in runs}))
    note = (
        "MiniLM-L6 on STS-B: Spearman's rank correlation, times 100, of the 1,379 test pairs (of the 1,500 dev pairs"
        " where rates are chosen), by the container's weights, activations in floating point. All 36 linear layers are"
        f" compressed; the embeddings, {runs[0]['rest_weights'] / 1e6:.1f} M weights with the norms and biases beside"
        " the layers' 10.6 M, stay in"
        f" floating point. Float: {known['scores']['test']:.2f}. Device: {devices}."
        f"{part_note(runs, 'pairs')}"
    )
    report = {"experiment": "minilm", "note": note, "float": known, "runs": runs}
    path = options.output / "minilm.json"
    write_report(path, report, headings, rows)
    print(path.with_suffix(".md").read_text())
