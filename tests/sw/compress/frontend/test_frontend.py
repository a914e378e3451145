"""Networks in every way that torch allows: each refused by the name that its user knows, or equal to torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from sw.compress.frontend import FrontEndError, raise_network
from sw.compress.frontend.raising import raise_program
from sw.compress.methods import CompressError, Recipe
from sw.compress.network import module_sources
from sw.compress.training.layers import compressed_layers
from sw.compress.training.modules import CodebookDecoder, convert, load_layers
from sw.compress.training.prepare import prepare
from tests.sw.compress.frontend.networks import Net, outcome, sample


def plain(net: Net, x: Tensor) -> Tensor:
    return net.b(F.relu(x))


def statement(run: Callable[[Net, Tensor], Any]) -> Callable[[Net, Tensor], Tensor]:
    """A body that runs something for its effect alone."""

    def body(net: Net, x: Tensor) -> Tensor:
        run(net, x)
        return net.b(x)

    return body


def two_readers(run: Callable[[Net, Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    """A body in which another one reads what an operation in place has changed."""

    def body(net: Net, x: Tensor) -> Tensor:
        y = run(net, x)
        return F.relu(net.b(y) + x)

    return body


def aliases(net: Net, x: Tensor) -> Tensor:
    y = net.b(F.relu(x))
    z = y
    z += x
    return F.relu(y)


def view(net: Net, x: Tensor) -> Tensor:
    x.view(len(x), 8, -1).relu_()
    return net.b(x)


def dropout_alias(net: Net, x: Tensor) -> Tensor:
    y = F.dropout(x, 0.5, training=False)
    y.relu_()
    return F.relu(net.b(y) + x)


def detached(net: Net, x: Tensor) -> Tensor:
    y = F.relu(x)
    y.data.mul_(2)
    return net.b(y)


def set_items(net: Net, x: Tensor) -> Tensor:
    x[:, 0] = 0
    return net.b(x)


def copied_into(net: Net, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y.copy_(F.relu(x))
    return net.b(y)


def out_of_add(net: Net, x: Tensor) -> Tensor:
    y = net.b(F.relu(x))
    torch.add(x, y, out=y)
    return F.relu(y)


#: Each equal, or, with words of the message, refused.
IN_PLACE: dict[str, tuple[Callable[[Net, Tensor], Tensor], str]] = {
    "relu6": (statement(lambda net, x: F.relu6(x, inplace=True)), ""),
    "hardtanh": (statement(lambda net, x: F.hardtanh_(x, 0.0, 6.0)), ""),
    "clamp_min": (statement(lambda net, x: x.clamp_min_(0)), ""),
    "module": (statement(lambda net, x: net.act(x)), ""),
    "no grad": (statement(lambda net, x: torch.no_grad()(x.relu_)()), ""),
    "iadd": (lambda net, x: F.relu(net.b(F.relu(x)).add_(x)), ""),
    "out": (out_of_add, ""),
    "mul": (statement(lambda net, x: x.mul_(3)), ""),
    "leaky": (statement(lambda net, x: F.leaky_relu_(x, 0.1)), ""),
    "clamp": (statement(lambda net, x: x.clamp_(-1, 0.5)), ""),
    "rows": (statement(lambda net, x: x[:, :, 2:].zero_()), "slice_scatter in the network"),
    "items": (set_items, "select in the network"),
    "fill": (statement(lambda net, x: x.masked_fill_(x < 0, 0)), ""),
    "copy": (copied_into, "copy in the network"),
    "view": (view, "view in the network"),
    "data": (detached, "cannot be traced"),
    "two readers, relu6": (two_readers(lambda net, x: F.relu6(x, inplace=True)), ""),
    "two readers, clamp": (two_readers(lambda net, x: x.clamp_(min=0)), ""),
    "two readers, module twice": (two_readers(lambda net, x: net.act(net.act(x))), ""),
    "two readers, flattened": (
        lambda net, x: net.b(F.relu(x)).add_(F.relu_(x)),
        "",
    ),
    "aliases": (aliases, ""),
    "an alias by dropout": (dropout_alias, "something else than torch.export sees"),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_operations(name: str, tmp_path: Path) -> None:
    body, words = IN_PLACE[name]
    reason = outcome(Net(body), sample(), tmp_path)
    assert words in (reason or "")
    assert bool(words) == (reason is not None), reason


LOW, HIGH = torch.tensor(-0.3), torch.tensor(0.4)

#: As :data:`IN_PLACE`.
BY_TENSORS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "clamp to two": (lambda x: torch.clamp(x, LOW, HIGH), ""),
    "clamp by name": (lambda x: x.clamp(max=HIGH), ""),
    "clamp in place": (lambda x: (x * 2).clamp_(min=LOW.reshape(1, 1)), ""),
    "no clamp": (lambda x: torch.clamp(x, HIGH, LOW), ""),
    "clamp_min": (lambda x: torch.clamp_min(x, LOW), ""),
    "clamp_max": (lambda x: torch.clamp_max(x, HIGH), ""),
    "maximum": (lambda x: torch.maximum(x, LOW), ""),
    "minimum of a constant": (lambda x: torch.minimum(HIGH, x), ""),
    "each channel": (lambda x: torch.clamp(x, min=torch.linspace(-1, 0, x.shape[1])[:, None, None]), "clamp in the ne"),
    "more axes": (lambda x: torch.clamp(x, min=LOW.reshape(1, 1, 1, 1, 1)).flatten(0, 1), "with a constant tensor"),
    "two values": (lambda x: torch.clamp(x, min=x.mean(1, keepdim=True)), "clamp in the network"),
    "power": (
        lambda x: torch.pow(x.abs() + 1, HIGH),
        "pow in the network .* with a constant tensor has no integer form",
    ),
    "choice": (lambda x: torch.where(x > 0, x, HIGH), "where in the network .* with a constant tensor"),
}


@pytest.mark.parametrize("name", BY_TENSORS)
def test_operations_with_tensors_of_one_number(name: str, tmp_path: Path) -> None:
    change, words = BY_TENSORS[name]
    reason = outcome(Net(lambda net, x: net.b(change(x))), sample(), tmp_path)
    assert re.search(words, reason or "")
    assert bool(words) == (reason is not None), reason


class Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


class Noise(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.randn_like(weight)


def with_net(change: Callable[[Net], Any], body: Callable[[Net, Tensor], Tensor] = plain) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = Net(body)
        change(net)
        return net

    return make


def renamed(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    for key in list(state):
        state["renamed." + key] = state.pop(key)


def replaced_forward(net: Net, after: Callable[[Tensor], Tensor]) -> None:
    own = net.b.forward
    net.b.forward = lambda x: after(own(x))  # type: ignore[method-assign]


def trained_spectral_norm(net: Net) -> None:
    spectral_norm(net.b)
    net(sample())


HOOKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "forward": (with_net(lambda net: net.b.register_forward_hook(lambda m, i, o: o.relu())), ""),
    "forward in place": (with_net(lambda net: net.a.register_forward_hook(lambda m, i, o: o.relu_())), ""),
    "forward with keywords": (
        with_net(lambda net: net.b.register_forward_hook(lambda m, i, k, o: o + o, with_kwargs=True)),
        "",
    ),
    "forward, factor": (
        with_net(lambda net: net.b.register_forward_hook(lambda m, i, o: o * 2)),
        "",
    ),
    "of a container": (with_net(lambda net: net.register_forward_hook(lambda m, i, o: -o)), ""),
    "pre-forward": (with_net(lambda net: net.b.register_forward_pre_hook(lambda m, i: (i[0].relu(),))), ""),
    "pre-forward, sum": (
        with_net(lambda net: net.b.register_forward_pre_hook(lambda m, i: (i[0] + 1,))),
        "",
    ),
    "backward": (with_net(lambda net: net.b.register_full_backward_hook(lambda m, i, o: None)), ""),
    "counting": (with_net(lambda net: net.b.register_forward_hook(lambda m, i, o: net.calls.append(1))), "'calls'"),
    "state dict": (with_net(lambda net: net.register_state_dict_post_hook(renamed)), ""),
    "forward of an instance": (with_net(lambda net: replaced_forward(net, torch.relu)), ""),
    "forward of an instance, factor": (with_net(lambda net: replaced_forward(net, lambda y: y * 3)), ""),
    "weight norm": (with_net(lambda net: weight_norm(net.b)), ""),
    "weight norm, new": (with_net(lambda net: parametrizations.weight_norm(net.b)), ""),
    "spectral norm": (with_net(trained_spectral_norm), ""),
    "spectral norm, new": (with_net(lambda net: parametrizations.spectral_norm(net.fc)), ""),
    "pruned": (with_net(lambda net: prune.l1_unstructured(net.b, "weight", 0.5)), ""),
    "own parametrisation": (with_net(lambda net: parametrize.register_parametrization(net.b, "weight", Double())), ""),
    "parametrised bias": (with_net(lambda net: parametrize.register_parametrization(net.b, "bias", Double())), ""),
    "random parametrisation": (
        with_net(lambda net: parametrize.register_parametrization(net.b, "weight", Noise())),
        "weights computed once",
    ),
}


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_and_parametrisations(name: str, tmp_path: Path) -> None:
    make, words = HOOKS[name]
    model = make()
    if name == "counting":
        # The hook keeps a list in the network: no tensor, and no part of what it computes.
        model.calls, words = [], ""  # type: ignore[assignment]
    reason = outcome(model, sample(), tmp_path)
    assert words in (reason or "")
    assert bool(words) == (reason is not None), reason


@pytest.fixture
def global_hook() -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: o * 1.5 if isinstance(m, nn.Conv2d) else o)
    yield
    handle.remove()


@pytest.mark.usefixtures("global_hook")
def test_hooks_of_all_modules_are_refused() -> None:
    with pytest.raises(CompressError, match="a hook on all modules must not be there: remove it"):
        prepare(Net(plain), [("*", Recipe("int8"))], sample(), progress=False)


def test_a_hook_that_puts_the_old_weight_back_is_refused() -> None:
    net = Net(lambda net, x: F.softmax(net.b(F.relu(x)), 1))
    old = net.b.weight.detach().clone()

    def hook(module: nn.Module, _: object) -> None:
        module.weight.data.copy_(old)  # type: ignore[union-attr, operator]

    net.b.register_forward_pre_hook(hook)
    with pytest.raises(CompressError, match="layer 'b' must not have a hook that writes into its weight"):
        prepare(net, [("*", Recipe("int8"))], sample(), progress=False)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias, padding=self.padding)


class Activated(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Negated(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


class NormRelu(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class NormPlus(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Always(nn.Dropout):
    def train(self, mode: bool = True) -> Always:
        return super().train(True)


def in_place_of(name: str, module: nn.Module, body: Callable[[Net, Tensor], Tensor] = plain) -> Callable[[], nn.Module]:
    return with_net(lambda net: setattr(net, name, module), body)


def counted(net: Net, x: Tensor) -> Tensor:
    net.count += 1
    return net.b(F.relu(x))


def kept(net: Net, x: Tensor) -> Tensor:
    net.last = x.detach()
    return net.b(F.relu(x))


def toggled(net: Net, x: Tensor) -> Tensor:
    net.odd = not getattr(net, "odd", False)
    return net.b(F.relu(x)) if net.odd else F.relu(net.b(x))


def in_autocast(net: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = net.b(F.relu(x))
    return y.float()


def one_number(*more: nn.Module) -> nn.Module:
    """A network that gives one number for each image, and what is behind it."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    return nn.Sequential(*layers, *more)


CONSTANT = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(0)) / 10
MODULES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weights standardised": (in_place_of("b", Standardised(8, 8, 3, padding=1)), ""),
    "convolution with ReLU": (in_place_of("b", Activated(8, 8, 3, padding=1)), ""),
    "batch norm with ReLU": (
        in_place_of("norm", NormRelu(8).eval(), lambda net, x: net.b(net.norm(x))),
        "",
    ),
    "negated layer": (in_place_of("fc", Negated(8, 5)), ""),
    "batch norm plus one": (in_place_of("norm", NormPlus(8), lambda net, x: F.relu(net.norm(x))), ""),
    "reflected edges": (in_place_of("b", nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")), "mode 'reflect'"),
    "no statistics": (
        in_place_of("norm", nn.BatchNorm2d(8, track_running_stats=False), lambda net, x: net.b(net.norm(x))),
        "must have running statistics: a batch norm",
    ),
    "statistics of the batch": (
        with_net(lambda net: None, lambda net, x: net.b(F.batch_norm(x, None, None, training=True))),
        "must have running statistics: a batch norm",
    ),
    "instance norm": (
        in_place_of("norm", nn.InstanceNorm2d(8), lambda net, x: net.b(net.norm(x))),
        "'norm' (InstanceNorm2d)",
    ),
    "group norm": (in_place_of("norm", nn.GroupNorm(2, 8), lambda net, x: net.b(net.norm(x))), "'norm' (GroupNorm)"),
    "statistics without a module": (
        with_net(
            lambda net: None,
            lambda net, x: net.b(F.relu(F.batch_norm(x, net.norm.running_mean, net.norm.running_var))),
        ),
        "",
    ),
    "buffer that counts": (
        with_net(lambda net: net.register_buffer("count", torch.zeros(())), counted),
        "'count' is changed by the network's forward pass",
    ),
    "tensor that is kept": (with_net(lambda net: None, kept), ""),
    "every other call": (with_net(lambda net: None, toggled), "computes something else"),
    "dropout of every mode": (
        in_place_of("norm", Always(), lambda net, x: net.norm(net.b(F.relu(x)))),
        "does not compute the same of the same images twice",
    ),
    "dropout that is on": (
        with_net(lambda net: None, lambda net, x: F.dropout(net.b(F.relu(x)))),
        "does not compute the same of the same images twice",
    ),
    "noise": (
        with_net(lambda net: None, lambda net, x: net.b(F.relu(x)) + torch.rand_like(x)),
        "does not compute the same of the same images twice",
    ),
    "values decide": (
        with_net(lambda net: None, lambda net, x: net.b(F.relu(x)) if x.sum() > 0 else net.c(F.relu(x))),
        "depends on the values that it computes",
    ),
    "a number of them": (
        with_net(lambda net: None, lambda net, x: net.b(F.relu(x)) * float(x.max())),
        "depends on the values that it computes",
    ),
    "the batch decides": (
        with_net(lambda net: None, lambda net, x: net.b(F.relu(x)) if len(x) > 2 else net.c(F.relu(x))),
        "something else of one image than of the same in a batch",
    ),
    "weight of a constant": (
        with_net(lambda net: None, lambda net, x: F.conv2d(F.relu(x), CONSTANT, padding=1)),
        "",
    ),
    "weight of another layer": (
        with_net(lambda net: None, lambda net, x: F.conv2d(F.relu(x), net.c.weight * 2, net.c.bias, padding=1)),
        "",
    ),
    "weight of two": (
        with_net(lambda net: None, lambda net, x: F.conv2d(F.relu(net.b(x)), net.b.weight.flip(0), padding=1)),
        "must not compute its weight from b.weight, as layer 'b' does in another way",
    ),
    "weight of the images": (
        with_net(lambda net: None, lambda net, x: F.conv2d(F.relu(x), net.b.weight * x.mean(), padding=1)),
        "must have a weight that does not depend on the images",
    ),
    "autocast": (with_net(lambda net: None, in_autocast), "wrap_with_autocast in the network"),
    "half inside": (
        with_net(lambda net: None, lambda net, x: net.b(F.relu(x.half().float()))),
        "changes the precision from torch.float32 to torch.float16",
    ),
    "checkpointed": (
        with_net(lambda net: None, lambda net, x: checkpoint(net.b, F.relu(x), use_reentrant=False)),
        "",
    ),
    "half": (lambda: Net(plain).half(), ""),
    "bfloat16": (lambda: Net(plain).bfloat16(), ""),
    "double": (lambda: Net(plain).double(), ""),
    "channels last": (lambda: Net(plain).to(memory_format=torch.channels_last), ""),
    "data parallel": (lambda: nn.DataParallel(Net(plain)), ""),
    "frozen": (lambda: Net(plain).requires_grad_(False), ""),
    "a layer twice": (lambda: Net(lambda net, x: net.b(F.relu(net.b(F.relu(x))))), ""),
    "norm twice": (
        lambda: Net(lambda net, x: F.relu(net.norm(net.c(F.relu(net.norm(net.b(F.relu(x)))))))),
        "",
    ),
    "two names": (with_net(lambda net: setattr(net, "d", net.b), lambda net, x: net.d(F.relu(net.b(F.relu(x))))), ""),
    "tied bias": (
        with_net(lambda net: setattr(net.c, "bias", net.b.bias), lambda net, x: net.c(F.relu(net.b(F.relu(x))))),
        "",
    ),
    "a number": (
        lambda: one_number(nn.Flatten(0)),
        "'4' (Flatten) of 1 to a number has no integer form: keep its axis, [n, 1], and take it off what the network",
    ),
    "a number and back": (lambda: one_number(nn.Flatten(0), nn.Unflatten(0, (-1, 1))), ""),
    "no rows": (
        with_net(lambda net: setattr(net, "none", nn.Linear(4, 0))),
        "layer 'none': weight must be [K, C, R, S]",
    ),
    "TorchScript": (
        lambda: torch.jit.trace(nn.Sequential(nn.Conv2d(3, 5, 9), nn.Flatten()), sample()),  # type: ignore[no-any-return, no-untyped-call]
        "the network must not be TorchScript",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", MODULES)
def test_modules_of_every_kind(name: str, tmp_path: Path) -> None:
    make, words = MODULES[name]
    model = make()
    precision = next(model.parameters()).dtype
    reason = outcome(model, sample().to(precision), tmp_path)
    assert words in (reason or "")
    assert bool(words) == (reason is not None), reason


def test_lazy_modules_must_have_run() -> None:
    net = Net(plain)
    net.b = nn.LazyConv2d(8, 3, padding=1)  # type: ignore[assignment]
    with pytest.raises(CompressError, match=r"'b\.weight' must be initialised: have the network compute one image"):
        prepare(net, [], sample(), progress=False)
    with pytest.raises(CompressError, match="layer 'b': weight must be initialised"):
        module_sources(net)


def test_nan_is_no_chance() -> None:
    net = Net(lambda net, x: net.b(net.norm(x))).eval()
    nn.init.constant_(net.norm.running_var, -1)  # type: ignore[arg-type]
    with pytest.raises(FrontEndError, match="the network must not compute NaN of its images: look at its weights"):
        raise_network(net, sample(), check=refuse_activations)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casts_inside_of_forward(dtype: torch.dtype) -> None:
    net = Net(lambda net, x: net.a(x.to(dtype)).float()).eval()
    with pytest.raises(FrontEndError, match=r"in float32: .*; leave casts such as .half\(\) and .* out of forward"):
        raise_network(net, sample(), check=refuse_activations)


def test_infinity_is_no_chance() -> None:
    net = Net(plain).eval()
    net.fc.bias.data[0] = torch.inf
    with pytest.raises(FrontEndError, match="the network must not compute infinity of its images: look at its weights"):
        raise_network(net, sample(), check=refuse_activations)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantised_modules_are_named() -> None:
    net = torch.ao.quantization.quantize_dynamic(Net(plain), {nn.Linear})  # type: ignore[no-untyped-call]
    with pytest.raises(FrontEndError, match=r"'fc' \(Linear\) must not be a quantised module of torch: give the"):
        prepare(net, [], sample(), progress=False)


class Prepared(nn.Module):
    """Two convolutions that torch's quantisation can take: it wants submodules with names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.relu = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.b = nn.Conv2d(8, 8, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.b(self.relu(self.norm(self.a(values))))


def prepared(fused: bool) -> nn.Module:
    """For quantisation-aware training."""
    from torch.ao import quantization

    net = Prepared().train()
    if fused:
        net = quantization.fuse_modules_qat(net, [["a", "norm", "relu"]])  # type: ignore[no-untyped-call]
    net.qconfig = quantization.get_default_qat_qconfig("x86")  # type: ignore[no-untyped-call, assignment]
    return quantization.prepare_qat(net).eval()  # type: ignore[no-untyped-call, no-any-return]


def observed() -> nn.Module:
    """With observers, for quantisation after training."""
    from torch.ao import quantization

    net = Prepared().eval()
    net.qconfig = quantization.get_default_qconfig("x86")  # type: ignore[no-untyped-call, assignment]
    return quantization.prepare(net)  # type: ignore[no-untyped-call, no-any-return]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*reduce_range:UserWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda: prepared(False), r"'a' \(Conv2d\) and 2 more", id="for training"),
        pytest.param(lambda: prepared(True), r"'a' \(ConvBnReLU2d\) and 1 more", id="fused"),
        pytest.param(observed, r"'a\.activation_post_process' \(HistogramObserver\) and 2 more", id="after"),
    ],
)
def test_networks_prepared_for_quantisation_are_named(make: Callable[[], nn.Module], words: str) -> None:
    """In one line, however many observers there are, and as they were."""
    net = make()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    message = (
        rf"^{words} must not be of torch's quantisation, which .*: give the network of floats, as it was before pr"
    )
    with pytest.raises(FrontEndError, match=message) as caught:
        prepare(net, [], sample(), progress=False)
    assert len(caught.value.refusals) == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_state_that_changes_its_size_is_named() -> None:
    class Growing(Net):
        def __init__(self) -> None:
            super().__init__(plain)
            self.register_buffer("seen", torch.zeros(0))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.resize_(len(self.seen) + 1)
            return super().forward(x)

    net = Growing().eval()
    with pytest.raises(FrontEndError, match="'seen' is changed by the network's forward pass"):
        raise_network(net, sample(), check=refuse_activations)
    assert net.seen.shape == (0,)


def test_all_refusals_come_at_once() -> None:
    net = Net(lambda net, x: torch.cumsum(net.c(F.softmax(net.b(x.flip(3)), 1)), 1))
    with pytest.raises(FrontEndError) as caught:
        raise_network(nn.Sequential(net, nn.Softmax(1)), sample(), check=refuse_activations)
    kinds = [re.match(r"\S+", str(refusal))[0] for refusal in caught.value.refusals]  # type: ignore[index]
    assert kinds == ["flip", "softmax", "cumsum", "'1'"]
    assert all(": " in str(refusal).rpartition("has no integer form")[2] for refusal in caught.value.refusals)
    assert "\n" not in str(caught.value)


def refuse_activations(root: nn.Module, node: torch.fx.Node) -> None:
    from sw.compress.training.graph import operation

    operation(root, node)


def test_refusals_name_the_source_line() -> None:
    net = Net(lambda net, x: net.b(torch.softmax(x, 1)))
    _, reason = prepare(net, [("*", Recipe("int8"))], sample(), progress=False)
    assert reason is not None
    assert re.match(r"softmax in the network \(Net\), networks\.py:\d+ `values = self\.body", reason)
    assert "%" not in reason


@pytest.mark.parametrize("recipe", [Recipe("int8"), Recipe("vq", 4, 8, 0, 0), Recipe("msvq", 4, 8, 4, 8)])
def test_tied_layers_stay_one(recipe: Recipe) -> None:
    net = Net(lambda net, x: net.c(F.relu(net.b(F.relu(x)))))
    net.c.weight = net.b.weight
    layers = {layer.name: layer for layer in convert(net, [("*", recipe)], progress=False)}
    assert net.b.decoder is net.c.decoder
    assert (layers["b"].integer_weights() == layers["c"].integer_weights()).all()
    assert layers["b"].codebook_name == layers["c"].codebook_name
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    net(sample()).square().sum().backward()
    optimiser.step()
    trained = {layer.name: layer for layer in compressed_layers(net)}
    assert (trained["b"].float_weights() == trained["c"].float_weights()).all()
    # A network that is tied keeps that when layers are loaded.
    again = Net(net.body)
    again.c.weight = again.b.weight
    load_layers(again, list(trained.values()))
    assert again.b.decoder is again.c.decoder


def test_tied_layers_with_two_rules_take_the_first() -> None:
    net = Net(lambda net, x: net.c(F.relu(net.b(F.relu(x)))))
    net.c.weight = net.b.weight
    rules = [("b", Recipe("vq", 4, 8, 0, 0)), ("c", Recipe("int8"))]
    methods = {layer.name: layer.method for layer in convert(net, rules, progress=False)}
    assert (methods["b"], methods["c"]) == ("vq", "vq")


def test_a_codebook_of_all_layers_counts_a_tied_one_once() -> None:
    net = Net(lambda net, x: net.c(F.relu(net.b(F.relu(x)))))
    net.c.weight = net.b.weight
    convert(net, [("[bc]", Recipe("vq", 4, 8, 0, 0, scope="crosslayer"))], progress=False)
    codebooks = {id(m.codebook) for m in net.modules() if isinstance(m, CodebookDecoder)}
    assert len(codebooks) == 1


@pytest.mark.parametrize("hook", [None, lambda m, i, o: o * 2])
def test_layers_alone_compute_what_the_network_does(hook: Any) -> None:
    net = Net(lambda net, x: F.softmax(net.b(F.normalize(x)), 1))
    if hook is not None:
        net.b.register_forward_hook(hook)
    images = sample()
    expected = net.eval()(images)
    model, reason = prepare(net, [("*", Recipe("int8"))], images, progress=False)
    assert reason is not None
    assert ((model(images) - expected).norm() / expected.norm()).item() < 0.05


def test_a_program_whose_parts_contradict_each_other_is_refused() -> None:
    """As damaged files give them, which torch reads and stumbles over later."""
    program = torch.export.export(nn.ReLU().eval(), (torch.zeros(1, 3, 4, 4),))
    program.module_call_graph[0].signature = None
    with pytest.raises(FrontEndError, match="the program must be one that torch can run: 'NoneType' object has no"):
        raise_program(program)
