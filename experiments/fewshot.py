"""ImageNet networks compressed with some hundred images and no labels, into files small enough to keep.

    python -m experiments.fewshot efficientnet-lite0 --images DIRECTORY -o network.msvq --json report.json

Layer by layer first: codewords by k-means whose weights are the energy of each input and the gain of each output, then
assignments input by input, the error of each handed on to the inputs that are still to come (as GPTQ does for scalars,
Frantar et al., arXiv 2210.17323), on what the compressed layers before give; the batch norm behind a layer is fitted to
the float network's values. Then all layers together learn the float network's logits (distillation). The first layer
and the depthwise ones stay at 8 bit.

DIRECTORY holds NNN.jpg, one image of each class, 224 x 224. Of the even classes, those that 10 divides are held out, to
choose settings on; the others tune. The odd ones are for the report alone.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.common import chosen_device, machine
from sw.command_line import Parser, exit_status
from sw.compress.methods import CompressError, LayerSource, Recipe, compress_layer, misfit
from sw.compress.training.settings import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, fx, nn

    from sw.format.layer import CompressedLayer

__all__ = ["NETWORKS", "Network", "distil", "main", "reconstruct"]


@dataclass(frozen=True)
class Network:
    """An ImageNet network with its weights.

    Parameters
    ----------
    build
        From the path of weights, or None for those of an installed package.
    mean, deviation
        Of pixels 0..255, of each colour.
    """

    build: Callable[[Path | None], nn.Module]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


def _mobilenet(weights: Path | None) -> nn.Module:
    from experiments.models import ImageNetMobileNetV2, load_weights

    if weights is None:
        raise CompressError("network mobilenetv2 needs --weights: a state dict with torchvision's names")
    model = ImageNetMobileNetV2()
    load_weights(model, weights)
    return model.eval()


def _efficientnet(weights: Path | None) -> nn.Module:
    """Its convolutions pad by themselves; here the padding is the convolution's, or a layer in front of it."""
    from torch import nn

    from sw.compress.sources import load_model

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
    "efficientnet-lite0": Network(_efficientnet, (127.0,) * 3, (128.0,) * 3),
    "mobilenetv2": Network(
        _mobilenet,
        tuple(255 * value for value in IMAGENET_MEAN),  # type: ignore[arg-type]
        tuple(255 * value for value in IMAGENET_STD),  # type: ignore[arg-type]
    ),
}

#: What is compressed to two bits a weight, codebooks aside.
RECIPES = {"vq": Recipe("vq", 256, 4, 0, 0), "ssvq": Recipe("ssvq", 256, 8, 0, 0)}

_BATCH = 20
# Rows and columns of a map that sums are taken over, at the most, or nearly.
_PLACES = 14
# Share of the mean of a Hessian's diagonal that is added to it.
_DAMPING = 0.02


def load_images(directory: Path, network: Network) -> tuple[Tensor, Tensor]:
    """Normalised images, float ``[n, 3, 224, 224]``, and their classes.

    Raises
    ------
    CompressError
        The directory has no such images.
    """
    import numpy as np
    import torch
    from PIL import Image

    files = sorted(path for path in directory.glob("*.jpg") if path.stem.isdigit())
    if not files:
        raise CompressError(f"images must be a directory of NNN.jpg, not {str(directory)!r}")
    pixels = []
    for file in files:
        with Image.open(file) as image:
            pixels.append(np.asarray(image.convert("RGB")))
            if pixels[-1].shape != (224, 224, 3):
                raise CompressError(f"image {str(file)!r} must be 224 x 224, not {image.width} x {image.height}")
    values = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
    mean, deviation = (torch.tensor(part).reshape(1, 3, 1, 1) for part in (network.mean, network.deviation))
    return (values - mean) / deviation, torch.tensor([int(file.stem) for file in files])


def _batches(values: Tensor) -> Iterator[Tensor]:
    return iter(values.split(_BATCH))


def accuracy(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, device: str) -> float:
    """Share of images whose largest logit is their label's, in per cent."""
    import torch

    with torch.no_grad():
        right = sum(
            int((model(part.to(device)).argmax(1).cpu() == own).sum())
            for part, own in zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
        )
        return 100 * right / len(images)


def _thinned(values: Tensor) -> Tensor:
    """Of large maps, some of the places: neighbours say nearly the same, and sums over all cost more than the layer."""
    step = max(1, values.shape[2] // _PLACES)
    return values[:, :, ::step, ::step]


def _columns(layer: nn.Module, values: Tensor) -> Tensor:
    """What a layer multiplies its weights with, ``[samples, C * R * S]``."""
    from torch import nn
    from torch.nn import functional

    if isinstance(layer, nn.Linear):
        return values.flatten(0, -2)
    assert isinstance(layer, nn.Conv2d)
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1):
        return _thinned(values).permute(0, 2, 3, 1).flatten(0, 2)
    unfolded = functional.unfold(values, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)


def _weighted_kmeans(
    values: Tensor, weights: Tensor, k: int, generator: torch.Generator, iterations: int = 15
) -> Tensor:
    """Codewords ``[k, d]`` of subvectors ``[N, d]`` whose elements have weights of their own."""
    import torch

    chosen = torch.multinomial((weights * values**2).sum(1).clamp_min(1e-30), k, generator=generator)
    codebook = values[chosen].clone()
    for _ in range(iterations):
        nearest = _nearest(values, weights, codebook)
        sums = torch.zeros_like(codebook).index_add_(0, nearest, weights * values)
        mass = torch.zeros_like(codebook).index_add_(0, nearest, weights)
        codebook = torch.where(mass > 0, sums / mass.clamp_min(1e-30), codebook)
    return codebook


def _nearest(values: Tensor, weights: Tensor, codebook: Tensor) -> Tensor:
    """The codeword with the smallest weighted squared distance to each subvector."""
    import torch

    parts = []
    for v, w in zip(values.split(1 << 16), weights.split(1 << 16), strict=True):
        parts.append((w @ (codebook**2).T - 2 * (w * v) @ codebook.T).argmin(1))
    return torch.cat(parts)


def _assign(weight: Tensor, hessian: Tensor, gains: Tensor, codebook: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Assignments, and signs, of a weight ``[K, n]``, input by input; the rest makes up for each one's error.

    Returns
    -------
    tuple
        int64 ``[K / d, n]``, and bool ``[K, n]``: negative.
    """
    import torch

    K, n = weight.shape
    d = codebook.shape[1]
    order = hessian.diagonal().argsort(descending=True)
    inverse = torch.linalg.inv(hessian[order][:, order].double())
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    left = weight[:, order].clone()
    assignments = torch.empty(K // d, n, dtype=torch.long, device=weight.device)
    negative = torch.empty(K, n, dtype=torch.bool, device=weight.device)
    blocks = gains.reshape(-1, d)
    size = 64
    for first in range(0, n, size):
        last = min(first + size, n)
        errors = torch.empty(K, last - first, device=weight.device)
        for column in range(first, last):
            values = left[:, column]
            bits = values.signbit() if signed else torch.zeros_like(values, dtype=torch.bool)
            found = _nearest((values.abs() if signed else values).reshape(-1, d), blocks, codebook)
            decoded = torch.where(bits, -1.0, 1.0) * codebook[found].flatten()
            assignments[:, column], negative[:, column] = found, bits
            error = (values - decoded) / upper[column, column]
            left[:, column + 1 : last] -= error[:, None] * upper[None, column, column + 1 : last]
            errors[:, column - first] = error
        left[:, last:] -= errors @ upper[first:last, last:]
    back = order.argsort()
    return assignments[:, back], negative[:, back]


def _compressed(
    source: LayerSource, recipe: Recipe, weight: Tensor, hessian: Tensor, gains: Tensor, generator: torch.Generator
) -> CompressedLayer:
    """A layer in the form of a recipe, for a weight ``[K, C * R * S]``."""
    import numpy as np
    import torch

    from sw.compress.kmeans import member_counts
    from sw.compress.quantiser import quantise_codebook
    from sw.format.layer import CompressedLayer

    K, n = weight.shape
    d, signed = recipe.d, recipe.signed
    device = weight.device

    def grouped(values: Tensor) -> Tensor:
        return values.reshape(K // d, d, n).permute(0, 2, 1).reshape(-1, d)

    values = grouped(weight.abs() if signed else weight)
    weights = grouped(gains[:, None] * hessian.diagonal()[None])
    codebook = _weighted_kmeans(values, weights, recipe.k, generator)
    for _ in range(2):
        assignments, negative = _assign(weight, hessian, gains, codebook, signed)
        # The codebook of these assignments that has the smallest error of the outputs.
        codebook = _fitted_codebook(codebook, assignments, negative, weight, hessian, gains, signed)
    stored = assignments.flatten().to(torch.int32).cpu().numpy()
    counts = member_counts(None, stored, recipe.k, d)
    integers, scale = quantise_codebook(codebook.cpu().numpy(), counts, magnitudes=signed)
    exact = torch.from_numpy(integers.astype(np.float32) * scale).to(device)
    assignments, negative = _assign(weight, hessian, gains, exact, signed)
    geometry = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    del geometry["weight"]
    return CompressedLayer(
        shape=source.shape,
        **geometry,
        method=recipe.method,
        d=d,
        k=recipe.k,
        n=d,
        m=d,
        scale=scale,
        codebook=integers,
        assignments=assignments.flatten().to(torch.int32).cpu().numpy(),
        signs=grouped(negative).cpu().numpy() if signed else None,
    )


def _fitted_codebook(
    codebook: Tensor,
    assignments: Tensor,
    negative: Tensor,
    weight: Tensor,
    hessian: Tensor,
    gains: Tensor,
    signed: bool,
    steps: int = 30,
) -> Tensor:
    """Codewords that have the smallest error of the outputs, by conjugate gradients on the normal equations."""
    import torch

    d = codebook.shape[1]
    signs = torch.where(negative, -1.0, 1.0) if signed else torch.ones_like(weight)

    def decoded(words: Tensor) -> Tensor:
        return words[assignments].permute(0, 2, 1).reshape(weight.shape) * signs

    def gathered(values: Tensor) -> Tensor:
        grouped = (values * signs).reshape(-1, d, weight.shape[1]).permute(0, 2, 1).reshape(-1, d)
        return torch.zeros_like(codebook).index_add_(0, assignments.flatten(), grouped)

    def product(words: Tensor) -> Tensor:
        return gathered(gains[:, None] * (decoded(words) @ hessian))

    found = codebook.clone()
    rest = gathered(gains[:, None] * ((weight - decoded(found)) @ hessian))
    direction, energy = rest.clone(), float((rest**2).sum())
    for _ in range(steps):
        image = product(direction)
        bend = float((direction * image).sum())
        if bend <= 0 or energy <= 0:
            break
        step = energy / bend
        found += step * direction
        rest -= step * image
        new = float((rest**2).sum())
        direction = rest + new / energy * direction
        energy = new
    return found.clamp_min(0) if signed else found


def reconstruct(
    model: nn.Module,
    images: Tensor,
    recipe: Recipe,
    keep: Sequence[str],
    *,
    device: str = "cpu",
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[CompressedLayer]:
    """Compress a network layer by layer, each on what the compressed ones before it give.

    Batch norms are refitted, in place; weights in ``model`` become the decoded ones.

    Parameters
    ----------
    model
        In evaluation mode; torch.fx can trace it, and its layers are modules of torch's own kinds.
    images
        Normalised.
    recipe, keep
        How, and the names of layers that stay at 8 bit.
    device, seed
        Where, and of the k-means.
    report
        Told a line about each layer.
    """
    import torch
    from torch import fx, nn

    from sw.compress.network import module_sources

    with torch.no_grad():
        generator = torch.Generator(device).manual_seed(seed)
        original = fx.symbolic_trace(copy.deepcopy(model).to(device))
        graph = fx.symbolic_trace(model.to(device))
        sources = {source.name: source for source in module_sources(model)}
        layers: dict[str, CompressedLayer] = {}
        values: dict[str, list[tuple[Tensor, Tensor]]] = {}
        modules, originals = dict(graph.named_modules()), dict(original.named_modules())
        nodes = list(graph.graph.nodes)
        last = {source: node for node in nodes for source in node.all_input_nodes}
        for node in nodes:
            if node.op == "placeholder":
                values[node.name] = [(part.to(device),) * 2 for part in _batches(images)]
                continue
            if node.op == "output":
                break
            target = str(node.target)
            if node.op == "call_module" and target in sources:
                inputs = values[node.all_input_nodes[0].name]
                layers[target] = _layer(
                    modules[target],
                    originals[target],
                    sources[target],
                    recipe,
                    keep,
                    inputs,
                    _norm(node, modules),
                    generator,
                )
                report(f"{target} {layers[target].method}")
            own = [
                tuple(_run(part, node, values, number, side) for side, part in enumerate((original, graph)))
                for number in range(len(next(iter(values.values()))))
            ]
            if isinstance(modules.get(target), nn.BatchNorm2d):
                _refit(modules[target], [(after[0], values[node.args[0].name][i][1]) for i, after in enumerate(own)])
                own = [(after, modules[target](values[node.args[0].name][i][1])) for i, (after, _) in enumerate(own)]
            values[node.name] = own  # type: ignore[assignment]
            for source in node.all_input_nodes:
                if last[source] is node:
                    del values[source.name]
        return [layers[name] for name in sources]


def _run(graph: fx.GraphModule, node: fx.Node, values: dict[str, Any], number: int, side: int) -> Any:
    """The result of a node for one batch, of the original or the compressed network."""
    from torch import fx

    args, kwargs = (fx.node.map_arg(part, lambda n: values[n.name][number][side]) for part in (node.args, node.kwargs))
    if node.op == "call_module":
        result = graph.get_submodule(str(node.target))(*args, **kwargs)
    elif node.op == "call_function":
        result = node.target(*args, **kwargs)  # type: ignore[operator]
    else:
        result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return result


def _norm(node: fx.Node, modules: dict[str, nn.Module]) -> nn.BatchNorm2d | None:
    from torch import nn

    users = [modules.get(str(user.target)) for user in node.users if user.op == "call_module"]
    found = users[0] if len(node.users) == 1 and users else None
    return found if isinstance(found, nn.BatchNorm2d) else None


def _layer(
    module: nn.Module,
    original: nn.Module,
    source: LayerSource,
    recipe: Recipe,
    keep: Sequence[str],
    inputs: Sequence[tuple[Tensor, Tensor]],
    norm: nn.BatchNorm2d | None,
    generator: torch.Generator,
) -> CompressedLayer:
    import numpy as np
    import torch
    from torch import nn

    assert isinstance(module, nn.Conv2d | nn.Linear)
    if source.name in keep or source.groups > 1 or misfit(source, recipe) is not None:
        return compress_layer(source, Recipe("int8"))
    weight = original.weight.detach().flatten(1).float()  # type: ignore[union-attr,operator]
    n = weight.shape[1]
    hessian = torch.zeros(n, n, device=weight.device)
    moved, samples = torch.zeros_like(hessian), 0
    for wanted, given in inputs:
        before, now = _columns(module, wanted), _columns(module, given)
        hessian += now.T @ now
        moved += (before - now).T @ now
        samples += len(now)
    hessian /= samples
    hessian += _DAMPING * hessian.diagonal().mean() * torch.eye(n, device=weight.device)
    # What the inputs lack already, the weights give back: the weight whose outputs are nearest to the original's.
    weight = weight + torch.linalg.solve(hessian, (moved / samples).T @ weight.T).T
    gains = torch.ones(len(weight), device=weight.device)
    if norm is not None:
        # The batch norm can take any factor of a channel: rows of equal energy have the smallest error.
        size = weight.square().mean(1).sqrt().clamp_min(1e-12)
        gains = (norm.weight * size).square() / (norm.running_var + norm.eps)  # type: ignore[operator]
        gains = (gains / gains.mean()).clamp_min(1e-4)
        weight = weight / size[:, None]
    layer = _compressed(source, recipe, weight, hessian, gains, generator)
    decoded = torch.from_numpy(layer.float_weights().astype(np.float32)).to(weight.device)
    module.weight.data.copy_(decoded.reshape(module.weight.shape))
    if norm is None and module.bias is not None:
        # Without a batch norm, the bias takes the mean error.
        with torch.no_grad():
            error = torch.stack([(original(wanted) - module(given)).flatten(0, -2).mean(0) for wanted, given in inputs])
        module.bias.data += error.mean(0)
    return layer


def _refit(norm: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """A batch norm whose results are nearest to the wanted ones: a factor and an offset for each channel."""
    import torch
    from torch import nn

    assert isinstance(norm, nn.BatchNorm2d)
    sums = torch.zeros(5, norm.num_features, dtype=torch.float64, device=norm.weight.device)
    for wanted, given in pairs:
        t, u = (_thinned(part).transpose(0, 1).flatten(1) for part in (wanted, given))
        sums += torch.stack([torch.full_like(u[:, 0], u.shape[1]), u.sum(1), t.sum(1), (u * u).sum(1), (u * t).sum(1)])
    count, u, t, uu, ut = sums
    mean, wanted_mean = u / count, t / count
    variance = (uu / count - mean**2).clamp_min(1e-12)
    slope = (ut / count - mean * wanted_mean) / variance
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.data.copy_(slope * (variance + norm.eps).sqrt())
    norm.bias.data.copy_(wanted_mean)


def _views(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Random crops, mirrored at random, as large as the images."""
    import torch
    from torch.nn import functional

    size = images.shape[2]
    found = []
    for image in images:
        side = int(rng.integers(round(0.7 * size), size + 1))
        top, left = rng.integers(0, size - side + 1, 2)
        part = image[None, :, top : top + side, left : left + side]
        part = functional.interpolate(part, size=(size, size), mode="bilinear", align_corners=False)
        found.append(part.flip(3) if rng.integers(2) else part)
    return torch.cat(found)


def distil(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    *,
    steps: int,
    lr: float,
    device: str = "cpu",
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[float]:
    """Train a network in evaluation mode on another's logits: Kullback-Leibler divergence, AdamW, a cosine of rates.

    Returns
    -------
    list
        The loss of each step.
    """
    import numpy as np
    import torch
    from torch.nn import functional

    rng = np.random.default_rng(seed)
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr, weight_decay=0.0)
    losses, order = [], np.empty(0, np.int64)
    student.eval()
    for step in range(steps):
        warm = min(1.0, (step + 1) / max(1, steps // 20))
        for group in optimiser.param_groups:
            group["lr"] = lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        if len(order) < _BATCH:
            order = rng.permutation(len(images))
        chosen, order = order[:_BATCH], order[_BATCH:]
        views = _views(images[torch.from_numpy(chosen)], rng).to(device)
        with torch.no_grad():
            wanted = teacher(views).log_softmax(1)
        loss = functional.kl_div(student(views).log_softmax(1), wanted, reduction="batchmean", log_target=True)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
        if step % 20 == 19:
            report(f"step {step + 1} loss {np.mean(losses[-20:]):.4f}")
    return losses


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status, with one line on standard error: 2 for bad input, 130 for Ctrl-C."""
    parser = Parser(prog="python -m experiments.fewshot", description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--weights", type=Path, help="state dict, if not those of a package")
    parser.add_argument("--images", type=Path, required=True, help="directory of NNN.jpg")
    parser.add_argument("--method", choices=RECIPES, default="ssvq", help="%(default)s")
    parser.add_argument("--steps", type=int, default=400, help="of distillation (%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="of distillation (%(default)s)")
    parser.add_argument("--limit", type=int, help="use only that many images to tune, to try the command")
    parser.add_argument("--held-out", action="store_true", help="report held-out images only, to choose settings")
    parser.add_argument("--device", help="cuda if PyTorch sees a GPU, or cpu")
    parser.add_argument("--threads", type=int, default=2, help="of torch on a CPU; results depend on it (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the container to write")
    parser.add_argument("--json", type=Path, help="write the report as JSON")
    options = parser.parse_args(arguments)
    return exit_status(parser.prog, lambda: _run_all(options), "interrupted")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _run_all(options: argparse.Namespace) -> int:
    import numpy as np
    import torch

    from sw.compress.network import module_sources
    from sw.compress.ratio import layer_bits, sum_bits
    from sw.compress.training.graph import calibrate, quantise_activations
    from sw.compress.training.integer import export_integers, read_network, write_network
    from sw.compress.training.modules import compressed_layers, load_layers
    from sw.format.output import staged

    options.device = chosen_device(options.device)
    torch.set_num_threads(options.threads)
    begin = time.perf_counter()
    network, device, recipe = NETWORKS[options.network], options.device, RECIPES[options.method]
    images, classes = load_images(options.images, network)
    tune = images[(classes % 2 == 0) & (classes % 10 > 0)][: options.limit]
    held, odd = classes % 10 == 0, classes % 2 == 1
    sets = {"held out": held} if options.held_out else {"held out": held, "odd classes": odd}

    def scores(model: Callable[[Tensor], Tensor]) -> dict[str, float]:
        return {name: accuracy(model, images[own], classes[own], device) for name, own in sets.items()}

    teacher = network.build(options.weights).to(device).eval()
    report: dict[str, Any] = {"experiment": "fewshot", "network": options.network, "float": scores(teacher)}
    _say(f"float {report['float']}")
    model = copy.deepcopy(teacher)
    sources = module_sources(model)
    with staged(options.output) as temporary:
        layers = reconstruct(model, tune, recipe, [sources[0].name], device=device, seed=options.seed, report=_say)
        report["reconstructed"] = scores(model)
        _say(f"reconstructed {report['reconstructed']} after {time.perf_counter() - begin:.0f} s")
        load_layers(model, layers)
        graph = quantise_activations(model).to(device).eval()
        calibrate(graph, tune[:100].to(device))
        report["calibrated"] = scores(graph)
        _say(f"calibrated {report['calibrated']}")
        losses = distil(
            graph, teacher, tune, steps=options.steps, lr=options.lr, device=device, seed=options.seed, report=_say
        )
        report["distilled"] = scores(graph)
        _say(f"distilled {report['distilled']} after {time.perf_counter() - begin:.0f} s")
        write_network(temporary, export_integers(graph, (3, 224, 224)))
        exported = read_network(temporary)
        report["integers"] = scores(lambda values: exported.run(exported.quantise(values), golden=False))
        size = Path(temporary).stat().st_size
    final = compressed_layers(graph)
    coded = sum_bits(layer_bits(layer) for layer in final if layer.method != "int8")
    weights = sum(int(np.prod(layer.shape)) for layer in final)
    report |= {
        "method": options.method,
        "recipe": dataclasses.asdict(recipe),
        "bytes": size,
        "ratio_ideal": 32 / coded.per_weight,
        "ratio_whole_file": 4 * weights / size,
        "coded_share": coded.weight_count / weights,
        "images": len(tune),
        "steps": options.steps,
        "lr": options.lr,
        "seed": options.seed,
        "threads": options.threads,
        "losses": losses,
        "seconds": time.perf_counter() - begin,
        "machine": machine(device),
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    _say(f"integers {report['integers']}, {size:,} bytes, {report['ratio_whole_file']:.2f} times smaller")
    return 0


if __name__ == "__main__":
    sys.exit(main())
