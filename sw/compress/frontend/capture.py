"""What a network computes, as torch.export sees it: no mutation, no alias, no hook, and no module any more."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import tree_leaves, tree_unflatten

from sw.compress.frontend.inputs import Given, called, described, mapped
from sw.compress.frontend.modules import Repeat, Spread
from sw.compress.frontend.places import FrontEndError, Refusal, source_of_error
from sw.compress.methods import CompressError

__all__ = [
    "Captured",
    "capture",
    "capture_program",
    "check_hooks",
    "evaluated",
    "example_images",
    "observe",
    "same",
    "unwrapped",
]

# Images that are captured: not 1, which shapes treat as a case of its own, and no likely number of channels.
_BATCH = 3
# Images that the network itself runs on.
_SAMPLE = 16
# Share of the largest output by which sums in another order may be apart, in float32.
_TOLERANCE = 1e-4


# Dropout does nothing in evaluation mode, and capturing would leave it out; training needs it.
@torch.library.custom_op("msvq::dropout", mutates_args=())
def _dropout(values: Tensor, p: float, features: int) -> Tensor:
    return values.clone()


@_dropout.register_fake
def _(values: Tensor, p: float, features: int) -> Tensor:
    return torch.empty_like(values)


# A network of a .pt2 file has modules that stand for operations: they must stay, not become what torch makes of them.
@torch.library.custom_op("msvq::spread", mutates_args=())
def _spread(values: Tensor) -> Tensor:
    return Spread()(values)  # type: ignore[no-any-return]


@_spread.register_fake
def _(values: Tensor) -> Tensor:
    return values.new_empty((*values.shape[:2], 2 * values.shape[2], 2 * values.shape[3]))


@torch.library.custom_op("msvq::repeat", mutates_args=())
def _repeat(values: Tensor, rows: int, columns: int) -> Tensor:
    return Repeat((rows, columns))(values)  # type: ignore[no-any-return]


@_repeat.register_fake
def _(values: Tensor, rows: int, columns: int) -> Tensor:
    return values.new_empty((*values.shape[:2], rows * values.shape[2], columns * values.shape[3]))


@contextmanager
def _whole_operations(model: nn.Module) -> Iterator[None]:
    """Has modules that stand for operations call these as one."""
    own = [module for module in model.modules() if type(module) in (Spread, Repeat)]
    for module in own:
        if isinstance(module, Repeat):
            rows, columns = module.factors
            module.forward = partial(_repeat, rows=rows, columns=columns)  # type: ignore[method-assign]
        else:
            module.forward = _spread
    try:
        yield
    finally:
        for module in own:
            del module.forward


@dataclass(frozen=True)
class Captured:
    """A network in evaluation mode."""

    #: Of ATen operations without side effects; convolutions, linear layers, pooling and activations are whole.
    graph: fx.Graph
    #: Of each placeholder that is no image: the parameter, buffer or constant itself, and its name, empty for a
    #: constant.
    tensors: dict[fx.Node, tuple[Tensor, str]]
    #: The placeholder of the images.
    image: fx.Node
    #: What the network returns: a node, or tuples, lists and dictionaries of nodes.
    output: Any
    #: Images, and what the network itself makes of them: tensors in the same structure.
    sample: Tensor
    outputs: Any
    #: Why the network cannot be taken, so far: the rest is captured to find all other reasons.
    refusals: list[Refusal]
    #: Of what the graph names otherwise, such as the graphs of regions.
    owner: nn.Module


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``."""
    while (inside := _inside(model)) is not None:
        model = inside
    return model


def check_hooks(model: nn.Module) -> None:
    """Refuse hooks on what :func:`unwrapped` takes off, or on a module that is compiled within the network.

    Raises
    ------
    CompressError
        There is one: it would be lost.
    """
    while (inside := _inside(model)) is not None:
        _check_hooks(model, "network")
        model = inside
    for name, module in model.named_modules():
        # PyTorch loses them, too, where it copies such a module.
        if _compiled(module):
            _check_hooks(module, f"module {name!r}")


def _inside(model: nn.Module) -> nn.Module | None:
    """What a wrapper wraps; None of what is none."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return cast(nn.Module, model.module)
    return cast(nn.Module, model._orig_mod) if _compiled(model) else None


def _compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" and isinstance(getattr(module, "_orig_mod", None), nn.Module)


def _check_hooks(wrapper: nn.Module, what: str) -> None:
    if wrapper._forward_hooks or wrapper._forward_pre_hooks:
        kind = "torch.compile" if _compiled(wrapper) else type(wrapper).__name__
        raise CompressError(
            f"{what} has hooks on what {kind} made of it, which would be lost: register them on the module inside"
        )


def same(found: Any, expected: Any, tolerance: float = _TOLERANCE) -> bool:
    """Whether two results, tensors in any structure, are equal but for the order of sums. NaN is equal to nothing."""
    if not (isinstance(found, Tensor) and isinstance(expected, Tensor)):
        pairs = list(zip_longest(tree_leaves(found), tree_leaves(expected)))
        tensors = all(isinstance(a, Tensor) and isinstance(b, Tensor) for a, b in pairs)
        return tensors and all(same(a, b, tolerance) for a, b in pairs)
    if found.shape != expected.shape:
        return False
    if not found.numel():
        return True
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max()) <= tolerance * max(float(expected.abs().max()), 1e-30)


# Rows and columns that a network may want: usual ones first.
_SIZES = (32, 64, 224, 28, 16, 8, 4, *(size for size in range(1, 32) if size not in (4, 8, 16, 28)))


def example_images(model: nn.Module) -> Tensor:
    """Square images that a network takes, where nobody gave any: of as many channels as its first convolution reads.

    Raises
    ------
    FrontEndError
        It has no convolution, or takes no square images of a usual size.
    """
    # A decoded convolution counts, too, whatever its class.
    convolutions: list[Any] = [each for each in model.modules() if hasattr(each, "groups")]
    channels = next((each.weight.shape[1] * each.groups for each in convolutions if each.weight.ndim == 4), None)
    if channels is not None:
        generator = torch.Generator().manual_seed(0)
        device = next(model.parameters()).device
        for size in _SIZES:
            images = torch.randn(2, int(channels), size, size, generator=generator).to(device)
            try:
                observe(model, images)
            except FrontEndError:
                continue
            return images
    raise FrontEndError([Refusal("", "the network takes no square images of a usual size", "give it some of its own")])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; each module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def evaluated(model: nn.Module, images: Tensor) -> Any:
    """What a network makes of images in evaluation mode. Its mode stays; the images are a copy."""
    with _evaluating(model), torch.no_grad():
        return model(images.clone())


def capture(model: nn.Module, images: Tensor) -> Captured:
    """Capture a network in evaluation mode. Neither it nor the images are changed.

    Parameters
    ----------
    model
        In float32.
    images
        Float ``[batch, C, rows, columns]`` that it takes.

    Raises
    ------
    FrontEndError
        It does not take one tensor, or cannot be captured. That it computes something else each time, changes its
        buffers or its input, or returns something else than tensors (alone, or in tuples, lists and dictionaries) is
        noted in :attr:`Captured.refusals`, for other reasons to be found, too.
    """
    devices = [images.device] if images.is_cuda else []
    with _evaluating(model), torch.no_grad(), torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sample = images[:_SAMPLE]
        outputs, refusals = _observed(model, sample)
        batch = images[torch.arange(_BATCH, device=images.device) % len(images)]
        try:
            with _whole_operations(model):
                program = torch.export.export(model, (batch,))
            places = {node: place for place, node in enumerate(program.graph.nodes)}
            for node in program.graph.nodes:
                _keep_dropout(node)
                _out_of_place(node, places)
            if any(_mutates(node) or _name(node) in _INERT for node in program.graph.nodes):
                # Makes mutation and aliases explicit, and leaves such dropout out, at the price of one more pass.
                program = program.run_decompositions({})
        except Exception as error:  # torch raises errors of every kind where it cannot follow a network
            raise FrontEndError([*refusals, _untraceable(error)]) from error
    return _described(model, program, sample, outputs, refusals)


_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


def capture_program(program: ExportedProgram) -> Captured:
    """As :func:`capture`, of what ``torch.export.export`` gave before, in evaluation mode.

    Raises
    ------
    FrontEndError
        As :func:`capture`; or the program does not have the images that it was made with.
    """
    given = program.example_inputs
    if not given or len(given[0]) != 1 or given[1] or not isinstance(given[0][0], Tensor):
        raise FrontEndError([Refusal("", "the program must have been exported with one tensor of images as its input")])
    images = torch.randn(given[0][0].shape, generator=torch.Generator().manual_seed(0))
    if given[0][0].is_floating_point():
        images = images.to(given[0][0].dtype)
    try:
        for node in program.graph.nodes:
            _keep_dropout(node)
        program = program.run_decompositions({})
        model = program.module()
        with torch.no_grad():
            outputs = _run(model, images.clone())
    except Exception as error:  # torch reads files whose parts contradict each other, and finds it here in many ways
        why = f"the program must be one that torch can run: {' '.join(str(error).split())[:200]}"
        raise FrontEndError([Refusal("", why)]) from error
    if refusals := _unusable(outputs):
        raise FrontEndError(refusals)
    return _described(model, program, images, outputs, [])


def _check_modules(model: nn.Module) -> None:
    """Refuse modules that nothing can be said of before they run, or that are no Python, and hooks of all modules."""
    refusals = []
    if any(getattr(torch.nn.modules.module, hooks) for hooks in _GLOBAL_HOOKS):
        why = "a hook on all modules must not be there"
        refusals.append(Refusal("", why, "remove it: it would be called for modules that are not the network's, too"))
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            advice = "give the module of Python that it was made of"
            refusals.append(Refusal(f"{name!r}" if name else "the network", "must not be TorchScript", advice))
            break
    refusals += _quantised(model)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            refusals.append(Refusal(f"{name!r}", "must be initialised", "have the network compute one image first"))
    if refusals:
        raise FrontEndError(refusals)


def _quantised(model: nn.Module) -> Iterator[Refusal]:
    """Why modules of torch's quantisation are refused: of each kind the first, and how many more there are."""
    for places, what, advice in _QUANTISED:
        found = {
            name: type(module).__name__
            for name, module in model.named_modules()
            if any(base.__module__.startswith(places) for base in type(module).__mro__)
        }
        outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
        if outer:
            more = "" if len(outer) == 1 else f" and {len(outer) - 1} more"
            place = f"{outer[0]!r}" if outer[0] else "the network"
            yield Refusal(place, f"({found[outer[0]]}){more} must not be {what}", advice)


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[list[str]]:
    """Puts back what a run changes in parameters and buffers; names those, behind it."""
    _check_modules(model)
    changed: list[str] = []
    named = [*model.named_parameters(), *model.named_buffers()]
    before = [(name, tensor, tensor.detach().clone()) for name, tensor in named]
    try:
        yield changed
    finally:
        with torch.no_grad():
            for name, tensor, copy in before:
                if not _equal(tensor, copy):
                    changed.append(name)
                    if tensor.shape == copy.shape:
                        tensor.copy_(copy)
                    else:
                        tensor.data = copy


@torch.no_grad()
def observe(model: nn.Module, images: Given) -> Any:
    """What a network returns of its input in evaluation mode, whatever that is. The same random numbers every time.

    Neither it nor the images are changed.

    Raises
    ------
    FrontEndError
        It cannot compute them.
    """
    device = next((tensor.device for tensor in tree_leaves(list(model.parameters()))), torch.device("cpu"))
    devices = [device] if device.type == "cuda" else []
    with _evaluating(model), _unchanged(model), torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(0)
        if devices:
            torch.cuda.manual_seed(0)
        return _run(model, mapped(torch.clone, images))


#: Where torch has modules that are no floats, what they are, and what to give instead: those with packed weights, which
#: torch.export does not take, and those that watch or round values, which quantisation puts between a network's own.
_QUANTISED = (
    (
        ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized"),
        "a quantised module of torch",
        "give the network of floats that was quantised",
    ),
    (
        (
            "torch.ao.nn.qat",
            "torch.ao.nn.intrinsic.qat",
            "torch.ao.quantization.fake_quantize",
            "torch.ao.quantization.observer",
            "torchao.quantization.pt2e",
        ),
        "of torch's quantisation, which watches or rounds values",
        "give the network of floats, as it was before prepare, prepare_qat or prepare_pt2e",
    ),
)


def _run(model: nn.Module, images: Given) -> Any:
    try:
        return called(model, images)
    except Exception as error:  # networks raise errors of every kind
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        line = source_of_error(error)
        if isinstance(images, Tensor) and images.ndim == 4:
            dtype = str(images.dtype).removeprefix("torch.")
            why = f"the network must take images {list(images.shape[1:])} in {dtype}: {text}"
            if "c10::Half" in text or "c10::BFloat16" in text:
                why += "; leave casts such as .half() and .to(torch.bfloat16) out of forward: weights are float32 here"
        else:
            why = f"the network must take its input, {described(images)}: {text}"
        raise FrontEndError([Refusal(f"{line}:" if line else "", why)]) from error


def _observed(model: nn.Module, sample: Tensor) -> tuple[Any, list[Refusal]]:
    """What the network makes of images, and why it is refused, if it has an effect, or chance, in it."""
    inputs = sample.clone()
    with _unchanged(model) as changed:
        outputs = _run(model, inputs)
        again = _run(model, sample.clone())
    advice = "a network that is compressed keeps no state"
    refusals = [Refusal(f"{name!r}", "is changed by the network's forward pass", advice) for name in changed]
    if not _equal(inputs, sample):
        refusals.append(Refusal("", "the network changes its input in place", "have it clone the images first"))
    if unusable := _unusable(outputs):
        refusals += unusable
    elif any(bool(leaf.isnan().any()) for leaf in tree_leaves(outputs)):
        advice = "look at its weights, and for batch norms with negative running_var"
        refusals.append(Refusal("", "the network must not compute NaN of its images", advice))
    elif any(bool(leaf.isinf().any()) for leaf in tree_leaves(outputs)):
        advice = "look at its weights and biases, and for divisions by 0"
        refusals.append(Refusal("", "the network must not compute infinity of its images", advice))
    elif not same(again, outputs):
        advice = "leave out what draws random numbers or counts calls, such as dropout that is always on"
        refusals.append(Refusal("", "the network does not compute the same of the same images twice", advice))
    return outputs, refusals


def _unusable(outputs: Any) -> list[Refusal]:
    """Why what a network returns are no outputs; nothing if they are."""
    leaves = tree_leaves(outputs)
    if not leaves:
        return [Refusal("", "the network must return a tensor, not nothing", "return the logits")]
    wrong = next((leaf for leaf in leaves if not isinstance(leaf, Tensor)), None)
    if wrong is None and all(isinstance(leaf, Tensor) for leaf in leaves):
        return []
    advice = "return tensors alone, or in tuples, lists and dictionaries"
    return [Refusal("", f"the network must return tensors, not {type(wrong).__name__}", advice)]


def _plain(outputs: Any) -> Any:
    """Outputs in tuples, lists and dictionaries, whatever kinds of those they came in."""
    if isinstance(outputs, dict):
        return {str(name): _plain(value) for name, value in outputs.items()}
    if isinstance(outputs, tuple | list):
        return (list if isinstance(outputs, list) else tuple)(_plain(value) for value in outputs)
    return outputs


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))


def _keep_dropout(node: fx.Node) -> None:
    """Have a dropout that does nothing now stand in the graph."""
    features = {"aten::dropout": 0, "aten::feature_dropout": 1}.get(_name(node))
    if features is not None and node.args[2] is False:
        node.target = torch.ops.msvq.dropout.default
        node.args = (node.args[0], float(cast(float, node.args[1])), features)


# Dropout that graphs do not have, which does nothing in evaluation mode.
_INERT = ("aten::alpha_dropout", "aten::feature_alpha_dropout")

# Their results are memory of their own, with names of today and of decompositions.
_FRESH = (
    *("adaptive_avg_pool2d", "add", "avg_pool2d", "batch_norm", "clamp", "clamp_min", "clone", "conv2d", "hardswish"),
    *("hardtanh", "leaky_relu", "linear", "max_pool2d", "mean", "mul", "relu", "relu6", "sigmoid", "silu", "sub"),
)


def _out_of_place(node: fx.Node, places: Mapping[fx.Node, int]) -> None:
    """Write an operation in place as one that is not, where no other name of the memory can see the difference.

    What reads the value behind it reads the result from then on.
    """
    name, given = _name(node), node.args[0] if node.args else None
    if not (_mutates(node) and name.endswith("_") and isinstance(given, fx.Node)):
        return
    plain = getattr(torch.ops.aten, name.removeprefix("aten::").removesuffix("_"), None)
    overload = getattr(plain, cast(torch._ops.OpOverload, node.target)._overloadname, None)
    if overload is None or given.meta["val"].shape != node.meta["val"].shape:
        return
    if not _is_fresh(given) or not all(_is_fresh(user, in_place=True) for user in given.users):
        return
    node.target = overload
    for user in list(given.users):
        if places[user] > places[node]:
            user.replace_input_with(given, node)


def _is_fresh(node: fx.Node, *, in_place: bool = False) -> bool:
    """Whether the result of an operation is memory that nothing else has a name for.

    ``in_place``: or that of what it changes, in place.
    """
    if node.op == "output":
        return in_place
    if node.target is torch.ops.msvq.dropout.default:
        # In evaluation mode it gives its input itself.
        given = cast(fx.Node, node.args[0])
        return _is_fresh(given) and list(given.users) == [node]
    name = _name(node).removeprefix("aten::")
    return (name.removesuffix("_") if in_place else name) in _FRESH


def _name(node: fx.Node) -> str:
    """The name of an ATen operation, without its overload; empty for anything else."""
    return node.target._schema.name if isinstance(node.target, torch._ops.OpOverload) else ""


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _untraceable(error: Exception) -> Refusal:
    text = " ".join(str(error).split())
    line = source_of_error(error)
    where = f"{line}:" if line else ""
    if (
        "data-dependent" in text.lower()
        or "GuardOnDataDependent" in type(error).__name__
        or "aten._local_scalar" in text
    ):
        why = "what the network does depends on the values that it computes, so it cannot be traced"
        return Refusal(where, why, "have it compute the same operations for every image")
    return Refusal(where, f"the network cannot be traced by torch.export: {type(error).__name__}: {text[:200]}")


def _described(
    model: nn.Module, program: ExportedProgram, sample: Tensor, outputs: Any, refusals: list[Refusal]
) -> Captured:
    signature = program.graph_signature
    refusals = list(refusals)
    for output in signature.output_specs:
        if output.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            advice = "a network that is compressed keeps no state"
            refusals.append(Refusal(f"{output.target!r}", "is changed by the network's forward pass", advice))
        elif output.kind == OutputKind.USER_INPUT_MUTATION:
            refusals.append(Refusal("", "the network changes its input in place", "have it clone the images first"))
    inputs = [given for given in signature.input_specs if given.kind == InputKind.USER_INPUT]
    if len(inputs) != 1:
        raise FrontEndError([*refusals, Refusal("", f"the network must have one input, not {len(inputs)}")])
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    tensors = {}
    for given in signature.input_specs:
        if given.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            # The network's own tensor, so that what is trained is the user's parameter.
            assert given.target is not None
            tensors[placeholders[given.arg.name]] = named[given.target], first[id(named[given.target])]
        elif given.kind == InputKind.CONSTANT_TENSOR:
            assert given.target is not None
            tensors[placeholders[given.arg.name]] = program.constants[given.target], ""
    given = next(node for node in program.graph.nodes if node.op == "output").args[0]
    kinds = [output.kind for output in signature.output_specs]
    results = [each for each, kind in zip(given, kinds, strict=True) if kind == OutputKind.USER_OUTPUT]
    returned = _plain(tree_unflatten(results, program.call_spec.out_spec))
    image = placeholders[inputs[0].arg.name]
    return Captured(program.graph, tensors, image, returned, sample, outputs, refusals, program.graph_module)
