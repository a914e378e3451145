"""What :mod:`experiments.fewshot` does: its networks, distillation, and the whole run."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from experiments.allocation import allocate
from experiments.common import machine
from experiments.fewshot import TRIED
from experiments.finetune import filling_codewords
from experiments.models import ImageNetMobileNetV2, load_weights
from experiments.pictures import (
    SIDE,
    Mosaic,
    Network,
    Whole,
    load_images,
    load_made,
    load_more,
    load_small,
    mixed,
    normalised,
    unlike,
)
from experiments.reconstruction import reconstruct
from hw.command_line import write_text
from sw.compress.methods import CompressError, LayerSource, Recipe, misfit
from sw.compress.network import module_sources
from sw.compress.ratio import layer_bits, sum_bits
from sw.compress.sources import load_model
from sw.compress.training.graph import calibrate, quantise_activations
from sw.compress.training.integer import export_integers, read_network, write_network
from sw.compress.training.loop import set_rate
from sw.compress.training.modules import (
    CodebookDecoder,
    MovingDecoder,
    compressed_layers,
    decoded_layers,
    load_layers,
)
from sw.compress.training.norms import norms_by_kernel
from sw.compress.training.quant import ActivationQuantiser
from sw.compress.training.settings import IMAGENET_MEAN, IMAGENET_STD
from sw.format.layer import CompressedLayer
from sw.format.output import staged
from sw.format.strict_json import json_text

__all__ = [
    "NETWORKS",
    "Replayed",
    "accuracy",
    "distil",
    "divergence",
    "relative_groups",
    "run",
    "start",
]


def _mobilenet(weights: Path | None) -> nn.Module:
    if weights is None:
        raise CompressError("network mobilenetv2 needs --weights: a state dict with torchvision's names")
    model = ImageNetMobileNetV2()
    load_weights(model, weights)
    return model.eval()


def _efficientnet(weights: Path | None) -> nn.Module:
    """Its convolutions pad by themselves; here the padding is the convolution's, or a layer in front of it."""
    model = load_model("efficientnet-lite0", weights)
    for name, conv in list(model.named_modules()):
        if not isinstance(conv, nn.Conv2d):
            continue
        plain = nn.Conv2d(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, 0, 1, conv.groups, conv.bias is not None
        )  # type: ignore[arg-type]
        plain.load_state_dict({key: value for key, value in conv.state_dict().items()})
        pad = conv.static_padding
        layer: nn.Module = plain
        if isinstance(pad, nn.ZeroPad2d):
            left, right, top, bottom = pad.padding
            if (left, top) == (right, bottom):
                plain.padding = (top, left)
            else:
                layer = nn.Sequential(OrderedDict(pad=nn.ZeroPad2d(pad.padding), conv=plain))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return model.eval()


NETWORKS = {
    "efficientnet-lite0": Network(_efficientnet, (127.0,) * 3, (128.0,) * 3, "bicubic"),
    "mobilenetv2": Network(
        _mobilenet,
        tuple(255 * value for value in IMAGENET_MEAN),  # type: ignore[arg-type]
        tuple(255 * value for value in IMAGENET_STD),  # type: ignore[arg-type]
    ),
}

#: What is compressed; codewords as many as ``--bits`` has room for.
RECIPES = {"vq": Recipe("vq", 2, 4, 0, 0), "ssvq": Recipe("ssvq", 2, 8, 0, 0)}

#: Weights that a layer must have to be compressed.
SMALL = 10_000

_BATCH = 50
# Steps from one of the scores on the way to the next.
_SCORED = 1000


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, device: str) -> float:
    """Share of images whose largest logit is their label's, in per cent."""
    right = sum(
        int((model(part.to(device)).argmax(1).cpu() == own).sum())
        for part, own in zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
    )
    return 100 * right / len(images)


@torch.no_grad()
def divergence(model: Callable[[Tensor], Tensor], teacher: nn.Module, images: Tensor, device: str) -> float:
    """Kullback-Leibler divergence from the teacher, a mean over images: it tells more of a hundred than accuracy."""
    total = 0.0
    for part in images.split(_BATCH):
        wanted, found = (network(part.to(device)).log_softmax(1) for network in (teacher, model))
        total += float(functional.kl_div(found, wanted, reduction="sum", log_target=True))
    return total / len(images)


class Replayed:
    """Steps of optimisers, one or several; on a GPU replayed as one CUDA graph, in which none waits for another.

    Else most of the time is launches; and small networks leave most of a GPU idle, one kernel after the other.

    Parameters
    ----------
    works
        The step of each of them, for a batch.
    capture
        Replay them.
    """

    #: What is done once, such as making an optimiser's state, must not be in the graph.
    usual_steps = 3

    def __init__(self, works: Sequence[Callable[[Tensor], None]], capture: bool) -> None:
        self.works, self.done = works, 0
        self.streams = [torch.cuda.Stream() for _ in works] if capture else []  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batches: Sequence[Tensor]) -> None:
        if not self.streams:
            for work, batch in zip(self.works, batches, strict=True):
                work(batch)
            return
        if self.done < self.usual_steps:
            self._all(batches)
        else:
            if self.graph is None:
                self.given = [batch.clone() for batch in batches]
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self._all(self.given)
            for given, batch in zip(self.given, batches, strict=True):
                given.copy_(batch)
            self.graph.replay()
        self.done += 1

    def _all(self, batches: Sequence[Tensor]) -> None:
        current = torch.cuda.current_stream()
        for stream, work, batch in zip(self.streams, self.works, batches, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                work(batch)
        for stream in self.streams:
            current.wait_stream(stream)


def _equal_parts(count: int, parts: int) -> list[int]:
    """So many in all; the first ones have one more of what is left."""
    return [count // parts + (number < count % parts) for number in range(parts)]


def relative_groups(student: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Adam moves every parameter by about its rate; here that is relative to the parameter's own size."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            size = 1.0 if name.endswith("log_factor") else float(parameter.detach().square().mean().sqrt())
            groups.setdefault(2.0 ** round(math.log2(max(size, 1e-4))), []).append(parameter)
    return [{"params": parameters, "lr": lr * size, "peak": lr * size} for size, parameters in groups.items()]


def distil(
    student: nn.Module,
    teacher: nn.Module,
    sources: Sequence[Whole],
    *,
    steps: int,
    lr: float,
    batch: int = 20,
    mix: float = 0.5,
    features: float = 0.0,
    device: str = "cpu",
    seed: int = 0,
    capture: bool = True,
    report: Callable[[str], None] = lambda line: None,
    scores: Callable[[nn.Module], dict[str, float]] | None = None,
) -> tuple[list[float], list[dict[str, float]]]:
    """Train a network in evaluation mode on another's logits: Kullback-Leibler divergence, AdamW, a cosine of rates.

    The divergence says next to nothing of classes that no picture shows. Squared errors of what blocks hand on, as
    shares of their variance, say something of each.

    Parameters
    ----------
    student, teacher
        On ``device``.
    sources
        Pictures, on ``device``. Each is an equal part of a batch, however many it has, so that thousands of other
        pictures do not drown those that are like the ones to be told apart. The first have one more of what is left.
    steps, lr, batch
        ``lr`` is relative to the size of each parameter.
    mix
        Share of the batches that are mixed.
    features
        What the squared errors of block outputs, their mean over blocks, weigh beside the divergence.
    device, seed, report
        Where, of the views, and told a line now and then.
    capture
        On a GPU, replay steps as a CUDA graph.
    scores
        What is to be known of the student after each thousand steps, if anything is.

    Returns
    -------
    tuple
        The mean loss of each hundred steps, or of all if there are fewer; and the scores.
    """
    generator = torch.Generator().manual_seed(seed)
    cuda = device.startswith("cuda")
    parts = _equal_parts(batch, len(sources))
    size = sources[0].pictures.shape[1]
    groups = relative_groups(student, lr)
    if cuda:
        # A captured step reads the rates from the device.
        for group in groups:
            group["lr"] = torch.tensor(group["lr"], device=device)
    optimiser = torch.optim.AdamW(groups, lr, weight_decay=0.0, fused=cuda, capturable=cuda)
    losses: list[float] = []
    found_scores: list[dict[str, float]] = []
    running = torch.zeros((), device=device)
    student.eval()

    names = handed_on(student) if features else []
    seen = {network: _watched(network, names) for network in (teacher, student)}

    def work(views: Tensor) -> None:
        for values, _ in seen.values():
            values.clear()
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            with torch.no_grad():
                wanted = teacher(views).float()
            with norms_by_kernel(student):
                found = student(views).float()
        loss = functional.kl_div(found.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)
        pairs = zip(seen[teacher][0], seen[student][0], strict=True)
        for own, other in pairs:
            own = own.float()
            loss = loss + features / len(names) * (other.float() - own).square().mean() / own.var()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        running.add_(loss.detach())

    advance = Replayed([work], cuda and capture)
    for step in range(steps):
        _set_rates(optimiser, step, steps)
        views = torch.cat([each.views(part, generator, size) for each, part in zip(sources, parts, strict=True)])
        views = mixed(views, generator, mix)
        if cuda:
            views = views.contiguous(memory_format=torch.channels_last)
        advance([views])
        every = min(100, steps)
        if step % every == every - 1:
            losses.append(float(running) / every)
            running.zero_()
            report(f"step {step + 1} loss {losses[-1]:.4f}")
        if scores is not None and step % _SCORED == _SCORED - 1:
            found_scores.append(scores(student))
            for values, _ in seen.values():
                values.clear()
            report(f"step {step + 1} {found_scores[-1]}")
    for _, handles in seen.values():
        for handle in handles:
            handle.remove()
    return losses, found_scores


def _set_rates(optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
    """A cosine of each group's peak, behind a rise over the first twentieth of the steps."""
    warm = min(1.0, (step + 1) / max(1, steps // 20))
    for group in optimiser.param_groups:
        set_rate(group, group["peak"] * warm * 0.5 * (1 + math.cos(math.pi * step / steps)))


def handed_on(graph: nn.Module) -> list[str]:
    """Batch norms of a quantised graph with no activation behind them: what blocks hand on."""
    assert isinstance(graph, fx.GraphModule)
    modules = dict(graph.named_modules())
    return [
        str(node.target)
        for node in graph.graph.nodes
        if node.op == "call_module"
        and isinstance(modules[str(node.target)], nn.BatchNorm2d)
        and all(isinstance(modules.get(str(user.target)), ActivationQuantiser) for user in node.users)
    ]


def _watched(model: nn.Module, names: Sequence[str]) -> tuple[list[Tensor], list[RemovableHandle]]:
    """The outputs of these modules, in the order of calls."""
    values: list[Tensor] = []

    def keep(module: nn.Module, given: object, result: Tensor) -> None:
        values.append(result)

    return values, [model.get_submodule(name).register_forward_hook(keep) for name in names]


def coded_sources(sources: Sequence[LayerSource], recipe: Recipe, bits: float) -> tuple[list[LayerSource], float]:
    """The layers that get codewords, and the bits a weight that they have together.

    All layers but the first and the depthwise ones take ``bits`` a weight together. Those of less than :data:`SMALL`
    weights keep 8 of them: all of these together are next to nothing, and the network loses much by them.
    """
    fitting = [source for source in sources[1:] if misfit(source, dataclasses.replace(recipe, k=1)) is None]
    # The classifier's sums are compared: at 8 bit it would need one scale for all of them.
    coded = [source for source in fitting if source.weight.size >= SMALL or source is sources[-1]]
    own, every = sum(source.weight.size for source in coded), sum(source.weight.size for source in fitting)
    return coded, (bits * every - 8 * (every - own)) / own


def chosen_recipes(sources: Sequence[LayerSource], recipe: Recipe, bits: float) -> dict[str, Recipe]:
    """Codewords with which all of :func:`coded_sources` take the same bits a weight, as nearly as can be."""
    coded, mean = coded_sources(sources, recipe, bits)
    sizes = [source.weight.size for source in coded]
    filled = filling_codewords(sizes, recipe, mean, False)
    return {source.name: dataclasses.replace(recipe, k=k) for source, k in zip(coded, filled, strict=True) if k}


def start(
    model: nn.Module,
    layers: Sequence[CompressedLayer],
    latents: Mapping[str, Tensor],
    *,
    moving: bool,
    move_plain: bool = False,
) -> None:
    """Put reconstructed layers in place, to be trained: with their latent weights, or those as latent signs alone.

    With ``move_plain`` only layers without signs have latent weights: they have nothing else to learn than codebooks.
    """
    load_layers(model, layers)
    found = {layer.name: layer for layer in layers}
    for _, module in decoded_layers(model):
        if module.name not in latents:
            continue
        layer, latent = found[module.name], latents[module.name].cpu()
        if moving or (move_plain and layer.signs is None):
            # Where the error of the outputs chose another codeword than the nearest, the latent weight is that one.
            decoded = torch.from_numpy(layer.float_weights())
            module.decoder = MovingDecoder(layer, latent)
            with torch.no_grad():
                same = (module.decoder() - decoded).abs() <= 1e-6 * decoded.abs()
                module.decoder.weight.copy_(torch.where(_whole(same, layer.d), latent, decoded))
        else:
            module.decoder = CodebookDecoder(layer, latent)
        if layer.signs is None:
            # Arrays that split signs off, as others of the layers need, have no -128.
            module.decoder.low = -module.decoder.high


def _whole(same: Tensor, d: int) -> Tensor:
    """True for the subvectors, along the output channels, that are true throughout."""
    K, C, R, S = same.shape
    every: Tensor = same.reshape(K // d, d, C, R, S).all(1, keepdim=True).expand(-1, d, -1, -1, -1)
    return every.reshape(same.shape)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _recipes_of(model: nn.Module, images: Tensor, others: Tensor, options: argparse.Namespace) -> dict[str, Recipe]:
    """Codewords of each layer: the same bits a weight for all, or by what each one's error does to images."""
    sources, recipe = module_sources(model), RECIPES[options.method]
    if not options.allocate:
        return chosen_recipes(sources, recipe, options.bits)
    coded, mean = coded_sources(sources, recipe, options.bits)
    room = int(mean * sum(source.weight.size for source in coded))
    return allocate(
        model,
        images.to(options.device),
        coded,
        recipe,
        room,
        others=others.to(options.device),
        wide=options.wide,
        seed=options.seed,
        report=_say,
    )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a report says of how it was made."""
    names = ("method", "bits", "more_views", "features", "move_plain")
    names += ("steps", "lr", "batch", "mix", "seed", "threads")
    return {name: getattr(options, name) for name in names} | {
        "moving": not options.fixed,
        "allocated": options.allocate,
        "wide": options.wide,
    }


def _sizes(layers: Sequence[CompressedLayer], size: int) -> dict[str, Any]:
    """The bytes of a file, and its ratios: equation 7 counts all layers but the first and the depthwise ones."""
    depthwise = {layer.name for layer in layers if layer.groups > 1}
    coded = sum_bits(layer_bits(layer) for layer in layers[1:] if layer.name not in depthwise)
    weights = sum(int(np.prod(layer.shape)) for layer in layers)
    return {
        "bytes": size,
        "ratio_ideal": 32 / coded.per_weight,
        "ratio_whole_file": 4 * weights / size,
        "coded_share": coded.weight_count / weights,
    }


def _check(options: argparse.Namespace) -> None:
    """Refuses options that contradict each other, and values that cannot be."""
    if options.move_plain and not options.fixed:
        raise CompressError("--move-plain must be given with --fixed: without it, all assignments move")
    if options.wide and not options.allocate:
        raise CompressError("--wide must be given with --allocate: without it, all layers have codewords of one length")
    if options.more_views < 0:
        raise CompressError(f"--more-views must be 0 or more, not {options.more_views}")
    if options.more_views and not options.more:
        raise CompressError(f"--more-views must be given with --more: {options.more_views} of the pictures it names")
    if options.final and options.held_out:
        raise CompressError("--held-out must not be given with --final, which tunes with those images")
    if options.tries and not options.held_out:
        raise CompressError("--try must be given with --held-out: settings are not chosen by odd classes")
    for name, fits, wanted in (
        ("bits", 0 < options.bits < math.inf, "above 0"),
        ("lr", 0 < options.lr < math.inf, "above 0"),
        ("mix", 0 <= options.mix <= 1, "0..1"),
        ("features", 0 <= options.features < math.inf, "0 or more"),
        ("steps", options.steps >= 0, "0 or more"),
    ):
        if not fits:
            raise CompressError(f"--{name} must be {wanted}, not {getattr(options, name):g}")
    sources = 1 + len(options.more) + sum(1 for named in (options.small, options.made) if named)
    if options.batch < sources:
        raise CompressError(f"--batch must be {sources} or more, one of each kind of pictures, not {options.batch}")


@dataclasses.dataclass
class _Others:
    """All pictures but the images, uint8 ``[n, rows, columns, 3]``."""

    #: Of the directories of ``--more``, in their order.
    more: list[NDArray[np.uint8]]
    #: Of another size.
    small: NDArray[np.uint8] | None
    made: NDArray[np.uint8] | None
    #: Copies of images of the report that were left out, by their option.
    copies: dict[str, int]

    def sources(self, network: Network, device: str) -> dict[str, list[Whole]]:
        """What is there of all of them, to draw views of, by their option."""
        return {
            "more": [Whole(each, network, device) for each in self.more],
            "small": [] if self.small is None else [Mosaic(self.small, network, device)],
            "made": [] if self.made is None else [Whole(self.made, network, device)],
        }

    def views(self, count: int, network: Network, seed: int) -> Tensor:
        """So many of ``--more``, normalised, of each directory as many, or nearly."""
        generator = torch.Generator().manual_seed(seed)
        chosen = [np.empty((0, SIDE, SIDE, 3), np.uint8)]
        for each, part in zip(self.more, _equal_parts(count, len(self.more)), strict=True):
            chosen.append(each[torch.randperm(len(each), generator=generator)[:part].numpy()])
        return normalised(np.concatenate(chosen), network)


def _others(options: argparse.Namespace, known: Tensor) -> _Others:
    """All pictures but the images; copies of the known images, normalised, are left out."""
    copies = {"more": 0, "small": 0}
    known = known.to(options.device)

    def fresh(kind: str, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Where pictures are from the same source, what the report is made of must not be among them.
        other = unlike(pictures, known)
        copies[kind] += int((~other).sum())
        return pictures[other]

    more = [fresh("more", load_more(directory, options.limit)) for directory in options.more]
    small = None if options.small is None else fresh("small", load_small(options.small)[: options.limit])
    made = np.concatenate([load_made(path) for path in options.made])[: options.limit] if options.made else None
    _say(f"{[len(pictures) for pictures in more]} pictures more, copies left out: {copies}")
    return _Others(more, small, made, copies)


def _least(
    begin: nn.Module,
    teacher: nn.Module,
    sources: Mapping[str, Sequence[Whole]],
    tries: Sequence[argparse.Namespace],
    scores: Callable[[nn.Module], dict[str, float]],
) -> tuple[nn.Module, argparse.Namespace, dict[str, Any]]:
    """Distil a network once for each of the options: that of the smallest divergence, and what the report has of it.

    With more than one, the report has ``tries``, what it has of each.
    """
    best: tuple[nn.Module, argparse.Namespace, dict[str, Any]] | None = None
    every: list[dict[str, Any]] = []
    for options in tries:
        graph = copy.deepcopy(begin)
        losses, on_the_way = distil(
            graph,
            teacher,
            # Of those of other options, what a try has left out is not there.
            [each for kind, own in sources.items() if kind == "images" or getattr(options, kind) for each in own],
            steps=options.steps,
            lr=options.lr,
            batch=options.batch,
            mix=options.mix,
            capture=not options.eager,
            features=options.features,
            device=options.device,
            seed=options.seed,
            report=_say,
            # What the report is made of is looked at once, at the end.
            scores=scores if options.held_out else None,
        )
        found: dict[str, Any] = {"distilled": scores(graph), "losses": losses}
        if options.held_out:
            found["on_the_way"] = on_the_way
        kinds = {"small": bool(options.small), "made": bool(options.made)}
        every.append({name: getattr(options, name) for name in TRIED} | kinds | found)
        _say(f"lr {options.lr:g}, {options.steps} steps: {found['distilled']}")
        if best is None or _chosen_by(found) < _chosen_by(best[2]):
            best = graph, options, found
    assert best is not None
    return *best[:2], best[2] | ({"tries": every} if len(every) > 1 else {})


def _chosen_by(found: Mapping[str, Any]) -> float:
    """The divergence on pictures that judge, or else on the images held out."""
    divergences = {name: value for name, value in found["distilled"].items() if name.endswith(", divergence")}
    value: float = divergences.get("judging, divergence", divergences.get("held out, divergence", math.inf))
    return value


def run(options: argparse.Namespace) -> int:
    """The command, with its options. Returns 0.

    Raises
    ------
    CompressError
        An option, an image or the weights are not as they must be.
    """
    every = [argparse.Namespace(**(vars(options) | changes)) for changes in options.tries or [{}]]
    for own_options in every:
        _check(own_options)
    for kind in ("small", "made"):
        if not getattr(options, kind) and any(kind in changes for changes in options.tries):
            raise CompressError(f"--try {kind}=none must be given with --{kind}, which it leaves out")
    torch.set_num_threads(options.threads)
    begin = time.perf_counter()
    network, device = NETWORKS[options.network], options.device
    images, classes = load_images(options.images)
    tenth, odd = classes % 10 == 0, classes % 2 == 1
    tune = images[((classes % 2 == 0) & (tenth.logical_not() | options.final)).numpy()][: options.limit]
    sets = {"held out": tenth, "odd classes": odd}
    if options.held_out or options.final:
        del sets["odd classes" if options.held_out else "held out"]
    tests = {name: (normalised(images[own.numpy()], network), classes[own]) for name, own in sets.items()}
    shown = {name: own for name, (own, _) in tests.items()}
    if options.judge is not None:
        shown["judging"] = normalised(load_more(options.judge, options.limit, "judge"), network)
    # Before the float network is measured, which takes long.
    others = _others(options, torch.cat(list(shown.values())))
    teacher = network.build(options.weights).to(device).eval()

    def scores(model: Callable[[Tensor], Tensor]) -> dict[str, float]:
        found = {name: accuracy(model, *own, device) for name, own in tests.items()}
        return found | {f"{name}, divergence": divergence(model, teacher, own, device) for name, own in shown.items()}

    report: dict[str, Any] = {"experiment": "fewshot", "network": options.network, "float": scores(teacher)}
    _say(f"float {report['float']}")
    model = copy.deepcopy(teacher)
    own, more = normalised(tune, network), others.views(options.more_views, network, options.seed)
    views, recipes = torch.cat([own, more]), _recipes_of(model, own, more, options)
    with staged(options.output) as temporary:
        layers, latents = reconstruct(model, views, recipes, device=device, seed=options.seed, report=_say)
        report["reconstructed"] = scores(model)
        _say(f"reconstructed {report['reconstructed']} after {time.perf_counter() - begin:.0f} s")
        start(
            model,
            layers,
            latents,
            moving=not options.fixed,
            move_plain=options.move_plain,
        )
        graph = quantise_activations(model.cpu(), own[:2]).to(device).eval()
        if device.startswith("cuda"):
            for part in (graph, teacher):
                part.to(memory_format=torch.channels_last)
        calibrate(graph, own[:100].to(device))
        report["calibrated"] = scores(graph)
        _say(f"calibrated {report['calibrated']}")
        sources = {"images": [Whole(tune, network, device)], **others.sources(network, device)}
        graph, options, found = _least(graph, teacher, sources, every, scores)
        report |= found
        _say(f"distilled {report['distilled']} after {time.perf_counter() - begin:.0f} s")
        about = {"preprocessing": network.preprocessing.to_dict()}
        write_network(temporary, export_integers(graph, (3, SIDE, SIDE)), metadata=about)
        exported = read_network(temporary)
        report["integers"] = {
            name: accuracy(lambda values: exported.run(exported.quantise(values), golden=False), *test, device)
            for name, test in tests.items()
        }
        size = Path(temporary).stat().st_size
    report |= {
        **_settings(options),
        "judging_images": len(shown.get("judging", ())),
        **_sizes(compressed_layers(graph), size),
        "images": len(tune),
        "recipes": {name: [recipe.method, recipe.d, recipe.k] for name, recipe in recipes.items()},
        "more_images": [len(each) for each in others.more],
        "small_images": 0 if others.small is None or options.small is None else len(others.small),
        "made_images": 0 if others.made is None or not options.made else len(others.made),
        "copies_left_out": others.copies,
        "seconds": time.perf_counter() - begin,
        "machine": machine(device),
    }
    if options.json:
        write_text(options.json, json_text(report))
    _say(f"integers {report['integers']}, {size:,} bytes, {report['ratio_whole_file']:.2f} times smaller")
    return 0
