"""What :mod:`experiments.gpt` does: its network, its texts, training, and the runs of its cases."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.case import Case
from experiments.common import WEIGHTS, file_stem, machine, read_run, run_file, spread, write_report
from experiments.finetune import KEPT_8BIT, compress
from experiments.protocol import SEEDS, TRY_SEEDS, apart_note
from hw.command_line import write_text
from sw.compress.checkpoints import write_state
from sw.compress.methods import CompressError, Recipe
from sw.compress.ratio import ideal_ratio, layer_bits, sum_bits
from sw.compress.sources import load_weights
from sw.compress.training.freezing import SignFreezer
from sw.compress.training.loop import deterministic
from sw.compress.training.modules import SignBits, compressed_layers, load_layers
from sw.compress.training.settings import Freezing
from sw.compress.training.sparse import finish_sparse, start_sparse
from sw.format.container import read_container, write_container
from sw.format.output import staged

#: Bytes that the network sees.
CONTEXT = 256

#: Bits a weight of the compressed layers, codebooks included.
BITS = {"2 bits": 2.05, "3 bits": 3.05}

PARTS = ("train", "held out", "test")


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, values: Tensor) -> Tensor:
        batch, tokens, width = values.shape
        parts = self.qkv(self.norm1(values)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        values = values + self.drop(self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width)))
        hidden: Tensor = values + self.drop(self.fc2(functional.gelu(self.fc1(self.norm2(values)))))
        return hidden


class GPT(nn.Module):
    """A decoder-only transformer on bytes; its head is a layer of its own."""

    def __init__(self, depth: int = 6, width: int = 384, heads: int = 6, dropout: float = 0.2) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*[_Block(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 256, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                scale = 0.02 / math.sqrt(2 * depth) if name.endswith(("proj.weight", "fc2.weight")) else 0.02
                nn.init.normal_(parameter, std=scale)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, values: Tensor) -> Tensor:
        places = torch.arange(values.shape[1], device=values.device)
        logits: Tensor = self.linear(self.norm(self.blocks(self.drop(self.tokens(values) + self.positions(places)))))
        return logits


def load_texts(directory: Path) -> dict[str, Tensor]:
    """The bytes of each part, uint8.

    Raises
    ------
    CompressError
        The directory has no text, or one of less than a hundred times the context.
    """
    files = sorted(directory.glob("*.txt"))
    if not files:
        raise CompressError(f"texts must be a directory of .txt files, not {str(directory)!r}")
    parts: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for file in files:
        text = torch.from_numpy(np.fromfile(file, np.uint8))
        if len(text) < 100 * CONTEXT:
            raise CompressError(f"text {str(file)!r} must have at least {100 * CONTEXT} bytes, not {len(text)}")
        first, second = 8 * len(text) // 10, 9 * len(text) // 10
        for part, own in zip(PARTS, (text[:first], text[first:second], text[second:]), strict=True):
            parts[part].append(own)
    return {part: torch.cat(own) for part, own in parts.items()}


@torch.no_grad()
def perplexity(model: nn.Module, text: Tensor, device: str) -> float:
    """``exp`` of the mean cross entropy of each byte, in windows that do not overlap."""
    model.eval()
    windows = (len(text) - 1) // CONTEXT
    values = text[: windows * CONTEXT + 1].long()
    given, wanted = values[:-1].reshape(windows, CONTEXT), values[1:].reshape(windows, CONTEXT)
    total = 0.0
    for x, y in zip(given.split(64), wanted.split(64), strict=True):
        logits = model(x.to(device))
        total += float(functional.cross_entropy(logits.flatten(0, 1), y.to(device).flatten(), reduction="sum"))
    return math.exp(total / (windows * CONTEXT))


def train(
    model: nn.Module,
    text: Tensor,
    *,
    steps: int,
    lr: float,
    device: str,
    seed: int = 0,
    batch: int = 64,
    decay: float = 0.0,
    after_step: Sequence[Callable[[int], None]] = (),
    progress: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """Train in place on random windows: AdamW, a rate that rises over a twentieth of the steps and falls by a cosine.

    Returns
    -------
    list
        The mean loss of each hundred steps.
    """
    deterministic()
    torch.manual_seed(seed)
    model.to(device).train()
    text = text.to(device)
    generator = torch.Generator().manual_seed(seed)
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    cuda = device.startswith("cuda")
    optimiser = torch.optim.AdamW(groups, lr, betas=(0.9, 0.98), fused=cuda)
    losses: list[float] = []
    running = torch.zeros((), device=device)
    span = torch.arange(CONTEXT + 1, device=device)
    for step in range(steps):
        warm = min(1.0, (step + 1) / max(1, steps // 20))
        for group in optimiser.param_groups:
            group["lr"] = lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        starts = torch.randint(len(text) - CONTEXT - 1, (batch, 1), generator=generator).to(device)
        windows = text[starts + span].long()
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda), sdpa_kernel(SDPBackend.MATH):
            logits = model(windows[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        running += loss.detach()
        for call in after_step:
            call(step + 1)
        if (step + 1) % 100 == 0:
            losses.append(float(running) / 100)
            running.zero_()
            progress(step + 1)
    return losses


def cases() -> list[Case]:
    """The rows of the table."""
    rows = []
    for size, kinds in (
        (
            "2 bits",
            (("VQ", "vq", 4, ""), ("SSVQ", "ssvq", 8, ""), ("MSVQ", "msvq", 16, "8:16"), ("MVQ", "mvq", 16, "8:16")),
        ),
        ("3 bits", (("VQ", "vq", 4, ""), ("SSVQ", "ssvq", 4, ""), ("MSVQ", "msvq", 8, "6:8"))),
    ):
        for name, method, d, nm in kinds:
            n, m = map(int, nm.split(":")) if nm else (0, 0)
            freezing = Freezing(interval=20) if method in ("ssvq", "msvq") else None
            fixed = Case(
                f"{size}, {name}", Recipe(method, 2, d, n, m), mean_bits=BITS[size], sparse=nm, freezing=freezing
            )
            rows.append(fixed)
            rows.append(dataclasses.replace(fixed, name=f"{fixed.name}, moving", sparse="", moving=True))
        rows.append(Case(f"{size}, LSQ", Recipe(f"lsq{size[0]}")))
    return rows


def run_case(case: Case, start: Path, texts: dict[str, Tensor], score: str, **how: Any) -> dict[str, Any]:
    """Compress, fine-tune, write, read and measure a network; ``how`` goes to :func:`train`."""
    begin = time.perf_counter()
    device, seed = how["device"], how["seed"]
    model = _load(start)
    before_float = perplexity(model.to(device), texts[score], device)
    compress(model.cpu(), case, seed, torch.zeros(1), device, progress=False)
    model.to(device)
    before = perplexity(model, texts[score], device)
    signed = any(isinstance(module, SignBits) for module in model.modules())
    freezer = SignFreezer(model, case.freezing, how["steps"]) if case.freezing and signed else None
    losses = train(model, texts["train"], after_step=[freezer.step] if freezer else [], **how)
    layers = compressed_layers(model)
    coded = [layer for layer in layers if layer.name not in KEPT_8BIT]
    bits = sum_bits(map(layer_bits, coded))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "layers")
        write_container(path, layers)
        size = path.stat().st_size
        rest = {key: value for key, value in model.state_dict().items() if "decoder." not in key}
        stored = GPT()
        load_layers(stored, read_container(path).layers)
        stored.load_state_dict(rest, strict=False)
        found = perplexity(stored.to(device), texts[score], device)
    return {
        "case": case.name,
        "seed": seed,
        "mean_bits": case.mean_bits,
        "perplexity": found,
        "perplexity_before": before,
        "perplexity_start": before_float,
        "bits_per_weight": bits.per_weight,
        "ratio_ideal": ideal_ratio(bits),
        "file_bytes": size,
        "methods": sorted({f"{layer.method} {layer.n}:{layer.m} d={layer.d}" for layer in coded}),
        "losses": losses,
        "scored_on": score,
        "lr": how["lr"],
        "steps": how["steps"],
        "seconds": time.perf_counter() - begin,
        "machine": machine(device),
    }


def _load(path: Path) -> GPT:
    model = GPT()
    load_weights(model, path)
    return model


def _weights(nm: str = "") -> Path:
    return WEIGHTS / f"gpt{f'-sr-ste-{nm}'.replace(':', '-') if nm else ''}.pt"


def run(options: argparse.Namespace) -> int:
    """The command, with its options. Returns 0.

    Raises
    ------
    CompressError
        An option or a text is not as it must be.
    """
    if options.what == "report":
        return _report(options)
    if options.texts is None:
        raise CompressError("--texts must name a directory of .txt files")
    texts = load_texts(options.texts)
    return (_cases if options.what == "cases" else _float)(options, texts)


def _save(model: nn.Module, path: Path) -> None:
    with staged(path) as temporary:
        write_state(temporary, {name: value.detach().cpu().clone() for name, value in model.state_dict().items()})


def _float(options: argparse.Namespace, texts: dict[str, Tensor]) -> int:
    """The dense network, or the sparse ones; the dense one is kept where the held-out text is told best."""
    begin, best = time.perf_counter(), math.inf
    how = {"device": options.device, "decay": 0.1}
    steps = options.steps or (3600 if options.what == "float" else 1500)
    if options.what == "float":
        torch.manual_seed(0)
        model = GPT()

        def keep(step: int) -> None:
            nonlocal best
            if step % 200 and step != steps:
                return
            found = perplexity(model, texts["held out"], options.device)
            print(f"step {step} held out {found:.4f} after {time.perf_counter() - begin:.0f} s", flush=True)
            if found < best:
                best = found
                _save(model, _weights())
            model.train()

        train(model, texts["train"], steps=steps, lr=1e-3, progress=keep, **how)
        if steps % 100:
            keep(steps)
        return 0
    for nm in sorted({case.sparse for case in cases() if case.sparse}):
        model = _load(_weights())
        start_sparse(model, ["blocks.*"], *map(int, nm.split(":")))
        train(model, texts["train"], steps=steps, lr=3e-4, **how)
        finish_sparse(model)
        _save(model, _weights(nm))
        print(f"{nm} held out {perplexity(model, texts['held out'], options.device):.4f}", flush=True)
    return 0


def _folder(rates: bool) -> Path:
    return WEIGHTS / ("rates-gpt" if rates else "gpt")


def _entries(rates: bool) -> list[dict[str, Any]]:
    """The runs that are there, in the order of the cases."""
    names = [case.name for case in cases()]
    found = [run_file(file, "case") for file in sorted(_folder(rates).glob("*.json"))]
    return sorted((entry for entry in found if entry["case"] in names), key=lambda entry: names.index(entry["case"]))


def _best_rates() -> dict[str, float]:
    best: dict[str, tuple[float, float]] = {}
    for entry in _entries(True):
        known = best.get(entry["case"])
        if known is None or entry["perplexity"] < known[0]:
            best[entry["case"]] = entry["perplexity"], entry["lr"]
    return {name: rate for name, (_, rate) in best.items()}


def _cases(options: argparse.Namespace, texts: dict[str, Tensor]) -> int:
    rates, best = bool(options.rates), _best_rates()
    names = [case.name for case in cases()]
    for name in options.cases or ():
        if name not in names:
            raise CompressError(f"case must be one of {'; '.join(names)}, not {name!r}")
    steps = options.steps or (250 if rates else 500)
    for seed in options.seeds or (TRY_SEEDS if rates else SEEDS):
        for case in cases():
            if case.name not in (options.cases or names):
                continue
            for rate in options.rates or [best.get(case.name, 3e-4)]:
                file = _folder(rates) / f"{file_stem(case.name)}-{seed}{f'-{rate:g}' if rates else ''}.json"
                if file.exists():
                    read_run(file, {"lr": rate, "steps": steps}, {})
                    continue
                how = {"steps": steps, "lr": rate, "device": options.device, "seed": seed}
                entry = run_case(case, _weights(case.sparse), texts, "held out" if rates else "test", **how)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, json.dumps(entry, indent=1) + "\n")
                print(f"{case.name} seed {seed} rate {rate:g}: {entry['perplexity']:.3f}", flush=True)
    return 0


def _report(options: argparse.Namespace) -> int:
    entries, tried = _entries(False), _entries(True)
    if not entries:
        raise CompressError("there is no run to report")
    starts = [entry["perplexity_start"] for entry in entries if "VQ" in entry["case"] and "M" not in entry["case"]]
    if not starts:
        raise CompressError("the report needs a run of VQ or SSVQ, which start from the dense network")
    dense = starts[0]
    rows, summary = [], []
    sizes: list[tuple[float, int]] = []
    plain: dict[str, float] = {}
    for name in dict.fromkeys(entry["case"] for entry in entries):
        group = [entry for entry in entries if entry["case"] == name]
        values = [entry["perplexity"] for entry in group]
        rise = float(np.mean(values)) - dense
        size = name.split(",")[0]
        if name == f"{size}, VQ":
            plain[size] = rise
        if group[0]["mean_bits"]:
            sizes.append((group[0]["mean_bits"], group[0]["file_bytes"]))
        share = f"{rise / plain[size]:.2f}" if size in plain else ""
        tries = sum(entry["case"] == name for entry in tried)
        summary.append({"case": name, "perplexity": values, "rise": rise})
        seconds = f"{np.mean([entry['seconds'] for entry in group]):.0f} s"
        row = [name, spread(values, 4), f"{rise:+.4f}", share, f"{group[0]['perplexity_start']:.4f}"]
        row += [spread([entry["perplexity_before"] for entry in group], 4), f"{group[0]['bits_per_weight']:.2f}"]
        row += [f"{group[0]['file_bytes']:,}", len(group), f"{group[0]['lr']:g}", tries, seconds]
        rows.append(row)
    devices = ", ".join(sorted({entry["machine"]["device"] for entry in entries}))
    note = (
        f"Perplexity of a byte on the test part; mean and standard deviation over seeds. The dense network has"
        f" {dense:.4f}, without the steps of fine-tuning that the cases have; start is the network that a case begins"
        f" with, rises are over the dense one, shares are of plain VQ's rise. Weights are the container's, activations"
        f" and embeddings float. A case's learning rate is the best of its tries"
        f" on the held-out part. {entries[0]['steps']} steps of 64 windows. Device: {devices}."
    )
    note += apart_note(sizes)
    headings = ["case", "perplexity", "rise", "share of VQ's", "start", "before training", "bits", "bytes"]
    headings += ["seeds", "rate", "tries", "a run"]
    report = {"experiment": "gpt", "note": note, "dense": dense, "summary": summary, "runs": entries, "tries": tried}
    write_report(options.output / "gpt.json", report, headings, rows)
    print((options.output / "gpt.md").read_text())
    return 0
