from __future__ import annotations

import copy
import threading
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

import msvq
from sw.compress.methods import CompressError, LayerSource, Recipe
from sw.compress.network import compress_network, copy_network, module_sources, state_dict_sources, total_row


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        OrderedDict(
            stem=torch.nn.Conv2d(3, 32, 3, stride=2, padding=1),
            norm=torch.nn.BatchNorm2d(32),
            depthwise=torch.nn.Conv2d(32, 32, 3, padding="same", groups=32),
            point=torch.nn.Conv2d(32, 64, 1, padding="valid"),
            classify=torch.nn.Linear(64, 10),
        )
    )


def test_module_sources() -> None:
    network = small_network()
    sources = {source.name: source for source in module_sources(network)}
    assert list(sources) == ["stem", "depthwise", "point", "classify"]
    assert (sources["stem"].stride, sources["stem"].padding, sources["stem"].groups) == ((2, 2), (1, 1), 1)
    assert (sources["depthwise"].padding, sources["depthwise"].groups) == ((1, 1), 32)
    assert sources["point"].padding == (0, 0)
    assert (sources["classify"].kind, sources["classify"].shape) == ("linear", (10, 64, 1, 1))
    for name, source in sources.items():
        weight = network.get_parameter(f"{name}.weight").detach().numpy()
        np.testing.assert_array_equal(source.weight.reshape(weight.shape), weight)


def test_state_dict_sources() -> None:
    tensors = small_network().half().state_dict()
    sources = {
        source.name: source for source in state_dict_sources({**tensors, "counter.weight": torch.zeros(2, 2).int()})
    }
    assert list(sources) == ["stem", "depthwise", "point", "classify"]
    assert sources["depthwise"].groups == 32
    assert sources["stem"].weight.dtype == np.float32
    assert sources["classify"].shape == (10, 64, 1, 1)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64])
def test_a_quantised_layer_is_not_left_out(dtype: torch.dtype) -> None:
    tensors = small_network().state_dict()
    tensors["point.weight"] = (tensors["point.weight"] * 100).to(dtype)
    message = f"layer 'point': weight must be floats, not {str(dtype)[6:]}: (of a|an)"
    for given in (tensors, {key: tensor.numpy() for key, tensor in tensors.items()}):
        with pytest.raises(CompressError, match=message):
            state_dict_sources(given)
    with pytest.raises(CompressError, match="layer 'q': weight must be floats, not int32: of a quantised checkpoint"):
        state_dict_sources({"q.qweight": torch.zeros(2, 2).int()})
    # As an archive of bfloat16 is read.
    with pytest.raises(CompressError, match="layer 'q': weight must be floats, not void16: numpy reads back no bf"):
        state_dict_sources({"q.weight": np.zeros((2, 2), "V2"), "w.weight": np.zeros((2, 2), np.float32)})


@pytest.mark.parametrize("layer", [torch.nn.Conv2d(4, 4, 2, padding="same"), torch.nn.Conv1d(4, 4, 2, padding="same")])
def test_module_sources_refuses_padding_of_one_side(layer: torch.nn.Module) -> None:
    with pytest.raises(CompressError, match="padding 'same' must be the same on both sides"):
        module_sources(torch.nn.Sequential(layer))


@pytest.mark.parametrize("padding", [2, "same", "valid"])
def test_a_convolution_of_one_axis_is_one_of_one_row(padding: int | str) -> None:
    layer = torch.nn.Conv1d(8, 16, 3, padding=padding, dilation=2, groups=2)
    (source,) = module_sources(torch.nn.Sequential(layer))
    assert (source.kind, source.shape, source.groups) == ("conv", (16, 4, 1, 3), 2)
    assert (source.stride, source.dilation) == ((1, 1), (1, 2))
    assert source.padding == (0, 0 if padding == "valid" else 2)
    np.testing.assert_array_equal(source.weight[:, :, 0], layer.weight.detach().numpy())


def test_the_projection_of_an_attention_in_a_state_dict() -> None:
    attention = torch.nn.TransformerEncoderLayer(8, 2, 16)
    attention.last_ = torch.nn.Linear(8, 4)
    names = [source.name for source in state_dict_sources(attention.state_dict())]
    assert names == ["self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2", "last_"]


@pytest.mark.parametrize(
    ("change", "given"),
    [
        (torch.nn.utils.weight_norm, "weight_v and weight_g"),
        (torch.nn.utils.parametrizations.weight_norm, r"parametrizations\.weight\.original0"),
        (torch.nn.utils.parametrizations.orthogonal, r"parametrizations\.weight\.original"),
        (torch.nn.utils.spectral_norm, "weight_orig and weight_u"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "weight_orig and weight_mask"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_computed_weight_is_not_left_out(change: Any, given: str) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv1d(8, 8, 3))
    for name in "01":
        model = copy.deepcopy(network)
        change(model[int(name)])
        assert model.state_dict().keys() != network.state_dict().keys()
        message = f"layer '{name}': weight must be there, not be computed from {given}: give the network itself, not"
        with pytest.raises(CompressError, match=message):
            state_dict_sources(model.state_dict())
        assert [source.name for source in module_sources(model)] == ["0", "1"]
    # What a network keeps beside its weight is its own.
    tensors = small_network().state_dict()
    kept = {"point.weight_v": tensors["point.weight"], "point.weight_orig": tensors["point.weight"]}
    assert len(state_dict_sources(tensors | kept | {"point.weight_g": tensors["point.weight"]})) == 4


def test_what_is_called_an_embedding_is_named() -> None:
    network = torch.nn.ModuleDict(
        {
            "embed_tokens": torch.nn.Embedding(9, 4),
            "embed": torch.nn.Linear(4, 4),
            "member": torch.nn.Linear(4, 4, bias=False),
            "wpe": torch.nn.Embedding(5, 4),
        }
    )
    with pytest.warns(
        UserWarning, match="^'embed_tokens', 'wpe' are taken for linear layers: a state dict does not say"
    ):
        assert len(state_dict_sources(network.state_dict())) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [source.name for source in module_sources(network)] == ["embed", "member"]
        state_dict_sources(small_network().state_dict())


def test_a_convolution_of_one_axis_in_a_state_dict_is_not_left_out() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv1d(1, 8, 5), torch.nn.Conv1d(8, 8, 3, groups=8), torch.nn.Conv1d(8, 4, 1)
    )
    for own, other in zip(module_sources(network), state_dict_sources(network.state_dict()), strict=True):
        assert (own.name, own.kind, own.shape, own.groups) == (other.name, other.kind, other.shape, other.groups)
        np.testing.assert_array_equal(own.weight, other.weight)


class _Mixed(torch.nn.Module):
    """A layer, and weights that are of none: in modules of other kinds, and alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(16, 16))
        self.up, self.rows = torch.nn.ConvTranspose2d(16, 4, 2), torch.nn.LSTM(4, 4)
        self.attention, self.places = torch.nn.MultiheadAttention(16, 2), torch.nn.Parameter(torch.ones(1, 9, 16))
        self.scale, self.norm = torch.nn.Parameter(torch.ones(16, 1, 1)), torch.nn.LayerNorm(16)


def test_weights_of_no_layer_are_named() -> None:
    recipe = Recipe("int8")
    with pytest.warns(UserWarning, match="1,296 of 1,808 weights are of no Conv2d") as caught:
        msvq.compress(_Mixed(), recipe, progress=False)
    assert "attention.in_proj_weight, up.weight, places and 2 more stay as they are" in str(caught[0].message)
    assert caught[0].filename == __file__
    state = {"a.weight": torch.ones(4, 4), "b.weight": torch.ones(2, 2, 2, 2, 2), "b.mask": torch.ones(4, 4).bool()}
    with pytest.warns(UserWarning, match="32 of 48 weights are of no .*: b.weight stay as they are, "):
        msvq.compress(state, recipe, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tied = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.Conv2d(16, 16, 3))
        msvq.compress(tied, recipe, progress=False)
        msvq.compress({key: each.numpy() for key, each in tied.state_dict().items()}, recipe, progress=False)
        # One that is not there yet has no size.
        msvq.compress(torch.nn.Sequential(tied, torch.nn.LazyConvTranspose2d(4, 2)), recipe, progress=False)


def test_layers_of_one_weight_have_one_recipe() -> None:
    """That of the first: of two, a state dict that is loaded back would keep the last one's."""
    tied = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16))
    tied[2].weight = tied[0].weight
    rules = [("0", Recipe("ssvq", k=4, d=8, n=0, m=0)), ("2", Recipe("int8"))]
    found = msvq.compress(tied, rules, progress=False)
    assert [layer.method for layer in found.layers] == ["ssvq", "ssvq"]
    weights = found.state_dict()
    np.testing.assert_array_equal(weights["0.weight"], weights["2.weight"])


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.complex64, "complex64: an imaginary part would be lost"),
        (torch.int8, "int8: of a quantised checkpoint, multiply by the scales first"),
        (torch.float8_e4m3fn, "float8_e4m3fn: of a quantised checkpoint, multiply by the scales first; .*"),
    ],
)
def test_weights_that_are_no_floats_are_refused_in_a_network_too(dtype: torch.dtype, message: str) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3))
    network[0].weight = torch.nn.Parameter(network[0].weight.detach().to(dtype), requires_grad=False)
    message = f"layer '0': weight must be floats(| of at least 16 bits), not {message}$"
    for given in (module_sources, lambda network: state_dict_sources(network.state_dict())):
        with pytest.raises(CompressError, match=message):
            given(network)


def patched(kind: str) -> torch.nn.Sequential:
    """In training mode, with a function on the whole or on a batch norm that calls what was there before."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 1)).train()
    module: Any = network if kind.startswith("whole") else network[1]
    own, scale = module.forward, network[2].bias

    def again(x: torch.Tensor, left: int = 1) -> torch.Tensor:
        return own(x) if left == 0 else again(x, left - 1) * scale.square().sum()

    if kind == "default":
        module.forward = lambda x, own=own, module=network: own(x) * module[2].bias.square().sum()
    elif kind == "hook":
        module.register_forward_hook(lambda module, given, result: own(result) * scale.square().sum())
    elif kind == "named":
        space = {"own": own, "scale": scale}
        exec("def forward(x, *, scale=scale):\n    return own(x) * scale.square().sum()", space)
        module.forward = space["forward"]
    else:
        module.forward = again
    return network


@pytest.mark.parametrize("kind", ["whole", "module", "default", "hook", "named"])
def test_functions_set_on_a_module_call_the_copy(kind: str) -> None:
    network, images = patched(kind), torch.randn(4, 3, 9, 9)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    copied = copy_network(network)
    found = copied.eval()(images)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    torch.testing.assert_close(found, network.eval()(images))
    with torch.no_grad():
        copied[2].bias.mul_(2)
    assert not torch.equal(copied(images), found)
    torch.testing.assert_close(network(images), found)


def test_a_function_that_reaches_nothing_of_the_network_is_the_same_in_a_copy() -> None:
    network, count = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), [0]
    network[0].forward = lambda x: x * len(count)
    assert copy_network(network)[0].forward is network[0].forward


def test_nan_in_a_network_names_the_layer() -> None:
    network = small_network()
    network.get_parameter("point.weight").data[3, 2] = float("nan")
    with pytest.raises(CompressError, match="layer 'point': weight must be finite"):
        module_sources(network)


@pytest.mark.parametrize("method", ["mvq", "ssvq", "vq", "msvq", "int8"])
def test_report_matches_the_layers(method: str) -> None:
    sources = module_sources(small_network())
    layers, rows = compress_network(sources, Recipe(method, k=8, d=4, n=2, m=4), progress=False)
    assert [layer.name for layer in layers] == [row.layer for row in rows] == [source.name for source in sources]
    for source, layer, row in zip(sources, layers, rows, strict=True):
        error = layer.float_weights().astype(np.float64) - source.weight
        assert row.method == layer.method
        assert row.sse == pytest.approx(float((error**2).sum()), rel=1e-9)
        assert row.relative_error == pytest.approx(row.sse / float((source.weight.astype(np.float64) ** 2).sum()))
        if row.kept_sse is not None:
            assert row.kept_sse <= row.sse
        assert row.to_dict()["shape"] == list(source.shape)
    reasons = {row.layer: row.reason for row in rows}
    if method == "int8":
        assert set(reasons.values()) == {None}
    else:
        assert reasons["depthwise"] == "depthwise"
        assert reasons["classify"] == "channels: 10 is not a multiple of d = 4"
        assert (reasons["stem"], reasons["point"]) == (None, None)
        assert rows[3].kept_sse is None
    total = total_row(rows)
    assert total.sse == pytest.approx(sum(row.sse for row in rows))
    assert total.bits.total == sum(row.bits.total for row in rows)
    assert total_row(rows, compressed_only=True).bits.weight_count == sum(
        source.weight.size for source in sources if reasons[source.name] is None
    )


def test_kept_sse_of_an_unmasked_method_covers_the_weights_pruning_would_keep() -> None:
    weight = np.zeros((4, 64, 1, 1), dtype=np.float32)
    weight[:2] = np.random.default_rng(0).standard_normal((2, 64, 1, 1)) + 5
    weight[2:] = np.random.default_rng(1).standard_normal((2, 64, 1, 1)) / 5
    layers, rows = compress_network(
        [LayerSource("x", "conv", weight)], Recipe("vq", k=4, d=4, n=2, m=4), progress=False
    )
    error = (layers[0].float_weights() - weight.astype(np.float64)) ** 2
    assert rows[0].kept_sse == pytest.approx(float(error[:2].sum()))
    assert rows[0].sse == pytest.approx(float(error.sum()))


def test_compress_network_refuses() -> None:
    with pytest.raises(CompressError, match="at least one convolution or linear layer, not 0"):
        compress_network([], Recipe(), progress=False)
    source = LayerSource("twin", "conv", np.ones((4, 4, 1, 1), dtype=np.float32))
    with pytest.raises(CompressError, match="layer names must differ, not 'twin' twice"):
        compress_network([source, source], Recipe(), progress=False)
    with pytest.raises(CompressError, match="no layer to total"):
        total_row([])


def test_rules_choose_for_each_layer() -> None:
    rules = [("stem", Recipe("lsq4")), ("point", Recipe("msvq", 8, 4, 2, 4))]
    layers, rows = compress_network(module_sources(small_network()), rules, progress=False)
    assert [(layer.method, layer.weight_bits) for layer in layers] == [
        ("int8", 4),
        ("int8", 8),
        ("msvq", 8),
        ("int8", 8),
    ]
    assert all(row.reason is None for row in rows)


def test_totals_count_a_shared_codebook_once() -> None:
    recipe = Recipe("vq", 8, 4, 0, 0, scope="crosslayer")
    _, rows = compress_network(module_sources(small_network()), recipe, progress=False)
    assert [row.bits.codebook for row in rows] == [256, 0, 256, 0]
    assert total_row(rows).bits.codebook == 256


def test_permutation_needs_a_network() -> None:
    with pytest.raises(CompressError, match=r"method pqf reorders the channels .* needs a network"):
        compress_network(module_sources(small_network()), Recipe("pqf", 8, 4, 0, 0), progress=False)


@pytest.mark.parametrize("recipe", [Recipe("mvq", 4, 16, 4, 16), Recipe("ssvq", 4, 8, 0, 0), Recipe("int8", n=2, m=4)])
def test_errors_of_large_layers_are_summed_in_parts(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = module_sources(small_network())
    whole = compress_network(sources, recipe, progress=False)[1]
    monkeypatch.setattr("sw.compress.network._PART", 100)
    for row, other in zip(whole, compress_network(sources, recipe, progress=False)[1], strict=True):
        assert (other.energy, other.sse) == pytest.approx((row.energy, row.sse), rel=1e-12)
        assert (other.kept_sse is None) == (row.kept_sse is None)
        if row.kept_sse is not None:
            assert other.kept_sse == pytest.approx(row.kept_sse, rel=1e-12)


COMPUTED = {
    "weight norm": torch.nn.utils.weight_norm,
    "spectral norm": torch.nn.utils.spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "two prunings": lambda layer: prune.random_unstructured(prune.l1_unstructured(layer, "weight", 0.5), "weight", 0.5),
    "parametrised weight norm": torch.nn.utils.parametrizations.weight_norm,
    "parametrised spectral norm": torch.nn.utils.parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", COMPUTED)
def test_weights_that_are_computed_are_those_of_the_checkpoint(name: str) -> None:
    """What a hook computed for the last call is of the weights before; and to look at one changes nothing."""

    def made(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return torch.nn.Sequential(COMPUTED[name](torch.nn.Linear(8, 4)), torch.nn.ReLU())

    network, trained = made(0), made(1)
    for _ in range(3):
        trained(torch.randn(2, 8))
    state = trained.state_dict()
    for training in (False, True):
        network.load_state_dict(state)
        (source,) = module_sources(network.train(training))
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
        assert all(module.training == training for module in network.modules())
        # One hot inputs: the weights that it computes with.
        with torch.no_grad():
            expected = copy_network(trained).eval()[0](torch.eye(8)) - trained.get_parameter("0.bias")
        np.testing.assert_allclose(source.weight[:, :, 0, 0], expected.numpy().T, atol=1e-6)


def test_values_that_a_network_keeps_are_copied() -> None:
    class Keeping(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)
            self.seen: dict[str, Any] = {}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen["maps"] = [self.layer(x)]
            found: torch.Tensor = self.seen["maps"][0]
            return found

    network = Keeping()
    expected = network(torch.ones(1, 4))
    copied = copy_network(network)
    assert torch.equal(copied(torch.ones(1, 4)), expected)
    assert copied.seen["maps"][0] is not expected
    assert network.seen["maps"][0] is expected


def test_what_cannot_be_copied_is_named() -> None:
    network = small_network()
    network.point.lock = threading.Lock()  # type: ignore[assignment]
    message = r"cannot be copied, .*: 'lock' of module 'point' \(TypeError: cannot pickle '_thread.lock' object\): keep"
    with pytest.raises(CompressError, match=message):
        copy_network(network)
